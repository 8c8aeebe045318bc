"""Densities of free atoms: what a difference density and Hirshfeld charges refer to."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from hamgnn_solve.core.basis.openmx_data import PseudoSpecies
from hamgnn_solve.core.basis.species import (
    AnyRadialFunction,
    AnySpecies,
    Basis,
    RadialFunction,
    Species,
)
from hamgnn_solve.core.real_space.augmentation import partial_waves_of
from hamgnn_solve.core.real_space.grid import Grid, GridFunction
from hamgnn_solve.core.real_space.orbital_grid import OrbitalGrid
from hamgnn_solve.core.real_space.spheres import (
    Sphere,
    fine_parts,
    near_nucleus,
    sphere_points,
    volume_means,
)
from hamgnn_solve.core.structure import Structure

__all__ = ["FreeAtoms", "free_atoms"]

# 1 / Y_00.
SPHERICAL = float(np.sqrt(4.0 * np.pi))
# Electrons per cubic Bohr at which a free atom ends.
TAIL = 1e-9
# Bohr. Mesh of the functions, and the radius within which they are flat: no grid resolves the cusp.
STEP = 0.005
FLAT = 0.05


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


class FreeAtoms:
    """The densities of all free atoms on some planes of a grid.

    Near the nuclei a point holds the mean over its volume, as in the augmentation.

    Parameters
    ----------
    structure : Structure
    basis : Basis
    grid : Grid
    planes : tuple of int
        First plane and the one behind the last, whole layers of tiles.
    """

    def __init__(
        self, structure: Structure, basis: Basis, grid: Grid, planes: tuple[int, int]
    ) -> None:
        self.structure, self.grid, self.planes = structure, grid, planes
        self.valence_i = np.array([basis.species[s].valence for s in structure.symbols])
        free = free_atoms(structure, basis)
        self.shells = [free.species[symbol].shells[0] for symbol in structure.elements]
        every = np.arange(structure.natoms)
        self.on_grid = OrbitalGrid(structure, free, grid, every, planes)

    def superposition(self, scale_i: NDArray[np.float64]) -> GridFunction:
        """Return the sum of the densities, each times a number, in electrons per cubic Bohr."""
        tiles = self.on_grid.states(scale_i[:, None], np.zeros(3))
        values = np.zeros((2, self.planes[1] - self.planes[0], *self.grid.shape[1:]))
        tiles.add_to(values, self.planes[0])
        result = GridFunction(self.grid, self.planes[0], values[0])
        flat = result.values.reshape(-1)
        for atoms, sphere, gain_g in self._centres(result):
            np.add.at(flat, sphere.place_g, scale_i[atoms[sphere.atom_g]] * gain_g)
        return result

    def projections(self, function: GridFunction) -> NDArray[np.float64]:
        """Return the integral of each atom's density times a function over these planes, (N,)."""
        sums_i = self.on_grid.projections(function)
        flat = function.values.reshape(-1)
        for atoms, sphere, gain_g in self._centres(function):
            terms = gain_g * flat[sphere.place_g] * self.grid.point_volume
            np.add.at(sums_i, atoms[sphere.atom_g], terms)
        return sums_i

    def _centres(
        self, function: GridFunction
    ) -> Iterator[tuple[NDArray[np.int64], Sphere, NDArray[np.float64]]]:
        """Yield atoms, points near them, and by how much the means there exceed point values."""
        for number, shell in enumerate(self.shells):
            atoms = np.flatnonzero(self.structure.element_index_i == number)

            def density(
                _: NDArray[np.int64],
                vector_gc: NDArray[np.float64],
                shell: AnyRadialFunction = shell,
            ) -> NDArray[np.float64]:
                return np.asarray(shell(np.linalg.norm(vector_gc, axis=1)) / SPHERICAL)

            positions = self.structure.pos_ic[atoms]
            for sphere in sphere_points(function, positions, near_nucleus(self.grid)):
                mean_g = volume_means(
                    sphere.atom_g, sphere.vector_gc, self.grid, density, fine_parts(self.grid)
                )
                yield atoms, sphere, mean_g - density(sphere.atom_g, sphere.vector_gc)


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
    logarithm_g = np.interp(
        np.maximum(mesh_g, FLAT), radius_g, np.log(np.maximum(density_g, 1e-300))
    )
    return RadialFunction(0, mesh_g, SPHERICAL * np.exp(logarithm_g), f"free {symbol}")
