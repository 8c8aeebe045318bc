"""The overlap matrix S(R), augmentation included."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hamgnn_solve.core.basis.openmx_data import PseudoSpecies
from hamgnn_solve.core.basis.species import AnySpecies, Basis
from hamgnn_solve.core.integrals.bessel import MomentumShells, transform_shells
from hamgnn_solve.core.integrals.openmx_momenta import trapezoid_orbitals
from hamgnn_solve.core.integrals.separable import (
    Projectors,
    add_separable,
    coupled_pairs,
    element_groups,
    expand_by_m,
    projector_overlaps,
)
from hamgnn_solve.core.integrals.two_centre import two_centre_table
from hamgnn_solve.core.operator import BlockOperator
from hamgnn_solve.core.pairs import find_pairs, join_pairs, onsite_pairs
from hamgnn_solve.core.structure import Structure

__all__ = ["overlap"]

SMALLEST_TAIL = 1e-12
# Pairs at a time where temporary arrays are as large as the blocks.
CHUNK = 1 << 13


def overlap(structure: Structure, basis: Basis, rows: NDArray[np.int64]) -> BlockOperator:
    """Compute S = <phi_i|phi_j> + sum_a <phi_i|p_a> dS_a <p_a|phi_j> for the rows of some atoms.

    Parameters
    ----------
    structure : Structure
        The whole structure.
    basis : Basis
        Species of its elements.
    rows : ndarray of int64
        Global indices of the atoms i whose blocks are wanted (those a process owns).

    Returns
    -------
    BlockOperator
        Blocks of all pairs (i, j, R) with i in `rows`, on-site pairs included, sorted by i, j and
        R: the pairs within the sum of the orbital cutoffs, and those beyond with an element
        above 1e-12, which a common projector couples. Without unit.

    Raises
    ------
    InputError
        When the basis does not cover an element.

    Notes
    -----
    Blöchl, Phys. Rev. B 50, 17953 (1994), in a basis of orbitals; the pairs
    beyond the orbital range are tiny (3e-7 in MoS2), but S is nearly singular and they move high
    bands. OpenMX's orbitals have no augmentation, and their integrals follow OpenMX's quadrature
    (`openmx_momenta`).
    """
    basis.check_covers(structure)
    rows = np.unique(rows)
    species = [basis.species[symbol] for symbol in structure.elements]
    orbitals = [_orbitals(one) for one in species]
    projections = projector_overlaps(
        structure, [_augmentation(one) for one in species], orbitals, rows
    )
    pairs = join_pairs(
        structure,
        find_pairs(structure, basis.cutoff_i(structure), rows),
        onsite_pairs(rows),
        coupled_pairs(structure, projections, SMALLEST_TAIL),
    )
    result = BlockOperator.zeros(pairs, basis.norb_i(structure))
    for chosen_p, first, second in element_groups(structure.element_index_i, pairs):
        table = two_centre_table(orbitals[first], orbitals[second])
        for start in range(0, len(chosen_p), CHUNK):
            part_p = chosen_p[start : start + CHUNK]
            result.set_blocks(part_p, table.blocks(pairs.vector_pc[part_p]))
    add_separable(result, projections)
    cutoff_i = basis.cutoff_i(structure)
    in_range_p = pairs.distance_p <= cutoff_i[pairs.first_p] + cutoff_i[pairs.second_p]
    return _drop_small(result, in_range_p, SMALLEST_TAIL)


def _orbitals(species: AnySpecies) -> MomentumShells:
    if isinstance(species, PseudoSpecies):
        return trapezoid_orbitals(species)
    return transform_shells(species.shells)


def _augmentation(species: AnySpecies) -> Projectors:
    coupling = expand_by_m(species.projectors, species.projector_overlap)
    return Projectors(transform_shells(species.projectors), coupling)


def _drop_small(
    operator: BlockOperator, kept_p: NDArray[np.bool_], smallest: float
) -> BlockOperator:
    """Drop the blocks, other than `kept_p`, whose largest element is below `smallest`.

    The blocks left move up in the buffer of `operator`, which must not be used any more.
    """
    kept_p = kept_p.copy()
    filled = 0
    for start in range(0, len(kept_p), CHUNK):
        part_p = slice(start, min(start + CHUNK, len(kept_p)))
        begin, end = operator.offset_p[part_p.start], operator.offset_p[part_p.stop]
        values = operator.values[begin:end]
        largest_p = np.maximum.reduceat(np.abs(values), operator.offset_p[part_p] - begin)
        kept_p[part_p] |= largest_p >= smallest
        sizes_p = np.diff(operator.offset_p[part_p.start : part_p.stop + 1])
        values = values[np.repeat(kept_p[part_p], sizes_p)]
        operator.values[filled : filled + len(values)] = values
        filled += len(values)
    pairs = operator.pairs.select(kept_p)
    return BlockOperator(pairs, operator.norb_i, operator.values[:filled])
