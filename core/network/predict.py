"""From a domain of a structure to its predicted Hamiltonian."""

from __future__ import annotations

import resource
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hamgnn_solve.core.atom_operators import operator_hamiltonian
from hamgnn_solve.core.domain import Domain
from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.model import Model
from hamgnn_solve.core.network.graph import PairGraph
from hamgnn_solve.core.operator import BlockOperator
from hamgnn_solve.core.pairs import join_pairs, onsite_pairs

__all__ = ["Prediction", "fitting_chunk", "predict", "predict_all", "predict_invariants"]

CPU = torch.device("cpu")

# Memory of the pairs that are worked on: what stays in a processor's cache, what fills a GPU.
CACHE_BYTES = 32e6
DEVICE_BYTES = 2e9
FEWEST_PAIRS = 8


@dataclass(frozen=True)
class Prediction:
    """What the network says of a domain.

    Parameters
    ----------
    hamiltonian : BlockOperator
        Blocks in Hartree, sorted by (first, second, shift), on-site pairs included.
    invariants_if : ndarray of float32, shape (owned, channels)
        Invariants of the owned atoms' features after the last convolution.
    """

    hamiltonian: BlockOperator
    invariants_if: NDArray[np.float32]


def predict(
    model: Model,
    domain: Domain,
    chunk_size: int | None = None,
    device: torch.device = CPU,
) -> BlockOperator:
    """Return the Hamiltonian of `predict_all` alone."""
    return predict_all(model, domain, chunk_size, device).hamiltonian


def predict_all(
    model: Model,
    domain: Domain,
    chunk_size: int | None = None,
    device: torch.device = CPU,
) -> Prediction:
    """Predict the Hamiltonian blocks of a domain's on-site and other pairs.

    Collective under MPI: every rank calls `domain.exchange` once a layer. The model's energy
    shift is not applied (it needs the overlap).

    Parameters
    ----------
    model : Model
        Trained model; must cover the structure. Its network lies on `device`.
    domain : Domain
        Owned atoms, ghosts and pairs of this process.
    chunk_size : int, optional
        Pairs worked on at a time, `fitting_chunk` by default. The result does not depend on it.
    device : torch.device
        Where the network runs.

    Returns
    -------
    Prediction

    Raises
    ------
    InputError
        When the model does not know an element of the structure.
    """
    # Either version: each is given back the state that it made.
    network: Any = model.network
    if model.operator_widths is not None:
        return _predict_operators(model, domain, chunk_size, device)
    pairs = domain.pairs
    types_i = model.types_i(domain.structure)
    operator, onsite_q, offsite_q = _empty_operator(domain)
    reverse_p = pairs.position_of(pairs.reversed())
    # Of a pair and its reverse in this domain the earlier one does the work for both.
    working = np.flatnonzero((reverse_p < 0) | (reverse_p >= np.arange(len(pairs))))

    with torch.inference_mode():
        if chunk_size is None:
            chunk_size = fitting_chunk(model, domain, device=device)
        state = _node_state(model, domain, reverse_p, chunk_size, device)
        invariants_if = network.invariants(state).float().cpu().numpy()
        _write(operator, model, types_i, onsite_q, network.onsite_blocks(state))
        for start in range(0, len(working), chunk_size):
            chosen = working[start : start + chunk_size]
            forward, backward = network.pair_blocks(state, torch.from_numpy(chosen).to(device))
            if network.config.symmetrize:
                forward = 0.5 * (forward + backward.transpose(1, 2))
                backward = forward.transpose(1, 2)
            inside = reverse_p[chosen] >= 0
            _write(operator, model, types_i, offsite_q[chosen], forward)
            mirrored = backward[torch.from_numpy(inside).to(device)]
            _write(operator, model, types_i, offsite_q[reverse_p[chosen[inside]]], mirrored)
    return Prediction(operator, invariants_if)


def _predict_operators(
    model: Model, domain: Domain, chunk_size: int | None, device: torch.device
) -> Prediction:
    """Predict the operators of the local atoms, and the Hamiltonian that they make."""
    network: Any = model.network
    assert model.operator_widths is not None
    reverse_p = domain.pairs.position_of(domain.pairs.reversed())
    with torch.inference_mode():
        if chunk_size is None:
            chunk_size = fitting_chunk(model, domain, device=device)
        state = _node_state(model, domain, reverse_p, chunk_size, device)
        invariants_if = network.invariants(state).float().cpu().numpy()
        # Ghosts have features as well, and their functions reach orbitals of the domain.
        blocks = network.onsite_blocks(replace(state, owned=len(domain.local)))
        values = blocks.cpu().double().numpy()
    operators = {
        int(i): values[number][np.ix_(slots, slots)]
        for number, i in enumerate(domain.local)
        for slots in [model.operator_slots[model.type_of[domain.structure.symbols[i]]]]
    }
    pairs = join_pairs(domain.structure, onsite_pairs(domain.owned), domain.pairs)
    hamiltonian = operator_hamiltonian(
        domain.structure, domain.basis, model.operator_widths, pairs, operators, domain.owned
    )
    return Prediction(hamiltonian, invariants_if)


