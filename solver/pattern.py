"""Where the blocks of pairs of atoms fall in a sparse matrix."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hamgnn_solve.core.operator import BlockOperator
from hamgnn_solve.parallel.rows import OrbitalRows

__all__ = ["BlockGroup", "BlockPattern", "group_blocks"]


class BlockPattern:
    """The union of the (i, j) of some operators as the rows of a compressed sparse matrix.

    A row holds the blocks of its atom in ascending order of columns. Entries are counted in
    units of one number at real k and of one (even, odd) pair of numbers in the embedding, where
    row m of an atom becomes the rows 2m and 2m + 1.

    Parameters
    ----------
    rows : OrbitalRows
        Numbering and distribution of the orbitals.
    operators : BlockOperator
        Operators whose blocks must have a place; first atoms belong to this rank.
    """

    def __init__(self, rows: OrbitalRows, *operators: BlockOperator) -> None:
        self.rows = rows
        own = rows.first_row_i[rows.owned]
        # Every diagonal block has a place, so that H - sigma S has no hole there.
        keys = [own * rows.nrows + own, *(_pair_keys(rows, x) for x in operators)]
        self.key_q = np.unique(np.concatenate(keys))
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
        """Return row pointers and global columns of this rank's rows, as PETSc wants them."""
        if real not in self._csr:
            self._csr[real] = self._make_csr(1 if real else 2)
        return self._csr[real]

    def _make_csr(self, copies: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        rows = self.rows
        norb_q = rows.norb_i[self.second_q]
        columns = np.repeat(rows.first_row_i[self.second_q], norb_q) + ragged_arange(norb_q)
        atom_m = np.repeat(rows.owned, copies * rows.norb_i[rows.owned])
        length_m = self._length_i[atom_m]
        entries = np.repeat(self._column_i[atom_m], length_m) + ragged_arange(length_m)
        indices = columns.astype(np.int32)[entries]
        if copies == 2:
            indices = np.stack([2 * indices, 2 * indices + 1], axis=1).ravel()
        indptr = np.concatenate([[0], np.cumsum(copies * length_m)])
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


def group_blocks(operator: BlockOperator, pattern: BlockPattern) -> Iterator[BlockGroup]:
    """Yield the blocks of an operator shape by shape with their places in the pattern."""
    position_p = np.searchsorted(pattern.key_q, _pair_keys(pattern.rows, operator))
    for chosen_p, rows, columns in operator.groups():
        order = np.argsort(position_p[chosen_p], kind="stable")
        pattern_q, starts = np.unique(position_p[chosen_p][order], return_index=True)
        yield BlockGroup(chosen_p[order], starts, pattern_q, rows, columns)


def ragged_arange(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return 0..n-1 for every n of `lengths`, one after the other."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) - np.repeat(ends - lengths, lengths)


def _pair_keys(rows: OrbitalRows, operator: BlockOperator) -> NDArray[np.int64]:
    pairs = operator.pairs
    return rows.first_row_i[pairs.first_p] * rows.nrows + rows.first_row_i[pairs.second_p]
