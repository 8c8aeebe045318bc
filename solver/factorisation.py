"""Sparse LDL^T factors of a symmetric matrix that changes its values but not its pattern."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.solver.petsc import PETSc

__all__ = ["FactorOptions", "Factorisation", "SingularMatrixError"]

# INFOG(1) of MUMPS (user's guide, section 8): its estimate of the workspace was too small.
WORKSPACE_TOO_SMALL = (-8, -9, -11, -12, -14, -15, -17, -20)
# Memory that was allowed, or that the machine has, is not enough.
ABOVE_BOUND = -19
OUT_OF_MEMORY = (-5, -6, -7, -13)
SINGULAR = -10
LARGEST_WORKSPACE = 800
# ICNTL(7) of MUMPS: nested dissection by Scotch; without Scotch it takes minimum degree.
SCOTCH = 3
# Right-hand sides that are solved at a time.
COLUMNS = 64
MEGABYTE = 1e6


@dataclass(frozen=True)
class FactorOptions:
    """How factors may be made.

    Parameters
    ----------
    memory : float or None
        Bytes that a rank may use for them; None for no bound.
    out_of_core : bool
        Keep the factors on disk from the start.
    compression : float
        Dropping parameter of block low-rank factors; 0 for exact ones.
    announce : callable
        Told in one sentence when memory asks for another way than the usual one.
    """

    memory: float | None = None
    out_of_core: bool = False
    compression: float = 0.0
    announce: Callable[[str], None] = lambda _text: None

    def __post_init__(self) -> None:
        if self.memory is not None and not self.memory > 0.0:
            raise ValueError(f"memory of {self.memory} bytes")
        if not 0.0 <= self.compression < 1.0:
            raise ValueError(f"compression {self.compression} is not in 0..1")


class Factorisation:
    """LDL^T of one PETSc matrix by MUMPS; the analysis is done once and kept.

    Parameters
    ----------
    matrix : PETSc.Mat
        Symmetric matrix, SBAIJ or AIJ. Refill its values and call `factor` again.
    options : FactorOptions
    """

    def __init__(self, matrix: PETSc.Mat, options: FactorOptions | None = None) -> None:
        self.matrix = matrix
        self.options = options or FactorOptions()
        self.workspace = 30
        self.out_of_core = self.options.out_of_core
        self.factorisations = 0
        self.ksp = self._prepared()

    def factor(self) -> int:
        """Factorise the matrix as it stands; return its number of negative eigenvalues.

        Sylvester's law of inertia: the negative pivots of LDL^T, INFOG(12) of MUMPS. Factors that
        exceed the memory are kept on disk, which is announced. Collective.

        Raises
        ------
        SingularMatrixError
            When a pivot vanishes.
        InputError
            When memory runs out.
        """
        while True:
            self.ksp.setOperators(self.matrix)
            self.ksp.setUp()
            factors = self._factors
            status, detail = factors.getMumpsInfog(1), factors.getMumpsInfog(2)
            if status >= 0:
                self.factorisations += 1
                return int(factors.getMumpsInfog(12))
            needed, on_disk = factors.getMumpsInfog(16), factors.getMumpsInfog(26)
            # PETSc never uses factors again that failed once: start with new ones.
            self.ksp.destroy()
            if status in WORKSPACE_TOO_SMALL and self.workspace < LARGEST_WORKSPACE:
                self.workspace *= 2
            elif status == ABOVE_BOUND and not self.out_of_core:
                self.out_of_core = True
                self.options.announce(
                    f"factors need {needed / 1e3:.1f} GB a rank, more than the "
                    f"{(self.options.memory or 0.0) / 1e9:.1f} GB allowed: they are kept on disk "
                    f"({on_disk / 1e3:.1f} GB a rank in memory)"
                )
            elif status != SINGULAR:
                raise InputError(_failure(status, detail, needed))
            self.ksp = self._prepared()
            if status == SINGULAR:
                raise SingularMatrixError

    def solve(self, right_mn: NDArray[np.float64]) -> NDArray[np.float64]:
        """Solve with the last factors for several right-hand sides at once. Collective.

        Parameters
        ----------
        right_mn : ndarray, shape (rows of this rank, columns)

        Returns
        -------
        ndarray of the same shape, in memory column by column
        """
        local, total = self.matrix.getSizes()[0]
        columns = right_mn.shape[1]
        solution_mn = np.empty((local, columns), order="F")
        for first in range(0, columns, COLUMNS):
            width = min(COLUMNS, columns - first)
            shape = ((local, total), (PETSc.DECIDE, width))
            part = np.asfortranarray(right_mn[:, first : first + width])
            comm = self.matrix.getComm()
            right = PETSc.Mat().createDense(shape, array=part, comm=comm)
            solution = PETSc.Mat().createDense(shape, comm=comm)
            solution.setUp()
            for dense in (right, solution):
                dense.assemble()
            self._factors.matSolve(right, solution)
            solution_mn[:, first : first + width] = solution.getDenseArray()
            right.destroy()
            solution.destroy()
        return solution_mn

    @property
    def statistics(self) -> dict[str, float]:
        """Entries of the factors, operations, and megabytes: of the fullest rank, and of all."""
        factors = self._factors
        entries = factors.getMumpsInfog(29)
        return {
            # A negative number counts millions.
            "entries": entries if entries >= 0 else -1e6 * entries,
            "operations": factors.getMumpsRinfog(3),
            "largest_mb": factors.getMumpsInfog(21),
            "total_mb": factors.getMumpsInfog(22),
            "ordering": factors.getMumpsInfog(7),
        }

    def destroy(self) -> None:
        """Free the factors. Collective."""
        self.ksp.destroy()

    @property
    def _factors(self) -> Any:
        return self.ksp.getPC().getFactorMatrix()

    def _prepared(self) -> PETSc.KSP:
        ksp = PETSc.KSP().create(self.matrix.getComm())
        ksp.setOperators(self.matrix)
        ksp.setType(PETSc.KSP.Type.PREONLY)
        pc = ksp.getPC()
        pc.setType(PETSc.PC.Type.CHOLESKY)
        pc.setFactorSolverType("mumps")
        pc.setFactorSetUpSolverType()
        factors = pc.getFactorMatrix()
        factors.setMumpsIcntl(7, SCOTCH)
        # With several ranks the ScaLAPACK root front hides its pivots' signs and the inertia
        # comes out wrong; ICNTL(13) = 1 keeps that front on one process.
        factors.setMumpsIcntl(13, 1)
        factors.setMumpsIcntl(14, self.workspace)
        if self.options.memory is not None:
            factors.setMumpsIcntl(23, max(int(self.options.memory / MEGABYTE), 1))
        if self.out_of_core:
            factors.setMumpsIcntl(22, 1)
        if self.options.compression > 0.0:
            factors.setMumpsIcntl(35, 2)
            factors.setMumpsCntl(7, self.options.compression)
        ksp.setFromOptions()
        return ksp


class SingularMatrixError(Exception):
    """The shift hits an eigenvalue; move it a little."""


def _failure(status: int, detail: int, needed: int) -> str:
    if status in OUT_OF_MEMORY or status == ABOVE_BOUND:
        return (
            f"H - sigma S cannot be factorised: MUMPS needs about {needed / 1e3:.1f} GB a rank "
            f"and does not get it (INFOG(1) = {status}); use more ranks on more machines, "
            "--out-of-core, a larger --memory-per-rank, or a smaller cell."
        )
    if status in WORKSPACE_TOO_SMALL:
        return (
            f"MUMPS's workspace stays too small (INFOG(1) = {status}) although it was raised by "
            f"{LARGEST_WORKSPACE} %: S is probably close to singular; look for atoms too close "
            "to each other."
        )
    return (
        f"MUMPS failed to factorise H - sigma S (INFOG(1) = {status}, INFOG(2) = {detail}); look "
        "the number up in the MUMPS user's guide."
    )
