"""Pairs of atoms as the network sees them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

__all__ = ["PairGraph"]


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

    def chunks(self, size: int | None) -> Iterator[PairGraph]:
        """Yield consecutive parts of at most `size` pairs (all in one part for None)."""
        step = max(len(self), 1) if size is None else size
        for start in range(0, max(len(self), 1), step):
            yield self.select(slice(start, start + step))
