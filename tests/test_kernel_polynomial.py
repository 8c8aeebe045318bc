"""Kernel polynomials and Mulliken weights against LAPACK; also with two and three ranks."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import shared_path
from mpi4py import MPI
from pencil_models import pencil_of, random_pencil, supercell

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.hamiltonian import OrbitalSystem
from hamgnn_solve.core.io.scfout import read_scfout
from hamgnn_solve.core.observables.density_of_states import energy_grid
from hamgnn_solve.core.observables.projections import Projections, projections_of
from hamgnn_solve.core.operator import BlockOperator
from hamgnn_solve.core.structure import Structure
from hamgnn_solve.solver.dense import dense_eigenpairs, dense_matrix
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
    data = read_scfout(shared_path("oracle/openmx/mos2_k5/mos2_k5.scfout.xz"))
    operators = supercell(data.hamiltonians[0], repeats), supercell(data.overlap, repeats)
    norb_i = operators[1].norb_i
    heavy_i = norb_i == norb_i.max() if len(set(norb_i)) > 1 else np.arange(len(norb_i)) % 3 == 0
    symbols = tuple("Mo" if heavy else "S" for heavy in heavy_i)
    shells = {int(n): shells_of(int(n)) for n in set(norb_i)}
    places = np.arange(3.0 * len(norb_i)).reshape(-1, 3)
    structure = Structure(symbols, places, np.diag([1e3, 1e3, 1e3]))
    system = OrbitalSystem(structure, tuple(shells[int(n)] for n in norb_i), None)
    return operators, projections_of(system, [2]), data.chemical_potential


def shells_of(norbitals: int) -> tuple[int, ...]:
    """Return shells with as many orbitals: all but d of atoms without."""
    shells: list[int] = []
    for degree in (0, 0, 1, 1, 2, 2, 0, 1):
        if sum(2 * x + 1 for x in shells) + 2 * degree + 1 <= norbitals:
            shells.append(degree)
    missing = norbitals - sum(2 * x + 1 for x in shells)
    return (*shells, *[0] * missing)


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
    # Of Gaussian errors with 23 degrees of freedom 4.5 deviations are rare even in hundreds.
    small = 1e-3 * found.total_e.max()
    assert (error_e < 4.5 * found.error_e + small).all()
    assert (np.abs(found.projected_ge - expected_ge) < 4.5 * found.projected_error_ge + small).all()
    # Half of the energies within about 0.7 deviations: the stated error is not too large either.
    assert 0.2 < np.median(error_e / (found.error_e + 1e-12)) < 2.0
    # Elements hold every orbital once; all integrals to rounding.
    assert np.abs(found.projected_ge[:2].sum(axis=0) - found.total_e).max() < 1e-10
    ends = kernel_dos(moments, np.array(moments.bounds))
    assert ends.integrated_e == pytest.approx([0.0, pencil.norbitals], abs=1e-10)
    filled = found.electrons_below(level)
    error = 2.0 * float(np.interp(level, grid_e, found.integrated_error_e))
    smooth = 2.0 * (energies_n < level).sum()
    # The kernel moves some of the states at the edges of the gap across its middle.
    assert filled == pytest.approx(smooth, abs=4.0 * error + 0.01 * smooth)


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
