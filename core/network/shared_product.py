"""Tensor product of features with the direction of pairs, weights shared by all pairs.

For a path p (entry i of degree l1, harmonic l2, output o of degree l3) the product has the channels

    t_p[w, k] = sqrt((2 l3 + 1) / mul_i) sum_u W_p[u, w] sum_ab C(l1, l2, l3)_abk x_i[u, a] Y_l2[b];

each is multiplied by a radial weight of its own, and one matrix V_o maps those of all paths to the
output. In the frame whose polar axis is the pair only Y_l2,0 is left, and C_a0k couples k = a
(l1 + l2 + l3 even) or k = -a (odd). Which of the two depends on the natures of i and o alone: an
irrep is natural when its parity is (-1)^l. With the components k and -k of irreps that are not
natural stored as x[-k] and -x[k], every path couples k = a, with one coefficient for k and -k. What
remains is two products of matrices for each |k|, the components 0, 1, -1, 2, -2, ... in this order
being called polar.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from e3nn.o3 import Irrep, Irreps, wigner_3j
from torch import nn

from hamgnn_solve.core.network.irreps import Features, natural_parity, sort_key

__all__ = ["ProductTables", "SharedProduct", "from_polar", "polar_rotations"]


@dataclass(frozen=True)
class _Path:
    """All paths from one entry to one output; they differ in l2."""

    entry: int
    output: int
    l3: int
    alike: bool  # both natural or neither
    degrees: tuple[int, ...]  # the l2
    channels: int  # of the product: the output's, once for each l2


@dataclass(frozen=True)
class _Reach:
    """Paths of one entry that have components of one |k|: consecutive in the entry's order."""

    paths: list[_Path]
    columns: slice


@dataclass(frozen=True)
class ProductTables:
    """Matrices of a product, ready for any number of pairs.

    Parameters
    ----------
    first : list of Tensor, shape (mul_i, channels)
        For each entry the weights W of all its paths.
    second : dict
        For each (entry, output, |k|) the rows of V that belong to the path, times its coefficient.
    """

    first: list[torch.Tensor]
    second: dict[tuple[int, int, int], torch.Tensor]


