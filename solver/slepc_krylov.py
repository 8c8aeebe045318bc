"""States nearest to a shift by SLEPc, in place of our own block iterations."""

from __future__ import annotations

from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.solver.krylov import KrylovOptions, Nearest, Product, Solve
from hamgnn_solve.solver.petsc import PETSc, SLEPc

__all__ = ["slepc_states"]

# States beyond those asked for; where one side lacks some, half as many more are asked for.
SPARE = 4


def slepc_states(
    solve: Solve,
    overlap_times: Product,
    start_mn: NDArray[Any],
    comm: MPI.Comm,
    below: int,
    above: int,
    options: KrylovOptions,
    known_mn: NDArray[Any] | None = None,
) -> Nearest:
    """Find the states of A x = t S x whose t is nearest to zero with SLEPc's solvers.

    Krylov-Schur, or what `--petsc "-eps_type ..."` names, on single vectors: several times slower
    than `nearest_states` (bench/RESULTS.md), and independent of it. Complex vectors are pairs of
    real ones, where every state comes twice.

    Parameters, result and errors are those of `nearest_states`; all of SLEPc's options apply.
    """
    real = not np.iscomplexobj(start_mn)
    copies, nlocal = (1 if real else 2), start_mn.shape[0]
    known = np.zeros((nlocal, 0), start_mn.dtype) if known_mn is None else known_mn
    size = copies * (int(comm.allreduce(nlocal)) - known.shape[1])
    wanted = copies * (below + above + SPARE)
    while True:
        wanted = min(wanted, size)
        t_n, vectors = _nearest(solve, overlap_times, start_mn, comm, wanted, options, known, size)
        enough = (t_n < 0.0).sum() >= copies * below and (t_n > 0.0).sum() >= copies * above
        if enough or wanted == size:
            return Nearest(vectors, np.zeros(0), start_mn[:, :0])
        wanted += max(wanted // 2, copies)


def _nearest(
    solve: Solve,
    overlap_times: Product,
    start_mn: NDArray[Any],
    comm: MPI.Comm,
    wanted: int,
    options: KrylovOptions,
    known: NDArray[Any],
    size: int,
) -> tuple[NDArray[np.float64], NDArray[Any]]:
    """Return t and vectors of a number of states."""
    real = not np.iscomplexobj(start_mn)
    shell = _Shell(lambda x: solve(x, options.tolerance), overlap_times, real=real)
    local = start_mn.shape[0] * (1 if shell.real else 2)
    sizes = ((local, PETSc.DETERMINE), (local, PETSc.DETERMINE))
    matrices = [PETSc.Mat().createPython(sizes, shell, comm=comm) for _ in range(2)]
    for matrix in matrices:
        matrix.setUp()
        matrix.setOption(PETSc.Mat.Option.SYMMETRIC, True)
    eps = SLEPc.EPS().create(comm)
    eps.setOperators(*matrices)
    eps.setProblemType(SLEPc.EPS.ProblemType.GHEP)
    eps.setWhichEigenpairs(SLEPc.EPS.Which.TARGET_MAGNITUDE)
    eps.setTarget(0.0)
    eps.setTolerances(options.tolerance, 10 * options.restarts)
    eps.setDimensions(wanted, min(size, max(2 * wanted, wanted + 24)))
    overlap = matrices[1]
    if known.shape[1]:
        every = known if shell.real else np.hstack([known, 1j * known])
        eps.setDeflationSpace([_vector(overlap, shell, x) for x in every.T])
    eps.setInitialSpace([_vector(overlap, shell, start_mn[:, 0])])
    transform = eps.getST()
    transform.setType(SLEPc.ST.Type.SINVERT)
    solver = transform.getKSP()
    solver.setType(PETSc.KSP.Type.PREONLY)
    solver.getPC().setType(PETSc.PC.Type.PYTHON)
    solver.getPC().setPythonContext(shell)
    eps.setFromOptions()
    eps.solve()
    converged = eps.getConverged()
    t_n = np.array([eps.getEigenvalue(n).real for n in range(converged)])
    vector = overlap.createVecRight()
    columns = []
    for n in range(converged):
        eps.getEigenvector(n, vector)
        columns.append(shell.read(vector))
    eps.destroy()
    if converged < wanted:
        raise InputError(
            f"Only {converged} of {wanted} states around the energy converged; ask for fewer "
            'bands, or give --petsc "-eps_ncv N" a larger subspace.'
        )
    return t_n, np.concatenate(columns, axis=1)


class _Shell:
    """S as a matrix and the factors as a preconditioner, for vectors of PETSc."""

    def __init__(self, solve: Product, overlap_times: Product, *, real: bool) -> None:
        self.solve, self.overlap_times, self.real = solve, overlap_times, real

    def mult(self, _matrix: PETSc.Mat, right: PETSc.Vec, result: PETSc.Vec) -> None:
        self.write(self.overlap_times(self.read(right)), result)

    def apply(self, _pc: PETSc.PC, right: PETSc.Vec, solution: PETSc.Vec) -> None:
        self.write(self.solve(self.read(right)), solution)

    def read(self, vector: PETSc.Vec) -> NDArray[Any]:
        """Return a vector as a column, complex where the matrices are."""
        numbers = np.array(vector.getArray(readonly=True))
        return (numbers if self.real else numbers.view(np.complex128))[:, None]

    def write(self, column: NDArray[Any], vector: PETSc.Vec) -> None:
        vector.setArray(np.ascontiguousarray(column[:, 0]).view(np.float64))


def _vector(matrix: PETSc.Mat, shell: _Shell, values_m: NDArray[Any]) -> PETSc.Vec:
    vector = matrix.createVecRight()
    shell.write(values_m[:, None], vector)
    return vector
