"""Spherical Bessel transforms of radial functions."""

from __future__ import annotations

from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import spherical_jn

from hamgnn_solve.core.basis.species import RadialFunction

__all__ = ["bessel_of_distance", "bessel_transform", "momentum_grid"]

LARGEST_MOMENTUM = 20.0
MOMENTA = 400
RADII = 512


@lru_cache(maxsize=1)
def momentum_grid() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the Gauss-Legendre momenta k in 1/Bohr and their weights, shape (K,) each.

    400 points up to 20/Bohr integrate products of functions and distances of 38 Bohr in all.
    """
    return _gauss_legendre(LARGEST_MOMENTUM, MOMENTA)


@cache
def bessel_transform(function: RadialFunction) -> NDArray[np.float64]:
    """Transform a radial function: f(k) = integral of r^2 j_l(kr) R(r) dr.

    Parameters
    ----------
    function : RadialFunction
        R(r) in Bohr^(-3/2).

    Returns
    -------
    ndarray, shape (K,)
        f at the momenta of `momentum_grid`, in Bohr^(3/2).
    """
    momentum_k, _ = momentum_grid()
    radius_g, weight_g = _gauss_legendre(function.cutoff, RADII)
    integrand_g = weight_g * radius_g**2 * function(radius_g)
    return np.asarray(spherical_jn(function.l, np.outer(momentum_k, radius_g)) @ integrand_g)


@lru_cache(maxsize=32)
def bessel_of_distance(angular: int, step: float, count: int) -> NDArray[np.float64]:
    """Tabulate j_L(kR) at R = 0, step, ..., (count - 1) step Bohr, shape (count, K)."""
    momentum_k, _ = momentum_grid()
    return np.asarray(spherical_jn(angular, np.outer(step * np.arange(count), momentum_k)))


def _gauss_legendre(end: float, count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    node, weight = _legendre_nodes(count)
    return 0.5 * end * (node + 1.0), 0.5 * end * weight


@cache
def _legendre_nodes(count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.polynomial.legendre.leggauss(count)
