"""Turn a fault of one rank into the same fault on every rank."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mpi4py import MPI

from hamgnn_solve.core.errors import InputError

__all__ = ["agreed"]


@contextmanager
def agreed(comm: MPI.Intracomm) -> Iterator[None]:
    """Run a block without collective calls; if any rank refuses its input, all ranks do.

    Every rank must enter and leave the block. Where several ranks refuse, all raise the message
    of the lowest one.

    Raises
    ------
    InputError
        On every rank, when it was raised on any.
    """
    fault: str | None = None
    try:
        yield
    except InputError as error:
        fault = str(error)
    faults = [message for message in comm.allgather(fault) if message is not None]
    if faults:
        raise InputError(faults[0])
