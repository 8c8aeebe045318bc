"""Grid sums of GPAW's LCAO mode in real space: density and potential matrices.

GPAW sums the density on the grid once per k-point, which is most of a label's cost. With the
density matrix transformed to real space first,

    n(r) = sum_R sum_mn rho_mn(R) phi_m(r) phi_n(r - R),
    rho_mn(R) = sum_k Re[rho_mn(k) exp(2 pi i k.R)],

one real sum is enough. The basis functions are tabulated once per structure in tiles of the grid,
each with the functions that reach it, so that this sum and that of the potential,

    V_mn(R) = sum_r dv phi_m(r) v(r) phi_n(r - R),

are products of small dense matrices. Both agree with GPAW's own to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["GridSums"]

TILE_SHAPE = (10, 10, 4)


@dataclass(frozen=True)
class _Tile:
    """Basis functions that reach one box of grid points."""

    box: tuple[slice, slice, slice]
    values_ga: NDArray[np.float64]
    orbital_a: NDArray[np.int64]
    place_a: NDArray[np.int64]


class GridSums:
    """Density and potential matrices from tabulated basis functions.

    `take_over` puts its methods in the place of those of GPAW's basis-function object.

    Parameters
    ----------
    dft : gpaw.new.calculation.DFT
        A GPAW calculation before its first step.
    """

    def __init__(self, dft: Any) -> None:
        states = list(dft.ibzwfs)
        grid = dft.density.nt_sR.desc
        self._kpoint_qc = np.array([wfs.kpt_c for wfs in states])
        self._waiting: dict[int, NDArray[np.complex128]] = {}
        self._basis = states[0].basis
        self._volume = grid.dv
        images = _Images(dft, grid)
        reach_c = np.abs(images.shift_nc).max(axis=0)
        sizes_c = 4 * reach_c + 1
        self._shift_xc = np.indices(tuple(sizes_c)).reshape(3, -1).T - 2 * reach_c
        # Place of cell n' - n in the box is place(n') - place(n) + centre.
        strides_c = np.array([sizes_c[1] * sizes_c[2], sizes_c[2], 1])
        self._norb = images.norb
        self._place_x = self._places_of_displacements(strides_c, reach_c)
        self._centre = int(2 * reach_c @ strides_c)
        self._tiles = [
            tile
            for box in _boxes(grid.myshape)
            if (tile := images.tile(box, strides_c)) is not None
        ]

    def take_over(self) -> None:
        """Let GPAW's calculation use these sums from now on."""
        self._basis.construct_density = self.construct_density
        self._basis.calculate_potential_matrices = self.calculate_potential_matrices

    def give_back(self) -> None:
        """Let GPAW's calculation use its own sums again."""
        del self._basis.construct_density, self._basis.calculate_potential_matrices

    def calculate_potential_matrices(self, potential_g: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return <phi_m in cell 0 | v | phi_n in cell -d>, shape (X, M, M), Hartree.

        Parameters
        ----------
        potential_g : ndarray, shape of the grid
            Effective potential v in Hartree; the displacements d are GPAW's `sdisp_xc`.
        """
        v_xmm = np.zeros((len(self._shift_xc), self._norb, self._norb))
        flat = v_xmm.reshape(-1)
        for tile in self._tiles:
            weight_g = self._volume * potential_g[tile.box].reshape(-1, 1)
            v_ab = tile.values_ga.T @ (weight_g * tile.values_ga)
            np.add.at(flat, self._flat_places(tile), v_ab)
        return v_xmm[self._place_x]

    def construct_density(
        self, rho_mm: NDArray[np.complex128], density_g: NDArray[np.float64], q: int
    ) -> None:
        """Keep the density matrix of k-point `q`; with the last one add the density.

        Parameters
        ----------
        rho_mm : ndarray, shape (M, M)
            sum_n f_n conj(C_nm) C_nm' of the k-point, with its weight.
        density_g : ndarray, shape of the grid
            Density in electrons per cubic Bohr that is added to.
        q : int
            Number of the k-point.
        """
        self._waiting[q] = rho_mm
        if len(self._waiting) < len(self._kpoint_qc):
            return
        rho_xmm = self._to_real_space()
        self._waiting = {}
        for tile in self._tiles:
            rho_ab = rho_xmm.reshape(-1)[self._flat_places(tile)]
            values_g = np.einsum("ga,ga->g", tile.values_ga @ rho_ab, tile.values_ga)
            density_g[tile.box] += values_g.reshape(density_g[tile.box].shape)

    def _flat_places(self, tile: _Tile) -> NDArray[np.int64]:
        """Return where the tile's pairs of functions lie in a matrix O(R), shape (A, A)."""
        cells_ab = tile.place_a[None, :] - tile.place_a[:, None] + self._centre
        return (cells_ab * self._norb + tile.orbital_a[:, None]) * self._norb + tile.orbital_a

    def _places_of_displacements(
        self, strides_c: NDArray[np.int64], reach_c: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Return where the cells -d of GPAW's displacements d lie in the box of cells."""
        shift_xc = -np.asarray(self._basis.sdisp_xc)
        if (np.abs(shift_xc) > 2 * reach_c).any():
            raise RuntimeError("GPAW pairs basis functions of cells that none of them reaches")
        return (shift_xc + 2 * reach_c) @ strides_c

    def _to_real_space(self) -> NDArray[np.float64]:
        """Return rho(R) = Re sum_k rho(k) exp(2 pi i k.R), shape (X, M, M)."""
        rho_qmm = np.array([self._waiting[q] for q in range(len(self._kpoint_qc))])
        angle_xq = 2 * np.pi * self._shift_xc @ self._kpoint_qc.T
        shape = rho_qmm.shape[1:]
        flat_qm = rho_qmm.reshape(len(rho_qmm), -1)
        rho_xm = np.cos(angle_xq) @ flat_qm.real - np.sin(angle_xq) @ flat_qm.imag
        return rho_xm.reshape(-1, *shape)


class _Images:
    """Atoms of all cells whose basis functions reach the home cell."""

    def __init__(self, dft: Any, grid: Any) -> None:
        from gpaw.sphere.spherical_harmonics import Y

        self._harmonic = Y
        self._points_gv = grid.xyz()
        self._functions_i = [setup.basis_functions_J for setup in dft.setups]
        norb_i = np.array([setup.nao for setup in dft.setups])
        self.norb = int(norb_i.sum())
        start_i = np.concatenate([[0], np.cumsum(norb_i)[:-1]])
        cutoff_i = np.array(
            [max(spline.get_cutoff() for spline in splines) for splines in self._functions_i]
        )
        heights_c = 1 / np.linalg.norm(np.linalg.inv(grid.cell_cv), axis=0)
        reach_c = np.where(grid.pbc_c, np.ceil(cutoff_i.max() / heights_c).astype(int) + 1, 0)
        shift_xc = np.indices(tuple(2 * reach_c + 1)).reshape(3, -1).T - reach_c
        atom_n = np.tile(np.arange(len(norb_i)), len(shift_xc))
        shift_nc = np.repeat(shift_xc, len(norb_i), axis=0)
        fractional_nc = dft.relpos_ac[atom_n] + shift_nc
        # An image further from the cell's slab than its cutoff reaches no point of it.
        outside_nc = np.maximum(np.maximum(-fractional_nc, fractional_nc - 1), 0) * heights_c
        used_n = (outside_nc < cutoff_i[atom_n, None]).all(axis=1)
        self.shift_nc = shift_nc[used_n]
        self._atom_n = atom_n[used_n]
        self._position_nv = fractional_nc[used_n] @ grid.cell_cv
        self._cutoff_n = cutoff_i[self._atom_n]
        self._start_n = start_i[self._atom_n]

    def tile(self, box: tuple[slice, slice, slice], strides_c: NDArray[np.int64]) -> _Tile | None:
        """Tabulate the functions that reach the grid points of `box`; None without any."""
        points_gv = self._points_gv[box].reshape(-1, 3)
        middle_v = points_gv.mean(axis=0)
        radius = np.linalg.norm(points_gv - middle_v, axis=1).max()
        near_n = np.flatnonzero(
            np.linalg.norm(self._position_nv - middle_v, axis=1) < radius + self._cutoff_n
        )
        columns, orbitals, places = [], [], []
        for n in near_n:
            vector_gv = points_gv - self._position_nv[n]
            distance_g = np.linalg.norm(vector_gv, axis=1)
            orbital = self._start_n[n]
            for spline in self._functions_i[self._atom_n[n]]:
                degree = spline.get_angular_momentum_number()
                reached_g = distance_g < spline.get_cutoff()
                if reached_g.any():
                    radial_g = np.where(reached_g, spline.map(distance_g), 0.0)
                    for m in range(2 * degree + 1):
                        harmonic_g = self._harmonic(degree**2 + m, *vector_gv.T)
                        columns.append(radial_g * harmonic_g)
                        orbitals.append(orbital + m)
                        places.append(self.shift_nc[n] @ strides_c)
                orbital += 2 * degree + 1
        if not columns:
            return None
        return _Tile(box, np.stack(columns, axis=1), np.array(orbitals), np.array(places))


def _boxes(shape: tuple[int, int, int]) -> list[tuple[slice, slice, slice]]:
    """Divide a grid into boxes of at most `TILE_SHAPE` points."""
    cuts = [
        [slice(start, min(start + step, size)) for start in range(0, size, step)]
        for size, step in zip(shape, TILE_SHAPE, strict=True)
    ]
    return [(first, second, third) for first in cuts[0] for second in cuts[1] for third in cuts[2]]
