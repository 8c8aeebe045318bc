"""Memory that a rank may use."""

from __future__ import annotations

from mpi4py import MPI

from hamgnn_solve.core.memory import SHARE, free_memory

__all__ = ["memory_per_rank"]


def memory_per_rank(comm: MPI.Intracomm) -> float:
    """Return a rank's share in bytes of the memory that its machine has free. Collective.

    The ranks of one machine share alike, so that all find the same value.
    """
    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    try:
        free: float = node.bcast(free_memory())
        return SHARE * free / node.size
    finally:
        node.Free()
