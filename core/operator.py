"""Operators as dense blocks on pairs of atoms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hamgnn_solve.core.pairs import PairList

__all__ = ["BlockOperator", "dense_matrix", "lattice_phases", "linear_combination", "phases"]

# Numbers of blocks that are added at a time.
PART = 4_000_000


@dataclass(frozen=True)
class BlockOperator:
    """A real-space operator O(R) held as dense blocks <phi_i | O | phi_j + R> on atom pairs.

    Under MPI each rank holds the pairs whose first atom it owns.

    Parameters
    ----------
    pairs : PairList
        The pairs that carry a block, on-site pairs (i, i, 0) included.
    norb_i : ndarray of int64, shape (N,)
        Number of orbitals of every atom of the structure (not only the owned ones).
    values : ndarray of float64, shape (sum of block sizes,)
        Blocks one after the other in the order of `pairs`; each is row-major,
        norb_i[first] x norb_i[second], in Hartree (or without unit for an overlap).
    """

    pairs: PairList
    norb_i: NDArray[np.int64]
    values: NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.values.shape != (int(self.offset_p[-1]),):
            raise ValueError(
                f"blocks of {len(self.pairs)} pairs hold {int(self.offset_p[-1])} values, "
                f"not {self.values.shape}"
            )

    @classmethod
    def zeros(cls, pairs: PairList, norb_i: NDArray[np.int64]) -> BlockOperator:
        """Return an operator with all blocks zero."""
        size = int((norb_i[pairs.first_p] * norb_i[pairs.second_p]).sum())
        return cls(pairs, norb_i, np.zeros(size))

    @cached_property
    def offset_p(self) -> NDArray[np.int64]:
        """Start of each pair's block in `values`, and the total size last, shape (P + 1,)."""
        sizes = self.norb_i[self.pairs.first_p] * self.norb_i[self.pairs.second_p]
        return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)

    def block(self, p: int) -> NDArray[np.float64]:
        """Return a view of the block of pair p, shape (norb of first, norb of second)."""
        shape = (self.norb_i[self.pairs.first_p[p]], self.norb_i[self.pairs.second_p[p]])
        return self.values[self.offset_p[p] : self.offset_p[p + 1]].reshape(shape)

    def groups(self) -> Iterator[tuple[NDArray[np.int64], int, int]]:
        """Yield (pair indices, rows, columns) for each block shape that occurs."""
        rows_p = self.norb_i[self.pairs.first_p]
        columns_p = self.norb_i[self.pairs.second_p]
        for rows, columns in np.unique(np.stack([rows_p, columns_p], axis=1), axis=0):
            chosen = np.flatnonzero((rows_p == rows) & (columns_p == columns))
            yield chosen, int(rows), int(columns)

    def places(self, chosen_p: NDArray[np.int64], size: int) -> NDArray[np.int64]:
        """Return where the blocks of `chosen_p`, all of `size` values, lie: shape (n, size)."""
        return self.offset_p[chosen_p][:, None] + np.arange(size)[None, :]

    def blocks(self, chosen_p: NDArray[np.int64], rows: int, columns: int) -> NDArray[np.float64]:
        """Return copies of blocks of one shape, shape (n, rows, columns)."""
        values = self.values[self.places(chosen_p, rows * columns)]
        return values.reshape(len(chosen_p), rows, columns)

    def set_blocks(self, chosen_p: NDArray[np.int64], blocks: NDArray[np.float64]) -> None:
        """Write blocks of one shape (n, rows, columns) into the places of `chosen_p`."""
        flat = blocks.reshape(len(chosen_p), -1)
        self.values[self.places(chosen_p, flat.shape[1])] = flat

    def larger_than(self, bound: float) -> NDArray[np.bool_]:
        """Tell which blocks hold an entry larger in magnitude than a bound, shape (P,)."""
        if len(self.pairs) == 0:
            return np.zeros(0, dtype=bool)
        return np.asarray(np.maximum.reduceat(np.abs(self.values), self.offset_p[:-1]) > bound)

    def select(self, kept_p: NDArray[np.int64]) -> BlockOperator:
        """Return the operator of some of the pairs, an index array."""
        sizes = self.offset_p[kept_p + 1] - self.offset_p[kept_p]
        within = np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        values = self.values[np.repeat(self.offset_p[kept_p], sizes) + within]
        return BlockOperator(self.pairs.select(kept_p), self.norb_i, values)

    def plus(self, other: BlockOperator) -> BlockOperator:
        """Return the sum with an operator on the same pairs in the same order.

        Raises
        ------
        ValueError
            When the pairs differ.
        """
        mine, others = self.pairs, other.pairs
        if not (
            np.array_equal(mine.first_p, others.first_p)
            and np.array_equal(mine.second_p, others.second_p)
            and np.array_equal(mine.shift_pc, others.shift_pc)
            and np.array_equal(self.norb_i, other.norb_i)
        ):
            raise ValueError("operators on different pairs cannot be added")
        return BlockOperator(mine, self.norb_i, self.values + other.values)


