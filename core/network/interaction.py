"""A layer of version 1: messages of the neighbours and a self-connection, gated."""

from __future__ import annotations

import itertools

import torch
from e3nn.o3 import Irreps
from torch import nn

from hamgnn_solve.core.network.config import NetworkConfig
from hamgnn_solve.core.network.irreps import Features, flatten
from hamgnn_solve.core.network.linear import Gate, Linear, SelfConnection, gate_irreps
from hamgnn_solve.core.network.messages import Sums
from hamgnn_solve.core.network.radial import RadialPerceptron
from hamgnn_solve.core.network.tensor_product import PairProduct

__all__ = ["Convolution", "Interaction"]


class Convolution(nn.Module):
    """Messages of the neighbours, summed on the centre, plus a self-connection."""

    def __init__(self, config: NetworkConfig, irreps: Irreps, product: PairProduct) -> None:
        super().__init__()
        target = gate_irreps(irreps)
        self.linear_1 = Linear(irreps, irreps)
        self.fc = RadialPerceptron(config.radial_sizes(product.weight_numel), config.radial_kinds)
        self.linear_2 = Linear(product.irreps_mid, target)
        self.sc = SelfConnection(irreps, target, config.attributes or config.num_types)


class Interaction(nn.Module):
    """One layer: x <- x + Gate(conv(x))."""

    def __init__(self, config: NetworkConfig, irreps: Irreps, product: PairProduct) -> None:
        super().__init__()
        self.conv = Convolution(config, irreps, product)
        self.gate = Gate(irreps)
        # The published program compares irreps after moving the scalars to the front.
        scalars_first = all(a.ir.l == 0 or b.ir.l > 0 for a, b in itertools.pairwise(irreps))
        self.residual = config.resnet and scalars_first

    def forward(
        self, features: Features, types: torch.Tensor, table: torch.Tensor | None, sums: Sums
    ) -> torch.Tensor:
        """Return the next flat features of the owned atoms, from those of all local atoms."""
        result = []
        for atoms, total in sums(self.conv.linear_1(features)):
            before = [x[atoms] for x in features]
            own = self.conv.sc(before, types[atoms], table)
            messages = self.conv.linear_2(total)
            update = self.gate([x + y for x, y in zip(messages, own, strict=True)])
            if self.residual:
                update = [x + y for x, y in zip(before, update, strict=True)]
            result.append(flatten(update))
        return torch.cat(result)
