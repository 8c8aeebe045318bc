"""The pencil (H(k), S(k)): products with vectors, and factors of H - sigma S."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.operator import BlockOperator, phases
from hamgnn_solve.parallel.block_product import BlockProduct
from hamgnn_solve.parallel.rows import OrbitalRows
from hamgnn_solve.solver.factorisation import (
    COARSE,
    DOUBLE,
    Factorisation,
    FactorOptions,
    Precision,
    SingularMatrixError,
)
from hamgnn_solve.solver.lattice_sum import LatticeSum
from hamgnn_solve.solver.pattern import PART
from hamgnn_solve.solver.petsc import PETSc

__all__ = ["Pencil", "is_real_point"]

# The network, summing in single precision, leaves about 1e-6 Hartree between H and its adjoint.
LARGEST_ASYMMETRY = 1e-4
# Solutions are corrected until their relative error is expected to be smaller.
ACCURACY = 1e-10
# Factors whose corrections do not shrink to this part at each step are made anew, more precisely.
CONTRACTION = 0.05
# Vectors on which that is tried, and failures in a row after which a precision is tried no more.
TRIALS = 2
FAILURES = 2
# Where H and its adjoint are compared; no image R is left without a phase of its own.
GENERAL_K = (0.1234, -0.2345, 0.3456)


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
    """The pencil (H(k), S(k)) of sum_R exp(2 pi i k.R) O(R), its rows distributed over ranks.

    Products with vectors come from the blocks themselves. Only H - sigma S becomes a sparse
    matrix, for its LDL^T factors, and there only what matters: the upper triangle, without
    the blocks whose entries are negligible: the tail of an overlap with projectors would
    double the factors. Energies, residuals and the last Rayleigh-Ritz step have all blocks.

    Factors of A = H - sigma S are in single precision where that suffices. With A + E what they are
    of, A + t E = (1 + t E A^-1) A is regular for all t in 0..1 where iterative refinement with them
    converges, so that they count the states of A itself. That is tried on random vectors; where it
    does not converge well they are made anew, more precisely. Solutions are refined with A.

    At k with 2k a reciprocal lattice vector that matrix is real and has one row an orbital.
    At every other k, and at all k where H(R) has an imaginary part, it is the real symmetric
    embedding of twice the size, whose entries are the blocks ((Re, -Im), (Im, Re)); each eigenvalue
    then appears exactly twice and LDL^T still counts states. Vectors are complex all the same.

    Parameters
    ----------
    hamiltonian, overlap : BlockOperator
        The blocks whose first atom this rank owns; their pair lists may differ.
    rows : OrbitalRows
        Numbering and distribution of the orbitals.
    comm : mpi4py.MPI.Comm
        The processes that share the pencil; it must be the one `rows` was made for.
    imaginary : BlockOperator, optional
        Imaginary part of H(R), on the pairs of `hamiltonian`.
    electrons_per_band : int
        2 for orbitals without spin, 1 for spinors.
    factor_options : FactorOptions, optional
        Memory and form of the factors.

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
        comm: MPI.Intracomm,
        *,
        imaginary: BlockOperator | None = None,
        electrons_per_band: int = 2,
        factor_options: FactorOptions | None = None,
    ) -> None:
        if comm.Get_size() != rows.size or comm.Get_rank() != rows.rank:
            raise ValueError(f"rows of rank {rows.rank} of {rows.size} on another communicator")
        self.rows = rows
        self.comm = comm
        self.electrons_per_band = electrons_per_band
        self.factor_options = factor_options or FactorOptions()
        self.operators: dict[str, BlockOperator] = {"H": hamiltonian, "S": overlap}
        # What multiplies the blocks of each operator beside the phase.
        self._unit: dict[str, complex] = {"H": 1.0, "S": 1.0}
        if imaginary is not None:
            self.operators["Im H"], self._unit["Im H"] = imaginary, 1j
        self._check_blocks()
        self._products = {
            name: BlockProduct(operator, rows, comm) for name, operator in self.operators.items()
        }
        # How many matrices have been factorised.
        self.factorisations = 0
        # By whether the matrix is real, and how precisely it is factorised.
        self._sums: dict[tuple[bool, Precision], LatticeSum] = {}
        self._factors: tuple[tuple[bool, Precision], Factorisation] | None = None
        self._failures: dict[Precision, int] = {}
        # What the factors at hand are of, and how many states they counted.
        self._factored: _Factored | None = None
        # Directions taken out of the pencil at some k, and what divides along them.
        self._excluded: dict[tuple[float, ...], NDArray[Any]] = {}
        self._constraint: tuple[NDArray[Any], NDArray[Any], NDArray[Any]] | None = None
        self._check_symmetry()

    @property
    def norbitals(self) -> int:
        """Number of orbitals in the cell, the number of bands."""
        return self.rows.nrows

    def is_real_at(self, k_c: Sequence[float] | NDArray[np.float64]) -> bool:
        """Tell whether H(k) and S(k) are real."""
        return is_real_point(k_c) and "Im H" not in self.operators

    def hamiltonian_times(
        self, k_c: Sequence[float] | NDArray[np.float64], vectors_mn: NDArray[Any]
    ) -> NDArray[Any]:
        """Return H(k) X, shape (rows of this rank, vectors). Collective."""
        product = self._times("H", k_c, vectors_mn)
        if "Im H" in self.operators:
            product = product + 1j * self._times("Im H", k_c, vectors_mn)
        return product

    def overlap_times(
        self, k_c: Sequence[float] | NDArray[np.float64], vectors_mn: NDArray[Any]
    ) -> NDArray[Any]:
        """Return S(k) X, shape (rows of this rank, vectors). Collective."""
        return self._times("S", k_c, vectors_mn)

    def factorise(
        self,
        k_c: Sequence[float] | NDArray[np.float64],
        sigma: float,
        *,
        counting: bool = False,
    ) -> tuple[Factorisation, int]:
        """Factorise H(k) - sigma S(k); return the factors and the number of states below sigma.

        Collective. The factors live until the next call.

        Parameters
        ----------
        k_c : array_like, shape (3,)
            Fractional k.
        sigma : float
            In Hartree.
        counting : bool
            Whether the count is what is wanted: coarser factors come first, with which solutions
            take more refinement.

        Raises
        ------
        SingularMatrixError
            When sigma hits an eigenvalue: a pivot vanishes, or a state of the embedding is not
            counted twice.
        """
        matrix = (_key(k_c), 1.0, -sigma, 0.0)
        constrained = matrix[0] in self._excluded
        precisions = [
            precision
            for precision in self.factor_options.precisions
            if (counting or precision != COARSE) and self._failures.get(precision, 0) < FAILURES
        ]
        # Along directions that are almost dependent a matrix is too small for single precision.
        return self._factorise(matrix, [DOUBLE] if constrained else precisions)

    def factorise_overlap(
        self, k_c: Sequence[float] | NDArray[np.float64], threshold: float = 0.0
    ) -> tuple[Factorisation, int]:
        """Factorise S(k) - threshold; return the factors and the number of eigenvalues below it.

        Collective. The factors live until the next call.

        Raises
        ------
        SingularMatrixError
            When the threshold hits an eigenvalue.
        """
        return self._factorise((_key(k_c), 0.0, 1.0, threshold), [DOUBLE])

    def project_out(
        self, k_c: Sequence[float] | NDArray[np.float64], directions_mn: NDArray[Any]
    ) -> None:
        """Restrict the pencil at k to vectors orthogonal to some. Collective.

        Parameters
        ----------
        directions_mn : ndarray, shape (rows of this rank, directions)
            Orthonormal.
        """
        self._excluded[_key(k_c)] = directions_mn
        self._factored = None

    def without_excluded(
        self, k_c: Sequence[float] | NDArray[np.float64], vectors_mn: NDArray[Any]
    ) -> NDArray[Any]:
        """Return vectors without their part along the directions taken out at k. Collective."""
        excluded = self._excluded.get(_key(k_c))
        if excluded is None:
            return vectors_mn
        return vectors_mn - excluded @ self.comm.allreduce(excluded.conj().T @ vectors_mn)

    def nstates(self, k_c: Sequence[float] | NDArray[np.float64]) -> int:
        """Return the number of bands at k: of orbitals, less the directions taken out."""
        excluded = self._excluded.get(_key(k_c))
        return self.norbitals - (0 if excluded is None else excluded.shape[1])

    def solve(
        self,
        factorisation: Factorisation,
        right_mn: NDArray[Any],
        *,
        real: bool,
        accuracy: float = ACCURACY,
    ) -> NDArray[Any]:
        """Solve (H - sigma S) X = B with factors of `factorise`. Collective.

        Parameters
        ----------
        factorisation : Factorisation
        right_mn : ndarray, shape (rows of this rank, columns)
            Complex where the factors are those of the embedding.
        real : bool
            Whether the factors are those of a real matrix; complex right-hand sides are then
            solved as two real ones.
        accuracy : float
            Relative error up to which solutions of single factors are corrected.
        """
        if self._factored is None:
            raise ValueError("nothing has been factorised")
        solution_mn = _divide(factorisation, right_mn, real=real)
        for _ in range(self._factored.corrections(accuracy)):
            rest_mn = right_mn - self._factored_times(solution_mn)
            solution_mn += _divide(factorisation, rest_mn, real=real)
        if self._constraint is None:
            return solution_mn
        # With Q the excluded directions and Z = A^-1 Q: A^-1 B - Z (Q^+ Z)^-1 Z^+ B.
        excluded, divided, inverse = self._constraint
        part = self.comm.allreduce(divided.conj().T @ right_mn)
        solution_mn = solution_mn - divided @ (inverse @ part)
        # Z is as large as A is small along Q: what rounding leaves there is taken off.
        return np.asarray(
            solution_mn - excluded @ self.comm.allreduce(excluded.conj().T @ solution_mn)
        )

    def matrices(self, k_c: Sequence[float] | NDArray[np.float64]) -> tuple[PETSc.Mat, PETSc.Mat]:
        """Return new AIJ matrices of H(k) and S(k), real or embedded, all blocks. Collective."""
        real = self.is_real_at(k_c)
        copies = 1 if real else 2
        size = (copies * self.rows.nlocal, copies * self.rows.nrows)
        every = {name: np.ones(len(x.pairs), dtype=bool) for name, x in self.operators.items()}
        made = []
        for names in (("H", "Im H"), ("S",)):
            chosen: dict[str, BlockOperator] = {
                name: self.operators[name] for name in names if name in self.operators
            }
            whole = LatticeSum(chosen, every, self.rows, self.comm, real=real, upper=False)
            values = whole.entries(k_c, {name: self._unit[name] for name in chosen})
            made.append(
                PETSc.Mat().createAIJ((size, size), csr=(*whole.csr, values), comm=self.comm)
            )
        return made[0], made[1]

    def free_factors(self) -> None:
        """Give the memory of all factors back. Collective."""
        if self._factors is not None:
            self._factors[1].destroy()
        self._factors, self._factored = None, None

    def _times(
        self, name: str, k_c: Sequence[float] | NDArray[np.float64], vectors_mn: NDArray[Any]
    ) -> NDArray[Any]:
        phase_p = phases(self.operators[name], k_c)
        if not phase_p.imag.any() and not np.iscomplexobj(vectors_mn):
            weights = np.ascontiguousarray(phase_p.real[:, None])
            return self._products[name].weighted(weights, vectors_mn)[:, 0]
        return self._products[name].complex(phase_p, vectors_mn)

    def _factored_times(self, vectors_mn: NDArray[Any]) -> NDArray[Any]:
        """Return the whole matrix whose factors are at hand times vectors."""
        if self._factored is None:
            raise ValueError("nothing has been factorised")
        k_c, factor_h, factor_s, threshold = self._factored.matrix
        product = factor_s * self.overlap_times(k_c, vectors_mn) - threshold * vectors_mn
        if factor_h:
            product += factor_h * self.hamiltonian_times(k_c, vectors_mn)
        return product

    def _factorise(
        self, matrix: _Matrix, precisions: Sequence[Precision]
    ) -> tuple[Factorisation, int]:
        """Factorise in the first of some precisions that suffices, or else in the last."""
        if self._factored is not None and self._factors and self._factored.matrix == matrix:
            return self._factors[1], self._factored.count
        self._factored, self._constraint = None, None
        for precision in precisions[:-1]:
            if self._refinable(matrix, precision):
                break
        else:
            self._factored = _Factored(matrix, self._factors_of(matrix, precisions[-1]))
        if self._factors is None or self._factored is None:
            raise ValueError("factors that were made are gone")
        factorisation, excluded = self._factors[1], self._excluded.get(matrix[0])
        if excluded is not None and matrix[1]:
            real = self.is_real_at(matrix[0])
            taken = self._constrain(factorisation, excluded, real=real)
            self._factored = replace(self._factored, count=self._factored.count - taken)
        return factorisation, self._factored.count

    def _refinable(self, matrix: _Matrix, precision: Precision) -> bool:
        """Factorise a matrix and tell whether refinement of solutions converges well."""
        try:
            count = self._factors_of(matrix, precision)
        except SingularMatrixError:
            return False
        self._factored = _Factored(matrix, count)
        first, second = self._refinement(real=self.is_real_at(matrix[0]))
        if max(first, second) < CONTRACTION:
            self._failures[precision] = 0
            self._factored = _Factored(matrix, count, first, second)
            return True
        self._factored = None
        self._failures[precision] = self._failures.get(precision, 0) + 1
        return False

    def _refinement(self, *, real: bool) -> tuple[float, float]:
        """Return how large the first correction of random solutions is, and the second beside it.

        The larger of a few vectors. Along a direction that changes the count the second is as
        large as the first (Higham, Accuracy and Stability of Numerical Algorithms, section 12.1).
        """
        if self._factors is None:
            raise ValueError("nothing has been factorised")
        factorisation = self._factors[1]
        random = np.random.default_rng([4, self.rows.start])
        right_mn: NDArray[Any] = random.standard_normal((self.rows.nlocal, TRIALS))
        if not real:
            right_mn = right_mn + 1j * random.standard_normal(right_mn.shape)
        solution_mn = _divide(factorisation, right_mn, real=real)
        lengths = [self._lengths(solution_mn)]
        for _ in range(2):
            rest_mn = right_mn - self._factored_times(solution_mn)
            correction_mn = _divide(factorisation, rest_mn, real=real)
            solution_mn = solution_mn + correction_mn
            lengths.append(self._lengths(correction_mn))
        with np.errstate(all="ignore"):
            return float((lengths[1] / lengths[0]).max()), float((lengths[2] / lengths[1]).max())

    def _lengths(self, vectors_mn: NDArray[Any]) -> NDArray[np.float64]:
        squared_n = (np.abs(vectors_mn) ** 2).sum(axis=0)
        return np.sqrt(np.asarray(self.comm.allreduce(squared_n)))

    def _factors_of(self, matrix: _Matrix, precision: Precision) -> int:
        """Factorise a matrix; return how many of its eigenvalues are negative."""
        k_c, factor_h, factor_s, threshold = matrix
        real = self.is_real_at(k_c)
        kind = (real, precision)
        if kind not in self._sums:
            kept = {name: x.larger_than(precision.negligible) for name, x in self.operators.items()}
            self._sums[kind] = LatticeSum(
                self.operators, kept, self.rows, self.comm, real=real, upper=True
            )
        summed = self._sums[kind]
        factors = {name: unit * factor_h for name, unit in self._unit.items()}
        values_n = summed.entries(k_c, {**factors, "S": factor_s})
        # A row of the upper triangle starts on the diagonal.
        values_n[summed.csr[0][:-1]] -= threshold
        if self._factors is not None and self._factors[0] != kind:
            # Factors of two kinds at once would need the memory of both.
            self.free_factors()
        if self._factors is None:
            pattern = summed.symmetric_pattern
            made = Factorisation(pattern, self.comm, self.factor_options, precision)
            self._factors = (kind, made)
        negative = self._factors[1].factor(values_n)
        self.factorisations += 1
        if not real and negative % 2:
            raise SingularMatrixError
        return negative if real else negative // 2

    def _constrain(
        self, factorisation: Factorisation, excluded: NDArray[Any], *, real: bool
    ) -> int:
        """Prepare solutions orthogonal to Q; return how many negative eigenvalues Q had taken.

        The inertia of the bordered matrix ((A, Q), (Q^+, 0)) is that of A plus that of -Q^+ A^-1 Q,
        and that of A in the complement of Q plus one of each sign for each direction (Haynsworth,
        Linear Algebra Appl. 1, 73 (1968)).
        """
        divided = _divide(factorisation, excluded, real=real)
        small = self.comm.allreduce(excluded.conj().T @ divided)
        small = 0.5 * (small + small.conj().T)
        self._constraint = (excluded, divided, np.linalg.inv(small))
        return int((np.linalg.eigvalsh(small) < 0.0).sum())

    def _check_blocks(self) -> None:
        for name, operator in self.operators.items():
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
        for name, operator in self.operators.items():
            asymmetry = self._asymmetry(name, operator)
            if asymmetry > LARGEST_ASYMMETRY:
                raise InputError(
                    f"{name} is not Hermitian: it and its adjoint differ by {asymmetry:.2e} in "
                    "some row; blocks (i, j, R) and (j, i, -R) must be transposes."
                )

    def _asymmetry(self, name: str, operator: BlockOperator) -> float:
        """Return the largest entry of (O - O^dagger) s at some k for a vector s of random signs.

        Every difference between two blocks enters with a random sign, so that none hides.
        """
        rows, pairs = self.rows, operator.pairs
        sign_m = np.random.default_rng(0).choice([-1.0, 1.0], rows.nrows)
        phase_p = phases(operator, GENERAL_K)
        direct_m = self._products[name].complex(phase_p, sign_m[rows.start : rows.stop, None])
        adjoint_m = np.zeros(rows.nrows, dtype=np.complex128)
        for every_p, height, width in operator.groups():
            for chosen_p in np.array_split(every_p, len(every_p) * height * width // PART + 1):
                row = rows.first_row_i[pairs.first_p[chosen_p]][:, None] + np.arange(height)
                column = rows.first_row_i[pairs.second_p[chosen_p]][:, None] + np.arange(width)
                blocks = operator.blocks(chosen_p, height, width)
                sums = np.einsum("pab,pa->pb", blocks, sign_m[row])
                np.add.at(adjoint_m, column, phase_p[chosen_p].conj()[:, None] * sums)
        adjoint_m = self.comm.allreduce(adjoint_m) * (-1.0 if name == "Im H" else 1.0)
        difference = np.abs(direct_m[:, 0] - adjoint_m[rows.start : rows.stop]).max(initial=0.0)
        return float(self.comm.allreduce(difference, op=MPI.MAX))


# k, and the factors of H, S and -1 in what is factorised.
_Matrix = tuple[tuple[float, ...], float, float, float]


@dataclass(frozen=True)
class _Factored:
    """What the factors at hand are of, the states they counted, and how solutions are refined.

    Parameters
    ----------
    matrix : _Matrix
    count : int
    first : float
        Relative length of the first correction; 0 for factors in double precision.
    contraction : float
        Length of each correction beside the one before.
    """

    matrix: _Matrix
    count: int
    first: float = 0.0
    contraction: float = 0.0

    def corrections(self, accuracy: float) -> int:
        """Return how many corrections make a relative error smaller."""
        number, error = 0, self.first
        while error > accuracy:
            number, error = number + 1, error * self.contraction
        return number


def _divide(factorisation: Factorisation, right_mn: NDArray[Any], *, real: bool) -> NDArray[Any]:
    """Solve with factors of a real matrix or of an embedding."""
    if not real:
        columns = np.ascontiguousarray(right_mn.T, dtype=np.complex128)
        solution = factorisation.solve(columns.view(np.float64).T)
        return np.ascontiguousarray(solution.T).view(np.complex128).T
    if not np.iscomplexobj(right_mn):
        return factorisation.solve(right_mn)
    both = factorisation.solve(np.hstack([right_mn.real, right_mn.imag]))
    return np.asarray(both[:, : right_mn.shape[1]] + 1j * both[:, right_mn.shape[1] :])


def _key(k_c: Sequence[float] | NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(np.asarray(k_c, dtype=np.float64).tolist())
