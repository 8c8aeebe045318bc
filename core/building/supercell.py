"""Supercells: the same crystal in a larger cell."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pymatgen.util.coord import lattice_points_in_supercell

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.structure import Structure

__all__ = ["lattice_points", "make_supercell", "refuse_too_many_atoms"]

MOST_ATOMS = 10_000_000


def make_supercell(structure: Structure, repeat_cc: NDArray[np.int64]) -> Structure:
    """Return the same crystal in a larger cell.

    Parameters
    ----------
    structure : Structure
        The crystal.
    repeat_cc : ndarray of int, shape (3, 3)
        Rows are the new lattice vectors in units of the old ones; its determinant, which is
        positive, is the number of old cells in the new one.

    Returns
    -------
    Structure
        The copies of the first atom, then those of the second, and so on. Every atom is moved by
        lattice vectors of the old cell only; it need not lie inside the new one.

    Raises
    ------
    InputError
        If the determinant is not positive, or the cell would hold more than ten million atoms.
    """
    cells = round(float(np.linalg.det(np.asarray(repeat_cc, dtype=np.float64))))
    if cells < 1:
        raise InputError(
            f"The supercell {np.asarray(repeat_cc).tolist()} has the determinant {cells}; give "
            "three independent, right-handed lattice vectors (exchange two rows to turn the sign)."
        )
    refuse_too_many_atoms(cells * structure.natoms)
    offset_xc = lattice_points(repeat_cc) @ structure.cell_cc
    pos_ic = (structure.pos_ic[:, None] + offset_xc[None]).reshape(-1, 3)
    symbols = tuple(symbol for symbol in structure.symbols for _ in range(cells))
    return Structure(symbols, pos_ic, repeat_cc @ structure.cell_cc)


def refuse_too_many_atoms(natoms: int) -> None:
    """Raise `InputError` for a cell that would hold more than ten million atoms."""
    if natoms > MOST_ATOMS:
        raise InputError(
            f"The cell would hold {natoms} atoms; make one of at most {MOST_ATOMS} atoms."
        )


def lattice_points(repeat_cc: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the points of the old lattice inside a supercell.

    Parameters
    ----------
    repeat_cc : ndarray of int, shape (3, 3)
        Rows are the lattice vectors of the supercell in units of the old ones.

    Returns
    -------
    ndarray of int, shape (abs(det), 3)
        The points in units of the old lattice vectors; the origin is among them.
    """
    return np.rint(lattice_points_in_supercell(repeat_cc) @ repeat_cc).astype(np.int64)