class SharedProduct(nn.Module):
    """Plan of the product: paths, constants, the order of weights.

    Parameters
    ----------
    irreps_in : Irreps
        Irreps of the features, each once.
    lmax : int
        Highest degree of the spherical harmonics.
    irreps_out : Irreps
        Irreps of the outputs, each once.

    Attributes
    ----------
    weight_numel : int
        Number of weights W: matrices [mul_i, mul_o], row-major, by output (sorted), entry and l2.
    irreps_mid : Irreps
        Irreps of the product, sorted and merged; the channels of one are by entry and l2.
    columns : Tensor of int64
        Which channel of `irreps_mid` stands at each place of the radial weights in `forward`.
    """

    columns: torch.Tensor

    def __init__(self, irreps_in: Irreps, lmax: int, irreps_out: Irreps) -> None:
        super().__init__()
        self.irreps_in = irreps_in
        self.irreps_out = irreps_out
        outputs = sorted(range(len(irreps_out)), key=lambda o: sort_key(irreps_out[o].ir))
        self.paths = [path for o in outputs for path in _paths_to(o, irreps_in, lmax, irreps_out)]
        self.sizes = [irreps_in[path.entry].mul * path.channels for path in self.paths]
        self.weight_numel = sum(self.sizes)
        widths = {o: sum(p.channels for p in self.paths if p.output == o) for o in outputs}
        self.mid_outputs = [o for o in outputs if widths[o]]
        self.irreps_mid = Irreps([(widths[o], irreps_out[o].ir) for o in self.mid_outputs])
        self._order_channels()
        for path in self.paths:
            values = _coefficients(path, irreps_in).to(torch.get_default_dtype())
            name = f"coefficients_{path.entry}_{path.output}"
            self.register_buffer(name, values, persistent=False)

    def _order_channels(self) -> None:
        """Put the channels of each entry so that those of one |k| are consecutive."""
        start: dict[_Path, int] = {}
        numel = 0
        for path in self.paths:
            start[path] = numel
            numel += path.channels
        self.by_entry: list[list[_Path]] = []
        self.reach: list[list[_Reach]] = []
        columns: list[int] = []
        for entry, (_, irrep) in enumerate(self.irreps_in):
            # k = 0 couples irreps alike in nature, |k| = m > 0 those of degree m and more.
            unlike = sorted((p for p in self.paths if not p.alike), key=lambda p: p.l3)
            alike = sorted((p for p in self.paths if p.alike), key=lambda p: -p.l3)
            paths = [path for path in unlike + alike if path.entry == entry]
            self.by_entry.append(paths)
            for path in paths:
                columns += range(start[path], start[path] + path.channels)
            self.reach.append([_reach(paths, m) for m in range(irrep.l + 1)])
        self.register_buffer("columns", torch.tensor(columns), persistent=False)

    def tables(self, weight: torch.Tensor, mixing: list[torch.Tensor]) -> ProductTables:
        """Return the matrices of the product.

        Parameters
        ----------
        weight : Tensor, shape (weight_numel,)
            The flat weights W.
        mixing : list of Tensor, shape (channels, mul_o)
            V of each irrep of `irreps_mid`.
        """
        # One split each, not a slice a path: the gradient of a slice is as large as the whole.
        matrices: dict[_Path, torch.Tensor] = {}
        for path, flat in zip(self.paths, torch.split(weight, self.sizes), strict=True):
            cube = flat.view(len(path.degrees), self.irreps_in[path.entry].mul, -1)
            matrices[path] = cube.permute(1, 0, 2).flatten(1)
        first = [
            torch.cat([weight.new_zeros(mul, 0), *(matrices[p] for p in paths)], dim=1)
            for (mul, _), paths in zip(self.irreps_in, self.by_entry, strict=True)
        ]
        second: dict[tuple[int, int, int], torch.Tensor] = {}
        for output, whole in zip(self.mid_outputs, mixing, strict=True):
            paths = [path for path in self.paths if path.output == output]
            for path, rows in zip(
                paths, torch.split(whole, [p.channels for p in paths]), strict=True
            ):
                values = self.get_buffer(f"coefficients_{path.entry}_{output}")
                cube = rows.view(len(path.degrees), -1, rows.shape[1])
                for m, value in enumerate(values):
                    second[path.entry, output, m] = (value[:, None, None] * cube).flatten(0, 1)
        return ProductTables(first, second)

    def forward(self, features: Features, weights: torch.Tensor, tables: ProductTables) -> Features:
        """Return the outputs of pairs in their frames.

        Parameters
        ----------
        features : Features
            Of `irreps_in`, polar, shape (P, R, 2l + 1, mul): R sets of features a pair.
        weights : Tensor, shape (P, len(columns))
            Radial weights of the channels, in the order of `columns`.
        tables : ProductTables
            Result of `tables`.

        Returns
        -------
        Features
            Of `irreps_out`, polar, shape (P, R, 2l + 1, mul).
        """
        npairs, nsets = features[0].shape[:2]
        widths = [sum(path.channels for path in paths) for paths in self.by_entry]
        sums: dict[tuple[int, int], torch.Tensor] = {}
        parts = torch.split(weights, widths, dim=1)
        for entry, (x, weight) in enumerate(zip(features, parts, strict=True)):
            for m, reach in enumerate(self.reach[entry]):
                if not reach.paths:
                    continue
                rows = x[:, :, _components(m)].flatten(1, 2)
                product = (rows @ tables.first[entry][:, reach.columns]) * weight[
                    :, None, reach.columns
                ]
                pieces = torch.split(
                    product.flatten(0, 1), [path.channels for path in reach.paths], dim=1
                )
                for path, piece in zip(reach.paths, pieces, strict=True):
                    matrix = tables.second[entry, path.output, m]
                    place = (path.output, m)
                    if place in sums:
                        sums[place].addmm_(piece, matrix)
                    else:
                        sums[place] = piece @ matrix
        result = []
        for output, (mul, irrep) in enumerate(self.irreps_out):
            shapes = [(npairs, nsets, 1 if m == 0 else 2, mul) for m in range(irrep.l + 1)]
            components = [
                sums[output, m].view(shape) if (output, m) in sums else weights.new_zeros(shape)
                for m, shape in enumerate(shapes)
            ]
            result.append(torch.cat(components, dim=2))
        return result


