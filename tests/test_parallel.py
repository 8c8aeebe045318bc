"""Partition, domains and halo exchange; also under mpirun."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from mpi4py import MPI

from hamgnn_solve.core.basis.species import Basis, RadialFunction, Species
from hamgnn_solve.core.domain import serial_domain
from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.io.structure import read_structure
from hamgnn_solve.core.structure import Structure
from hamgnn_solve.parallel.domain import distributed_domain
from hamgnn_solve.parallel.faults import agreed
from hamgnn_solve.parallel.partition import partition_atoms

pytestmark = pytest.mark.parallel
COMM = MPI.COMM_WORLD


def one_shell_basis(reach: dict[str, float]) -> Basis:
    species = {}
    for symbol, cutoff in reach.items():
        shell = RadialFunction(0, np.array([0.0, cutoff / 2, cutoff]), np.array([1.0, 0.5, 0.0]))
        species[symbol] = Species(symbol, symbol, 1.0, (shell,), (), np.zeros((0, 0)))
    return Basis(species)


@pytest.fixture
def bilayer(bilayer_file: Path) -> tuple[Structure, Basis]:
    return read_structure(bilayer_file), one_shell_basis({"Mo": 10.0, "W": 9.0, "S": 7.0})


def test_every_atom_has_one_owner_and_work_is_shared(bilayer: tuple[Structure, Basis]) -> None:
    structure, basis = bilayer
    owner_i = partition_atoms(structure, basis.cutoff_i(structure), COMM)
    assert np.array_equal(owner_i, COMM.bcast(owner_i))
    assert set(owner_i) == set(range(COMM.size))
    domain = distributed_domain(structure, basis, owner_i, COMM)
    assert COMM.allreduce(len(domain.owned)) == structure.natoms
    everything = serial_domain(structure, basis)
    counts = COMM.allgather(len(domain.pairs))
    assert sum(counts) == len(everything.pairs)
    # METIS keeps the pairs of the fullest rank within a tenth of the mean (measured: 1.03).
    assert max(counts) <= 1.1 * sum(counts) / COMM.size


def test_pairs_of_the_ranks_are_the_serial_pairs(bilayer: tuple[Structure, Basis]) -> None:
    structure, basis = bilayer
    owner_i = partition_atoms(structure, basis.cutoff_i(structure), COMM)
    pairs = distributed_domain(structure, basis, owner_i, COMM).pairs
    everything = serial_domain(structure, basis).pairs
    mine = np.isin(everything.first_p, np.flatnonzero(owner_i == COMM.rank))
    assert np.array_equal(everything.position_of(pairs), np.flatnonzero(mine))
    assert np.array_equal(everything.select(mine).vector_pc, pairs.vector_pc)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exchange_fetches_the_owners_rows(
    bilayer: tuple[Structure, Basis], dtype: torch.dtype
) -> None:
    structure, basis = bilayer
    owner_i = partition_atoms(structure, basis.cutoff_i(structure), COMM)
    domain = distributed_domain(structure, basis, owner_i, COMM)
    features = torch.arange(structure.natoms * 6, dtype=dtype).reshape(-1, 2, 3)
    local = domain.exchange(features[torch.from_numpy(domain.owned)])
    assert torch.equal(local, features[torch.from_numpy(domain.local)])


def test_more_ranks_than_atoms_are_refused() -> None:
    single = Structure(("H",), np.zeros((1, 3)), 20.0 * np.eye(3))
    if COMM.size == 1:
        assert partition_atoms(single, np.array([3.0]), COMM).tolist() == [0]
    else:
        with pytest.raises(InputError, match="start at most 1 ranks"):
            partition_atoms(single, np.array([3.0]), COMM)


def test_few_atoms_are_spread_over_all_ranks() -> None:
    """METIS alone may leave a rank empty when there are hardly more atoms than ranks."""
    natoms = COMM.size
    positions = np.arange(natoms)[:, None] * np.array([[6.0, 0.0, 0.0]])
    chain = Structure(("H",) * natoms, positions, np.diag([6.0 * natoms, 30.0, 30.0]))
    owner_i = partition_atoms(chain, np.full(natoms, 4.0), COMM)
    assert sorted(owner_i.tolist()) == list(range(COMM.size))


def refuse_on_the_last_rank() -> None:
    with agreed(COMM):
        if COMM.rank == COMM.size - 1:
            raise InputError("There is no such thing.")


def test_a_fault_of_the_last_rank_is_raised_everywhere() -> None:
    with pytest.raises(InputError, match="no such thing"):
        refuse_on_the_last_rank()
