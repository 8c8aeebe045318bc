"""Tensor product of node features with the spherical harmonics of pairs, in the pairs' frames.

For a path (entry i of degree l1, harmonic l2, degree l3) the product is

    m[u, k] = sqrt(2 l3 + 1) w[u] sum_ab C(l1, l2, l3)_abk h[u, a] Y_l2[b].

In the frame whose polar axis is the pair only Y_l2,0 = sqrt(2 l2 + 1) is left, and C_a0k couples
k = a (l1 + l2 + l3 even, symmetric in k) or k = -a (odd, antisymmetric) alone:

    m[u, k] = w[u] c_k h[u, k]   or   m[u, k] = w[u] c_k h[u, -k].
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from e3nn.o3 import Irrep, Irreps, wigner_3j
from torch import nn

from hamgnn_solve.core.network.irreps import Features, natural_parity, sort_key

__all__ = ["Coupling", "PairProduct", "axis_coefficients"]


@dataclass(frozen=True)
class Coupling:
    """All paths from one entry of the features to one irrep of the product.

    Parameters
    ----------
    entry : int
        Entry of the features.
    l1, l3 : int
        Degrees of the entry and of the product.
    mul : int
        Channels of the entry.
    odd : bool
        l1 + l2 + l3 is odd: component k comes from -k.
    degrees : tuple of int
        The l2, ascending; each makes `mul` channels.
    column : int
        First channel in the product irrep.
    """

    entry: int
    l1: int
    l3: int
    mul: int
    odd: bool
    degrees: tuple[int, ...]
    column: int

    @property
    def channels(self) -> int:
        """Channels of the product that the paths make."""
        return len(self.degrees) * self.mul

    @property
    def mmax(self) -> int:
        """Largest |k| that is not zero."""
        return min(self.l1, self.l3)


class PairProduct(nn.Module):
    """Plan of a tensor product: couplings, constants and the order of the weights.

    Parameters
    ----------
    irreps_in : Irreps
        Irreps of the node features.
    lmax : int
        Highest degree of the spherical harmonics.
    targets : Irreps
        Irreps that a path may lead to.

    Attributes
    ----------
    weight_numel : int
        Number of weights a pair, one for each channel of the product.
    irreps_mid : Irreps
        Product irreps, sorted and merged; channels of one irrep are in the order of the paths
        (entry, then harmonic).
    couplings : list of list of Coupling
        Couplings of each product irrep.
    columns : Tensor of int64, shape (weight_numel,)
        The published order of the weights is by path (entry, harmonic, target degree); here is
        which of them belongs to each channel of the product.
    """

    columns: torch.Tensor

    def __init__(self, irreps_in: Irreps, lmax: int, targets: Irreps) -> None:
        super().__init__()
        self.irreps_in = irreps_in
        wanted = {irrep for _, irrep in targets}
        start: dict[tuple[int, int, int], int] = {}  # weight offset of (entry, l2, l3)
        numel = 0
        for entry, (mul, irrep) in enumerate(irreps_in):
            for l2 in range(lmax + 1):
                for l3 in range(abs(irrep.l - l2), irrep.l + l2 + 1):
                    if Irrep(l3, irrep.p * natural_parity(l2)) in wanted:
                        start[entry, l2, l3] = numel
                        numel += mul
        self.weight_numel = numel
        self.couplings: list[list[Coupling]] = []
        kinds: list[tuple[int, Irrep]] = []
        columns: list[int] = []
        for target in sorted(wanted, key=sort_key):
            couplings: list[Coupling] = []
            channels = 0
            for entry, (mul, irrep) in enumerate(irreps_in):
                degrees = tuple(
                    l2
                    for l2 in range(lmax + 1)
                    if (entry, l2, target.l) in start and irrep.p * natural_parity(l2) == target.p
                )
                if not degrees:
                    continue
                odd = bool((irrep.l + degrees[0] + target.l) % 2)
                coupling = Coupling(entry, irrep.l, target.l, mul, odd, degrees, channels)
                couplings.append(coupling)
                channels += coupling.channels
                for l2 in degrees:
                    first = start[entry, l2, target.l]
                    columns += range(first, first + mul)
            if couplings:
                kinds.append((channels, target))
                self.couplings.append(couplings)
        self.irreps_mid = Irreps(kinds)
        self.register_buffer("columns", torch.tensor(columns), persistent=False)
        for t, couplings in enumerate(self.couplings):
            values = torch.cat(
                [axis_coefficients(c).repeat_interleave(c.mul, 1) for c in couplings], 1
            )
            self.register_buffer(
                f"coefficients_{t}", values.to(torch.get_default_dtype()), persistent=False
            )

    def forward(self, features: Features, weights: torch.Tensor) -> Features:
        """Return the products of pairs in their frames.

        Parameters
        ----------
        features : Features
            Features of `irreps_in` in the pairs' frames.
        weights : Tensor, shape (P, weight_numel)
            Weights in the order of the product's channels.

        Returns
        -------
        Features
            Of `irreps_mid`.
        """
        # One split, not a slice an irrep: the gradient of a slice is as large as the whole.
        parts = torch.split(weights, [mul for mul, _ in self.irreps_mid], 1)
        result = []
        for t, (couplings, weight) in enumerate(zip(self.couplings, parts, strict=True)):
            pieces = []
            for coupling in couplings:
                x = features[coupling.entry]
                x = x.flip(1) if coupling.odd and coupling.l1 else x
                pieces += [_resized(x, coupling.l3)] * len(coupling.degrees)
            spread = torch.cat(pieces, dim=2) * weight[:, None, :]
            result.append(spread.mul_(getattr(self, f"coefficients_{t}")))
        return result


def axis_coefficients(coupling: Coupling) -> torch.Tensor:
    """Return sqrt((2 l2 + 1)(2 l3 + 1)) C(l1, l2, l3)_{+-k, 0, k}, (2 l3 + 1, l2), float64."""
    l1, l3 = coupling.l1, coupling.l3
    values = torch.zeros(2 * l3 + 1, len(coupling.degrees), dtype=torch.float64)
    for place, l2 in enumerate(coupling.degrees):
        constants = wigner_3j(l1, l2, l3, dtype=torch.float64)[:, l2, :]
        for k in range(-coupling.mmax, coupling.mmax + 1):
            source = -k if coupling.odd else k
            values[l3 + k, place] = constants[l1 + source, l3 + k]
        values[:, place] *= math.sqrt((2 * l2 + 1) * (2 * l3 + 1))
    return values


def _resized(x: torch.Tensor, degree: int) -> torch.Tensor:
    """Return components -degree..degree of features, zero where there are none."""
    missing = degree - x.shape[1] // 2
    if missing > 0:
        return nn.functional.pad(x, (0, 0, missing, missing))
    return x[:, -missing : x.shape[1] + missing]
