"""Density matrix against LAPACK and exact results: poles, selected inversion and all routes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import shared_path
from density_models import filling_of, rows_of, select_pairs, serial_density, whole_matrix
from mpi4py import MPI
from pencil_models import chain, folded_kpoints, random_pencil, supercell

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.io.scfout import read_scfout
from hamgnn_solve.core.operator import BlockOperator, dense_matrix
from hamgnn_solve.solver import multifrontal, selected_inversion
from hamgnn_solve.solver.dense import dense_eigenpairs
from hamgnn_solve.solver.density_matrix import BandStates, Filling, density_from_states
from hamgnn_solve.solver.fermi import FermiLevel
from hamgnn_solve.solver.lower_blocks import LowerBlocks
from hamgnn_solve.solver.multifrontal import dissect
from hamgnn_solve.solver.pole_expansion import fermi_poles, step_poles

GAMMA = (0.0, 0.0, 0.0)
EDGE = (0.5, 0.0, -0.5)
GENERAL = (0.13, -0.21, 0.37)
ONLY_GAMMA = np.zeros((1, 3))


def on_a_ring(operator: BlockOperator, reach: int) -> BlockOperator:
    """Return the operator with only the pairs of atoms up to `reach` apart on a ring."""
    natoms = len(operator.norb_i)
    apart = np.abs(operator.pairs.first_p - operator.pairs.second_p)
    return select_pairs(operator, np.minimum(apart, natoms - apart) <= reach)


def small_fronts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make fronts of a few atoms, strips and halves of a few rows."""
    monkeypatch.setattr(multifrontal, "COST_OF_FRONT", 0.0)
    monkeypatch.setattr(multifrontal, "COST_OF_MOVE", 0.0)
    monkeypatch.setattr(selected_inversion, "STRIP", 5)
    monkeypatch.setattr(selected_inversion, "LEAF", 4)


