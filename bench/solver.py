"""States around an energy by our solver and by others, side by side.

python bench/solver.py FILE.h5 --sigma E [--peers NAME ...] [--bands N] [--k K K K]

FILE.h5 is what `hamgnn-solve --write-matrices` leaves. Every peer gets the same H and S, runs in a
process of its own so that its peak memory is its own, and must find the same energies.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.linalg
import scipy.sparse
import scipy.sparse.linalg
from mpi4py import MPI
from numpy.typing import NDArray

from hamgnn_solve.core.hamiltonian import CrystalHamiltonian
from hamgnn_solve.core.io.operator_file import read_operator_file
from hamgnn_solve.core.operator import dense_matrix
from hamgnn_solve.parallel.rows import OrbitalRows
from hamgnn_solve.solver.dense import dense_bands
from hamgnn_solve.solver.eigenpairs import (
    eigenpairs_between,
    eigenpairs_near,
    states_around,
)
from hamgnn_solve.solver.factorisation import DOUBLE, FactorOptions
from hamgnn_solve.solver.groups import pencil_groups
from hamgnn_solve.solver.krylov import KrylovOptions
from hamgnn_solve.solver.pencil import Pencil, is_real_point
from hamgnn_solve.solver.slices import sliced_bands

GAMMA = (0.0, 0.0, 0.0)
WIDER = 1e-4
Sparse = scipy.sparse.csc_matrix


@dataclass(frozen=True)
class Task:
    """What a peer has to solve: `side` states below and above sigma (Hartree) at k."""

    given: CrystalHamiltonian
    sigma: float
    side: int
    k_c: tuple[float, float, float]
    known_n: NDArray[np.float64] | None


def pencil_of(
    given: CrystalHamiltonian,
    factor_options: FactorOptions | None = None,
) -> Pencil:
    """Return the pencil on one process."""
    rows = OrbitalRows(np.zeros(given.system.structure.natoms, np.int64), given.system.norb_i)
    return Pencil(
        given.hamiltonian,
        given.overlap,
        rows,
        MPI.COMM_SELF,
        factor_options=factor_options,
    )


def sparse_of(given: CrystalHamiltonian) -> tuple[Sparse, Sparse]:
    """Return H and S at Gamma."""
    matrices = []
    for matrix in pencil_of(given).matrices(GAMMA):
        indptr, indices, values = matrix.getValuesCSR()
        size = matrix.getSize()
        matrices.append(scipy.sparse.csr_matrix((values, indices, indptr), size).tocsc())
        matrix.destroy()
    return matrices[0], matrices[1]


def ours(task: Task, *, slepc: bool = False) -> NDArray[np.float64]:
    """Solve from one shift, certified by counts beyond both ends."""
    options = KrylovOptions(slepc=slepc)
    factors = FactorOptions(precisions=(DOUBLE,)) if slepc else FactorOptions()
    return eigenpairs_near(
        pencil_of(task.given, factors), task.k_c, task.sigma, task.side, task.side, options=options
    ).energies_n


def uncounted(task: Task) -> NDArray[np.float64]:
    """Solve from one shift alone, as the peers do: the count at the shift numbers the bands."""
    pencil = pencil_of(task.given)
    return states_around(pencil, task.k_c, task.sigma, task.side, task.side).energies_n


def window(task: Task) -> NDArray[np.float64]:
    """Solve from both ends of the window, known from another k-point say, certified."""
    if task.known_n is None:
        raise ValueError("the window is that of an earlier peer")
    pencil, known = pencil_of(task.given), task.known_n
    filled = filled_bands(task.given)
    return eigenpairs_between(
        pencil,
        task.k_c,
        known[0] - WIDER,
        known[-1] + WIDER,
        (filled - task.side + 1, filled + task.side),
        filled,
    ).energies_n


def filled_bands(given: CrystalHamiltonian) -> int:
    """Return how many bands the electrons fill."""
    return round((given.system.electrons or 0.0) / given.system.electrons_per_band)


def sliced(task: Task) -> NDArray[np.float64]:
    """Solve by spectrum slicing."""
    pencil = pencil_of(task.given)
    filled = filled_bands(task.given)
    group = pencil_groups(pencil, 1)
    first, last = filled - task.side + 1, filled + task.side
    return sliced_bands(group, task.k_c, task.sigma, first, last).energies_n


def superlu(task: Task) -> NDArray[np.float64]:
    """Solve by scipy's eigsh with SuperLU."""
    h, s = sparse_of(task.given)
    factors = scipy.sparse.linalg.splu(
        (h - task.sigma * s).tocsc(),
        permc_spec="MMD_AT_PLUS_A",
        options={"SymmetricMode": True},
        diag_pivot_thresh=0.01,
    )
    return _eigsh(h, s, task, factors.solve)


