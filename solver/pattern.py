"""Where the blocks of pairs of atoms fall in a sparse matrix."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hamgnn_solve.core.operator import BlockOperator
from hamgnn_solve.parallel.rows import OrbitalRows

__all__ = ["BlockGroup", "BlockPattern", "block_keys", "group_blocks", "ragged_arange"]


# Numbers of blocks that are worked on at a time.
PART = 1_000_000


class BlockPattern:
    """Places of (i, j) blocks among the rows of a compressed sparse matrix.

    A row holds the blocks of its atom in ascending order of columns. Entries are counted in
    units of one number at real k and of one (even, odd) pair of numbers in the embedding, where
    row m of an atom becomes the rows 2m and 2m + 1.

    Parameters
    ----------
    rows : OrbitalRows
        Numbering and distribution of the orbitals.
    keys : iterable of ndarray of int64
        `block_keys` of operators whose blocks must have a place; first atoms belong to this rank.
    upper : bool
        Whether only entries on and above the diagonal are kept, which a symmetric matrix needs.
    """

    def __init__(
        self, rows: OrbitalRows, keys: Iterable[NDArray[np.int64]], *, upper: bool
    ) -> None:
        self.rows, self.upper = rows, upper
        own = rows.first_row_i[rows.owned]
        # Every diagonal block has a place, so that H - sigma S has no hole there.
        every = np.unique(np.concatenate([own * rows.nrows + own, *keys]))
        self.key_q = every[every // rows.nrows <= every % rows.nrows] if upper else every
        atom_of_row = np.zeros(rows.nrows, dtype=np.int64)
        atom_of_row[rows.first_row_i] = np.arange(len(rows.norb_i))
        self.first_q = atom_of_row[self.key_q // rows.nrows]
        self.second_q = atom_of_row[self.key_q % rows.nrows]
        width_q = rows.norb_i[self.second_q]
        natoms = len(rows.norb_i)
        self._length_i = np.bincount(self.first_q, width_q, natoms).astype(np.int64)
        lengths, norbs = self._length_i[rows.owned], rows.norb_i[rows.owned]
        # Start of each owned atom in the list of its columns, and of its rows in the values.
        self._column_i, self._start_i = np.zeros((2, natoms), dtype=np.int64)
        self._column_i[rows.owned] = np.cumsum(lengths) - lengths
        self._start_i[rows.owned] = np.cumsum(lengths * norbs) - lengths * norbs
        self._offset_q = np.cumsum(width_q) - width_q - self._column_i[self.first_q]
        self._nnz = int((lengths * norbs).sum())
        self._csr: dict[bool, tuple[NDArray[np.int32], NDArray[np.int32]]] = {}
        self._kept: dict[bool, NDArray[np.bool_]] = {}

    def buffer(self, real: bool) -> NDArray[np.float64] | NDArray[np.complex128]:
        """Return zeros for all entries: real numbers, or pairs of numbers as complex ones."""
        return np.zeros(self._nnz) if real else np.zeros(2 * self._nnz, dtype=np.complex128)

    def places(
        self, pattern_q: NDArray[np.int64], norb: int, real: bool
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return where rows of blocks start.

        Parameters
        ----------
        pattern_q : ndarray of int64, shape (n,)
            Positions of the blocks in this pattern; their first atoms have `norb` orbitals.
        norb : int
            Rows of each block.
        real : bool
            Whether an orbital has one row or two.

        Returns
        -------
        places, length : ndarray of int64, shapes (n, norb, 1) and (n, 1, 1)
            Entry of the first column of each (even) row, and the length of a row.
        """
        first = self.first_q[pattern_q]
        length = self._length_i[first]
        copies = 1 if real else 2
        start = copies * self._start_i[first] + self._offset_q[pattern_q]
        places = start[:, None] + copies * np.arange(norb) * length[:, None]
        return places[:, :, None], length[:, None, None]

    def csr(self, real: bool) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return row pointers and global columns of this rank's rows."""
        if real not in self._csr:
            self._csr[real] = self._make_csr(real)
        return self._csr[real]

    def entries(
        self, values: NDArray[np.float64] | NDArray[np.complex128], real: bool
    ) -> NDArray[np.float64]:
        """Return the numbers of a filled `buffer` in the order of `csr`."""
        numbers = values.view(np.float64)
        self.csr(real)
        return numbers[self._kept[real]] if self.upper else numbers

    def _make_csr(self, real: bool) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        rows, copies = self.rows, 1 if real else 2
        norb_q = rows.norb_i[self.second_q]
        columns = np.repeat(rows.first_row_i[self.second_q], norb_q) + ragged_arange(norb_q)
        if copies == 2:
            columns = np.stack([2 * columns, 2 * columns + 1], axis=1).ravel()
        atom_m = np.repeat(rows.owned, copies * rows.norb_i[rows.owned])
        length_m = copies * self._length_i[atom_m]
        # In 32 bits, as MUMPS and PETSc count, since these arrays are as long as the matrix.
        row_start_m = np.cumsum(length_m) - length_m
        moved_m = (copies * self._column_i[atom_m] - row_start_m).astype(np.int32)
        places = np.arange(int(length_m.sum()), dtype=np.int32)
        places += np.repeat(moved_m, length_m)
        indices = columns.astype(np.int32)[places]
        if self.upper:
            own_row = np.arange(copies * rows.start, copies * rows.stop, dtype=np.int32)
            kept = indices >= np.repeat(own_row, length_m)
            row_ends = np.concatenate([[0], np.cumsum(length_m)])
            length_m = np.diff(np.concatenate([[0], np.cumsum(kept)])[row_ends])
            self._kept[real], indices = kept, indices[kept]
        indptr = np.concatenate([[0], np.cumsum(length_m)])
        return indptr.astype(np.int32), indices


