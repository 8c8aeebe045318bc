"""Cost of the density matrix by poles, CPU seconds and memory on one core.

python bench/density.py FILE.h5 --edges LOWEST VBM CBM [--poles N] [--k K K K] [--drop X]

FILE.h5 holds H and S (hamgnn-solve --write-matrices or hamgnn-tools convert), energies in Hartree.
The poles that are worked out are those nearest to the spectrum; all cost the same.
"""

from __future__ import annotations

import argparse

import numpy as np
from measured import measured

from hamgnn_solve.core.io.operator_file import read_operator_file
from hamgnn_solve.core.operator import BlockOperator
from hamgnn_solve.solver.density_matrix import fronts_of
from hamgnn_solve.solver.lower_blocks import LowerBlocks
from hamgnn_solve.solver.pencil import is_real_point
from hamgnn_solve.solver.pole_expansion import step_poles
from hamgnn_solve.solver.selected_inversion import factorise, inverse_of_factors


def main() -> None:
    """Measure each stage once and each pole by itself."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file")
    parser.add_argument("--edges", type=float, nargs=3, required=True)
    parser.add_argument("--poles", type=int, default=1000)
    parser.add_argument("--tolerance", type=float, default=1e-8)
    parser.add_argument("--drop", type=float, default=1e-8)
    parser.add_argument("--k", type=float, nargs=3, default=[0.0, 0.0, 0.0])
    options = parser.parse_args()
    real = is_real_point(options.k)
    with measured("reading"):
        given = read_operator_file(options.file)
    hamiltonian, overlap = given.hamiltonian, given.overlap
    lowest, top, bottom = options.edges
    expansion = step_poles(lowest, top, bottom, options.tolerance)
    print(f"{len(expansion)} poles, error of an occupation {expansion.error:.1e}")
    with measured("order and fronts"):
        tree, neglected = fronts_of(hamiltonian, overlap, options.drop)
    print(
        f"{tree.norb_i.sum()} orbitals, {len(tree.fronts)} fronts, {tree.nfactor / 1e6:.1f} M in "
        f"the factor, {16 * tree.peak_numbers(real) / 1e9:.2f} GB at most; left out {neglected:.1e}"
    )
    print(f"{4e-12 * tree.multiplications(real):.2f} T real multiply-adds a pole")
    with measured("H and S at k"):
        blocks = LowerBlocks(tree, hamiltonian, overlap)
        h, s = (blocks.fold(x, options.k, real) for x in (hamiltonian, overlap))
    density = np.zeros_like(h)
    order = np.argsort(expansion.poles_z.imag)[: options.poles]
    for pole, weight in zip(expansion.poles_z[order], expansion.weights_z[order], strict=True):
        with measured(f"factors at z = {pole:.4f}"):
            factors = factorise(tree, blocks, h, s, complex(pole))
        with measured("selected inverse"):
            inverse = inverse_of_factors(tree, blocks, factors)
        term = weight * inverse.lower
        density += 2.0 * term.real if real else term + (weight * inverse.upper).conj()
        del inverse, term
    if len(order) == len(expansion):
        density_at_k = BlockOperator.zeros(overlap.pairs, overlap.norb_i)
        blocks.unfold_into(density_at_k, density, options.k, 2.0)
        print(f"Tr(PS) = {density_at_k.values @ overlap.values:.8f} of {given.system.electrons}")


if __name__ == "__main__":
    main()
