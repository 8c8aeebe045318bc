"""All bands of a small pencil by LAPACK, the yardstick of the sparse solver."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.operator import BlockOperator

__all__ = ["dense_eigenpairs", "dense_matrix"]


def dense_matrix(
    operator: BlockOperator, k_c: Sequence[float] | NDArray[np.float64]
) -> NDArray[np.complex128]:
    """Return O(k) = sum_R exp(2 pi i k.R) O(R), orbitals in the order of the atoms.

    Parameters
    ----------
    operator : BlockOperator
        All blocks of the operator (one process).
    k_c : array_like, shape (3,)
        Fractional k.

    Returns
    -------
    ndarray of complex128, shape (n, n)
        Hermitian when the blocks are.
    """
    norb_i, pairs = operator.norb_i, operator.pairs
    start_i = np.cumsum(norb_i) - norb_i
    matrix = np.zeros((int(norb_i.sum()),) * 2, dtype=np.complex128)
    phase_p = np.exp(2j * np.pi * (pairs.shift_pc @ np.asarray(k_c, dtype=np.float64)))
    for chosen, rows, columns in operator.groups():
        row = start_i[pairs.first_p[chosen]][:, None, None] + np.arange(rows)[:, None]
        column = start_i[pairs.second_p[chosen]][:, None, None] + np.arange(columns)
        blocks = operator.blocks(chosen, rows, columns) * phase_p[chosen][:, None, None]
        np.add.at(matrix, (row, column), blocks)
    return matrix


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
    try:
        return scipy.linalg.eigh(0.5 * (h + h.conj().T), 0.5 * (s + s.conj().T))
    except np.linalg.LinAlgError as error:
        lowest = np.linalg.eigvalsh(0.5 * (s + s.conj().T))[0]
        raise InputError(
            f"The overlap at k = {np.asarray(k_c)} is not positive definite (lowest eigenvalue "
            f"{lowest:.2e}); two atoms are too close for the basis, or blocks are missing."
        ) from error
