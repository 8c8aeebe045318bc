"""Grid points around nuclei, where functions have cusps that the grid does not resolve."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hamgnn_solve.core.real_space.grid import Grid, GridFunction

__all__ = [
    "Sphere",
    "fine_parts",
    "give_to_nearest",
    "near_nucleus",
    "sphere_points",
    "volume_means",
]

# Grid steps from a nucleus within which means over volumes need fine points, and their distance in
# Bohr.
NEAR = 2.0
FINE = 0.06
# Points of boxes around atoms that are looked at together.
BATCH = 1 << 21


def near_nucleus(grid: Grid) -> float:
    """Return the distance from a nucleus in Bohr within which points need fine means."""
    return float(NEAR * np.linalg.norm(grid.step_cc, axis=1).max())


def fine_parts(grid: Grid) -> int:
    """Return the points along each axis of a volume that make a fine mean."""
    return max(2, int(np.ceil(np.linalg.norm(grid.step_cc, axis=1).max() / FINE)))


@dataclass(frozen=True)
class Sphere:
    """Grid points inside the spheres of some atoms.

    Parameters
    ----------
    atom_g : ndarray of int64, shape (G,)
        Number of each point's atom in the list of atoms.
    place_g : ndarray of int64, shape (G,)
        Flat place in the array of planes.
    vector_gc : ndarray, shape (G, 3)
        From the nucleus, in Bohr.
    wrap_gc : ndarray of int64, shape (G, 3)
        By how many cells the point was moved to lie in the home cell.
    """

    atom_g: NDArray[np.int64]
    place_g: NDArray[np.int64]
    vector_gc: NDArray[np.float64]
    wrap_gc: NDArray[np.int64]


def sphere_points(
    function: GridFunction, pos_ac: NDArray[np.float64], radius: float
) -> Iterator[Sphere]:
    """Yield the points of a function's planes inside spheres (Bohr), a batch of atoms at a time."""
    grid = function.grid
    shape = np.array(grid.shape)
    half_c = np.ceil(radius / grid.heights_c * shape).astype(np.int64) + 1
    offsets = np.indices(tuple(2 * half_c + 1)).reshape(3, -1).T - half_c
    inverse = np.linalg.inv(grid.step_cc)
    step = max(1, BATCH // len(offsets))
    for start in range(0, len(pos_ac), step):
        nearest_ac = np.rint(pos_ac[start : start + step] @ inverse).astype(np.int64)
        index = nearest_ac[:, None, :] + offsets
        wrap, home = np.divmod(index, shape)
        plane = home[..., 0] - function.first_plane
        here = (plane >= 0) & (plane < len(function.values))
        atom = np.nonzero(here)[0]
        vector_gc = grid.positions(index[here]) - pos_ac[start + atom]
        inside = np.einsum("gc,gc->g", vector_gc, vector_gc) < radius**2
        atom, vector_gc = atom[inside], vector_gc[inside]
        home, wrap = home[here][inside], wrap[here][inside]
        place = (home[:, 0] - function.first_plane) * shape[1] + home[:, 1]
        yield Sphere(start + atom, place * shape[2] + home[:, 2], vector_gc, wrap)


def nearest_points(grid: Grid, pos_ic: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the grid point in the home cell that is nearest to each nucleus, shape (N, 3)."""
    index = np.rint(pos_ic @ np.linalg.inv(grid.step_cc)).astype(np.int64)
    return np.asarray(index % np.array(grid.shape))


def give_to_nearest(
    density: GridFunction, pos_ic: NDArray[np.float64], missing_i: NDArray[np.float64]
) -> None:
    """Add electrons to the points nearest to the nuclei, in place where these planes have them."""
    point_ic = nearest_points(density.grid, pos_ic)
    plane_i = point_ic[:, 0] - density.first_plane
    here = (plane_i >= 0) & (plane_i < len(density.values))
    places = (plane_i[here], point_ic[here, 1], point_ic[here, 2])
    np.add.at(density.values, places, missing_i[here] / density.grid.point_volume)


def volume_means(
    atom_g: NDArray[np.int64],
    vector_gc: NDArray[np.float64],
    grid: Grid,
    function: Callable[[NDArray[np.int64], NDArray[np.float64]], NDArray[np.float64]],
    parts: int,
) -> NDArray[np.float64]:
    """Return the mean of a function around nuclei over the volume of each point.

    Parameters
    ----------
    atom_g, vector_gc : ndarray
        Of the points, as in a `Sphere`.
    grid : Grid
    function : callable
        Gets numbers of atoms and vectors in Bohr.
    parts : int
        Points along each axis of a volume.
    """
    within = (np.indices((parts,) * 3).reshape(3, -1).T + 0.5) / parts - 0.5
    total_g = np.zeros(len(atom_g))
    for offset_c in within @ grid.step_cc:
        total_g += function(atom_g, vector_gc + offset_c)
    return total_g / len(within)
