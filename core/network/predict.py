"""From a domain of a structure to its predicted Hamiltonian."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from hamgnn_solve.core.domain import Domain
from hamgnn_solve.core.model import Model
from hamgnn_solve.core.network.graph import PairGraph
from hamgnn_solve.core.operator import BlockOperator
from hamgnn_solve.core.pairs import join_pairs, onsite_pairs

__all__ = ["predict"]

CHUNK_PAIRS = 4096


def predict(model: Model, domain: Domain, chunk_size: int = CHUNK_PAIRS) -> BlockOperator:
    """Predict the Hamiltonian blocks of a domain's on-site and other pairs.

    Collective under MPI: every rank calls `domain.exchange` once a layer. The model's energy
    shift is not applied (it needs the overlap).

    Parameters
    ----------
    model : Model
        Trained model; must cover the structure.
    domain : Domain
        Owned atoms, ghosts and pairs of this process.
    chunk_size : int
        Pairs worked on at a time; memory grows with it, the result does not depend on it.

    Returns
    -------
    BlockOperator
        Blocks in Hartree, sorted by (first, second, shift), on-site pairs included.

    Raises
    ------
    InputError
        When the model does not know an element of the structure.
    """
    network = model.network
    pairs = domain.pairs
    types_i = model.types_i(domain.structure)
    operator, onsite_q, offsite_q = _empty_operator(domain)
    reverse_p = pairs.position_of(pairs.reversed())
    # Of a pair and its reverse in this domain the earlier one does the work for both.
    working = np.flatnonzero((reverse_p < 0) | (reverse_p >= np.arange(len(pairs))))
    with torch.inference_mode():
        state = network.node_state(
            torch.from_numpy(types_i[domain.local]),
            _graph(domain),
            torch.from_numpy(reverse_p),
            len(domain.owned),
            domain.exchange,
            chunk_size,
        )
        _write(operator, model, types_i, onsite_q, network.onsite_blocks(state))
        step = max(chunk_size // 2, 1)
        for start in range(0, len(working), step):
            chosen = working[start : start + step]
            forward, backward = network.pair_blocks(state, torch.from_numpy(chosen))
            if network.config.symmetrize:
                forward = 0.5 * (forward + backward.transpose(1, 2))
                backward = forward.transpose(1, 2)
            inside = reverse_p[chosen] >= 0
            _write(operator, model, types_i, offsite_q[chosen], forward)
            mirrored = backward[torch.from_numpy(inside)]
            _write(operator, model, types_i, offsite_q[reverse_p[chosen[inside]]], mirrored)
    return operator


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
    values = blocks.numpy()
    unmixing = [np.linalg.inv(mixing) for mixing in model.mixing]
    rows_q = types_i[operator.pairs.first_p[place_q]]
    columns_q = types_i[operator.pairs.second_p[place_q]]
    for a, rows in enumerate(model.slots):
        for b, columns in enumerate(model.slots):
            chosen = np.flatnonzero((rows_q == a) & (columns_q == b))
            if len(chosen):
                part = values[np.ix_(chosen, rows, columns)].astype(np.float64)
                operator.set_blocks(place_q[chosen], unmixing[a] @ part @ unmixing[b].T)
