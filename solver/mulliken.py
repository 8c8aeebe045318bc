"""How much of a state lies on which orbitals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse
from mpi4py import MPI
from numpy.typing import NDArray

from hamgnn_solve.solver.pencil import Pencil

__all__ = ["group_sums", "mulliken_weights"]


def group_sums(group_of_row: NDArray[np.int64], ngroups: int) -> scipy.sparse.csr_array:
    """Return the matrix that sums rows into groups, shape (G, rows of this rank)."""
    nrows = len(group_of_row)
    places = (group_of_row, np.arange(nrows))
    return scipy.sparse.csr_array((np.ones(nrows), places), shape=(ngroups, nrows))


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
