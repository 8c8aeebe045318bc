"""Linear maps, the radial perceptron and the nonlinearities of HamGNN V1."""

from __future__ import annotations

import itertools
import math

import torch
from e3nn.o3 import Irrep, Irreps
from torch import nn

from hamgnn_solve.core.network.irreps import Features, sort_key

__all__ = [
    "Gate",
    "Linear",
    "NormActivation",
    "RadialPerceptron",
    "SelfConnection",
    "gate_irreps",
    "shifted_softplus",
]

# Factors that give the activations unit second moment for normal input.
SSP_MOMENT = 1.878204668541552
TANH_MOMENT = 1.5937334472592695


def shifted_softplus(x: torch.Tensor) -> torch.Tensor:
    """Return ln(1 + exp x) - ln 2."""
    return nn.functional.softplus(x) - math.log(2.0)


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


class RadialPerceptron(nn.Module):
    """Perceptron from radial functions to tensor-product weights, hidden activation ssp.

    Parameters
    ----------
    sizes : sequence of int
        Widths: inputs, hidden layers, outputs.
    kinds : int
        Number of different first layers, one for each ordered pair of elements; 1 is V1 as
        published, where the weights depend on the distance alone.
    """

    def __init__(self, sizes: list[int], kinds: int = 1) -> None:
        super().__init__()
        self.kinds = kinds
        self.inputs = sizes[0]
        shapes = list(itertools.pairwise(sizes))
        shapes[0] = (kinds * shapes[0][0], shapes[0][1])
        for number, shape in enumerate(shapes):
            layer = nn.Module()
            layer.register_parameter("weight", nn.Parameter(torch.randn(*shape)))
            self.add_module(f"layer{number}", layer)
        self.depth = len(shapes)

    def layer(self, number: int) -> torch.Tensor:
        """Return the weight matrix of one layer."""
        return self.get_parameter(f"layer{number}.weight")

    def forward(
        self, radial: torch.Tensor, kind: torch.Tensor | None, columns: torch.Tensor
    ) -> torch.Tensor:
        """Return the output columns asked for; a column index past the last gives zero.

        Parameters
        ----------
        radial : Tensor, shape (P, inputs)
            Radial functions of each pair.
        kind : Tensor of int64, shape (P,), or None
            Kind of each pair, needed when there are several.
        columns : Tensor of int64, shape (C,)
            Which outputs are wanted, in which order.

        Returns
        -------
        Tensor, shape (P, C)
        """
        x = radial
        if self.kinds > 1:
            if kind is None:
                raise ValueError("a perceptron of several kinds needs the kind of each pair")
            choice = nn.functional.one_hot(kind, self.kinds).to(radial.dtype)
            x = (choice[:, :, None] * radial[:, None, :]).flatten(1)
        fan_in = self.inputs
        for number in range(self.depth - 1):
            weight = self.layer(number)
            x = SSP_MOMENT * shifted_softplus(x @ weight / math.sqrt(fan_in))
            fan_in = weight.shape[1]
        last = self.layer(self.depth - 1) / math.sqrt(fan_in)
        padded = torch.cat([last, last.new_zeros(fan_in, 1)], dim=1)
        return x @ padded.t().index_select(0, columns).t()


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
