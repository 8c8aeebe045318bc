"""Gaunt coefficients of real spherical harmonics."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from hamgnn_solve.core.integrals.harmonics import real_harmonics

__all__ = ["gaunt"]


@cache
def gaunt(l1: int, l2: int, l3: int) -> NDArray[np.float64]:
    """Integrate the product of three real spherical harmonics over the sphere.

    Parameters
    ----------
    l1, l2, l3 : int
        Angular momenta.

    Returns
    -------
    ndarray, shape (2 l1 + 1, 2 l2 + 1, 2 l3 + 1), read-only
        Integrals of Y_l1m1 Y_l2m2 Y_l3m3, m = -l..l each. The product is a polynomial of degree
        l1 + l2 + l3, for which Gauss-Legendre points in cos(theta) and even steps in phi are
        exact.
    """
    degree = l1 + l2 + l3
    cosine_g, weight_g = np.polynomial.legendre.leggauss(degree // 2 + 1)
    phi_g = 2 * np.pi * np.arange(degree + 1) / (degree + 1)
    sine_g = np.sqrt(1 - cosine_g**2)
    unit_gc = np.stack(
        [
            np.outer(sine_g, np.cos(phi_g)),
            np.outer(sine_g, np.sin(phi_g)),
            np.outer(cosine_g, np.ones_like(phi_g)),
        ],
        axis=-1,
    ).reshape(-1, 3)
    harmonics = real_harmonics(max(l1, l2, l3), unit_gc)
    area_g = np.repeat(weight_g * 2 * np.pi / (degree + 1), degree + 1)
    coefficients = np.einsum("g,ga,gb,gc->abc", area_g, harmonics[l1], harmonics[l2], harmonics[l3])
    coefficients[np.abs(coefficients) < 1e-14] = 0.0
    coefficients.flags.writeable = False
    return coefficients
