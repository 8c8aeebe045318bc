"""Sparse LDL^T factors of a symmetric matrix that changes its values but not its pattern."""

from __future__ import annotations

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.solver.petsc import PETSc

__all__ = ["Factorisation", "SingularMatrixError"]

# INFOG(1) of MUMPS (user's guide, section 8): too little workspace, or out of memory.
WORKSPACE_TOO_SMALL = (-8, -9, -11, -12, -14, -15, -17, -19, -20)
OUT_OF_MEMORY = (-5, -6, -7, -13)
SINGULAR = -10
LARGEST_WORKSPACE = 800


class SingularMatrixError(Exception):
    """The shift hits an eigenvalue; move it a little."""


class Factorisation:
    """LDL^T of one PETSc matrix by MUMPS; the analysis is done once and kept.

    Parameters
    ----------
    matrix : PETSc.Mat
        Symmetric AIJ matrix. Refill its values and call `factor` again.
    """

    def __init__(self, matrix: PETSc.Mat) -> None:
        self.matrix = matrix
        self.workspace = 40
        self.ksp = self._analysed()

    def factor(self) -> int:
        """Factorise the matrix as it stands; return its number of negative eigenvalues.

        Sylvester's law of inertia: the negative pivots of LDL^T, INFOG(12) of MUMPS. Collective.

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
            factors = self.ksp.getPC().getFactorMatrix()
            status, detail = factors.getMumpsInfog(1), factors.getMumpsInfog(2)
            if status >= 0:
                return int(factors.getMumpsInfog(12))
            # PETSc never uses factors again that failed once: start with new ones.
            self.ksp.destroy()
            self.workspace *= 2 if status in WORKSPACE_TOO_SMALL else 1
            self.ksp = self._analysed()
            if status == SINGULAR:
                raise SingularMatrixError
            if status not in WORKSPACE_TOO_SMALL or self.workspace > LARGEST_WORKSPACE:
                raise InputError(_failure(status, detail))

    def _analysed(self) -> PETSc.KSP:
        ksp = PETSc.KSP().create(self.matrix.getComm())
        ksp.setOperators(self.matrix)
        ksp.setType(PETSc.KSP.Type.PREONLY)
        pc = ksp.getPC()
        pc.setType(PETSc.PC.Type.CHOLESKY)
        pc.setFactorSolverType("mumps")
        pc.setFactorSetUpSolverType()
        # With several ranks the ScaLAPACK root front hides its pivots' signs and the inertia
        # comes out wrong; ICNTL(13) = 1 keeps that front on one process.
        pc.getFactorMatrix().setMumpsIcntl(13, 1)
        pc.getFactorMatrix().setMumpsIcntl(14, self.workspace)
        ksp.setFromOptions()
        return ksp

    def solve(self, right: PETSc.Vec, solution: PETSc.Vec) -> None:
        """Solve with the last factors. Collective."""
        self.ksp.solve(right, solution)


def _failure(status: int, detail: int) -> str:
    if status in OUT_OF_MEMORY:
        return (
            f"MUMPS ran out of memory while factorising H - sigma S (INFOG(1) = {status}); use "
            'more nodes, or --petsc "-mat_mumps_icntl_35 2 -mat_mumps_cntl_7 1e-10" for '
            "compressed factors."
        )
    return (
        f"MUMPS failed to factorise H - sigma S (INFOG(1) = {status}, INFOG(2) = {detail}); look "
        "the number up in the MUMPS user's guide."
    )
