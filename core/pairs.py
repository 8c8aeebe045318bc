"""Pairs of atoms within reach of each other, periodic images included."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pymatgen.optimization.neighbors import find_points_in_spheres

if TYPE_CHECKING:
    from hamgnn_solve.core.structure import Structure

__all__ = [
    "PairKeys",
    "PairList",
    "displacements",
    "find_pairs",
    "join_pairs",
    "onsite_pairs",
]


@dataclass(frozen=True)
class PairKeys:
    """One number for each directed pair (i, j, R), ordered as i, then j, then R.

    Parameters
    ----------
    natoms : int
        Number of atoms of the structure.
    reach : int
        Largest magnitude of a component of R.
    """

    natoms: int
    reach: int

    @property
    def width(self) -> int:
        """How many values a component of R may take."""
        return 2 * self.reach + 1

    def join(
        self, first: NDArray[np.int64], second: NDArray[np.int64], shift: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Return the keys of pairs."""
        key = first * self.natoms + second
        for c in range(3):
            key = key * self.width + (shift[:, c] + self.reach)
        return key

    def split(
        self, key: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return first atoms, second atoms and shifts of keys."""
        shift = np.empty((len(key), 3), dtype=np.int64)
        for c in (2, 1, 0):
            key, shift[:, c] = np.divmod(key, self.width)
        first, second = np.divmod(key, self.natoms)
        return first, second, shift - self.reach


@dataclass(frozen=True)
class PairList:
    """Directed pairs (i, j, R) of atoms, sorted by i, then j, then R.

    Parameters
    ----------
    first_p, second_p : ndarray of int64, shape (P,)
        Global indices of atom i and of atom j.
    shift_pc : ndarray of int64, shape (P, 3)
        R, the cell that holds the image of j, in lattice units.
    vector_pc : ndarray, shape (P, 3)
        d = tau_j + R - tau_i in Bohr.
    """

    first_p: NDArray[np.int64]
    second_p: NDArray[np.int64]
    shift_pc: NDArray[np.int64]
    vector_pc: NDArray[np.float64]

    def __post_init__(self) -> None:
        npairs = len(self.first_p)
        shapes = (self.second_p.shape, self.shift_pc.shape, self.vector_pc.shape)
        if shapes != ((npairs,), (npairs, 3), (npairs, 3)):
            raise ValueError(f"{npairs} pairs, but the other arrays have shapes {shapes}")

    def __len__(self) -> int:
        return len(self.first_p)

    @cached_property
    def distance_p(self) -> NDArray[np.float64]:
        """Length of each pair's vector in Bohr, shape (P,)."""
        return np.linalg.norm(self.vector_pc, axis=1)

    def select(self, chosen_p: NDArray[np.bool_] | NDArray[np.int64]) -> PairList:
        """Return the pairs that a mask or an index array picks out."""
        return PairList(
            self.first_p[chosen_p],
            self.second_p[chosen_p],
            self.shift_pc[chosen_p],
            self.vector_pc[chosen_p],
        )

    def reversed(self) -> PairList:
        """Return every pair seen from its second atom, in the order of this list (not sorted)."""
        return PairList(self.second_p, self.first_p, -self.shift_pc, -self.vector_pc)

    def position_of(self, others: PairList) -> NDArray[np.int64]:
        """Find where each of `others` stands in this list; -1 where it is absent, shape (P',)."""
        if len(self) == 0:
            return np.full(len(others), -1, dtype=np.int64)
        lists = (self, others)
        keys = PairKeys(
            1 + max(int(max(x.first_p.max(initial=0), x.second_p.max(initial=0))) for x in lists),
            max(int(np.abs(x.shift_pc).max(initial=0)) for x in lists),
        )
        mine, wanted = (keys.join(x.first_p, x.second_p, x.shift_pc) for x in lists)
        order = np.argsort(mine, kind="stable")
        place = np.minimum(np.searchsorted(mine[order], wanted), len(self) - 1)
        return np.where(mine[order][place] == wanted, order[place], -1)


def find_pairs(
    structure: Structure,
    radius_i: NDArray[np.float64],
    first_atoms: NDArray[np.int64] | None = None,
) -> PairList:
    """Find all pairs with distance up to radius_i + radius_j, the atom itself left out.

    Parameters
    ----------
    structure : Structure
        The atoms; images of a periodic cell count as neighbours, an atom's own images included.
    radius_i : ndarray, shape (N,)
        Reach of each atom in Bohr (the cutoff of its orbitals, say).
    first_atoms : ndarray of int64, optional
        Global indices of the atoms whose pairs are wanted; all by default.

    Returns
    -------
    PairList
        Sorted by first atom, second atom and cell shift.
    """
    if first_atoms is None:
        first_atoms = np.arange(structure.natoms, dtype=np.int64)
    if len(first_atoms) == 0:
        return _empty()
    # The search returns every image within one common reach; the pair's own reach is cut below.
    centre, second, shift, distance = find_points_in_spheres(
        all_coords=np.ascontiguousarray(structure.pos_ic, dtype=np.float64),
        center_coords=np.ascontiguousarray(structure.pos_ic[first_atoms], dtype=np.float64),
        r=float(radius_i[first_atoms].max() + radius_i.max()) + 1e-9,
        pbc=np.array([1, 1, 1], dtype=np.int64),
        lattice=np.ascontiguousarray(structure.cell_cc, dtype=np.float64),
        tol=1e-8,
    )
    first = first_atoms[centre]
    second = np.asarray(second, dtype=np.int64)
    shift_pc = np.rint(shift).astype(np.int64)
    itself = (first == second) & (shift_pc == 0).all(axis=1)
    kept = (distance <= radius_i[first] + radius_i[second]) & ~itself
    first, second, shift_pc = first[kept], second[kept], shift_pc[kept]
    order = np.lexsort((shift_pc[:, 2], shift_pc[:, 1], shift_pc[:, 0], second, first))
    first, second, shift_pc = first[order], second[order], shift_pc[order]
    vector_pc = structure.pos_ic[second] + shift_pc @ structure.cell_cc - structure.pos_ic[first]
    return PairList(first, second, shift_pc, vector_pc)


def onsite_pairs(atoms: NDArray[np.int64]) -> PairList:
    """Return the pair of each of `atoms` (global indices) with itself."""
    return PairList(
        atoms, atoms, np.zeros((len(atoms), 3), dtype=np.int64), np.zeros((len(atoms), 3))
    )


def join_pairs(structure: Structure, *lists: PairList) -> PairList:
    """Return every pair of several lists once, sorted as by `find_pairs`."""
    columns = np.concatenate([np.column_stack([x.first_p, x.second_p, x.shift_pc]) for x in lists])
    columns = columns[np.lexsort(columns.T[::-1])]
    new = np.append(True, (columns[1:] != columns[:-1]).any(axis=1))[: len(columns)]
    first, second, shift = columns[new, 0], columns[new, 1], columns[new, 2:]
    return PairList(first, second, shift, displacements(structure, first, second, shift))


def displacements(
    structure: Structure,
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    shift: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Return tau_j + R - tau_i in Bohr, shape (P, 3)."""
    return structure.pos_ic[second] + shift @ structure.cell_cc - structure.pos_ic[first]


def _empty() -> PairList:
    return onsite_pairs(np.zeros(0, dtype=np.int64))
