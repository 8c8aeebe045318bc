"""Networks and inputs of the published program's fixtures."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch

from hamgnn_solve.core.network.config import NetworkConfig
from hamgnn_solve.core.network.graph import PairGraph
from hamgnn_solve.core.network.hamgnn import HamiltonianNetwork

SHELLS = {14: (3, 2, 1), 26: (3, 2, 2, 1)}


def published_config(entry: dict[str, Any]) -> NetworkConfig:
    return NetworkConfig(
        irreps=entry["irreps"],
        shells=SHELLS[entry["nao_max"]],
        layers=entry["layers"],
        cutoff=26.0,
        num_radial=entry["num_radial"],
        invariant_layers=entry["inv_layers"],
        invariant_neurons=entry["inv_neurons"],
        num_types=119 if entry.get("pre2") else entry["num_types"],
        lmax=4 if "sh" in entry else 6,
        nonlinearity=entry["nonlin"],
        attributes=entry.get("node_attr"),
        edge_tp_irreps=entry.get("prev") if entry.get("add_edge_tp") else None,
        add_h0=entry.get("add_H0", True),
        symmetrize=entry.get("symmetrize", True),
        sign_flips=True,
    )


def published_network(data: Any) -> HamiltonianNetwork:
    """Return the network of a fixture with its parameters, every one of them named as upstream."""
    network = HamiltonianNetwork(published_config(json.loads(str(data["cfg"]))))
    names = {name for name, _ in network.named_parameters()}
    state = {name: torch.from_numpy(data[f"p/{name}"]) for name in names}
    network.load_state_dict(state, strict=False)
    return network


def published_input(data: Any) -> tuple[torch.Tensor, PairGraph, torch.Tensor]:
    edges = torch.from_numpy(data["in/edge_index"])
    pos = torch.from_numpy(data["in/pos"])
    vector = pos[edges[1]] + torch.from_numpy(data["in/nbr_shift"]) - pos[edges[0]]
    return (
        torch.from_numpy(data["in/z"]),
        PairGraph(edges[0], edges[1], vector.to(torch.get_default_dtype())),
        torch.from_numpy(data["in/inv_edge_idx"]),
    )


def published_blocks(network: HamiltonianNetwork, data: Any) -> torch.Tensor:
    """Return the predicted blocks (plus H0) in OpenMX's order, (N + E, nao^2)."""
    slots = torch.from_numpy(network.table.openmx_slots)
    blocks = torch.cat(network(*published_input(data)))[:, slots][:, :, slots].flatten(1)
    if network.config.add_h0:
        blocks = blocks + torch.from_numpy(np.concatenate([data["in/Hon0"], data["in/Hoff0"]]))
    return blocks
