"""Many bands from several shifts, and pencils whose orbitals are almost dependent."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.linalg
from conftest import shared_path
from mpi4py import MPI
from pencil_models import (
    almost_dependent,
    chain,
    folded_kpoints,
    pencil_of,
    random_pencil,
    supercell,
)

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.io.scfout import read_scfout
from hamgnn_solve.core.operator import dense_matrix
from hamgnn_solve.solver import slices as slices_module
from hamgnn_solve.solver.bands import BandOptions, solve_bands
from hamgnn_solve.solver.conditioning import project_dependent_orbitals, smallest_overlap
from hamgnn_solve.solver.dense import dense_bands, dense_eigenpairs
from hamgnn_solve.solver.eigenpairs import Eigenpairs, eigenpairs_between, eigenpairs_near
from hamgnn_solve.solver.groups import pencil_groups
from hamgnn_solve.solver.slices import sliced_bands

pytestmark = pytest.mark.parallel
COMM = MPI.COMM_WORLD
GAMMA = (0.0, 0.0, 0.0)
GENERAL = (0.13, -0.21, 0.37)


def in_turn(natoms: int) -> np.ndarray:
    return np.arange(natoms) % COMM.size


@pytest.mark.parametrize("groups", [1, COMM.size] if COMM.size > 1 else [1])
@pytest.mark.parametrize("k_c", [GAMMA, GENERAL])
def test_slices_find_every_band_once(
    k_c: tuple[float, float, float], groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slices_module, "SIDE", 12)
    hamiltonian, overlap = random_pencil([3, 4, 5] * 12, seed=21)
    energies_n, _ = dense_eigenpairs(hamiltonian, overlap, k_c)
    group = pencil_groups(pencil_of(hamiltonian, overlap, COMM, in_turn(36)), groups)
    found = sliced_bands(group, k_c, 0.0, 11, 130)
    # Reached 1e-13 Hartree.
    assert np.abs(found.energies_n - energies_n[10:130]).max() < 1e-11
    every = sliced_bands(group, k_c, float(energies_n[70]), 1, 144)
    assert np.abs(every.energies_n - energies_n).max() < 1e-11


def test_slices_of_degenerate_states(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices_module, "SIDE", 16)
    data = read_scfout(shared_path("oracle/openmx/si2/si2.scfout.xz"))
    repeats = (3, 3, 2)
    hamiltonian = supercell(data.hamiltonians[0], repeats)
    overlap = supercell(data.overlap, repeats)
    folded = [
        dense_eigenpairs(data.hamiltonians[0], data.overlap, q_c)[0]
        for q_c in folded_kpoints(GAMMA, repeats)
    ]
    expected = np.sort(np.concatenate(folded))
    pencil = pencil_of(hamiltonian, overlap, COMM, in_turn(36))
    found = sliced_bands(pencil_groups(pencil, COMM.size), GAMMA, -0.1, 5, 124)
    # Stars of equivalent k make up to twelve states equal; reached 1e-11.
    assert np.abs(found.energies_n - expected[4:124]).max() < 1e-9


def test_a_slice_that_missed_a_state_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices_module, "SIDE", 12)
    hamiltonian, overlap = random_pencil([3, 4, 5] * 12, seed=22)
    honest = slices_module.states_around
    calls: list[float] = []

    def forgetful(*arguments: Any, **options: Any) -> Eigenpairs:
        found = honest(*arguments, **options)
        calls.append(found.sigma)
        if len(calls) != 2:
            return found
        middle = int((found.energies_n < found.sigma).sum())
        rest = {
            name: np.delete(getattr(found, name), middle)
            for name in ("energies_n", "residuals_n", "band_index_n")
        }
        return replace(found, **rest)

    monkeypatch.setattr(slices_module, "states_around", forgetful)
    group = pencil_groups(pencil_of(hamiltonian, overlap, COMM, in_turn(36)), 1)
    with pytest.raises(InputError, match="missed a state"):
        sliced_bands(group, GAMMA, 0.0, 11, 130)


def test_ranks_divide_into_groups() -> None:
    pencil = pencil_of(*chain([-0.3] * 6), COMM, in_turn(6))
    with pytest.raises(InputError, match="do not divide"):
        pencil_groups(pencil, COMM.size + 1)


def test_window_between_two_energies() -> None:
    hamiltonian, overlap = random_pencil([3, 4, 5] * 12, seed=23)
    pencil = pencil_of(hamiltonian, overlap, COMM, in_turn(36))
    for k_c in (GAMMA, GENERAL):
        energies_n, _ = dense_eigenpairs(hamiltonian, overlap, k_c)
        low, high = energies_n[50] + 1e-4, energies_n[90] + 1e-4
        found = eigenpairs_between(pencil, k_c, low, high)
        assert found.band_index_n.tolist() == list(range(52, 92))
        assert np.abs(found.energies_n - energies_n[51:91]).max() < 1e-11
        # Two factorisations are enough, and bands beyond the window are searched there.
        wider = eigenpairs_between(pencil, k_c, low, high, (50, 95), 70)
        assert np.abs(wider.energies_n - energies_n[49:95]).max() < 1e-11


@pytest.mark.parametrize("groups", [1, COMM.size] if COMM.size > 1 else [1])
def test_sparse_and_dense_bands_agree(groups: int) -> None:
    hamiltonian, overlap = random_pencil([3, 4, 5] * 12, seed=24)
    pencil = pencil_of(hamiltonian, overlap, COMM, in_turn(36))
    kpoints = np.array([GAMMA, (0.5, 0.0, 0.5), GENERAL, (0.1, 0.1, 0.0)])
    dense = solve_bands(pencil, kpoints, 140.0, 20)
    said: list[str] = []
    options = BandOptions(largest_dense=0, groups=groups, announce=said.append)
    sparse = solve_bands(pencil, kpoints, 140.0, 20, options=options)
    assert np.array_equal(dense.band_index_kn, sparse.band_index_kn)
    # Reached 1e-13 Hartree.
    assert np.abs(dense.eigenvalues_kn - sparse.eigenvalues_kn).max() < 1e-11
    assert "at 2 of 4 k-points H(k) is complex" in said[0]
    assert sparse.fermi_level == pytest.approx(dense.fermi_level, abs=1e-11)
    assert max(dense.residuals_kn.max(), sparse.residuals_kn.max()) < 1e-8
    many = solve_bands(
        pencil, kpoints[:1], 72.0, 160, options=BandOptions(largest_dense=0, groups=groups)
    )
    expected, _ = dense_eigenpairs(hamiltonian, overlap, GAMMA)
    # The pencil has 144 bands, of which 116 are within reach.
    assert np.abs(many.eigenvalues_kn[0] - expected[: many.eigenvalues_kn.shape[1]]).max() < 1e-11


@pytest.mark.parametrize("k_c", [GAMMA, GENERAL])
def test_dependent_orbitals_are_taken_out(k_c: tuple[float, float, float]) -> None:
    hamiltonian, overlap = almost_dependent(31, 3)
    h, s = dense_matrix(hamiltonian, k_c), dense_matrix(overlap, k_c)
    overlaps_n, turn = scipy.linalg.eigh(s)
    assert (overlaps_n < 1e-6).sum() == 3
    kept = turn[:, 3:] / np.sqrt(overlaps_n[3:])
    expected = np.linalg.eigvalsh(kept.conj().T @ h @ kept)
    pencil = pencil_of(hamiltonian, overlap, COMM, in_turn(24))
    # Reached 1e-15.
    assert abs(smallest_overlap(pencil, k_c) - overlaps_n[0]) < 1e-12
    assert project_dependent_orbitals(pencil, k_c) == 3
    assert pencil.nstates(k_c) == 45
    # Three states lie within 1e-10 Hartree of zero: a shift there amplifies rounding.
    for sigma in (0.2, 0.0):
        found = eigenpairs_near(pencil, k_c, sigma, 8, 8)
        # Reached 1e-12 Hartree.
        assert np.abs(found.energies_n - expected[found.band_index_n - 1]).max() < 1e-9
        assert found.residuals_n.max() < 1e-8
    dense, _ = dense_bands(h, s, 1, 45, k_c)
    assert np.abs(dense - expected).max() < 1e-10
    sparse = solve_bands(pencil, np.array([k_c]), 40.0, 10, options=BandOptions(largest_dense=0))
    assert np.abs(sparse.eigenvalues_kn[0] - expected[15:25]).max() < 1e-9


def test_well_conditioned_overlap_is_left_alone() -> None:
    hamiltonian, overlap = random_pencil([3, 4, 5] * 6, seed=32)
    pencil = pencil_of(hamiltonian, overlap, COMM, in_turn(18))
    assert project_dependent_orbitals(pencil, GAMMA) == 0
    assert pencil.factorisations == 0
    lowest = np.linalg.eigvalsh(dense_matrix(overlap, GAMMA))[0]
    assert smallest_overlap(pencil, GAMMA) == pytest.approx(lowest, rel=1e-6)
