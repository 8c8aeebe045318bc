"""OpenMX's non-self-consistent part of the Hamiltonian, H0 = T + V_NL + V_NA."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hamgnn_solve.core.basis.openmx_data import PseudoSpecies
from hamgnn_solve.core.basis.species import Basis
from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.integrals.centre_products import add_centre_products
from hamgnn_solve.core.integrals.neutral_atom import (
    expansion_projectors,
    onsite_map,
    potential_shell,
    product_shells,
)
from hamgnn_solve.core.integrals.openmx_momenta import (
    gauss_orbitals,
    trapezoid_orbitals,
    trapezoid_projectors,
)
from hamgnn_solve.core.integrals.separable import (
    Projectors,
    add_separable,
    element_groups,
    expand_by_m,
    pairs_within,
    projector_overlaps,
)
from hamgnn_solve.core.integrals.two_centre import two_centre_table
from hamgnn_solve.core.operator import BlockOperator
from hamgnn_solve.core.pairs import find_pairs, join_pairs, onsite_pairs
from hamgnn_solve.core.structure import Structure

__all__ = ["hamiltonian_zero"]

# L of the expansion of V_NA beyond the largest l of the orbitals (OpenMX: scf.BufferL.VNA).
EXTRA_L = 6
# Distance in Bohr over which V_NL and V_NA of a pair go to zero.
DAMPED = 1.0
# Pairs at a time where temporary arrays are as large as the blocks.
CHUNK = 1 << 13


def hamiltonian_zero(structure: Structure, basis: Basis, rows: NDArray[np.int64]) -> BlockOperator:
    """Compute H0 = T + V_NL + V_NA for the rows of some atoms.

    Parameters
    ----------
    structure : Structure
        The whole structure.
    basis : Basis
        Species of its elements, with OpenMX's orbitals (`PseudoSpecies`).
    rows : ndarray of int64
        Global indices of the atoms i whose blocks are wanted (those a process owns).

    Returns
    -------
    BlockOperator
        In Hartree: blocks of all pairs (i, j, R) within the sum of the orbital cutoffs with i in
        `rows`, on-site pairs included, sorted by i, j and R.

    Raises
    ------
    InputError
        When the basis does not cover an element or has no pseudopotential for it.

    Notes
    -----
    As OpenMX 3.9 computes it, quadrature included. V_NL and, between different atoms, V_NA are
    separable, summed over all atoms that both orbitals reach, and damped within 1 Bohr of the
    range of a pair. V_NA on an atom is that of exact three-centre integrals. Between atoms it
    depends a little on the other elements of the structure: their largest l sets the L of its
    expansion.
    """
    basis.check_covers(structure)
    species = [_pseudo_species(basis, symbol) for symbol in structure.elements]
    rows = np.unique(rows)
    cutoff_i = basis.cutoff_i(structure)
    pairs = join_pairs(structure, find_pairs(structure, cutoff_i, rows), onsite_pairs(rows))
    result = BlockOperator.zeros(pairs, basis.norb_i(structure))
    _add_expanded_potential(result, structure, species)
    _set_onsite_potential(result, structure, species, rows)
    _add_nonlocal(result, structure, species, rows)
    _damp(result, cutoff_i)
    _add_kinetic(result, structure, species)
    return result


def _pseudo_species(basis: Basis, symbol: str) -> PseudoSpecies:
    species = basis.species[symbol]
    if not isinstance(species, PseudoSpecies):
        raise InputError(
            f"H0 needs OpenMX's orbitals and pseudopotentials, but {species.name} has none; "
            "choose a model of an OpenMX basis and point --dft-data at the files."
        )
    return species


def _add_expanded_potential(
    result: BlockOperator, structure: Structure, species: list[PseudoSpecies]
) -> None:
    largest_l = max(max(one.shell_l) for one in species) + EXTRA_L
    projectors = [expansion_projectors(one, largest_l) for one in species]
    orbitals = [gauss_orbitals(one) for one in species]
    add_centre_products(result, structure, projectors, orbitals)


def _set_onsite_potential(
    result: BlockOperator,
    structure: Structure,
    species: list[PseudoSpecies],
    rows: NDArray[np.int64],
) -> None:
    cutoff_i = np.array([one.cutoff for one in species])[structure.element_index_i]
    pairs = pairs_within(structure, rows, cutoff_i, cutoff_i)
    products = [product_shells(one) for one in species]
    element_i = structure.element_index_i
    sums = [np.zeros((structure.natoms, one.size)) for one in products]
    for chosen_p, i, k in element_groups(element_i, pairs):
        table = two_centre_table(products[i], potential_shell(species[k]))
        for start in range(0, len(chosen_p), CHUNK):
            part_p = chosen_p[start : start + CHUNK]
            blocks = table.blocks(pairs.vector_pc[part_p])[:, :, 0]
            np.add.at(sums[i], pairs.first_p[part_p], blocks)
    places_p = result.pairs.position_of(onsite_pairs(rows))
    for element, one in enumerate(species):
        chosen = element_i[rows] == element
        if chosen.any():
            blocks = np.tensordot(sums[element][rows[chosen]], onsite_map(one), 1)
            result.set_blocks(places_p[chosen], blocks)


def _add_nonlocal(
    result: BlockOperator,
    structure: Structure,
    species: list[PseudoSpecies],
    rows: NDArray[np.int64],
) -> None:
    projectors = [
        Projectors(
            trapezoid_projectors(one),
            expand_by_m(one.nonlocal_projectors, np.diag(one.pseudopotential.energy_p)),
        )
        for one in species
    ]
    orbitals = [trapezoid_orbitals(one) for one in species]
    add_separable(result, projector_overlaps(structure, projectors, orbitals, rows))


def _damp(result: BlockOperator, cutoff_i: NDArray[np.float64]) -> None:
    """Multiply by a quintic that goes from 1 to 0 in the last Bohr of every pair's range."""
    pairs = result.pairs
    range_p = cutoff_i[pairs.first_p] + cutoff_i[pairs.second_p]
    left_p = np.clip((range_p - pairs.distance_p) / DAMPED, 0.0, 1.0)
    factor_p = left_p**3 * (10 - 15 * left_p + 6 * left_p**2)
    result.values[:] *= np.repeat(factor_p, np.diff(result.offset_p))


def _add_kinetic(result: BlockOperator, structure: Structure, species: list[PseudoSpecies]) -> None:
    orbitals = [trapezoid_orbitals(one) for one in species]
    for chosen_p, i, j in element_groups(structure.element_index_i, result.pairs):
        table = two_centre_table(orbitals[i], orbitals[j], "kinetic")
        for start in range(0, len(chosen_p), CHUNK):
            part_p = chosen_p[start : start + CHUNK]
            blocks = table.blocks(result.pairs.vector_pc[part_p]).reshape(len(part_p), -1)
            result.values[result.places(part_p, blocks.shape[1])] += blocks