@dataclass(frozen=True)
class BlockGroup:
    """Blocks of one shape of one operator, those with the same (i, j) beside each other.

    Parameters
    ----------
    chosen_p : ndarray of int64, shape (P,)
        Pairs of the operator.
    starts : ndarray of int64, shape (Q,)
        Where a new (i, j) begins in `chosen_p`; what lies between are images R.
    pattern_q : ndarray of int64, shape (Q,)
        Positions of these (i, j) in the pattern.
    rows, columns : int
        Shape of the blocks.
    """

    chosen_p: NDArray[np.int64]
    starts: NDArray[np.int64]
    pattern_q: NDArray[np.int64]
    rows: int
    columns: int


def group_blocks(
    operator: BlockOperator, pattern: BlockPattern, kept_p: NDArray[np.bool_]
) -> Iterator[BlockGroup]:
    """Yield the kept blocks of an operator shape by shape with their places in the pattern."""
    key_p = block_keys(pattern.rows, operator)
    if pattern.upper:
        kept_p = kept_p & (key_p // pattern.rows.nrows <= key_p % pattern.rows.nrows)
    position_p = np.searchsorted(pattern.key_q, key_p)
    for every_p, rows, columns in operator.groups():
        chosen_p = every_p[kept_p[every_p]]
        if len(chosen_p) == 0:
            continue
        order = np.argsort(position_p[chosen_p], kind="stable")
        pattern_q, starts = np.unique(position_p[chosen_p][order], return_index=True)
        chosen_p = chosen_p[order]
        # In parts, so that copies of blocks stay small beside the operator.
        step = max(PART // (rows * columns), 1)
        ends = np.concatenate([starts[1:], [len(chosen_p)]])
        for first in range(0, len(starts), step):
            part = slice(first, first + step)
            begin, end = starts[first], ends[part][-1]
            yield BlockGroup(
                chosen_p[begin:end], starts[part] - begin, pattern_q[part], rows, columns
            )


def ragged_arange(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return 0..n-1 for every n of `lengths`, one after the other."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) - np.repeat(ends - lengths, lengths)


def block_keys(rows: OrbitalRows, operator: BlockOperator) -> NDArray[np.int64]:
    """Return first row times number of rows plus first column of each block, shape (P,)."""
    pairs = operator.pairs
    return rows.first_row_i[pairs.first_p] * rows.nrows + rows.first_row_i[pairs.second_p]
