"""Factors of a pencil's matrices, made in the coarsest precision that suffices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hamgnn_solve.solver.factorisation import (
    COARSE,
    DOUBLE,
    Factorisation,
    Precision,
    SingularMatrixError,
)
from hamgnn_solve.solver.lattice_sum import LatticeSum

if TYPE_CHECKING:
    from hamgnn_solve.solver.pencil import Pencil

__all__ = ["Combination", "PencilFactors"]

# Vectors on which refinement is tried: eight cost little more than one.
TRIALS = 8
# Failures in a row after which a precision is tried no more.
FAILURES = 2


@dataclass(frozen=True)
class Combination:
    """The matrix factor_h H(k) + factor_s S(k) - threshold.

    Parameters
    ----------
    k_c : tuple of float
        Fractional k.
    factor_h, factor_s : float
    threshold : float
    """

    k_c: tuple[float, ...]
    factor_h: float
    factor_s: float
    threshold: float = 0.0


class PencilFactors:
    """LDL^T factors of one combination of H(k) and S(k) at a time.

    Factors of A = H - sigma S are in single precision where that suffices. With A + E what they are
    of, A + t E = (1 + t E A^-1) A is regular for all t in 0..1 where iterative refinement with them
    converges, so that they count the negative eigenvalues of A itself. That is tried on random
    vectors; where it does not converge well they are made anew, more precisely.

    Parameters
    ----------
    pencil : Pencil
        Its blocks and products. Collective.

    Attributes
    ----------
    factorisations : int
        How many matrices have been factorised.
    """

    def __init__(self, pencil: Pencil) -> None:
        self.pencil = pencil
        self.factorisations = 0
        self._failures: dict[Precision, int] = {}
        # By whether the matrix is real, and how precisely it is factorised.
        self._sums: dict[tuple[bool, Precision], LatticeSum] = {}
        self._kind: tuple[bool, Precision] | None = None
        self._factorisation: Factorisation | None = None
        self._factored: _Factored | None = None

    def factorise(
        self, matrix: Combination, *, counting: bool = False, double: bool = False
    ) -> tuple[Factorisation, int]:
        """Factorise a matrix; return the factors and how many of its eigenvalues are negative.

        Half as many in the embedding, where each comes twice.

        Parameters
        ----------
        matrix : Combination
        counting : bool
            Whether the count is what is wanted, for which coarser factors come first.
        double : bool
            Whether nothing but double precision will do.

        Raises
        ------
        SingularMatrixError
            When a pivot vanishes, or an eigenvalue of the embedding is not counted twice.
        """
        precisions = [DOUBLE] if double else self._precisions(counting)
        if not self._at_hand(matrix, precisions):
            self._factored = None
            if not any(self._refinable(matrix, precision) for precision in precisions[:-1]):
                self._factored = _Factored(matrix, self._factors_of(matrix, precisions[-1]))
        assert self._factorisation is not None
        assert self._factored is not None
        return self._factorisation, self._factored.count

    def solve(self, right_mn: NDArray[Any], accuracy: float) -> NDArray[Any]:
        """Solve with the last factors, corrected up to a relative error. Collective."""
        if self._factored is None:
            raise ValueError("nothing has been factorised")
        solution_mn = self.divide(right_mn)
        for _ in range(self._factored.corrections(accuracy)):
            solution_mn += self.divide(right_mn - self._times(self._factored.matrix, solution_mn))
        return solution_mn

    def divide(self, right_mn: NDArray[Any]) -> NDArray[Any]:
        """Solve with the last factors as they are. Collective."""
        if self._factorisation is None or self._kind is None:
            raise ValueError("nothing has been factorised")
        solve = self._factorisation.solve
        if not self._kind[0]:
            columns = np.ascontiguousarray(right_mn.T, dtype=np.complex128)
            solution = solve(columns.view(np.float64).T)
            return np.ascontiguousarray(solution.T).view(np.complex128).T
        if not np.iscomplexobj(right_mn):
            return solve(right_mn)
        both = solve(np.hstack([right_mn.real, right_mn.imag]))
        return np.asarray(both[:, : right_mn.shape[1]] + 1j * both[:, right_mn.shape[1] :])

    def free(self) -> None:
        """Give the memory of the factors back. Collective."""
        if self._factorisation is not None:
            self._factorisation.destroy()
        self._factorisation, self._kind, self._factored = None, None, None

    def _at_hand(self, matrix: Combination, precisions: Sequence[Precision]) -> bool:
        """Tell whether factors of a matrix in one of some precisions were made last."""
        kept = self._factored is not None and self._factored.matrix == matrix
        return kept and self._kind is not None and self._kind[1] in precisions

    def _precisions(self, counting: bool) -> Sequence[Precision]:
        return [
            precision
            for precision in self.pencil.factor_options.precisions
            if (counting or precision != COARSE) and self._failures.get(precision, 0) < FAILURES
        ]

    def _times(self, matrix: Combination, vectors_mn: NDArray[Any]) -> NDArray[Any]:
        """Return a matrix with all its blocks times vectors."""
        pencil, k_c = self.pencil, matrix.k_c
        product = matrix.factor_s * pencil.overlap_times(k_c, vectors_mn)
        if matrix.threshold:
            product -= matrix.threshold * vectors_mn
        if matrix.factor_h:
            product += matrix.factor_h * pencil.hamiltonian_times(k_c, vectors_mn)
        return product

    def _refinable(self, matrix: Combination, precision: Precision) -> bool:
        """Factorise a matrix and tell whether refinement of solutions converges well."""
        try:
            count = self._factors_of(matrix, precision)
        except SingularMatrixError:
            return False
        first, second = self._refinement(matrix)
        if first < precision.contraction and second < precision.contraction:
            self._failures[precision] = 0
            self._factored = _Factored(matrix, count, first, second)
            return True
        self._failures[precision] = self._failures.get(precision, 0) + 1
        if self._failures[precision] == FAILURES:
            self.pencil.factor_options.announce(
                f"factors in single precision without blocks below {precision.negligible:.0e} are "
                f"too coarse (corrections shrink to {max(first, second):.1e}): more precise ones "
                "are made from now on"
            )
        return False

    def _refinement(self, matrix: Combination) -> tuple[float, float]:
        """Return how large the first correction of random solutions is, and the second beside it.

        The larger of a few vectors. Along a direction that changes the count the second is as
        large as the first (Higham, Accuracy and Stability of Numerical Algorithms, section 12.1).
        """
        rows = self.pencil.rows
        random = np.random.default_rng([4, rows.start])
        right_mn: NDArray[Any] = random.standard_normal((rows.nlocal, TRIALS))
        if not self.pencil.is_real_at(matrix.k_c):
            right_mn = right_mn + 1j * random.standard_normal(right_mn.shape)
        solution_mn = self.divide(right_mn)
        lengths = [self._lengths(solution_mn)]
        for _ in range(2):
            correction_mn = self.divide(right_mn - self._times(matrix, solution_mn))
            solution_mn = solution_mn + correction_mn
            lengths.append(self._lengths(correction_mn))
        with np.errstate(all="ignore"):
            first, second = (lengths[1] / lengths[0]).max(), (lengths[2] / lengths[1]).max()
        # One rank decides, so that rounding cannot make two ranks go on differently.
        told: tuple[float, float] = self.pencil.comm.bcast((float(first), float(second)))
        return told

    def _lengths(self, vectors_mn: NDArray[Any]) -> NDArray[np.float64]:
        squared_n = (np.abs(vectors_mn) ** 2).sum(axis=0)
        return np.sqrt(np.asarray(self.pencil.comm.allreduce(squared_n)))

    def _factors_of(self, matrix: Combination, precision: Precision) -> int:
        """Factorise a matrix in one precision; return how many eigenvalues are negative."""
        pencil, real = self.pencil, self.pencil.is_real_at(matrix.k_c)
        kind = (real, precision)
        if kind not in self._sums:
            kept = {
                name: x.larger_than(precision.negligible) for name, x in pencil.operators.items()
            }
            # The order of a sparser pattern would double what is filled in.
            same = self._sums.get((not real, precision))
            self._sums[kind] = LatticeSum(
                pencil.operators,
                kept,
                pencil.rows,
                pencil.comm,
                real=real,
                upper=True,
                order_i=None if same is None else same.order_i,
            )
        summed = self._sums[kind]
        factors = {name: unit * matrix.factor_h for name, unit in pencil.units.items()}
        values_n = summed.entries(matrix.k_c, {**factors, "S": matrix.factor_s})
        # A row of the upper triangle starts on the diagonal.
        values_n[summed.csr[0][:-1]] -= matrix.threshold
        if self._kind != kind:
            # Factors of two kinds at once would need the memory of both.
            self.free()
            self._kind = kind
            self._factorisation = Factorisation(
                summed.symmetric_pattern, pencil.comm, pencil.factor_options, precision
            )
        assert self._factorisation is not None
        negative = self._factorisation.factor(values_n)
        self.factorisations += 1
        if not real and negative % 2:
            raise SingularMatrixError
        return negative if real else negative // 2


@dataclass(frozen=True)
class _Factored:
    """What the factors at hand are of, what they counted, and how solutions are refined.

    Parameters
    ----------
    matrix : Combination
    count : int
        Negative eigenvalues.
    first : float
        Relative length of the first correction; 0 where none is needed.
    contraction : float
        Length of each correction beside the one before.
    """

    matrix: Combination
    count: int
    first: float = 0.0
    contraction: float = 0.0

    def corrections(self, accuracy: float) -> int:
        """Return how many corrections make a relative error smaller."""
        number, error = 0, self.first
        while error > accuracy:
            number, error = number + 1, error * self.contraction
        return number
