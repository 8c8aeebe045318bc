"""Memory of sparse factors, and what is said when they do not fit."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
from conftest import shared_path
from mpi4py import MPI
from pencil_models import almost_dependent, operator_of, pencil_of, random_pencil, supercell

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.io.scfout import read_scfout
from hamgnn_solve.core.operator import BlockOperator, dense_matrix
from hamgnn_solve.parallel.rows import OrbitalRows
from hamgnn_solve.solver.dense import dense_eigenpairs
from hamgnn_solve.solver.eigenpairs import eigenpairs_near
from hamgnn_solve.solver.factorisation import COARSE, DOUBLE, SINGLE, FactorOptions, Precision
from hamgnn_solve.solver.pencil import Pencil
from hamgnn_solve.solver.petsc import PETSc, numbered_options, set_options

GAMMA = (0.0, 0.0, 0.0)
GENERAL = (0.13, -0.21, 0.37)


def silicon(options: FactorOptions) -> Pencil:
    """Return the pencil of 160 silicon atoms."""
    data = read_scfout(shared_path("oracle/openmx/si2/si2.scfout.xz"))
    hamiltonian, overlap = (supercell(x, (5, 4, 4)) for x in (data.hamiltonians[0], data.overlap))
    rows = OrbitalRows(np.zeros(len(overlap.norb_i), dtype=np.int64), overlap.norb_i)
    return Pencil(hamiltonian, overlap, rows, MPI.COMM_SELF, factor_options=options)


def test_factors_on_disk_are_the_same() -> None:
    solutions, counts = [], []
    for options in (FactorOptions(), FactorOptions(out_of_core=True)):
        pencil = silicon(options)
        _, count = pencil.factorise(GAMMA, -0.1)
        right = np.random.default_rng(1).standard_normal((pencil.norbitals, 3))
        solutions.append(pencil.solve(right))
        counts.append(count)
    assert counts[0] == counts[1]
    # Reached 1e-13 of the largest.
    assert np.abs(solutions[1] - solutions[0]).max() < 1e-10 * np.abs(solutions[0]).max()


def test_factors_that_do_not_fit_go_to_disk_or_are_refused() -> None:
    said: list[str] = []
    with pytest.raises(InputError, match="cannot be factorised: MUMPS needs about"):
        silicon(FactorOptions(memory=1e6, announce=said.append)).factorise(GAMMA, -0.1)
    assert len(said) == 1
    assert "they are kept on disk" in said[0]


def test_negligible_blocks_do_not_move_energies() -> None:
    hamiltonian, overlap = random_pencil([3, 4, 5] * 4, seed=41)
    small = overlap.values.copy()
    for p in range(len(overlap.pairs)):
        if overlap.pairs.first_p[p] != overlap.pairs.second_p[p]:
            small[overlap.offset_p[p] : overlap.offset_p[p + 1]] *= 1e-7
    tail = BlockOperator(overlap.pairs, overlap.norb_i, small)
    pencil = pencil_of(hamiltonian, tail)
    for k_c in (GAMMA, GENERAL):
        energies_n, _ = dense_eigenpairs(hamiltonian, tail, k_c)
        found = eigenpairs_near(pencil, k_c, 0.05, 6, 6)
        # Blocks of 1e-9 are not factorised; reached 1e-14 Hartree, residuals 3e-9.
        assert np.abs(found.energies_n - energies_n[found.band_index_n - 1]).max() < 1e-12
        assert found.residuals_n.max() < 1e-7


@pytest.mark.parametrize("precision", [COARSE, SINGLE])
@pytest.mark.parametrize("k_c", [GAMMA, GENERAL])
def test_single_factors_count_and_refine_like_double_ones(
    k_c: tuple[float, float, float], precision: Precision
) -> None:
    hamiltonian, overlap = random_pencil([3, 4, 5] * 20, seed=43)
    energies_n, _ = dense_eigenpairs(hamiltonian, overlap, k_c)
    pencil = pencil_of(
        hamiltonian, overlap, factor_options=FactorOptions(precisions=(precision, DOUBLE))
    )
    real = pencil.is_real_at(k_c)
    random = np.random.default_rng(44).standard_normal((pencil.norbitals, 3))
    right = random if real else random * (1.0 + 0.5j)
    for sigma in np.random.default_rng(45).uniform(energies_n[60], energies_n[180], 5):
        factorisation, count = pencil.factorise(k_c, float(sigma), counting=True)
        assert factorisation.precision == precision
        assert count == (energies_n < sigma).sum()
        for accuracy, largest in ((1e-3, 1e-3), (1e-10, 1e-10)):
            solution = pencil.solve(right, accuracy)
            rest = pencil.hamiltonian_times(k_c, solution) - right
            rest -= sigma * pencil.overlap_times(k_c, solution)
            # Reached 2e-6 and 1e-12, of the right-hand side.
            assert np.abs(rest).max() < 100.0 * largest * np.abs(right).max()


def test_coarse_factors_of_a_count_do_not_serve_a_search() -> None:
    pencil = pencil_of(*random_pencil([3, 4, 5] * 20, seed=43))
    counted, count = pencil.factorise(GAMMA, 0.1, counting=True)
    assert counted.precision == COARSE
    searched, again = pencil.factorise(GAMMA, 0.1)
    assert searched.precision == SINGLE
    assert again == count
    # More precise ones than asked for are kept.
    assert pencil.factorise(GAMMA, 0.1, counting=True)[0] is searched
    with pytest.raises(ValueError, match="coarse factors"):
        FactorOptions(precisions=(COARSE,))


def checkerboard(size: int) -> Pencil:
    """Return atoms on a square, coupled to the nearest ones and, a little, to those beyond."""
    place = np.arange(size * size).reshape(size, size)
    pairs = [(place, place), (place[1:], place[:-1]), (place[:, 1:], place[:, :-1])]
    pairs += [(place[n:], place[:-n]) for n in (2, 3, 4)]
    first, second = (np.concatenate([pair[x].ravel() for pair in pairs]) for x in (0, 1))
    number = len(first)
    near = first - second
    colour = 1.0 - 2.0 * ((first // size + first % size) % 2)
    h = np.where(near == 0, colour, np.where((near == 1) | (near == size), 0.1, 5e-6))
    matrices = [
        operator_of(
            first.tolist(),
            second.tolist(),
            [(0, 0, 0)] * number,
            [1] * size**2,
            [np.array([[x]]) for x in values],
        )
        for values in (h, (near == 0).astype(float))
    ]
    return pencil_of(*matrices)


def test_factors_of_a_search_are_ordered_for_their_own_blocks() -> None:
    """After a count, whose pattern is sparser, nothing more is filled in than without it."""
    alone, after = checkerboard(24), checkerboard(24)
    counted, count = after.factorise(GAMMA, 0.0, counting=True)
    assert count == 24 * 12
    before = counted.statistics["entries"]
    entries = [x.factorise(GAMMA, 0.0)[0].statistics["entries"] for x in (alone, after)]
    assert entries[0] == entries[1] > before


def test_single_factors_that_miscount_are_noticed() -> None:
    # Two orbitals are those of others but for a part of 1e-4: S has eigenvalues of some 1e-8, along
    # which H - sigma S is as small as rounding in single precision.
    hamiltonian, overlap = almost_dependent(46, 2)
    h, s = (dense_matrix(x, GAMMA).real for x in (hamiltonian, overlap))
    energies_n = scipy.linalg.eigh(h, s, eigvals_only=True)
    careless = pencil_of(hamiltonian, overlap, factor_options=FactorOptions(precisions=(SINGLE,)))
    careful = pencil_of(hamiltonian, overlap)
    wrong = 0
    for sigma in np.linspace(energies_n[10], energies_n[35], 12):
        count = (energies_n < sigma).sum()
        factorisation, counted = careful.factorise(GAMMA, float(sigma), counting=True)
        assert counted == count
        assert factorisation.precision == DOUBLE
        wrong += careless.factorise(GAMMA, float(sigma))[1] != count
    # Reached 7 of 12.
    assert wrong > 0


def test_options_of_mumps_are_taken_from_petscs() -> None:
    set_options("-mat_mumps_icntl_14 45 -mat_mumps_cntl_1 0.125")
    try:
        assert dict(numbered_options("mat_mumps_icntl_", 60, int)) == {14: 45}
        assert dict(numbered_options("mat_mumps_cntl_", 15, float)) == {1: 0.125}
        factorisation, _ = pencil_of(*random_pencil([3, 4], seed=47)).factorise(GAMMA, 0.1)
        assert factorisation.mumps.icntl(14) == 45
        set_options("-mat_mumps_icntl_14 many")
        with pytest.raises(InputError, match="-mat_mumps_icntl_14 takes a number, not 'many'"):
            list(numbered_options("mat_mumps_icntl_", 60, int))
    finally:
        for name in ("mat_mumps_icntl_14", "mat_mumps_cntl_1"):
            PETSc.Options().delValue(name)


def test_compression_is_an_option_of_ours() -> None:
    with pytest.raises(InputError, match="--compression"):
        set_options("-mat_mumps_icntl_35 2")
    assert not PETSc.Options().hasName("mat_mumps_icntl_35")
