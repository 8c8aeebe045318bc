"""Sums over the lattice of an operator's blocks as the entries of a sparse matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hamgnn_solve.core.operator import BlockOperator, phases
from hamgnn_solve.parallel.rows import OrbitalRows
from hamgnn_solve.solver.factorisation import SymmetricPattern
from hamgnn_solve.solver.multifrontal import dissect
from hamgnn_solve.solver.pattern import BlockPattern, block_keys, group_blocks, ragged_arange

__all__ = ["LatticeSum"]


class LatticeSum:
    """sum_X c_X sum_R exp(2 pi i k.R) X(R) for some operators X on one sparsity pattern.

    The pattern is set once; a new k or new factors c only refill values.

    Parameters
    ----------
    operators : mapping of str to BlockOperator
        The blocks whose first atom this rank owns.
    kept : mapping of str to ndarray of bool, shape (P,)
        Which blocks of each operator take part.
    rows : OrbitalRows
        Numbering and distribution of the orbitals.
    comm : mpi4py.MPI.Comm
        The processes that `rows` was made for.
    real : bool
        Whether the matrix is real, or else the real symmetric embedding of twice the size: orbital
        m takes rows 2m and 2m + 1, the entry a + ib is ((a, -b), (b, a)).
    upper : bool
        Whether only entries on and above the diagonal are kept.
    order_i : ndarray of int64, shape (N,), optional
        Order in which atoms are eliminated, if it is known.
    """

    def __init__(
        self,
        operators: Mapping[str, BlockOperator],
        kept: Mapping[str, NDArray[np.bool_]],
        rows: OrbitalRows,
        comm: MPI.Comm,
        *,
        real: bool,
        upper: bool,
        order_i: NDArray[np.int64] | None = None,
    ) -> None:
        self._known_order_i = order_i
        self.operators, self.rows, self.comm, self.real = operators, rows, comm, real
        keys = [block_keys(rows, x)[kept[name]] for name, x in operators.items()]
        self._pattern = BlockPattern(rows, keys, upper=upper)
        self._groups = {
            name: list(group_blocks(x, self._pattern, kept[name])) for name, x in operators.items()
        }

    def entries(
        self, k_c: Sequence[float] | NDArray[np.float64], factors: Mapping[str, complex]
    ) -> NDArray[np.float64]:
        """Return the entries of this rank's rows for a k and one factor for each operator."""
        values = self._pattern.buffer(self.real)
        for name, factor in factors.items():
            if factor:
                self._accumulate(name, factor * phases(self.operators[name], k_c), values)
        return self._pattern.entries(values, self.real)

    @property
    def csr(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Where each of this rank's rows starts among the entries, and their columns."""
        return self._pattern.csr(self.real)

    @cached_property
    def symmetric_pattern(self) -> SymmetricPattern:
        """The pattern with an order of elimination by nested dissection of the atoms. Collective.

        Raises
        ------
        ValueError
            When the entries below the diagonal are kept too.
        """
        if not self._pattern.upper:
            raise ValueError("a symmetric matrix is factorised from one triangle")
        indptr, columns = self.csr
        copies, rows = 1 if self.real else 2, self.rows
        own = np.arange(copies * rows.start, copies * rows.stop, dtype=np.int32)
        return SymmetricPattern(
            np.repeat(own + np.int32(1), np.diff(indptr)),
            columns + np.int32(1),
            self._places(copies),
            copies * rows.start_r,
        )

    @cached_property
    def order_i(self) -> NDArray[np.int64]:
        """Order in which atoms are eliminated, shape (N,). Collective where it is not known."""
        if self._known_order_i is not None:
            return self._known_order_i
        pattern = self._pattern
        parts = self.comm.gather(np.stack([pattern.first_q, pattern.second_q]))
        found_i = None
        if parts is not None:
            pairs = np.hstack(parts)
            both = np.hstack([pairs, pairs[::-1]])
            found_i = dissect(both[0], both[1], self.rows.norb_i).order_i
        return np.asarray(self.comm.bcast(found_i))

    def _places(self, copies: int) -> NDArray[np.int32]:
        """Return the place of each row in the order of elimination, counted from 1."""
        rows, order_i = self.rows, self.order_i
        norb = copies * rows.norb_i[order_i]
        row = np.repeat(copies * rows.first_row_i[order_i], norb) + ragged_arange(norb)
        place_m = np.empty(len(row), dtype=np.int32)
        place_m[row] = np.arange(1, len(row) + 1)
        return place_m

    def _accumulate(
        self,
        name: str,
        phase_p: NDArray[np.complex128],
        values: NDArray[np.float64] | NDArray[np.complex128],
    ) -> None:
        operator, real = self.operators[name], self.real
        weight_p: NDArray[Any] = phase_p.real if real else phase_p
        for group in self._groups[name]:
            blocks = operator.blocks(group.chosen_p, group.rows, group.columns)
            blocks = blocks * weight_p[group.chosen_p][:, None, None]
            summed = np.add.reduceat(blocks, group.starts, axis=0)
            places, row_length = self._pattern.places(group.pattern_q, group.rows, real)
            places = places + np.arange(group.columns)
            if real:
                values[places] += summed
            else:
                # Row 2m holds (Re, -Im) and row 2m + 1 holds (Im, Re), read as complex numbers.
                values[places] += summed.conj()
                values[places + row_length] += 1j * summed.conj()
