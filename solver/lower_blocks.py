"""Operators at one k as one triangle of blocks, in the order of elimination."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hamgnn_solve.core.operator import BlockOperator, phases
from hamgnn_solve.solver.multifrontal import FrontTree

__all__ = ["LowerBlocks"]

# Numbers that are gathered together, so that copies of blocks stay small beside the operators.
BATCH = 1 << 22


class LowerBlocks:
    """Blocks O_ji(k) of the later atom j and the earlier atom i in the order of elimination.

    Blocks lie one after the other, row-major, ordered by the front that eliminates i. Pairs
    outside the filled pattern of the factors have no place; what operators hold there is left
    out.

    Parameters
    ----------
    tree : FrontTree
        Fronts of the pencil.
    operators : BlockOperator
        Operators whose pairs need a place (all pairs of the crystal, not those of one rank).
    """

    def __init__(self, tree: FrontTree, *operators: BlockOperator) -> None:
        self.tree = tree
        self.norb_i = tree.norb_i
        keys = np.unique(np.concatenate([self._key_of(x) for x in operators]))
        natoms = len(self.norb_i)
        earlier, later = tree.order_i[keys // natoms], tree.order_i[keys % natoms]
        front = tree.front_i[earlier]
        row = tree.rows_of(front, later)
        inside = row >= 0
        self._key_q = keys[inside]
        self.earlier_q, self.later_q = earlier[inside], later[inside]
        self._row_q, self._front_q = row[inside], front[inside]
        sizes = self.norb_i[self.earlier_q] * self.norb_i[self.later_q]
        self.offset_q = np.concatenate([[0], np.cumsum(sizes)])

    @property
    def size(self) -> int:
        """How many numbers all blocks hold."""
        return int(self.offset_q[-1])

    @cached_property
    def place(self) -> NDArray[np.int64]:
        """Place of each number in the panel (rows, pivots) of its front, shape (size,)."""
        place = np.empty(self.size, dtype=np.int64)
        column_q = self.tree.rows_of(self._front_q, self.earlier_q)
        npivots_q = np.array([x.npivots for x in self.tree.fronts])[self._front_q]
        start_q = self._row_q * npivots_q + column_q
        rows_q, columns_q = self.norb_i[self.later_q], self.norb_i[self.earlier_q]
        for rows, columns in np.unique(np.stack([rows_q, columns_q], axis=1), axis=0):
            q = np.flatnonzero((rows_q == rows) & (columns_q == columns))
            inside = npivots_q[q][:, None, None] * np.arange(rows)[:, None] + np.arange(columns)
            values = (start_q[q][:, None, None] + inside).reshape(len(q), -1)
            place[self.offset_q[q][:, None] + np.arange(rows * columns)] = values
        return place

    @cached_property
    def _entry_f(self) -> NDArray[np.int64]:
        starts = np.searchsorted(self._front_q, np.arange(len(self.tree.fronts) + 1))
        return self.offset_q[starts]

    def entries_of(self, front: int) -> slice:
        """Return which numbers belong to the columns of a front."""
        return slice(int(self._entry_f[front]), int(self._entry_f[front + 1]))

    def fold(
        self, operator: BlockOperator, k_c: Sequence[float] | NDArray[np.float64], real: bool
    ) -> NDArray[Any]:
        """Return O_ji(k) = sum_R exp(2 pi i k.R) O_ji(R), the mean with the adjoint of O_ij(k).

        Parameters
        ----------
        operator : BlockOperator
            All blocks, those of the reverse pairs included.
        k_c : array_like, shape (3,)
            Fractional k.
        real : bool
            Whether 2k is a reciprocal vector, so that every phase is +1 or -1.

        Returns
        -------
        ndarray of float64 or complex128, shape (size,)
        """
        values = np.zeros(self.size, dtype=np.float64 if real else np.complex128)
        turned_p = phases(operator, k_c)
        phase_p: NDArray[Any] = turned_p.real if real else turned_p
        for p, q, later_first, rows, columns in self._batches(operator):
            for mask, turned in ((later_first >= 0, False), (later_first <= 0, True)):
                chosen, target = p[mask], q[mask]
                if len(chosen) == 0:
                    continue
                blocks = operator.blocks(chosen, rows, columns)
                # A block and its reverse fold onto the same place.
                blocks = blocks * (0.5 * phase_p[chosen])[:, None, None]
                if turned:
                    blocks = blocks.conj().transpose(0, 2, 1)
                target, starts = np.unique(target, return_index=True)
                summed = np.add.reduceat(blocks.reshape(len(chosen), -1), starts, axis=0)
                values[self.offset_q[target][:, None] + np.arange(rows * columns)] += summed
        return values

    def unfold_into(
        self,
        result: BlockOperator,
        lower: NDArray[Any],
        k_c: Sequence[float] | NDArray[np.float64],
        weight: float,
    ) -> None:
        """Add weight Re exp(-2 pi i k.R) O_ij(k) to the blocks of `result`.

        Parameters
        ----------
        result : BlockOperator
            Pairs outside the filled pattern are left as they are.
        lower : ndarray, shape (size,)
            O_ji(k) of a Hermitian O.
        k_c
            As for `fold`.
        weight : float
            Weight of this k.
        """
        phase_p = phases(result, k_c).conj()
        for p, q, later_first, rows, columns in self._batches(result):
            for mask, turned in ((later_first >= 0, False), (later_first < 0, True)):
                chosen, source = p[mask], q[mask]
                if len(chosen) == 0:
                    continue
                places = self.offset_q[source][:, None] + np.arange(rows * columns)
                blocks = lower[places].reshape(
                    -1, *((columns, rows) if turned else (rows, columns))
                )
                if turned:
                    blocks = blocks.conj().transpose(0, 2, 1)
                blocks = weight * (blocks * phase_p[chosen][:, None, None]).real
                result.values[result.places(chosen, rows * columns)] += blocks.reshape(
                    len(chosen), -1
                )

    def _batches(
        self, operator: BlockOperator
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], int, int]]:
        """Yield pairs of one shape, their places, whether the first atom is later, and the shape.

        Pairs of the same place are neighbours.
        """
        position_p = self._position(operator)
        rank_i = self.tree.rank_i
        order_p = np.sign(rank_i[operator.pairs.first_p] - rank_i[operator.pairs.second_p])
        for chosen, rows, columns in operator.groups():
            chosen = chosen[position_p[chosen] >= 0]
            chosen = chosen[np.argsort(position_p[chosen], kind="stable")]
            step = max(BATCH // (rows * columns), 1)
            for start in range(0, len(chosen), step):
                p = chosen[start : start + step]
                yield p, position_p[p], order_p[p], rows, columns

    def _key_of(self, operator: BlockOperator) -> NDArray[np.int64]:
        rank_i = self.tree.rank_i
        first, second = rank_i[operator.pairs.first_p], rank_i[operator.pairs.second_p]
        return np.minimum(first, second) * len(rank_i) + np.maximum(first, second)

    def _position(self, operator: BlockOperator) -> NDArray[np.int64]:
        wanted = self._key_of(operator)
        place = np.minimum(np.searchsorted(self._key_q, wanted), len(self._key_q) - 1)
        return np.where(self._key_q[place] == wanted, place, -1)
