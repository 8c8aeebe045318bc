"""Frames of bonds: features of atoms into them, messages out of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from e3nn.o3 import Irreps

from hamgnn_solve.core.network.frame import rotate, rotate_back
from hamgnn_solve.core.network.graph import PairGraph
from hamgnn_solve.core.network.irreps import Features

__all__ = ["BondFrames", "inverted"]


@dataclass(frozen=True)
class BondFrames:
    """Bonds with their frames; the reverse of a bond has the inverted frame.

    Features of bonds have the shape (P, 2, 2l + 1, mul): the bond, then its reverse.

    Parameters
    ----------
    irreps : Irreps
        Irreps of the features.
    pairs : PairGraph
        The bonds.
    radial : Tensor, shape (P, number)
        Their radial functions.
    rotations : list of Tensor, shape (P, 2l + 1, 2l + 1)
        Result of `polar_rotations`, one for each entry of the irreps.
    """

    irreps: Irreps
    pairs: PairGraph
    radial: torch.Tensor
    rotations: list[torch.Tensor]

    def __post_init__(self) -> None:
        if not len(self.pairs) == len(self.radial) == len(self.rotations[0]):
            raise ValueError("bonds, radial functions and rotations differ in number")

    def ends(self, nodes: Features) -> Features:
        """Return the features of the atoms at both ends, polar.

        Channels of the atom where the bond or its reverse begins, then those of the other one:
        shape (P, 2, 2l + 1, 2 mul).
        """
        result = []
        for x, rotation, (_, irrep) in zip(nodes, self.rotations, self.irreps, strict=True):
            first = rotate(rotation, x.index_select(0, self.pairs.first))
            second = rotate(rotation, x.index_select(0, self.pairs.second))
            both = [torch.cat([first, second], dim=2), torch.cat([second, first], dim=2)]
            result.append(inverted(torch.stack(both, dim=1), irrep.p))
        return result

    def add_messages(self, sums: Features, messages: Features) -> None:
        """Add messages to those of the atoms on which their pairs end, in place.

        Parameters
        ----------
        sums : Features
            Sums of the owned atoms.
        messages : Features
            Polar; of the bonds and of their reverses, or of the reverses alone as (P, 1, 2l + 1,
            mul) where the second atoms are not owned.
        """
        for total, x, rotation, (_, irrep) in zip(
            sums, messages, self.rotations, self.irreps, strict=True
        ):
            total.index_add_(0, self.pairs.first, rotate_back(rotation, irrep.p * x[:, -1]))
            if x.shape[1] == 2:
                total.index_add_(0, self.pairs.second, rotate_back(rotation, x[:, 0]))


def inverted(features: torch.Tensor, parity: int) -> torch.Tensor:
    """Invert the features of the reverses in features of bonds of one parity."""
    if parity == 1:
        return features
    return torch.stack([features[:, 0], -features[:, 1]], dim=1)
