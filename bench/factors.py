"""Factors of H - sigma S and products with vectors, CPU seconds and memory on one core.

python bench/factors.py FILE.h5 --sigma E [--k K K K] [--double] [--out-of-core]
                        [--compression EPS] [--products]

FILE.h5 is what `hamgnn-solve --write-matrices` leaves. With --products the products
of H and S from their blocks are timed beside those of PETSc's AIJ matrices.
"""

from __future__ import annotations

import argparse

import numpy as np
from measured import measured

from hamgnn_solve.core.io.operator_file import read_operator_file
from hamgnn_solve.solver.factorisation import DOUBLE, SINGLE, FactorOptions
from hamgnn_solve.solver.pencil import is_real_point
from hamgnn_solve.solver.petsc import PETSc
from solver import pencil_of

VECTORS = (1, 16, 64)


def main() -> None:
    """Measure each step once."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file")
    parser.add_argument("--sigma", type=float, required=True, help="energy in Hartree")
    parser.add_argument("--k", type=float, nargs=3, default=[0.0, 0.0, 0.0])
    parser.add_argument("--double", action="store_true", help="factors in double precision")
    parser.add_argument("--out-of-core", action="store_true")
    parser.add_argument("--compression", type=float, default=0.0)
    parser.add_argument("--products", action="store_true")
    options = parser.parse_args()
    factor_options = FactorOptions(
        out_of_core=options.out_of_core,
        compression=options.compression,
        precisions=(DOUBLE,) if options.double else (SINGLE, DOUBLE),
        announce=print,
    )
    with measured("reading"):
        given = read_operator_file(options.file)
    with measured("pencil"):
        pencil = pencil_of(given, factor_options)
    random = np.random.default_rng(0)
    real = is_real_point(options.k)
    if options.products:
        vectors = random.standard_normal((pencil.norbitals, 16))
        for name, times in (("H", pencil.hamiltonian_times), ("S", pencil.overlap_times)):
            with measured(f"{name}, 16 vectors, blocks"):
                times(options.k, vectors)
        dense = PETSc.Mat().createDense(vectors.shape, array=vectors)
        for name, matrix in zip(("H", "S"), pencil.matrices(options.k), strict=True):
            product = matrix.matMult(dense)
            with measured(f"{name}, 16 vectors, PETSc AIJ"):
                matrix.matMult(dense, product)
    for turn in ("analysis and factors", "factors again"):
        with measured(turn):
            factorisation, count = pencil.factorise(options.k, options.sigma)
        options.sigma += 1e-6
        print(f"{count} states below", flush=True)
    told = factorisation.statistics
    print(
        f"{told['entries'] / 1e6:.1f} M entries, "
        f"{told['operations'] / 1e9:.0f} GFLOP, {told['largest_mb']:.0f} MB of factors"
    )
    for columns in VECTORS:
        right = random.standard_normal((pencil.norbitals, columns))
        right = right if real else right.astype(np.complex128)
        with measured(f"solution, {columns} right-hand sides"):
            pencil.solve(right)


if __name__ == "__main__":
    main()
