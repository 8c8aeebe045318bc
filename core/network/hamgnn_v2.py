"""HamGNN V2 without spin-orbit coupling: features of pairs that are updated in every layer.

The equations are those of the published program's second version (`HamGNNConvE3`,
arXiv:2504.19586); parameter names are those of its state dict, so that its weights load as they
are. The features of a pair live in the frame of the pair, those of its reverse in the same frame
inverted, with their components in the order of `shared_product`; they are turned back only where
they are summed on an atom or become blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import cast

import torch
from e3nn.o3 import Irreps
from torch import nn

from hamgnn_solve.core.network.bond_frames import BondFrames, inverted
from hamgnn_solve.core.network.bonds import BondPart, Bonds, find_bonds
from hamgnn_solve.core.network.config import NetworkConfig
from hamgnn_solve.core.network.frame import pair_rotations
from hamgnn_solve.core.network.graph import PairGraph, no_exchange
from hamgnn_solve.core.network.head import OutputResidual
from hamgnn_solve.core.network.invariants import invariants
from hamgnn_solve.core.network.irreps import Features, dimension, flatten, parse_irreps, unflatten
from hamgnn_solve.core.network.linear import Linear
from hamgnn_solve.core.network.pair_layers import Convolution, PairEmbedding, PairInteraction
from hamgnn_solve.core.network.radial import radial_functions
from hamgnn_solve.core.network.shared_product import SharedProduct, from_polar, polar_rotations
from hamgnn_solve.core.network.shells import BlockLinear, ShellTable

__all__ = ["HamiltonianNetworkV2", "PairState"]

# What a configuration of version 2 may choose; everything else belongs to version 1.
CHOICES = frozenset(
    {
        "irreps",
        "shells",
        "layers",
        "cutoff",
        "num_radial",
        "invariant_layers",
        "invariant_neurons",
        "num_types",
        "lmax",
        "nonlinearity",
        "add_h0",
        "symmetrize",
        "version",
        "legacy_edge_update",
    }
)


@dataclass(frozen=True)
class PairState:
    """What the layers leave behind, from which blocks are read off.

    Parameters
    ----------
    nodes : Features
        Features of the owned atoms.
    bonds : Bonds
        The pairs, each once.
    edges : Tensor, shape (bonds, 2, components)
        Flat polar features of each bond and of its reverse.
    """

    nodes: Features
    bonds: Bonds
    edges: torch.Tensor

    def __post_init__(self) -> None:
        if self.edges.shape[:2] != (len(self.bonds), 2):
            raise ValueError(
                f"features of {len(self.bonds)} bonds have shape {tuple(self.edges.shape)}"
            )


class _Embedding(nn.Module):
    """First features of atoms, from their elements."""

    def __init__(self, config: NetworkConfig, irreps: Irreps) -> None:
        super().__init__()
        self.linear = Linear(Irreps([(config.num_types, (0, 1))]), irreps)


class _Representation(nn.Module):
    """Features of atoms and pairs; the module tree follows the published names."""

    def __init__(self, config: NetworkConfig, irreps: Irreps) -> None:
        super().__init__()
        doubled = Irreps([(2 * mul, irrep) for mul, irrep in irreps])
        products = (
            SharedProduct(doubled, config.lmax, irreps),
            SharedProduct(irreps, config.lmax, irreps),
        )
        self.pair_embedding = PairEmbedding(config, irreps)
        self.chemical_embedding = _Embedding(config, irreps)
        self.convolutions = nn.ModuleList(
            Convolution(config, irreps, products) for _ in range(config.layers)
        )
        self.pair_interactions = nn.ModuleList(
            PairInteraction(
                config, irreps, products, updates=layer > 0 or not config.legacy_edge_update
            )
            for layer in range(config.layers)
        )


class _BlockHead(nn.Module):
    """Residual block and block map."""

    def __init__(self, config: NetworkConfig, irreps: Irreps, table: ShellTable) -> None:
        super().__init__()
        self.residual_block = OutputResidual(irreps, config.nonlinearity)
        self.linear_transform = BlockLinear(irreps, table, frozenset())


class _OutputModule(nn.Module):
    """Maps of the atoms' and of the pairs' features to blocks."""

    def __init__(self, config: NetworkConfig, irreps: Irreps, table: ShellTable) -> None:
        super().__init__()
        self.onsite_hamiltonian_network = _BlockHead(config, irreps, table)
        self.offsite_hamiltonian_network = _BlockHead(config, irreps, table)


class HamiltonianNetworkV2(nn.Module):
    """HamGNN V2 without spin.

    Atoms come as type indices 0 <= t < num_types; blocks go out in the orbital order of the shell
    table (shells by l, m = -l..l), in Hartree, rows of the first atom. All methods work on local
    atoms: the owned ones first, then the ghosts.

    Parameters
    ----------
    config : NetworkConfig
        Shape of the network, of version 2.

    Raises
    ------
    ValueError
        When the configuration is of version 1 or asks for something that only version 1 has.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        if config.version != 2:
            raise ValueError(f"version={config.version}, but this network is of version 2")
        for field in fields(config):
            if field.name not in CHOICES and getattr(config, field.name) != field.default:
                raise ValueError(f"a network of version 2 does not have the option {field.name}")
        self.config = config
        self.irreps = parse_irreps(config.irreps)
        self.table = ShellTable(config.shells)
        self.representation = _Representation(config, self.irreps)
        self.output_module = _OutputModule(config, self.irreps, self.table)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the parameters."""
        return next(self.parameters()).dtype

    @property
    def lmax(self) -> int:
        """Highest degree of features and shells."""
        return max(*(irrep.l for _, irrep in self.irreps), len(self.config.shells) - 1)

    def held_bytes(self, natoms: int, npairs: int) -> float:
        """Estimate the memory in bytes that features of local atoms and of pairs take."""
        components = dimension(self.irreps)
        return float(self.dtype.itemsize * components * (6 * natoms + 2 * npairs))

    def pair_bytes(self) -> float:
        """Estimate the memory in bytes for each pair (and its reverse) that is worked on."""
        # Of the product's components those of one irrep are alive at a time, for both paths.
        return float(self.dtype.itemsize * 16 * dimension(self.irreps))

    def forward(
        self, types: torch.Tensor, pairs: PairGraph, reverse: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Predict all blocks of a structure; see `HamiltonianNetwork.forward`."""
        state = self.node_state(types, pairs, reverse, len(types))
        blocks = self._bond_blocks(state.bonds.pairs, state.edges).flatten(0, 1)
        offsite = blocks.index_select(0, state.bonds.direction)
        if self.config.symmetrize:
            offsite = 0.5 * (offsite + offsite.index_select(0, reverse).transpose(1, 2))
        return self.onsite_blocks(state), offsite

    def node_state(
        self,
        types: torch.Tensor,
        pairs: PairGraph,
        reverse: torch.Tensor,
        owned: int,
        exchange: Callable[[torch.Tensor], torch.Tensor] = no_exchange,
        chunk_size: int | None = None,
    ) -> PairState:
        """Run the layers; see `HamiltonianNetwork.node_state`.

        Gradients need all pairs in one piece (`chunk_size` None).

        Raises
        ------
        ValueError
            When a pair of owned atoms comes without its reverse.
        """
        bonds = find_bonds(pairs, reverse, owned)
        parts = bonds.parts(None if chunk_size is None else max(chunk_size // 2, 1))
        nodes = self._embed(types)
        edges = nodes[0].new_zeros(len(bonds), 2, dimension(self.irreps))
        # Pass n makes the pairs' features that layer n starts with, and sends its messages.
        for layer in range(self.config.layers):
            sums = self._empty(owned)
            update = self._edge_update(layer, types)
            convolution = cast(Convolution, self.representation.convolutions[layer])
            tables = convolution.conv_tp.tables()
            for part in parts:
                frames = self._frames(bonds, part)
                ends = frames.ends(nodes)
                features = update(frames, ends, _split(edges[part.bonds], self.irreps))
                edges = _stored(edges, part, features)
                # The reverse of a bond ends on its first atom, the bond itself on its second.
                start = 0 if part.inside else 1
                ending = [x[:, start:] for x in ends], [x[:, start:] for x in features]
                frames.add_messages(sums, convolution.conv_tp(tables, *ending, frames.radial))
            own = [x[:owned] for x in nodes]
            nodes = unflatten(exchange(flatten(convolution(sums, own))), self.irreps)
        update = self._edge_update(self.config.layers, types)
        for part in parts:
            frames = self._frames(bonds, part)
            features = _split(edges[part.bonds], self.irreps)
            edges = _stored(edges, part, update(frames, frames.ends(nodes), features))
        return PairState([x[:owned] for x in nodes], bonds, edges)

    def invariants(self, state: PairState) -> torch.Tensor:
        """Return the invariants of the owned atoms' features, shape (owned, channels)."""
        return invariants(state.nodes, self.irreps, len(state.nodes[0]))

    def onsite_blocks(self, state: PairState) -> torch.Tensor:
        """Return the on-site blocks of owned atoms, shape (owned, norbitals, norbitals)."""
        head = self.output_module.onsite_hamiltonian_network
        blocks: torch.Tensor = head.linear_transform(head.residual_block(state.nodes))
        if self.config.symmetrize:
            blocks = 0.5 * (blocks + blocks.transpose(1, 2))
        return blocks

    def pair_blocks(
        self, state: PairState, chosen: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return blocks of pairs and of their reverses before symmetrisation, (P, n, n) each.

        Parameters
        ----------
        state : PairState
        chosen : Tensor of int64, shape (P,)
            Indices of the pairs.
        """
        direction = state.bonds.direction[chosen]
        number, side = direction // 2, direction % 2
        blocks = self._bond_blocks(state.bonds.pairs.select(number), state.edges[number])
        row = torch.arange(len(chosen), device=chosen.device)
        return blocks[row, side], blocks[row, 1 - side]

    def _bond_blocks(self, pairs: PairGraph, edges: torch.Tensor) -> torch.Tensor:
        """Return the blocks of bonds and of their reverses, shape (P, 2, n, n)."""
        head = self.output_module.offsite_hamiltonian_network
        polar = [x.flatten(0, 1) for x in _split(edges, self.irreps)]
        features = from_polar(head.residual_block(polar), self.irreps)
        upright = [
            inverted(x.unflatten(0, (-1, 2)), irrep.p).flatten(0, 1)
            for x, (_, irrep) in zip(features, self.irreps, strict=True)
        ]
        blocks = head.linear_transform(upright)
        rotations = pair_rotations(pairs.vector, len(self.config.shells) - 1, self.dtype)
        twice = [x.repeat_interleave(2, dim=0) for x in rotations]
        return self.table.rotate_back(blocks, twice).unflatten(0, (-1, 2))

    def _embed(self, types: torch.Tensor) -> Features:
        # A one-hot vector times the matrix is a row of it.
        linear = self.representation.chemical_embedding.linear
        entry = linear.matches[0][1]
        nodes = self._empty(len(types))
        nodes[entry] = linear.matrix(0)[types][:, None, :]
        return nodes

    def _empty(self, rows: int) -> Features:
        """Return features of `rows` atoms that are zero."""
        like = next(self.parameters())
        return [
            torch.zeros(rows, irrep.dim, mul, dtype=like.dtype, device=like.device)
            for mul, irrep in self.irreps
        ]

    def _frames(self, bonds: Bonds, part: BondPart) -> BondFrames:
        pairs = bonds.pairs.select(part.bonds)
        rotations = pair_rotations(pairs.vector, self.lmax, self.dtype)
        radial = radial_functions(
            pairs.distance, self.config.cutoff, self.config.num_radial, power=1
        ).to(self.dtype)
        return BondFrames(self.irreps, pairs, radial, polar_rotations(rotations, self.irreps))

    def _edge_update(
        self, layer: int, types: torch.Tensor
    ) -> Callable[[BondFrames, Features, Features], Features]:
        """Return what makes the pairs' features that a layer starts with.

        It takes the frames, the features of the atoms (`BondFrames.ends`) and the pairs' features
        of the layer before.
        """
        if layer == 0:
            embedding = self.representation.pair_embedding
            scalar_tables = embedding.conv_tp.tables()

            def embed(frames: BondFrames, _ends: Features, _edges: Features) -> Features:
                scalars = embedding.scalars(types, frames.pairs)
                result: Features = embedding.conv_tp(scalar_tables, scalars, frames.radial)
                return result

            return embed
        interaction = cast(PairInteraction, self.representation.pair_interactions[layer - 1])
        if not interaction.updates:
            return lambda _frames, _ends, edges: edges
        tables = interaction.tables()

        def update(frames: BondFrames, ends: Features, edges: Features) -> Features:
            result: Features = interaction(tables, ends, edges, frames.radial)
            return result

        return update


def _split(edges: torch.Tensor, irreps: Irreps) -> Features:
    """Return flat features (P, 2, components) as features (P, 2, 2l + 1, mul)."""
    return [x.unflatten(0, (-1, 2)) for x in unflatten(edges.flatten(0, 1), irreps)]


def _stored(edges: torch.Tensor, part: BondPart, features: Features) -> torch.Tensor:
    """Return the flat features of all bonds with those of a part replaced."""
    flat = flatten([x.flatten(0, 1) for x in features]).unflatten(0, (-1, 2))
    if len(flat) == len(edges):
        return flat
    edges[part.bonds] = flat
    return edges
