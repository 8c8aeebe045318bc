"""Cost of a network of the published universal size, with random weights.

python bench/network.py --mos2 5
mpirun -n 2 python bench/network.py FILE
"""

from __future__ import annotations

import argparse
import resource
import time
from dataclasses import replace

import numpy as np
import torch
from mpi4py import MPI

from hamgnn_solve.core.basis.openmx_table import published_species
from hamgnn_solve.core.io.structure import read_structure
from hamgnn_solve.core.model import Model
from hamgnn_solve.core.network.build import build_network
from hamgnn_solve.core.network.config import NetworkConfig
from hamgnn_solve.core.network.predict import predict
from hamgnn_solve.core.structure import Structure
from hamgnn_solve.core.units import ANGSTROM_PER_BOHR
from hamgnn_solve.parallel.domain import distributed_domain
from hamgnn_solve.parallel.partition import partition_atoms

# Multiplicities of the published universal model (75.5 million parameters).
UNIVERSAL = NetworkConfig(
    irreps="128x0e+32x0o+128x1o+64x1e+128x2e+32x2o+64x3o+32x3e+32x4o+32x4e+16x5o+8x5e+8x6e",
    shells=(3, 2, 2, 1),
    layers=5,
    cutoff=26.0,
    num_radial=64,
    invariant_layers=2,
    invariant_neurons=64,
    num_types=96,
    lmax=6,
    add_h0=True,
    sign_flips=True,
)
# The published program, same size, float32, 75 atoms of MoS2, two threads: measured elsewhere.
PEER = "HamGNN 1.0: 0.055 CPU s and 1.3 MiB a directed pair"


def mos2(repeats: int) -> Structure:
    """Return a monolayer of repeats x repeats cells."""
    a, thickness, vacuum = 3.18, 3.12, 21.0
    cell = np.array([[a, 0, 0], [-a / 2, a * np.sqrt(0.75), 0], [0, 0, vacuum]])
    half = 0.5 * thickness / vacuum
    basis = np.array([[1 / 3, 2 / 3, 0.5], [2 / 3, 1 / 3, 0.5 + half], [2 / 3, 1 / 3, 0.5 - half]])
    shifts = [(i, j, 0) for i in range(repeats) for j in range(repeats)]
    pos_ic = np.concatenate([basis + shift for shift in shifts]) @ cell
    cell_cc = cell * np.array([[repeats], [repeats], [1]])
    symbols = ("Mo", "S", "S") * repeats**2
    return Structure(symbols, pos_ic / ANGSTROM_PER_BOHR, cell_cc / ANGSTROM_PER_BOHR)


def peak() -> float:
    """Return the peak memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Predict a Hamiltonian and report what it took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("structure", nargs="?")
    parser.add_argument("--mos2", type=int, metavar="N", help="N x N cells of MoS2 instead")
    parser.add_argument("--version", type=int, default=1, choices=(1, 2))
    options = parser.parse_args()
    comm = MPI.COMM_WORLD
    structure = mos2(options.mos2) if options.mos2 else read_structure(options.structure)
    torch.manual_seed(0)
    version_1 = options.version == 1
    config = replace(UNIVERSAL, version=options.version, sign_flips=version_1)
    network = build_network(config).requires_grad_(False)
    model = Model("random", published_species(26), network)
    owner_i = partition_atoms(structure, model.basis.cutoff_i(structure), comm)
    domain = distributed_domain(structure, model.basis, owner_i, comm)
    before, started, clock = peak(), time.process_time(), time.perf_counter()
    operator = predict(model, domain)
    seconds, wall = time.process_time() - started, time.perf_counter() - clock
    npairs = len(domain.pairs)
    assert np.isfinite(operator.values).all()
    rows = comm.gather((len(domain.owned), npairs, seconds, wall, before, peak()))
    if rows is None:
        return
    pairs = sum(row[1] for row in rows)
    total = sum(row[2] for row in rows)
    print(f"{structure.natoms} atoms, {pairs} directed pairs, {comm.size} rank(s)")
    for rank, (natoms, mine, cpu, clock, low, high) in enumerate(rows):
        print(
            f"rank {rank}: {natoms} atoms, {mine} pairs, {cpu:.1f} CPU s, {clock:.1f} s wall, "
            f"{low:.0f} -> {high:.0f} MB, {1024 * (high - low) / mine:.0f} kB a pair"
        )
    print(f"{total:.1f} CPU s in all, {1e6 * total / pairs:.0f} us a directed pair")
    if version_1:
        print(f"beside it, {PEER}: {0.055 * pairs / total:.0f} times as much time")


if __name__ == "__main__":
    main()
