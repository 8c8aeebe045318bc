"""Numbers that tell atoms apart and change under no rotation or inversion."""

from __future__ import annotations

import torch
from e3nn.o3 import Irreps

from hamgnn_solve.core.network.irreps import Features

__all__ = ["invariants", "ninvariants"]


def ninvariants(irreps: Irreps) -> int:
    """Return how many invariants features of these irreps have: one a channel."""
    return sum(mul for mul, _ in irreps)


def invariants(features: Features, irreps: Irreps, rows: int) -> torch.Tensor:
    """Return the invariants of the first rows of features, shape (rows, channels).

    Scalars (0e) as they are, and the norm over m of every other channel: without the norms an
    octahedral layer looks almost like a prismatic one.
    """
    parts = [
        x[:rows, 0] if (irrep.l, irrep.p) == (0, 1) else torch.linalg.vector_norm(x[:rows], dim=1)
        for x, (_, irrep) in zip(features, irreps, strict=True)
    ]
    return torch.cat(parts, dim=1)
