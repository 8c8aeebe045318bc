"""Kernel polynomials and Mulliken weights against LAPACK; also with two and three ranks."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import shared_path
from mpi4py import MPI
from pencil_models import pencil_of, random_pencil, supercell

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.hamiltonian import OrbitalSystem
from hamgnn_solve.core.io.scfout import scfout_hamiltonian
from hamgnn_solve.core.observables.density_of_states import energy_grid
from hamgnn_solve.core.observables.projections import Projections, projections_of
from hamgnn_solve.core.operator import BlockOperator, dense_matrix
from hamgnn_solve.core.structure import Structure
from hamgnn_solve.solver.dense import dense_eigenpairs
from hamgnn_solve.solver.eigenpairs import eigenpairs_near
from hamgnn_solve.solver.kernel_polynomial import (
    KernelOptions,
    chebyshev_moments,
    kernel_dos,
    kernel_width,
    spectral_bounds,
)
from hamgnn_solve.solver.mulliken import mulliken_weights
from hamgnn_solve.solver.pencil import Pencil

pytestmark = pytest.mark.parallel
COMM = MPI.COMM_WORLD
GAMMA = (0.0, 0.0, 0.0)
GENERAL = (0.13, -0.21, 0.37)
Operators = tuple[BlockOperator, BlockOperator]


def mos2(repeats: tuple[int, int, int]) -> tuple[Operators, Projections, float]:
    """Return a supercell of MoS2 from OpenMX, its groups and the middle of its gap."""
    given = scfout_hamiltonian(shared_path("oracle/openmx/mos2_k5/mos2_k5.scfout.xz"))
    operators = supercell(given.hamiltonian, repeats), supercell(given.overlap, repeats)
    count = int(np.prod(repeats))
    places = np.arange(9.0 * count).reshape(-1, 3)
    structure = Structure(given.system.structure.symbols * count, places, np.diag([1e3, 1e3, 1e3]))
    system = OrbitalSystem(structure, given.system.shells_i * count, None)
    assert given.system.chemical_potential is not None
    return operators, projections_of(system, [2]), given.system.chemical_potential


def distributed(operators: Operators) -> Pencil:
    owner_i = np.arange(len(operators[1].norb_i)) % COMM.size
    return pencil_of(*operators, COMM, owner_i)


def jackson_of_levels(
    energies_n: np.ndarray, weights_gn: np.ndarray, bounds: tuple[float, float], number: int,
    grid_e: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Return the density of known levels with the kernel itself, shape (G, E)."""
    middle, half = 0.5 * sum(bounds), 0.5 * (bounds[1] - bounds[0])
    angle_n, angle_e = (np.arccos((x - middle) / half) for x in (energies_n, grid_e))
    order = np.arange(number)
    step = np.pi / (number + 1)
    damping = (number - order + 1) * np.cos(order * step) + np.sin(order * step) / np.tan(step)
    damping *= np.where(order == 0, 1.0, 2.0) / (number + 1)
    moments = np.cos(order[:, None] * angle_n) @ weights_gn.T
    waves = np.cos(angle_e[:, None] * order) * damping
    return ((waves @ moments) / (np.pi * half * np.sin(angle_e))[:, None]).T


@pytest.mark.parametrize("k_c", [GAMMA, GENERAL])
def test_exact_trace_is_the_kernel_of_lapacks_levels(k_c: tuple[float, float, float]) -> None:
    operators = random_pencil([4, 1, 5, 3] * 3, seed=21)
    cells = np.random.default_rng(22).integers(0, 3, 39)
    groups = Projections(("all", "first"), cells, np.array([[1, 1, 1], [1, 0, 0]], dtype=bool))
    pencil = distributed(operators)
    moments = chebyshev_moments(pencil, k_c, groups, KernelOptions(60, None))
    energies_n, vectors_mn = dense_eigenpairs(*operators, k_c)
    weight_mn = (vectors_mn.conj() * (dense_matrix(operators[1], k_c) @ vectors_mn)).real
    first_n = weight_mn[cells == 0].sum(axis=0)
    low, high = moments.bounds
    assert low < energies_n[0] < energies_n[-1] < high
    grid_e = energy_grid(low, high, (high - low) / 400)[1:-1]
    found = kernel_dos(moments, grid_e)
    weights_gn = np.stack([np.ones(39), first_n])
    expected = jackson_of_levels(energies_n, weights_gn, moments.bounds, 60, grid_e)
    assert np.abs(found.projected_ge - expected).max() < 1e-9
    assert np.abs(found.total_e - expected[0]).max() < 1e-9
    assert found.error_e is None
    assert kernel_dos(moments, np.array([low - 1, high + 1])).integrated_e == pytest.approx([0, 39])


