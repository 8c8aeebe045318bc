"""The part of a structure that one process works on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from hamgnn_solve.core.basis.species import Basis
from hamgnn_solve.core.pairs import PairList, find_pairs
from hamgnn_solve.core.structure import Structure

__all__ = ["Domain", "serial_domain"]


@dataclass(frozen=True)
class Domain:
    """Owned atoms, ghosts, and the pairs whose first atom is owned.

    Local atoms are the owned ones followed by the ghosts; features have one row a local atom.

    Parameters
    ----------
    structure : Structure
        The whole structure (positions and species are small and replicated).
    basis : Basis
        Species of its elements.
    owned : ndarray of int64
        Global indices of the owned atoms, ascending.
    ghosts : ndarray of int64
        Global indices of the atoms that pairs reach and others own, ascending.
    pairs : PairList
        Pairs within orbital range, first atom owned, an atom's pair with itself left out.
        Indices are global.
    exchange : callable
        Takes features of shape (owned, ...) and returns (owned + ghosts, ...): the owned rows
        followed by the ghosts' rows, fetched from their owners. Collective under MPI.
    """

    structure: Structure
    basis: Basis
    owned: NDArray[np.int64]
    ghosts: NDArray[np.int64]
    pairs: PairList
    exchange: Callable[[torch.Tensor], torch.Tensor]

    def __post_init__(self) -> None:
        if not np.isin(self.pairs.first_p, self.owned).all():
            raise ValueError("a pair's first atom is not owned")
        if not np.isin(self.pairs.second_p, self.local).all():
            raise ValueError("a pair's second atom is neither owned nor a ghost")

    @cached_property
    def local(self) -> NDArray[np.int64]:
        """Global indices of the local atoms: owned, then ghosts."""
        return np.concatenate([self.owned, self.ghosts])

    def local_index(self, atoms: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the local index of global atom indices."""
        lookup = np.full(self.structure.natoms, -1, dtype=np.int64)
        lookup[self.local] = np.arange(len(self.local))
        return lookup[atoms]


def serial_domain(structure: Structure, basis: Basis) -> Domain:
    """Return the domain that owns every atom; its exchange has nothing to do."""
    basis.check_covers(structure)
    everything = np.arange(structure.natoms, dtype=np.int64)
    return Domain(
        structure,
        basis,
        owned=everything,
        ghosts=np.zeros(0, dtype=np.int64),
        pairs=find_pairs(structure, basis.cutoff_i(structure)),
        exchange=lambda features: features,
    )
