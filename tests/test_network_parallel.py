"""The network on several ranks against the network on one; also under mpirun."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from mpi4py import MPI
from network_models import small_model, small_model_of_version_2, small_operator_model

from hamgnn_solve.core.domain import serial_domain
from hamgnn_solve.core.io.structure import read_structure
from hamgnn_solve.core.model import Model
from hamgnn_solve.core.model_selection import built_in_model
from hamgnn_solve.core.network.predict import predict, predict_invariants
from hamgnn_solve.core.structure import Structure
from hamgnn_solve.parallel.domain import distributed_domain
from hamgnn_solve.parallel.gather import gather_atoms
from hamgnn_solve.parallel.memory import memory_per_rank
from hamgnn_solve.parallel.partition import partition_atoms

pytestmark = pytest.mark.parallel
COMM = MPI.COMM_WORLD


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
@pytest.mark.parametrize("build", [small_model, small_model_of_version_2, small_operator_model])
def test_any_number_of_ranks_gives_the_same_blocks(
    bilayer_file: Path, build: Callable[[], Model], precision: torch.dtype
) -> None:
    torch.set_default_dtype(precision)
    try:
        model = build()
    finally:
        torch.set_default_dtype(torch.float32)
    structure = read_structure(bilayer_file)
    owner_i = partition_atoms(structure, model.basis.cutoff_i(structure), COMM)
    domain = distributed_domain(structure, model.basis, owner_i, COMM)
    mine = predict(model, domain, chunk_size=100)
    whole = predict(model, serial_domain(structure, model.basis))
    place = whole.pairs.position_of(mine.pairs)
    assert (place >= 0).all()
    largest = 0.0
    for chosen, rows, columns in mine.groups():
        here = mine.blocks(chosen, rows, columns)
        there = whole.blocks(place[chosen], rows, columns)
        largest = max(largest, float(np.abs(here - there).max()))
    # Reached on 2, 3 and 5 ranks: 2e-15 and 1e-6 of the largest element.
    tolerance = 1e-13 if precision == torch.float64 else 4e-6
    assert largest < tolerance * np.abs(whole.values).max()
    assert COMM.allreduce(len(mine.pairs)) == len(whole.pairs)


def test_any_number_of_ranks_finds_the_same_environments(bilayer_file: Path) -> None:
    model = built_in_model("tmd")
    assert model.environments is not None
    read = read_structure(bilayer_file)
    # Without one atom some are outside.
    structure = Structure(read.symbols[:-1], read.pos_ic[:-1], read.cell_cc)
    owner_i = partition_atoms(structure, model.basis.cutoff_i(structure), COMM)
    domain = distributed_domain(structure, model.basis, owner_i, COMM)
    symbols = [structure.symbols[i] for i in domain.owned]
    own = model.environments.relative_distances(symbols, predict_invariants(model, domain))
    together = gather_atoms(domain.owned, own, structure.natoms, COMM)
    alone = model.environments.relative_distances(
        structure.symbols, predict_invariants(model, serial_domain(structure, model.basis))
    )
    assert (alone > 1.0).any()
    # Reached on 2 and 3 ranks: 0, as an atom's sums run in the same order.
    assert np.abs(together - alone).max() < 1e-5


def test_ranks_share_the_memory_of_their_machine() -> None:
    share = memory_per_rank(COMM)
    assert 1e6 < share < 1e15
    assert COMM.allgather(share) == [share] * COMM.size
