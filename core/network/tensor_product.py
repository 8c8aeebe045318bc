"""Tensor product of node features with the spherical harmonics of pairs, fused with its Linear.

For a path (entry i of degree l1, harmonic l2, degree l3) the product is

    m[u, k] = sqrt(2 l3 + 1) w[u] sum_ab C(l1, l2, l3)_abk h[u, a] Y_l2[b].

C.Y is contracted first, once for all channels of one l1 (both parities), so that one batched
matrix product serves all paths of (l1, l3).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from e3nn.o3 import Irrep, Irreps, wigner_3j
from torch import nn

from hamgnn_solve.core.network.irreps import Features, natural_parity, sort_key

__all__ = ["PairProduct", "ProductLinear"]


@dataclass(frozen=True)
class _Group:
    """All paths from degree l1 to degree l3."""

    l1: int
    l3: int
    degrees: tuple[int, ...]  # the l2
    channels: int  # channels of degree l1
    table: slice  # columns of the C.Y table
    weights: slice  # columns of the weights


class PairProduct(nn.Module):
    """Plan of a tensor product: paths, constants and the order of the weights.

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
        Number of weights a pair, in path order (entry, harmonic, target degree).
    irreps_mid : Irreps
        Product irreps, sorted and merged; channels of one irrep are in path order.
    columns : Tensor of int64
        Weight in path order that stands at each place in group order; `weight_numel` where the
        group has a channel without a path.
    """

    constants: torch.Tensor
    columns: torch.Tensor

    def __init__(self, irreps_in: Irreps, lmax: int, targets: Irreps) -> None:
        super().__init__()
        wanted = {irrep for _, irrep in targets}
        self.irreps_in = irreps_in
        start: dict[tuple[int, int, int], int] = {}  # weight offset of (entry, l2, l3)
        row: dict[tuple[int, int, int], int] = {}  # row in its mid irrep
        counts: dict[Irrep, int] = {}
        numel = 0
        for entry, (mul, irrep) in enumerate(irreps_in):
            for l2 in range(lmax + 1):
                for l3 in range(abs(irrep.l - l2), irrep.l + l2 + 1):
                    target = Irrep(l3, irrep.p * natural_parity(l2))
                    if target in wanted:
                        start[entry, l2, l3] = numel
                        row[entry, l2, l3] = counts.get(target, 0)
                        counts[target] = counts.get(target, 0) + mul
                        numel += mul
        self.weight_numel = numel
        self.irreps_mid = Irreps([(counts[ir], ir) for ir in sorted(counts, key=sort_key)])
        self.entries = {
            degree: [e for e, (_, irrep) in enumerate(irreps_in) if irrep.l == degree]
            for degree in sorted({irrep.l for _, irrep in irreps_in})
        }
        self._plan_groups(lmax, start, row)

    def _plan_groups(
        self,
        lmax: int,
        start: dict[tuple[int, int, int], int],
        row: dict[tuple[int, int, int], int],
    ) -> None:
        self.groups: list[_Group] = []
        self.rows: list[dict[Irrep, torch.Tensor]] = []
        columns: list[int] = []
        tables: list[torch.Tensor] = []
        width = 0
        for l1, entries in self.entries.items():
            channels = sum(self.irreps_in[e].mul for e in entries)
            for l3 in sorted({irrep.l for _, irrep in self.irreps_mid}):
                degrees = tuple(
                    l2 for l2 in range(lmax + 1) if any((e, l2, l3) in start for e in entries)
                )
                if not degrees:
                    continue
                table = _coupling_table(l1, degrees, l3, lmax)
                place = len(columns)
                rows: dict[Irrep, list[int]] = {}
                for irrep in (Irrep(l3, -1), Irrep(l3, 1)):
                    if irrep in {ir for _, ir in self.irreps_mid}:
                        rows[irrep] = []
                for l2 in degrees:
                    for e in entries:
                        mul, irrep_in = self.irreps_in[e]
                        first = start.get((e, l2, l3))
                        columns += (
                            [self.weight_numel] * mul
                            if first is None
                            else list(range(first, first + mul))
                        )
                        target = Irrep(l3, irrep_in.p * natural_parity(l2))
                        for irrep, places in rows.items():
                            known = first is not None and irrep == target
                            size = next(m for m, ir in self.irreps_mid if ir == irrep)
                            low = row.get((e, l2, l3), 0)
                            places += list(range(low, low + mul)) if known else [size] * mul
                self.groups.append(
                    _Group(
                        l1,
                        l3,
                        degrees,
                        channels,
                        slice(width, width + table.shape[1]),
                        slice(place, len(columns)),
                    )
                )
                self.rows.append({ir: torch.tensor(places) for ir, places in rows.items()})
                tables.append(table)
                width += table.shape[1]
        self.register_buffer(
            "constants", torch.cat(tables, dim=1).to(torch.get_default_dtype()), persistent=False
        )
        self.register_buffer("columns", torch.tensor(columns), persistent=False)

    def coupling(self, harmonics: torch.Tensor) -> torch.Tensor:
        """Contract the constants with the harmonics of pairs, (P, (lmax+1)^2) to (P, table)."""
        return harmonics @ self.constants

    def by_degree(self, features: Features) -> dict[int, torch.Tensor]:
        """Join the entries of equal degree: {l: (N, 2l + 1, channels)}."""
        return {
            degree: torch.cat([features[e] for e in entries], dim=2)
            for degree, entries in self.entries.items()
        }

    def products(
        self, gathered: dict[int, torch.Tensor], coupling: torch.Tensor, weights: torch.Tensor
    ) -> list[torch.Tensor]:
        """Return the weighted products of pairs group by group.

        Parameters
        ----------
        gathered : dict
            Features of the pairs by degree, (P, 2 l1 + 1, channels).
        coupling : Tensor, shape (P, table)
            Result of `coupling`.
        weights : Tensor, shape (P, len(columns))
            Weights in group order.

        Returns
        -------
        list of Tensor, shape (P, 2 l3 + 1, len(degrees) * channels)
        """
        npairs = coupling.shape[0]
        result = []
        # One split, not a slice a group: the gradient of a slice is as large as the whole.
        parts = torch.split(weights, [g.weights.stop - g.weights.start for g in self.groups], 1)
        for group, weight in zip(self.groups, parts, strict=True):
            dim = 2 * group.l3 + 1
            table = coupling[:, group.table].reshape(npairs, -1, 2 * group.l1 + 1)
            product = torch.bmm(table, gathered[group.l1])
            width = len(group.degrees) * group.channels
            result.append(product.view(npairs, dim, width) * weight[:, None, :])
        return result


class ProductLinear(nn.Module):
    """Linear map from the product's irreps (merged, path order) to the output irreps.

    It reads the groups of `PairProduct.products` as they are: instead of sorting the products
    into irreps, the rows of its matrices are put into group order.
    """

    def __init__(self, product: PairProduct, irreps_out: Irreps) -> None:
        super().__init__()
        self.irreps_mid = product.irreps_mid
        self.irreps_out = irreps_out
        self.out = {irrep: b for b, (_, irrep) in enumerate(irreps_out)}
        numel = 0
        self.start: dict[Irrep, int] = {}
        for mul, irrep in product.irreps_mid:
            if irrep in self.out:
                self.start[irrep] = numel
                numel += mul * irreps_out[self.out[irrep]].mul
        self.weight = nn.Parameter(torch.randn(numel))
        self.groups = product.groups
        for number, rows in enumerate(product.rows):
            for irrep, places in rows.items():
                self.register_buffer(f"rows_{number}_{irrep}", places, persistent=False)

    def matrices(self) -> dict[Irrep, torch.Tensor]:
        """Return the scaled matrix of each irrep, one zero row added below."""
        result = {}
        for mul, irrep in self.irreps_mid:
            if irrep in self.start:
                out = self.irreps_out[self.out[irrep]].mul
                start = self.start[irrep]
                matrix = self.weight[start : start + mul * out].view(mul, out) / math.sqrt(mul)
                result[irrep] = torch.cat([matrix, matrix.new_zeros(1, out)])
        return result

    def forward(self, groups: list[torch.Tensor]) -> Features:
        """Map the products of pairs, or their sums over pairs, to features."""
        matrices = self.matrices()
        sums: dict[int, torch.Tensor] = {}
        for number, (group, x) in enumerate(zip(self.groups, groups, strict=True)):
            parts = [
                matrices[irrep].index_select(0, getattr(self, f"rows_{number}_{irrep}"))
                for irrep in self._irreps_of(group.l3)
            ]
            y = x @ torch.cat(parts, dim=1)
            sums[group.l3] = sums[group.l3] + y if group.l3 in sums else y
        result: list[torch.Tensor | None] = [None] * len(self.irreps_out)
        for degree, total in sums.items():
            irreps = self._irreps_of(degree)
            widths = [self.irreps_out[self.out[irrep]].mul for irrep in irreps]
            for irrep, part in zip(irreps, torch.split(total, widths, dim=2), strict=True):
                result[self.out[irrep]] = part
        rows = groups[0].shape[0]
        return [
            x if x is not None else groups[0].new_zeros(rows, irrep.dim, mul)
            for x, (mul, irrep) in zip(result, self.irreps_out, strict=True)
        ]

    def _irreps_of(self, degree: int) -> list[Irrep]:
        return [irrep for irrep in self.start if irrep.l == degree]


def _coupling_table(l1: int, degrees: tuple[int, ...], l3: int, lmax: int) -> torch.Tensor:
    """Return sqrt(2 l3 + 1) C as ((lmax+1)^2, (2 l3 + 1) len(degrees) (2 l1 + 1))."""
    table = torch.zeros((lmax + 1) ** 2, 2 * l3 + 1, len(degrees), 2 * l1 + 1, dtype=torch.float64)
    for place, l2 in enumerate(degrees):
        constants = wigner_3j(l1, l2, l3, dtype=torch.float64)
        table[l2 * l2 : (l2 + 1) ** 2, :, place, :] = constants.permute(1, 2, 0)
    return math.sqrt(2 * l3 + 1) * table.flatten(1)
