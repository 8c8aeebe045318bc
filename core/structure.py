"""Atoms in a periodic cell."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.units import ANGSTROM_PER_BOHR

__all__ = ["Structure"]

SHORTEST_DISTANCE = 0.4 / ANGSTROM_PER_BOHR


@dataclass(frozen=True)
class Structure:
    """Atoms in a periodic cell, checked when made.

    Parameters
    ----------
    symbols : tuple of str
        Chemical symbol of each atom, length N.
    pos_ic : ndarray, shape (N, 3)
        Cartesian positions in Bohr; they need not lie inside the cell.
    cell_cc : ndarray, shape (3, 3)
        Lattice vectors as rows, in Bohr. Every axis is periodic: a vacuum belongs to the cell.

    Raises
    ------
    InputError
        For an empty structure, numbers that are not finite, a cell without volume, or two atoms
        closer than 0.4 Angstrom.
    """

    symbols: tuple[str, ...]
    pos_ic: NDArray[np.float64]
    cell_cc: NDArray[np.float64]

    def __post_init__(self) -> None:
        natoms = len(self.symbols)
        if natoms == 0:
            raise InputError("The structure has no atoms; give a file that contains at least one.")
        if self.pos_ic.shape != (natoms, 3) or self.cell_cc.shape != (3, 3):
            raise ValueError(
                f"{natoms} symbols need positions of shape ({natoms}, 3) and a cell of shape "
                f"(3, 3), not {self.pos_ic.shape} and {self.cell_cc.shape}"
            )
        if not (np.isfinite(self.pos_ic).all() and np.isfinite(self.cell_cc).all()):
            raise InputError("A position or lattice vector is not a finite number; mend the file.")
        lengths = np.linalg.norm(self.cell_cc, axis=1)
        if lengths.min() < 1e-3 or self.volume < 1e-4 * lengths.prod():
            raise InputError(
                f"The cell has no volume (lattice vectors of {_angstrom(lengths)} Angstrom span "
                f"{self.volume * ANGSTROM_PER_BOHR**3:.3g} cubic Angstrom); "
                "give three independent lattice vectors."
            )
        self._refuse_overlapping_atoms()

    @property
    def natoms(self) -> int:
        """Number of atoms N."""
        return len(self.symbols)

    @property
    def volume(self) -> float:
        """Volume of the cell in cubic Bohr."""
        return float(abs(np.linalg.det(self.cell_cc)))

    @property
    def elements(self) -> tuple[str, ...]:
        """The different chemical symbols, in alphabetical order."""
        return tuple(sorted(set(self.symbols)))

    @cached_property
    def element_index_i(self) -> NDArray[np.int64]:
        """Position of each atom's symbol in `elements`, shape (N,)."""
        index = {symbol: s for s, symbol in enumerate(self.elements)}
        return np.array([index[symbol] for symbol in self.symbols], dtype=np.int64)

    @cached_property
    def fractional_ic(self) -> NDArray[np.float64]:
        """Positions in units of the lattice vectors, shape (N, 3)."""
        return np.linalg.solve(self.cell_cc.T, self.pos_ic.T).T

    def _refuse_overlapping_atoms(self) -> None:
        from hamgnn_solve.core.pairs import find_pairs

        pairs = find_pairs(self, np.full(self.natoms, SHORTEST_DISTANCE / 2))
        if len(pairs) == 0:
            return
        p = int(np.argmin(pairs.distance_p))
        i, j = int(pairs.first_p[p]), int(pairs.second_p[p])
        raise InputError(
            f"Atoms {i + 1} ({self.symbols[i]}) and {j + 1} ({self.symbols[j]}) are "
            f"{pairs.distance_p[p] * ANGSTROM_PER_BOHR:.3f} Angstrom apart, closer than 0.4; "
            "remove the duplicate or mend the positions."
        )


def _angstrom(lengths: NDArray[np.float64]) -> str:
    return ", ".join(f"{length * ANGSTROM_PER_BOHR:.4g}" for length in lengths)
