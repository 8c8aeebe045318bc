"""Groups of orbitals on which a density of states is projected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.hamiltonian import OrbitalSystem

__all__ = ["Projections", "projections_of"]

SHELL_LETTERS = "spdfghi"


@dataclass(frozen=True)
class Projections:
    """Named groups of orbitals, each a union of cells of one partition of all orbitals.

    Groups may overlap (an element and its shells); sums over cells give all of them at once.

    Parameters
    ----------
    names : tuple of str
        Name of each group, length G.
    cell_of_orbital_m : ndarray of int64, shape (M,)
        Cell of each orbital, orbitals in the order of the atoms.
    member_gc : ndarray of bool, shape (G, C)
        Whether a group holds a cell.
    elements : tuple of str
        Names of the groups that are whole elements and together hold every orbital once.
    """

    names: tuple[str, ...]
    cell_of_orbital_m: NDArray[np.int64]
    member_gc: NDArray[np.bool_]
    elements: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        groups, cells = self.member_gc.shape
        if groups != len(self.names) or len(set(self.names)) != groups:
            raise ValueError(f"{groups} groups need as many names, all different: {self.names}")
        inside = self.cell_of_orbital_m
        if len(inside) == 0 or inside.min() < 0 or inside.max() >= cells:
            raise ValueError(f"orbitals lie outside the {cells} cells")
        if not set(self.elements) <= set(self.names):
            raise ValueError(f"elements {self.elements} are not among the groups {self.names}")

    @property
    def ncells(self) -> int:
        """Number of cells C."""
        return self.member_gc.shape[1]

    def summed(self, values_c: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the sums over the cells of each group, shape (C, ...) to (G, ...)."""
        return np.tensordot(self.member_gc.astype(np.float64), values_c, axes=1)


def projections_of(system: OrbitalSystem, atoms: Sequence[int] = ()) -> Projections:
    """Return the groups of elements ("Mo"), shells ("Mo d") and chosen atoms ("atom 7 (Mo)").

    Parameters
    ----------
    system : OrbitalSystem
    atoms : sequence of int
        Chosen atoms, counted from 1 as in the structure file.

    Raises
    ------
    InputError
        For an atom that the structure does not have.
    """
    structure = system.structure
    for atom in atoms:
        if not 1 <= atom <= structure.natoms:
            raise InputError(
                f"There is no atom {atom} to project the density of states on; atoms are counted "
                f"from 1 to {structure.natoms}."
            )
    chosen = set(atoms)
    cells: dict[tuple[str, int, int], int] = {}
    cell_of_orbital: list[int] = []
    for i, shells in enumerate(system.shells_i):
        symbol = structure.symbols[i]
        # Atom 0 stands for all that are not chosen.
        alone = i + 1 if i + 1 in chosen else 0
        of_atom = [
            cells.setdefault((symbol, degree, alone), len(cells))
            for degree in shells
            for _ in range(2 * degree + 1)
        ]
        cell_of_orbital += of_atom * (2 if system.spinors else 1)
    groups = _groups(sorted(cells), structure.symbols, sorted(chosen))
    member_gc = np.zeros((len(groups), len(cells)), dtype=bool)
    for g, members in enumerate(groups.values()):
        member_gc[g, [cells[cell] for cell in members]] = True
    return Projections(
        tuple(groups), np.array(cell_of_orbital, dtype=np.int64), member_gc, structure.elements
    )


def _groups(
    cells: list[tuple[str, int, int]], symbols: tuple[str, ...], chosen: list[int]
) -> dict[str, list[tuple[str, int, int]]]:
    """Return the cells of every group by name: elements, then shells, then atoms."""
    groups: dict[str, list[tuple[str, int, int]]] = {}
    for symbol, degree, alone in cells:
        groups.setdefault(symbol, []).append((symbol, degree, alone))
    for symbol, degree, alone in cells:
        groups.setdefault(f"{symbol} {SHELL_LETTERS[degree]}", []).append((symbol, degree, alone))
    for atom in chosen:
        name = f"atom {atom} ({symbols[atom - 1]})"
        groups[name] = [cell for cell in cells if cell[2] == atom]
    return groups
