"""Tables that are kept on disk between runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hamgnn_solve.core.integrals import table_cache
from hamgnn_solve.core.integrals.table_cache import cache_folder, kept_on_disk

INGREDIENTS = [np.arange(5.0), "overlap"]


def forbidden() -> np.ndarray:
    raise AssertionError("the table was to come from disk")


def test_a_table_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAMGNN_SOLVE_CACHE", str(tmp_path / "cache"))
    table = np.random.default_rng(0).normal(size=(3, 4))
    assert np.array_equal(kept_on_disk(INGREDIENTS, lambda: table), table)
    assert np.array_equal(kept_on_disk(INGREDIENTS, forbidden), table)
    assert len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.parametrize(
    "others",
    [
        [np.arange(5.0), "kinetic"],
        [np.arange(5.0) + 1e-15, "overlap"],
        [np.arange(5), "overlap"],
        [np.arange(5.0)[None], "overlap"],
    ],
)
def test_other_ingredients_make_another_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: list[np.ndarray | str]
) -> None:
    monkeypatch.setenv("HAMGNN_SOLVE_CACHE", str(tmp_path))
    kept_on_disk(INGREDIENTS, lambda: np.zeros(1))
    assert kept_on_disk(others, lambda: np.ones(1)) == 1.0


def test_a_damaged_file_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAMGNN_SOLVE_CACHE", str(tmp_path))
    kept_on_disk(INGREDIENTS, lambda: np.zeros(100))
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-100])
    assert kept_on_disk(INGREDIENTS, lambda: np.ones(100)).sum() == 100.0
    assert kept_on_disk(INGREDIENTS, forbidden).sum() == 100.0


def test_no_folder_costs_only_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HAMGNN_SOLVE_CACHE", str(tmp_path / "file" / "below"))
    assert kept_on_disk(INGREDIENTS, lambda: np.ones(2)).sum() == 2.0
    monkeypatch.setenv("HAMGNN_SOLVE_CACHE", "")
    assert cache_folder() is None
    assert kept_on_disk(INGREDIENTS, lambda: np.ones(3)).sum() == 3.0


def test_the_users_cache_is_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(table_cache.VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "hamgnn-solve"
