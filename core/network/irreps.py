"""Irreducible representations of O(3) as the network stores them.

Features are lists with one tensor of shape (atoms or pairs, 2l + 1, mul) for each entry of the
irreps string, in its order; the component index m runs from -l to l. Outside the network (files,
exchange between processes) they are flat, an entry after the other.
"""

from __future__ import annotations

import torch
from e3nn.o3 import Irrep, Irreps

__all__ = [
    "Features",
    "dimension",
    "flatten",
    "natural_parity",
    "parse_irreps",
    "sort_key",
    "unflatten",
]

Features = list[torch.Tensor]


def parse_irreps(text: str) -> Irreps:
    """Return e3nn Irreps of a string such as "8x0e+4x1o".

    Raises
    ------
    ValueError
        When an irrep occurs twice or has no channels.
    """
    irreps = Irreps(text)
    kinds = [irrep for _, irrep in irreps]
    if len(set(kinds)) != len(kinds) or any(mul == 0 for mul, _ in irreps):
        raise ValueError(f"irreps {text!r} must name each representation once, with channels")
    return irreps


def sort_key(irrep: Irrep) -> tuple[int, int]:
    """Order of irreps: by l, odd before even."""
    return irrep.l, irrep.p


def natural_parity(degree: int) -> int:
    """Parity of a spherical harmonic of this degree."""
    return -1 if degree % 2 else 1


def dimension(irreps: Irreps) -> int:
    """Number of components of a feature vector."""
    return sum(mul * irrep.dim for mul, irrep in irreps)


def flatten(features: Features) -> torch.Tensor:
    """Join entries into one tensor of shape (rows, components), components m-major."""
    return torch.cat([x.flatten(1) for x in features], dim=1)


def unflatten(flat: torch.Tensor, irreps: Irreps) -> Features:
    """Undo `flatten`."""
    parts = torch.split(flat, [mul * irrep.dim for mul, irrep in irreps], dim=1)
    return [
        part.reshape(-1, irrep.dim, mul) for part, (mul, irrep) in zip(parts, irreps, strict=True)
    ]
