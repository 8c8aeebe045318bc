"""Directions in which the orbitals are almost dependent, found and taken out of the problem."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.solver.krylov import KrylovOptions, nearest_states
from hamgnn_solve.solver.pencil import Pencil

__all__ = ["DEPENDENT", "project_dependent_orbitals", "smallest_overlap"]

# Eigenvalues of S below this are taken out of the problem.
DEPENDENT = 1e-6
# S more negative than this is no overlap matrix.
INDEFINITE = -1e-4
# Lanczos estimates that come closer to the threshold than this factor are looked at exactly.
CLOSE = 20.0
STEPS = 80


def smallest_overlap(pencil: Pencil, k_c: Sequence[float] | NDArray[np.float64]) -> float:
    """Estimate the smallest eigenvalue of S(k) by Lanczos steps; never too low. Collective.

    80 steps with full orthogonalisation (Parlett, The Symmetric Eigenvalue Problem, chapter 13)
    cost about as much as one product of S with 80 vectors.
    """
    comm, rows = pencil.comm, pencil.rows
    dtype = np.float64 if pencil.is_real_at(k_c) else np.complex128
    steps = min(STEPS, pencil.norbitals)
    basis = np.zeros((rows.nlocal, steps + 1), dtype=dtype, order="F")
    start = np.random.default_rng([1, rows.start]).standard_normal(rows.nlocal)
    basis[:, 0] = start / np.sqrt(comm.allreduce(float(start @ start)))
    diagonal, beside = np.zeros(steps), np.zeros(steps)
    for n in range(steps):
        image = pencil.overlap_times(k_c, basis[:, n : n + 1])[:, 0]
        for _ in range(2):
            part = comm.allreduce(basis[:, : n + 1].conj().T @ image)
            diagonal[n] += part[n].real
            image = image - basis[:, : n + 1] @ part
        beside[n] = np.sqrt(comm.allreduce(float(np.vdot(image, image).real)))
        if beside[n] < 1e-12:
            steps = n + 1
            break
        basis[:, n + 1] = image / beside[n]
    return float(
        scipy.linalg.eigvalsh_tridiagonal(
            diagonal[:steps], beside[: steps - 1], select="i", select_range=(0, 0)
        )[0]
    )


def project_dependent_orbitals(
    pencil: Pencil, k_c: Sequence[float] | NDArray[np.float64], threshold: float = DEPENDENT
) -> int:
    """Take the eigenvectors of S(k) with eigenvalues below a threshold out of the pencil at k.

    What remains is the pencil in their orthogonal complement, the canonical orthogonalisation of
    Loewdin (Adv. Quantum Chem. 5, 185 (1970)). S is only factorised where the estimate of its
    smallest eigenvalue comes close to the threshold. Collective.

    Returns
    -------
    int
        How many directions were taken out.

    Raises
    ------
    InputError
        When S is indefinite by more than such a direction.
    """
    if smallest_overlap(pencil, k_c) > CLOSE * threshold:
        return 0
    _, count = pencil.factorise_overlap(k_c, threshold)
    if count == 0:
        return 0
    real = pencil.is_real_at(k_c)
    options = KrylovOptions(block=min(16, pencil.norbitals))
    random = np.random.default_rng([2, pencil.rows.start])
    start: NDArray[Any] = random.standard_normal((pencil.rows.nlocal, options.block))
    lowest = nearest_states(
        pencil.solve,
        lambda x: x,
        start if real else start.astype(np.complex128),
        pencil.comm,
        count,
        0,
        options,
    ).vectors_mn
    image = pencil.overlap_times(k_c, lowest)
    small = pencil.comm.allreduce(lowest.conj().T @ image)
    overlaps_n, turn = pencil.comm.bcast(np.linalg.eigh(0.5 * (small + small.conj().T)))
    if overlaps_n[0] < INDEFINITE:
        raise InputError(
            f"The overlap at k = {np.asarray(k_c)} is not positive definite (it has an eigenvalue "
            f"{overlaps_n[0]:.1e}); two atoms are too close for the basis, or blocks are missing."
        )
    dependent = overlaps_n < threshold
    if int(dependent.sum()) != count:
        raise InputError(
            f"The orbitals at k = {np.asarray(k_c)} are almost dependent: {count} eigenvalues of S "
            f"lie below {threshold:.0e}, of which {dependent.sum()} were found; remove orbitals."
        )
    pencil.project_out(k_c, lowest @ turn[:, dependent])
    return count
