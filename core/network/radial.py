"""Radial functions of pairs and the perceptron that makes tensor-product weights of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import nn

__all__ = ["ACTIVATIONS", "RadialPerceptron", "radial_functions", "shifted_softplus"]

# Factors that give the activations unit second moment for normal input.
SSP_MOMENT = 1.878204668541552
SILU_MOMENT = 1.6791767923989418


def shifted_softplus(x: torch.Tensor) -> torch.Tensor:
    """Return ln(1 + exp x) - ln 2."""
    return nn.functional.softplus(x) - math.log(2.0)


ACTIVATIONS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], float]] = {
    "ssp": (shifted_softplus, SSP_MOMENT),
    "silu": (nn.functional.silu, SILU_MOMENT),
}


def radial_functions(
    distance: torch.Tensor, cutoff: float, number: int, power: int = 2, ends: bool = True
) -> torch.Tensor:
    """Return sin(n pi r / rc) / r times a power of the cosine envelope, n = 1..number, (P, number).

    Version 1 of the published program has the envelope twice (power 2), version 2 once.

    Parameters
    ----------
    distance : Tensor, shape (P,)
        Distances in Bohr.
    cutoff : float
        Radius rc in Bohr.
    number : int
    power : int
    ends : bool
        Zero beyond the cutoff; otherwise the functions go on smoothly, as tables of them need.
    """
    order = torch.arange(1, number + 1, dtype=distance.dtype, device=distance.device)
    envelope = 0.5 * (torch.cos(math.pi * distance / cutoff) + 1.0)
    if ends:
        envelope = torch.where(distance < cutoff, envelope, torch.zeros_like(envelope))
    waves = torch.sinc(order / cutoff * distance[:, None]) * (order * (math.pi / cutoff))
    return waves * (envelope**power)[:, None]


class RadialPerceptron(nn.Module):
    """Perceptron from radial functions to tensor-product weights.

    Parameters
    ----------
    sizes : sequence of int
        Widths: inputs, hidden layers, outputs.
    kinds : int
        Number of different first layers, one for each ordered pair of elements; 1 is the
        published network, whose weights depend on the distance alone.
    activation : {"ssp", "silu"}
        Of the hidden layers; version 1 has ssp, version 2 silu.
    """

    def __init__(self, sizes: list[int], kinds: int = 1, activation: str = "ssp") -> None:
        super().__init__()
        self.kinds = kinds
        self.inputs = sizes[0]
        self.activation, self.moment = ACTIVATIONS[activation]
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

    def hidden(self, radial: torch.Tensor, kind: torch.Tensor | int | None) -> torch.Tensor:
        """Return the last hidden layer, (P, inputs) to (P, width).

        Parameters
        ----------
        radial : Tensor, shape (P, inputs)
            Radial functions of each pair.
        kind : Tensor of int64, shape (P,), int or None
            Kind of each pair or of all, needed when there are several.
        """
        x = radial
        first = self.layer(0)
        if isinstance(kind, int):
            first = first.view(self.kinds, self.inputs, -1)[kind]
        elif self.kinds > 1:
            if kind is None:
                raise ValueError("a perceptron of several kinds needs the kind of each pair")
            choice = nn.functional.one_hot(kind, self.kinds).to(radial.dtype)
            x = (choice[:, :, None] * radial[:, None, :]).flatten(1)
        fan_in = self.inputs
        for number in range(self.depth - 1):
            # Parameters may be of lower precision than the radial functions of a table.
            weight = (first if number == 0 else self.layer(number)).to(x.dtype)
            x = self.moment * self.activation(x @ weight / math.sqrt(fan_in))
            fan_in = weight.shape[1]
        return x

    def last(self, columns: torch.Tensor | None = None) -> torch.Tensor:
        """Return the matrix from the last hidden layer to the outputs, columns as asked for."""
        weight = self.layer(self.depth - 1)
        scaled = weight / math.sqrt(self.inputs if self.depth == 1 else weight.shape[0])
        return scaled if columns is None else scaled.index_select(1, columns)

    def forward(
        self,
        radial: torch.Tensor,
        kind: torch.Tensor | None = None,
        columns: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the outputs of pairs, shape (P, C).

        Parameters
        ----------
        radial, kind
            As for `hidden`.
        columns : Tensor of int64, shape (C,), optional
            Which outputs are wanted, in which order; all in their own order by default.
        """
        return self.hidden(radial, kind) @ self.last(columns)
