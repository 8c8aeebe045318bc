"""Sums over the lattice of an operator's blocks as a sparse PETSc matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hamgnn_solve.core.operator import BlockOperator, phases
from hamgnn_solve.parallel.rows import OrbitalRows
from hamgnn_solve.solver.pattern import BlockPattern, block_keys, group_blocks
from hamgnn_solve.solver.petsc import PETSc

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
        Whether to store a symmetric matrix by its upper triangle (SBAIJ) or whole (AIJ).
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
    ) -> None:
        self.operators, self.rows, self.real = operators, rows, real
        keys = [block_keys(rows, x)[kept[name]] for name, x in operators.items()]
        self._pattern = BlockPattern(rows, keys, upper=upper)
        self._groups = {
            name: list(group_blocks(x, self._pattern, kept[name])) for name, x in operators.items()
        }
        self.matrix = self._empty_matrix(comm)

    def fill(
        self, k_c: Sequence[float] | NDArray[np.float64], factors: Mapping[str, complex]
    ) -> PETSc.Mat:
        """Refill the matrix for a k and one factor for each operator; returns it. Collective."""
        values = self._pattern.buffer(self.real)
        for name, factor in factors.items():
            if factor:
                self._accumulate(name, factor * phases(self.operators[name], k_c), values)
        indptr, indices = self._pattern.csr(self.real)
        numbers = self._pattern.entries(values, self.real)
        self.matrix.setValuesCSR(indptr, indices, numbers)
        self.matrix.assemble()
        return self.matrix

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

    def _empty_matrix(self, comm: MPI.Comm) -> PETSc.Mat:
        indptr, indices = self._pattern.csr(self.real)
        copies = 1 if self.real else 2
        local, total = copies * self.rows.nlocal, copies * self.rows.nrows
        upper = self._pattern.upper
        matrix = PETSc.Mat().create(comm)
        matrix.setSizes(((local, total), (local, total)))
        matrix.setType(PETSc.Mat.Type.SBAIJ if upper else PETSc.Mat.Type.AIJ)
        matrix.setPreallocationCSR((indptr, indices, np.zeros(len(indices))))
        matrix.assemble()
        matrix.setOption(PETSc.Mat.Option.SYMMETRIC, True)
        matrix.setOption(PETSc.Mat.Option.SYMMETRY_ETERNAL, True)
        matrix.setOption(PETSc.Mat.Option.NEW_NONZERO_LOCATION_ERR, True)
        return matrix