def polar_rotations(rotations: list[torch.Tensor], irreps: Irreps) -> Features:
    """Return the rotations into the frames of pairs with polar components as rows.

    Parameters
    ----------
    rotations : list of Tensor, shape (P, 2l + 1, 2l + 1)
        Result of `pair_rotations`.
    irreps : Irreps
        Irreps of the features.

    Returns
    -------
    list of Tensor, shape (P, 2l + 1, 2l + 1)
        One for each entry of the irreps, orthogonal.
    """
    cache: dict[Irrep, torch.Tensor] = {}
    for _, irrep in irreps:
        source, sign = _polar_order(irrep, rotations[0])
        cache[irrep] = rotations[irrep.l].index_select(1, source) * sign
    return [cache[irrep] for _, irrep in irreps]


def from_polar(features: Features, irreps: Irreps) -> Features:
    """Return polar features (rows, 2l + 1, mul) with components m = -l..l."""
    result = []
    for x, (_, irrep) in zip(features, irreps, strict=True):
        source, sign = _polar_order(irrep, x)
        result.append((x * sign).index_select(1, torch.argsort(source)))
    return result


def _is_natural(irrep: Irrep) -> bool:
    return bool(irrep.p == natural_parity(irrep.l))


def _components(m: int) -> slice:
    """Polar components of m and -m."""
    return slice(0, 1) if m == 0 else slice(2 * m - 1, 2 * m + 1)


def _polar_order(irrep: Irrep, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return where each polar component stands in m = -l..l, and its sign as a column."""
    orders = range(1, irrep.l + 1)
    natural = _is_natural(irrep)
    pairs = [(m, -m) if natural else (-m, m) for m in orders]
    source = [irrep.l] + [irrep.l + m for pair in pairs for m in pair]
    sign = [1.0] + [1.0, 1.0 if natural else -1.0] * irrep.l
    return (
        torch.tensor(source, device=like.device),
        torch.tensor(sign, dtype=like.dtype, device=like.device)[:, None],
    )


def _paths_to(output: int, irreps_in: Irreps, lmax: int, irreps_out: Irreps) -> list[_Path]:
    mul_out, target = irreps_out[output]
    paths = []
    for entry, (_, irrep) in enumerate(irreps_in):
        highest = min(irrep.l + target.l, lmax)
        degrees = tuple(
            l2
            for l2 in range(abs(irrep.l - target.l), highest + 1)
            if irrep.p * natural_parity(l2) == target.p
        )
        alike = _is_natural(irrep) == _is_natural(target)
        if degrees:
            channels = len(degrees) * mul_out
            paths.append(_Path(entry, output, target.l, alike, degrees, channels))
    return paths


def _reach(paths: list[_Path], m: int) -> _Reach:
    """Return which of an entry's paths have components +-m, and where their channels are."""
    chosen = [n for n, path in enumerate(paths) if (path.l3 >= m if m else path.alike)]
    if not chosen:
        return _Reach([], slice(0, 0))
    begin, end = chosen[0], chosen[-1] + 1
    low = sum(path.channels for path in paths[:begin])
    high = low + sum(path.channels for path in paths[begin:end])
    return _Reach(paths[begin:end], slice(low, high))


def _coefficients(path: _Path, irreps_in: Irreps) -> torch.Tensor:
    """Return the coefficient of each |k| and l2, shape (min(l1, l3) + 1, l2), float64."""
    mul, irrep = irreps_in[path.entry]
    # The first of the two polar components of m is k = m of natural irreps, k = -m of others.
    source = 1 if _is_natural(irrep) else -1
    target = source if path.alike else -source
    values = torch.zeros(min(irrep.l, path.l3) + 1, len(path.degrees), dtype=torch.float64)
    for place, l2 in enumerate(path.degrees):
        constants = wigner_3j(irrep.l, l2, path.l3, dtype=torch.float64)
        for m in range(len(values)):
            values[m, place] = constants[irrep.l + source * m, l2, path.l3 + target * m]
        values[:, place] *= math.sqrt((2 * l2 + 1) * (2 * path.l3 + 1) / mul)
    return values
