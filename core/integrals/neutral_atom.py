"""The neutral-atom potential V_NA = sum_k [V_loc + V_H of the atomic valence density](r - R_k).

OpenMX takes it between different atoms in separable form, and on one atom by exact three-centre
integrals of products of its orbitals (Ozaki and Kino, Phys. Rev. B 72, 045121 (2005)).
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicHermiteSpline

from hamgnn_solve.core.basis.openmx_data import PseudoSpecies, interpolate
from hamgnn_solve.core.integrals.bessel import MomentumShells, gauss_legendre, radial_transforms
from hamgnn_solve.core.integrals.gaunt import gaunt
from hamgnn_solve.core.integrals.openmx_momenta import (
    COARSE_STEP,
    MARGIN,
    RADII,
    gauss_momenta,
    trapezoids,
)
from hamgnn_solve.core.integrals.separable import Projectors

__all__ = [
    "expansion_projectors",
    "neutral_atom_potential",
    "onsite_map",
    "potential_shell",
    "product_shells",
]

# Radial functions of the expansion for every L (OpenMX: scf.RadialF.VNA).
EXPANSION_FUNCTIONS = 12
DAMPING = 20.0  # in 1/Bohr
NEGLIGIBLE_NORM = 1e-15
RADIAL_INTERVALS = 900


@cache
def neutral_atom_potential(species: PseudoSpecies) -> NDArray[np.float64]:
    """Return V_loc + V_H of one atom on the mesh of its pseudopotential, in Hartree, shape (G,).

    V_H is scaled so that it cancels V_loc at the mesh point nearest to the confinement radius rc
    of the orbitals, and the sum is damped by 1 / (1 + exp(20 (r - rc))).
    """
    potential = species.pseudopotential
    radius_g, cutoff = potential.radius_g, species.cutoff
    hartree_g = _hartree(species, radius_g)
    nearest = int(np.argmin(np.abs(radius_g - cutoff)))
    hartree_g *= -potential.local_g[nearest] / hartree_g[nearest]
    inside_g = 1 / (1 + np.exp(np.minimum(DAMPING * (radius_g - cutoff), 700.0)))
    return np.asarray(inside_g * (potential.local_g + hartree_g))


@cache
def expansion_projectors(species: PseudoSpecies, largest_l: int) -> Projectors:
    """Expand the potential of one atom in projectors, V = sum V|f> E <f|V for L up to largest_l.

    For every L twelve functions f are the orbitals of that L in the `.pao` file (beyond its
    largest l those of the largest, times r^(L - l)), orthogonalised in the metric <f|V|g>;
    E = 1 / <f|V|f>. The projectors V f are scaled so that E = +-1 (0 for f that are not used).
    """
    radius_g = species.pseudopotential.radius_g
    potential_g = neutral_atom_potential(species)
    grid = gauss_momenta()
    fine_g, weight_g = gauss_legendre(radius_g[0], species.cutoff + MARGIN, RADII)
    transforms, shell_l, signs = [], [], []
    for degree in range(largest_l + 1):
        values_fg, energy_f = _orthogonal(species, degree, potential_g)
        projector_fg = interpolate(radius_g, values_fg * potential_g, fine_g)
        projector_fg *= np.sqrt(np.abs(energy_f))[:, None]
        transforms.append(
            radial_transforms(degree, projector_fg, fine_g, weight_g, grid.momentum_k)
        )
        shell_l += [degree] * len(energy_f)
        signs.append(np.repeat(np.sign(energy_f), 2 * degree + 1))
    shells = MomentumShells(
        tuple(shell_l),
        np.full(len(shell_l), species.cutoff),
        grid,
        np.concatenate(transforms),
        COARSE_STEP,
        sharp_end=True,
    )
    return Projectors(shells, np.diag(np.concatenate(signs)))


@cache
def potential_shell(species: PseudoSpecies) -> MomentumShells:
    """Transform the potential of one atom, as a function with l = 0 (so sqrt(4 pi) V Y_00)."""
    start, end = np.sqrt([species.orbitals.radius_g[0], species.cutoff + MARGIN])
    # Trapezoids in the square root of r: dr = 2 sqrt(r) d(sqrt(r)).
    root_g = np.linspace(start, end, RADIAL_INTERVALS + 1)
    radius_g = root_g**2
    values_g = interpolate(
        species.pseudopotential.radius_g, neutral_atom_potential(species), radius_g
    )
    transform_sk = radial_transforms(
        0,
        np.sqrt(4 * np.pi) * values_g[None],
        radius_g,
        2 * root_g * trapezoids(root_g),
        gauss_momenta().momentum_k,
    )
    return MomentumShells(
        (0,), np.array([species.cutoff]), gauss_momenta(), transform_sk, COARSE_STEP, sharp_end=True
    )


@cache
def product_shells(species: PseudoSpecies) -> MomentumShells:
    """Transform the products R_a(r) R_b(r), a <= b, for every L that their angular parts hold."""
    shells, grid = species.shells, gauss_momenta()
    radius_g, weight_g = gauss_legendre(
        species.orbitals.radius_g[0], species.cutoff + MARGIN, RADII
    )
    values_sg = np.array([shell(radius_g) for shell in shells])
    shell_l, products = [], []
    for a, b, big_l in _products(species):
        shell_l.append(big_l)
        products.append(values_sg[a] * values_sg[b])
    degree_s = np.array(shell_l)
    transform_sk = np.empty((len(shell_l), len(grid.momentum_k)))
    for degree in np.unique(degree_s):
        chosen = degree_s == degree
        transform_sk[chosen] = radial_transforms(
            int(degree), np.array(products)[chosen], radius_g, weight_g, grid.momentum_k
        )
    return MomentumShells(
        tuple(shell_l),
        np.full(len(shell_l), species.cutoff),
        grid,
        transform_sk,
        COARSE_STEP,
        sharp_end=True,
    )


@cache
def onsite_map(species: PseudoSpecies) -> NDArray[np.float64]:
    """Return the coefficients that make blocks <phi_a|V|phi_b> of integrals of `product_shells`.

    Returns
    -------
    ndarray, shape (functions of product_shells, norb, norb)
        Gaunt coefficients: Y_a Y_b = sum_LM G Y_LM.
    """
    start_s = np.concatenate([[0], np.cumsum([2 * degree + 1 for degree in species.shell_l])])
    norb = species.norbitals
    coefficients = np.zeros((product_shells(species).size, norb, norb))
    row = 0
    for a, b, big_l in _products(species):
        size = 2 * big_l + 1
        angular = gaunt(species.shell_l[a], species.shell_l[b], big_l).transpose(2, 0, 1)
        rows = slice(start_s[a], start_s[a + 1])
        columns = slice(start_s[b], start_s[b + 1])
        coefficients[row : row + size, rows, columns] = angular
        coefficients[row : row + size, columns, rows] = angular.transpose(0, 2, 1)
        row += size
    return coefficients


def _products(species: PseudoSpecies) -> list[tuple[int, int, int]]:
    """List shells a <= b and each L their product holds."""
    shell_l = species.shell_l
    return [
        (a, b, big_l)
        for a in range(len(shell_l))
        for b in range(a, len(shell_l))
        for big_l in range(abs(shell_l[a] - shell_l[b]), shell_l[a] + shell_l[b] + 1, 2)
    ]


def _hartree(species: PseudoSpecies, radius_g: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the electrostatic potential of the valence density at ascending radii, in Hartree."""
    mesh_x = np.log(species.orbitals.radius_g)
    density_x = species.orbitals.density_g
    density = CubicHermiteSpline(mesh_x, density_x, np.gradient(density_x, mesh_x))
    # Between neighbouring break points the density is one cubic in x = log r.
    x_g = np.log(radius_g)
    breaks = np.union1d(mesh_x, np.clip(x_g, mesh_x[0], mesh_x[-1]))
    node, weight = gauss_legendre(0.0, 1.0, 6)
    width = np.diff(breaks)
    points = breaks[:-1, None] + width[:, None] * node
    values = 4 * np.pi * density(points) * weight * width[:, None]
    charge = np.append(0.0, np.cumsum((values * np.exp(3 * points)).sum(axis=1)))
    outer = np.append(0.0, np.cumsum((values * np.exp(2 * points)).sum(axis=1)))
    place_g = np.searchsorted(breaks, np.clip(x_g, mesh_x[0], mesh_x[-1]))
    return np.asarray(charge[place_g] / radius_g + outer[-1] - outer[place_g])


