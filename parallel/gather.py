"""Whole operators and numbers of all atoms on every rank, and sums back to the owners."""

from __future__ import annotations

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.operator import BlockOperator
from hamgnn_solve.core.pairs import PairList

__all__ = ["gather_atoms", "gather_operator", "sum_to_owners"]

# Numbers in one message; MPI counts in 32 bits.
MESSAGE = 1 << 27


def gather_atoms(
    owned: NDArray[np.int64], values_i: NDArray[np.float64], natoms: int, comm: MPI.Intracomm
) -> NDArray[np.float64]:
    """Give every rank one number for each atom of the structure. Collective.

    Parameters
    ----------
    owned : ndarray of int64
        Global indices of this rank's atoms.
    values_i : ndarray of float64, shape (owned,)
    natoms : int
        Number of atoms N of the structure.
    comm : mpi4py communicator

    Returns
    -------
    ndarray of float64, shape (N,)
    """
    whole = np.empty(natoms)
    whole[_gathered(owned, comm)] = _gathered(values_i, comm)
    return whole


def gather_operator(
    operator: BlockOperator, comm: MPI.Intracomm, largest_bytes: float
) -> BlockOperator:
    """Give every rank all blocks, those of rank 0 first. Collective.

    This is against the rule that no rank holds a whole matrix, and is meant for work that divides
    by energies or k-points and needs all blocks for each.

    Parameters
    ----------
    operator : BlockOperator
        The blocks of this rank.
    comm : mpi4py communicator
    largest_bytes : float
        Refuse operators that need more; the same on every rank.

    Raises
    ------
    InputError
        When the operator is larger, on every rank.
    """
    pairs = operator.pairs
    table = np.column_stack([pairs.first_p, pairs.second_p, pairs.shift_pc])
    parts = (table, pairs.vector_pc, operator.values)
    total = comm.allreduce(sum(part.nbytes for part in parts))
    if total > largest_bytes:
        raise InputError(
            f"An operator of {total / 1e9:.3g} GB does not fit into the {largest_bytes / 1e9:.3g} "
            "GB that a rank may use for it; start fewer ranks on each machine."
        )
    columns, vectors, values = (_gathered(part, comm) for part in parts)
    whole = PairList(columns[:, 0], columns[:, 1], columns[:, 2:], vectors)
    return BlockOperator(whole, operator.norb_i, values)


def sum_to_owners(
    values: NDArray[np.float64], nlocal: int, comm: MPI.Intracomm
) -> NDArray[np.float64]:
    """Sum values of a gathered operator over ranks; each gets the part it gave. Collective.

    Parameters
    ----------
    values : ndarray of float64
        Values of all blocks in the order of `gather_operator`.
    nlocal : int
        How many of them belong to the blocks of this rank.

    Returns
    -------
    ndarray of float64, shape (nlocal,)
    """
    ends = np.cumsum(comm.allgather(nlocal))
    own = np.empty(nlocal)
    for rank, end in enumerate(ends):
        count = int(end - (ends[rank - 1] if rank else 0))
        for start in range(0, count, MESSAGE):
            stop = min(start + MESSAGE, count)
            sent = values[end - count + start : end - count + stop]
            comm.Reduce(sent, own[start:stop] if comm.rank == rank else None, root=rank)
    return own


def _gathered(part: NDArray, comm: MPI.Intracomm) -> NDArray:
    counts = comm.allgather(len(part))
    if comm.size == 1:
        return part
    whole = np.empty((sum(counts), *part.shape[1:]), dtype=part.dtype)
    step = max(MESSAGE // max(int(np.prod(part.shape[1:])), 1), 1)
    begin = 0
    for rank, count in enumerate(counts):
        if rank == comm.rank:
            whole[begin : begin + count] = part
        for start in range(begin, begin + count, step):
            comm.Bcast(whole[start : min(start + step, begin + count)], root=rank)
        begin += count
    return whole
