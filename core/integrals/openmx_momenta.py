"""OpenMX's orbitals and projectors in momentum space, on OpenMX's own quadratures.

OpenMX 3.9 integrates two-centre terms in momentum space up to 60/Bohr: overlap, kinetic energy
and non-local projectors by trapezoids, the neutral-atom potential by 300 Gauss-Legendre points.
Its quadrature error in H0 is about 1 meV; a model trained on its H0 wants the same error.
"""

from __future__ import annotations

from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

from hamgnn_solve.core.basis.openmx_data import MeshFunction, PseudoSpecies, interpolate
from hamgnn_solve.core.integrals.bessel import (
    MomentumGrid,
    MomentumShells,
    gauss_legendre,
    radial_transforms,
)

__all__ = [
    "COARSE_STEP",
    "MARGIN",
    "RADII",
    "gauss_momenta",
    "gauss_orbitals",
    "trapezoid_momenta",
    "trapezoid_orbitals",
    "trapezoid_projectors",
    "trapezoids",
]

SMALLEST_MOMENTUM = 1e-6
LARGEST_MOMENTUM = 60.0
INTERVALS = 900
MOMENTA = RADII = 300  # Gauss-Legendre points
# OpenMX integrates radial functions to this distance beyond the confinement of the orbitals.
MARGIN = 0.5
# Knots in Bohr of the integrals of orbitals; the splines then miss them by 1e-10.
STEP = 1 / 64
# The same for V_NA, whose tables are larger; finer ones change H0 by 5e-8 Hartree.
COARSE_STEP = 1 / 16


@lru_cache(maxsize=1)
def trapezoid_momenta() -> MomentumGrid:
    """Return the 901 even momenta of S, T and V_NL."""
    momentum_k = np.linspace(SMALLEST_MOMENTUM, LARGEST_MOMENTUM, INTERVALS + 1)
    return MomentumGrid(momentum_k, trapezoids(momentum_k))


@lru_cache(maxsize=1)
def gauss_momenta() -> MomentumGrid:
    """Return the 300 Gauss-Legendre momenta of V_NA."""
    return MomentumGrid(*gauss_legendre(SMALLEST_MOMENTUM, LARGEST_MOMENTUM, MOMENTA))


@cache
def trapezoid_orbitals(species: PseudoSpecies) -> MomentumShells:
    """Transform the orbitals for S, T and V_NL."""
    return _interpolated(species.shells, _tables(species)[0], trapezoid_momenta(), STEP)


@cache
def gauss_orbitals(species: PseudoSpecies) -> MomentumShells:
    """Transform the orbitals for V_NA."""
    return _interpolated(species.shells, _tables(species)[0], gauss_momenta(), COARSE_STEP)


@cache
def trapezoid_projectors(species: PseudoSpecies) -> MomentumShells:
    """Transform the projectors of the non-local pseudopotential."""
    projectors = species.nonlocal_projectors
    return _interpolated(projectors, _tables(species)[1], trapezoid_momenta(), STEP)


@cache
def _tables(species: PseudoSpecies) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Transform orbitals and projectors by trapezoids at `_table_momenta`, shape (S, K) each."""
    functions = species.shells + species.nonlocal_projectors
    degree_s = np.array([function.l for function in functions])
    radius_g = np.linspace(species.orbitals.radius_g[0], species.cutoff + MARGIN, INTERVALS + 1)
    values_sg = np.array([function(radius_g) for function in functions])
    table_sk = np.empty((len(functions), INTERVALS))
    for degree in np.unique(degree_s):
        chosen = degree_s == degree
        table_sk[chosen] = radial_transforms(
            int(degree), values_sg[chosen], radius_g, trapezoids(radius_g), _table_momenta()
        )
    return table_sk[: len(species.shells)], table_sk[len(species.shells) :]


def _table_momenta() -> NDArray[np.float64]:
    """Return i 60 / 900 for i = 0, ..., 899: OpenMX interpolates between transforms at these."""
    return LARGEST_MOMENTUM / INTERVALS * np.arange(INTERVALS)


def _interpolated(
    shells: tuple[MeshFunction, ...],
    table_sk: NDArray[np.float64],
    grid: MomentumGrid,
    step: float,
) -> MomentumShells:
    return MomentumShells(
        shell_l=tuple(shell.l for shell in shells),
        cutoff_s=np.array([shell.cutoff for shell in shells]),
        grid=grid,
        transform_sk=interpolate(_table_momenta(), table_sk, grid.momentum_k),
        step=step,
        sharp_end=True,
    )


def trapezoids(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the weights of the trapezoidal rule on even points."""
    weights = np.full(len(points), (points[-1] - points[0]) / (len(points) - 1))
    weights[[0, -1]] *= 0.5
    return weights
