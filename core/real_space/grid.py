"""A regular grid of the cell, and a function on some of its planes."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.units import ANGSTROM_PER_BOHR

__all__ = ["Grid", "GridFunction", "parse_points"]


@dataclass(frozen=True)
class Grid:
    """Points a/n1 A1 + b/n2 A2 + c/n3 A3 of a periodic cell, without repeated end points.

    Parameters
    ----------
    cell_cc : ndarray, shape (3, 3)
        Lattice vectors as rows, in Bohr.
    shape : tuple of int
        Points n1, n2, n3 along the lattice vectors.

    Raises
    ------
    InputError
        For an axis without points.
    """

    cell_cc: NDArray[np.float64]
    shape: tuple[int, int, int]

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise InputError(f"A grid of {self.shape} points has an axis without any.")

    @classmethod
    def of_spacing(cls, cell_cc: NDArray[np.float64], spacing: float) -> Grid:
        """Return the coarsest grid whose points are at most `spacing` (Bohr) apart on each axis."""
        lengths = np.linalg.norm(cell_cc, axis=1)
        first, second, third = (max(1, int(np.ceil(x / spacing - 1e-9))) for x in lengths)
        return cls(cell_cc, (first, second, third))

    @property
    def npoints(self) -> int:
        """Number of points."""
        return self.shape[0] * self.shape[1] * self.shape[2]

    @property
    def point_volume(self) -> float:
        """Volume in cubic Bohr that a point stands for."""
        return float(abs(np.linalg.det(self.cell_cc))) / self.npoints

    @property
    def step_cc(self) -> NDArray[np.float64]:
        """Vectors from a point to the next one along each axis, as rows, in Bohr."""
        return self.cell_cc / np.array(self.shape)[:, None]

    @property
    def heights_c(self) -> NDArray[np.float64]:
        """Distances between opposite faces of the cell in Bohr, shape (3,)."""
        return np.asarray(1.0 / np.linalg.norm(np.linalg.inv(self.cell_cc), axis=0))

    def positions(self, index_gc: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return Cartesian positions in Bohr of points given by three numbers, (G, 3)."""
        return index_gc @ self.step_cc


@dataclass(frozen=True)
class GridFunction:
    """A function on neighbouring planes of a grid; under MPI each rank has planes of its own.

    Parameters
    ----------
    grid : Grid
    first_plane : int
        Index along the first lattice vector of the first plane held here.
    values : ndarray, shape (planes, n2, n3)
        Function values, real or complex.
    """

    grid: Grid
    first_plane: int
    values: NDArray

    def __post_init__(self) -> None:
        planes = self.first_plane + len(self.values)
        if self.values.shape[1:] != self.grid.shape[1:] or planes > self.grid.shape[0]:
            raise ValueError(
                f"values of shape {self.values.shape} from plane {self.first_plane} do not fit a "
                f"grid of {self.grid.shape}"
            )

    def like(self, values: NDArray) -> GridFunction:
        """Return another function on the same planes."""
        return GridFunction(self.grid, self.first_plane, values)

    def sum(self) -> float:
        """Return the integral over the planes held here."""
        return float(self.values.sum() * self.grid.point_volume)


def parse_points(text: str) -> tuple[int, int, int]:
    """Return the numbers of points of a text like "40x40x120".

    Raises
    ------
    InputError
        When it is something else.
    """
    match = re.fullmatch(r"(\d+)x(\d+)x(\d+)", text.strip().lower())
    if match is None or "0" in match.groups():
        raise InputError(f"{text} is no number of grid points; write 40x40x120, one for each axis.")
    return int(match[1]), int(match[2]), int(match[3])


def spacing_in_bohr(angstrom: float) -> float:
    """Return a spacing given in Angstrom.

    Raises
    ------
    InputError
        For one that is not between 0.02 and 2 Angstrom.
    """
    if not 0.02 <= angstrom <= 2.0:
        raise InputError(
            f"A grid spacing of {angstrom:g} Angstrom is out of range; 0.1 to 0.3 is usual."
        )
    return angstrom / ANGSTROM_PER_BOHR
