"""Atomic orbitals on a grid: the densities and states that they add up to.

The grid is cut into tiles of a few points along each axis. On a tile only the orbitals that reach
it are tabulated, and a density there is the product of two small dense matrices, so that the cost
of a point does not depend on the size of the structure (native/orbital_grid.cpp).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from hamgnn_solve._native import OrbitalTiles
from hamgnn_solve.core.basis.species import AnyRadialFunction, Basis
from hamgnn_solve.core.operator import BlockOperator
from hamgnn_solve.core.real_space.grid import Grid, GridFunction
from hamgnn_solve.core.structure import Structure

__all__ = ["OrbitalGrid", "TileFunction", "Tiling", "images_in_reach", "tiling_of"]

# Points of a tile along each axis, at most: five are best from 0.1 to 0.3 Angstrom.
TILE = 5
# Bohr. Intervals of the radial tables; cubic splines on them miss tight d shells by 2e-8.
STEP = 0.01
# Bohr. Below this R(r) / r^l is continued from further out.
CENTRE = 0.05
# Tiles between two reports of progress.
TILES_AT_A_TIME = 2048


@dataclass(frozen=True)
class Tiling:
    """A grid cut into boxes of points.

    Parameters
    ----------
    grid : Grid
    bounds : tuple of three ndarray of int64
        First point of each tile along an axis, and the number of points last.
    """

    grid: Grid
    bounds: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of tiles along each axis."""
        first, second, third = (len(x) - 1 for x in self.bounds)
        return first, second, third

    def boxes(self, tiles: NDArray[np.int64]) -> list[tuple[slice, slice, slice]]:
        """Return the points of tiles, numbered with the last axis fastest."""
        places = np.unravel_index(tiles, self.shape)
        return [
            (slice(a0, a1), slice(b0, b1), slice(c0, c1))
            for a0, a1, b0, b1, c0, c1 in np.stack(
                [self.bounds[c][places[c] + end] for c in range(3) for end in (0, 1)], axis=1
            ).tolist()
        ]


