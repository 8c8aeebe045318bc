"""The network that a configuration asks for."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from hamgnn_solve.core.network.config import NetworkConfig
from hamgnn_solve.core.network.hamgnn import HamiltonianNetwork
from hamgnn_solve.core.network.hamgnn_v2 import HamiltonianNetworkV2

__all__ = ["Network", "build_network"]

Network = HamiltonianNetwork | HamiltonianNetworkV2


class _NoInitialisation(TorchFunctionMode):
    """Leaves new parameters as memory comes, untouched and so not really taken."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        return (torch.empty if func is torch.randn else func)(*args, **(kwargs or {}))


def build_network(config: NetworkConfig, initialise: bool = True) -> Network:
    """Return a network of the configured version.

    Parameters
    ----------
    config : NetworkConfig
    initialise : bool
        Give it random weights; False where weights are loaded next.
    """
    with nullcontext() if initialise else _NoInitialisation():
        if config.version == 2:
            return HamiltonianNetworkV2(config)
        return HamiltonianNetwork(config)
