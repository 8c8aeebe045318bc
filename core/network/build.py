"""The network that a configuration asks for."""

from __future__ import annotations

from hamgnn_solve.core.network.config import NetworkConfig
from hamgnn_solve.core.network.hamgnn import HamiltonianNetwork
from hamgnn_solve.core.network.hamgnn_v2 import HamiltonianNetworkV2

__all__ = ["Network", "build_network"]

Network = HamiltonianNetwork | HamiltonianNetworkV2


def build_network(config: NetworkConfig) -> Network:
    """Return a network of the configured version with random weights."""
    if config.version == 2:
        return HamiltonianNetworkV2(config)
    return HamiltonianNetwork(config)
