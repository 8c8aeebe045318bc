"""How much of a state lies on which orbitals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse
from mpi4py import MPI
from numpy.typing import NDArray

from hamgnn_solve.core.observables.projections import Projections
from hamgnn_solve.solver.pencil import Pencil

__all__ = ["band_weights", "dense_band_weights", "group_sums", "mulliken_weights", "of_rows"]


def group_sums(group_of_row: NDArray[np.int64], ngroups: int) -> scipy.sparse.csr_array:
    """Return the matrix that sums rows into groups, shape (G, rows of this rank)."""
    nrows = len(group_of_row)
    places = (group_of_row, np.arange(nrows))
    return scipy.sparse.csr_array((np.ones(nrows), places), shape=(ngroups, nrows))


def of_rows(pencil: Pencil, of_orbital_m: NDArray[Any]) -> NDArray[Any]:
    """Return what belongs to this rank's rows of values in the order of the atoms."""
    rows = pencil.rows
    if of_orbital_m.shape != (rows.nrows,):
        raise ValueError(f"{len(of_orbital_m)} values for {rows.nrows} orbitals")
    of_row = np.empty_like(of_orbital_m)
    of_row[rows.row_of_orbital_m] = of_orbital_m
    return of_row[rows.start : rows.stop]


def mulliken_weights(
    pencil: Pencil,
    k_c: Sequence[float] | NDArray[np.float64],
    vectors_mn: NDArray[Any],
    group_of_row: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Return the Mulliken weights of groups of orbitals in S-orthonormal states. Collective.

    w_gn = sum_{m in g} Re(c*_mn (S c_n)_m) (Mulliken, J. Chem. Phys. 23, 1833 (1955)). They sum to
    one over all groups; a weight may be negative or exceed one.

    Parameters
    ----------
    pencil : Pencil
    k_c : array_like, shape (3,)
        Fractional k.
    vectors_mn : ndarray, shape (rows of this rank, states)
        As `Eigenpairs.vectors_mn`.
    group_of_row : ndarray of int64, shape (rows of this rank,)
        Group of each orbital, from 0.

    Returns
    -------
    ndarray, shape (groups, states)
        The same on every rank.
    """
    last = int(pencil.comm.allreduce(int(group_of_row.max(initial=-1)), op=MPI.MAX))
    product_mn = (vectors_mn.conj() * pencil.overlap_times(k_c, vectors_mn)).real
    return np.asarray(pencil.comm.allreduce(group_sums(group_of_row, last + 1) @ product_mn))


def band_weights(
    pencil: Pencil,
    k_c: Sequence[float] | NDArray[np.float64],
    vectors_mn: NDArray[Any],
    projections: Projections,
) -> NDArray[np.float64]:
    """Return the Mulliken weights of named groups in states, shape (G, states). Collective.

    States need not be normalised exactly: those found in the span of others have a norm that
    interpolation leaves wrong by 1e-6, which is divided out.

    Parameters
    ----------
    pencil : Pencil
    k_c : array_like, shape (3,)
        Fractional k.
    vectors_mn : ndarray, shape (rows of this rank, states)
    projections : Projections
    """
    cell_of_row = of_rows(pencil, projections.cell_of_orbital_m)
    return _summed(mulliken_weights(pencil, k_c, vectors_mn, cell_of_row), projections)


def dense_band_weights(
    s: NDArray[Any], vectors_mn: NDArray[Any], projections: Projections
) -> NDArray[np.float64]:
    """Return the Mulliken weights of named groups in states of a dense pencil, shape (G, states).

    Parameters
    ----------
    s : ndarray, shape (n, n)
        S(k), orbitals in the order of the atoms.
    vectors_mn : ndarray, shape (n, states)
    projections : Projections
    """
    product_mn = (vectors_mn.conj() * (s @ vectors_mn)).real
    sums = group_sums(projections.cell_of_orbital_m, projections.ncells)
    return _summed(sums @ product_mn, projections)


def _summed(weights_cn: NDArray[np.float64], projections: Projections) -> NDArray[np.float64]:
    return projections.summed(weights_cn / weights_cn.sum(axis=0))
