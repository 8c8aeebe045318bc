"""Tables kept on disk between runs, found by what they were made of."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["cache_folder", "kept_on_disk"]

# Raised when tables of the same ingredients change.
FORMAT = 1
VARIABLE = "HAMGNN_SOLVE_CACHE"


def cache_folder() -> Path | None:
    """Return where tables are kept: $HAMGNN_SOLVE_CACHE (empty: nowhere) or the user's cache."""
    named = os.environ.get(VARIABLE)
    if named is not None:
        return Path(named) if named else None
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:  # no home
        return None
    return Path(base) / "hamgnn-solve"


def kept_on_disk(
    ingredients: Iterable[NDArray[np.generic] | str],
    compute: Callable[[], NDArray[np.float64]],
) -> NDArray[np.float64]:
    """Return an array from disk, or compute and keep it.

    A folder that cannot be read or written, or a damaged file, costs the time of computing and
    nothing else. Processes may do this side by side: files appear whole.

    Parameters
    ----------
    ingredients : iterable of ndarray or str
        All that the array depends on.
    compute : callable
        Makes the array.
    """
    folder = cache_folder()
    if folder is None:
        return compute()
    digest = hashlib.sha256(f"format {FORMAT}".encode())
    for part in ingredients:
        if isinstance(part, str):
            digest.update(part.encode())
        else:
            digest.update(f"{part.dtype.str}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).tobytes())
    path = folder / f"{digest.hexdigest()}.npy"
    try:
        return np.asarray(np.load(path, allow_pickle=False), dtype=np.float64)
    except (OSError, ValueError, EOFError):
        values = compute()
    # A name of its own: processes of several machines may share the folder.
    partial = folder / f".{path.stem}.{uuid.uuid4().hex}.npy"
    with suppress(OSError):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            np.save(partial, values)
            partial.replace(path)
        except OSError:
            partial.unlink(missing_ok=True)
    return values
