"""Sums of the pairs' products on their centre atoms, which a convolution is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from hamgnn_solve.core.network.config import NetworkConfig
from hamgnn_solve.core.network.frame import joined, pair_rotations, parted, rotate, rotate_back
from hamgnn_solve.core.network.graph import PairGraph, centre_blocks
from hamgnn_solve.core.network.irreps import Features
from hamgnn_solve.core.network.radial import RadialPerceptron, radial_functions
from hamgnn_solve.core.network.tensor_product import PairProduct

__all__ = ["Messengers", "Sums", "find_messengers", "pair_kinds", "sum_messages"]

# Sums over pairs for consecutive blocks of centres, of features that all local atoms have.
Sums = Callable[[Features], Iterator[tuple[slice, Features]]]

ROTATION_PAIRS = 16384


@dataclass(frozen=True)
class Messengers:
    """Pairs within the radius of the convolutions, by centre.

    Parameters
    ----------
    pairs : PairGraph
        Ascending by first atom.
    rotations : Tensor, shape (P, sum of (2l + 1)^2)
        Rotations into the frames of the pairs, `joined`.
    kind : Tensor of int64, shape (P,), or None
        Kind of each pair, where radial weights depend on it.
    owned : int
        Number of centres.
    """

    pairs: PairGraph
    rotations: torch.Tensor
    kind: torch.Tensor | None
    owned: int


def pair_kinds(config: NetworkConfig, types: torch.Tensor, pairs: PairGraph) -> torch.Tensor | None:
    """Return the ordered pair of element types of each pair where weights depend on it."""
    if not config.pair_radial:
        return None
    return types[pairs.first] * config.num_types + types[pairs.second]


def find_messengers(
    config: NetworkConfig,
    types: torch.Tensor,
    pairs: PairGraph,
    owned: int,
    lmax: int,
    dtype: torch.dtype,
) -> Messengers:
    """Choose and sort the pairs that send messages, and find their frames.

    Parameters
    ----------
    config : NetworkConfig
    types : Tensor of int64, shape (local atoms,)
    pairs : PairGraph
        Pairs whose first atom is owned.
    owned : int
    lmax : int
        Highest degree of the features.
    dtype : torch.dtype
        Precision of the rotations.
    """
    near = torch.nonzero(pairs.distance < config.message_radius).flatten()
    chosen = pairs.select(near[torch.argsort(pairs.first[near], stable=True)])
    parts = torch.split(chosen.vector, ROTATION_PAIRS)
    rotations = torch.cat([joined(pair_rotations(part, lmax, dtype)) for part in parts])
    return Messengers(chosen, rotations, pair_kinds(config, types, chosen), owned)


def sum_messages(
    config: NetworkConfig,
    product: PairProduct,
    perceptron: RadialPerceptron,
    messengers: Messengers,
    sources: Features,
    chunk_size: int | None,
) -> Iterator[tuple[slice, Features]]:
    """Yield blocks of centres and the sums of their pairs' products.

    Parameters
    ----------
    config : NetworkConfig
    product : PairProduct
    perceptron : RadialPerceptron
        Makes the weights of the products.
    messengers : Messengers
    sources : Features
        What each local atom sends, of `product.irreps_in`.
    chunk_size : int or None
        Number of pairs worked on at a time; None for all.
    """
    atoms = None if chunk_size is None else max(chunk_size // 16, 1)
    degrees = [irrep.l for _, irrep in product.irreps_in]
    targets = [irrep.l for _, irrep in product.irreps_mid]
    for block in centre_blocks(messengers.pairs.first, messengers.owned, atoms, chunk_size):
        count = block.atoms.stop - block.atoms.start
        sums = [sources[0].new_zeros(count, irrep.dim, mul) for mul, irrep in product.irreps_mid]
        for part in block.parts:
            pairs = messengers.pairs.select(part)
            rotations = parted(messengers.rotations[part])
            turned = [
                rotate(rotations[degree], x.index_select(0, pairs.second))
                for degree, x in zip(degrees, sources, strict=True)
            ]
            radial = radial_functions(
                pairs.distance, config.message_radius, config.num_radial, config.cutoff_power
            ).to(sources[0].dtype)
            kind = None if messengers.kind is None else messengers.kind[part]
            messages = product(turned, perceptron(radial, kind, product.columns))
            place = pairs.first - block.atoms.start
            sums = [
                total.index_add(0, place, rotate_back(rotations[degree], x))
                for degree, total, x in zip(targets, sums, messages, strict=True)
            ]
        yield block.atoms, sums
