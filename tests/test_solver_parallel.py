"""The distributed pencil and its bands; also under mpirun with two and three ranks."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import shared_path
from mpi4py import MPI
from pencil_models import pencil_of, random_pencil, supercell

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.io.scfout import read_scfout
from hamgnn_solve.core.operator import BlockOperator, dense_matrix
from hamgnn_solve.core.units import EV_PER_HARTREE
from hamgnn_solve.solver.bands import solve_bands
from hamgnn_solve.solver.dense import dense_eigenpairs
from hamgnn_solve.solver.eigenpairs import eigenpairs_near
from hamgnn_solve.solver.inertia import count_below

pytestmark = pytest.mark.parallel
COMM = MPI.COMM_WORLD
KPOINTS = [(0.0, 0.0, 0.0), (0.5, 0.5, 0.0), (0.13, -0.21, 0.37)]


def owners(natoms: int, kind: str) -> np.ndarray:
    """Return owners in turn, or all on the first rank so that others own nothing."""
    in_turn = np.arange(natoms) % COMM.size
    return in_turn if kind == "in turn" else np.zeros(natoms, dtype=np.int64)


@pytest.mark.parametrize("kind", ["in turn", "first rank"])
@pytest.mark.parametrize("k_c", KPOINTS)
def test_inertia_is_lapacks_on_any_number_of_ranks(
    k_c: tuple[float, float, float], kind: str
) -> None:
    hamiltonian, overlap = random_pencil([3, 1, 5, 2] * 6, seed=11)
    pencil = pencil_of(hamiltonian, overlap, COMM, owners(24, kind))
    energies_n, _ = dense_eigenpairs(hamiltonian, overlap, k_c)
    sigmas = np.random.default_rng(12).uniform(energies_n[0] - 1, energies_n[-1] + 1, 8)
    for sigma in sigmas:
        assert count_below(pencil, k_c, float(sigma)) == (energies_n < sigma).sum()


def test_root_front_stays_on_one_process() -> None:
    """With ICNTL(13) = 0 and two ranks MUMPS counted 8744 states of 9472 at 7384 orbitals.

    The error needs a root front too large for a quick test, so the setting itself is checked.
    """
    hamiltonian, overlap = random_pencil([3, 1], seed=13)
    pencil = pencil_of(hamiltonian, overlap, COMM, owners(2, "in turn"))
    for k_c in KPOINTS:
        factorisation, _ = pencil.factorise(k_c, 0.1)
        assert factorisation.mumps.icntl(13) == 1


@pytest.mark.parametrize("kind", ["in turn", "first rank"])
@pytest.mark.parametrize("k_c", KPOINTS)
def test_eigenpairs_are_lapacks_on_any_number_of_ranks(
    k_c: tuple[float, float, float], kind: str
) -> None:
    hamiltonian, overlap = random_pencil([3, 1, 5, 2] * 6, seed=14)
    pencil = pencil_of(hamiltonian, overlap, COMM, owners(24, kind))
    energies_n, _ = dense_eigenpairs(hamiltonian, overlap, k_c)
    found = eigenpairs_near(pencil, k_c, 0.1, 7, 5)
    # Reached 1e-14 Hartree.
    assert np.abs(found.energies_n - energies_n[found.band_index_n - 1]).max() < 1e-11
    x = np.concatenate(COMM.allgather(found.vectors_mn))[pencil.rows.row_of_orbital_m]
    h, s = dense_matrix(hamiltonian, k_c), dense_matrix(overlap, k_c)
    assert np.abs(h @ x - s @ x * found.energies_n).max() < 1e-8
    assert np.abs(x.conj().T @ s @ x - np.eye(12)).max() < 1e-10


def test_more_ranks_than_atoms() -> None:
    hamiltonian, overlap = random_pencil([2], seed=15)
    pencil = pencil_of(hamiltonian, overlap, COMM, np.array([COMM.size - 1]))
    spectrum = solve_bands(pencil, np.array(KPOINTS), 2.0)
    expected = [dense_eigenpairs(hamiltonian, overlap, k_c)[0] for k_c in KPOINTS]
    assert spectrum.eigenvalues_kn == pytest.approx(np.array(expected), abs=1e-10)


def test_spectrum_of_openmx_mos2_is_the_same_everywhere() -> None:
    data = read_scfout(shared_path("oracle/openmx/mos2_k5/mos2_k5.scfout.xz"))
    hamiltonian = supercell(data.hamiltonians[0], (2, 2, 1))
    overlap = supercell(data.overlap, (2, 2, 1))
    kpoints = np.array([(0.0, 0.0, 0.0), (0.5, 0.0, 0.0), (1 / 3, 1 / 3, 0.0)])
    pencil = pencil_of(hamiltonian, overlap, COMM, owners(12, "in turn"))
    spectrum = solve_bands(pencil, kpoints, 4 * data.electrons)
    expected = np.array([dense_eigenpairs(hamiltonian, overlap, k_c)[0] for k_c in kpoints])
    chosen = expected[:, spectrum.band_index_kn[0] - 1]
    # Reached 1e-9 eV; the task's bound is 1e-6 eV.
    assert np.abs(spectrum.eigenvalues_kn - chosen).max() * EV_PER_HARTREE < 1e-7
    top, bottom = expected[:, 51].max(), expected[:, 52].min()
    assert spectrum.fermi_level == pytest.approx(0.5 * (top + bottom), abs=1e-9)
    assert COMM.allgather(spectrum.fermi_level) == [spectrum.fermi_level] * COMM.size
    assert spectrum.residuals_kn.max() < 1e-8


def test_fault_on_one_rank_is_raised_on_all() -> None:
    hamiltonian, overlap = random_pencil([3, 1, 5, 2], seed=16)
    values = hamiltonian.values.copy()
    if COMM.rank == COMM.size - 1:
        values[:] = np.nan
    damaged = BlockOperator(hamiltonian.pairs, hamiltonian.norb_i, values)
    with pytest.raises(InputError, match="not finite"):
        pencil_of(damaged, overlap, COMM, owners(4, "in turn"))