@pytest.mark.parametrize("k_c", [GAMMA, EDGE, GENERAL])
@pytest.mark.parametrize("shift", [0.07, 0.07 + 0.02j, -0.3 - 0.4j])
@pytest.mark.parametrize("small", [False, True])
def test_selected_inverse_is_that_of_lapack(
    k_c: tuple[float, float, float],
    shift: complex,
    small: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if small:
        small_fronts(monkeypatch)
    if isinstance(shift, float):
        # A real shift relies on pivots within a block.
        monkeypatch.setattr(selected_inversion, "LEAF", 256)
    hamiltonian, overlap = (on_a_ring(x, 3) for x in random_pencil([3, 4, 5] * 16, seed=21))
    real = k_c != GENERAL
    tree = dissect(overlap.pairs.first_p, overlap.pairs.second_p, overlap.norb_i)
    assert (len(tree.fronts) > 15) == small
    blocks = LowerBlocks(tree, hamiltonian, overlap)
    found = selected_inversion.selected_inverse(
        tree, blocks, blocks.fold(hamiltonian, k_c, real), blocks.fold(overlap, k_c, real), shift
    )
    exact = np.linalg.inv(dense_matrix(hamiltonian, k_c) - shift * dense_matrix(overlap, k_c))
    start_i = np.cumsum(overlap.norb_i) - overlap.norb_i
    assert np.isrealobj(found.lower) == (real and isinstance(shift, float))
    # No pivots cross fronts, so that real shifts lose digits when fronts are as small as an atom.
    bound = (1e-8 if small and isinstance(shift, float) else 1e-12) * np.abs(exact).max()
    for q, (i, j) in enumerate(zip(blocks.earlier_q, blocks.later_q, strict=True)):
        rows = slice(start_i[j], start_i[j] + overlap.norb_i[j])
        columns = slice(start_i[i], start_i[i] + overlap.norb_i[i])
        inside = slice(blocks.offset_q[q], blocks.offset_q[q + 1])
        # Reached 4e-14 and 2e-13, in small fronts 2e-9 at real shifts, of the largest element.
        assert np.abs(found.lower[inside] - exact[rows, columns].ravel()).max() < bound
        assert np.abs(found.upper[inside] - exact[columns, rows].T.ravel()).max() < bound


def test_shift_on_an_eigenvalue_is_refused() -> None:
    # One atom without hopping: H - z S is zero at z = 0.
    hamiltonian, overlap = chain([0.0], overlap=0.0)
    tree = dissect(overlap.pairs.first_p, overlap.pairs.second_p, overlap.norb_i)
    blocks = LowerBlocks(tree, hamiltonian, overlap)
    h, s = (blocks.fold(x, GAMMA, True) for x in (hamiltonian, overlap))
    with pytest.raises(InputError, match="singular"):
        selected_inversion.selected_inverse(tree, blocks, h, s, 0.0)


def test_blocks_fold_and_unfold() -> None:
    hamiltonian, _ = random_pencil([1, 4, 2, 3], seed=22)
    tree = dissect(hamiltonian.pairs.first_p, hamiltonian.pairs.second_p, hamiltonian.norb_i)
    blocks = LowerBlocks(tree, hamiltonian)
    # H(R) back from H(k) on a mesh that is finer than its reach.
    mesh = folded_kpoints(GAMMA, (3, 3, 3))
    result = BlockOperator.zeros(hamiltonian.pairs, hamiltonian.norb_i)
    for k_c in mesh:
        lower = blocks.fold(hamiltonian, k_c, False)
        blocks.unfold_into(result, lower, k_c, 1.0 / len(mesh))
    # Reached 2e-15.
    assert np.abs(result.values - hamiltonian.values).max() < 1e-13


def test_pattern_holds_what_elimination_fills(monkeypatch: pytest.MonkeyPatch) -> None:
    small_fronts(monkeypatch)
    _, overlap = random_pencil([1] * 40, seed=23)
    pairs = on_a_ring(overlap, 2).pairs
    tree = dissect(pairs.first_p, pairs.second_p, overlap.norb_i)
    assert sorted(tree.order_i) == list(range(40))
    filled = np.eye(40, dtype=bool)
    filled[pairs.first_p, pairs.second_p] = True
    filled = filled[np.ix_(tree.order_i, tree.order_i)]
    for i in range(40):
        below = np.flatnonzero(filled[i + 1 :, i]) + i + 1
        filled[np.ix_(below, below)] = True
    first, second = (tree.order_i[x] for x in np.nonzero(filled))
    assert tree.holds(first, second).all()
    # Whatever the order, eliminating a ring does not couple all atoms.
    every = np.arange(40)
    assert not tree.holds(np.repeat(every, 40), np.tile(every, 40)).all()


@pytest.mark.parametrize(("gap", "counts"), [(1e-4, (9, 17, 26)), (0.01, (6, 11, 16))])
def test_step_by_poles_converges_geometrically(gap: float, counts: tuple[int, ...]) -> None:
    top, bottom = -0.2 - gap / 2, -0.2 + gap / 2
    occupied = np.linspace(-0.75, top, 4001)
    occupied = np.append(occupied, top - np.geomspace(1e-9, 0.5, 2000))
    energies = np.concatenate([occupied, bottom + np.geomspace(1e-9, 1e6, 4001)])
    for tolerance, count in zip((1e-3, 1e-6, 1e-9), counts, strict=True):
        expansion = step_poles(-0.75, top, bottom, tolerance)
        error = np.abs(expansion(energies) - (energies < -0.2)).max()
        # The error is what it is told to be, and 1000 times less takes equally many poles more.
        assert error < 1.02 * expansion.error
        assert expansion.error <= tolerance
        assert abs(len(expansion) - count) <= 1


@pytest.mark.parametrize(("temperature", "count"), [(1e-4, 21), (9.5e-4, 16), (0.01, 10), (0.3, 6)])
def test_fermi_function_by_poles(temperature: float, count: int) -> None:
    expansion = fermi_poles(-0.753, -0.168, temperature, 1e-9)
    above = np.concatenate([-np.geomspace(1e-6, 0.585, 4000), np.geomspace(1e-6, 1e5, 4000)])
    exact = 1.0 / (1.0 + np.exp(np.minimum(above / temperature, 700.0)))
    # Reached 5e-11 to 8e-10, as told.
    assert np.abs(expansion(-0.168 + above) - exact).max() < 1.02 * expansion.error + 1e-13
    assert expansion.error <= 1e-9
    assert abs(len(expansion) - count) <= 1


def test_levels_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InputError, match="ascend"):
        step_poles(-0.1, -0.2, 0.3)
    with pytest.raises(InputError, match="must be positive"):
        fermi_poles(-0.5, -0.2, 0.0)
    with pytest.raises(InputError, match="40 poles"):
        step_poles(-0.75, -0.2, -0.1, 1e-18)
    with pytest.raises(InputError, match="40 poles"):
        fermi_poles(-0.75, -0.2, 0.5, 1e-18)
    with pytest.raises(InputError, match="needs a gap"):
        Filling(FermiLevel(0.1), -1.0, 4.0)
    with pytest.raises(InputError, match="negative"):
        Filling(FermiLevel(0.1), -1.0, 4.0, -0.1)
    with pytest.raises(InputError, match="does not lie below"):
        Filling(FermiLevel(0.1, 0.0, 0.2), 0.05, 4.0)


