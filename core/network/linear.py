"""Linear maps and nonlinearities of features."""

from __future__ import annotations

import math

import torch
from e3nn.o3 import Irrep, Irreps
from torch import nn

from hamgnn_solve.core.network.irreps import Features, sort_key
from hamgnn_solve.core.network.radial import SSP_MOMENT, shifted_softplus

__all__ = ["Gate", "Linear", "NormActivation", "SelfConnection", "gate_irreps"]

# Gives tanh unit second moment for normal input.
TANH_MOMENT = 1.5937334472592695


class Linear(nn.Module):
    """Mix the channels of equal irreps: y_b = (mul_a)^(-1/2) W_ab^T x_a, without bias.

    The flat weight holds one row-major [mul_in, mul_out] matrix for each match, input entries
    outside, output entries inside. Output entries without a match are zero.
    """

    def __init__(self, irreps_in: Irreps, irreps_out: Irreps) -> None:
        super().__init__()
        self.out = [(mul, irrep.dim) for mul, irrep in irreps_out]
        self.matches: list[tuple[int, int, int, int]] = []
        numel = 0
        for a, (mul_a, ir_a) in enumerate(irreps_in):
            for b, (mul_b, ir_b) in enumerate(irreps_out):
                if ir_a == ir_b:
                    self.matches.append((a, b, numel, mul_a))
                    numel += mul_a * mul_b
        self.weight = nn.Parameter(torch.randn(numel))

    def matrix(self, match: int) -> torch.Tensor:
        """Return the scaled matrix (mul_in, mul_out) of one match."""
        _, b, start, mul_in = self.matches[match]
        mul_out = self.out[b][0]
        flat = self.weight[start : start + mul_in * mul_out]
        return flat.view(mul_in, mul_out) / math.sqrt(mul_in)

    def forward(self, features: Features) -> Features:
        """Map features of the input irreps to the output irreps."""
        result: list[torch.Tensor | None] = [None] * len(self.out)
        for match, (a, b, _, _) in enumerate(self.matches):
            result[b] = features[a] @ self.matrix(match)
        rows = features[0].shape[0]
        return [
            x if x is not None else features[0].new_zeros(rows, dim, mul)
            for x, (mul, dim) in zip(result, self.out, strict=True)
        ]


class SelfConnection(nn.Module):
    """Linear map of a node's features that depends on its element's attributes.

    y_b[w] = (mul_a F)^(-1/2) sum_ut W[u, t, w] x_a[u] a[t]; with one-hot attributes a it is one
    matrix an element.
    """

    def __init__(self, irreps_in: Irreps, irreps_out: Irreps, attributes: int) -> None:
        super().__init__()
        self.attributes = attributes
        self.out = [(mul, irrep.dim) for mul, irrep in irreps_out]
        self.matches: list[tuple[int, int, int, int]] = []
        numel = 0
        for a, (mul_a, ir_a) in enumerate(irreps_in):
            for b, (mul_b, ir_b) in enumerate(irreps_out):
                if ir_a == ir_b:
                    self.matches.append((a, b, numel, mul_a))
                    numel += mul_a * attributes * mul_b
        self.weight = nn.Parameter(torch.randn(numel))

    def forward(
        self, features: Features, types: torch.Tensor, table: torch.Tensor | None
    ) -> Features:
        """Map features (rows) of atoms of `types`; `table` holds attributes, None for one-hot."""
        present, group = torch.unique(types, return_inverse=True)
        rows = [torch.nonzero(group == g).flatten() for g in range(len(present))]
        order = torch.argsort(torch.cat(rows))
        result: list[torch.Tensor | None] = [None] * len(self.out)
        for a, b, start, mul_in in self.matches:
            mul_out = self.out[b][0]
            size = mul_in * self.attributes * mul_out
            weight = self.weight[start : start + size].view(mul_in, self.attributes, mul_out)
            if table is None:
                chosen = weight[:, present]
            else:
                chosen = torch.einsum("utw,st->usw", weight, table[present])
            chosen = chosen / math.sqrt(mul_in * self.attributes)
            parts = [features[a][rows_s] @ chosen[:, s] for s, rows_s in enumerate(rows)]
            result[b] = torch.cat(parts)[order]
        count = features[0].shape[0]
        return [
            x if x is not None else features[0].new_zeros(count, dim, mul)
            for x, (mul, dim) in zip(result, self.out, strict=True)
        ]


def gate_irreps(irreps: Irreps) -> Irreps:
    """Return the input irreps of `Gate`: sorted and merged, scalars first among the 0e."""
    gates = sum(mul for mul, irrep in irreps if irrep.l > 0)
    counts = {irrep: mul for mul, irrep in irreps}
    even = Irrep(0, 1)
    if gates:
        counts[even] = counts.get(even, 0) + gates
    return Irreps([(counts[irrep], irrep) for irrep in sorted(counts, key=sort_key)])


class Gate(nn.Module):
    """Scalars through ssp (even) or tanh (odd); every other channel times ssp of its own gate."""

    def __init__(self, irreps: Irreps) -> None:
        super().__init__()
        self.irreps = irreps
        self.irreps_in = gate_irreps(irreps)
        self.source = {irrep: e for e, (_, irrep) in enumerate(self.irreps_in)}
        self.scalars = sum(mul for mul, irrep in irreps if irrep == Irrep(0, 1))

    def forward(self, features: Features) -> Features:
        """Map features of `irreps_in` to features of `irreps`."""
        even = features[self.source[Irrep(0, 1)]]
        activated = SSP_MOMENT * shifted_softplus(even)
        result = []
        taken = self.scalars
        for mul, irrep in self.irreps:
            x = features[self.source[irrep]]
            if irrep == Irrep(0, 1):
                result.append(activated[..., :mul])
            elif irrep.l == 0:
                result.append(TANH_MOMENT * torch.tanh(x))
            else:
                result.append(x * activated[..., taken : taken + mul])
                taken += mul
        return result


class NormActivation(nn.Module):
    """Scale every channel x by ssp(|x|) / |x|, with |x|^2 not below 1e-16."""

    def __init__(self, irreps: Irreps) -> None:
        super().__init__()
        self.irreps_in = irreps

    def forward(self, features: Features) -> Features:
        """Map features to features of the same irreps."""
        result = []
        for x in features:
            norm = (x * x).sum(dim=1, keepdim=True).clamp(min=1e-16).sqrt()
            result.append(x * (shifted_softplus(norm) / norm))
        return result
