"""Separable operators with many projectors: one matrix product for each centre."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from hamgnn_solve.core.integrals.bessel import MomentumShells
from hamgnn_solve.core.integrals.separable import (
    Projectors,
    element_groups,
    projector_pairs,
)
from hamgnn_solve.core.integrals.two_centre import two_centre_table
from hamgnn_solve.core.operator import BlockOperator
from hamgnn_solve.core.pairs import PairKeys, PairList
from hamgnn_solve.core.structure import Structure

try:
    from hamgnn_solve import _native
except ImportError:  # a checkout that was not built: the same sums in numpy, slower
    _native = None  # type: ignore[assignment]

__all__ = ["add_centre_products"]

# Overlaps (numbers) held at a time.
BUFFER = 1 << 23
# Projectors that orbitals meet with less than this, beside what they meet at most, are left out.
NEGLIGIBLE = 1e-10


def add_centre_products(
    operator: BlockOperator,
    structure: Structure,
    projectors: Sequence[Projectors],
    orbitals: Sequence[MomentumShells],
) -> None:
    """Add the sum over a of <phi_i|p_a> D_a <p_a|phi_j> to the blocks of an operator, in place.

    The same as `add_separable`, for terms with many more projectors than orbitals: it holds the
    overlaps of a few centres at a time, and the work is in matrix products (75 x 17 orbitals
    around a centre with 972 projectors in MoS2).

    Parameters
    ----------
    operator : BlockOperator
        Its pairs are sorted as by `find_pairs`; what couples other pairs is left out.
    structure : Structure
        The atoms.
    projectors, orbitals : sequence
        Projectors, with a diagonal coupling D, and orbitals of each of `structure.elements`.

    Raises
    ------
    ValueError
        When a coupling is not diagonal.
    """
    strengths = [np.diag(one.coupling) for one in projectors]
    if any(
        (np.diag(x) != one.coupling).any() for x, one in zip(strengths, projectors, strict=True)
    ):
        raise ValueError("a coupling of projectors is not diagonal")
    rows = np.unique(operator.pairs.first_p)
    pairs = _strong_pairs(structure, projectors, orbitals, rows)
    element_i = structure.element_index_i
    nproj_i = np.array([one.shells.size for one in projectors], dtype=np.int64)[element_i]
    norb_i = operator.norb_i
    start_i = np.searchsorted(pairs.first_p, np.arange(structure.natoms + 1))
    mine_p = np.isin(pairs.second_p, rows)
    column_p, nmine_i, width_i = _columns(pairs, norb_i, mine_p)
    target = _Target(operator, pairs, column_p)
    place_p = column_p + np.where(mine_p, 0, nmine_i[pairs.first_p])
    buffer = np.empty(max(BUFFER, int((nproj_i * width_i).max(initial=0))))
    for centres in _batches(np.unique(pairs.first_p), nproj_i * width_i, len(buffer)):
        sizes = nproj_i[centres] * width_i[centres]
        begin_i = np.zeros(structure.natoms, dtype=np.int64)
        begin_i[centres] = np.cumsum(sizes) - sizes
        chosen = np.arange(start_i[centres[0]], start_i[centres[-1] + 1])
        near = pairs.select(chosen)
        for part_p, a, j in element_groups(element_i, near):
            table = two_centre_table(orbitals[j], projectors[a].shells)
            nproj_p = nproj_i[near.first_p[part_p]]
            places = begin_i[near.first_p[part_p]] + place_p[chosen[part_p]] * nproj_p
            table.fill(-near.vector_pc[part_p], buffer, places, nproj_p)
        for a in centres:
            overlap = buffer[begin_i[a] : begin_i[a] + nproj_i[a] * width_i[a]]
            overlap = overlap.reshape(width_i[a], nproj_i[a])
            around = np.arange(start_i[a], start_i[a + 1])
            left, right = around[mine_p[around]], around[~mine_p[around]]
            mine, others = overlap[: nmine_i[a]], overlap[nmine_i[a] :]
            strength = strengths[element_i[a]]
            target.add(_product(mine, mine, strength), left, left)
            if len(right):
                target.add(_product(mine, others, strength), left, right)


def _product(
    left: NDArray[np.float64], right: NDArray[np.float64], strength: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return left D right^T; with its own transpose a matrix is multiplied at half the cost."""
    if (strength == strength[0]).all():
        product = left @ right.T
        product *= strength[0]
        return product
    return np.asarray((left * strength) @ right.T)


