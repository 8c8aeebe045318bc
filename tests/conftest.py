"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


def shared_path(name: str) -> Path:
    """Return a path of the reference data beside the repository; skip the test without it."""
    path = Path(os.environ.get("HAMGNN_SOLVE_SHARED", REPOSITORY.parent / "shared")) / name
    if not path.exists():
        pytest.skip(f"reference data {name} is not beside this checkout")
    return path


@pytest.fixture(autouse=True)
def _no_tables_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep tests from what earlier runs left in the user's cache."""
    monkeypatch.setenv("HAMGNN_SOLVE_CACHE", "")


@pytest.fixture
def bilayer_file() -> Path:
    """The 42-atom twisted bilayer of the README."""
    return REPOSITORY / "examples" / "twisted-mos2-ws2-42.cif"
