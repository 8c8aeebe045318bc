"""Real spherical harmonics."""

from __future__ import annotations

from math import factorial, pi, sqrt

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

__all__ = ["real_harmonics", "rotation_of_shells", "unit_vectors"]


def unit_vectors(vector_pc: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the directions of vectors, shape (P, 3); a zero vector points along z."""
    length_p = np.linalg.norm(vector_pc, axis=1)
    zero_p = length_p == 0.0
    unit_pc = vector_pc / np.where(zero_p, 1.0, length_p)[:, None]
    unit_pc[zero_p, 2] = 1.0
    return unit_pc


def real_harmonics(lmax: int, unit_pc: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Evaluate the orthonormal real spherical harmonics of all l up to lmax.

    Parameters
    ----------
    lmax : int
        Largest angular momentum.
    unit_pc : ndarray, shape (P, 3)
        Unit vectors.

    Returns
    -------
    list of ndarray
        For each l an array of shape (P, 2l + 1), m = -l..l, with positive leading lobes and no
        Condon-Shortley phase: p is y, z, x; d is xy, yz, 3z2-r2, xz, x2-y2.

    Notes
    -----
    sin(m phi) and cos(m phi) times sin^m(theta) are polynomials in x and y, and the rest of the
    associated Legendre function follows from its recursion in l (Abramowitz and Stegun 8.5.3).
    """
    x, y, z = unit_pc.T
    cosine, sine = [np.ones_like(x)], [np.zeros_like(x)]
    for m in range(lmax):
        cosine.append(x * cosine[m] - y * sine[m])
        sine.append(x * sine[m] + y * cosine[m])
    harmonics = [np.empty((len(unit_pc), 2 * l + 1)) for l in range(lmax + 1)]  # noqa: E741
    for m in range(lmax + 1):
        # P_l^m / sin^m(theta), starting from (2m - 1)!! at l = m.
        below = np.zeros_like(z)
        legendre = np.full_like(z, factorial(2 * m) / (2**m * factorial(m)))
        for l in range(m, lmax + 1):  # noqa: E741
            norm = sqrt((2 * l + 1) / (4 * pi) * factorial(l - m) / factorial(l + m))
            if m == 0:
                harmonics[l][:, l] = norm * legendre
            else:
                harmonics[l][:, l + m] = sqrt(2) * norm * legendre * cosine[m]
                harmonics[l][:, l - m] = sqrt(2) * norm * legendre * sine[m]
            next_one = ((2 * l + 1) * z * legendre - (l + m) * below) / (l + 1 - m)
            below, legendre = legendre, next_one
    return harmonics


def rotation_of_shells(
    shell_l: tuple[int, ...], matrix_cc: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the matrix that turns the orbitals of an atom, found from values of the harmonics.

    Parameters
    ----------
    shell_l : tuple of int
        l of each shell.
    matrix_cc : ndarray, shape (3, 3)
        Orthogonal, r -> R r, proper or not.

    Returns
    -------
    ndarray, shape (norbitals, norbitals)
        The orthogonal D with Y(R r) = D Y(r); a function with coefficients c becomes one with D c
        when it is turned.
    """
    lmax = max(shell_l)
    unit_pc = unit_vectors(np.random.default_rng(0).normal(size=(8 * (lmax + 1) ** 2, 3)))
    before, after = real_harmonics(lmax, unit_pc), real_harmonics(lmax, unit_pc @ matrix_cc.T)
    degrees = [
        np.linalg.lstsq(y_pm, turned_pm, rcond=None)[0].T
        for y_pm, turned_pm in zip(before, after, strict=True)
    ]
    return np.asarray(scipy.linalg.block_diag(*(degrees[degree] for degree in shell_l)))