def predict_invariants(model: Model, domain: Domain) -> NDArray[np.float32]:
    """Return `Prediction.invariants_if` without making blocks. Collective as `predict_all`."""
    network: Any = model.network
    reverse_p = domain.pairs.position_of(domain.pairs.reversed())
    with torch.inference_mode():
        chunk_size = fitting_chunk(model, domain)
        state = _node_state(model, domain, reverse_p, chunk_size, CPU)
        found: NDArray[np.float32] = network.invariants(state).float().numpy()
    return found


def _node_state(
    model: Model,
    domain: Domain,
    reverse_p: NDArray[np.int64],
    chunk_size: int,
    device: torch.device,
) -> Any:
    """Run the convolutions; either version of the network gives back a state of its own kind."""

    def exchange(features: torch.Tensor) -> torch.Tensor:
        return domain.exchange(features.cpu()).to(device)

    return model.network.node_state(
        torch.from_numpy(model.types_i(domain.structure)[domain.local]).to(device),
        _graph(domain).to(device),
        torch.from_numpy(reverse_p).to(device),
        len(domain.owned),
        exchange,
        chunk_size,
    )


def fitting_chunk(
    model: Model, domain: Domain, memory: float | None = None, device: torch.device = CPU
) -> int:
    """Return how many pairs to work on at a time.

    Parameters
    ----------
    model : Model
    domain : Domain
    memory : float, optional
        Memory in bytes that this process may use in all; no bound by default.
    device : torch.device
        Where the network runs.

    Raises
    ------
    InputError
        When features and frames leave no room for pairs.
    """
    network = model.network
    each = network.pair_bytes()
    needed = network.held_bytes(len(domain.local), len(domain.pairs)) + FEWEST_PAIRS * each
    if device.type == "cpu":
        wanted, place = CACHE_BYTES, "--memory-per-rank allows"
        # What the process holds already counts too: libraries, weights, blocks.
        needed += 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        memory = np.inf if memory is None else memory
    else:
        wanted, place = DEVICE_BYTES, "the device has"
        memory = float(torch.cuda.mem_get_info(device)[0])
    if needed > memory:
        raise InputError(
            f"The network needs {needed / 1e9:.1f} GB for the {len(domain.local)} atoms and "
            f"{len(domain.pairs)} pairs of a rank, and {place} {memory / 1e9:.1f} GB; "
            "start more ranks or allow more."
        )
    return max(int(min(wanted, memory - needed) / each), FEWEST_PAIRS)


def _graph(domain: Domain) -> PairGraph:
    pairs = domain.pairs
    return PairGraph(
        torch.from_numpy(domain.local_index(pairs.first_p)),
        torch.from_numpy(domain.local_index(pairs.second_p)),
        torch.from_numpy(pairs.vector_pc),
    )


def _empty_operator(
    domain: Domain,
) -> tuple[BlockOperator, NDArray[np.int64], NDArray[np.int64]]:
    """Return a zero operator, and where the on-site blocks and the pairs' blocks stand in it."""
    onsite = onsite_pairs(domain.owned)
    merged = join_pairs(domain.structure, onsite, domain.pairs)
    operator = BlockOperator.zeros(merged, domain.basis.norb_i(domain.structure))
    return operator, merged.position_of(onsite), merged.position_of(domain.pairs)


def _write(
    operator: BlockOperator,
    model: Model,
    types_i: NDArray[np.int64],
    place_q: NDArray[np.int64],
    blocks: torch.Tensor,
) -> None:
    """Write blocks of the network's table into their places, between the basis's orbitals."""
    values = blocks.cpu().numpy()
    rows_q = types_i[operator.pairs.first_p[place_q]]
    columns_q = types_i[operator.pairs.second_p[place_q]]
    for a, b in np.unique(np.stack([rows_q, columns_q], axis=1), axis=0):
        chosen = np.flatnonzero((rows_q == a) & (columns_q == b))
        part = values[np.ix_(chosen, model.slots[a], model.slots[b])].astype(np.float64)
        if model.orthonormal:
            part = np.linalg.inv(model.mixing[a]) @ part @ np.linalg.inv(model.mixing[b]).T
        operator.set_blocks(place_q[chosen], part)
