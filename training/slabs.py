"""Slabs of one or two hexagonal layers, in the stackings that a training set needs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from hamgnn_solve.core.building.hexagonal_layers import HEXAGONAL_LAYERS
from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.units import ANGSTROM_PER_BOHR

__all__ = ["SlabEntry", "build_slab", "center_slab"]

# Rows are lattice vectors of the larger cell in units of those of the primitive one.
SUPERCELLS = {
    "1x1": np.array([[1, 0], [0, 1]]),
    "2x2": np.array([[2, 0], [0, 2]]),
    "rectangular": np.array([[1, 0], [1, 2]]),
}
# The open axis is a multiple of this length (4 grid points of 0.15 Angstrom), so that every slab
# has the same grid spacing.
OPEN_STEP = 0.6


@dataclass(frozen=True)
class SlabEntry:
    """One slab of a recipe; lengths in Angstrom.

    Parameters
    ----------
    name : str
        Name of the structure.
    layers : list of str
        One or two names of `HEXAGONAL_LAYERS`, from bottom to top.
    lattice : float
        Lattice constant of the hexagonal cell before strain.
    strain : list of two floats
        Relative strain along x and y.
    supercell : str
        "1x1", "2x2" or "rectangular" (1 x sqrt(3)).
    stacking : str
        "R" (both layers alike) or "H" (the upper layer turned by 180 degrees).
    shift : list of two floats
        Lateral shift of the upper layer in units of the 1x1 lattice vectors.
    distance : float
        Distance between the mid-planes of the layers.
    rattle : float
        Standard deviation of random displacements along each axis.
    seed : int
        Seed of the displacements.
    vacuum : float
        Least vacuum beyond the outermost atom on each face.

    Raises
    ------
    InputError
        For an unknown layer, supercell or stacking, or a length that makes no slab.
    """

    name: str
    layers: tuple[str, ...]
    lattice: float = 3.17
    strain: tuple[float, float] = (0.0, 0.0)
    supercell: str = "1x1"
    stacking: str = "R"
    shift: tuple[float, float] = (0.0, 0.0)
    distance: float = 6.17
    rattle: float = 0.0
    seed: int = 0
    vacuum: float = 5.5

    def __post_init__(self) -> None:
        if not 1 <= len(self.layers) <= 2 or not set(self.layers) <= set(HEXAGONAL_LAYERS):
            raise InputError(
                f"Entry {self.name} has layers {list(self.layers)}; give one or two of "
                f"{', '.join(HEXAGONAL_LAYERS)}."
            )
        if self.supercell not in SUPERCELLS:
            raise InputError(
                f"Entry {self.name} has supercell {self.supercell}; give one of "
                f"{', '.join(SUPERCELLS)}."
            )
        if self.stacking not in ("R", "H"):
            raise InputError(f"Entry {self.name} has stacking {self.stacking}; give R or H.")
        if self.lattice <= 0 or self.distance <= 0 or self.vacuum < 0 or self.rattle < 0:
            raise InputError(f"Entry {self.name} has a negative length; mend the recipe.")


def build_slab(entry: SlabEntry) -> Atoms:
    """Return the slab of `entry`, periodic in x and y, open and centred in z.

    The H stacking inverts the in-plane coordinates of the upper layer.
    """
    hexagonal_cv = entry.lattice * np.array([[1.0, 0.0], [-0.5, np.sqrt(3) / 2]])
    symbols: list[str] = []
    planes = []
    for n, name in enumerate(entry.layers):
        layer = HEXAGONAL_LAYERS[name]
        turn = -1.0 if n == 1 and entry.stacking == "H" else 1.0
        shift_c = np.array(entry.shift) if n == 1 else np.zeros(2)
        symbols += layer.symbols
        height_i = n * entry.distance + layer.height_i * ANGSTROM_PER_BOHR
        planes.append(np.column_stack([turn * layer.fractional_ic + shift_c, height_i]))
    basis_ic = np.concatenate(planes)
    repeat_cc = SUPERCELLS[entry.supercell]
    offset_xc = _lattice_points(repeat_cc)
    fractional_ic = (basis_ic[:, None, :2] + offset_xc[None]).reshape(-1, 2)
    stretch_cc = np.eye(2) + np.diag(entry.strain)
    positions_ic = np.column_stack(
        [fractional_ic @ hexagonal_cv @ stretch_cc, np.repeat(basis_ic[:, 2], len(offset_xc))]
    )
    cell_cc = np.zeros((3, 3))
    cell_cc[:2, :2] = repeat_cc @ hexagonal_cv @ stretch_cc
    cell_cc[2, 2] = 1.0
    atoms = Atoms(
        [symbol for symbol in symbols for _ in offset_xc], positions=positions_ic, cell=cell_cc
    )
    if entry.rattle > 0:
        random = np.random.default_rng(entry.seed)
        atoms.positions += random.normal(scale=entry.rattle, size=positions_ic.shape)
    return center_slab(atoms, entry.vacuum)


def center_slab(atoms: Atoms, vacuum: float) -> Atoms:
    """Return `atoms` wrapped in x and y and centred in an open z axis.

    Parameters
    ----------
    atoms : Atoms
        A slab in the xy plane.
    vacuum : float
        Least distance in Angstrom between the outermost atoms and the ends of the cell.

    Raises
    ------
    InputError
        If the third lattice vector is not along z.
    """
    slab = atoms.copy()
    if abs(slab.cell[2, :2]).max() > 1e-8 or abs(slab.cell[:2, 2]).max() > 1e-8:
        raise InputError("The slab's third lattice vector is not along z; turn the cell.")
    height = np.ptp(slab.positions[:, 2]) + 2 * vacuum
    slab.cell[2] = [0.0, 0.0, OPEN_STEP * np.ceil(height / OPEN_STEP - 1e-9)]
    slab.pbc = (True, True, False)
    slab.positions[:, 2] += (
        slab.cell[2, 2] - slab.positions[:, 2].min() - slab.positions[:, 2].max()
    ) / 2
    slab.wrap()
    return slab


def _lattice_points(repeat_cc: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the points of the primitive lattice inside the larger cell, shape (det, 2)."""
    candidates = np.indices((7, 7)).reshape(2, -1).T - 3.0
    inside = np.linalg.solve(repeat_cc.T.astype(float), candidates.T).T
    return candidates[((inside > -1e-9) & (inside < 1 - 1e-9)).all(axis=1)]