def pardiso(task: Task) -> NDArray[np.float64]:
    """Solve by scipy's eigsh with PARDISO's LDL^T of a symmetric indefinite matrix."""
    from pypardiso import PyPardisoSolver

    h, s = sparse_of(task.given)
    solver = PyPardisoSolver(mtype=-2)
    upper = scipy.sparse.triu(h - task.sigma * s, format="csr")
    solver.factorize(upper)
    return _eigsh(h, s, task, lambda x: solver.solve(upper, x))


def lapack(task: Task) -> NDArray[np.float64]:
    """Solve densely for all eigenvalues."""
    h, s = (dense_matrix(x, task.k_c) for x in (task.given.hamiltonian, task.given.overlap))
    if is_real_point(task.k_c):
        h, s = h.real, s.real
    energies_n = scipy.linalg.eigh(h, s, eigvals_only=True)
    split = int((energies_n < task.sigma).sum())
    return energies_n[split - task.side : split + task.side]


def small(task: Task) -> NDArray[np.float64]:
    """Solve densely for the wanted bands and their vectors, as cells of few orbitals are."""
    h, s = (dense_matrix(x, task.k_c) for x in (task.given.hamiltonian, task.given.overlap))
    filled = filled_bands(task.given)
    return dense_bands(h, s, filled - task.side + 1, filled + task.side, task.k_c)[0]


def _eigsh(
    h: Sparse,
    s: Sparse,
    task: Task,
    solve: Callable[[NDArray[np.float64]], NDArray[np.float64]],
) -> NDArray[np.float64]:
    """Return the nearest states, more of them until both sides are complete."""
    inverse = scipy.sparse.linalg.LinearOperator(h.shape, solve, dtype=np.float64)
    number = 2 * task.side + 4
    while True:
        energies_n = np.sort(
            scipy.sparse.linalg.eigsh(h, number, s, task.sigma, OPinv=inverse, tol=1e-10)[0]
        )
        split = int((energies_n < task.sigma).sum())
        if split >= task.side and number - split >= task.side:
            return energies_n[split - task.side : split + task.side]
        number += task.side


# Those of Gamma alone know no other k.
PEERS: dict[str, Callable[[Task], NDArray[np.float64]]] = {
    "ours": ours,
    "uncounted": uncounted,
    "window": window,
    "sliced": sliced,
    "slepc": lambda task: ours(task, slepc=True),
    "superlu": superlu,
    "pardiso": pardiso,
    "lapack": lapack,
    "small": small,
}
GAMMA_ALONE = ("superlu", "pardiso")


def run_peer(options: argparse.Namespace) -> None:
    """Run one peer in this process and print what it took."""
    given = read_operator_file(options.file)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    known = None if options.known is None else np.load(options.known)
    k_c = (options.k[0], options.k[1], options.k[2])
    energies_n = PEERS[options.peer](Task(given, options.sigma, options.bands // 2, k_c, known))
    seconds = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        json.dumps(
            {
                "cpu": seconds,
                "peak_mb": peak / 1024,
                "before_mb": before / 1024,
                "energies": energies_n.tolist(),
            }
        )
    )


def main() -> None:
    """Run the peers one after the other and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file")
    parser.add_argument("--sigma", type=float, required=True, help="energy in Hartree")
    parser.add_argument("--bands", type=int, default=40)
    parser.add_argument("--k", type=float, nargs=3, default=list(GAMMA))
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--limit", type=float, default=1200.0, help="seconds for a peer")
    parser.add_argument("--peer", choices=PEERS, help=argparse.SUPPRESS)
    parser.add_argument("--known", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        run_peer(options)
        return
    for peer in set(options.peers) & set(GAMMA_ALONE):
        if any(options.k):
            parser.error(f"{peer} is run at Gamma alone")
    reference: NDArray[np.float64] | None = None
    known = Path(tempfile.mkdtemp()) / "known.npy"
    print("| solver | CPU s | CPU s a pair | peak MB | of these H and S | largest difference, Ha |")
    print("|---|---|---|---|---|---|", flush=True)
    for peer in options.peers:
        command = [sys.executable, __file__, options.file, "--sigma", str(options.sigma)]
        command += ["--bands", str(options.bands), "--peer", peer, "--k", *map(str, options.k)]
        if reference is not None:
            command += ["--known", str(known)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=options.limit, check=False
            )
        except subprocess.TimeoutExpired:
            print(f"| {peer} | no result in {options.limit:.0f} s | | | | |", flush=True)
            continue
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["no message"])[-1]
            print(f"| {peer} | failed: {said[:80]} | | | | |", flush=True)
            continue
        told = json.loads(done.stdout.splitlines()[-1])
        energies_n = np.array(told["energies"])
        if reference is None:
            reference = energies_n
            np.save(known, energies_n)
        same = len(energies_n) == len(reference)
        difference = np.abs(energies_n - reference).max() if same else np.nan
        print(
            f"| {peer} | {told['cpu']:.1f} | {told['cpu'] / options.bands:.3f} | "
            f"{told['peak_mb']:.0f} | {told['before_mb']:.0f} | {difference:.1e} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
