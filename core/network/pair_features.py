"""Features of pairs in version 1, from those of their two atoms and their direction."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from e3nn.o3 import Irreps
from torch import nn

from hamgnn_solve.core.network.axis_kernel import AxisKernel, PairLinear, PairWeights, turn_sums
from hamgnn_solve.core.network.config import NetworkConfig
from hamgnn_solve.core.network.frame import joined
from hamgnn_solve.core.network.graph import PairGraph
from hamgnn_solve.core.network.irreps import Features, flatten
from hamgnn_solve.core.network.linear import Linear
from hamgnn_solve.core.network.radial import RadialPerceptron
from hamgnn_solve.core.network.tensor_product import PairProduct

__all__ = ["CompiledPairs", "PairFeatures", "compile_pairs"]


class PairFeatures(nn.Module):
    """Linear map of the product of a pair's direction with the sum of its atoms' features."""

    def __init__(self, config: NetworkConfig, irreps: Irreps) -> None:
        super().__init__()
        self.irreps = irreps
        self.product = PairProduct(irreps, config.lmax, irreps)
        self.linear_node_src = Linear(irreps, irreps)
        self.linear_node_dst = Linear(irreps, irreps)
        self.fc = RadialPerceptron(
            config.radial_sizes(self.product.weight_numel), config.radial_kinds
        )
        self.linear_edge = Linear(self.product.irreps_mid, irreps)

    def forward(
        self,
        neighbour: Features,
        centre: Features,
        radial: torch.Tensor,
        kind: torch.Tensor | None,
    ) -> Features:
        """Return the features of pairs in their frames.

        Parameters
        ----------
        neighbour, centre : Features
            Results of `linear_node_src` and `linear_node_dst` for the atoms of each pair, in the
            frames of the pairs.
        radial, kind
            As for `RadialPerceptron`.
        """
        sums = [x + y for x, y in zip(neighbour, centre, strict=True)]
        weights = self.fc(radial, kind, self.product.columns)
        features: Features = self.linear_edge(self.product(sums, weights))
        return features


@dataclass(frozen=True)
class CompiledPairs:
    """The same by compiled code.

    Parameters
    ----------
    irreps : Irreps
        Irreps of the features.
    neighbour, centre : Tensor, shape (local atoms, components)
        Results of `linear_node_src` and `linear_node_dst`, flat.
    weights : callable
        Radial weights of the product.
    linear : PairLinear
        Product and linear map in one.
    """

    irreps: Irreps
    neighbour: torch.Tensor
    centre: torch.Tensor
    weights: PairWeights
    linear: PairLinear

    def features(
        self,
        pairs: PairGraph,
        kind: torch.Tensor | None,
        rotations: list[torch.Tensor],
        mirrored: bool,
    ) -> Features:
        """Return the features of pairs in their frames.

        Parameters
        ----------
        pairs : PairGraph
        kind : Tensor of int64, shape (P,), or None
            Kind of each pair where radial weights depend on it.
        rotations : list of Tensor
            Rotations into the frames.
        mirrored : bool
            The second half of the pairs are the reverses of the first.
        """
        turned = turn_sums(self.irreps, self.neighbour, self.centre, pairs, joined(rotations))
        distance = pairs.distance.double().numpy()
        if mirrored and kind is None:
            # A pair and its reverse have the same weights.
            distance = distance[: len(pairs) // 2]
        weights = self.weights(distance, None if kind is None else kind.numpy())
        return self.linear(turned, weights)


def compile_pairs(
    module: PairFeatures, neighbour: Features, centre: Features, weights: PairWeights
) -> CompiledPairs:
    """Return the compiled equivalent of a module for the atoms' features.

    Parameters
    ----------
    module : PairFeatures
    neighbour, centre : Features
        Results of its two linear maps for all local atoms.
    weights : callable
        Radial weights of its product.
    """
    neighbour_flat = flatten(neighbour)
    kernel = AxisKernel(module.product, neighbour_flat.dtype)
    linear = PairLinear(kernel, module.linear_edge, module.irreps)
    return CompiledPairs(module.irreps, neighbour_flat, flatten(centre), weights, linear)
