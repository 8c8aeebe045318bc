"""HamGNN V1: the network that predicts Hamiltonian blocks (arXiv:2211.09344, 2402.09251).

The equations are those of the published program's first version; parameter names are those of its
state dict, so that its weights load as they are. Four additions are off unless asked for: a
message cutoff shorter than the orbitals' range, radial weights that depend on the pair of
elements, an envelope that ends each off-site element where its two orbitals part, and a two-centre
reference that the network's output is added to.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from e3nn.o3 import Irreps
from numpy.typing import NDArray
from torch import nn

from hamgnn_solve.core.network.axis_kernel import (
    AxisKernel,
    PairLinear,
    PairWeights,
    can_compile,
    turn_sums,
)
from hamgnn_solve.core.network.config import NetworkConfig
from hamgnn_solve.core.network.edge_product import EdgeProduct
from hamgnn_solve.core.network.frame import harmonics, joined, pair_rotations, rotate
from hamgnn_solve.core.network.graph import PairGraph
from hamgnn_solve.core.network.head import OutputResidual
from hamgnn_solve.core.network.irreps import Features, flatten, parse_irreps, unflatten
from hamgnn_solve.core.network.linear import Gate, Linear, SelfConnection, gate_irreps
from hamgnn_solve.core.network.messages import (
    Messengers,
    Sums,
    find_messengers,
    pair_kinds,
    sum_messages,
)
from hamgnn_solve.core.network.radial import RadialPerceptron, radial_functions
from hamgnn_solve.core.network.radial_table import tabulate
from hamgnn_solve.core.network.reference import TwoCentreReference
from hamgnn_solve.core.network.shells import V1_SIGN_FLIPS, BlockLinear, ShellTable
from hamgnn_solve.core.network.tensor_product import PairProduct

__all__ = ["HamiltonianNetwork", "NodeState"]


# Bound on the error of tabulated radial weights relative to the largest.
TABLE_ERROR = 1e-7


def _no_exchange(features: torch.Tensor) -> torch.Tensor:
    return features


class _Convolution(nn.Module):
    """Messages of the neighbours, summed on the centre, plus a self-connection."""

    def __init__(self, config: NetworkConfig, irreps: Irreps, product: PairProduct) -> None:
        super().__init__()
        target = gate_irreps(irreps)
        self.linear_1 = Linear(irreps, irreps)
        self.fc = RadialPerceptron(config.radial_sizes(product.weight_numel), config.radial_kinds)
        self.linear_2 = Linear(product.irreps_mid, target)
        self.sc = SelfConnection(irreps, target, config.attributes or config.num_types)


class _Interaction(nn.Module):
    """One layer: x <- x + Gate(conv(x))."""

    def __init__(self, config: NetworkConfig, irreps: Irreps, product: PairProduct) -> None:
        super().__init__()
        self.conv = _Convolution(config, irreps, product)
        self.gate = Gate(irreps)
        # The published program compares irreps after moving the scalars to the front.
        scalars_first = all(a.ir.l == 0 or b.ir.l > 0 for a, b in itertools.pairwise(irreps))
        self.residual = config.resnet and scalars_first

    def forward(
        self, features: Features, types: torch.Tensor, table: torch.Tensor | None, sums: Sums
    ) -> torch.Tensor:
        """Return the next flat features of the owned atoms, from those of all local atoms."""
        result = []
        for atoms, total in sums(self.conv.linear_1(features)):
            before = [x[atoms] for x in features]
            own = self.conv.sc(before, types[atoms], table)
            messages = self.conv.linear_2(total)
            update = self.gate([x + y for x, y in zip(messages, own, strict=True)])
            if self.residual:
                update = [x + y for x, y in zip(before, update, strict=True)]
            result.append(flatten(update))
        return torch.cat(result)


class _EdgeFeatures(nn.Module):
    """Features of a pair from those of its two atoms and its direction."""

    def __init__(self, config: NetworkConfig, irreps: Irreps) -> None:
        super().__init__()
        self.product = PairProduct(irreps, config.lmax, irreps)
        self.linear_node_src = Linear(irreps, irreps)
        self.linear_node_dst = Linear(irreps, irreps)
        self.fc = RadialPerceptron(
            config.radial_sizes(self.product.weight_numel), config.radial_kinds
        )
        self.linear_edge = Linear(self.product.irreps_mid, irreps)


class _Mixing(nn.Module):
    """A linear map under the name that the published weights have for it."""

    def __init__(self, irreps_in: Irreps, irreps_out: Irreps) -> None:
        super().__init__()
        self.linear = Linear(irreps_in, irreps_out)


class _ElementTable(nn.Module):
    """Learned attributes of the elements (pre2)."""

    def __init__(self, rows: int, length: int) -> None:
        super().__init__()
        self.emb = nn.Embedding(rows, length)


class _Representation(nn.Module):
    """Node and edge features; the module tree follows the published names."""

    def __init__(self, config: NetworkConfig, irreps: Irreps) -> None:
        super().__init__()
        length = config.attributes or config.num_types
        if config.attributes is not None:
            self.emb = _ElementTable(config.num_types, config.attributes)
        attributes = Irreps([(length, (0, 1))])
        self.chemical_embedding = _Mixing(attributes, irreps)
        self.message_product = PairProduct(irreps, config.lmax, gate_irreps(irreps))
        self.convnet = nn.ModuleList(
            _Interaction(config, irreps, self.message_product) for _ in range(config.layers)
        )
        self.conv_to_output_node = _Mixing(irreps, irreps)
        self.conv_to_output_edge = _EdgeFeatures(config, irreps)
        if config.edge_tp_irreps is not None:
            self.conv_to_output_edge_tp = EdgeProduct(config, irreps)


class _OutputModule(nn.Module):
    """Residual blocks and block maps of on-site and off-site features."""

    def __init__(self, config: NetworkConfig, irreps: Irreps, table: ShellTable) -> None:
        super().__init__()
        flips = V1_SIGN_FLIPS if config.sign_flips else frozenset()
        self.onsitenet_residual = OutputResidual(irreps, config.nonlinearity)
        self.onsitenet_linear = BlockLinear(irreps, table, flips)
        self.offsitenet_residual = OutputResidual(irreps, config.nonlinearity)
        self.offsitenet_linear = BlockLinear(irreps, table, flips)


@dataclass(frozen=True)
class NodeState:
    """What the convolutions leave behind, from which blocks are read off.

    Parameters
    ----------
    types : Tensor of int64, shape (local atoms,)
        Type of each local atom.
    pairs : PairGraph
        Pairs whose first atom is owned.
    owned : int
        Number of owned atoms.
    chunk_size : int or None
        Number of atoms or pairs worked on at a time.
    features : Features
        Output features of all local atoms.
    sources : tuple of Features
        What each local atom contributes to the features of pairs: as neighbour, as centre, and
        the same two for the edge product where there is one.
    compiled : CompiledPairs or None
        Set where compiled code makes the features of pairs.
    """

    types: torch.Tensor
    pairs: PairGraph
    owned: int
    chunk_size: int | None
    features: Features
    sources: tuple[Features, ...]
    compiled: CompiledPairs | None = None


@dataclass(frozen=True)
class CompiledPairs:
    """What the compiled code needs to make the features of pairs.

    Parameters
    ----------
    neighbour, centre : Tensor, shape (local atoms, components)
        The first two sources, flat.
    weights : callable
        Radial weights of the product.
    linear : PairLinear
        Product and linear map in one.
    """

    neighbour: torch.Tensor
    centre: torch.Tensor
    weights: PairWeights
    linear: PairLinear


class HamiltonianNetwork(nn.Module):
    """HamGNN V1.

    Atoms come as type indices 0 <= t < num_types; blocks go out in the orbital order of the shell
    table (shells by l, m = -l..l), in Hartree, rows of the centre atom. All methods work on local
    atoms: the owned ones first, then the ghosts.

    Parameters
    ----------
    config : NetworkConfig
        Shape of the network.

    Attributes
    ----------
    onsite_reference : Tensor, shape (num_types, norbitals, norbitals)
        Constant added to the on-site block of each type, zero unless a model sets it.
    orbital_cutoff : Tensor, shape (num_types, norbitals)
        With `envelope`: cutoff in Bohr of each orbital of each type, zero for an absent one.
    """

    onsite_reference: torch.Tensor
    orbital_cutoff: torch.Tensor

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.irreps = parse_irreps(config.irreps)
        self.table = ShellTable(config.shells)
        self.representation = _Representation(config, self.irreps)
        self.output_module = _OutputModule(config, self.irreps, self.table)
        norbitals = self.table.norbitals
        self.register_buffer(
            "onsite_reference", torch.zeros(config.num_types, norbitals, norbitals)
        )
        self.register_buffer(
            "orbital_cutoff", torch.zeros(config.num_types, norbitals), persistent=config.envelope
        )
        if config.reference_radial:
            size = (self.table, config.num_types, config.reference_radial)
            self.offsite_pairs = TwoCentreReference(*size)
            self.onsite_neighbours = TwoCentreReference(*size)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the parameters."""
        return self.onsite_reference.dtype

    @property
    def lmax(self) -> int:
        """Highest degree of features and shells."""
        return max(*(irrep.l for _, irrep in self.irreps), len(self.config.shells) - 1)

    def forward(
        self, types: torch.Tensor, pairs: PairGraph, reverse: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Predict all blocks of a structure in one piece, as training needs them.

        Parameters
        ----------
        types : Tensor of int64, shape (N,)
            Type of each atom.
        pairs : PairGraph
            Pairs of the atoms, every pair together with its reverse.
        reverse : Tensor of int64, shape (P,)
            Index of the reverse of each pair.

        Returns
        -------
        onsite : Tensor, shape (N, norbitals, norbitals)
        offsite : Tensor, shape (P, norbitals, norbitals)
        """
        state = self.node_state(types, pairs, reverse, len(types))
        offsite = self._directed_blocks(state, pairs)
        if self.config.symmetrize:
            offsite = 0.5 * (offsite + offsite.index_select(0, reverse).transpose(1, 2))
        return self.onsite_blocks(state), offsite

    def node_state(
        self,
        types: torch.Tensor,
        pairs: PairGraph,
        reverse: torch.Tensor,  # noqa: ARG002  # version 2 needs it
        owned: int,
        exchange: Callable[[torch.Tensor], torch.Tensor] = _no_exchange,
        chunk_size: int | None = None,
    ) -> NodeState:
        """Run the convolutions.

        Parameters
        ----------
        types : Tensor of int64, shape (local atoms,)
            Type of each local atom.
        pairs : PairGraph
            Pairs whose first atom is owned.
        reverse : Tensor of int64, shape (P,)
            Index of the reverse of each pair, -1 where it is not in the list.
        owned : int
            Number of owned atoms.
        exchange : callable
            Takes flat features of the owned atoms, returns those of all local atoms; called once
            a layer.
        chunk_size : int, optional
            Number of pairs worked on at a time.

        Returns
        -------
        NodeState
        """
        product = self.representation.message_product
        messengers = find_messengers(self.config, types, pairs, owned, self.lmax, self.dtype)
        kernel = (
            AxisKernel(product, self.dtype)
            if can_compile(self.onsite_reference, self.lmax)
            else None
        )
        table = self._attributes()
        features = self._embed(types, table)
        for layer in self.representation.convnet:
            sums = partial(self._sums, product, layer.conv.fc, messengers, kernel, chunk_size)
            update = layer(features, types, table, sums)
            features = unflatten(exchange(update), self.irreps)
        features = self.representation.conv_to_output_node.linear(features)
        sources = self._pair_sources(features)
        compiled = None if kernel is None else self._compiled_pairs(types, pairs, sources)
        return NodeState(types, pairs, owned, chunk_size, features, sources, compiled)

    def onsite_blocks(self, state: NodeState) -> torch.Tensor:
        """Return the on-site blocks of owned atoms, shape (owned, norbitals, norbitals)."""
        head = self.output_module
        owned = state.owned
        parts = []
        step = owned if state.chunk_size is None else state.chunk_size
        for start in range(0, max(owned, 1), max(step, 1)):
            part = [x[:owned][start : start + step] for x in state.features]
            parts.append(head.onsitenet_linear(head.onsitenet_residual(part)))
        blocks: torch.Tensor = torch.cat(parts)
        blocks = blocks + self.onsite_reference.index_select(0, state.types[:owned])
        if self.config.reference_radial:
            radius = self.config.message_radius
            near = state.pairs.select(state.pairs.distance < radius)
            for part in _parts(len(near), state.chunk_size):
                chosen = near.select(part)
                terms = self.two_centre_blocks(self.onsite_neighbours, state.types, chosen, radius)
                blocks = blocks.index_add(0, chosen.first, terms)
        if self.config.symmetrize:
            blocks = 0.5 * (blocks + blocks.transpose(1, 2))
        return blocks

    def pair_blocks(
        self, state: NodeState, chosen: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return blocks of pairs and of their reverses before symmetrisation, (P, n, n) each.

        Parameters
        ----------
        state : NodeState
        chosen : Tensor of int64, shape (P,)
            Indices of the pairs.
        """
        pairs = state.pairs.select(chosen)
        reverse = pairs.reversed()
        both = PairGraph(
            torch.cat([pairs.first, reverse.first]),
            torch.cat([pairs.second, reverse.second]),
            torch.cat([pairs.vector, reverse.vector]),
        )
        blocks = self._directed_blocks(state, both)
        return blocks[: len(pairs)], blocks[len(pairs) :]

    def two_centre_blocks(
        self, reference: TwoCentreReference, types: torch.Tensor, pairs: PairGraph, radius: float
    ) -> torch.Tensor:
        """Return the terms of a two-centre reference for pairs, shape (P, n, n)."""
        radial = radial_functions(pairs.distance, radius, self.config.reference_radial)
        kind = types[pairs.first] * self.config.num_types + types[pairs.second]
        directions = harmonics(pairs.vector, 2 * len(self.config.shells) - 2)
        blocks: torch.Tensor = reference(radial.to(self.dtype), kind, directions.to(self.dtype))
        return blocks

    def _pair_sources(self, features: Features) -> tuple[Features, ...]:
        """Return what each local atom contributes to the features of its pairs."""
        edge = self.representation.conv_to_output_edge
        sources = [edge.linear_node_src(features), edge.linear_node_dst(features)]
        if self.config.edge_tp_irreps is not None:
            tp = self.representation.conv_to_output_edge_tp
            sources += [tp.linear_node_src(features), tp.linear_node_dst(features)]
        return tuple(sources)

    def _directed_blocks(self, state: NodeState, pairs: PairGraph) -> torch.Tensor:
        # Beyond the cutoff all radial weights vanish, and with them the edge features.
        near = torch.nonzero(pairs.distance < self.config.cutoff).flatten()
        within = self._network_blocks(state, pairs.select(near))
        blocks = within.new_zeros(len(pairs), *within.shape[1:]).index_copy(0, near, within)
        if self.config.reference_radial:
            blocks = blocks + self.two_centre_blocks(
                self.offsite_pairs, state.types, pairs, self.config.reference_radius
            )
        if self.config.envelope:
            blocks = blocks * self.envelope(state.types, pairs)
        return blocks

    def _network_blocks(self, state: NodeState, pairs: PairGraph) -> torch.Tensor:
        """Return what the network itself says of pairs, worked out in their frames."""
        head = self.output_module
        rotations = pair_rotations(pairs.vector, self.lmax, self.dtype)
        if state.compiled is None:
            features = self._product_features(state, pairs, rotations)
        else:
            features = self._compiled_features(state.compiled, state.types, pairs, rotations)
        if self.config.edge_tp_irreps is not None:
            more = self._edge_product_features(state, pairs, rotations)
            features = [x + y for x, y in zip(features, more, strict=True)]
        blocks = head.offsitenet_linear(head.offsitenet_residual(features))
        return self.table.rotate_back(blocks, rotations)

    def _product_features(
        self, state: NodeState, pairs: PairGraph, rotations: list[torch.Tensor]
    ) -> Features:
        """Return the features of pairs that come from the product with the harmonics."""
        edge = self.representation.conv_to_output_edge
        neighbour = _turned(state.sources[0], pairs.second, self.irreps, rotations)
        centre = _turned(state.sources[1], pairs.first, self.irreps, rotations)
        sums = [x + y for x, y in zip(neighbour, centre, strict=True)]
        kind = pair_kinds(self.config, state.types, pairs)
        weights = edge.fc(self._radial(pairs.distance), kind, edge.product.columns)
        features: Features = edge.linear_edge(edge.product(sums, weights))
        return features

    def _compiled_features(
        self,
        compiled: CompiledPairs,
        types: torch.Tensor,
        pairs: PairGraph,
        rotations: list[torch.Tensor],
    ) -> Features:
        """Return the same as `_product_features`."""
        turned = turn_sums(
            self.irreps, compiled.neighbour, compiled.centre, pairs, joined(rotations)
        )
        kind = pair_kinds(self.config, types, pairs)
        weights = compiled.weights(
            pairs.distance.double().numpy(), None if kind is None else kind.numpy()
        )
        return compiled.linear(turned, weights)

    def _edge_product_features(
        self, state: NodeState, pairs: PairGraph, rotations: list[torch.Tensor]
    ) -> Features:
        """Return the features of pairs that come from the product of their atoms."""
        previous = parse_irreps(str(self.config.edge_tp_irreps))
        features: Features = self.representation.conv_to_output_edge_tp(
            _turned(state.sources[2], pairs.second, self.irreps, rotations),
            _turned(state.sources[3], pairs.first, previous, rotations),
            self._radial(pairs.distance),
            pair_kinds(self.config, state.types, pairs),
        )
        return features

    def _radial(self, distance: torch.Tensor) -> torch.Tensor:
        config = self.config
        functions = radial_functions(
            distance, config.cutoff, config.num_radial, config.cutoff_power
        )
        return functions.to(self.dtype)

    def _compiled_pairs(
        self, types: torch.Tensor, pairs: PairGraph, sources: tuple[Features, ...]
    ) -> CompiledPairs:
        edge = self.representation.conv_to_output_edge
        near = pairs.select(pairs.distance < self.config.cutoff)
        # Blocks of reverse pairs are made too.
        kind = pair_kinds(self.config, types, near)
        if kind is not None:
            kind = torch.cat([kind, pair_kinds(self.config, types, near.reversed())])
        weights = self._pair_weights(edge.fc, edge.product, self.config.cutoff, near.distance, kind)
        kernel = AxisKernel(edge.product, self.dtype)
        linear = PairLinear(kernel, edge.linear_edge, self.irreps)
        return CompiledPairs(flatten(sources[0]), flatten(sources[1]), weights, linear)

    def _pair_weights(
        self,
        perceptron: RadialPerceptron,
        product: PairProduct,
        cutoff: float,
        distance: torch.Tensor,
        kind: torch.Tensor | None,
    ) -> PairWeights:
        """Return the function of distance that gives the weights of a product.

        Single precision interpolates in a table; double precision takes the perceptron itself.
        """
        config = self.config

        def radial(r: torch.Tensor) -> torch.Tensor:
            return radial_functions(r, cutoff, config.num_radial, config.cutoff_power, ends=False)

        def exact(
            distance_p: NDArray[np.float64], kind_p: NDArray[np.int64] | None
        ) -> NDArray[np.floating]:
            which = None if kind_p is None else torch.from_numpy(kind_p)
            values: NDArray[np.floating] = perceptron(
                radial(torch.from_numpy(distance_p)), which, product.columns
            ).numpy()
            return values

        if self.dtype == torch.float64 or len(distance) == 0:
            return exact
        return tabulate(
            perceptron,
            product.columns,
            radial,
            (float(distance.min()), float(distance.max())),
            None if kind is None else torch.unique(kind).numpy(),
            TABLE_ERROR,
        ).weights

    def _sums(
        self,
        product: PairProduct,
        perceptron: RadialPerceptron,
        messengers: Messengers,
        kernel: AxisKernel | None,
        chunk_size: int | None,
        sources: Features,
    ) -> Iterator[tuple[slice, Features]]:
        if kernel is None:
            return sum_messages(self.config, product, perceptron, messengers, sources, chunk_size)
        weights = self._pair_weights(
            perceptron,
            product,
            self.config.message_radius,
            messengers.pairs.distance,
            messengers.kind,
        )
        return kernel.sum_messages(weights, messengers, sources, chunk_size)

    def envelope(self, types: torch.Tensor, pairs: PairGraph) -> torch.Tensor:
        """Return the squared cosine envelope of each orbital pair, shape (P, n, n)."""
        rows = self.orbital_cutoff.index_select(0, types[pairs.first])
        columns = self.orbital_cutoff.index_select(0, types[pairs.second])
        present = (rows > 0)[:, :, None] & (columns > 0)[:, None, :]
        fraction = pairs.distance[:, None, None] / (rows[:, :, None] + columns[:, None, :])
        inside = present & (fraction < 1.0)
        envelope = 0.5 * (torch.cos(math.pi * fraction) + 1.0)
        return torch.where(inside, envelope**2, torch.zeros_like(envelope)).to(self.dtype)

    def _attributes(self) -> torch.Tensor | None:
        if self.config.attributes is None:
            return None
        table: torch.Tensor = self.representation.emb.emb.weight
        return table

    def _embed(self, types: torch.Tensor, table: torch.Tensor | None) -> Features:
        linear = self.representation.chemical_embedding.linear
        if table is None:
            # A one-hot vector times the matrix is a row of it.
            _, entry, _, _ = linear.matches[0]
            scalars = linear.matrix(0)[types][:, None, :]
            shapes = [(irrep.dim, mul) for mul, irrep in self.irreps]
            return [
                scalars if e == entry else scalars.new_zeros(len(types), *shape)
                for e, shape in enumerate(shapes)
            ]
        result: Features = linear([table[types][:, None, :]])
        return result


def _turned(
    features: Features, atoms: torch.Tensor, irreps: Irreps, rotations: list[torch.Tensor]
) -> Features:
    """Return the features of pairs' atoms in the frames of the pairs."""
    return [
        rotate(rotations[irrep.l], x.index_select(0, atoms))
        for x, (_, irrep) in zip(features, irreps, strict=True)
    ]


def _parts(count: int, size: int | None) -> Iterator[slice]:
    """Yield consecutive slices of at most `size` (one for None)."""
    step = max(count, 1) if size is None else size
    for start in range(0, max(count, 1), step):
        yield slice(start, start + step)
