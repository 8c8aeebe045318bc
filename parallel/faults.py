"""Let a fault of one rank end all of them."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mpi4py import MPI

from hamgnn_solve.core.errors import InputError

__all__ = ["agreed", "exit_code_of"]


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


def exit_code_of(program: str, comm: MPI.Intracomm, work: Callable[[], None]) -> int:
    """Do the work of a command on every rank and return its exit code; all ranks leave together.

    Parameters
    ----------
    program : str
        Name that messages begin with.
    comm : mpi4py communicator
    work : callable
        A refused input (`InputError`) is one that every rank refuses; its sentence is printed
        once, and the code is 2. Any other fault of a rank aborts the others after its traceback.
    """
    try:
        work()
    except InputError as error:
        if comm.rank == 0:
            print(f"{program}: {error}", file=sys.stderr)
        return 2
    except BaseException:
        if comm.size == 1:
            raise
        traceback.print_exc()
        sys.stderr.flush()
        comm.Abort(1)
    return 0
