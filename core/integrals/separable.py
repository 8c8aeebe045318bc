"""Separable operators: the sum over projector centres of P_a D_a P_a^T."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hamgnn_solve.core.basis.species import AnyRadialFunction
from hamgnn_solve.core.integrals.bessel import MomentumShells
from hamgnn_solve.core.integrals.two_centre import two_centre_table
from hamgnn_solve.core.operator import BlockOperator
from hamgnn_solve.core.pairs import (
    PairKeys,
    PairList,
    displacements,
    find_pairs,
    join_pairs,
    onsite_pairs,
)
from hamgnn_solve.core.structure import Structure

try:
    from hamgnn_solve import _native
except ImportError:  # a checkout that was not built: the same sums in numpy, slower
    _native = None  # type: ignore[assignment]

__all__ = [
    "ProjectorOverlaps",
    "Projectors",
    "add_separable",
    "coupled_pairs",
    "element_groups",
    "expand_by_m",
    "pairs_within",
    "projector_overlaps",
    "projector_pairs",
]

# Pairs of one centre per batch of triples in numpy.
BATCH = 256
# Terms of a block below this are left out.
NEGLIGIBLE = 1e-15


@dataclass(frozen=True)
class Projectors:
    """Projectors of one element and how a separable term couples them.

    Parameters
    ----------
    shells : MomentumShells
        Projector shells; may be empty.
    coupling : ndarray, shape (nproj, nproj)
        D of the term, for the functions of all m (see `expand_by_m`).
    """

    shells: MomentumShells
    coupling: NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.coupling.shape != (self.shells.size, self.shells.size):
            raise ValueError(f"{self.shells.size} projectors need a square coupling of that size")


@dataclass(frozen=True)
class ProjectorOverlaps:
    """Overlaps <p_a | phi_j> of the projectors of some atoms with all orbitals that reach them.

    Parameters
    ----------
    rows : ndarray of int64
        Global indices, ascending, of the atoms i whose blocks (i, j, R) are wanted; the centres
        a are all atoms that their orbitals reach.
    pairs : PairList
        First the atom a of the projectors, second the atom j of the orbitals; sorted by a.
    element_i : ndarray of int64, shape (N,)
        Element index of every atom.
    couplings : tuple of ndarray
        D_a of each element, shape (nproj, nproj).
    norb_i : ndarray of int64, shape (N,)
        Orbitals of every atom.
    values : ndarray of float64
        Blocks <p_a | phi_j> of shape (nproj of a, norb of j) one after the other, row-major.
    weight_p : ndarray, shape (pairs,)
        Bound of the elements of each block times the square root of the largest |D_a|: a pair's
        term from centre a is at most of the order of the product of its two weights.
    """

    rows: NDArray[np.int64]
    pairs: PairList
    element_i: NDArray[np.int64]
    couplings: tuple[NDArray[np.float64], ...]
    norb_i: NDArray[np.int64]
    values: NDArray[np.float64]
    weight_p: NDArray[np.float64]

    @cached_property
    def nproj_i(self) -> NDArray[np.int64]:
        """Projectors of every atom, shape (N,)."""
        return np.array([len(matrix) for matrix in self.couplings], dtype=np.int64)[self.element_i]

    @cached_property
    def offset_p(self) -> NDArray[np.int64]:
        """Start of each block in `values`, and the total last, shape (pairs + 1,)."""
        sizes = self.nproj_i[self.pairs.first_p] * self.norb_i[self.pairs.second_p]
        return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)

    @cached_property
    def centre_start_i(self) -> NDArray[np.int64]:
        """First pair of every centre a, and the number of pairs last, shape (N + 1,)."""
        return np.searchsorted(self.pairs.first_p, np.arange(len(self.norb_i) + 1))

    @cached_property
    def by_row(self) -> NDArray[np.int64]:
        """Pairs (a, i) with i in `rows`, ordered by i."""
        mine = np.flatnonzero(np.isin(self.pairs.second_p, self.rows))
        return mine[np.argsort(self.pairs.second_p[mine], kind="stable")]

    @cached_property
    def row_start_r(self) -> NDArray[np.int64]:
        """First entry of every row in `by_row`, and its length last, shape (rows + 1,)."""
        start = np.searchsorted(self.pairs.second_p[self.by_row], self.rows)
        return np.append(start, len(self.by_row))

    def blocks(self, chosen_p: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return copies of blocks of one shape, shape (n, nproj, norb)."""
        nproj = self.nproj_i[self.pairs.first_p[chosen_p[0]]]
        norb = self.norb_i[self.pairs.second_p[chosen_p[0]]]
        places = self.offset_p[chosen_p][:, None] + np.arange(nproj * norb)
        return self.values[places].reshape(-1, nproj, norb)

    def triples(self, threshold: float) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Yield batches of pairs (a, i), (a, j) of one centre with weights above a threshold."""
        centre = self.pairs.first_p[self.by_row]
        start = self.centre_start_i
        for begin in range(0, len(centre), BATCH):
            part = slice(begin, begin + BATCH)
            count = start[centre[part] + 1] - start[centre[part]]
            left = np.repeat(self.by_row[part], count)
            before = np.repeat(np.cumsum(count) - count, count)
            right = np.repeat(start[centre[part]], count) + np.arange(len(left)) - before
            strong = self.weight_p[left] * self.weight_p[right] > threshold
            yield left[strong], right[strong]


def projector_overlaps(
    structure: Structure,
    projectors: Sequence[Projectors],
    orbitals: Sequence[MomentumShells],
    rows: NDArray[np.int64],
) -> ProjectorOverlaps:
    """Integrate <p_a | phi_j> for every centre a that the orbitals of `rows` reach.

    Parameters
    ----------
    structure : Structure
        The atoms.
    projectors, orbitals : sequence
        Projectors and orbitals of each of `structure.elements`.
    rows : ndarray of int64
        Global indices of the atoms i whose blocks (i, j, R) are wanted.
    """
    element_i = structure.element_index_i
    pairs = projector_pairs(structure, projectors, orbitals, rows)
    nproj_i = np.array([one.shells.size for one in projectors])[element_i]
    norb_i = np.array([one.size for one in orbitals], dtype=np.int64)[element_i]
    values = np.empty(int((nproj_i[pairs.first_p] * norb_i[pairs.second_p]).sum()))
    result = ProjectorOverlaps(
        np.unique(rows),
        pairs,
        element_i,
        tuple(one.coupling for one in projectors),
        norb_i,
        values,
        np.zeros(len(pairs)),
    )
    for chosen_p, a, j in element_groups(element_i, pairs):
        if not projectors[a].shells.size:
            continue
        table = two_centre_table(projectors[a].shells, orbitals[j])
        stride_p = np.full(len(chosen_p), orbitals[j].size)
        table.fill(pairs.vector_pc[chosen_p], values, result.offset_p[chosen_p], stride_p)
        strength = np.sqrt(np.abs(projectors[a].coupling).max())
        result.weight_p[chosen_p] = strength * table.envelope(pairs.distance_p[chosen_p])
    return result


def projector_pairs(
    structure: Structure,
    projectors: Sequence[Projectors],
    orbitals: Sequence[MomentumShells],
    rows: NDArray[np.int64],
) -> PairList:
    """Find all pairs (a, j) in reach of each other, of centres a that the orbitals of `rows` reach.

    Parameters
    ----------
    structure, projectors, orbitals, rows
        As of `projector_overlaps`.

    Returns
    -------
    PairList
        Sorted by a, j and R; pairs of an atom with itself included.
    """
    element_i = structure.element_index_i
    projector_i = np.array([one.shells.cutoff for one in projectors])[element_i]
    orbital_i = np.array([one.cutoff for one in orbitals])[element_i]
    centres = np.union1d(rows, pairs_within(structure, rows, orbital_i, projector_i).second_p)
    return pairs_within(structure, centres, projector_i, orbital_i)


def coupled_pairs(structure: Structure, overlaps: ProjectorOverlaps, threshold: float) -> PairList:
    """Find the pairs (i, j, R), i in `overlaps.rows`, that a common projector couples.

    Parameters
    ----------
    structure : Structure
        The atoms.
    overlaps : ProjectorOverlaps
        Overlaps with the projectors.
    threshold : float
        A pair counts when the product of its two weights exceeds this for some centre.

    Returns
    -------
    PairList
        Sorted as by `find_pairs`, on-site pairs included.
    """
    pairs = overlaps.pairs
    keys = PairKeys(structure.natoms, 2 * int(np.abs(pairs.shift_pc).max(initial=0)))
    if _native is None:
        found = [
            np.unique(_coupled_keys(keys, pairs, left, right))
            for left, right in overlaps.triples(threshold)
        ]
        key = np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *found]))
    else:
        key = _native.coupled_pairs(*_native_index(overlaps, keys), threshold)
    first, second, shift = keys.split(key)
    return PairList(first, second, shift, displacements(structure, first, second, shift))


def add_separable(operator: BlockOperator, overlaps: ProjectorOverlaps) -> None:
    """Add the sum over a of <phi_i|p_a> D_a <p_a|phi_j> to the blocks of an operator, in place.

    Parameters
    ----------
    operator : BlockOperator
        Its pairs are sorted as by `find_pairs`; what couples other pairs is left out.
    overlaps : ProjectorOverlaps
        Overlaps with the projectors; its rows are the first atoms of the operator's pairs.
    """
    pairs = overlaps.pairs
    target = operator.pairs
    reach = max(
        2 * int(np.abs(pairs.shift_pc).max(initial=0)), int(np.abs(target.shift_pc).max(initial=0))
    )
    keys = PairKeys(len(overlaps.norb_i), reach)
    target_key = keys.join(target.first_p, target.second_p, target.shift_pc)
    if _native is None:
        for left, right in overlaps.triples(NEGLIGIBLE):
            key = _coupled_keys(keys, pairs, left, right)
            place = np.minimum(np.searchsorted(target_key, key), len(target_key) - 1)
            wanted = target_key[place] == key
            _add_triples(operator, overlaps, left[wanted], right[wanted], place[wanted])
        return
    sizes = [matrix.size for matrix in overlaps.couplings]
    _native.add_separable(
        *_native_index(overlaps, keys),
        NEGLIGIBLE,
        overlaps.values,
        overlaps.offset_p,
        np.concatenate([matrix.ravel() for matrix in overlaps.couplings]),
        np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        overlaps.element_i,
        overlaps.nproj_i,
        overlaps.norb_i,
        target_key,
        operator.offset_p,
        operator.values,
    )


def element_groups(
    element_i: NDArray[np.int64], pairs: PairList
) -> Iterator[tuple[NDArray[np.int64], int, int]]:
    """Yield the pairs of each combination of elements, and the two element indices."""
    count = int(element_i.max()) + 1
    combined_p = element_i[pairs.first_p] * count + element_i[pairs.second_p]
    for combined in np.unique(combined_p):
        first, second = divmod(int(combined), count)
        yield np.flatnonzero(combined_p == combined), first, second


def expand_by_m(
    shells: tuple[AnyRadialFunction, ...], radial: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Expand a matrix between shells to one between functions, diagonal in l and m."""
    shell_l = np.array([shell.l for shell in shells], dtype=np.int64)
    index = np.repeat(np.arange(len(shells)), 2 * shell_l + 1)
    order = np.concatenate(
        [np.arange(-angular, angular + 1) for angular in shell_l] or [np.zeros(0, dtype=np.int64)]
    )
    same = (order[:, None] == order) & (shell_l[index][:, None] == shell_l[index])
    return np.where(same, radial[np.ix_(index, index)], 0.0)