def _columns(
    pairs: PairList, norb_i: NDArray[np.int64], mine_p: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Lay out the orbitals around every centre: those of the rows wanted, then all others.

    Returns
    -------
    column_p : ndarray of int64, shape (P,)
        Place of the first orbital of each pair, among those of the same kind.
    nmine_i, width_i : ndarray of int64, shape (N,)
        Orbitals of the rows wanted, and all orbitals, around each centre.
    """
    column_p = np.empty(len(pairs), dtype=np.int64)
    counts = []
    for kind_p in (mine_p, ~mine_p):
        centre, sizes = pairs.first_p[kind_p], norb_i[pairs.second_p[kind_p]]
        count_i = np.bincount(centre, sizes, len(norb_i)).astype(np.int64)
        column_p[kind_p] = np.cumsum(sizes) - sizes - (np.cumsum(count_i) - count_i)[centre]
        counts.append(count_i)
    return column_p, counts[0], counts[0] + counts[1]


class _Target:
    """The operator that products are added to, with what finding its blocks takes."""

    def __init__(
        self, operator: BlockOperator, pairs: PairList, column_p: NDArray[np.int64]
    ) -> None:
        self.operator, self.pairs, self.column_p = operator, pairs, column_p
        mine = operator.pairs
        largest = max(
            2 * int(np.abs(pairs.shift_pc).max(initial=0)),
            int(np.abs(mine.shift_pc).max(initial=0)),
        )
        self.keys = PairKeys(len(operator.norb_i), largest)
        self.key_p = self.keys.join(mine.first_p, mine.second_p, mine.shift_pc)
        self.start_i = np.searchsorted(mine.first_p, np.arange(len(operator.norb_i) + 1))

    def add(
        self, product: NDArray[np.float64], left: NDArray[np.int64], right: NDArray[np.int64]
    ) -> None:
        """Add the blocks of a product: its rows are the orbitals of pairs (a, i), columns (a, j).

        Parameters
        ----------
        product : ndarray, shape (orbitals of left, orbitals of right)
            What one centre a couples.
        left, right : ndarray of int64
            Ascending pairs (a, i) and (a, j), each from its `column_p` on.
        """
        if _native is None:
            self._add_blocks(product, left, right)
        else:
            _native.add_product(
                product,
                left,
                right,
                self.column_p,
                self.pairs.second_p,
                self.pairs.shift_pc,
                self.operator.norb_i,
                self.keys.natoms,
                self.keys.reach,
                self.start_i,
                self.key_p,
                self.operator.offset_p,
                self.operator.values,
            )

    def _add_blocks(
        self, product: NDArray[np.float64], left: NDArray[np.int64], right: NDArray[np.int64]
    ) -> None:
        norb_i, second_p = self.operator.norb_i, self.pairs.second_p
        left, right = (x.ravel() for x in np.meshgrid(left, right, indexing="ij"))
        shift = self.pairs.shift_pc[right] - self.pairs.shift_pc[left]
        key = self.keys.join(second_p[left], second_p[right], shift)
        place = np.minimum(np.searchsorted(self.key_p, key), len(self.key_p) - 1)
        found = self.key_p[place] == key
        shapes = np.stack([norb_i[second_p[left]], norb_i[second_p[right]]], axis=1)
        for ni, nj in np.unique(shapes[found], axis=0):
            chosen = found & (shapes == (ni, nj)).all(axis=1)
            rows = self.column_p[left[chosen], None, None] + np.arange(ni)[:, None]
            columns = self.column_p[right[chosen], None, None] + np.arange(nj)
            blocks = product[rows, columns].reshape(-1, ni * nj)
            # A centre may couple a pair more than once, through its images.
            np.add.at(self.operator.values, self.operator.places(place[chosen], ni * nj), blocks)


def _strong_pairs(
    structure: Structure,
    projectors: Sequence[Projectors],
    orbitals: Sequence[MomentumShells],
    rows: NDArray[np.int64],
) -> PairList:
    """Find the pairs (a, j) that matter, of centres a that matter to `rows`; sorted by a, j, R."""
    element_i = structure.element_index_i
    pairs = projector_pairs(structure, projectors, orbitals, rows)
    strong_p = np.zeros(len(pairs), dtype=bool)
    for chosen_p, a, j in element_groups(element_i, pairs):
        table = two_centre_table(orbitals[j], projectors[a].shells)
        largest = table.envelope(np.zeros(1))[0]
        strong_p[chosen_p] = largest * table.envelope(pairs.distance_p[chosen_p]) > NEGLIGIBLE
    wanted = np.unique(pairs.first_p[strong_p & np.isin(pairs.second_p, rows)])
    return pairs.select(strong_p & np.isin(pairs.first_p, wanted))


def _batches(
    centres: NDArray[np.int64], size_i: NDArray[np.int64], limit: int
) -> Iterator[NDArray[np.int64]]:
    """Split centres into runs whose overlaps fit into `limit` numbers."""
    begin = 0
    while begin < len(centres):
        total = np.cumsum(size_i[centres[begin:]])
        count = max(1, int(np.searchsorted(total, limit, side="right")))
        yield centres[begin : begin + count]
        begin += count