def linear_combination(
    factors: Sequence[float], operators: Sequence[BlockOperator]
) -> BlockOperator:
    """Return the sum of operators times factors, on the pairs that any of them has.

    Parameters
    ----------
    factors : sequence of float
    operators : sequence of BlockOperator
        Of the same atoms; their pair lists may differ.
    """
    lists = [x.pairs for x in operators]
    keys = [np.column_stack([x.first_p, x.second_p, x.shift_pc]) for x in lists]
    _, first_p, place_p = np.unique(
        np.concatenate(keys), axis=0, return_index=True, return_inverse=True
    )
    vectors_pc = np.concatenate([x.vector_pc for x in lists])[first_p]
    key_p = np.concatenate(keys)[first_p]
    pairs = PairList(key_p[:, 0], key_p[:, 1], key_p[:, 2:], vectors_pc)
    total = BlockOperator.zeros(pairs, operators[0].norb_i)
    ends = np.cumsum([len(x) for x in lists])
    places = np.split(place_p.ravel(), ends[:-1])
    for factor, operator, place in zip(factors, operators, places, strict=True):
        for every_p, rows, columns in operator.groups():
            size = rows * columns
            for chosen_p in np.array_split(every_p, len(every_p) * size // PART + 1):
                # No pair comes twice in one operator.
                total.values[total.places(place[chosen_p], size)] += (
                    factor * operator.values[operator.places(chosen_p, size)]
                )
    return total


def phases(
    operator: BlockOperator, k_c: Sequence[float] | NDArray[np.float64]
) -> NDArray[np.complex128]:
    """Return exp(2 pi i k.R) of every pair of an operator, exact where it is +1 or -1.

    Parameters
    ----------
    operator : BlockOperator
    k_c : array_like, shape (3,)
        Fractional k.

    Returns
    -------
    ndarray of complex128, shape (P,)
    """
    return lattice_phases(operator.pairs.shift_pc, k_c)


def lattice_phases(
    shift_xc: NDArray[np.int64], k_c: Sequence[float] | NDArray[np.float64]
) -> NDArray[np.complex128]:
    """Return exp(2 pi i k.R) of lattice vectors R, shape (X, 3), exact where it is +1 or -1."""
    phase_x = np.exp(2j * np.pi * (shift_xc @ np.asarray(k_c, dtype=np.float64)))
    whole = np.abs(phase_x.imag) < 1e-9
    phase_x[whole] = np.rint(phase_x[whole].real)
    return phase_x


def dense_matrix(
    operator: BlockOperator, k_c: Sequence[float] | NDArray[np.float64]
) -> NDArray[np.complex128]:
    """Return O(k) = sum_R exp(2 pi i k.R) O(R), orbitals in the order of the atoms.

    Parameters
    ----------
    operator : BlockOperator
        All blocks of the operator (one process).
    k_c : array_like, shape (3,)
        Fractional k.

    Returns
    -------
    ndarray of complex128, shape (n, n)
        Hermitian when the blocks are.
    """
    norb_i, pairs = operator.norb_i, operator.pairs
    start_i = np.cumsum(norb_i) - norb_i
    matrix = np.zeros((int(norb_i.sum()),) * 2, dtype=np.complex128)
    phase_p = phases(operator, k_c)
    for chosen, rows, columns in operator.groups():
        row = start_i[pairs.first_p[chosen]][:, None, None] + np.arange(rows)[:, None]
        column = start_i[pairs.second_p[chosen]][:, None, None] + np.arange(columns)
        blocks = operator.blocks(chosen, rows, columns) * phase_p[chosen][:, None, None]
        np.add.at(matrix, (row, column), blocks)
    return matrix
