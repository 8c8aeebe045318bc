"""The density matrix on any number of ranks; also under mpirun with two and three."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import shared_path
from density_models import filling_of, serial_density
from mpi4py import MPI
from pencil_models import chain, folded_kpoints, owned_part, random_pencil, supercell

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.io.scfout import read_scfout
from hamgnn_solve.core.operator import BlockOperator
from hamgnn_solve.parallel.gather import gather_operator, sum_to_owners
from hamgnn_solve.parallel.rows import OrbitalRows
from hamgnn_solve.solver.dense import dense_eigenpairs
from hamgnn_solve.solver.density_matrix import BandStates, density_from_states, density_matrix

pytestmark = pytest.mark.parallel
COMM = MPI.COMM_WORLD


def owners(natoms: int, kind: str) -> np.ndarray:
    """Return owners in turn, or all on the last rank so that others own nothing."""
    in_turn = np.arange(natoms) % COMM.size
    return in_turn if kind == "in turn" else np.full(natoms, COMM.size - 1)


@pytest.mark.parametrize("kind", ["in turn", "last rank"])
def test_gathered_blocks_are_all_and_return_to_their_owners(kind: str) -> None:
    operator, _ = random_pencil([3, 1, 5, 2], seed=31)
    owner_i = owners(4, kind)
    part = owned_part(operator, owner_i, COMM.rank)
    whole = gather_operator(part, COMM, 1e9)
    place_p = operator.pairs.position_of(whole.pairs)
    assert sorted(place_p) == list(range(len(operator.pairs)))
    for p, place in enumerate(place_p):
        assert np.array_equal(whole.block(p), operator.block(int(place)))
    summed = sum_to_owners((COMM.rank + 1.0) * whole.values, len(part.values), COMM)
    assert summed == pytest.approx(part.values * COMM.size * (COMM.size + 1) / 2, abs=1e-14)
    with pytest.raises(InputError, match="rank may use"):
        gather_operator(part, COMM, 100.0)


@pytest.mark.parametrize("kind", ["in turn", "last rank"])
@pytest.mark.parametrize("method", ["dense", "poles"])
@pytest.mark.parametrize("repeats", [(2, 2, 1), (1, 1, 1)])
def test_density_is_that_of_one_rank(kind: str, method: str, repeats: tuple[int, int, int]) -> None:
    data = read_scfout(shared_path("oracle/openmx/mos2_k5/mos2_k5.scfout.xz"))
    hamiltonian, overlap = (supercell(x, repeats) for x in (data.hamiltonians[0], data.overlap))
    electrons = float(np.prod(repeats)) * data.electrons
    kpoints = np.array([(0.0, 0.0, 0.0), (0.31, 0.12, 0.0)])
    filling = filling_of(hamiltonian, overlap, kpoints, electrons)
    alone = serial_density(hamiltonian, overlap, kpoints, filling, method=method)
    owner_i = owners(len(overlap.norb_i), kind)
    found = density_matrix(
        owned_part(hamiltonian, owner_i, COMM.rank),
        owned_part(overlap, owner_i, COMM.rank),
        COMM,
        kpoints,
        None,
        filling,
        method=method,  # type: ignore[arg-type]
    )
    mine = owned_part(alone.operator, owner_i, COMM.rank)
    # Reached 2e-14.
    assert np.array_equal(found.operator.pairs.first_p, mine.pairs.first_p)
    assert np.abs(found.operator.values - mine.values).max(initial=0.0) < 1e-12
    assert found.electrons == pytest.approx(alone.electrons, abs=1e-11)
    assert COMM.allgather(found.electrons) == [found.electrons] * COMM.size


def test_density_from_states_is_that_of_one_rank() -> None:
    hamiltonian, overlap = random_pencil([3, 1, 5, 2] * 2, seed=32)
    kpoints = folded_kpoints((0.0, 0.0, 0.0), (2, 1, 2)) + np.array([0.0, 0.1, 0.0])
    filling = filling_of(hamiltonian, overlap, kpoints, 13.0, 0.03)
    rows = OrbitalRows(owners(8, "in turn"), overlap.norb_i, COMM.size, COMM.rank)
    states = []
    for k_c in kpoints:
        energies_n, x = dense_eigenpairs(hamiltonian, overlap, k_c)
        in_rows = np.empty_like(x)
        in_rows[rows.row_of_orbital_m] = x
        mine = in_rows[rows.start : rows.stop]
        states.append(BandStates(k_c, 0.25, mine, 2.0 * filling.occupations(energies_n)))
    part = owned_part(overlap, rows.owner_i, COMM.rank)
    found = density_from_states(states, part, rows, COMM)
    alone = serial_density(hamiltonian, overlap, kpoints, filling, method="dense")
    expected = owned_part(alone.operator, rows.owner_i, COMM.rank)
    # Reached 2e-15.
    assert np.abs(found.operator.values - expected.values).max(initial=0.0) < 1e-12
    assert found.electrons == pytest.approx(13.0, abs=1e-8)


def test_fault_on_one_rank_is_raised_on_all() -> None:
    hamiltonian, overlap = chain([-0.3] * 6, overlap=0.1)
    filling = filling_of(hamiltonian, overlap, np.zeros((1, 3)), 6.0, 0.01)
    # An indefinite overlap is met only by the rank that diagonalises.
    indefinite = BlockOperator(overlap.pairs, overlap.norb_i, np.full(len(overlap.values), 0.8))
    owner_i = owners(6, "in turn")
    with pytest.raises(InputError, match="not positive definite"):
        density_matrix(
            owned_part(hamiltonian, owner_i, COMM.rank),
            owned_part(indefinite, owner_i, COMM.rank),
            COMM,
            np.zeros((1, 3)),
            None,
            filling,
        )
