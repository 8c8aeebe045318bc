"""Orbitals orthonormalised on each atom.

The shells of one l of an atom (single and double zeta) are nearly dependent, and so is the whole
basis: an error dH of fixed size in the elements of H moves a state by C^H dH C with C^H S C = 1,
which is large where S is small. In orbitals that are orthonormal on each atom the smallest
eigenvalues of S(k) are about ten times larger, so a network that predicts in them has errors in
energies that are as much smaller.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hamgnn_solve.core.basis.species import RadialFunction, Species

__all__ = ["free_atom_overlap", "orthonormal_orbitals"]

QUADRATURE_POINTS = 400


def free_atom_overlap(species: Species) -> NDArray[np.float64]:
    """Return <phi_a|S|phi_b> between the shells of a free atom, for equal m, (shells, shells).

    S = 1 + sum_ij |p_i> dS_ij <p_j| with the atom's own projectors; shells of different l do not
    overlap.
    """
    reach = max(species.cutoff, species.projector_cutoff)
    nodes, weights = np.polynomial.legendre.leggauss(QUADRATURE_POINTS)
    radius_g = 0.5 * reach * (nodes + 1.0)
    weight_g = 0.5 * reach * weights * radius_g**2
    shells = np.array([shell(radius_g) for shell in species.shells])
    same_l = _same_l(species.shells, species.shells)
    overlap = np.where(same_l, (shells * weight_g) @ shells.T, 0.0)
    if species.projectors:
        projectors = np.array([projector(radius_g) for projector in species.projectors])
        met = np.where(
            _same_l(species.shells, species.projectors), (shells * weight_g) @ projectors.T, 0.0
        )
        overlap += met @ species.projector_overlap @ met.T
    return overlap


def orthonormal_orbitals(species: Species) -> NDArray[np.float64]:
    """Return A with orthonormal phi'_m = sum_n A_mn phi_n on the free atom, (orbitals, orbitals).

    Gram-Schmidt from the most compact shell of each l outwards, so that a new orbital reaches as
    far as the old one in its place. A mixes shells of equal l alone, the same way for every m:
    blocks keep their behaviour under rotations. H' = A H A^T, and H = A^-1 H' A^-T.
    """
    overlap = free_atom_overlap(species)
    cutoffs = np.array([shell.cutoff for shell in species.shells])
    order = np.argsort(cutoffs, kind="stable")
    factor = np.linalg.cholesky(overlap[np.ix_(order, order)])
    mixing = np.zeros_like(overlap)
    mixing[np.ix_(order, order)] = np.linalg.inv(factor)
    shell_m = np.repeat(np.arange(len(cutoffs)), [2 * s.l + 1 for s in species.shells])
    m_m = np.concatenate([np.arange(-s.l, s.l + 1) for s in species.shells])
    same_m = m_m[:, None] == m_m[None, :]
    return np.where(same_m, mixing[np.ix_(shell_m, shell_m)], 0.0)


def _same_l(
    rows: tuple[RadialFunction, ...], columns: tuple[RadialFunction, ...]
) -> NDArray[np.bool_]:
    row_l = np.array([shell.l for shell in rows])
    column_l = np.array([shell.l for shell in columns])
    return row_l[:, None] == column_l[None, :]
