"""The pencil (H(k), S(k)): products with vectors, and factors of H - sigma S."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.operator import BlockOperator, phases
from hamgnn_solve.parallel.block_product import BlockProduct
from hamgnn_solve.parallel.rows import OrbitalRows
from hamgnn_solve.solver.factorisation import Factorisation, FactorOptions
from hamgnn_solve.solver.lattice_sum import LatticeSum
from hamgnn_solve.solver.pattern import PART
from hamgnn_solve.solver.pencil_factors import Combination, PencilFactors
from hamgnn_solve.solver.petsc import PETSc

__all__ = ["Pencil", "is_real_point"]

# The network, summing in single precision, leaves about 1e-6 Hartree between H and its adjoint.
LARGEST_ASYMMETRY = 1e-4
# Solutions are corrected until their relative error is expected to be smaller.
ACCURACY = 1e-10
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
        # What multiplies the blocks of H beside the phase.
        self.units: dict[str, complex] = {"H": 1.0}
        if imaginary is not None:
            self.operators["Im H"], self.units["Im H"] = imaginary, 1j
        self._check_blocks()
        self._products = {
            name: BlockProduct(operator, rows, comm) for name, operator in self.operators.items()
        }
        self._factors = PencilFactors(self)
        # Directions taken out of the pencil at some k, and what divides along them.
        self._excluded: dict[tuple[float, ...], NDArray[Any]] = {}
        self._constraint: tuple[NDArray[Any], NDArray[Any], NDArray[Any]] | None = None
        self._check_symmetry()

    @property
    def norbitals(self) -> int:
        """Number of orbitals in the cell, the number of bands."""
        return self.rows.nrows

    @property
    def factorisations(self) -> int:
        """How many matrices have been factorised."""
        return self._factors.factorisations

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
        excluded = self._excluded.get(_key(k_c))
        self._constraint = None
        factorisation, count = self._factors.factorise(
            Combination(_key(k_c), 1.0, -sigma),
            counting=counting,
            # Along directions that are almost dependent a matrix is too small for less.
            double=excluded is not None,
        )
        return factorisation, count - (0 if excluded is None else self._constrain(excluded))

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
        self._constraint = None
        matrix = Combination(_key(k_c), 0.0, 1.0, threshold)
        return self._factors.factorise(matrix, double=True)

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

    def solve(self, right_mn: NDArray[Any], accuracy: float = ACCURACY) -> NDArray[Any]:
        """Solve (H - sigma S) X = B with the factors that were made last. Collective.

        Parameters
        ----------
        right_mn : ndarray, shape (rows of this rank, columns)
            Complex ones are solved as two real ones where the matrix is real.
        accuracy : float
            Relative error up to which solutions are corrected.
        """
        solution_mn = self._factors.solve(right_mn, accuracy)
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
            values = whole.entries(k_c, {name: self.units.get(name, 1.0) for name in chosen})
            made.append(
                PETSc.Mat().createAIJ((size, size), csr=(*whole.csr, values), comm=self.comm)
            )
        return made[0], made[1]

    def free_factors(self) -> None:
        """Give the memory of all factors back. Collective."""
        self._factors.free()

    def _times(
        self, name: str, k_c: Sequence[float] | NDArray[np.float64], vectors_mn: NDArray[Any]
    ) -> NDArray[Any]:
        phase_p = phases(self.operators[name], k_c)
        if not phase_p.imag.any() and not np.iscomplexobj(vectors_mn):
            weights = np.ascontiguousarray(phase_p.real[:, None])
            return self._products[name].weighted(weights, vectors_mn)[:, 0]
        return self._products[name].complex(phase_p, vectors_mn)

    def _constrain(self, excluded: NDArray[Any]) -> int:
        """Prepare solutions orthogonal to Q; return how many negative eigenvalues Q had taken.

        The inertia of the bordered matrix ((A, Q), (Q^+, 0)) is that of A plus that of -Q^+ A^-1 Q,
        and that of A in the complement of Q plus one of each sign for each direction (Haynsworth,
        Linear Algebra Appl. 1, 73 (1968)).
        """
        divided = self._factors.divide(excluded)
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


def _key(k_c: Sequence[float] | NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(np.asarray(k_c, dtype=np.float64).tolist())
