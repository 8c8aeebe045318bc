"""Which rows of the global matrices belong to which process."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

__all__ = ["OrbitalRows"]


@dataclass(frozen=True)
class OrbitalRows:
    """Orbitals numbered in the order (owner, atom), so that each rank owns consecutive rows.

    Parameters
    ----------
    owner_i : ndarray of int64, shape (N,)
        Rank that owns each atom; the same on every rank.
    norb_i : ndarray of int64, shape (N,)
        Number of orbitals of each atom.
    size, rank : int
        Number of processes and the number of this one. A process may own no atom.

    Raises
    ------
    ValueError
        When an owner is not a rank, an atom has no orbital or the shapes differ.
    """

    owner_i: NDArray[np.int64]
    norb_i: NDArray[np.int64]
    size: int = 1
    rank: int = 0

    def __post_init__(self) -> None:
        if self.owner_i.shape != self.norb_i.shape or self.owner_i.ndim != 1:
            raise ValueError(
                f"owners of shape {self.owner_i.shape} for orbitals of shape {self.norb_i.shape}"
            )
        if not 0 <= self.rank < self.size:
            raise ValueError(f"rank {self.rank} is not among {self.size}")
        if len(self.owner_i) and not (
            self.owner_i.min() >= 0 and self.owner_i.max() < self.size and self.norb_i.min() > 0
        ):
            raise ValueError(
                f"owners must lie in 0..{self.size - 1} and every atom needs an orbital"
            )

    @cached_property
    def order_i(self) -> NDArray[np.int64]:
        """Atoms in the order of their rows, shape (N,)."""
        return np.argsort(self.owner_i, kind="stable").astype(np.int64)

    @cached_property
    def first_row_i(self) -> NDArray[np.int64]:
        """Global row of each atom's first orbital, shape (N,)."""
        norb = self.norb_i[self.order_i]
        first = np.empty(len(norb), dtype=np.int64)
        first[self.order_i] = np.cumsum(norb) - norb
        return first

    @cached_property
    def start_r(self) -> NDArray[np.int64]:
        """First row of every rank, and the number of all rows last, shape (size + 1,)."""
        count = np.bincount(self.owner_i, weights=self.norb_i, minlength=self.size)
        return np.concatenate([[0], np.cumsum(count)]).astype(np.int64)

    @property
    def start(self) -> int:
        """First row of this rank."""
        return int(self.start_r[self.rank])

    @property
    def stop(self) -> int:
        """First row after those of this rank."""
        return int(self.start_r[self.rank + 1])

    @property
    def nlocal(self) -> int:
        """Number of rows of this rank."""
        return self.stop - self.start

    @property
    def nrows(self) -> int:
        """Number of all rows."""
        return int(self.start_r[-1])

    @cached_property
    def owned(self) -> NDArray[np.int64]:
        """Atoms of this rank in the order of their rows."""
        return self.order_i[self.owner_i[self.order_i] == self.rank]

    @cached_property
    def row_of_orbital_m(self) -> NDArray[np.int64]:
        """Global row of each orbital counted in the order of atoms, shape (nrows,).

        A vector v in row order is v[row_of_orbital_m] in the order of the structure's atoms.
        """
        return self.rows_of(np.arange(len(self.norb_i)))

    def rows_of(self, atoms: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the global rows of some atoms' orbitals, one atom after the other."""
        norb = self.norb_i[atoms]
        within = np.arange(int(norb.sum())) - np.repeat(np.cumsum(norb) - norb, norb)
        return np.repeat(self.first_row_i[atoms], norb) + within

    @property
    def owner_m(self) -> NDArray[np.int64]:
        """Rank that owns each global row, shape (nrows,)."""
        return np.repeat(np.arange(self.size), np.diff(self.start_r))
