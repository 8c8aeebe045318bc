"""Pairs of atoms, each together with its reverse."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hamgnn_solve.core.network.graph import PairGraph

__all__ = ["BondPart", "Bonds", "find_bonds"]


@dataclass(frozen=True)
class BondPart:
    """Consecutive bonds that are worked on together.

    Parameters
    ----------
    bonds : slice
    inside : bool
        Both atoms are owned; otherwise the first alone.
    """

    bonds: slice
    inside: bool


@dataclass(frozen=True)
class Bonds:
    """Every pair once: of a pair and its reverse the earlier one.

    Parameters
    ----------
    pairs : PairGraph
        Bonds of two owned atoms, then those to ghosts.
    inside : int
        Number of bonds of two owned atoms.
    direction : Tensor of int64, shape (P,)
        For each pair of the list twice the number of its bond, plus one when it is the bond's
        reverse.
    """

    pairs: PairGraph
    inside: int
    direction: torch.Tensor

    def __len__(self) -> int:
        return len(self.pairs)

    def parts(self, size: int | None) -> list[BondPart]:
        """Return all bonds in parts of at most `size` (None for no bound)."""
        parts = []
        for start, stop, inside in ((0, self.inside, True), (self.inside, len(self), False)):
            step = max(stop - start, 1) if size is None else size
            parts += [
                BondPart(slice(low, min(low + step, stop)), inside)
                for low in range(start, stop, step)
            ]
        return parts


def find_bonds(pairs: PairGraph, reverse: torch.Tensor, owned: int) -> Bonds:
    """Return the bonds of a list of pairs.

    Parameters
    ----------
    pairs : PairGraph
        Pairs whose first atom is owned.
    reverse : Tensor of int64, shape (P,)
        Index of the reverse of each pair, -1 where it is not in the list.
    owned : int
        Number of owned atoms.

    Raises
    ------
    ValueError
        When a pair of owned atoms comes without its reverse, or a pair with a ghost has one.
    """
    if not torch.equal(reverse >= 0, pairs.second < owned):
        raise ValueError("pairs of owned atoms, and no others, must be listed with their reverse")
    place = torch.arange(len(pairs), device=reverse.device)
    both = torch.nonzero(reverse > place).flatten()
    single = torch.nonzero(reverse < 0).flatten()
    chosen = torch.cat([both, single])
    numbers = 2 * torch.arange(len(chosen), device=reverse.device)
    direction = torch.empty_like(reverse)
    direction[chosen] = numbers
    direction[reverse[both]] = numbers[: len(both)] + 1
    return Bonds(pairs.select(chosen), len(both), direction)
