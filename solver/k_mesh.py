"""Bands and the Fermi level of a small pencil on a full regular k mesh."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.observables.density_of_states import tetrahedron_level
from hamgnn_solve.core.observables.fermi_surface import FermiSurface
from hamgnn_solve.core.units import EV_PER_HARTREE
from hamgnn_solve.solver.bands import band_range
from hamgnn_solve.solver.dense import dense_bands
from hamgnn_solve.solver.dense_kpoints import over_kpoints
from hamgnn_solve.solver.fermi import check_electrons, fill_bands, normalised_weights
from hamgnn_solve.solver.pencil import Pencil

__all__ = ["fermi_surface", "inequivalent", "regular_mesh"]


def regular_mesh(divisions: tuple[int, int, int]) -> NDArray[np.float64]:
    """Return the k-points (i1 / n1, i2 / n2, i3 / n3), the last axis fastest, shape (K, 3)."""
    axes = [np.arange(n) / n for n in divisions]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)


def inequivalent(
    pencil: Pencil, divisions: tuple[int, int, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return which points of a mesh must be solved, and for each point the one that stands for it.

    Where H(R) is real, H(-k) is the conjugate of H(k) and has the same levels.

    Returns
    -------
    solved : ndarray of int64, shape (U,)
        Points of the mesh.
    source_k : ndarray of int64, shape (K,)
        For each point of the mesh its place in `solved`.
    """
    size = int(np.prod(divisions))
    place_kc = np.stack(np.unravel_index(np.arange(size), divisions))
    partner_k = np.arange(size)
    if pencil.is_real_at((0.0, 0.0, 0.0)):
        opposite = tuple((-place_kc) % np.array(divisions)[:, None])
        partner_k = np.minimum(partner_k, np.ravel_multi_index(opposite, divisions))
    solved, source_k = np.unique(partner_k, return_inverse=True)
    return solved, source_k.ravel()


def fermi_surface(
    pencil: Pencil,
    cell_cc: NDArray[np.float64],
    divisions: tuple[int, int, int],
    electrons: float,
    nbands: int,
    advance: Callable[[], None],
) -> FermiSurface:
    """Return the bands of a metal that cross the Fermi level of a k mesh. Collective.

    The level is where the bands, linear in tetrahedra between the points of the mesh, hold the
    electrons.

    Parameters
    ----------
    pencil : Pencil
        Small enough for LAPACK.
    cell_cc : ndarray, shape (3, 3)
        Lattice vectors as rows in Bohr.
    divisions : tuple of int
        Of the mesh.
    electrons : float
        In the cell.
    nbands : int
        Bands around the Fermi level that are solved.
    advance : callable
        Called after each k-point that is solved.

    Raises
    ------
    InputError
        For an insulator, or when more bands than those solved cross the Fermi level.
    """
    check_electrons(pencil, electrons)
    per_band = pencil.electrons_per_band
    first, _, last = band_range(electrons, per_band, nbands, pencil.norbitals)

    def work(h: NDArray[Any], s: NDArray[Any], k_c: NDArray[np.float64]) -> NDArray[np.float64]:
        return dense_bands(h, s, first, last, k_c)[0]

    mesh_kc = regular_mesh(divisions)
    solved, source_k = inequivalent(pencil, divisions)
    found = []
    for energies_n in over_kpoints(pencil, mesh_kc[solved], work):
        found.append(energies_n)
        advance()
    number = min(len(x) for x in found)
    energies_kn = np.stack([x[:number] for x in found])[source_k]
    weights_k = normalised_weights(mesh_kc, None)
    level = fill_bands(energies_kn, first, pencil.norbitals, weights_k, electrons, per_band)
    if level is None:
        raise InputError(
            f"The {number} bands solved do not enclose the Fermi level on the mesh; give --bands a "
            "larger number."
        )
    if not level.metal:
        raise InputError(
            f"There is no Fermi surface: on the mesh the bands have a gap of "
            f"{level.gap * EV_PER_HARTREE:.3f} eV; leave --fermi-surface out."
        )
    within = electrons / per_band - (first - 1)
    energy = tetrahedron_level(energies_kn, divisions, within)
    lowest_n, highest_n = energies_kn.min(axis=0), energies_kn.max(axis=0)
    crossing = np.flatnonzero((lowest_n < energy) & (highest_n > energy))
    if len(crossing) == 0:
        raise InputError(
            "There is no Fermi surface: no band crosses the Fermi level on this mesh; give a "
            "denser one, or leave --fermi-surface out."
        )
    return FermiSurface(
        energies_kn[:, crossing].T.reshape(len(crossing), *divisions),
        tuple(int(first + n) for n in crossing),
        energy,
        cell_cc,
    )
