"""Layers of HamGNN V2: embedding of pairs, messages to atoms, update of pairs.

The equations and the parameter names are those of the published program's second version.
"""

from __future__ import annotations

import torch
from e3nn.o3 import Irreps
from torch import nn

from hamgnn_solve.core.network.config import NetworkConfig
from hamgnn_solve.core.network.graph import PairGraph
from hamgnn_solve.core.network.head import OutputResidual
from hamgnn_solve.core.network.irreps import Features
from hamgnn_solve.core.network.linear import Linear
from hamgnn_solve.core.network.radial import RadialPerceptron
from hamgnn_solve.core.network.shared_product import ProductTables, SharedProduct

__all__ = ["Convolution", "Pack", "PackTables", "PairEmbedding", "PairInteraction"]

# Matrices of the products of the atoms' and of the pair's features.
PackTables = tuple[ProductTables, ProductTables]


class _Weight(nn.Module):
    """A flat weight under the name that the published weights have for it."""

    def __init__(self, numel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(numel))


class _Scaler(nn.Module):
    """Linear map of a product's channels to the output irreps."""

    def __init__(self, irreps_in: Irreps, irreps_out: Irreps) -> None:
        super().__init__()
        self.linear_out = Linear(irreps_in, irreps_out)

    def matrices(self) -> list[torch.Tensor]:
        """Return the scaled matrix of each input irrep."""
        return [self.linear_out.matrix(n) for n in range(len(self.linear_out.matches))]


class _EmbeddingProduct(nn.Module):
    """Product of two elements' scalars with the direction."""

    def __init__(self, config: NetworkConfig, product: SharedProduct) -> None:
        super().__init__()
        self.product = product
        self.tensor_product = _Weight(product.weight_numel)
        self.linear_scaler = _Scaler(product.irreps_mid, product.irreps_out)
        self.weight_generator = _generator(config, product)

    def tables(self) -> ProductTables:
        return self.product.tables(self.tensor_product.weight, self.linear_scaler.matrices())

    def forward(
        self, tables: ProductTables, scalars: torch.Tensor, radial: torch.Tensor
    ) -> Features:
        weights = self.weight_generator(radial, None, self.product.columns)
        features: Features = self.product([scalars], weights, tables)
        return features


class PairEmbedding(nn.Module):
    """First features of pairs, from their elements, direction and distance.

    Parameters
    ----------
    config : NetworkConfig
    irreps : Irreps
        Irreps of the features.
    """

    def __init__(self, config: NetworkConfig, irreps: Irreps) -> None:
        super().__init__()
        elements = Irreps([(config.num_types, (0, 1))])
        self.linear_up_src = Linear(elements, elements)
        self.linear_up_dst = Linear(elements, elements)
        self.conv_tp = _EmbeddingProduct(config, SharedProduct(elements, config.lmax, irreps))

    def scalars(self, types: torch.Tensor, pairs: PairGraph) -> torch.Tensor:
        """Return the scalars of pairs and of their reverses, (P, 2, 1, num_types).

        Parameters
        ----------
        types : Tensor of int64, shape (local atoms,)
            Type of each local atom.
        pairs : PairGraph
        """
        # A one-hot vector times the matrix is a row of it.
        source, target = self.linear_up_src.matrix(0), self.linear_up_dst.matrix(0)
        first, second = types[pairs.first], types[pairs.second]
        sums = [source[first] + target[second], source[second] + target[first]]
        return torch.stack(sums, dim=1)[:, :, None, :]


