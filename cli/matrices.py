"""Leave H and S of a run behind."""

from __future__ import annotations

from pathlib import Path

from mpi4py import MPI

from hamgnn_solve.core.hamiltonian import CrystalHamiltonian
from hamgnn_solve.core.io.operator_file import append_rows, create_operator_file
from hamgnn_solve.parallel.faults import agreed

__all__ = ["write_in_turn"]


def write_in_turn(path: Path, given: CrystalHamiltonian, comm: MPI.Intracomm) -> None:
    """Write operators to one HDF5 file, each rank its own rows after the other. Collective.

    HDF5 of Debian and of PyPI cannot write from several ranks at once.

    Raises
    ------
    InputError
        On every rank, when the file cannot be written.
    """
    with agreed(comm):
        if comm.rank == 0:
            create_operator_file(path, given.system)
    for rank in range(comm.size):
        with agreed(comm):
            if comm.rank == rank:
                append_rows(path, given)
