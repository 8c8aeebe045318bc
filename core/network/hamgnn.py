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

import torch
from e3nn.o3 import Irreps, spherical_harmonics
from torch import nn

from hamgnn_solve.core.network.config import NetworkConfig
from hamgnn_solve.core.network.edge_product import EdgeProduct
from hamgnn_solve.core.network.graph import PairGraph
from hamgnn_solve.core.network.irreps import (
    Features,
    flatten,
    parse_irreps,
    unflatten,
)
from hamgnn_solve.core.network.linear import (
    Gate,
    Linear,
    NormActivation,
    RadialPerceptron,
    SelfConnection,
    gate_irreps,
)
from hamgnn_solve.core.network.reference import TwoCentreReference
from hamgnn_solve.core.network.shells import V1_SIGN_FLIPS, BlockLinear, ShellTable
from hamgnn_solve.core.network.tensor_product import PairProduct, ProductLinear

__all__ = ["HamiltonianNetwork", "pair_harmonics", "radial_functions"]


@dataclass(frozen=True)
class _Geometry:
    """What the layers need to know of a chunk of pairs."""

    pairs: PairGraph
    radial: torch.Tensor
    kind: torch.Tensor | None
    coupling: torch.Tensor


def _no_exchange(features: torch.Tensor) -> torch.Tensor:
    return features


class _Convolution(nn.Module):
    """Messages of the neighbours, summed on the centre, plus a self-connection."""

    def __init__(self, config: NetworkConfig, irreps: Irreps, product: PairProduct) -> None:
        super().__init__()
        self.product = product
        target = gate_irreps(irreps)
        self.linear_1 = Linear(irreps, irreps)
        self.fc = RadialPerceptron(config.radial_sizes(product.weight_numel), config.radial_kinds)
        self.linear_2 = ProductLinear(product, target)
        self.sc = SelfConnection(irreps, target, config.attributes or config.num_types)

    def forward(
        self,
        features: Features,
        types: torch.Tensor,
        table: torch.Tensor | None,
        owned: int,
        chunks: Callable[[], Iterator[_Geometry]],
    ) -> Features:
        sources = self.product.by_degree(self.linear_1(features))
        sums: list[torch.Tensor] = []
        for part in chunks():
            weights = self.fc(part.radial, part.kind, self.product.columns)
            gathered = {k: x.index_select(0, part.pairs.second) for k, x in sources.items()}
            messages = self.product.products(gathered, part.coupling, weights)
            if not sums:
                sums = [x.new_zeros(owned, *x.shape[1:]) for x in messages]
            sums = [
                total.index_add(0, part.pairs.first, x)
                for total, x in zip(sums, messages, strict=True)
            ]
        own = self.sc([x[:owned] for x in features], types[:owned], table)
        return [x + y for x, y in zip(self.linear_2(sums), own, strict=True)]


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
        self,
        features: Features,
        types: torch.Tensor,
        table: torch.Tensor | None,
        owned: int,
        chunks: Callable[[], Iterator[_Geometry]],
    ) -> Features:
        update = self.gate(self.conv(features, types, table, owned, chunks))
        if not self.residual:
            return update
        return [x[:owned] + y for x, y in zip(features, update, strict=True)]


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
        self.linear_edge = ProductLinear(self.product, irreps)

    def sources(self, features: Features) -> tuple[dict[int, torch.Tensor], ...]:
        """Return what the neighbour and what the centre of a pair contribute, by degree."""
        neighbour = self.product.by_degree(self.linear_node_src(features))
        centre = self.product.by_degree(self.linear_node_dst(features))
        return neighbour, centre

    def forward(
        self, sources: tuple[dict[int, torch.Tensor], ...], geometry: _Geometry
    ) -> Features:
        neighbour, centre = sources
        pairs = geometry.pairs
        gathered = {
            degree: x.index_select(0, pairs.second) + centre[degree].index_select(0, pairs.first)
            for degree, x in neighbour.items()
        }
        weights = self.fc(geometry.radial, geometry.kind, self.product.columns)
        return self.linear_edge(self.product.products(gathered, geometry.coupling, weights))


