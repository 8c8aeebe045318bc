"""Rotations that map a crystal onto itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import spglib
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from spglib.error import SpglibError

from hamgnn_solve.core.structure import Structure

__all__ = ["SymmetryOperation", "symmetry_operations"]

# Bohr. Atoms this far from the image of another one are still taken for it.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class SymmetryOperation:
    """x -> W x + t in units of the lattice vectors, W tau_i + t = tau_image(i) + shift_i.

    Parameters
    ----------
    rotation_cc : ndarray of int, shape (3, 3)
        W, proper or not.
    image_i : ndarray of int64, shape (N,)
        Atom to whose place each atom goes.
    shift_ic : ndarray of int64, shape (N, 3)
        Lattice vector by which it misses that atom.
    """

    rotation_cc: NDArray[np.int64]
    image_i: NDArray[np.int64]
    shift_ic: NDArray[np.int64]

    def __post_init__(self) -> None:
        if not np.array_equal(np.sort(self.image_i), np.arange(len(self.image_i))):
            raise ValueError("two atoms have one image")

    def cartesian(self, cell_cc: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return W as an orthogonal matrix, r -> R r, shape (3, 3); lattice vectors as rows."""
        return np.asarray(cell_cc.T @ self.rotation_cc @ np.linalg.inv(cell_cc.T))

    def rotated(self, k_c: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the fractional k to which states at another one are turned, k W^-1."""
        return np.linalg.solve(self.rotation_cc.T.astype(np.float64), k_c)


def symmetry_operations(structure: Structure, kind_i: NDArray[np.int64]) -> list[SymmetryOperation]:
    """Return one operation for every rotation, the identity among them.

    By spglib (Togo, Shinohara and Tanaka, arXiv:1808.01590) within `TOLERANCE`; none where it finds
    no lattice within that.

    Parameters
    ----------
    structure : Structure
    kind_i : ndarray of int64, shape (N,)
        Atoms go to such of the same number.
    """
    places_ic = structure.fractional_ic
    parts = (structure.cell_cc, places_ic, kind_i)
    crystal = tuple(part.tolist() for part in parts)
    try:
        found = spglib.get_symmetry(crystal, symprec=TOLERANCE)
    except SpglibError:
        found = None
    if found is None:
        return []
    # A supercell has one rotation with many translations.
    _, chosen = np.unique(found["rotations"].reshape(-1, 9), axis=0, return_index=True)
    # What rounding leaves below a lattice plane may become 1 in the first step.
    tree = cKDTree(places_ic % 1.0 % 1.0, boxsize=1.0)
    operations = []
    for rotation_cc, translation_c in zip(
        found["rotations"][chosen], found["translations"][chosen], strict=True
    ):
        turned_ic = places_ic @ rotation_cc.T + translation_c
        _, image_i = tree.query(turned_ic % 1.0 % 1.0)
        shift_ic = np.rint(turned_ic - places_ic[image_i]).astype(np.int64)
        operations.append(
            SymmetryOperation(rotation_cc.astype(np.int64), image_i.astype(np.int64), shift_ic)
        )
    return operations
