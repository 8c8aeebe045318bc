"""Eigenvectors nearest to a shift: SLEPc's Krylov-Schur on the LDL^T factors."""

from __future__ import annotations

import numpy as np

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.solver.factorisation import Factorisation
from hamgnn_solve.solver.petsc import PETSc, SLEPc

__all__ = ["nearest_eigenvectors"]

RESTARTS = 300


class _Solve:
    """Hands the factors to SLEPc's spectral transformation as a preconditioner."""

    def __init__(self, factorisation: Factorisation) -> None:
        self.factorisation = factorisation

    def apply(self, _pc: PETSc.PC, right: PETSc.Vec, solution: PETSc.Vec) -> None:
        self.factorisation.solve(right, solution)


def nearest_eigenvectors(
    factorisation: Factorisation,
    overlap: PETSc.Mat,
    known: list[PETSc.Vec],
    wanted: int,
    tolerance: float,
    seed: int,
) -> list[PETSc.Vec]:
    """Find the eigenvectors of (H - sigma S) x = t S x whose t is smallest in magnitude.

    Shift-invert Krylov-Schur (Stewart, SIAM J. Matrix Anal. Appl. 23, 601 (2001)) in the inner
    product of S, with the factors that were made for the inertia. Collective.

    Parameters
    ----------
    factorisation : Factorisation
        Of the matrix H - sigma S, real or embedded.
    overlap : PETSc.Mat
        S of the same kind.
    known : list of PETSc.Vec
        Eigenvectors that are not to be found again.
    wanted : int
        How many to find; fewer come back where fewer exist.
    tolerance : float
        Relative tolerance of the transformed problem; energies converge as its square.
    seed : int
        Of the start vector.

    Raises
    ------
    InputError
        When they do not converge.
    """
    size = overlap.getSize()[0] - len(known)
    wanted = min(wanted, size)
    if wanted == 0:
        return []
    eps = SLEPc.EPS().create(overlap.getComm())
    eps.setOperators(factorisation.matrix, overlap)
    eps.setProblemType(SLEPc.EPS.ProblemType.GHEP)
    eps.setWhichEigenpairs(SLEPc.EPS.Which.TARGET_MAGNITUDE)
    eps.setTarget(0.0)
    eps.setTolerances(tolerance, RESTARTS)
    eps.setDimensions(wanted, min(size, max(2 * wanted, wanted + 24)))
    if known:
        eps.setDeflationSpace(known)
    eps.setInitialSpace([_random_vector(overlap, seed)])
    transform = eps.getST()
    transform.setType(SLEPc.ST.Type.SINVERT)
    solver = transform.getKSP()
    solver.setType(PETSc.KSP.Type.PREONLY)
    solver.getPC().setType(PETSc.PC.Type.PYTHON)
    solver.getPC().setPythonContext(_Solve(factorisation))
    eps.setFromOptions()
    eps.solve()
    converged = eps.getConverged()
    vectors = [overlap.createVecRight() for _ in range(converged)]
    for n, vector in enumerate(vectors):
        eps.getEigenvector(n, vector)
    eps.destroy()
    if converged < wanted:
        raise InputError(
            f"Only {converged} of {wanted} states around the energy converged after {RESTARTS} "
            'restarts; ask for fewer bands, or give --petsc "-eps_ncv N" a larger subspace.'
        )
    return vectors


def _random_vector(matrix: PETSc.Mat, seed: int) -> PETSc.Vec:
    vector = matrix.createVecRight()
    start, stop = vector.getOwnershipRange()
    vector.setArray(np.random.default_rng([seed, start]).standard_normal(stop - start))
    return vector
