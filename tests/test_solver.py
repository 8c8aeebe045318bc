"""Pencil, inertia, eigenpairs and Fermi level against LAPACK, OpenMX and exact results."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import shared_path
from pencil_models import (
    chain,
    folded_kpoints,
    operator_of,
    pencil_of,
    printed_bands,
    random_pencil,
    supercell,
)

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.io.scfout import read_scfout
from hamgnn_solve.core.operator import BlockOperator, dense_matrix
from hamgnn_solve.parallel.rows import OrbitalRows
from hamgnn_solve.solver import eigenpairs as eigenpairs_module
from hamgnn_solve.solver.bands import BandOptions, solve_bands
from hamgnn_solve.solver.dense import dense_eigenpairs
from hamgnn_solve.solver.eigenpairs import eigenpairs_near, eigenpairs_of_bands
from hamgnn_solve.solver.fermi import FermiLevel, fermi_level, fill_bands, into_gap, locate_band
from hamgnn_solve.solver.fragments import LevelGuess, guess_levels
from hamgnn_solve.solver.inertia import count_below
from hamgnn_solve.solver.krylov import KrylovOptions, Nearest
from hamgnn_solve.solver.pencil import is_real_point
from hamgnn_solve.solver.petsc import check_build, set_options

GAMMA = (0.0, 0.0, 0.0)
EDGE = (0.5, 0.0, -0.5)
GENERAL = (0.13, -0.21, 0.37)
NORB = [1, 4, 2, 3, 1, 5]


def petsc_dense(matrix: Any) -> np.ndarray:
    size = matrix.getSize()[0]
    return matrix.getValues(range(size), range(size))


def test_real_points_are_those_with_2k_a_reciprocal_vector() -> None:
    assert all(is_real_point(k_c) for k_c in (GAMMA, EDGE, (0.5, 0.5, 0.5), (1.0, -1.5, 2.0)))
    assert not is_real_point(GENERAL)
    assert not is_real_point((0.25, 0.0, 0.0))


@pytest.mark.parametrize("k_c", [GAMMA, EDGE, GENERAL])
def test_matrices_are_the_lattice_sums(k_c: tuple[float, float, float]) -> None:
    hamiltonian, overlap = random_pencil(NORB, seed=1)
    pencil = pencil_of(hamiltonian, overlap)
    for _ in range(2):
        for matrix, operator in zip(pencil.matrices(k_c), (hamiltonian, overlap), strict=True):
            expected = dense_matrix(operator, k_c)
            found = petsc_dense(matrix)
            if not is_real_point(k_c):
                # Hermitian means: symmetric, and every 2 x 2 block is ((Re, -Im), (Im, Re)).
                assert np.abs(found - found.T).max() < 1e-14
                assert np.array_equal(found[0::2, 0::2], found[1::2, 1::2])
                found = found[0::2, 0::2] + 1j * found[1::2, 0::2]
            # Sums of at most nine blocks of order one; reached 2e-16.
            assert np.abs(found - expected).max() < 5e-15
        pencil.factorise((0.4, 0.1, 0.2), 0.3)
        pencil.factorise((0.5, 0.5, 0.5), 0.3)


@pytest.mark.parametrize("k_c", [GAMMA, EDGE, GENERAL])
def test_inertia_counts_states_as_lapack_does(k_c: tuple[float, float, float]) -> None:
    hamiltonian, overlap = random_pencil(NORB, seed=2)
    pencil = pencil_of(hamiltonian, overlap)
    energies_n, _ = dense_eigenpairs(hamiltonian, overlap, k_c)
    for sigma in np.random.default_rng(3).uniform(energies_n[0] - 1, energies_n[-1] + 1, 12):
        assert count_below(pencil, k_c, float(sigma)) == (energies_n < sigma).sum()


@pytest.mark.parametrize("k_c", [GAMMA, GENERAL])
def test_shift_on_a_state_is_moved(k_c: tuple[float, float, float]) -> None:
    hamiltonian, overlap = chain([-0.2, -0.1])
    pencil = pencil_of(hamiltonian, overlap)
    energies_n, _ = dense_eigenpairs(hamiltonian, overlap, k_c)
    assert count_below(pencil, k_c, float(energies_n[1])) in (1, 2)
    found = eigenpairs_near(pencil, k_c, float(energies_n[1]), 2, 2)
    assert found.energies_n == pytest.approx(energies_n, abs=1e-10)


@pytest.mark.parametrize("slepc", [False, True])
@pytest.mark.parametrize("k_c", [GAMMA, EDGE, GENERAL])
def test_eigenpairs_are_those_of_lapack(k_c: tuple[float, float, float], slepc: bool) -> None:
    hamiltonian, overlap = random_pencil([3, 4, 5] * 8, seed=4)
    pencil = pencil_of(hamiltonian, overlap)
    energies_n, _ = dense_eigenpairs(hamiltonian, overlap, k_c)
    found = eigenpairs_near(pencil, k_c, 0.05, 9, 6, options=KrylovOptions(slepc=slepc))
    count = int((energies_n < 0.05).sum())
    assert found.count == count
    assert found.band_index_n.tolist() == list(range(count - 8, count + 7))
    # Reached 1e-14 and 5e-11.
    assert np.abs(found.energies_n - energies_n[count - 9 : count + 6]).max() < 1e-11
    assert found.residuals_n.max() < 1e-8
    s = dense_matrix(overlap, k_c)
    h = dense_matrix(hamiltonian, k_c)
    x = found.vectors_mn
    assert np.abs(x.conj().T @ s @ x - np.eye(15)).max() < 1e-10
    residual = h @ x - s @ x * found.energies_n
    norms = np.linalg.norm(residual, axis=0) / np.linalg.norm(s @ x, axis=0)
    assert norms == pytest.approx(found.residuals_n, abs=1e-13)


def test_small_pencils_return_what_exists() -> None:
    hamiltonian, overlap = random_pencil([2, 1], seed=5)
    pencil = pencil_of(hamiltonian, overlap)
    for k_c in (GAMMA, GENERAL):
        energies_n, _ = dense_eigenpairs(hamiltonian, overlap, k_c)
        found = eigenpairs_near(pencil, k_c, 0.0, 20, 20)
        assert found.band_index_n.tolist() == [1, 2, 3]
        assert found.energies_n == pytest.approx(energies_n, abs=1e-11)
        below = eigenpairs_of_bands(pencil, k_c, float(energies_n[-1]) + 1.0, 1, 2)
        assert below.energies_n == pytest.approx(energies_n[:2], abs=1e-11)


@pytest.mark.parametrize("name", ["h2o", "si2", "gaas2", "mos2_k5"])
def test_sparse_bands_are_those_openmx_prints(name: str) -> None:
    folder = shared_path("oracle/openmx") / name
    data = read_scfout(folder / f"{name}.scfout.xz")
    pencil = pencil_of(data.hamiltonians[0], data.overlap)
    points = printed_bands(folder / f"{name}.out")
    for k_c, printed_n in points[:: max(len(points) // 6, 1)]:
        found = eigenpairs_near(pencil, k_c, data.chemical_potential, 99, 99)
        # OpenMX prints the bands of a molecule only in part. Reached 2.1e-7 Hartree (Si).
        assert len(found.energies_n) == pencil.norbitals
        assert np.abs(found.energies_n[: len(printed_n)] - printed_n).max() < 5e-7


@pytest.mark.parametrize("k_c", [GAMMA, (0.5, 0.0, 0.0), (0.2, 0.0, 0.0)])
def test_degenerate_states_of_a_silicon_supercell_are_all_found(
    k_c: tuple[float, float, float],
) -> None:
    data = read_scfout(shared_path("oracle/openmx/si2/si2.scfout.xz"))
    repeats = (3, 3, 2)
    pencil = pencil_of(supercell(data.hamiltonians[0], repeats), supercell(data.overlap, repeats))
    folded = [
        dense_eigenpairs(data.hamiltonians[0], data.overlap, q_c)[0]
        for q_c in folded_kpoints(k_c, repeats)
    ]
    expected = np.sort(np.concatenate(folded))
    found = eigenpairs_near(pencil, k_c, data.chemical_potential, 20, 20)
    # Stars of equivalent k make up to six states equal; reached 1e-11.
    assert np.abs(found.energies_n - expected[found.band_index_n - 1]).max() < 1e-9
    assert len(found.energies_n) == 40


@pytest.mark.parametrize("k_c", [GAMMA, GENERAL])
def test_state_that_the_krylov_space_missed_is_found_again(
    k_c: tuple[float, float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    hamiltonian, overlap = random_pencil([3, 4, 5] * 4, seed=6)
    energies_n, _ = dense_eigenpairs(hamiltonian, overlap, k_c)
    pencil = pencil_of(hamiltonian, overlap)
    complete = eigenpairs_module.nearest_states
    calls: list[int] = []

    def forgetful(*arguments: Any, **options: Any) -> Nearest:
        calls.append(arguments[4])
        found = complete(*arguments, **options)
        vectors_mn = found.vectors_mn
        if len(calls) > 1:
            return found
        # All but the state nearest to the shift.
        energies_n = np.array(
            [
                (x.conj() @ pencil.hamiltonian_times(k_c, x[:, None])[:, 0]).real
                for x in vectors_mn.T
            ]
        )
        nearest = np.argmin(np.abs(energies_n))
        return replace(found, vectors_mn=np.delete(vectors_mn, nearest, axis=1))

    monkeypatch.setattr(eigenpairs_module, "nearest_states", forgetful)
    found = eigenpairs_near(pencil, k_c, 0.0, 4, 4)
    assert len(calls) == 2
    assert found.energies_n == pytest.approx(energies_n[found.band_index_n - 1], abs=1e-10)


@pytest.mark.parametrize("k_c", [GAMMA, GENERAL])
@pytest.mark.parametrize("wanted", [(9, 6), (12, 1), (1, 12)])
def test_states_far_from_a_shift_are_found_from_nearer_ones(
    k_c: tuple[float, float, float], wanted: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    hamiltonian, overlap = random_pencil([3, 4, 5] * 20, seed=7)
    energies_n, _ = dense_eigenpairs(hamiltonian, overlap, k_c)
    # Just under a state, from where the states below are far.
    split = 100
    sigma = float(energies_n[split]) - 1e-5
    monkeypatch.setattr(eigenpairs_module, "BLOCKS", 3)
    monkeypatch.setattr(eigenpairs_module, "SOLVES", 1e9)
    pencil = pencil_of(hamiltonian, overlap)
    found = eigenpairs_near(pencil, k_c, sigma, *wanted, options=KrylovOptions(block=4))
    # A shift beside each side that 12 vectors left unconverged, and the counts at both ends.
    assert pencil.factorisations >= 4
    expected_n = energies_n[split - wanted[0] : split + wanted[1]]
    assert found.band_index_n.tolist() == list(range(split - wanted[0] + 1, split + wanted[1] + 1))
    # Reached 2e-14.
    assert np.abs(found.energies_n - expected_n).max() < 1e-11


def test_shift_that_falls_among_the_missing_states_finds_those_on_either_side(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hamiltonian, overlap = random_pencil([3, 4, 5] * 20, seed=7)
    energies_n, _ = dense_eigenpairs(hamiltonian, overlap, GAMMA)
    split = 100
    monkeypatch.setattr(eigenpairs_module, "BLOCKS", 3)
    monkeypatch.setattr(eigenpairs_module, "SOLVES", 1e9)
    asked: list[int] = []

    def among(_search: Any, side: int) -> float:
        asked.append(side)
        place = split + 3 * side
        return 0.5 * float(energies_n[place] + energies_n[place - 1])

    monkeypatch.setattr(eigenpairs_module._Search, "_beside_the_rest", among)
    sigma = 0.5 * float(energies_n[split - 1] + energies_n[split])
    options = KrylovOptions(block=4, largest=48)
    found = eigenpairs_near(pencil_of(hamiltonian, overlap), GAMMA, sigma, 9, 6, options=options)
    assert asked == [-1, 1]
    # Reached 6e-15.
    assert np.abs(found.energies_n - energies_n[split - 9 : split + 6]).max() < 1e-11


def test_bands_that_cannot_be_certified_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    hamiltonian, overlap = random_pencil([3, 4, 5] * 4, seed=6)
    honest = eigenpairs_module.factorise_near

    def generous(pencil: Any, k_c: Any, sigma: float, **options: Any) -> Any:
        factorisation, sigma, count = honest(pencil, k_c, sigma, **options)
        return factorisation, sigma, count + (3 if sigma > 0.05 else 0)

    monkeypatch.setattr(eigenpairs_module, "factorise_near", generous)
    with pytest.raises(InputError, match="cannot be certified"):
        eigenpairs_near(pencil_of(hamiltonian, overlap), GAMMA, 0.0, 2, 2)


def test_locate_band_encloses_a_band_from_nothing() -> None:
    for offset in (-40.0, 0.0, 25.0):
        hamiltonian, overlap = random_pencil([3, 4, 5] * 4, seed=7)
        shifted = BlockOperator(overlap.pairs, overlap.norb_i, offset * overlap.values)
        pencil = pencil_of(_sum(hamiltonian, shifted), overlap)
        for band in (1, 20, 47):
            energy = locate_band(pencil, np.array(GAMMA), band, 2)
            assert abs(count_below(pencil, GAMMA, energy) - band) <= 2


def test_guess_lies_in_the_widest_gap_near_the_electrons() -> None:
    # Levels of 100 states between -1 and 0, gaps at 97 states of 0.04 and at 100 of 0.2 Hartree.
    levels = np.concatenate([np.linspace(-1.0, -0.1, 97), [-0.06, -0.05, -0.04], [0.16, 0.17]])
    guess = LevelGuess(levels, np.ones(len(levels)))
    assert guess.gap(99.0) == pytest.approx(0.06, abs=0.01)
    assert guess.energy(97.5) == pytest.approx(-0.08, abs=0.03)
    # Without a gap the energy with that many states is as good.
    assert LevelGuess(np.linspace(0, 1, 1001), np.full(1001, 0.1)).gap(50.0) == pytest.approx(
        0.5, abs=0.05
    )


def test_few_states_between_energies_are_no_metal() -> None:
    # A level each 0.01 Hartree, each fourth of them between -0.4 and 0.
    levels = np.concatenate([np.linspace(-1.0, -0.4, 61), [-0.36, -0.32], np.linspace(0, 0.6, 61)])
    guess = LevelGuess(levels, np.full(len(levels), 10.0))
    assert guess.is_thin(-0.4, -0.01, 620.0)
    assert not guess.is_thin(-0.6, -0.4, 620.0)
    assert not guess.is_thin(-0.01, -0.4, 620.0)


@pytest.mark.parametrize(("energy", "band"), [(0.28, 12), (-0.28, 12), (0.28, 17)])
def test_a_shift_beside_a_gap_moves_into_it(energy: float, band: int) -> None:
    """Bands at -0.5..-0.2 and 0.2..0.5; clusters miss those next to the gap."""
    hamiltonian, s = chain([-0.35, -0.15] * 12, overlap=0.0)
    pencil = pencil_of(hamiltonian, s)
    states_n, _ = dense_eigenpairs(hamiltonian, s, GAMMA)
    levels_n = states_n[np.abs(states_n) > 0.3]
    # Surfaces of the clusters: a quarter of a state in the gap, near the right number of electrons.
    weights = np.full(len(levels_n), 11.9 / (levels_n < 0.0).sum())
    guess = LevelGuess(np.append(levels_n, 0.1), np.append(weights, 0.25))
    assert count_below(pencil, GAMMA, energy) != 12
    found = into_gap(pencil, np.array(GAMMA), band, energy, guess)
    if band == 12:
        assert count_below(pencil, GAMMA, found) == 12
    else:
        # No gap is there: the energy stays.
        assert found == energy


@pytest.mark.parametrize("k_c", [GAMMA, GENERAL])
def test_clusters_of_the_whole_crystal_count_its_states(k_c: tuple[float, float, float]) -> None:
    data = read_scfout(shared_path("oracle/openmx/gaas2/gaas2.scfout.xz"))
    energies_n, _ = dense_eigenpairs(data.hamiltonians[0], data.overlap, k_c)
    # Every cluster is the whole crystal here, and every atom the middle of one.
    guess = guess_levels(pencil_of(data.hamiltonians[0], data.overlap), k_c)
    for states in (4, 9, 20):
        middle = 0.5 * (energies_n[states - 1] + energies_n[states])
        count = guess.count_n[np.searchsorted(guess.energies_n, middle) - 1]
        # Mulliken weights of all atoms of a level sum to one; reached 1e-13.
        assert count == pytest.approx(states, abs=1e-9)


def _sum(small: BlockOperator, large: BlockOperator) -> BlockOperator:
    values = large.values.copy()
    for p, q in enumerate(large.pairs.position_of(small.pairs)):
        values[large.offset_p[q] : large.offset_p[q + 1]] += small.block(p).ravel()
    return BlockOperator(large.pairs, large.norb_i, values)


def dimer_mesh(number: int) -> np.ndarray:
    return np.stack([np.arange(number) / number, np.zeros(number), np.zeros(number)], axis=1)


def test_gap_of_the_dimerised_chain() -> None:
    # E(1/2) = (-+|t1 - t2|) / (1 -+ 0) with overlaps s equal on both bonds: S(1/2) = 1.
    pencil = pencil_of(*chain([-0.30, -0.18], overlap=0.1))
    mesh = dimer_mesh(8)
    result = fermi_level(pencil, mesh, None, 2.0)
    assert not result.metal
    assert result.valence_band_maximum == pytest.approx(-0.12, abs=1e-10)
    assert result.conduction_band_minimum == pytest.approx(0.12, abs=1e-10)
    assert result.energy == pytest.approx(0.0, abs=1e-10)
    spectrum = solve_bands(pencil, mesh, 2.0)
    assert spectrum.gap_kind == "direct"
    assert spectrum.gap == pytest.approx(0.24, abs=1e-10)
    assert spectrum.fermi_level == pytest.approx(0.0, abs=1e-10)
    assert spectrum.band_index_kn.tolist() == [[1, 2]] * 8


def test_fermi_level_of_the_half_filled_chain() -> None:
    # E(k) = 2 t cos(2 pi k) / (1 + 2 s cos(2 pi k)) is 0 at k = 1/4, where half the band ends.
    pencil = pencil_of(*chain([-0.25], overlap=0.1))
    mesh = dimer_mesh(16) + np.array([1 / 32, 0.0, 0.0])
    step = 2 * 0.25 * np.cos(2 * np.pi * mesh[3, 0]) / (1 + 0.2 * np.cos(2 * np.pi * mesh[3, 0]))
    spectrum = solve_bands(pencil, mesh, 1.0)
    assert spectrum.gap_kind == "metal"
    assert spectrum.gap == 0.0
    # The mesh leaves the level free between the states on both sides of k = 1/4.
    assert abs(spectrum.fermi_level) < step
    assert abs(fermi_level(pencil, mesh, None, 1.0).energy) < 1.3 * step
    # A quarter of the electrons of the band: E at k = 1/8 to the mesh.
    exact = -0.5 * np.cos(np.pi / 4) / (1 + 0.2 * np.cos(np.pi / 4))
    assert abs(solve_bands(pencil, mesh, 0.5).fermi_level - exact) < step


def test_weights_move_the_level_of_a_metal() -> None:
    energies_kn = np.array([[-1.0, 0.2], [-0.5, 0.6], [0.1, 0.9]])
    equal = fill_bands(energies_kn, 1, 2, np.full(3, 1 / 3), 2.2)
    assert equal is not None
    assert equal.energy == pytest.approx(0.2)
    heavy = fill_bands(energies_kn, 1, 2, np.array([0.1, 0.1, 0.8]), 2.3)
    assert heavy is not None
    assert heavy.energy == pytest.approx(0.6)
    # Bands 5 and 6 do not enclose a level when band 5 rises above the lowest band 6.
    assert fill_bands(energies_kn, 5, 20, np.full(3, 1 / 3), 8.2) is None


def test_gap_and_level_of_openmx_mos2() -> None:
    folder = shared_path("oracle/openmx/mos2_k5")
    data = read_scfout(folder / "mos2_k5.scfout.xz")
    pencil = pencil_of(data.hamiltonians[0], data.overlap)
    points = printed_bands(folder / "mos2_k5.out")
    mesh = np.array([k_c for k_c, _ in points])
    printed_kn = np.array([energies for _, energies in points])
    spectrum = solve_bands(pencil, mesh, data.electrons)
    # Reached 9e-9 Hartree.
    assert spectrum.vbm == pytest.approx(printed_kn[:, 12].max(), abs=1e-7)
    assert spectrum.cbm == pytest.approx(printed_kn[:, 13].min(), abs=1e-7)
    assert spectrum.band_index_kn[0].tolist() == list(range(1, 34))
    by_counting = fermi_level(pencil, mesh, None, data.electrons)
    assert by_counting.energy == pytest.approx(spectrum.fermi_level, abs=1e-9)


def test_bands_of_a_path_keep_the_level_of_the_mesh() -> None:
    pencil = pencil_of(*chain([-0.30, -0.18]))
    mesh = solve_bands(pencil, dimer_mesh(8), 2.0)
    level = FermiLevel(mesh.fermi_level)
    calls: list[int] = []
    path = solve_bands(
        pencil,
        np.array([GAMMA, (0.1, 0.0, 0.0)]),
        2.0,
        2,
        lambda: calls.append(1),
        fermi=level,
    )
    assert path.fermi_level == mesh.fermi_level
    assert len(calls) == 2


@pytest.mark.parametrize("electrons", [0.0, -1.0, 5.0])
def test_electrons_that_do_not_fit_are_refused(electrons: float) -> None:
    pencil = pencil_of(*chain([-0.30, -0.18]))
    with pytest.raises(InputError, match="do not fit"):
        solve_bands(pencil, np.array([GAMMA]), electrons)


def test_indefinite_overlap_is_refused() -> None:
    hamiltonian, overlap = chain([-0.3] * 6, overlap=0.8)
    pencil = pencil_of(hamiltonian, overlap)
    with pytest.raises(InputError, match="not positive definite"):
        solve_bands(pencil, np.zeros((1, 3)), 6.0, 4)
    with pytest.raises(InputError, match="not positive definite"):
        solve_bands(pencil, np.zeros((1, 3)), 6.0, 4, options=BandOptions(largest_dense=0))
    with pytest.raises(InputError, match="not positive definite"):
        dense_eigenpairs(hamiltonian, overlap, GAMMA)


def test_blocks_must_be_finite_and_hermitian() -> None:
    hamiltonian, overlap = random_pencil(NORB, seed=8)
    values = hamiltonian.values.copy()
    values[3] = np.nan
    with pytest.raises(InputError, match="not finite"):
        pencil_of(BlockOperator(hamiltonian.pairs, hamiltonian.norb_i, values), overlap)
    values = hamiltonian.values.copy()
    values[-1] += 0.1
    with pytest.raises(InputError, match="not Hermitian"):
        pencil_of(BlockOperator(hamiltonian.pairs, hamiltonian.norb_i, values), overlap)


def test_lone_block_is_not_hermitian() -> None:
    onsite = operator_of([0, 1], [0, 1], [GAMMA, GAMMA], [1, 1], [np.eye(1)] * 2)  # type: ignore[list-item]
    pairs = onsite.pairs.select(np.array([0, 1, 1]))
    pairs.second_p[2] = 0
    lone = BlockOperator(pairs, onsite.norb_i, np.ones(3))
    with pytest.raises(InputError, match="not Hermitian"):
        pencil_of(lone, onsite)


def test_build_of_petsc_is_checked() -> None:
    check_build(SimpleNamespace(ScalarType=np.float64))
    with pytest.raises(InputError, match="complex128"):
        check_build(SimpleNamespace(ScalarType=np.complex128))


def test_options_reach_petsc_and_are_checked() -> None:
    from petsc4py import PETSc

    set_options("-hamgnn_solve_test 7")
    assert PETSc.Options().getInt("hamgnn_solve_test") == 7
    PETSc.Options().delValue("hamgnn_solve_test")
    with pytest.raises(InputError, match="start with a dash"):
        set_options("mat_mumps_icntl_14 50")


def test_rows_follow_the_owners() -> None:
    rows = OrbitalRows(np.array([1, 0, 1, 0]), np.array([2, 3, 4, 5]), 3, 1)
    assert rows.first_row_i.tolist() == [8, 0, 10, 3]
    assert (rows.start, rows.stop, rows.nrows) == (8, 14, 14)
    assert rows.owned.tolist() == [0, 2]
    assert rows.row_of_orbital_m.tolist() == [8, 9, 0, 1, 2, *range(10, 14), *range(3, 8)]
    assert OrbitalRows(rows.owner_i, rows.norb_i, 3, 2).nlocal == 0
    with pytest.raises(ValueError, match="owners"):
        OrbitalRows(np.array([0, 3]), np.array([1, 1]), 3, 0)