def pairs_within(
    structure: Structure,
    first_atoms: NDArray[np.int64],
    first_reach_i: NDArray[np.float64],
    second_reach_i: NDArray[np.float64],
) -> PairList:
    """Find pairs closer than the sum of two kinds of reach, on-site pairs included."""
    if len(first_atoms) == 0:
        return onsite_pairs(first_atoms)
    furthest = float(first_reach_i[first_atoms].max() + second_reach_i.max())
    everywhere = np.full(structure.natoms, 0.5 * furthest + 1e-6)
    near = find_pairs(structure, everywhere, first_atoms)
    near = near.select(
        near.distance_p < first_reach_i[near.first_p] + second_reach_i[near.second_p]
    )
    return join_pairs(structure, near, onsite_pairs(first_atoms))


def _coupled_keys(
    keys: PairKeys, pairs: PairList, left: NDArray[np.int64], right: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the keys of (i, j, R) for pairs (a, i, R_i) and (a, j, R_j): R = R_j - R_i."""
    shift = pairs.shift_pc[right] - pairs.shift_pc[left]
    return keys.join(pairs.second_p[left], pairs.second_p[right], shift)


def _add_triples(
    operator: BlockOperator,
    overlaps: ProjectorOverlaps,
    left: NDArray[np.int64],
    right: NDArray[np.int64],
    place: NDArray[np.int64],
) -> None:
    element_i, pairs = overlaps.element_i, overlaps.pairs
    kind = np.stack(
        [element_i[x] for x in (pairs.first_p[left], pairs.second_p[left], pairs.second_p[right])]
    )
    for centre, i, j in np.unique(kind, axis=1).T:
        chosen = np.flatnonzero((kind == [[centre], [i], [j]]).all(axis=0))
        # Triples of one block stand together, so that each block is summed before it is added.
        chosen = chosen[np.argsort(place[chosen], kind="stable")]
        coupled = overlaps.couplings[centre] @ overlaps.blocks(right[chosen])
        terms = overlaps.blocks(left[chosen]).transpose(0, 2, 1) @ coupled
        blocks, start = np.unique(place[chosen], return_index=True)
        sums = np.add.reduceat(terms, start, axis=0).reshape(len(blocks), -1)
        operator.values[operator.places(blocks, sums.shape[1])] += sums


def _native_index(
    overlaps: ProjectorOverlaps, keys: PairKeys
) -> tuple[
    NDArray[np.int64],
    NDArray[np.int64],
    NDArray[np.int64],
    NDArray[np.int64],
    NDArray[np.int64],
    NDArray[np.int64],
    NDArray[np.float64],
    NDArray[np.int64],
    int,
    int,
]:
    """Return the arguments common to the native functions."""
    pairs = overlaps.pairs
    return (
        overlaps.rows,
        overlaps.by_row,
        overlaps.row_start_r,
        pairs.first_p,
        pairs.second_p,
        pairs.shift_pc,
        overlaps.weight_p,
        overlaps.centre_start_i,
        keys.natoms,
        keys.reach,
    )