def _orthogonal(
    species: PseudoSpecies, degree: int, potential_g: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Orthogonalise the expansion functions of one L: functions (F, G) and energies E (F,)."""
    orbitals = species.orbitals
    radius_g = species.pseudopotential.radius_g
    held = min(degree, len(orbitals.radial) - 1)
    columns = orbitals.radial[held][:EXPANSION_FUNCTIONS]
    functions_fg = interpolate(orbitals.radius_g, columns, radius_g)
    functions_fg *= radius_g ** (degree - held)
    fine_g, weight_g = gauss_legendre(radius_g[0], radius_g[-1], RADII)
    measure_g = weight_g * fine_g**2
    plain_fg = interpolate(radius_g, functions_fg, fine_g)
    norm_f = np.sqrt(plain_fg**2 @ measure_g)
    functions_fg /= np.where(norm_f > 0, norm_f, 1.0)[:, None]
    plain_fg = interpolate(radius_g, functions_fg, fine_g)
    weighted_fg = interpolate(radius_g, functions_fg * potential_g, fine_g)
    metric_ff = (plain_fg * measure_g) @ weighted_fg.T
    # Gram-Schmidt in the order of the file, so that the functions left out are those of OpenMX.
    count = len(functions_fg)
    combination_ff = np.eye(count)
    energy_f = np.zeros(count)
    for f in range(count):
        overlap = combination_ff[:f] @ metric_ff[:, f]
        combination_ff[f] -= (overlap * energy_f[:f]) @ combination_ff[:f]
        norm = combination_ff[f] @ metric_ff @ combination_ff[f]
        energy_f[f] = 0.0 if abs(norm) < NEGLIGIBLE_NORM else 1 / norm
    return combination_ff @ functions_fg, energy_f