def test_dos_of_openmx_mos2_by_random_vectors() -> None:
    operators, groups, level = mos2((3, 3, 1))
    pencil = distributed(operators)
    options = KernelOptions(moments=300, vectors=24)
    moments = chebyshev_moments(pencil, GAMMA, groups, options)
    energies_n, vectors_mn = dense_eigenpairs(*operators, GAMMA)
    weight_mn = (vectors_mn.conj() * (dense_matrix(operators[1], GAMMA) @ vectors_mn)).real
    cell_cn = np.stack(
        [weight_mn[groups.cell_of_orbital_m == c].sum(axis=0) for c in range(groups.ncells)]
    )
    grid_e = energy_grid(*moments.bounds, 0.01)[1:-1]
    found = kernel_dos(moments, grid_e)
    weights_gn = groups.summed(cell_cn)
    expected_ge = jackson_of_levels(energies_n, weights_gn, moments.bounds, 300, grid_e)
    assert found.error_e is not None
    assert found.projected_error_ge is not None
    assert found.integrated_error_e is not None
    error_e = np.abs(found.total_e - expected_ge[:2].sum(axis=0))
    # The largest of 5400 errors, with 23 degrees of freedom: four seeds reached 2.3 to 4.6.
    small = 1e-3 * found.total_e.max()
    error_ge = np.abs(found.projected_ge - expected_ge)
    assert (error_e < 6.0 * found.error_e + small).all()
    assert (error_ge < 6.0 * found.projected_error_ge + small).all()
    # Each group's errors are as large as told, no less and no more: reached 0.97 to 1.22.
    told_ge = error_ge / (found.projected_error_ge + 1e-9)
    assert (np.abs(np.sqrt((told_ge**2).mean(axis=1)) - 1.0) < 0.6).all()
    # Elements hold every orbital once; all integrals to rounding.
    assert np.abs(found.projected_ge[:2].sum(axis=0) - found.total_e).max() < 1e-10
    ends = kernel_dos(moments, np.array(moments.bounds))
    assert ends.integrated_e == pytest.approx([0.0, pencil.norbitals], abs=1e-10)
    assert {"Mo", "S", "Mo d", "S p", "atom 2 (S)"} <= set(groups.names)
    # The same kernel with the exact trace: what is left is the statistical error alone.
    exact = chebyshev_moments(
        pencil, GAMMA, groups, KernelOptions(moments=300, vectors=None, bounds=moments.bounds)
    )
    error = 2.0 * float(np.interp(level, grid_e, found.integrated_error_e))
    filled = kernel_dos(exact, grid_e).electrons_below(level)
    assert abs(found.electrons_below(level) - filled) < 4.5 * error
    # 234 electrons, of which the kernel moves some across the gap.
    assert filled == pytest.approx(2.0 * (energies_n < level).sum(), abs=2.5)


def test_moments_do_not_depend_on_the_number_of_ranks() -> None:
    operators = random_pencil([4, 1, 5, 3] * 3, seed=23)
    groups = Projections(("all",), np.arange(39) % 2, np.ones((1, 2), dtype=bool))
    options = KernelOptions(80, 5, seed=3, block=2)
    together = chebyshev_moments(distributed(operators), GENERAL, groups, options)
    alone = chebyshev_moments(pencil_of(*operators), GENERAL, groups, options)
    assert together.bounds == pytest.approx(alone.bounds, abs=1e-10)
    assert np.abs(together.values_ncr - alone.values_ncr).max() < 1e-8


def test_bounds_enclose_the_spectrum_and_narrow_ones_are_refused() -> None:
    operators = random_pencil([4, 1, 5, 3] * 3, seed=24)
    groups = Projections(("all",), np.zeros(39, dtype=np.int64), np.ones((1, 1), dtype=bool))
    pencil = distributed(operators)
    energies_n, _ = dense_eigenpairs(*operators, GAMMA)
    low, high = spectral_bounds(pencil, GAMMA)
    assert low < energies_n[0] < energies_n[-1] < high
    assert high - low < 1.1 * (energies_n[-1] - energies_n[0])
    narrow = KernelOptions(200, 4, bounds=(low, float(energies_n[-2])))
    with pytest.raises(InputError, match="outside"):
        chebyshev_moments(pencil, GAMMA, groups, narrow)
    with pytest.raises(ValueError, match="two vectors"):
        KernelOptions(vectors=1)


def test_kernel_width_is_that_of_one_level() -> None:
    bounds, level = (-2.0, 4.0), 0.4
    grid_e = energy_grid(*bounds, 0.001)[1:-1]
    density_e = jackson_of_levels(np.array([level]), np.ones((1, 1)), bounds, 200, grid_e)[0]
    near = np.abs(grid_e - level) < 0.5
    mean = np.average(grid_e[near], weights=density_e[near])
    spread = np.sqrt(np.average((grid_e[near] - mean) ** 2, weights=density_e[near]))
    # The tails of the kernel are longer than a Gaussian's.
    assert spread == pytest.approx(kernel_width(bounds, 200, level), rel=0.1)


@pytest.mark.parametrize("k_c", [GAMMA, GENERAL])
def test_mulliken_weights_are_those_of_lapacks_vectors(k_c: tuple[float, float, float]) -> None:
    operators = random_pencil([4, 1, 5, 3] * 3, seed=25)
    pencil = distributed(operators)
    found = eigenpairs_near(pencil, k_c, 0.1, 4, 4)
    of_orbital = np.arange(39) % 4
    of_row = np.empty_like(of_orbital)
    of_row[pencil.rows.row_of_orbital_m] = of_orbital
    own = of_row[pencil.rows.start : pencil.rows.stop]
    weights_gn = mulliken_weights(pencil, k_c, found.vectors_mn, own)
    _, vectors_mn = dense_eigenpairs(*operators, k_c)
    chosen = vectors_mn[:, found.band_index_n - 1]
    product_mn = (chosen.conj() * (dense_matrix(operators[1], k_c) @ chosen)).real
    expected = np.stack([product_mn[of_orbital == g].sum(axis=0) for g in range(4)])
    assert np.abs(weights_gn - expected).max() < 1e-8
    assert np.abs(weights_gn.sum(axis=0) - 1.0).max() < 1e-10