class _OutputResidual(nn.Module):
    """f <- f + Linear2(act(Linear1 f))."""

    def __init__(self, irreps: Irreps, nonlinearity: str) -> None:
        super().__init__()
        self.activation = Gate(irreps) if nonlinearity == "gate" else NormActivation(irreps)
        self.linear1 = Linear(irreps, self.activation.irreps_in)
        self.linear2 = Linear(irreps, irreps)

    def forward(self, features: Features) -> Features:
        update = self.linear2(self.activation(self.linear1(features)))
        return [x + y for x, y in zip(features, update, strict=True)]


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
        self.onsitenet_residual = _OutputResidual(irreps, config.nonlinearity)
        self.onsitenet_linear = BlockLinear(irreps, table, flips)
        self.offsitenet_residual = _OutputResidual(irreps, config.nonlinearity)
        self.offsitenet_linear = BlockLinear(irreps, table, flips)


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
        features = self.node_features(types, pairs, len(types))
        onsite = self.onsite_blocks(features, types, pairs)
        offsite = self.pair_blocks(self.pair_sources(features), types, pairs)
        if self.config.symmetrize:
            offsite = 0.5 * (offsite + offsite.index_select(0, reverse).transpose(1, 2))
        return onsite, offsite

    def node_features(
        self,
        types: torch.Tensor,
        pairs: PairGraph,
        owned: int,
        exchange: Callable[[torch.Tensor], torch.Tensor] = _no_exchange,
        chunk_size: int | None = None,
    ) -> Features:
        """Run the convolutions.

        Parameters
        ----------
        types : Tensor of int64, shape (local atoms,)
            Type of each local atom.
        pairs : PairGraph
            Pairs whose first atom is owned.
        owned : int
            Number of owned atoms.
        exchange : callable
            Takes flat features of the owned atoms, returns those of all local atoms; called once
            a layer.
        chunk_size : int, optional
            Number of pairs worked on at a time.

        Returns
        -------
        Features
            Output node features of all local atoms.
        """
        radius = self.config.message_radius
        messengers = pairs.select(pairs.distance < radius)
        product = self.representation.message_product
        whole = chunk_size is None or len(messengers) <= chunk_size
        stored = [self._geometry(messengers, types, product, radius)] if whole else []

        def chunks() -> Iterator[_Geometry]:
            if stored:
                return iter(stored)
            parts = messengers.chunks(chunk_size)
            return (self._geometry(part, types, product, radius) for part in parts)

        table = self._attributes()
        features = self._embed(types, table)
        for layer in self.representation.convnet:
            update = layer(features, types, table, owned, chunks)
            features = unflatten(exchange(flatten(update)), self.irreps)
        result: Features = self.representation.conv_to_output_node.linear(features)
        return result

    def onsite_blocks(
        self,
        features: Features,
        types: torch.Tensor,
        pairs: PairGraph,
        chunk_size: int | None = None,
    ) -> torch.Tensor:
        """Return the on-site blocks of owned atoms.

        Parameters
        ----------
        features : Features
            Node features of the owned atoms.
        types : Tensor of int64, shape (local atoms,)
            Type of each local atom.
        pairs : PairGraph
            Pairs whose first atom is owned.
        chunk_size : int, optional
            Number of pairs worked on at a time.

        Returns
        -------
        Tensor, shape (owned, norbitals, norbitals)
        """
        head = self.output_module
        blocks: torch.Tensor = head.onsitenet_linear(head.onsitenet_residual(features))
        owned = len(blocks)
        blocks = blocks + self.onsite_reference.index_select(0, types[:owned])
        if self.config.reference_radial:
            radius = self.config.message_radius
            for part in pairs.select(pairs.distance < radius).chunks(chunk_size):
                terms = self.two_centre_blocks(self.onsite_neighbours, types, part, radius)
                blocks = blocks.index_add(0, part.first, terms)
        if self.config.symmetrize:
            blocks = 0.5 * (blocks + blocks.transpose(1, 2))
        return blocks

    def two_centre_blocks(
        self, reference: TwoCentreReference, types: torch.Tensor, pairs: PairGraph, radius: float
    ) -> torch.Tensor:
        """Return the terms of a two-centre reference for pairs, shape (P, n, n)."""
        radial = radial_functions(pairs.distance, radius, self.config.reference_radial)
        kind = types[pairs.first] * self.config.num_types + types[pairs.second]
        harmonics = pair_harmonics(pairs, 2 * len(self.config.shells) - 2)
        blocks: torch.Tensor = reference(radial, kind, harmonics)
        return blocks

    def pair_sources(self, features: Features) -> tuple[tuple[dict[int, torch.Tensor], ...], ...]:
        """Return what each local atom contributes to the features of its pairs."""
        edge = self.representation.conv_to_output_edge
        sources: tuple[dict[int, torch.Tensor], ...] = edge.sources(features)
        if self.config.edge_tp_irreps is None:
            return (sources,)
        return sources, self.representation.conv_to_output_edge_tp.sources(features)

    def pair_blocks(
        self,
        sources: tuple[tuple[dict[int, torch.Tensor], ...], ...],
        types: torch.Tensor,
        pairs: PairGraph,
    ) -> torch.Tensor:
        """Return the blocks of pairs before symmetrisation, shape (P, n, n).

        Parameters
        ----------
        sources : tuple
            Result of `pair_sources`.
        types : Tensor of int64, shape (local atoms,)
            Type of each local atom.
        pairs : PairGraph
            Any pairs of local atoms.
        """
        blocks = self._network_blocks(sources, types, pairs)
        if self.config.reference_radial:
            blocks = blocks + self.two_centre_blocks(
                self.offsite_pairs, types, pairs, self.config.reference_radius
            )
        if self.config.envelope:
            blocks = blocks * self.envelope(types, pairs)
        return blocks

    def _network_blocks(
        self,
        sources: tuple[tuple[dict[int, torch.Tensor], ...], ...],
        types: torch.Tensor,
        pairs: PairGraph,
    ) -> torch.Tensor:
        # Beyond the cutoff all radial weights vanish, and with them the edge features.
        near = torch.nonzero(pairs.distance < self.config.cutoff).flatten()
        pairs_near = pairs.select(near)
        representation = self.representation
        edge = representation.conv_to_output_edge
        geometry = self._geometry(pairs_near, types, edge.product, self.config.cutoff)
        features = edge(sources[0], geometry)
        if self.config.edge_tp_irreps is not None:
            extra = representation.conv_to_output_edge_tp(
                sources[1], pairs_near, geometry.radial, geometry.kind
            )
            features = [x + y for x, y in zip(features, extra, strict=True)]
        head = self.output_module
        blocks: torch.Tensor = head.offsitenet_linear(head.offsitenet_residual(features))
        return blocks.new_zeros(len(pairs), *blocks.shape[1:]).index_copy(0, near, blocks)

    def envelope(self, types: torch.Tensor, pairs: PairGraph) -> torch.Tensor:
        """Return the squared cosine envelope of each orbital pair, shape (P, n, n)."""
        rows = self.orbital_cutoff.index_select(0, types[pairs.first])
        columns = self.orbital_cutoff.index_select(0, types[pairs.second])
        present = (rows > 0)[:, :, None] & (columns > 0)[:, None, :]
        fraction = pairs.distance[:, None, None] / (rows[:, :, None] + columns[:, None, :])
        inside = present & (fraction < 1.0)
        envelope = 0.5 * (torch.cos(math.pi * fraction) + 1.0)
        return torch.where(inside, envelope**2, torch.zeros_like(envelope))

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

    def _geometry(
        self, pairs: PairGraph, types: torch.Tensor, product: PairProduct, cutoff: float
    ) -> _Geometry:
        harmonics = pair_harmonics(pairs, self.config.lmax)
        kind = None
        if self.config.pair_radial:
            kind = types[pairs.first] * self.config.num_types + types[pairs.second]
        radial = radial_functions(
            pairs.distance, cutoff, self.config.num_radial, self.config.cutoff_power
        )
        return _Geometry(pairs, radial, kind, product.coupling(harmonics))


def pair_harmonics(pairs: PairGraph, lmax: int) -> torch.Tensor:
    """Return Y_lm of the pairs' directions, l = 0..lmax, sum_m Y^2 = 2l + 1, (P, (lmax+1)^2)."""
    # e3nn's polar axis is its second: fed (y, z, x), its m = -l..l are those of polar z.
    harmonics: torch.Tensor = spherical_harmonics(
        list(range(lmax + 1)),
        pairs.vector[:, [1, 2, 0]],
        normalize=True,
        normalization="component",
    )
    return harmonics


def radial_functions(
    distance: torch.Tensor, cutoff: float, number: int, power: int = 2
) -> torch.Tensor:
    """Return sin(n pi r / rc) / r times a power of the cosine envelope, n = 1..number, (P, number).

    The published program has the envelope twice (power 2).
    """
    order = torch.arange(1, number + 1, dtype=distance.dtype, device=distance.device)
    envelope = 0.5 * (torch.cos(math.pi * distance / cutoff) + 1.0)
    envelope = torch.where(distance < cutoff, envelope, torch.zeros_like(envelope))
    waves = torch.sin(order * (math.pi / cutoff) * distance[:, None]) / distance[:, None]
    return waves * (envelope**power)[:, None]
