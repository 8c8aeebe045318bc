"""Orbitals on a grid: densities and states against sums written out point by point."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from mpi4py import MPI
from numpy.typing import NDArray

from hamgnn_solve.core.basis.gpaw_data import built_in_basis
from hamgnn_solve.core.basis.species import Basis
from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.integrals.harmonics import real_harmonics, unit_vectors
from hamgnn_solve.core.integrals.overlap import overlap
from hamgnn_solve.core.operator import BlockOperator
from hamgnn_solve.core.real_space.grid import Grid, GridFunction, parse_points, spacing_in_bohr
from hamgnn_solve.core.real_space.orbital_grid import OrbitalGrid, tiling_of
from hamgnn_solve.core.structure import Structure
from hamgnn_solve.parallel.grid_slabs import own_planes, planes_in_order, sum_to_slabs
from hamgnn_solve.parallel.rows import OrbitalRows
from hamgnn_solve.solver.density_matrix import BandStates, density_from_states

pytestmark = pytest.mark.parallel
COMM = MPI.COMM_WORLD
BASIS = built_in_basis({"C": "C", "Mo": "Mo.6"})
K_C = np.array([0.13, -0.21, 0.37])


def skew() -> Structure:
    """Return two atoms in a skew cell that orbitals of several images reach, one outside it."""
    cell_cc = np.array([[8.1, 0.3, -0.2], [2.9, 7.2, 0.4], [-1.0, 2.0, 9.3]])
    return Structure(("Mo", "C"), np.array([[0.5, 0.2, 1.0], [4.0, 12.5, 5.0]]), cell_cc)


def random_density(structure: Structure, rows: NDArray[np.int64]) -> BlockOperator:
    """Return random blocks with P_ij(R) = P_ji(-R) on the pairs of the overlap."""
    everything = overlap(structure, BASIS, np.arange(structure.natoms))
    random = np.random.default_rng(7)
    result = BlockOperator.zeros(everything.pairs, everything.norb_i)
    result.values[:] = random.normal(size=len(result.values))
    reverse_p = result.pairs.position_of(result.pairs.reversed())
    for p, q in enumerate(reverse_p):
        if p <= q:
            block = 0.5 * (result.block(p) + result.block(q).T)
            result.block(p)[:], result.block(q)[:] = block, block.T
    return result.select(np.flatnonzero(np.isin(result.pairs.first_p, rows)))


def orbitals_at(
    structure: Structure, atom: int, vector_gc: NDArray[np.float64]
) -> NDArray[np.float64]:
    distance_g = np.linalg.norm(vector_gc, axis=1)
    harmonics = real_harmonics(3, unit_vectors(vector_gc))
    return np.concatenate(
        [
            shell(distance_g)[:, None] * harmonics[shell.l]
            for shell in BASIS.species[structure.symbols[atom]].shells
        ],
        axis=1,
    )


def images_at(
    structure: Structure, points_gc: NDArray[np.float64]
) -> dict[tuple[int, tuple[int, ...]], NDArray[np.float64]]:
    """Return the orbitals of all images at points, those that vanish at all of them left out."""
    cells = np.indices((9, 9, 9)).reshape(3, -1).T - 4
    found = {}
    for atom in range(structure.natoms):
        for cell in cells:
            values = orbitals_at(
                structure, atom, points_gc - structure.pos_ic[atom] - cell @ structure.cell_cc
            )
            if values.any():
                found[atom, tuple(cell.tolist())] = values
    return found


def own_atoms(structure: Structure) -> NDArray[np.int64]:
    return np.flatnonzero(np.arange(structure.natoms) % COMM.size == COMM.rank)


def some_points(grid: Grid) -> NDArray[np.int64]:
    return np.random.default_rng(1).integers(0, np.array(grid.shape), (60, 3))


def whole(function) -> NDArray[np.float64]:
    parts = COMM.allgather(function.values)
    return np.concatenate(parts)


def test_density_is_that_of_the_sum_over_pairs() -> None:
    structure = skew()
    owned = own_atoms(structure)
    grid = Grid(structure.cell_cc, (13, 12, 17))
    (density,) = sum_to_slabs(
        OrbitalGrid(structure, BASIS, grid, owned).density(random_density(structure, owned)), COMM
    )
    matrix = random_density(structure, np.arange(2))
    index_gc = some_points(grid)
    images = images_at(structure, grid.positions(index_gc))
    expected_g = np.zeros(len(index_gc))
    for (atom, cell), values in images.items():
        for p in np.flatnonzero(matrix.pairs.first_p == atom):
            other = int(matrix.pairs.second_p[p]), tuple((matrix.pairs.shift_pc[p] + cell).tolist())
            if other in images:
                expected_g += np.einsum("gm,mn,gn->g", values, matrix.block(p), images[other])
    found_g = whole(density)[tuple(index_gc.T)]
    assert np.abs(expected_g).max() > 0.3
    # Radial tables with steps of 0.01 Bohr miss molybdenum's by 1e-6 near the nucleus.
    assert np.abs(found_g - expected_g).max() < 3e-6 * np.abs(expected_g).max()


def test_states_are_bloch_sums() -> None:
    structure = skew()
    grid = Grid(structure.cell_cc, (9, 8, 11))
    norb = int(BASIS.norb_i(structure).sum())
    random = np.random.default_rng(3)
    vectors_mn = random.normal(size=(norb, 2)) + 1j * random.normal(size=(norb, 2))
    tiles = OrbitalGrid(structure, BASIS, grid, own_atoms(structure)).states(vectors_mn, K_C)
    real0, imaginary0, real1, imaginary1 = (whole(x) for x in sum_to_slabs(tiles, COMM))
    index_gc = some_points(grid)
    expected_gn = np.zeros((len(index_gc), 2), dtype=np.complex128)
    start_i = np.cumsum(BASIS.norb_i(structure)) - BASIS.norb_i(structure)
    for (atom, cell), values in images_at(structure, grid.positions(index_gc)).items():
        own = vectors_mn[start_i[atom] : start_i[atom] + values.shape[1]]
        expected_gn += np.exp(2j * np.pi * (K_C @ np.array(cell))) * (values @ own)
    place = tuple(index_gc.T)
    found_gn = np.stack(
        [real0[place] + 1j * imaginary0[place], real1[place] + 1j * imaginary1[place]], axis=1
    )
    assert np.abs(expected_gn).max() > 0.5
    assert np.abs(found_gn - expected_gn).max() < 2e-6


def test_density_of_a_state_is_its_square() -> None:
    structure = skew()
    owned = own_atoms(structure)
    norb_i = BASIS.norb_i(structure)
    rows = OrbitalRows(np.arange(structure.natoms) % COMM.size, norb_i, COMM.size, COMM.rank)
    random = np.random.default_rng(5)
    vectors_mn = random.normal(size=(rows.nrows, 1)) + 1j * random.normal(size=(rows.nrows, 1))
    start_i = np.cumsum(norb_i) - norb_i
    in_rows = np.empty_like(vectors_mn)
    for atom in range(structure.natoms):
        first = rows.first_row_i[atom]
        in_rows[first : first + norb_i[atom]] = vectors_mn[start_i[atom] :][: norb_i[atom]]
    # P on the pairs that reach each other; those of the overlap hold all of them.
    s_operator = overlap(structure, BASIS, owned)
    state = BandStates(K_C, 1.0, in_rows[rows.start : rows.stop], np.ones(1))
    matrix = density_from_states([state], s_operator, rows, COMM).operator
    on_grid = OrbitalGrid(structure, BASIS, Grid(structure.cell_cc, (10, 9, 8)), owned)
    (density,) = sum_to_slabs(on_grid.density(matrix), COMM)
    real, imaginary = sum_to_slabs(on_grid.states(vectors_mn, K_C), COMM)
    square = real.values**2 + imaginary.values**2
    largest = COMM.allreduce(float(square.max(initial=0.0)), op=MPI.MAX)
    assert largest > 1.0
    assert np.abs(density.values - square).max(initial=0.0) < 1e-12 * largest


def test_projections_are_the_transpose_of_states() -> None:
    structure = skew()
    grid = Grid(structure.cell_cc, (11, 13, 9))
    planes = own_planes(tiling_of(grid), COMM)
    everyone = np.arange(structure.natoms)
    on_grid = OrbitalGrid(structure, BASIS, grid, everyone, planes)
    random = np.random.default_rng(11)
    function = random.normal(size=grid.shape)[planes[0] : planes[1]]
    vector_m = random.normal(size=int(BASIS.norb_i(structure).sum()))
    tiles = on_grid.states(vector_m[:, None], np.zeros(3))
    values = np.zeros((2, *function.shape))
    tiles.add_to(values, planes[0])
    sums_m = on_grid.projections(GridFunction(grid, planes[0], function))
    direct = (values[0] * function).sum() * grid.point_volume
    assert vector_m @ sums_m == pytest.approx(direct, rel=1e-12)
    # All planes together give the integral over the whole grid, whatever the ranks.
    total = COMM.allreduce(float(vector_m @ sums_m))
    serial = OrbitalGrid(structure, BASIS, grid, everyone)
    every = GridFunction(grid, 0, np.random.default_rng(11).normal(size=grid.shape))
    assert total == pytest.approx(float(vector_m @ serial.projections(every)), rel=1e-11)


def test_planes_arrive_in_order() -> None:
    structure = skew()
    grid = Grid(structure.cell_cc, (14, 3, 4))
    first, stop = own_planes(tiling_of(grid), COMM)
    values = np.arange(grid.npoints, dtype=float).reshape(grid.shape)[first:stop]
    blocks = list(planes_in_order(GridFunction(grid, first, values), COMM))
    if COMM.rank == 0:
        joined = np.concatenate(blocks)
        assert np.array_equal(joined.ravel(), np.arange(grid.npoints))
    else:
        assert blocks == []


def test_integral_of_a_smooth_density_is_the_trace_with_the_overlap() -> None:
    # Orbitals without projectors: hydrogen's smooth ones, whose overlap holds no augmentation.
    hydrogen = built_in_basis({"H": "H"}).species["H"]
    bare = Basis({"H": replace(hydrogen, projectors=(), projector_overlap=np.zeros((0, 0)))})
    structure = Structure(("H", "H"), np.array([[0.0, 0.1, 0.2], [1.0, 1.0, 0.4]]), 12 * np.eye(3))
    s_operator = overlap(structure, bare, np.arange(2))
    on_grid = OrbitalGrid(structure, bare, Grid(structure.cell_cc, (32, 32, 32)), np.arange(2))
    planes = np.zeros((1, 32, 32, 32))
    on_grid.density(s_operator).add_to(planes, 0)
    total = GridFunction(on_grid.tiling.grid, 0, planes[0]).sum()
    # The grid of 0.2 Angstrom integrates to 2e-5 of 14.6.
    assert total == pytest.approx(float(s_operator.values @ s_operator.values), abs=1e-4)


@pytest.mark.parametrize("text", ["0x4x4", "4x4", "axbxc", "4x4x-1", ""])
def test_malformed_numbers_of_points_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="number of grid points"):
        parse_points(text)


@pytest.mark.parametrize("spacing", [0.0, -0.2, 5.0, float("nan")])
def test_spacing_out_of_range_is_refused(spacing: float) -> None:
    with pytest.raises(InputError, match="out of range"):
        spacing_in_bohr(spacing)


def test_grid_is_at_most_the_spacing_apart() -> None:
    grid = Grid.of_spacing(np.diag([10.0, 3.9, 4.1]), 0.4)
    assert grid.shape == (25, 10, 11)
