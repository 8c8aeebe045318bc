"""Bands of a small pencil by LAPACK, the yardstick of the sparse solver."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.operator import BlockOperator, dense_matrix
from hamgnn_solve.solver.conditioning import CLOSE, DEPENDENT, INDEFINITE

__all__ = ["dense_bands", "dense_eigenpairs"]


def dense_eigenpairs(
    hamiltonian: BlockOperator,
    overlap: BlockOperator,
    k_c: Sequence[float] | NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.complex128]]:
    """Solve H(k) x = e S(k) x for all bands.

    Returns
    -------
    energies_n : ndarray, shape (n,)
        Ascending, in Hartree.
    vectors_mn : ndarray of complex128, shape (n, n)
        S-orthonormal, orbitals in the order of the atoms.

    Raises
    ------
    InputError
        When S(k) is not positive definite.
    """
    h, s = dense_matrix(hamiltonian, k_c), dense_matrix(overlap, k_c)
    return dense_bands(h, s, 1, len(h), k_c)


def dense_bands(
    h: NDArray[Any],
    s: NDArray[Any],
    first_band: int,
    last_band: int,
    k_c: Sequence[float] | NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[Any]]:
    """Solve H x = e S x for the bands first..last by LAPACK, directions of small overlap left out.

    Parameters
    ----------
    h, s : ndarray, shape (n, n)
        Real or complex; only their Hermitian part counts.
    first_band, last_band : int
        Counted from 1, both included; fewer come back where fewer exist.
    k_c : array_like, shape (3,)
        Fractional k, for messages.

    Returns
    -------
    energies_n, vectors_mn : ndarray
        Ascending in Hartree; S-orthonormal.

    Raises
    ------
    InputError
        When S is not positive definite.
    """
    h, s = 0.5 * (h + h.conj().T), 0.5 * (s + s.conj().T)
    if not (h.imag.any() or s.imag.any()):
        h, s = h.real, s.real
    chosen = None if (first_band, last_band) == (1, len(h)) else [first_band - 1, last_band - 1]
    if _well_conditioned(s):
        energies_n, vectors_mn = scipy.linalg.eigh(
            h, s, subset_by_index=chosen, driver="gvx" if chosen else "gvd"
        )
        return energies_n, vectors_mn
    # Canonical orthogonalisation: Loewdin, Adv. Quantum Chem. 5, 185 (1970).
    overlaps_n, turn = scipy.linalg.eigh(s)
    if overlaps_n[0] < INDEFINITE:
        raise InputError(
            f"The overlap at k = {np.asarray(k_c)} is not positive definite (lowest eigenvalue "
            f"{overlaps_n[0]:.2e}); two atoms are too close for the basis, or blocks are missing."
        )
    kept = overlaps_n >= DEPENDENT
    orthonormal = turn[:, kept] / np.sqrt(overlaps_n[kept])
    energies_n, vectors = scipy.linalg.eigh(orthonormal.conj().T @ h @ orthonormal)
    part = slice(first_band - 1, last_band)
    return energies_n[part], orthonormal @ vectors[:, part]


def _well_conditioned(s: NDArray[Any]) -> bool:
    """Tell whether the smallest eigenvalue of S lies safely above the threshold."""
    try:
        factor = scipy.linalg.cholesky(s)
    except np.linalg.LinAlgError:
        return False
    (estimate,) = scipy.linalg.get_lapack_funcs(("pocon",), (factor,))
    norm = np.abs(s).sum(axis=0).max()
    # The reciprocal condition in the 1-norm never exceeds n times that of the eigenvalues.
    return bool(estimate(factor, norm)[0] * norm > CLOSE * DEPENDENT)