@pytest.mark.parametrize(
    ("name", "repeats"), [("mos2_k5", (3, 3, 1)), ("si2", (2, 2, 2)), ("gaas2", (2, 2, 2))]
)
def test_density_of_insulators(name: str, repeats: tuple[int, int, int]) -> None:
    data = read_scfout(shared_path(f"oracle/openmx/{name}/{name}.scfout.xz"))
    hamiltonian, overlap = (supercell(x, repeats) for x in (data.hamiltonians[0], data.overlap))
    electrons = float(np.prod(repeats)) * data.electrons
    filling = filling_of(hamiltonian, overlap, ONLY_GAMMA, electrons)
    assert filling.level.gap > 0.005
    exact = serial_density(hamiltonian, overlap, ONLY_GAMMA, filling, method="dense")
    found = serial_density(
        hamiltonian,
        overlap,
        ONLY_GAMMA,
        filling,
        method="poles",
        pole_tolerance=1e-12,
        drop_tolerance=0.0,
    )
    assert (exact.method, found.method) == ("dense", "poles")
    assert found.neglected == 0.0
    # Reached 3e-10 electrons and 3e-11 of elements up to 2.
    assert exact.electrons == pytest.approx(electrons, abs=1e-9)
    assert found.electrons == pytest.approx(electrons, abs=1e-6)
    assert np.abs(found.operator.values - exact.operator.values).max() < 1e-8
    # P S P = 2 P; reached 3e-10.
    p, s = whole_matrix(found.operator), dense_matrix(overlap, GAMMA).real
    assert np.abs(p @ s @ p - 2.0 * p).max() < 1e-8


def test_error_of_the_density_is_that_of_the_poles() -> None:
    data = read_scfout(shared_path("oracle/openmx/mos2_k5/mos2_k5.scfout.xz"))
    hamiltonian, overlap = (supercell(x, (2, 2, 1)) for x in (data.hamiltonians[0], data.overlap))
    filling = filling_of(hamiltonian, overlap, ONLY_GAMMA, 4 * data.electrons)
    s = dense_matrix(overlap, GAMMA).real
    energies_n, x = dense_eigenpairs(hamiltonian, overlap, GAMMA)
    for tolerance in (1e-5, 1e-7, 1e-9):
        found = serial_density(
            hamiltonian, overlap, ONLY_GAMMA, filling, method="poles", pole_tolerance=tolerance
        )
        occupation_n = np.diag((s @ x).conj().T @ whole_matrix(found.operator) @ (s @ x)).real
        error = 0.5 * np.abs(occupation_n - 2.0 * (energies_n < filling.level.energy)).max()
        # Reached 9.8e-6, 7.7e-8 and 6.1e-10, the told error to four digits.
        assert error < found.occupation_error + 1e-11 <= 1.1 * tolerance


