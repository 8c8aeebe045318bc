"""Single hexagonal layers, the sheets that bilayers are stacked of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Element
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.io.structure import read_structure
from hamgnn_solve.core.pairs import find_pairs
from hamgnn_solve.core.structure import Structure
from hamgnn_solve.core.units import ANGSTROM_PER_BOHR

__all__ = [
    "HEXAGONAL_AXES",
    "HEXAGONAL_LAYERS",
    "HexagonalLayer",
    "find_layer",
    "layer_of_structure",
]

# Lattice vectors of a hexagonal layer in units of its lattice constant, as rows.
HEXAGONAL_AXES = np.array([[1.0, 0.0], [-0.5, np.sqrt(0.75)]])

# Cells of files are taken for hexagonal up to this relative error of lengths and of the cosine.
HEXAGONAL_TOLERANCE = 1e-3

# Atoms closer than this multiple of the sum of their atomic radii (Slater, J. Chem. Phys. 41, 3199
# (1964)) are bonded. Bonds within layers reach about 1.15, distances between layers begin at 1.3.
BOND_REACH = 1.2


@dataclass(frozen=True)
class HexagonalLayer:
    """One layer with a hexagonal lattice.

    Parameters
    ----------
    name : str
        What the layer is called, such as "MoS2".
    lattice : float
        Lattice constant in Bohr.
    symbols : tuple of str
        Chemical symbols of the atoms in the cell, length N.
    fractional_ic : ndarray, shape (N, 2)
        Places in the plane, in units of two lattice vectors at 120 degrees (`HEXAGONAL_AXES`).
    height_i : ndarray, shape (N,)
        Heights in Bohr above the mid-plane, which lies halfway between the lowest and the
        highest atom: the plane of the metal in a dichalcogenide.
    spacing : float, optional
        Distance in Bohr between the mid-planes of two such layers, where it is known.

    Raises
    ------
    InputError
        For a lattice constant or spacing that is not positive.
    """

    name: str
    lattice: float
    symbols: tuple[str, ...]
    fractional_ic: NDArray[np.float64]
    height_i: NDArray[np.float64]
    spacing: float | None = None

    def __post_init__(self) -> None:
        natoms = len(self.symbols)
        shapes = (self.fractional_ic.shape, self.height_i.shape)
        if natoms == 0 or shapes != ((natoms, 2), (natoms,)):
            raise ValueError(f"{natoms} symbols, but the places and heights have shapes {shapes}")
        if abs(self.height_i.min() + self.height_i.max()) > 1e-9:
            raise ValueError("the heights of a layer count from its mid-plane")
        for length in (self.lattice, self.spacing):
            if length is not None and not 0 < length < np.inf:
                raise InputError(f"Layer {self.name} has a length that is not positive; mend it.")

    @property
    def natoms(self) -> int:
        """Number of atoms in the cell of the layer."""
        return len(self.symbols)

    @property
    def half_thickness(self) -> float:
        """Height of the highest atom above the mid-plane in Bohr."""
        return float(self.height_i.max())


def _table_layer(
    name: str,
    symbols: tuple[str, ...],
    lattice: float,
    spacing: float,
    height: float | None = None,
) -> HexagonalLayer:
    """Return a layer with one kind of atom at (1/3, 2/3) and one at (2/3, 1/3).

    Lengths in Angstrom. With a height the second kind lies above and below the plane of the first.
    """
    places = [[1 / 3, 2 / 3]] + (len(symbols) - 1) * [[2 / 3, 1 / 3]]
    heights = [0.0, 0.0] if height is None else [0.0, height, -height]
    return HexagonalLayer(
        name,
        lattice / ANGSTROM_PER_BOHR,
        symbols,
        np.array(places),
        np.array(heights) / ANGSTROM_PER_BOHR,
        spacing / ANGSTROM_PER_BOHR,
    )


# Dichalcogenides (2H): lattice constant and height of the chalcogen above the metal of the relaxed
# PBE monolayer, as in the Computational 2D Materials Database (Haastrup et al., 2D Mater. 5, 042002
# (2018)), rounded. Spacing: half the lattice constant c of the bulk crystal, measured by Bronsema,
# de Boer and Jellinek, Z. Anorg. Allg. Chem. 540, 15 (1986) for Mo, and by Schutte, de Boer and
# Jellinek, J. Solid State Chem. 70, 207 (1987) for W.
# Graphene: graphite at room temperature, Baskin and Meyer, Phys. Rev. 100, 544 (1955).
# hBN: Pease, Acta Cryst. 5, 356 (1952).
HEXAGONAL_LAYERS = {
    layer.name: layer
    for layer in (
        _table_layer("MoS2", ("Mo", "S", "S"), 3.18, 6.15, 1.565),
        _table_layer("WS2", ("W", "S", "S"), 3.19, 6.16, 1.570),
        _table_layer("MoSe2", ("Mo", "Se", "Se"), 3.32, 6.46, 1.670),
        _table_layer("WSe2", ("W", "Se", "Se"), 3.32, 6.48, 1.680),
        _table_layer("graphene", ("C", "C"), 2.46, 3.35),
        _table_layer("hBN", ("B", "N"), 2.50, 3.33),
    )
}


def find_layer(name: str) -> HexagonalLayer:
    """Return a layer of the table, or the one in a structure file.

    Parameters
    ----------
    name : str
        A name in `HEXAGONAL_LAYERS`, small and capital letters alike, or else a file.

    Raises
    ------
    InputError
        If it is neither, and for everything that `read_structure` and `layer_of_structure` refuse.
    """
    for known, layer in HEXAGONAL_LAYERS.items():
        if name.casefold() == known.casefold():
            return layer
    if not Path(name).is_file():
        raise InputError(
            f"The layer {name} is neither one of {', '.join(HEXAGONAL_LAYERS)} nor a structure "
            "file; give a name of this list or the file of one hexagonal layer."
        )
    return layer_of_structure(read_structure(name), name)


def layer_of_structure(structure: Structure, name: str) -> HexagonalLayer:
    """Return the single hexagonal layer that a structure holds.

    Parameters
    ----------
    structure : Structure
        A cell whose first two lattice vectors are equally long at 60 or 120 degrees (to one part
        in a thousand), and whose third leads out of the layer, which may cross the cell's boundary.
    name : str
        What to call the layer.

    Returns
    -------
    HexagonalLayer
        The layer seen with the third lattice vector pointing up; its first lattice vector is that
        of the structure, and atoms keep their order. No spacing.

    Raises
    ------
    InputError
        If the cell is not hexagonal, or its atoms are not one layer held together by bonds.
    """
    axes_cc = _layer_axes(structure.cell_cc, name)
    normal_c = np.cross(axes_cc[0], axes_cc[1])
    area = float(np.linalg.norm(normal_c))
    normal_c /= area
    pos_ic = structure.pos_ic - np.outer(_cells_above(structure), structure.cell_cc[2])
    _check_one_layer(structure, pos_ic @ normal_c, normal_c, name)
    places_ic = np.linalg.solve(np.vstack([axes_cc, normal_c]).T, pos_ic.T).T
    height_i = places_ic[:, 2] - (places_ic[:, 2].min() + places_ic[:, 2].max()) / 2
    lattice = np.sqrt(area / np.sqrt(0.75))
    return HexagonalLayer(name, lattice, structure.symbols, places_ic[:, :2], height_i)


def _layer_axes(cell_cc: NDArray[np.float64], name: str) -> NDArray[np.float64]:
    """Return the first lattice vector and the one 120 degrees on, about the third, shape (2, 3)."""
    a, b, c = cell_cc
    lengths = np.linalg.norm([a, b], axis=1)
    cosine = np.dot(a, b) / lengths.prod()
    if (
        abs(lengths[1] / lengths[0] - 1) > HEXAGONAL_TOLERANCE
        or abs(abs(cosine) - 0.5) > HEXAGONAL_TOLERANCE
    ):
        raise InputError(
            f"The first two lattice vectors of {name} are {lengths[0] * ANGSTROM_PER_BOHR:.4f} and "
            f"{lengths[1] * ANGSTROM_PER_BOHR:.4f} Angstrom long at "
            f"{np.degrees(np.arccos(cosine)):.2f} degrees; give a hexagonal layer, with equal "
            "lengths at 60 or 120 degrees and the vacuum along the third lattice vector."
        )
    right_handed = np.dot(np.cross(a, b), c) > 0
    if cosine > 0:
        return np.array([a, b - a if right_handed else -b])
    return np.array([a, b if right_handed else -a - b])


def _cells_above(structure: Structure) -> NDArray[np.float64]:
    """Return how many cells each atom lies above the whole layer it belongs to, shape (N,).

    The layer is cut out of the periodic stack at the widest gap between its atoms.
    """
    fraction_i = structure.fractional_ic[:, 2]
    inside_i = fraction_i % 1.0
    sorted_i = np.sort(inside_i)
    gap_i = np.diff(np.append(sorted_i, sorted_i[0] + 1.0))
    lowest = sorted_i[(int(np.argmax(gap_i)) + 1) % len(gap_i)]
    return np.floor(fraction_i) + (0.0 if lowest == sorted_i[0] else inside_i >= lowest)


def _check_one_layer(
    structure: Structure,
    height_i: NDArray[np.float64],
    normal_c: NDArray[np.float64],
    name: str,
) -> None:
    radii = {symbol: float(Element(symbol).atomic_radius or 0.0) for symbol in structure.elements}
    reach_i = BOND_REACH * np.array([radii[symbol] for symbol in structure.symbols])
    bonds = find_pairs(structure, reach_i / ANGSTROM_PER_BOHR)
    within_p = np.isclose(
        bonds.vector_pc @ normal_c, height_i[bonds.second_p] - height_i[bonds.first_p], atol=1e-6
    )
    if not within_p.all():
        p = int(np.argmin(within_p))
        i, j = int(bonds.first_p[p]), int(bonds.second_p[p])
        raise InputError(
            f"Atoms {i + 1} ({structure.symbols[i]}) and {j + 1} ({structure.symbols[j]}) of "
            f"{name} are bonded across the third lattice vector; give one layer with vacuum above."
        )
    shape = (structure.natoms, structure.natoms)
    graph = coo_array((np.ones(len(bonds)), (bonds.first_p, bonds.second_p)), shape=shape)
    parts = connected_components(graph, directed=False)[0]
    if parts > 1:
        raise InputError(
            f"The atoms of {name} are {parts} parts that no bond connects; give one layer alone."
        )
