"""Pairs of atoms as the network sees them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

__all__ = ["CentreBlock", "PairGraph", "centre_blocks", "no_exchange"]


def no_exchange(features: torch.Tensor) -> torch.Tensor:
    """Return the features of a domain without ghosts as they are."""
    return features


@dataclass(frozen=True)
class PairGraph:
    """Directed pairs between local atoms as tensors.

    Parameters
    ----------
    first, second : Tensor of int64, shape (P,)
        Local indices of the centre atom and of its neighbour.
    vector : Tensor, shape (P, 3)
        From the centre to the neighbour, in Bohr.
    """

    first: torch.Tensor
    second: torch.Tensor
    vector: torch.Tensor
    distance: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "distance", torch.linalg.vector_norm(self.vector, dim=1))

    def __len__(self) -> int:
        return len(self.first)

    def select(self, chosen: torch.Tensor | slice) -> PairGraph:
        """Return the pairs that an index, a mask or a slice picks out."""
        return PairGraph(self.first[chosen], self.second[chosen], self.vector[chosen])

    def reversed(self) -> PairGraph:
        """Return every pair seen from its neighbour."""
        return PairGraph(self.second, self.first, -self.vector)

    def to(self, device: torch.device) -> PairGraph:
        """Return the pairs with their tensors on a device."""
        return PairGraph(*(x.to(device) for x in (self.first, self.second, self.vector)))


@dataclass(frozen=True)
class CentreBlock:
    """Consecutive centre atoms with all their pairs.

    Parameters
    ----------
    atoms : slice
        Local indices of the centres.
    parts : tuple of slice
        Their pairs, a bounded number in each.
    """

    atoms: slice
    parts: tuple[slice, ...]


def centre_blocks(
    first: torch.Tensor, owned: int, atoms: int | None, pairs: int | None
) -> Iterator[CentreBlock]:
    """Yield blocks of at most `atoms` centres whose pairs come in parts of at most `pairs`.

    Parameters
    ----------
    first : Tensor of int64, shape (P,)
        Centres of the pairs, ascending.
    owned : int
        Number of centres; every one belongs to a block.
    atoms, pairs : int or None
        Bounds; None for no bound.
    """
    step = max(owned, 1) if atoms is None else atoms
    for start in range(0, max(owned, 1), step):
        stop = min(start + step, owned)
        low, high = torch.searchsorted(first, torch.tensor([start, stop], device=first.device))
        size = max(int(high - low), 1) if pairs is None else pairs
        parts = range(int(low), int(high), size)
        yield CentreBlock(
            slice(start, stop), tuple(slice(p, min(p + size, int(high))) for p in parts)
        )
