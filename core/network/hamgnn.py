"""HamGNN V1: the network that predicts Hamiltonian blocks (arXiv:2211.09344, 2402.09251).

The equations are those of the published program's first version; parameter names are those of its
state dict, so that its weights load as they are. Four additions are off unless asked for: a
message cutoff shorter than the orbitals' range, radial weights that depend on the pair of
elements, an envelope that ends each off-site element where its two orbitals part, and a two-centre
reference that the network's output is added to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from e3nn.o3 import Irreps
from torch import nn

from hamgnn_solve.core.network.axis_kernel import AxisKernel, PairWeights, can_compile
from hamgnn_solve.core.network.config import NetworkConfig
from hamgnn_solve.core.network.edge_product import EdgeProduct
from hamgnn_solve.core.network.frame import harmonics, pair_rotations, rotate
from hamgnn_solve.core.network.graph import PairGraph, no_exchange
from hamgnn_solve.core.network.head import OutputResidual
from hamgnn_solve.core.network.interaction import Interaction
from hamgnn_solve.core.network.invariants import invariants
from hamgnn_solve.core.network.irreps import Features, dimension, parse_irreps, unflatten
from hamgnn_solve.core.network.linear import Linear, gate_irreps
from hamgnn_solve.core.network.messages import (
    Messengers,
    find_messengers,
    pair_kinds,
    sum_messages,
)
from hamgnn_solve.core.network.pair_features import CompiledPairs, PairFeatures, compile_pairs
from hamgnn_solve.core.network.radial import RadialPerceptron, radial_functions
from hamgnn_solve.core.network.radial_table import exact_weights, tabulate
from hamgnn_solve.core.network.reference import TwoCentreReference
from hamgnn_solve.core.network.shells import V1_SIGN_FLIPS, BlockLinear, ShellTable
from hamgnn_solve.core.network.tensor_product import PairProduct

__all__ = ["HamiltonianNetwork", "NodeState"]


# Bound on the error of tabulated radial weights relative to the largest.
TABLE_ERROR = 1e-7


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
            Interaction(config, irreps, self.message_product) for _ in range(config.layers)
        )
        self.conv_to_output_node = _Mixing(irreps, irreps)
        if not config.onsite_only:
            self.conv_to_output_edge = PairFeatures(config, irreps)
        if config.edge_tp_irreps is not None:
            self.conv_to_output_edge_tp = EdgeProduct(config, irreps)

    @property
    def layers(self) -> list[Interaction]:
        """The convolution layers."""
        return [layer for layer in self.convnet if isinstance(layer, Interaction)]


class _OutputModule(nn.Module):
    """Residual blocks and block maps of on-site and off-site features."""

    def __init__(self, config: NetworkConfig, irreps: Irreps, table: ShellTable) -> None:
        super().__init__()
        flips = V1_SIGN_FLIPS if config.sign_flips else frozenset()
        self.onsitenet_residual = OutputResidual(irreps, config.nonlinearity)
        self.onsitenet_linear = BlockLinear(irreps, table, flips)
        if not config.onsite_only:
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

    def held_bytes(self, natoms: int, npairs: int) -> float:
        """Estimate the memory in bytes that features of local atoms and frames of pairs take."""
        components = dimension(self.irreps)
        rotations = sum((2 * degree + 1) ** 2 for degree in range(self.lmax + 1))
        # Features, what atoms send, and both once more while a layer runs.
        return float(self.dtype.itemsize * (6 * natoms * components + 2 * npairs * rotations))

    def pair_bytes(self) -> float:
        """Estimate the memory in bytes for each pair (and its reverse) that is worked on."""
        product = self.representation.message_product
        components = dimension(self.irreps)
        if can_compile(self.onsite_reference, self.lmax):
            widest = max(mul for mul, _ in product.irreps_mid)
            alive = product.weight_numel + 2 * (8 * components + 2 * widest)
        else:
            alive = 6 * dimension(product.irreps_mid)
        return float(self.dtype.itemsize * alive)

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

    def atom_blocks(
        self, types: torch.Tensor, pairs: PairGraph, reverse: torch.Tensor
    ) -> torch.Tensor:
        """Predict the on-site blocks of a structure alone, shape (N, norbitals, norbitals)."""
        return self.onsite_blocks(self.node_state(types, pairs, reverse, len(types)))

    def node_state(
        self,
        types: torch.Tensor,
        pairs: PairGraph,
        reverse: torch.Tensor,  # noqa: ARG002  # version 2 needs it
        owned: int,
        exchange: Callable[[torch.Tensor], torch.Tensor] = no_exchange,
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
        messengers = find_messengers(self.config, types, pairs, owned, self.lmax, self.dtype)
        kernel = None
        if can_compile(self.onsite_reference, self.lmax):
            kernel = AxisKernel(self.representation.message_product, self.dtype)
        table = self._attributes()
        features = self._embed(types, table)
        for layer in self.representation.layers:
            sums = partial(self._sums, layer.conv.fc, messengers, kernel, chunk_size)
            update = layer(features, types, table, sums)
            features = unflatten(exchange(update), self.irreps)
        features = self.representation.conv_to_output_node.linear(features)
        if self.config.onsite_only:
            return NodeState(types, pairs, owned, chunk_size, features, ())
        sources = self._pair_sources(features)
        compiled = None if kernel is None else self._compiled_pairs(types, pairs, sources)
        return NodeState(types, pairs, owned, chunk_size, features, sources, compiled)

    def invariants(self, state: NodeState) -> torch.Tensor:
        """Return the invariants of the owned atoms' features, shape (owned, channels)."""
        return invariants(state.features, self.irreps, state.owned)

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
            for span in _parts(len(near), state.chunk_size):
                chosen = near.select(span)
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
        blocks = self._directed_blocks(state, both, mirrored=True)
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

    def _directed_blocks(
        self, state: NodeState, pairs: PairGraph, mirrored: bool = False
    ) -> torch.Tensor:
        """Return blocks of pairs; `mirrored` when the second half are the reverses of the first."""
        # Beyond the cutoff all radial weights vanish, and with them the edge features.
        near = torch.nonzero(pairs.distance < self.config.cutoff).flatten()
        within = self._network_blocks(state, pairs.select(near), mirrored)
        blocks = within.new_zeros(len(pairs), *within.shape[1:]).index_copy(0, near, within)
        if self.config.reference_radial:
            blocks = blocks + self.two_centre_blocks(
                self.offsite_pairs, state.types, pairs, self.config.reference_radius
            )
        if self.config.envelope:
            blocks = blocks * self.envelope(state.types, pairs)
        return blocks

    def _network_blocks(self, state: NodeState, pairs: PairGraph, mirrored: bool) -> torch.Tensor:
        """Return what the network itself says of pairs, worked out in their frames."""
        head = self.output_module
        rotations = pair_rotations(pairs.vector, self.lmax, self.dtype)
        kind = pair_kinds(self.config, state.types, pairs)
        if state.compiled is None:
            features = self.representation.conv_to_output_edge(
                _turned(state.sources[0], pairs.second, self.irreps, rotations),
                _turned(state.sources[1], pairs.first, self.irreps, rotations),
                self._radial(pairs.distance),
                kind,
            )
        else:
            features = state.compiled.features(pairs, kind, rotations, mirrored)
        if self.config.edge_tp_irreps is not None:
            previous = parse_irreps(self.config.edge_tp_irreps)
            more = self.representation.conv_to_output_edge_tp(
                _turned(state.sources[2], pairs.second, self.irreps, rotations),
                _turned(state.sources[3], pairs.first, previous, rotations),
                self._radial(pairs.distance),
                kind,
            )
            features = [x + y for x, y in zip(features, more, strict=True)]
        blocks = head.offsitenet_linear(head.offsitenet_residual(features))
        return self.table.rotate_back(blocks, rotations)

    def _radial(self, distance: torch.Tensor) -> torch.Tensor:
        config = self.config
        functions = radial_functions(
            distance, config.cutoff, config.num_radial, config.cutoff_power
        )
        return functions.to(self.dtype)

    def _compiled_pairs(
        self, types: torch.Tensor, pairs: PairGraph, sources: tuple[Features, ...]
    ) -> CompiledPairs:
        module = self.representation.conv_to_output_edge
        near = pairs.select(pairs.distance < self.config.cutoff)
        # Blocks of reverse pairs are made too.
        both = [pair_kinds(self.config, types, x) for x in (near, near.reversed())]
        kinds = torch.cat([x for x in both if x is not None]) if self.config.pair_radial else None
        weights = self._pair_weights(
            module.fc, module.product, self.config.cutoff, near.distance, kinds
        )
        return compile_pairs(module, sources[0], sources[1], weights)

    def _pair_weights(
        self,
        perceptron: RadialPerceptron,
        product: PairProduct,
        cutoff: float,
        distance: torch.Tensor,
        kind: torch.Tensor | None,
    ) -> PairWeights:
        config = self.config
        radial = partial(
            radial_functions,
            cutoff=cutoff,
            number=config.num_radial,
            power=config.cutoff_power,
            ends=False,
        )
        # Double precision is asked for by those who want no interpolation.
        if self.dtype == torch.float64 or len(distance) == 0:
            return partial(exact_weights, perceptron, product.columns, radial)
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
        perceptron: RadialPerceptron,
        messengers: Messengers,
        kernel: AxisKernel | None,
        chunk_size: int | None,
        sources: Features,
    ) -> Iterator[tuple[slice, Features]]:
        product = self.representation.message_product
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
