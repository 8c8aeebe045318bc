"""Product of the two atoms' features in a pair (the edge tensor product of HamGNN_pre2)."""

from __future__ import annotations

import math

import torch
from e3nn.o3 import Irrep, Irreps, wigner_3j
from torch import nn

from hamgnn_solve.core.network.config import NetworkConfig
from hamgnn_solve.core.network.irreps import Features, parse_irreps, sort_key
from hamgnn_solve.core.network.linear import Linear
from hamgnn_solve.core.network.radial import RadialPerceptron

__all__ = ["EdgeProduct"]


class EdgeProduct(nn.Module):
    """Linear(TP(A x_second, B x_first)) with radial weights [mul, mul_previous] a path.

    m[u, k] = sqrt((2 l3 + 1) / mul_prev) sum_v w[u, v] sum_ab C_abk (A x)[u, a] (B x)[v, b].
    """

    def __init__(self, config: NetworkConfig, irreps: Irreps) -> None:
        super().__init__()
        if config.edge_tp_irreps is None:
            raise ValueError("the edge product needs edge_tp_irreps")
        previous = parse_irreps(config.edge_tp_irreps)
        wanted = {irrep for _, irrep in irreps}
        self.paths: list[tuple[int, int, int, int, int, Irrep]] = []
        numel = 0
        counts: dict[Irrep, int] = {}
        for i, (mul, irrep) in enumerate(irreps):
            for j, (mul_prev, irrep_prev) in enumerate(previous):
                for target in irrep * irrep_prev:
                    if target not in wanted:
                        continue
                    self.paths.append((i, j, mul, mul_prev, numel, target))
                    numel += mul * mul_prev
                    counts[target] = counts.get(target, 0) + mul
                    constants = wigner_3j(irrep.l, irrep_prev.l, target.l, dtype=torch.float64)
                    self.register_buffer(
                        f"constants_{len(self.paths) - 1}",
                        constants.to(torch.get_default_dtype()),
                        persistent=False,
                    )
        self.mid = Irreps([(counts[ir], ir) for ir in sorted(counts, key=sort_key)])
        self.linear_node_src = Linear(irreps, irreps)
        self.linear_node_dst = Linear(irreps, previous)
        self.fc = RadialPerceptron(config.radial_sizes(numel), config.radial_kinds)
        self.linear_edge = Linear(self.mid, irreps)

    def forward(
        self,
        neighbour: Features,
        centre: Features,
        radial: torch.Tensor,
        kind: torch.Tensor | None,
    ) -> Features:
        """Return what the product adds to the features of pairs, in the frame of its arguments.

        Parameters
        ----------
        neighbour, centre : Features
            Results of `linear_node_src` and `linear_node_dst` for the atoms of each pair.
        radial, kind
            As for `RadialPerceptron`.
        """
        weights = self.fc(radial, kind)
        slots: dict[Irrep, list[torch.Tensor]] = {irrep: [] for _, irrep in self.mid}
        for number, (i, j, mul, mul_prev, start, target) in enumerate(self.paths):
            path = weights[:, start : start + mul * mul_prev].view(-1, mul, mul_prev)
            # Sum over the centre's channels first, then couple with the neighbour's.
            mixed = torch.einsum("puv,pbv->pbu", path, centre[j])
            constants = getattr(self, f"constants_{number}")
            constants = constants * math.sqrt(target.dim / mul_prev)
            slots[target].append(torch.einsum("abk,pau,pbu->pku", constants, neighbour[i], mixed))
        features: Features = self.linear_edge(
            [torch.cat(slots[irrep], dim=2) for _, irrep in self.mid]
        )
        return features
