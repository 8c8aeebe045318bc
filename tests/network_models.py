"""Small random networks and a structure for them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hamgnn_solve.core.model import Model
from hamgnn_solve.core.network.build import build_network
from hamgnn_solve.core.network.config import NetworkConfig
from hamgnn_solve.core.network.hamgnn import HamiltonianNetwork
from hamgnn_solve.core.operator import BlockOperator
from hamgnn_solve.core.structure import Structure


def small_model(**changes: Any) -> Model:
    """Return a small random model of Mo, S and W in the current default precision."""
    torch.manual_seed(3)
    config = NetworkConfig(
        irreps="4x0e+3x1o+2x1e+3x2e+2x2o+2x3o+1x3e+2x4e",
        shells=(2, 2, 2),
        layers=2,
        cutoff=22.0,
        num_radial=6,
        invariant_layers=1,
        invariant_neurons=8,
        num_types=3,
        lmax=4,
        nonlinearity="gate",
        message_cutoff=9.0,
        pair_radial=True,
        envelope=True,
        reference_radial=4,
    )
    model = Model(
        "small",
        {"Mo": "Mo.6", "S": "S", "W": "W.6"},
        HamiltonianNetwork(replace(config, **changes)),
        orthonormal=True,
    )
    network = model.network
    with torch.no_grad():
        for key, parameter in network.named_parameters():
            if key.endswith("fc.layer0.weight"):
                parameter.mul_(20.0)
        if network.config.reference_radial:
            network.offsite_pairs.coefficients.normal_()
            network.onsite_neighbours.coefficients.normal_()
        for t, symbol in enumerate(model.elements):
            shells = model.basis.species[symbol].shells
            cutoffs = [shell.cutoff for shell in shells for _ in range(2 * shell.l + 1)]
            network.orbital_cutoff[t, torch.from_numpy(model.slots[t])] = torch.tensor(cutoffs)
    return model


def small_operator_model(**changes: Any) -> Model:
    """Return a small random model of the same elements that predicts operators of atoms."""
    torch.manual_seed(5)
    config = NetworkConfig(
        irreps="4x0e+3x1o+2x1e+3x2e+2x2o+2x3o+1x3e+2x4e",
        shells=(3, 3, 3),
        layers=2,
        cutoff=9.0,
        num_radial=6,
        invariant_layers=1,
        invariant_neurons=8,
        num_types=3,
        lmax=4,
        nonlinearity="gate",
        pair_radial=True,
        onsite_only=True,
    )
    network = HamiltonianNetwork(replace(config, **changes))
    with torch.no_grad():
        for key, parameter in network.named_parameters():
            if key.endswith("fc.layer0.weight"):
                parameter.mul_(20.0)
    species = {"Mo": "Mo.6", "S": "S", "W": "W.6"}
    return Model("operators", species, network, operator_widths=(0.9,))


def crystal() -> Structure:
    cell = np.array([[9.0, 0.4, 0.1], [-2.0, 10.0, 0.3], [0.2, 0.5, 13.0]])
    fractional = np.array([[0.05, 0.1, 0.1], [0.45, 0.6, 0.3], [0.7, 0.2, 0.55], [0.3, 0.8, 0.8]])
    return Structure(("Mo", "S", "W", "S"), fractional @ cell, cell)


def largest_block_change(
    one: BlockOperator, other: BlockOperator, place: NDArray[np.int64]
) -> float:
    """Compare block p of `one` with block place[p] of `other`."""
    assert (place >= 0).all()
    assert len(place) == len(one.pairs)
    largest = 0.0
    for chosen, rows, columns in one.groups():
        a = one.blocks(chosen, rows, columns)
        b = other.blocks(place[chosen], rows, columns)
        largest = max(largest, float(np.abs(a - b).max()))
    return largest


def small_model_of_version_2(**changes: Any) -> Model:
    """Return a small random model of version 2 of the same elements."""
    torch.manual_seed(4)
    config = NetworkConfig(
        irreps="4x0e+3x1o+2x1e+3x2e+2x2o+2x3o+1x3e+2x4e",
        shells=(2, 2, 2),
        layers=2,
        cutoff=22.0,
        num_radial=6,
        invariant_layers=1,
        invariant_neurons=8,
        num_types=3,
        lmax=4,
        nonlinearity="gate",
        version=2,
    )
    network = build_network(replace(config, **changes))
    return Model("small", {"Mo": "Mo.6", "S": "S", "W": "W.6"}, network)