class Pack(nn.Module):
    """Features of a pair's two atoms and its own, each in a product with the direction, summed.

    Parameters
    ----------
    config : NetworkConfig
    irreps : Irreps
        Irreps of the features.
    node, edge : SharedProduct
        Products of the atoms' features (twice the channels) and of the pair's.
    """

    def __init__(
        self, config: NetworkConfig, irreps: Irreps, node: SharedProduct, edge: SharedProduct
    ) -> None:
        super().__init__()
        self.node_product = node
        self.edge_product = edge
        self.node_tensor_product = _Weight(node.weight_numel)
        self.edge_tensor_product = _Weight(edge.weight_numel)
        self.node_linear_scaler = _Scaler(node.irreps_mid, irreps)
        self.edge_linear_scaler = _Scaler(edge.irreps_mid, irreps)
        self.node_weight_generator = _generator(config, node)
        self.edge_weight_generator = _generator(config, edge)
        self.node_linear_out = Linear(irreps, irreps)
        self.edge_linear_out = Linear(irreps, irreps)

    def tables(self) -> PackTables:
        """Return the matrices of the two products, the last linear map included."""
        return (
            self.node_product.tables(
                self.node_tensor_product.weight,
                _chained(self.node_product, self.node_linear_scaler, self.node_linear_out),
            ),
            self.edge_product.tables(
                self.edge_tensor_product.weight,
                _chained(self.edge_product, self.edge_linear_scaler, self.edge_linear_out),
            ),
        )

    def forward(
        self,
        tables: PackTables,
        nodes: Features,
        edges: Features,
        radial: torch.Tensor,
    ) -> Features:
        """Return the packed features of pairs, polar, shape (P, R, 2l + 1, mul).

        Parameters
        ----------
        tables : PackTables
            Result of `tables`.
        nodes : Features
            Channels of the atom where the pair begins, then those of the other one.
        edges : Features
        radial : Tensor, shape (P, num_radial)
        """
        node_weights = self.node_weight_generator(radial, None, self.node_product.columns)
        node: Features = self.node_product(nodes, node_weights, tables[0])
        edge_weights = self.edge_weight_generator(radial, None, self.edge_product.columns)
        edge: Features = self.edge_product(edges, edge_weights, tables[1])
        return [x + y for x, y in zip(node, edge, strict=True)]


class Convolution(nn.Module):
    """Messages of the pairs that end on an atom: x <- Res(sum of Pack) + Linear(x).

    Parameters
    ----------
    config : NetworkConfig
    irreps : Irreps
        Irreps of the features.
    products : tuple of SharedProduct
        As for `Pack`.
    """

    def __init__(
        self, config: NetworkConfig, irreps: Irreps, products: tuple[SharedProduct, SharedProduct]
    ) -> None:
        super().__init__()
        self.residual = OutputResidual(irreps, "gate")
        self.conv_tp = Pack(config, irreps, *products)
        self.skip_linear = Linear(irreps, irreps)

    def forward(self, sums: Features, nodes: Features) -> Features:
        """Return the next features of atoms from their messages and their features."""
        own = self.skip_linear(nodes)
        return [x + y for x, y in zip(self.residual(sums), own, strict=True)]


class PairInteraction(nn.Module):
    """Update of the pairs' features: e <- Pack(A x_s, B x_t, e) + Linear(e).

    Parameters
    ----------
    config : NetworkConfig
    irreps : Irreps
        Irreps of the features.
    products : tuple of SharedProduct
        As for `Pack`.
    updates : bool
        Otherwise the features are to stay as they are, and the parameters are there only because
        the published weights have them.
    """

    def __init__(
        self,
        config: NetworkConfig,
        irreps: Irreps,
        products: tuple[SharedProduct, SharedProduct],
        updates: bool,
    ) -> None:
        super().__init__()
        self.linear_up_src = Linear(irreps, irreps)
        self.linear_up_tar = Linear(irreps, irreps)
        self.conv_tp = Pack(config, irreps, *products)
        if updates:
            self.skip_linear = Linear(irreps, irreps)
        self.updates = updates

    def tables(self) -> PackTables:
        """Return the matrices of the products, the maps of the atoms' features included."""
        node, edge = self.conv_tp.tables()
        first = []
        for entry, matrix in enumerate(node.first):
            source, target = torch.chunk(matrix, 2)
            source = self.linear_up_src.matrix(entry) @ source
            first.append(torch.cat([source, self.linear_up_tar.matrix(entry) @ target]))
        return ProductTables(first, node.second), edge

    def forward(
        self,
        tables: PackTables,
        nodes: Features,
        edges: Features,
        radial: torch.Tensor,
    ) -> Features:
        """Return the next features of pairs; arguments as for `Pack`."""
        own = self.skip_linear(edges)
        packed = self.conv_tp(tables, nodes, edges, radial)
        return [x + y for x, y in zip(packed, own, strict=True)]


def _generator(config: NetworkConfig, product: SharedProduct) -> RadialPerceptron:
    return RadialPerceptron(config.radial_sizes(len(product.columns)), activation="silu")


def _chained(product: SharedProduct, scaler: _Scaler, linear: Linear) -> list[torch.Tensor]:
    """Return the matrices of a product's channels through two linear maps."""
    return [
        matrix @ linear.matrix(output)
        for matrix, output in zip(scaler.matrices(), product.mid_outputs, strict=True)
    ]