def test_mesh_of_a_crystal_is_gamma_of_its_supercell() -> None:
    data = read_scfout(shared_path("oracle/openmx/mos2_k5/mos2_k5.scfout.xz"))
    hamiltonian, overlap = data.hamiltonians[0], data.overlap
    repeats = (3, 3, 1)
    mesh = folded_kpoints(GAMMA, repeats)
    filling = filling_of(hamiltonian, overlap, mesh, data.electrons)
    options: dict[str, Any] = {"pole_tolerance": 1e-12, "drop_tolerance": 0.0}
    by_mesh = serial_density(hamiltonian, overlap, mesh, filling, method="poles", **options)
    exact = serial_density(hamiltonian, overlap, mesh, filling, method="dense")
    # Reached 3e-11 and 2e-11.
    assert by_mesh.electrons == pytest.approx(data.electrons, abs=1e-8)
    assert np.abs(by_mesh.operator.values - exact.operator.values).max() < 1e-8
    large_h, large_s = supercell(hamiltonian, repeats), supercell(overlap, repeats)
    large_filling = filling_of(large_h, large_s, ONLY_GAMMA, 9 * data.electrons)
    by_gamma = serial_density(
        large_h, large_s, ONLY_GAMMA, large_filling, method="poles", **options
    )
    # The first cell of `supercell` comes first, its pairs in the order of the crystal's. Reached
    # 3e-13.
    folded = by_gamma.operator.values[: len(by_mesh.operator.values)]
    assert np.abs(folded - by_mesh.operator.values).max() < 1e-8
    # Either of k and -k stands for both: (0, 1/3) for (0, 2/3) and so on.
    half = mesh[[0, 1, 3, 4, 5]]
    weights_k = np.array([1.0, 2.0, 2.0, 2.0, 2.0])
    by_half = serial_density(hamiltonian, overlap, half, filling, weights_k, **options)
    assert np.abs(by_half.operator.values - exact.operator.values).max() < 1e-10


@pytest.mark.parametrize("temperature", [1e-3, 0.02])
@pytest.mark.parametrize("method", ["dense", "poles"])
def test_half_filled_chain_with_smearing(temperature: float, method: str) -> None:
    hamiltonian, overlap = chain([-0.25], overlap=0.1)
    mesh = folded_kpoints(GAMMA, (32, 1, 1))
    filling = filling_of(hamiltonian, overlap, mesh, 1.0, temperature)
    found = serial_density(hamiltonian, overlap, mesh, filling, method=method, pole_tolerance=1e-11)
    angle = 2.0 * np.pi * mesh[:, 0]
    norm = 1.0 + 0.2 * np.cos(angle)
    energies = -0.5 * np.cos(angle) / norm
    occupation = 2.0 / (1.0 + np.exp((energies - filling.level.energy) / temperature))
    # P(R) = sum_k w_k f cos(2 pi k R) / S(k). Reached 1e-11.
    exact = [
        (occupation * np.cos(angle * shift) / norm).mean()
        for shift in found.operator.pairs.shift_pc[:, 0]
    ]
    assert found.operator.values == pytest.approx(np.array(exact), abs=1e-9)
    assert found.electrons == pytest.approx(1.0, abs=1e-8)


@pytest.mark.parametrize("k_c", [GAMMA, GENERAL])
def test_density_from_given_states(k_c: tuple[float, float, float]) -> None:
    hamiltonian, overlap = random_pencil([3, 1, 5, 2], seed=25)
    kpoints = np.array([k_c, (0.5, 0.2, 0.0)])
    rows = rows_of(overlap)
    filling = filling_of(hamiltonian, overlap, kpoints, 9.0, 0.05)
    states = []
    for k in kpoints:
        energies_n, vectors_mn = dense_eigenpairs(hamiltonian, overlap, k)
        states.append(BandStates(k, 0.5, vectors_mn, 2.0 * filling.occupations(energies_n)))
    found = density_from_states(states, overlap, rows, MPI.COMM_SELF)
    exact = serial_density(hamiltonian, overlap, kpoints, filling, method="dense")
    # Reached 1e-15.
    assert found.electrons == pytest.approx(9.0, abs=1e-8)
    assert np.abs(found.operator.values - exact.operator.values).max() < 1e-12
    with pytest.raises(ValueError, match="owned"):
        density_from_states([states[0]], overlap, rows_of(overlap, owner=1), MPI.COMM_SELF)


