"""States around an energy at Gamma by our solver and by others, side by side.

python bench/solver.py FILE.h5 --sigma E [--peers ours window slepc superlu pardiso lapack]

FILE.h5 is what `hamgnn-solve --write-matrices` leaves. Every peer gets the same H and S, runs in a
process of its own so that its peak memory is its own, and must find the same energies.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import scipy.linalg
import scipy.sparse
import scipy.sparse.linalg
from mpi4py import MPI
from numpy.typing import NDArray

from hamgnn_solve.core.hamiltonian import CrystalHamiltonian
from hamgnn_solve.core.io.operator_file import read_operator_file
from hamgnn_solve.parallel.rows import OrbitalRows
from hamgnn_solve.solver.eigenpairs import (
    eigenpairs_between,
    eigenpairs_near,
    states_around,
)
from hamgnn_solve.solver.krylov import KrylovOptions
from hamgnn_solve.solver.pencil import Pencil

GAMMA = (0.0, 0.0, 0.0)
WIDER = 1e-4
Sparse = scipy.sparse.csc_matrix


def pencil_of(given: CrystalHamiltonian) -> Pencil:
    """Return the pencil on one process."""
    rows = OrbitalRows(np.zeros(given.system.structure.natoms, np.int64), given.system.norb_i)
    return Pencil(given.hamiltonian, given.overlap, rows, MPI.COMM_SELF)


def sparse_of(given: CrystalHamiltonian) -> tuple[Sparse, Sparse]:
    """Return H and S at Gamma."""
    matrices = []
    for matrix in pencil_of(given).matrices(GAMMA):
        indptr, indices, values = matrix.getValuesCSR()
        size = matrix.getSize()
        matrices.append(scipy.sparse.csr_matrix((values, indices, indptr), size).tocsc())
        matrix.destroy()
    return matrices[0], matrices[1]


def ours(given: CrystalHamiltonian, sigma: float, side: int, *, slepc: bool) -> NDArray[np.float64]:
    """Solve from one shift, certified by counts beyond both ends."""
    pencil = pencil_of(given)
    return eigenpairs_near(
        pencil, GAMMA, sigma, side, side, options=KrylovOptions(slepc=slepc)
    ).energies_n


def uncounted(given: CrystalHamiltonian, sigma: float, side: int) -> NDArray[np.float64]:
    """Solve from one shift alone, as the peers do: the count at the shift numbers the bands."""
    return states_around(pencil_of(given), GAMMA, sigma, side, side)[2]


def window(given: CrystalHamiltonian, _sigma: float, _side: int) -> NDArray[np.float64]:
    """Solve from both ends of the window, known from another k-point say, certified."""
    known = np.load(sys.argv[sys.argv.index("--known") + 1])
    pencil = pencil_of(given)
    found = eigenpairs_between(
        pencil,
        GAMMA,
        known[0] - WIDER,
        known[-1] + WIDER,
        middle_band=round((given.system.electrons or 0.0) / pencil.electrons_per_band),
    ).energies_n
    # The window is a little wider than the bands and may hold more.
    return found[(found > known[0] - 1e-8) & (found < known[-1] + 1e-8)]


def superlu(given: CrystalHamiltonian, sigma: float, side: int) -> NDArray[np.float64]:
    """Solve by scipy's eigsh with SuperLU."""
    h, s = sparse_of(given)
    factors = scipy.sparse.linalg.splu(
        (h - sigma * s).tocsc(),
        permc_spec="MMD_AT_PLUS_A",
        options={"SymmetricMode": True},
        diag_pivot_thresh=0.01,
    )
    return _eigsh(h, s, sigma, side, factors.solve)


def pardiso(given: CrystalHamiltonian, sigma: float, side: int) -> NDArray[np.float64]:
    """Solve by scipy's eigsh with PARDISO's LDL^T of a symmetric indefinite matrix."""
    from pypardiso import PyPardisoSolver

    h, s = sparse_of(given)
    solver = PyPardisoSolver(mtype=-2)
    upper = scipy.sparse.triu(h - sigma * s, format="csr")
    solver.factorize(upper)
    return _eigsh(h, s, sigma, side, lambda x: solver.solve(upper, x))


def lapack(given: CrystalHamiltonian, sigma: float, side: int) -> NDArray[np.float64]:
    """Solve densely for all eigenvalues."""
    h, s = (x.toarray() for x in sparse_of(given))
    energies_n = scipy.linalg.eigh(h, s, eigvals_only=True, overwrite_a=True, overwrite_b=True)
    split = int((energies_n < sigma).sum())
    return energies_n[split - side : split + side]


def _eigsh(
    h: Sparse,
    s: Sparse,
    sigma: float,
    side: int,
    solve: Callable[[NDArray[np.float64]], NDArray[np.float64]],
) -> NDArray[np.float64]:
    """Return the nearest states, more of them until both sides are complete."""
    inverse = scipy.sparse.linalg.LinearOperator(h.shape, solve, dtype=np.float64)
    number = 2 * side + 4
    while True:
        energies_n = np.sort(
            scipy.sparse.linalg.eigsh(
                h, number, s, sigma, OPinv=inverse, return_eigenvectors=True, tol=1e-10
            )[0]
        )
        split = int((energies_n < sigma).sum())
        if split >= side and number - split >= side:
            return energies_n[split - side : split + side]
        number += side


PEERS: dict[str, Callable[[CrystalHamiltonian, float, int], NDArray[np.float64]]] = {
    "ours": lambda g, e, n: ours(g, e, n, slepc=False),
    "uncounted": uncounted,
    "window": window,
    "slepc": lambda g, e, n: ours(g, e, n, slepc=True),
    "superlu": superlu,
    "pardiso": pardiso,
    "lapack": lapack,
}


def run_peer(options: argparse.Namespace) -> None:
    """Run one peer in this process and print what it took."""
    given = read_operator_file(options.file)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    energies_n = PEERS[options.peer](given, options.sigma, options.bands // 2)
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
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--limit", type=float, default=1200.0, help="seconds for a peer")
    parser.add_argument("--peer", choices=PEERS, help=argparse.SUPPRESS)
    parser.add_argument("--known", default="/tmp/known.npy", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        run_peer(options)
        return
    reference: NDArray[np.float64] | None = None
    print("| solver | CPU s | CPU s a pair | peak MB | of these H and S | largest difference, Ha |")
    print("|---|---|---|---|---|---|", flush=True)
    for peer in options.peers:
        command = [sys.executable, __file__, options.file, "--sigma", str(options.sigma)]
        command += ["--bands", str(options.bands), "--peer", peer, "--known", options.known]
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
            np.save(options.known, energies_n)
        same = len(energies_n) == len(reference)
        difference = np.abs(energies_n - reference).max() if same else np.nan
        print(
            f"| {peer} | {told['cpu']:.1f} | {told['cpu'] / options.bands:.3f} | "
            f"{told['peak_mb']:.0f} | {told['before_mb']:.0f} | {difference:.1e} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
