"""A Hamiltonian whose potential is a sum of operators on atoms.

    H = T + sum_a sum_gg' |g_a> D_a,gg' <g'_a|,   H_ij = T_ij + sum_a <phi_i|g_a> D_a <g_a|phi_j>,

with the kinetic energy T and few functions g of each element: the projectors of its PAW data set
and Gaussians of l = 0, 1, 2. The non-local part of a PAW Hamiltonian has this form exactly (P. E.
Blöchl, Phys. Rev. B 50, 17953 (1994)), and Gaussians expand what is local. A network says D of each
atom in its surroundings.

Sums c of orbitals that nearly vanish as functions (S c = s c, s small) have <g|c> of the order
of s^(1/2), whatever D is, and T keeps their energy high: an error of D does not make a false state
of them. An error of blocks H_ij that are predicted one by one does, when it exceeds s times the
energy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from hamgnn_solve.core.basis.species import AnySpecies, Basis, RadialFunction
from hamgnn_solve.core.integrals.bessel import MomentumShells, transform_shells
from hamgnn_solve.core.integrals.separable import (
    ProjectorOverlaps,
    Projectors,
    add_separable,
    coupled_pairs,
    element_groups,
    projector_overlaps,
)
from hamgnn_solve.core.integrals.two_centre import two_centre_table
from hamgnn_solve.core.operator import BlockOperator
from hamgnn_solve.core.pairs import PairList, join_pairs
from hamgnn_solve.core.structure import Structure

__all__ = ["add_kinetic", "atom_functions", "function_overlaps", "operator_hamiltonian"]

GAUSSIAN_LMAX = 2
# A Gaussian ends at so many widths, smoothly.
GAUSSIAN_REACH = 4.0
GAUSSIAN_POINTS = 200
# Pairs out of the orbitals' range are kept where an atom between may couple them by more.
SMALLEST_COUPLING = 1e-6


@cache
def atom_functions(species: AnySpecies, widths: tuple[float, ...]) -> MomentumShells:
    """Return the functions g of an element, orthonormal, by ascending l.

    Parameters
    ----------
    species : AnySpecies
    widths : tuple of float
        Widths of the Gaussians in Bohr.
    """
    shells = sorted((*species.projectors, *_gaussians(widths)), key=lambda shell: shell.l)
    plain = transform_shells(tuple(shells))
    degrees = np.array(plain.shell_l)
    momentum, weight = plain.grid.momentum_k, plain.grid.weight_k
    metric = 2.0 / np.pi * (plain.transform_sk * (weight * momentum**2)) @ plain.transform_sk.T
    transform = np.empty_like(plain.transform_sk)
    for degree in np.unique(degrees):
        chosen = np.flatnonzero(degrees == degree)
        values, vectors = np.linalg.eigh(metric[np.ix_(chosen, chosen)])
        # Of the orthonormal sets this one is nearest to the functions themselves (Löwdin).
        transform[chosen] = (vectors / np.sqrt(values)) @ vectors.T @ plain.transform_sk[chosen]
    return replace(plain, transform_sk=transform, cutoff_s=np.full(len(degrees), plain.cutoff))


def function_overlaps(
    structure: Structure, basis: Basis, widths: tuple[float, ...], rows: NDArray[np.int64]
) -> ProjectorOverlaps:
    """Integrate <g_a|phi_j> for every atom a that the orbitals of `rows` reach.

    Parameters
    ----------
    structure : Structure
        The whole structure.
    basis : Basis
        The orbitals.
    widths : tuple of float
        Widths of the Gaussians in Bohr.
    rows : ndarray of int64
        Global indices of atoms.
    """
    species = [basis.species[symbol] for symbol in structure.elements]
    functions = [atom_functions(one, widths) for one in species]
    projectors = [Projectors(one, np.eye(one.size)) for one in functions]
    orbitals = [transform_shells(one.shells) for one in species]
    return projector_overlaps(structure, projectors, orbitals, rows)


def operator_hamiltonian(
    structure: Structure,
    basis: Basis,
    widths: tuple[float, ...],
    pairs: PairList,
    operators: Mapping[int, NDArray[np.float64]],
    rows: NDArray[np.int64],
) -> BlockOperator:
    """Return H of the operators of atoms, in Hartree.

    Parameters
    ----------
    structure, basis, widths, rows
        As for `function_overlaps`.
    pairs : PairList
        Pairs within orbital range, on-site ones included, with first atoms in `rows`.
    operators : dict of int to ndarray, shape (functions, functions)
        D in Hartree of every atom whose functions reach the orbitals of `rows`.

    Returns
    -------
    BlockOperator
        On `pairs` and on those beyond that an atom between couples.

    Raises
    ------
    ValueError
        When an operator is missing.
    """
    overlaps = function_overlaps(structure, basis, widths, rows)
    missing = set(overlaps.pairs.first_p.tolist()) - set(operators)
    if missing:
        raise ValueError(f"atom {min(missing)} has no operator")
    coupled = coupled_pairs(structure, overlaps, SMALLEST_COUPLING)
    result = BlockOperator.zeros(join_pairs(structure, pairs, coupled), basis.norb_i(structure))
    add_kinetic(result, structure, basis)
    # Every atom has a matrix of its own, as if it were an element of its own.
    none = np.zeros((0, 0))
    own = tuple(operators.get(i, none) for i in range(structure.natoms))
    add_separable(result, replace(overlaps, couplings=own, element_i=np.arange(structure.natoms)))
    return result


def add_kinetic(operator: BlockOperator, structure: Structure, basis: Basis) -> None:
    """Add the kinetic energy <phi_i|-1/2 nabla^2|phi_j> in Hartree to an operator, in place."""
    orbitals = [transform_shells(basis.species[symbol].shells) for symbol in structure.elements]
    for chosen_p, i, j in element_groups(structure.element_index_i, operator.pairs):
        table = two_centre_table(orbitals[i], orbitals[j], "kinetic")
        blocks = table.blocks(operator.pairs.vector_pc[chosen_p]).reshape(len(chosen_p), -1)
        operator.values[operator.places(chosen_p, blocks.shape[1])] += blocks


@cache
def _gaussians(widths: tuple[float, ...]) -> tuple[RadialFunction, ...]:
    return tuple(_gaussian(degree, s) for degree in range(GAUSSIAN_LMAX + 1) for s in widths)


def _gaussian(degree: int, width: float) -> RadialFunction:
    radius = np.linspace(0.0, GAUSSIAN_REACH * width, GAUSSIAN_POINTS)
    reduced = np.exp(-0.5 * (radius / width) ** 2) * (1.0 - (radius / radius[-1]) ** 2) ** 2
    return RadialFunction(degree, radius, reduced, f"gaussian-{width}")
