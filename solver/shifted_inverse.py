"""The inverse of H(k) + c S(k), which weighs residuals by the energy they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.linalg
from mpi4py import MPI
from numpy.typing import NDArray

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.operator import BlockOperator, linear_combination, phases
from hamgnn_solve.parallel.block_product import BlockProduct
from hamgnn_solve.solver.pencil import Pencil

__all__ = ["ShiftedInverse"]

# Hartree. Bonds lower the lowest band below the lowest level of a single atom by less than this.
BONDING = 1.0
# Blocks of H or S with no larger entry (Hartree, or of S) are left out of an approximate inverse.
NEGLIGIBLE = 1e-5


class ShiftedInverse:
    """Approximates (H(k) + c S(k))^-1 for a shift c that makes the sum positive definite.

    Conjugate gradients preconditioned by the blocks of single atoms; H + c S is one operator,
    without the tails that would double its products. A residual r of a trial state
    has components along states far above the window; r^+ (H + c S)^-1 r divides each by its energy
    as perturbation theory does, where ||r||^2 overrates those of the highest energy.

    Parameters
    ----------
    pencil : Pencil
        Collective.

    Attributes
    ----------
    shift : float
        c in Hartree.

    Raises
    ------
    InputError
        When an atom lacks its own block.
    """

    def __init__(self, pencil: Pencil) -> None:
        self.pencil = pencil
        h_i, s_i = (_own_blocks(pencil.operators[name]) for name in ("H", "S"))
        lowest, complete = np.inf, h_i.keys() == s_i.keys() == set(pencil.rows.owned.tolist())
        if complete:
            for i, h in h_i.items():
                lowest = min(lowest, float(scipy.linalg.eigh(h, s_i[i], eigvals_only=True)[0]))
        if not pencil.comm.allreduce(complete, op=MPI.LAND):
            raise InputError("An atom has no block of its own in H or S; the matrices are damaged.")
        self.shift = BONDING - pencil.comm.allreduce(lowest, op=MPI.MIN)
        main = [
            pencil.operators[name].select(
                np.flatnonzero(pencil.operators[name].larger_than(NEGLIGIBLE))
            )
            for name in ("H", "S")
        ]
        self._operator = linear_combination((1.0, self.shift), main)
        self._product = BlockProduct(self._operator, pencil.rows, pencil.comm)
        rows = pencil.rows
        by_size: dict[int, list[int]] = {}
        for i in h_i:
            by_size.setdefault(int(rows.norb_i[i]), []).append(i)
        # Rows and inverses of all atoms with the same number of orbitals.
        self._atoms = [
            (
                (rows.first_row_i[atoms] - rows.start)[:, None] + np.arange(size),
                np.linalg.inv(np.stack([h_i[i] + self.shift * s_i[i] for i in atoms])),
            )
            for size, atoms in by_size.items()
        ]

    def by_atoms(self, x_mn: NDArray[Any]) -> NDArray[Any]:
        """Return the inverse of the atoms' own blocks times vectors, shape of `x_mn`."""
        result = np.empty_like(x_mn)
        for rows_im, inverse_imn in self._atoms:
            result[rows_im] = inverse_imn @ x_mn[rows_im]
        return result

    def times(
        self, k_c: Sequence[float] | NDArray[np.float64], x_mn: NDArray[Any], steps: int
    ) -> NDArray[Any]:
        """Return the approximate inverse times vectors, shape (rows of this rank, n). Collective.

        Raises
        ------
        InputError
            When H(k) + c S(k) is not positive definite.
        """
        comm, phase_p = self.pencil.comm, phases(self._operator, k_c)

        def product(left: NDArray[Any], right: NDArray[Any]) -> NDArray[np.float64]:
            return np.asarray(comm.allreduce(np.einsum("mn,mn->n", left.conj(), right).real))

        solution = np.zeros_like(x_mn)
        residual = x_mn.copy()
        divided = self.by_atoms(residual)
        direction = divided.copy()
        size_n = product(residual, divided)
        for _ in range(steps):
            image = self._product.complex(phase_p, direction)
            curvature_n = product(direction, image)
            if (curvature_n < 0.0).any():
                raise InputError(
                    f"H + {self.shift:.2f} S at k = {np.asarray(k_c)} is not positive definite: "
                    "some band lies far below the levels of single atoms; solve every k-point by "
                    "itself with --band-error 0."
                )
            # A column that has converged stays.
            length_n = size_n / np.where(curvature_n > 0.0, curvature_n, np.inf)
            solution += direction * length_n
            residual -= image * length_n
            divided = self.by_atoms(residual)
            before_n, size_n = size_n, product(residual, divided)
            direction *= size_n / np.where(before_n > 0.0, before_n, np.inf)
            direction += divided
        return solution


def _own_blocks(operator: BlockOperator) -> dict[int, NDArray[np.float64]]:
    """Return the block of every atom with itself, by atom."""
    pairs = operator.pairs
    own_p = np.flatnonzero((pairs.first_p == pairs.second_p) & ~pairs.shift_pc.any(axis=1))
    return {int(pairs.first_p[p]): operator.block(int(p)) for p in own_p}
