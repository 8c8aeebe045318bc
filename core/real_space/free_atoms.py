"""Densities of free atoms: what a difference density and Hirshfeld charges refer to."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hamgnn_solve.core.basis.openmx_data import PseudoSpecies
from hamgnn_solve.core.basis.species import AnySpecies, Basis, RadialFunction, Species
from hamgnn_solve.core.real_space.augmentation import partial_waves_of
from hamgnn_solve.core.structure import Structure

__all__ = ["free_atoms"]

# Electrons per cubic Bohr at which a free atom ends.
TAIL = 1e-9
# Bohr.
STEP = 0.005


def free_atoms(structure: Structure, basis: Basis) -> Basis:
    """Return a basis with one s function for each element: its free atom's valence density.

    The function is rho(r) sqrt(4 pi) Y_00 = rho(r) in electrons per cubic Bohr, spherical, of the
    neutral atom, so that a state with all coefficients one is the superposition of the atoms. In
    the built-in basis rho is the all-electron density of the bound valence states, in OpenMX's
    the valence density of the `.pao` file.

    Raises
    ------
    InputError
        For an element whose data do not tell it.
    """
    return Basis({symbol: _free_atom(basis, symbol) for symbol in structure.elements})


def _free_atom(basis: Basis, symbol: str) -> Species:
    species: AnySpecies = basis.species[symbol]
    if isinstance(species, PseudoSpecies):
        radius_g, density_g = species.orbitals.radius_g, species.orbitals.density_g
    else:
        waves = partial_waves_of(basis, symbol)
        radius_g, density_g = waves.radius_g, waves.density_g
    shell = _density_shell(radius_g, density_g, symbol)
    return Species(symbol, f"free {symbol}", species.valence, (shell,), (), np.zeros((0, 0)))


def _density_shell(
    radius_g: NDArray[np.float64], density_g: NDArray[np.float64], symbol: str
) -> RadialFunction:
    last = int(np.flatnonzero(density_g > TAIL)[-1])
    end = float(radius_g[min(last + 1, len(radius_g) - 1)])
    mesh_g = np.linspace(0.0, end, int(np.ceil(end / STEP)) + 1)
    # Its logarithm is nearly straight: linear interpolation of it is exact enough and positive.
    logarithm_g = np.interp(mesh_g, radius_g, np.log(np.maximum(density_g, 1e-300)))
    return RadialFunction(0, mesh_g, np.sqrt(4.0 * np.pi) * np.exp(logarithm_g), f"free {symbol}")
