"""Residual block between features and the map to Hamiltonian blocks."""

from __future__ import annotations

import torch
from e3nn.o3 import Irreps
from torch import nn

from hamgnn_solve.core.network.irreps import Features
from hamgnn_solve.core.network.linear import Gate, Linear, NormActivation

__all__ = ["OutputResidual"]


class OutputResidual(nn.Module):
    """f <- f + Linear2(act(Linear1 f)).

    Parameters
    ----------
    irreps : Irreps
        Irreps of the features.
    nonlinearity : {"norm", "gate"}
    """

    def __init__(self, irreps: Irreps, nonlinearity: str) -> None:
        super().__init__()
        self.activation = Gate(irreps) if nonlinearity == "gate" else NormActivation(irreps)
        self.linear1 = Linear(irreps, self.activation.irreps_in)
        self.linear2 = Linear(irreps, irreps)

    def forward(self, features: Features) -> Features:
        """Map features to features of the same irreps; commutes with rotations."""
        update: list[torch.Tensor] = self.linear2(self.activation(self.linear1(features)))
        return [x + y for x, y in zip(features, update, strict=True)]
