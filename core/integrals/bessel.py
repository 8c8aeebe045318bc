"""Spherical Bessel transforms of radial functions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import spherical_jn

from hamgnn_solve.core.basis.species import AnyRadialFunction
from hamgnn_solve.core.integrals.table_cache import kept_on_disk

__all__ = [
    "MomentumGrid",
    "MomentumShells",
    "bessel_of_distance",
    "gauss_legendre",
    "momentum_grid",
    "radial_transforms",
    "transform_shells",
]

LARGEST_MOMENTUM = 20.0
MOMENTA = 400
RADII = 512
# Knots in Bohr; splines of two-centre integrals then miss them by 3e-8 at most (hydrogen to zinc).
STEP = 1 / 32


# eq=False, here and below: hashed by identity, so that tables can be cached.
@dataclass(frozen=True, eq=False)
class MomentumGrid:
    """Momenta k in 1/Bohr and their quadrature weights, shape (K,) each."""

    momentum_k: NDArray[np.float64]
    weight_k: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class MomentumShells:
    """Radial shells of one atom in momentum space.

    Parameters
    ----------
    shell_l : tuple of int
        Angular momentum of each shell.
    cutoff_s : ndarray, shape (S,)
        Distance in Bohr from which on each shell is zero.
    grid : MomentumGrid
        Where the transforms are known.
    transform_sk : ndarray, shape (S, K)
        f(k) = integral of r^2 j_l(kr) R(r) dr.
    step : float
        Distance in Bohr between the knots of integral tables with these shells.
    sharp_end : bool
        Whether integrals are cut off at the sum of the cutoffs: a coarse quadrature, OpenMX's,
        leaves 1e-8 to 1e-4 there. Otherwise they go to zero by themselves.
    """

    shell_l: tuple[int, ...]
    cutoff_s: NDArray[np.float64]
    grid: MomentumGrid
    transform_sk: NDArray[np.float64]
    step: float = STEP
    sharp_end: bool = False

    def __post_init__(self) -> None:
        shape = (len(self.shell_l), len(self.grid.momentum_k))
        if self.transform_sk.shape != shape or self.cutoff_s.shape != shape[:1]:
            raise ValueError(f"transforms of shape {self.transform_sk.shape}, not {shape}")

    @property
    def cutoff(self) -> float:
        """Largest cutoff in Bohr (0 without shells)."""
        return float(self.cutoff_s.max(initial=0.0))

    @property
    def size(self) -> int:
        """Number of functions, the sum of 2l + 1."""
        return sum(2 * l + 1 for l in self.shell_l)  # noqa: E741


@lru_cache(maxsize=1)
def momentum_grid() -> MomentumGrid:
    """Return the Gauss-Legendre momenta of the built-in basis.

    400 points up to 20/Bohr integrate products of functions and distances of 38 Bohr in all.
    """
    return MomentumGrid(*gauss_legendre(0.0, LARGEST_MOMENTUM, MOMENTA))


@cache
def transform_shells(shells: tuple[AnyRadialFunction, ...]) -> MomentumShells:
    """Transform shells on `momentum_grid`; cached by the shells' identity."""
    momenta = len(momentum_grid().momentum_k)
    return MomentumShells(
        shell_l=tuple(shell.l for shell in shells),
        cutoff_s=np.array([shell.cutoff for shell in shells]),
        grid=momentum_grid(),
        transform_sk=np.array([_transform(shell) for shell in shells]).reshape(-1, momenta),
    )


def radial_transforms(
    angular: int,
    values_sg: NDArray[np.float64],
    radius_g: NDArray[np.float64],
    weight_g: NDArray[np.float64],
    momentum_k: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Integrate r^2 j_l(kr) R(r) dr for functions of one l by a given quadrature.

    Parameters
    ----------
    angular : int
        Angular momentum l.
    values_sg : ndarray, shape (S, G)
        Functions R at the radii.
    radius_g, weight_g : ndarray, shape (G,)
        Radii in Bohr and their weights.
    momentum_k : ndarray, shape (K,)
        Momenta in 1/Bohr.

    Returns
    -------
    ndarray, shape (S, K)
    """

    def compute() -> NDArray[np.float64]:
        bessel_kg = spherical_jn(angular, np.outer(momentum_k, radius_g))
        return np.asarray((values_sg * (weight_g * radius_g**2)) @ bessel_kg.T)

    return kept_on_disk(
        [f"transform {angular}", values_sg, radius_g, weight_g, momentum_k], compute
    )


@lru_cache(maxsize=64)
def bessel_of_distance(
    angular: int, grid: MomentumGrid, step: float, count: int
) -> NDArray[np.float64]:
    """Tabulate j_L(kR) at R = 0, step, ..., (count - 1) step Bohr, shape (count, K)."""
    return np.asarray(spherical_jn(angular, np.outer(step * np.arange(count), grid.momentum_k)))


def gauss_legendre(
    start: float, end: float, count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the points and weights of Gauss-Legendre integration, shape (count,) each."""
    node, weight = _legendre_nodes(count)
    return start + 0.5 * (end - start) * (node + 1.0), 0.5 * (end - start) * weight


@cache
def _transform(shell: AnyRadialFunction) -> NDArray[np.float64]:
    radius_g, weight_g = gauss_legendre(0.0, shell.cutoff, RADII)
    momentum_k = momentum_grid().momentum_k
    return radial_transforms(shell.l, shell(radius_g)[None], radius_g, weight_g, momentum_k)[0]


@cache
def _legendre_nodes(count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.polynomial.legendre.leggauss(count)