def test_blocks_below_the_tolerance_are_left_out_and_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small_fronts(monkeypatch)
    hamiltonian, overlap = (on_a_ring(x, 5) for x in random_pencil([2, 1] * 20, seed=26))
    for operator in (hamiltonian, overlap):
        apart = np.abs(operator.pairs.first_p - operator.pairs.second_p)
        far = np.repeat(np.minimum(apart, 40 - apart) > 2, np.diff(operator.offset_p))
        operator.values[far] *= 1e-5
    filling = filling_of(hamiltonian, overlap, ONLY_GAMMA, 30.0, 0.05)
    exact = serial_density(hamiltonian, overlap, ONLY_GAMMA, filling, method="dense")
    options: dict[str, Any] = {"method": "poles", "pole_tolerance": 1e-12}
    whole = serial_density(hamiltonian, overlap, ONLY_GAMMA, filling, drop_tolerance=0.0, **options)
    assert whole.neglected == 0.0
    found = serial_density(
        hamiltonian, overlap, ONLY_GAMMA, filling, drop_tolerance=1e-4, **options
    )
    blocks = range(len(overlap.pairs))
    outside_p = np.array([not found.operator.block(p).any() for p in blocks])
    assert 10 < outside_p.sum() < len(outside_p)
    assert 0.0 < found.neglected < 1e-4
    # Without the far blocks that have no place P changes by their size; reached 1.3e-5, and 6e-6
    # electrons.
    inside = np.repeat(~outside_p, np.diff(overlap.offset_p))
    difference = np.abs(found.operator.values - exact.operator.values)
    assert difference[inside].max() < 1e-4
    assert found.electrons == pytest.approx(exact.electrons, abs=5e-5)


def test_route_is_chosen_by_work_and_memory() -> None:
    small_h, small_s = chain([-0.30, -0.18])
    filling = filling_of(small_h, small_s, ONLY_GAMMA, 2.0)
    assert serial_density(small_h, small_s, ONLY_GAMMA, filling).method == "dense"
    # A long chain has no fill, and all its eigenvectors cost n^3.
    long_h, long_s = (supercell(x, (2500, 1, 1)) for x in (small_h, small_s))
    level = FermiLevel(0.0, -0.12, 0.12)
    long_filling = Filling(level, -0.6, 5000.0)
    found = serial_density(long_h, long_s, ONLY_GAMMA, long_filling)
    assert found.method == "poles"
    # As far as 1 / 2500 from the infinite chain: P of neighbours in the mesh of the crystal.
    exact = serial_density(small_h, small_s, folded_kpoints(GAMMA, (2500, 1, 1)), filling)
    assert found.operator.values[:6] == pytest.approx(exact.operator.values[:6], abs=1e-8)
    with pytest.raises(InputError, match="choose the method 'poles'"):
        serial_density(long_h, long_s, ONLY_GAMMA, long_filling, method="dense", largest_bytes=1e8)
    with pytest.raises(InputError, match="rank may use"):
        serial_density(long_h, long_s, ONLY_GAMMA, long_filling, largest_bytes=1e5)
    # Where all atoms couple to all, fronts are as large as the cell.
    dense_h, dense_s = random_pencil([8] * 12, seed=27)
    dense_filling = Filling(level, -3.0, 60.0)
    size = dense_s.values.nbytes + dense_h.values.nbytes
    with pytest.raises(InputError, match="factors of H - z S need"):
        serial_density(
            dense_h, dense_s, ONLY_GAMMA, dense_filling, method="poles", largest_bytes=4 * size
        )


def test_level_of_another_pencil_is_refused() -> None:
    hamiltonian, overlap = chain([-0.30, -0.18])
    filling = filling_of(hamiltonian, overlap, ONLY_GAMMA, 2.0)
    wrong = Filling(FermiLevel(1.0, 0.9, 1.1), filling.lowest, 2.0)
    with pytest.raises(InputError, match="holds 4"):
        serial_density(hamiltonian, overlap, ONLY_GAMMA, wrong)
    lone = select_pairs(hamiltonian, np.arange(len(hamiltonian.pairs)) != 3)
    with pytest.raises(InputError, match="not Hermitian"):
        serial_density(lone, overlap, ONLY_GAMMA, filling)
