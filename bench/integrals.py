"""CPU seconds and memory of S and H0 in OpenMX's orbitals.

python bench/integrals.py FILE --dft-data DFT_DATA19 [--orbitals 14|19|26]
mpirun -n 2 python bench/integrals.py FILE --dft-data DFT_DATA19
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from mpi4py import MPI

from hamgnn_solve.core.basis.openmx_data import openmx_basis
from hamgnn_solve.core.basis.openmx_table import published_species
from hamgnn_solve.core.integrals.hamiltonian_zero import hamiltonian_zero
from hamgnn_solve.core.integrals.overlap import overlap
from hamgnn_solve.core.io.structure import read_structure
from hamgnn_solve.core.structure import Structure
from hamgnn_solve.parallel.partition import partition_atoms


@contextmanager
def measured(stage: str, comm: MPI.Intracomm) -> Iterator[None]:
    """Print, on rank 0, the most CPU and wall seconds of any rank and the largest peak memory."""
    comm.Barrier()
    started = time.process_time(), time.perf_counter()
    yield
    numbers = np.array(
        [
            time.process_time() - started[0],
            time.perf_counter() - started[1],
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        ]
    )
    most = np.empty_like(numbers)
    comm.Allreduce(numbers, most, op=MPI.MAX)
    if comm.rank == 0:
        cpu, wall, peak = most
        print(f"{stage:<26}{cpu:>9.2f} CPU s{wall:>9.2f} wall s{peak:>8.0f} MB", flush=True)


def one_of_each(structure: Structure) -> Structure:
    """Return one atom of every element, within reach of each other: all tables, little work."""
    count = len(structure.elements)
    positions = 3.0 * np.eye(count, 3) + np.arange(count)[:, None] * [0.1, 0.2, 1.0]
    return Structure(structure.elements, positions, 60.0 * np.eye(3))


def main() -> None:
    """Time tables, S and H0."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("structure")
    parser.add_argument("--dft-data", required=True)
    parser.add_argument("--orbitals", type=int, choices=(14, 19, 26), default=26)
    options = parser.parse_args()
    comm = MPI.COMM_WORLD
    structure = read_structure(options.structure)
    table = published_species(options.orbitals)
    with measured("files", comm):
        basis = openmx_basis(options.dft_data, [table[symbol] for symbol in structure.elements])
    rows = np.flatnonzero(partition_atoms(structure, basis.cutoff_i(structure), comm) == comm.rank)
    sample = one_of_each(structure)
    with measured("tables", comm):
        for build in (overlap, hamiltonian_zero):
            build(sample, basis, np.arange(sample.natoms))
    with measured("S", comm):
        s_operator = overlap(structure, basis, rows)
    with measured("H0", comm):
        hamiltonian_zero(structure, basis, rows)
    npairs = comm.allreduce(len(s_operator.pairs))
    size = comm.allreduce(s_operator.values.nbytes)
    if comm.rank == 0:
        print(f"{structure.natoms} atoms, {npairs} pairs, {size / npairs:.0f} bytes a block")


if __name__ == "__main__":
    main()