def tiling_of(grid: Grid, points: int = TILE) -> Tiling:
    """Return a grid cut into nearly equal tiles of at most `points` points along an axis."""
    first, second, third = (
        np.round(np.linspace(0, n, -(-n // points) + 1)).astype(np.int64) for n in grid.shape
    )
    return Tiling(grid, (first, second, third))


@dataclass(frozen=True)
class TileFunction:
    """Functions on some tiles.

    Parameters
    ----------
    tiling : Tiling
    tiles : ndarray of int64, shape (T,)
        Ascending numbers of the tiles.
    values : ndarray, shape (T, functions, room)
        Values on the points of each tile, last axis fastest; what is beyond its points is unused.
    """

    tiling: Tiling
    tiles: NDArray[np.int64]
    values: NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.values.ndim != 3 or len(self.values) != len(self.tiles):
            raise ValueError(f"{len(self.tiles)} tiles, values of shape {self.values.shape}")

    def add_to(self, planes: NDArray[np.float64], first_plane: int) -> None:
        """Add to arrays of neighbouring planes, shape (functions, planes, n2, n3).

        All tiles must lie within the planes.
        """
        for (a, b, c), values in zip(self.tiling.boxes(self.tiles), self.values, strict=True):
            shape = (a.stop - a.start, b.stop - b.start, c.stop - c.start)
            box = (slice(None), slice(a.start - first_plane, a.stop - first_plane), b, c)
            planes[box] += values[:, : shape[0] * shape[1] * shape[2]].reshape(-1, *shape)


@dataclass(frozen=True)
class Images:
    """Atoms of all cells whose orbitals reach the home cell.

    Parameters
    ----------
    atom_n : ndarray of int64, shape (I,)
    shift_nc : ndarray of int64, shape (I, 3)
        Cell of each image in lattice vectors.
    position_nc : ndarray, shape (I, 3)
        In Bohr.
    """

    atom_n: NDArray[np.int64]
    shift_nc: NDArray[np.int64]
    position_nc: NDArray[np.float64]

    @cached_property
    def _table(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Place of the image of each atom and cell, -1 without one, and the lowest cell."""
        low_c = self.shift_nc.min(axis=0)
        sizes_c = self.shift_nc.max(axis=0) - low_c + 1
        table = np.full((int(self.atom_n.max()) + 1, *sizes_c), -1, dtype=np.int64)
        table[(self.atom_n, *(self.shift_nc - low_c).T)] = np.arange(len(self.atom_n))
        return table, low_c

    def find(self, atom: NDArray[np.int64], shift: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the images of atoms in cells, -1 where they do not reach the home cell."""
        table, low_c = self._table
        place = shift - low_c
        inside = ((place >= 0) & (place < table.shape[1:])).all(axis=1) & (atom < len(table))
        found = np.full(len(atom), -1, dtype=np.int64)
        found[inside] = table[(atom[inside], *place[inside].T)]
        return found


def images_in_reach(structure: Structure, grid: Grid, reach_i: NDArray[np.float64]) -> Images:
    """Return all images of atoms whose spheres meet the home cell.

    Parameters
    ----------
    structure : Structure
    grid : Grid
        Of the structure's cell.
    reach_i : ndarray, shape (N,)
        Radius of each atom's sphere in Bohr.
    """
    heights_c = grid.heights_c
    home_ic = -np.floor(structure.fractional_ic).astype(np.int64)
    most_c = np.ceil(reach_i.max() / heights_c).astype(np.int64)
    cells = np.indices(tuple(2 * most_c + 1)).reshape(3, -1).T - most_c
    atom_n = np.repeat(np.arange(structure.natoms), len(cells))
    shift_nc = np.tile(cells, (structure.natoms, 1)) + home_ic[atom_n]
    fractional_nc = structure.fractional_ic[atom_n] + shift_nc
    outside_nc = np.maximum(np.maximum(-fractional_nc, fractional_nc - 1.0), 0.0) * heights_c
    near = (outside_nc < reach_i[atom_n, None]).all(axis=1)
    return Images(
        atom_n[near], shift_nc[near], structure.pos_ic[atom_n[near]] + shift_nc[near] @ grid.cell_cc
    )


class OrbitalGrid:
    """The orbitals of a structure on a grid, seen from the atoms that a process owns.

    Parameters
    ----------
    structure : Structure
    basis : Basis
        Its species need radial functions.
    grid : Grid
    owned : ndarray of int64
        Atoms i whose terms are added up: of a density all P_ij phi_i phi_j, of a state c_i phi_i.
    planes : tuple of int, optional
        First plane that is wanted and the one behind the last, whole layers of tiles; all of them
        by default.
    """

    def __init__(
        self,
        structure: Structure,
        basis: Basis,
        grid: Grid,
        owned: NDArray[np.int64],
        planes: tuple[int, int] | None = None,
    ) -> None:
        self.tiling = tiling_of(grid)
        layers = np.searchsorted(self.tiling.bounds[0], planes or (0, grid.shape[0]))
        self.norb_i = basis.norb_i(structure)
        self.images = images_in_reach(structure, grid, basis.cutoff_i(structure))
        self._owned = np.isin(self.images.atom_n, owned)
        species = [basis.species[symbol] for symbol in structure.elements]
        shells = [shell for one in species for shell in one.shells]
        tables = [radial_table(shell) for shell in shells]
        counts = [len(one.shells) for one in species]
        sizes = [len(table) for table in tables]
        self._native = OrbitalTiles(
            np.ascontiguousarray(grid.cell_cc),
            *self.tiling.bounds,
            self.images.atom_n,
            structure.element_index_i[self.images.atom_n],
            self._owned.astype(np.int64),
            np.ascontiguousarray(self.images.position_nc),
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            np.array([shell.l for shell in shells], dtype=np.int64),
            np.array([shell.cutoff for shell in shells], dtype=np.float64),
            (np.cumsum(sizes) - sizes).astype(np.int64),
            np.concatenate(tables).ravel(),
            STEP,
            np.array([one.cutoff for one in species], dtype=np.float64),
            int(layers[0]),
            int(layers[1]),
        )
        self.tiles: NDArray[np.int64] = self._native.tiles()

    @property
    def mean_orbitals(self) -> float:
        """Orbitals on a tile, the mean over at most a thousand of them."""
        return self._native.mean_orbitals(0, min(len(self.tiles), 1000))

    def density(
        self, density_matrix: BlockOperator, notify: Callable[[int], None] | None = None
    ) -> TileFunction:
        """Return sum_ij P_ij(R) phi_i(r) phi_j(r - R), i an owned atom, in electrons per Bohr^3.

        Parameters
        ----------
        density_matrix : BlockOperator
            Real P on pairs whose first atom is owned; P_ij(R) = P_ji(-R) between owned atoms.
        notify : callable, optional
            Called with a number of tiles that are done.
        """
        pairs = density_matrix.pairs
        own = np.flatnonzero(self._owned)
        atom_n = self.images.atom_n[own]
        start = np.searchsorted(pairs.first_p, atom_n)
        count = np.searchsorted(pairs.first_p, atom_n, side="right") - start
        image = np.repeat(own, count)
        before = np.repeat(np.cumsum(count) - count, count)
        pair = np.repeat(start, count) + np.arange(len(image)) - before
        partner = self.images.find(
            pairs.second_p[pair], self.images.shift_nc[image] + pairs.shift_pc[pair]
        )
        image, pair, partner = (x[partner >= 0] for x in (image, pair, partner))
        partner_start = np.searchsorted(image, np.arange(len(self._owned) + 1)).astype(np.int64)
        values = np.zeros((len(self.tiles), 1, self._native.stride))
        for begin, end in self._parts():
            self._native.density(
                begin,
                end,
                partner_start,
                partner,
                density_matrix.offset_p[pair],
                self.norb_i[pairs.second_p[pair]],
                density_matrix.values,
                values[begin:end, 0],
            )
            if notify is not None:
                notify(end - begin)
        return TileFunction(self.tiling, self.tiles, values)

    def states(
        self, vectors_mn: NDArray, k_c: Sequence[float] | NDArray[np.float64]
    ) -> TileFunction:
        """Return sum_i,R exp(2 pi i k.R) c_in phi_i(r - R), i an owned atom.

        Parameters
        ----------
        vectors_mn : ndarray, shape (M, states)
            Coefficients of all orbitals in the order of the atoms; only those of owned atoms enter.
        k_c : array_like, shape (3,)
            Fractional k.

        Returns
        -------
        TileFunction
            Real and imaginary part of each state, one after the other, in Bohr^(-3/2).
        """
        angle_n = 2.0 * np.pi * (self.images.shift_nc @ np.asarray(k_c, dtype=np.float64))
        nstates = vectors_mn.shape[1]
        values = np.zeros((len(self.tiles), 2 * nstates, self._native.stride))
        for begin, end in self._parts():
            self._native.states(
                begin,
                end,
                self._first_orbital,
                np.ascontiguousarray(vectors_mn.real, dtype=np.float64),
                np.ascontiguousarray(vectors_mn.imag, dtype=np.float64),
                np.cos(angle_n),
                np.sin(angle_n),
                values[begin:end],
            )
        return TileFunction(self.tiling, self.tiles, values)

    def projections(self, function: GridFunction) -> NDArray[np.float64]:
        """Return the integrals of phi_m f over the planes of this grid, m an owned orbital.

        Parameters
        ----------
        function : GridFunction
            Real f, on all planes of this grid.

        Returns
        -------
        ndarray, shape (M,)
            Zero for the orbitals of other atoms.
        """
        sums = np.zeros(int(self.norb_i.sum()))
        boxes = self.tiling.boxes(self.tiles)
        for begin, end in self._parts():
            values = np.zeros((end - begin, self._native.stride))
            for tile_values, (a, b, c) in zip(values, boxes[begin:end], strict=True):
                planes = slice(a.start - function.first_plane, a.stop - function.first_plane)
                box = function.values[planes, b, c].ravel()
                tile_values[: len(box)] = box
            self._native.projections(begin, end, self._first_orbital, values, sums)
        return sums * function.grid.point_volume

    @property
    def _first_orbital(self) -> NDArray[np.int64]:
        return np.cumsum(self.norb_i) - self.norb_i

    def _parts(self) -> list[tuple[int, int]]:
        ends = [*range(TILES_AT_A_TIME, len(self.tiles), TILES_AT_A_TIME), len(self.tiles)]
        return list(zip([0, *ends[:-1]], ends, strict=True))


def radial_table(shell: AnyRadialFunction) -> NDArray[np.float64]:
    """Return cubics of R(r) / r^l on intervals of `STEP` up to the cutoff, shape (intervals, 4).

    Powers 0 to 3 of the place within an interval, which runs from 0 to 1.
    """
    radius_g = STEP * np.arange(int(np.ceil(shell.cutoff / STEP)) + 2)
    values_g = shell(np.minimum(radius_g, shell.cutoff * (1.0 - 1e-12)))
    # With the parabola in r^2 through three points at the edge of the centre.
    outside = radius_g >= CENTRE
    reduced_g = np.where(outside, values_g / np.where(outside, radius_g, 1.0) ** shell.l, 0.0)
    if shell.l == 0:
        reduced_g = values_g
    else:
        edge = np.flatnonzero(outside)[[0, 3, 6]]
        parabola = np.polyfit(radius_g[edge] ** 2, reduced_g[edge], 2)
        reduced_g[~outside] = np.polyval(parabola, radius_g[~outside] ** 2)
    spline = CubicSpline(radius_g, reduced_g, bc_type=((1, 0.0), "not-a-knot"))
    return np.ascontiguousarray((spline.c[::-1] * STEP ** np.arange(4)[:, None]).T)
