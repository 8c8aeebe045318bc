"""What a PAW basis adds to the smooth density inside the spheres around the atoms.

With the atomic density matrices D_a = sum_ij <p_a|phi_i> P_ij <phi_j|p_a>,

    n(r) = sum_ij P_ij phi_i(r) phi_j(r)
           + sum_a sum_kl D_a,kl (phi_k(r) phi_l(r) - smooth phi_k(r) smooth phi_l(r)),

partial waves with their harmonics (Blöchl, Phys. Rev. B 50, 17953 (1994)). The second term of an
atom holds exactly sum_kl D_a,kl dS_kl electrons. A grid does not resolve the cusps and nodes near
the nuclei: there a point gets the mean over the volume it stands for, and what the sum over the
points then lacks is given to the point nearest to the nucleus.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hamgnn_solve import _native
from hamgnn_solve.core.basis.gpaw_data import read_partial_waves
from hamgnn_solve.core.basis.partial_waves import PartialWaves
from hamgnn_solve.core.basis.species import Basis, Species
from hamgnn_solve.core.integrals.bessel import transform_shells
from hamgnn_solve.core.integrals.harmonics import real_harmonics, unit_vectors
from hamgnn_solve.core.integrals.separable import (
    ProjectorOverlaps,
    Projectors,
    expand_by_m,
    projector_overlaps,
)
from hamgnn_solve.core.operator import BlockOperator
from hamgnn_solve.core.pairs import PairKeys
from hamgnn_solve.core.real_space.grid import GridFunction
from hamgnn_solve.core.real_space.spheres import (
    fine_parts,
    near_nucleus,
    sphere_points,
    volume_means,
)
from hamgnn_solve.core.structure import Structure

__all__ = [
    "AtomicDensities",
    "add_augmentation",
    "add_wave_augmentation",
    "atomic_densities",
    "is_augmented",
    "orbital_projections",
    "partial_waves_of",
    "state_projections",
]

# Products of weights below this do not enter an atomic density matrix.
NEGLIGIBLE = 1e-14


@dataclass(frozen=True)
class AtomicDensities:
    """Matrices D_a of the projectors of each atom, in electrons.

    Parameters
    ----------
    nproj_i : ndarray of int64, shape (N,)
        Projectors of each atom.
    values : ndarray
        The matrices one after the other, row-major.
    """

    nproj_i: NDArray[np.int64]
    values: NDArray[np.float64]

    @property
    def offset_i(self) -> NDArray[np.int64]:
        """Start of each atom's matrix, shape (N,)."""
        sizes = self.nproj_i**2
        return np.cumsum(sizes) - sizes

    def of(self, atoms: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the matrices of atoms of one element, shape (atoms, nproj, nproj)."""
        nproj = int(self.nproj_i[atoms[0]])
        return self.values[self.offset_i[atoms][:, None] + np.arange(nproj**2)].reshape(
            -1, nproj, nproj
        )

    def charges(self, structure: Structure, basis: Basis) -> NDArray[np.float64]:
        """Return sum_kl D_a,kl dS_kl, the electrons in the augmentation of each atom, (N,)."""
        charge_i = np.zeros(structure.natoms)
        for symbol, atoms in _atoms_by_element(structure):
            species = basis.species[symbol]
            coupling = expand_by_m(species.projectors, species.projector_overlap)
            charge_i[atoms] = np.einsum("akl,kl->a", self.of(atoms), coupling)
        return charge_i


def is_augmented(basis: Basis) -> bool:
    """Whether the orbitals have projectors, so that they are smooth ones."""
    return any(len(one.projectors) > 0 for one in basis.species.values())


def partial_waves_of(basis: Basis, symbol: str) -> PartialWaves:
    """Return the partial waves of an element of the built-in basis."""
    species = basis.species[symbol]
    if not isinstance(species, Species):
        raise TypeError(f"{symbol} has no PAW data set")
    return read_partial_waves(species.name.removesuffix(".dzp"))


def orbital_projections(
    structure: Structure, basis: Basis, owned: NDArray[np.int64]
) -> ProjectorOverlaps:
    """Return <p_a|phi_j> for every atom a that the orbitals of `owned` atoms reach."""
    species = [basis.species[symbol] for symbol in structure.elements]
    projectors = [
        Projectors(
            transform_shells(one.projectors), expand_by_m(one.projectors, one.projector_overlap)
        )
        for one in species
    ]
    orbitals = [transform_shells(one.shells) for one in species]
    return projector_overlaps(structure, projectors, orbitals, owned)


def atomic_densities(
    projections: ProjectorOverlaps, density_matrix: BlockOperator
) -> AtomicDensities:
    """Return what owned atoms i give to all D_a = sum_ij <p_a|phi_i> P_ij <phi_j|p_a>.

    Parameters
    ----------
    projections : ProjectorOverlaps
        Of `orbital_projections`, for the atoms that the first atoms of `density_matrix` are.
    density_matrix : BlockOperator
        P, sorted by pairs.
    """
    pairs, target = projections.pairs, density_matrix.pairs
    reach = max(
        2 * int(np.abs(pairs.shift_pc).max(initial=0)), int(np.abs(target.shift_pc).max(initial=0))
    )
    keys = PairKeys(len(projections.norb_i), reach)
    nproj_i = projections.nproj_i
    result = AtomicDensities(nproj_i, np.zeros(int((nproj_i**2).sum())))
    _native.add_projected(
        projections.rows,
        projections.by_row,
        projections.row_start_r,
        pairs.first_p,
        pairs.second_p,
        pairs.shift_pc,
        projections.weight_p,
        projections.centre_start_i,
        keys.natoms,
        keys.reach,
        NEGLIGIBLE,
        projections.values,
        projections.offset_p,
        nproj_i,
        projections.norb_i,
        keys.join(target.first_p, target.second_p, target.shift_pc),
        density_matrix.offset_p,
        density_matrix.values,
        result.offset_i,
        result.values,
    )
    return result


def state_projections(
    projections: ProjectorOverlaps, vectors_mn: NDArray, k_c: Sequence[float] | NDArray[np.float64]
) -> NDArray[np.complex128]:
    """Return <p_a|psi_n> = sum_j,R exp(2 pi i k.R) <p_a|phi_j(R)> c_jn of owned atoms j.

    Parameters
    ----------
    projections : ProjectorOverlaps
        Of `orbital_projections` for the owned atoms j.
    vectors_mn : ndarray, shape (M, states)
        Coefficients of all orbitals in the order of the atoms.
    k_c : array_like, shape (3,)
        Fractional k.

    Returns
    -------
    ndarray, shape (all projectors, states)
        In the order of the atoms.
    """
    pairs = projections.pairs
    start_i = np.cumsum(projections.nproj_i) - projections.nproj_i
    first_i = np.cumsum(projections.norb_i) - projections.norb_i
    result = np.zeros((int(projections.nproj_i.sum()), vectors_mn.shape[1]), dtype=np.complex128)
    mine = np.flatnonzero(np.isin(pairs.second_p, projections.rows))
    # A centre (a, cell 0) and an orbital (j, R): seen from cell 0 the factor is exp(2 pi i k.R).
    phase_p = np.exp(2j * np.pi * (pairs.shift_pc @ np.asarray(k_c, dtype=np.float64)))
    kind = (
        projections.nproj_i[pairs.first_p[mine]] * (1 << 20)
        + projections.norb_i[pairs.second_p[mine]]
    )
    for one in np.unique(kind):
        chosen = mine[kind == one]
        blocks = projections.blocks(chosen)
        columns = first_i[pairs.second_p[chosen]][:, None] + np.arange(blocks.shape[2])
        rows = start_i[pairs.first_p[chosen]][:, None] + np.arange(blocks.shape[1])
        terms = (blocks @ vectors_mn[columns]) * phase_p[chosen][:, None, None]
        np.add.at(result, rows, terms)
    return result


def add_augmentation(
    density: GridFunction, structure: Structure, basis: Basis, densities: AtomicDensities
) -> NDArray[np.float64]:
    """Add the augmentation of all atoms to a density, in place.

    Parameters
    ----------
    density : GridFunction
        Smooth density in electrons per cubic Bohr; receives the augmentation on its planes.
    densities : AtomicDensities
        Whole matrices of all atoms.

    Returns
    -------
    ndarray, shape (N,)
        Electrons that each atom's augmentation holds as a sum over the points of these planes.
    """
    held_i = np.zeros(structure.natoms)
    for symbol, atoms in _atoms_by_element(structure):
        waves = partial_waves_of(basis, symbol)
        matrices = densities.of(atoms)

        def augmentation(
            atom_g: NDArray[np.int64],
            vector_gc: NDArray[np.float64],
            waves: PartialWaves = waves,
            matrices: NDArray[np.float64] = matrices,
        ) -> NDArray[np.float64]:
            full, smooth = _waves_at(waves, vector_gc)
            matrix_gkl = matrices[atom_g]
            return np.asarray(
                np.einsum("gk,gkl,gl->g", full, matrix_gkl, full, optimize=True)
                - np.einsum("gk,gkl,gl->g", smooth, matrix_gkl, smooth, optimize=True)
            )

        held_i[atoms] = _add_spheres(density, structure.pos_ic[atoms], waves.radius, augmentation)
    return held_i


def _add_spheres(
    density: GridFunction,
    pos_ac: NDArray[np.float64],
    radius: float,
    function: Callable[[NDArray[np.int64], NDArray[np.float64]], NDArray[np.float64]],
) -> NDArray[np.float64]:
    """Add functions of (atom, vector from its nucleus) inside spheres; returns their sums, (A,)."""
    near = near_nucleus(density.grid)
    held_a = np.zeros(len(pos_ac))
    for sphere in sphere_points(density, pos_ac, radius):
        close = np.linalg.norm(sphere.vector_gc, axis=1) < near
        values_g = np.empty(len(close))
        # Two points along each axis do further out.
        for chosen, parts in ((close, fine_parts(density.grid)), (~close, 2)):
            values_g[chosen] = volume_means(
                sphere.atom_g[chosen], sphere.vector_gc[chosen], density.grid, function, parts
            )
        np.add.at(density.values.reshape(-1), sphere.place_g, values_g)
        np.add.at(held_a, sphere.atom_g, values_g * density.grid.point_volume)
    return held_a


def add_wave_augmentation(
    waves: GridFunction,
    structure: Structure,
    basis: Basis,
    projection_q: NDArray[np.complex128],
    k_c: NDArray[np.float64],
) -> None:
    """Add sum_k <p_a,k|psi> (phi_k - smooth phi_k) of all atoms to a complex state, in place.

    Parameters
    ----------
    waves : GridFunction
        Smooth part of the state.
    projection_q : ndarray, shape (all projectors,)
        As `state_projections`, summed over processes.
    k_c : ndarray, shape (3,)
        Fractional k.
    """
    nproj_i = np.zeros(structure.natoms, dtype=np.int64)
    for symbol, atoms in _atoms_by_element(structure):
        nproj_i[atoms] = sum(2 * p.l + 1 for p in basis.species[symbol].projectors)
    start_i = np.cumsum(nproj_i) - nproj_i
    for symbol, atoms in _atoms_by_element(structure):
        partial = partial_waves_of(basis, symbol)
        of_atoms = projection_q[start_i[atoms][:, None] + np.arange(nproj_i[atoms[0]])]
        for sphere in sphere_points(waves, structure.pos_ic[atoms], partial.radius):
            full, smooth = _waves_at(partial, sphere.vector_gc)
            values_g = np.einsum("gk,gk->g", full - smooth, of_atoms[sphere.atom_g])
            # The sphere is of the atom's image in the cell that the point was wrapped from.
            values_g = values_g * np.exp(-2j * np.pi * (sphere.wrap_gc @ k_c))
            np.add.at(waves.values.reshape(-1), sphere.place_g, values_g)


def _waves_at(
    waves: PartialWaves, vector_gc: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return full and smooth partial waves with their harmonics at vectors from the nucleus."""
    distance_g = np.linalg.norm(vector_gc, axis=1)
    lmax = max(wave.l for wave in waves.full)
    harmonics = real_harmonics(lmax, unit_vectors(vector_gc))
    full, smooth = (
        np.concatenate([wave(distance_g)[:, None] * harmonics[wave.l] for wave in part], axis=1)
        for part in (waves.full, waves.smooth)
    )
    return full, smooth


def _atoms_by_element(structure: Structure) -> Iterator[tuple[str, NDArray[np.int64]]]:
    for number, symbol in enumerate(structure.elements):
        yield symbol, np.flatnonzero(structure.element_index_i == number)
