"""Eigenvectors of chosen bands, whichever way they are found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hamgnn_solve.parallel.faults import agreed
from hamgnn_solve.parallel.rows import OrbitalRows
from hamgnn_solve.solver.bands import DENSE
from hamgnn_solve.solver.dense import dense_bands
from hamgnn_solve.solver.dense_kpoints import WholePencil
from hamgnn_solve.solver.eigenpairs import eigenpairs_between, eigenpairs_of_bands
from hamgnn_solve.solver.pencil import Pencil

__all__ = ["States", "orbital_order", "states_between", "states_of_bands"]


@dataclass(frozen=True)
class States:
    """Neighbouring bands at one k with their vectors.

    Parameters
    ----------
    k_c : ndarray, shape (3,)
        Fractional k.
    energies_n : ndarray, shape (states,)
        In Hartree, ascending.
    first_band : int
        Global index of the lowest, counted from 1.
    vectors_mn : ndarray, shape (rows of this rank, states)
        S-orthonormal, in the row order of the pencil.
    """

    k_c: NDArray[np.float64]
    energies_n: NDArray[np.float64]
    first_band: int
    vectors_mn: NDArray[Any]


def states_of_bands(
    pencil: Pencil, k_c: NDArray[np.float64], first_band: int, last_band: int, near: float
) -> States:
    """Return the states of the bands first..last (from 1) at k. Collective.

    Parameters
    ----------
    near : float
        An energy in Hartree near these bands, where a large pencil is factorised.

    Raises
    ------
    InputError
        As `solver.eigenpairs.eigenpairs_of_bands`.
    """
    if pencil.norbitals <= DENSE:
        return _dense_states(pencil, k_c, first_band, last_band)
    found = eigenpairs_of_bands(pencil, k_c, near, first_band, last_band)
    return States(k_c, found.energies_n, first_band, found.vectors_mn)


def states_between(pencil: Pencil, k_c: NDArray[np.float64], low: float, high: float) -> States:
    """Return all states with energies between two (Hartree) at k. Collective.

    Raises
    ------
    InputError
        As `solver.eigenpairs.eigenpairs_between`.
    """
    if pencil.norbitals <= DENSE:
        every = _dense_states(pencil, k_c, 1, pencil.norbitals)
        first, stop = np.searchsorted(every.energies_n, [low, high])
        return States(
            k_c, every.energies_n[first:stop], int(first) + 1, every.vectors_mn[:, first:stop]
        )
    found = eigenpairs_between(pencil, k_c, low, high)
    first = int(found.band_index_n[0]) if len(found.band_index_n) else 1
    return States(k_c, found.energies_n, first, found.vectors_mn)


def orbital_order(rows: OrbitalRows) -> NDArray[np.int64]:
    """Return the row of every orbital, orbitals in the order of the atoms, shape (M,)."""
    start_i = np.cumsum(rows.norb_i) - rows.norb_i
    within = np.arange(rows.nrows) - np.repeat(start_i, rows.norb_i)
    return np.asarray(np.repeat(rows.first_row_i, rows.norb_i) + within)


def whole_vectors(vectors_mn: NDArray[Any], pencil: Pencil) -> NDArray[Any]:
    """Give every rank the vectors of all rows, orbitals in the order of the atoms. Collective."""
    parts = pencil.comm.allgather(np.ascontiguousarray(vectors_mn))
    return np.concatenate(parts)[orbital_order(pencil.rows)]


def _dense_states(
    pencil: Pencil, k_c: Sequence[float] | NDArray[np.float64], first_band: int, last_band: int
) -> States:
    whole = WholePencil(pencil)
    found: tuple[NDArray[np.float64], NDArray[Any]] | None = None
    with agreed(pencil.comm):
        if pencil.comm.rank == 0:
            found = dense_bands(*whole.at(k_c), first_band, last_band, k_c)
    energies_n, vectors_mn = pencil.comm.bcast(found)
    in_rows = np.empty_like(vectors_mn)
    in_rows[orbital_order(pencil.rows)] = vectors_mn
    own = in_rows[pencil.rows.start : pencil.rows.stop]
    return States(np.asarray(k_c, dtype=np.float64), energies_n, first_band, own)
