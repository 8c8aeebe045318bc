"""H(k) and S(k) as distributed sparse matrices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.operator import BlockOperator
from hamgnn_solve.parallel.rows import OrbitalRows
from hamgnn_solve.solver.factorisation import Factorisation, SingularMatrixError
from hamgnn_solve.solver.pattern import BlockPattern, group_blocks
from hamgnn_solve.solver.petsc import PETSc

__all__ = ["Pencil", "is_real_point"]

# The network, summing in single precision, leaves about 1e-6 Hartree between H and its adjoint.
LARGEST_ASYMMETRY = 1e-4


def is_real_point(k_c: Sequence[float] | NDArray[np.float64]) -> bool:
    """Tell whether 2k is a reciprocal lattice vector, where every phase is +1 or -1.

    Parameters
    ----------
    k_c : array_like, shape (3,)
        Fractional k.
    """
    twice = 2.0 * np.asarray(k_c, dtype=np.float64)
    return bool(np.abs(twice - np.rint(twice)).max() < 1e-12)


class Pencil:
    """The pencil (H(k), S(k)) of sum_R exp(2 pi i k.R) O(R) as PETSc AIJ matrices.

    At k with 2k a reciprocal lattice vector the matrices are real and have one row an orbital.
    At every other k they are the real symmetric embedding of twice the size, whose orbital m
    takes rows 2m and 2m + 1 and whose entries are the blocks ((Re, -Im), (Im, Re)); each
    eigenvalue then appears exactly twice and LDL^T still counts states. H, S and H - sigma S
    share one pattern, set once for each kind; a new k or sigma only refills values.

    Blocks with an imaginary part (spin-orbit coupling) make H(k) complex at every k, so that all
    matrices are embeddings.

    Parameters
    ----------
    hamiltonian, overlap : BlockOperator
        The blocks whose first atom this rank owns; their pair lists may differ.
    rows : OrbitalRows
        Numbering and distribution of the orbitals.
    comm : mpi4py.MPI.Comm
        The processes that share the matrices; it must be the one `rows` was made for.
    imaginary : BlockOperator, optional
        Imaginary part of H(R), on the pairs of `hamiltonian`.
    electrons_per_band : int
        2 for orbitals without spin, 1 for spinors.

    Raises
    ------
    InputError
        When the blocks are not finite or (i, j, R) and (j, i, -R) are not each other's transpose.
    """

    def __init__(
        self,
        hamiltonian: BlockOperator,
        overlap: BlockOperator,
        rows: OrbitalRows,
        comm: MPI.Comm,
        *,
        imaginary: BlockOperator | None = None,
        electrons_per_band: int = 2,
    ) -> None:
        if comm.Get_size() != rows.size or comm.Get_rank() != rows.rank:
            raise ValueError(f"rows of rank {rows.rank} of {rows.size} on another communicator")
        self.rows = rows
        self.comm = comm
        self.electrons_per_band = electrons_per_band
        self._operators = {"H": hamiltonian, "S": overlap}
        # What multiplies the blocks of each operator beside the phase.
        self._unit: dict[str, complex] = {"H": 1.0, "S": 1.0}
        if imaginary is not None:
            self._operators["Im H"], self._unit["Im H"] = imaginary, 1j
        self._check_blocks()
        self._pattern = BlockPattern(rows, *self._operators.values())
        self._groups = {
            name: list(group_blocks(operator, self._pattern))
            for name, operator in self._operators.items()
        }
        self._matrices: dict[tuple[str, bool], PETSc.Mat] = {}
        self._filled: dict[tuple[str, bool], tuple[float, ...]] = {}
        self._factorisations: dict[bool, Factorisation] = {}
        self._check_symmetry()

    @property
    def norbitals(self) -> int:
        """Number of orbitals in the cell, the number of bands."""
        return self.rows.nrows

    def is_real_at(self, k_c: Sequence[float] | NDArray[np.float64]) -> bool:
        """Tell whether the matrices at k are real rather than the embedding."""
        return is_real_point(k_c) and "Im H" not in self._operators

    def at(self, k_c: Sequence[float] | NDArray[np.float64]) -> tuple[PETSc.Mat, PETSc.Mat]:
        """Return H(k) and S(k), real or embedded. Collective.

        The pencil owns the matrices: the next call for the same kind of k refills them.
        """
        return self._filled_matrix("H", k_c, 1.0, 0.0), self.overlap_at(k_c)

    def overlap_at(self, k_c: Sequence[float] | NDArray[np.float64]) -> PETSc.Mat:
        """Return S(k) alone, real or embedded. Collective."""
        return self._filled_matrix("S", k_c, 0.0, 1.0)

    def factorise(
        self, k_c: Sequence[float] | NDArray[np.float64], sigma: float
    ) -> tuple[Factorisation, int]:
        """Factorise H(k) - sigma S(k); return the factors and the number of states below sigma.

        Collective. The factors live until the next call for the same kind of k.

        Raises
        ------
        SingularMatrixError
            When sigma hits an eigenvalue: a pivot vanishes, or a state of the embedding is not
            counted twice.
        """
        return self._factorise(k_c, 1.0, -sigma)

    def check_overlap(self, k_c: Sequence[float] | NDArray[np.float64]) -> None:
        """Raise `InputError` unless S(k) is positive definite, by its inertia. Collective."""
        try:
            _, negative = self._factorise(k_c, 0.0, 1.0)
        except SingularMatrixError:
            negative = 1
        if negative:
            raise InputError(
                f"The overlap at k = {np.asarray(k_c)} is not positive definite; two atoms are "
                "too close for the basis, or blocks are missing."
            )

    def _factorise(
        self, k_c: Sequence[float] | NDArray[np.float64], factor_h: float, factor_s: float
    ) -> tuple[Factorisation, int]:
        matrix = self._filled_matrix("to factorise", k_c, factor_h, factor_s)
        real = self.is_real_at(k_c)
        if real not in self._factorisations:
            self._factorisations[real] = Factorisation(matrix)
        factorisation = self._factorisations[real]
        negative = factorisation.factor()
        if real:
            return factorisation, negative
        if negative % 2:
            raise SingularMatrixError
        return factorisation, negative // 2

    def _filled_matrix(
        self,
        name: str,
        k_c: Sequence[float] | NDArray[np.float64],
        factor_h: float,
        factor_s: float,
    ) -> PETSc.Mat:
        real = self.is_real_at(k_c)
        key = (name, real)
        state = (*np.asarray(k_c, dtype=np.float64).tolist(), factor_h, factor_s)
        if self._filled.get(key) == state:
            return self._matrices[key]
        indptr, indices = self._pattern.csr(real)
        values = self._pattern.buffer(real)
        for operator in self._operators:
            factor = factor_s if operator == "S" else factor_h
            if factor:
                self._accumulate(operator, factor, k_c, values, real)
        numbers = values if real else values.view(np.float64)
        if key not in self._matrices:
            self._matrices[key] = self._empty_matrix(indptr, indices, real)
        self._matrices[key].setValuesCSR(indptr, indices, numbers)
        self._matrices[key].assemble()
        self._filled[key] = state
        return self._matrices[key]

    def _accumulate(
        self,
        name: str,
        factor: float,
        k_c: Sequence[float] | NDArray[np.float64],
        values: NDArray[np.float64] | NDArray[np.complex128],
        real: bool,
    ) -> None:
        operator = self._operators[name]
        angle_p = 2.0 * np.pi * (operator.pairs.shift_pc @ np.asarray(k_c, dtype=np.float64))
        unit = self._unit[name]
        phase_p = factor * (np.rint(np.cos(angle_p)) if real else unit * np.exp(1j * angle_p))
        for group in self._groups[name]:
            blocks = operator.blocks(group.chosen_p, group.rows, group.columns)
            blocks = blocks * phase_p[group.chosen_p][:, None, None]
            summed = np.add.reduceat(blocks, group.starts, axis=0)
            places, row_length = self._pattern.places(group.pattern_q, group.rows, real)
            places = places + np.arange(group.columns)
            if real:
                values[places] += summed
            else:
                # Row 2m holds (Re, -Im) and row 2m + 1 holds (Im, Re), read as complex numbers.
                values[places] += summed.conj()
                values[places + row_length] += 1j * summed.conj()

    def _empty_matrix(
        self, indptr: NDArray[np.int32], indices: NDArray[np.int32], real: bool
    ) -> PETSc.Mat:
        copies = 1 if real else 2
        local, total = copies * self.rows.nlocal, copies * self.rows.nrows
        matrix = PETSc.Mat().create(self.comm)
        matrix.setSizes(((local, total), (local, total)))
        matrix.setType(PETSc.Mat.Type.AIJ)
        matrix.setPreallocationCSR((indptr, indices, np.zeros(len(indices))))
        matrix.assemble()
        matrix.setOption(PETSc.Mat.Option.SYMMETRIC, True)
        matrix.setOption(PETSc.Mat.Option.SYMMETRY_ETERNAL, True)
        matrix.setOption(PETSc.Mat.Option.NEW_NONZERO_LOCATION_ERR, True)
        return matrix

    def _check_blocks(self) -> None:
        for name, operator in self._operators.items():
            owned = bool((self.rows.owner_i[operator.pairs.first_p] == self.rows.rank).all())
            finite = bool(np.isfinite(operator.values).all())
            if not self.comm.allreduce(owned, op=MPI.LAND):
                raise ValueError(f"a rank holds blocks of {name} whose first atom it does not own")
            if not self.comm.allreduce(finite, op=MPI.LAND):
                raise InputError(
                    f"{name} holds numbers that are not finite; the weights or the structure "
                    "lead outside the range of the model."
                )

    def _check_symmetry(self) -> None:
        for name, matrix in zip(("H", "S"), self.at((0.0, 0.0, 0.0)), strict=True):
            difference = matrix.transpose(PETSc.Mat())
            difference.axpy(-1.0, matrix, structure=PETSc.Mat.Structure.UNKNOWN_NONZERO_PATTERN)
            asymmetry = difference.norm(PETSc.NormType.NORM_INFINITY)
            difference.destroy()
            if asymmetry > LARGEST_ASYMMETRY:
                raise InputError(
                    f"{name} is not Hermitian: rows of {name} and of its adjoint differ by "
                    f"{asymmetry:.2e}; blocks (i, j, R) and (j, i, -R) must be transposes."
                )
