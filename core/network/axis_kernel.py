"""Compiled evaluation of the tensor products, for inference on a processor.

The same sums as `PairProduct` and `sum_messages`, by native/axis_product.cpp: products are never
stored but for the few components a matrix product needs at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from e3nn.o3 import Irreps
from numpy.typing import NDArray

from hamgnn_solve.core.network.graph import PairGraph, centre_blocks
from hamgnn_solve.core.network.irreps import Features, flatten
from hamgnn_solve.core.network.linear import Linear
from hamgnn_solve.core.network.messages import Messengers
from hamgnn_solve.core.network.tensor_product import Coupling, PairProduct, axis_coefficients

try:
    from hamgnn_solve import _native
except ImportError:  # a checkout that was not built; the network then runs uncompiled
    _native = None  # type: ignore[assignment]

__all__ = ["AxisKernel", "PairLinear", "PairWeights", "can_compile", "turn_sums"]

# Weights (P, W) of pairs at distances (P,) in Bohr, of kinds (P,) or None.
PairWeights = Callable[[NDArray[np.float64], NDArray[np.int64] | None], NDArray[np.floating]]

# Sizes that stay in a processor's cache: sums of a block of centres, weights of some pairs.
SUM_BYTES = 16e6
WEIGHT_BYTES = 4e6
# Fewest columns of a matrix product.
NARROWEST = 16
# Highest degree that the compiled code has loops for.
MAX_DEGREE = 8


def can_compile(parameter: torch.Tensor, lmax: int) -> bool:
    """Tell whether the compiled code can stand in: no gradients, on a processor, degrees known."""
    return (
        _native is not None
        and not torch.is_grad_enabled()
        and parameter.device.type == "cpu"
        and parameter.dtype in (torch.float32, torch.float64)
        and lmax <= MAX_DEGREE
    )


@dataclass(frozen=True)
class _Place:
    """Where a coupling finds its data in flat arrays."""

    source: int
    weight: int


class AxisKernel:
    """Plan of a product for the compiled code.

    Parameters
    ----------
    product : PairProduct
    dtype : torch.dtype
        float32 or float64.
    """

    def __init__(self, product: PairProduct, dtype: torch.dtype) -> None:
        self.product = product
        self.dtype = dtype
        self.itemsize = torch.empty(0, dtype=dtype).element_size()
        self.entries = entry_table(product.irreps_in)
        starts = self.entries[:, 2]
        self.places: dict[Coupling, _Place] = {}
        rows = []
        coefficients: list[torch.Tensor] = []
        weight = 0
        for target, couplings in enumerate(product.couplings):
            for c in couplings:
                place = _Place(int(starts[c.entry]), weight + c.column)
                self.places[c] = place
                rows.append(
                    _coupling_row(c, place, target, c.column, sum(x.numel() for x in coefficients))
                )
                coefficients.append(positive_coefficients(c).flatten())
            weight += product.irreps_mid[target].mul
        self.couplings = np.array(rows, dtype=np.int64)
        self.coefficients = _array(torch.cat(coefficients).to(dtype))

    def part_size(self, chunk_size: int | None) -> int:
        """Return the number of pairs whose weights are made at a time."""
        size = max(int(WEIGHT_BYTES / (self.itemsize * self.product.weight_numel)), 16)
        return size if chunk_size is None else max(min(size, chunk_size), 1)

    def sum_messages(
        self,
        weights: PairWeights,
        messengers: Messengers,
        sources: Features,
        chunk_size: int | None,
    ) -> Iterator[tuple[slice, Features]]:
        """Yield blocks of centres and the sums of their pairs' products.

        Parameters
        ----------
        weights : callable
            Weights of the products, of distances and kinds of pairs.
        messengers : Messengers
        sources : Features
            What each local atom sends.
        chunk_size : int or None
            Largest number of pairs worked on at a time.
        """
        irreps = self.product.irreps_mid
        per_atom = self.itemsize * sum(irrep.dim * mul for mul, irrep in irreps)
        atoms = max(int(SUM_BYTES / per_atom), 1)
        size = self.part_size(chunk_size)
        flat = _array(flatten(sources))
        pairs = messengers.pairs
        first, second = _array(pairs.first), _array(pairs.second)
        distance = _array(pairs.distance.double())
        kind = None if messengers.kind is None else _array(messengers.kind)
        rotations = _array(messengers.rotations)
        for block in centre_blocks(pairs.first, messengers.owned, atoms, size):
            count = block.atoms.stop - block.atoms.start
            sums = [np.zeros((count, irrep.dim, mul), dtype=flat.dtype) for mul, irrep in irreps]
            for part in block.parts:
                _native.add_messages(
                    self.entries,
                    self.couplings,
                    self.coefficients,
                    flat,
                    rotations[part],
                    first[part] - block.atoms.start,
                    second[part],
                    weights(distance[part], None if kind is None else kind[part]),
                    sums,
                )
            yield block.atoms, [torch.from_numpy(x) for x in sums]


class PairLinear:
    """A product followed by a linear map, for each pair, in the frames of the pairs.

    Component k = +-m of the result takes components +-m of the source from the entries that have
    them; one matrix product for each irrep and each m, with the coefficients in its matrix.

    Parameters
    ----------
    kernel : AxisKernel
    linear : Linear
        From the product's irreps.
    irreps_out : Irreps
        Irreps of the result.
    """

    def __init__(self, kernel: AxisKernel, linear: Linear, irreps_out: Irreps) -> None:
        self.kernel = kernel
        self.irreps_out = irreps_out
        self.steps: list[tuple[int, int, NDArray[np.int64], torch.Tensor]] = []
        product = kernel.product
        for match, (target, out, _, _) in enumerate(linear.matches):
            matrix = linear.matrix(match)
            for m in range(irreps_out[out].ir.l + 1):
                self._plan(product.couplings[target], target, out, m, matrix)
        self.width = max(len(step[3]) for step in self.steps)

    def _plan(
        self, couplings: list[Coupling], target: int, out: int, m: int, matrix: torch.Tensor
    ) -> None:
        rows, parts = [], []
        column = 0
        for c in couplings:
            if m > c.mmax or (m == 0 and c.odd):
                continue
            rows.append(_coupling_row(c, self.kernel.places[c], target, column, 0))
            values = positive_coefficients(c)[:, m].repeat_interleave(c.mul).to(matrix.dtype)
            parts.append(matrix[c.column : c.column + c.channels] * values[:, None])
            column += c.channels
        if rows:
            whole = torch.cat(parts)
            # Narrower matrix products run at a fifth of the speed.
            missing = max(NARROWEST - whole.shape[1], 0)
            whole = torch.nn.functional.pad(whole, (0, missing))
            self.steps.append((out, m, np.array(rows, dtype=np.int64), whole))

    def __call__(self, sources: torch.Tensor, weights: NDArray[np.floating]) -> Features:
        """Return the features of pairs.

        Parameters
        ----------
        sources : Tensor, shape (P, components)
            Flat features in the frames of the pairs.
        weights : ndarray, shape (P or a divisor of it, weights)
            Weights of the products; pairs take them in turn.
        """
        npairs = len(sources)
        result = [sources.new_zeros(npairs, irrep.dim, mul) for mul, irrep in self.irreps_out]
        flat = _array(sources)
        scratch = np.empty(2 * npairs * self.width, dtype=flat.dtype)
        for out, m, couplings, matrix in self.steps:
            rows = npairs if m == 0 else 2 * npairs
            components = scratch[: rows * len(matrix)].reshape(rows, -1)
            _native.axis_components(couplings, flat, weights, m, components)
            mapped = torch.from_numpy(components) @ matrix
            mul, irrep = self.irreps_out[out]
            result[out][:, irrep.l + m] = mapped[:npairs, :mul]
            if m:
                result[out][:, irrep.l - m] = mapped[npairs:, :mul]
        return result


def turn_sums(
    irreps: Irreps,
    neighbour: torch.Tensor,
    centre: torch.Tensor,
    pairs: PairGraph,
    rotations: torch.Tensor,
) -> torch.Tensor:
    """Return neighbour[second] + centre[first] in the frames of pairs, flat.

    Parameters
    ----------
    irreps : Irreps
    neighbour, centre : Tensor, shape (local atoms, components)
        Flat features.
    pairs : PairGraph
    rotations : Tensor, shape (P, sum of (2l + 1)^2)
        `joined` rotations.
    """
    result = neighbour.new_empty(len(pairs), neighbour.shape[1])
    _native.turn_sums(
        entry_table(irreps),
        _array(neighbour),
        _array(pairs.second),
        _array(centre),
        _array(pairs.first),
        _array(rotations),
        result.numpy(),
    )
    return result


def entry_table(irreps: Irreps) -> NDArray[np.int64]:
    """Return degree, channels and place in flat features of each entry."""
    rows, start = [], 0
    for mul, irrep in irreps:
        rows.append((irrep.l, mul, start))
        start += mul * irrep.dim
    return np.array(rows, dtype=np.int64)


def positive_coefficients(coupling: Coupling) -> torch.Tensor:
    """Return the coefficients for m = 0..mmax, shape (degrees, mmax + 1), float64."""
    values = axis_coefficients(coupling)
    return values[coupling.l3 : coupling.l3 + coupling.mmax + 1].t().contiguous()


def _coupling_row(
    coupling: Coupling, place: _Place, target: int, column: int, coefficients: int
) -> tuple[int, ...]:
    """Return the fields of struct Coupling in native/axis_product.cpp."""
    return (
        coupling.l1,
        coupling.l3,
        coupling.mul,
        int(coupling.odd),
        len(coupling.degrees),
        place.source,
        place.weight,
        target,
        column,
        coefficients,
    )


def _array(tensor: torch.Tensor) -> NDArray[Any]:
    array: NDArray[Any] = tensor.contiguous().numpy()
    return array
