"""CPU seconds and memory of each stage on one core: python bench/stages.py FILE [--general-k]."""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from mpi4py import MPI

from hamgnn_solve.core.domain import serial_domain
from hamgnn_solve.core.integrals.overlap import overlap
from hamgnn_solve.core.io.structure import read_structure
from hamgnn_solve.core.model import find_model
from hamgnn_solve.core.network.predict import predict
from hamgnn_solve.parallel.rows import OrbitalRows
from hamgnn_solve.solver.bands import solve_bands
from hamgnn_solve.solver.inertia import factorise_near
from hamgnn_solve.solver.pencil import Pencil

GENERAL_K = (0.21, 0.13, 0.0)


@contextmanager
def measured(stage: str) -> Iterator[None]:
    """Print the CPU seconds of a block and the peak memory of the process after it."""
    started = time.process_time()
    yield
    seconds = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{stage:<34}{seconds:>10.2f} CPU s{peak:>9.0f} MB", flush=True)


def main() -> None:
    """Run every stage once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("structure")
    parser.add_argument("--model", default="tmd")
    parser.add_argument("--bands", type=int, default=40)
    parser.add_argument("--general-k", action="store_true")
    options = parser.parse_args()
    model = find_model(options.model)
    structure = read_structure(options.structure)
    with measured("pairs"):
        domain = serial_domain(structure, model.basis)
    print(f"{structure.natoms} atoms, {len(domain.pairs)} pairs")
    with measured("overlap, tables included"):
        s_operator = overlap(structure, model.basis, domain.owned)
    with measured("overlap, tables known"):
        s_operator = overlap(structure, model.basis, domain.owned)
    with measured("network"):
        h_operator = predict(model, domain)
    norb_i = model.basis.norb_i(structure)
    rows = OrbitalRows(np.zeros(structure.natoms, dtype=np.int64), norb_i, 1, 0)
    with measured(f"pencil, {norb_i.sum()} orbitals"):
        pencil = Pencil(h_operator, s_operator, rows, MPI.COMM_SELF)
    points = [(0.0, 0.0, 0.0), *([GENERAL_K] if options.general_k else [])]
    for k_c in points:
        with measured(f"one factorisation at k = {k_c[0]:g} {k_c[1]:g}"):
            factorise_near(pencil, k_c, -0.17)
        with measured(f"{options.bands} certified bands there"):
            spectrum = solve_bands(
                pencil, np.array([k_c]), model.basis.electrons(structure), options.bands
            )
        print(f"largest residual {spectrum.residuals_kn.max():.1e} Ha")


if __name__ == "__main__":
    main()
