"""The Fermi surface of copper against what is measured, and the files it is left in."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
from conftest import shared_path
from copper_models import LATTICE_CONSTANT, copper
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from scipy.optimize import brentq
from test_fat_bands import given_pencil

from hamgnn_solve.cli.main import main
from hamgnn_solve.core.hamiltonian import CrystalHamiltonian
from hamgnn_solve.core.io.bxsf import write_bxsf
from hamgnn_solve.core.io.operator_file import write_operator_file
from hamgnn_solve.core.observables.density_of_states import tetrahedron_level
from hamgnn_solve.core.observables.fermi_surface import (
    FermiSurface,
    brillouin_zone,
    surface_triangles,
)
from hamgnn_solve.core.operator import dense_matrix
from hamgnn_solve.core.units import ANGSTROM_PER_BOHR, EV_PER_HARTREE
from hamgnn_solve.solver.k_mesh import fermi_surface, regular_mesh

MESH = 20
# Radius of the sphere of free electrons, one an atom, in 1/Angstrom.
FREE = (12.0 * np.pi**2) ** (1 / 3) / LATTICE_CONSTANT
EDGE = 2.0 * np.pi / LATTICE_CONSTANT


@cache
def hamiltonian() -> CrystalHamiltonian:
    pytest.importorskip("gpaw")
    return copper()


def read_bxsf(file: Path) -> tuple[float, NDArray[np.float64], dict[int, NDArray[np.float64]]]:
    """Return the Fermi level, the reciprocal vectors and the bands of a file, as it has them."""
    head, _, body = file.read_text().partition("BANDGRID_3D_BANDS")
    level = float(re.search(r"Fermi Energy:\s*(\S+)", head)[1])  # type: ignore[index]
    grid, *bands = re.split(r"BAND:", body.partition("END_BANDGRID_3D")[0])
    numbers = grid.split()
    count, shape = int(numbers[0]), [int(x) for x in numbers[1:4]]
    assert [float(x) for x in numbers[4:7]] == [0.0, 0.0, 0.0]
    vectors = np.array(numbers[7:16], dtype=float).reshape(3, 3)
    found = {}
    for text in bands:
        index, *values = text.split()
        found[int(index)] = np.array(values, dtype=float).reshape(shape)
    assert len(found) == count
    return level, vectors, found


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of copper."""
    folder = tmp_path_factory.mktemp("copper")
    write_operator_file(folder / "cu.h5", hamiltonian())
    wanted = ["--hamiltonian", str(folder / "cu.h5"), "--kpath", "none", "--quiet"]
    mesh = "x".join([str(MESH)] * 3)
    assert main([*wanted, "--fermi-surface", mesh, "--out", str(folder / "run")]) == 0
    return folder / "run"


def test_bxsf_holds_lapacks_energies_periodically(run: Path) -> None:
    level, vectors, bands = read_bxsf(run / "fermi-surface.bxsf")
    # One band crosses: the sixth of eleven electrons.
    assert list(bands) == [6]
    energy = bands[6]
    assert energy.shape == (MESH + 1,) * 3
    for axis in range(3):
        assert np.array_equal(np.take(energy, 0, axis), np.take(energy, MESH, axis))
    cell = hamiltonian().system.structure.cell_cc * ANGSTROM_PER_BOHR
    assert np.abs(vectors @ cell.T - np.eye(3)).max() < 1e-9
    given = hamiltonian()
    for place in ((0, 0, 0), (3, 1, 17), (10, 10, 10), (7, 19, 2), (1, 2, 3), (19, 18, 17)):
        k_c = np.array(place) / MESH
        h, s = dense_matrix(given.hamiltonian, k_c), dense_matrix(given.overlap, k_c)
        expected = scipy.linalg.eigh(h, s, eigvals_only=True)[5] * EV_PER_HARTREE
        # Eight decimals are printed.
        assert energy[place] == pytest.approx(expected, abs=1e-8)
    assert energy.min() < level < energy.max()


@pytest.fixture(scope="module")
def energy_at(run: Path) -> Callable[[NDArray[np.float64]], float]:
    """Energy above the Fermi level at a k in 1/Angstrom, from the file by periodic splines."""
    level, vectors, bands = read_bxsf(run / "fermi-surface.bxsf")
    inverse = np.linalg.inv(2.0 * np.pi * vectors)

    def energy(k: NDArray[np.float64]) -> float:
        place = (k @ inverse * MESH)[:, None]
        values = bands[6][:-1, :-1, :-1]
        return float(map_coordinates(values, place, order=3, mode="grid-wrap")[0]) - level

    return energy


def radius(
    energy_at: Callable[[NDArray[np.float64]], float],
    centre: list[float],
    direction: list[float],
    reach: float,
) -> float:
    """Return how far the surface is from a point, in radii of the free-electron sphere."""
    start, along = np.array(centre) * EDGE, np.array(direction) / np.linalg.norm(direction)
    return float(brentq(lambda x: energy_at(start + x * along), 0.0, reach * EDGE)) / FREE


def test_radii_are_those_of_the_de_haas_van_alphen_effect(
    energy_at: Callable[[NDArray[np.float64]], float],
) -> None:
    """Halse, Phil. Trans. R. Soc. A 265, 507 (1969); Shoenberg, Magnetic Oscillations in Metals."""
    # Reached 1.067, 0.952 and 0.198: the belly's are 0.6 and 1.2 % above the measured ones.
    assert radius(energy_at, [0, 0, 0], [1, 0, 0], 0.99) == pytest.approx(1.06, rel=0.02)
    assert radius(energy_at, [0, 0, 0], [1, 1, 0], 0.99) == pytest.approx(0.94, rel=0.02)
    for direction in ([1, -1, 0], [1, 1, -2], [-1, -1, 2], [0, 1, -1]):
        neck = radius(energy_at, [0.5, 0.5, 0.5], direction, 0.4)
        assert neck == pytest.approx(0.19, abs=0.015)
    # Along [111] the surface never closes.
    line = [energy_at(np.full(3, x) * EDGE) for x in np.linspace(0.0, 0.5, 50)]
    assert max(line) < 0.0


def test_the_surface_encloses_one_electron(run: Path) -> None:
    level, _, bands = read_bxsf(run / "fermi-surface.bxsf")
    fine = np.arange(60) * MESH / 60
    places = np.meshgrid(fine, fine, fine, indexing="ij")
    values = map_coordinates(bands[6][:-1, :-1, :-1], places, order=3, mode="grid-wrap")
    # Two electrons fill the band; reached 1.007, as linear tetrahedra lift the band a little.
    assert 2.0 * float((values < level).mean()) == pytest.approx(1.0, abs=0.01)


def test_triangles_lie_on_the_surface_in_the_zone(
    energy_at: Callable[[NDArray[np.float64]], float],
) -> None:
    given = hamiltonian()
    pencil, cell_cc = given_pencil(given), given.system.structure.cell_cc
    surface = fermi_surface(pencil, cell_cc, (MESH,) * 3, 11.0, 40, lambda: None)
    zone = brillouin_zone(surface.reciprocal_cc)
    # The truncated octahedron of an fcc crystal.
    assert sorted(len(face) for face in zone.faces) == 6 * [4] + 8 * [6]
    triangles, gradients = surface_triangles(surface, 0, zone)
    corners = triangles.reshape(-1, 3)
    outside = corners @ zone.normals_fc.T - 0.5 * (zone.normals_fc**2).sum(axis=1)
    assert outside.max() < 1e-9
    chosen = corners[:: len(corners) // 300] / ANGSTROM_PER_BOHR
    # The band rises by some 5 eV Angstrom; planes in tetrahedra are 0.005 1/Angstrom off.
    assert max(abs(energy_at(k)) for k in chosen) < 0.03
    # Energies rise along the gradients.
    middles = triangles.mean(axis=1)[:: len(triangles) // 100] / ANGSTROM_PER_BOHR
    steps = gradients[:: len(triangles) // 100]
    steps = 0.05 * steps / np.linalg.norm(steps, axis=1, keepdims=True)
    rises = [energy_at(k + step) - energy_at(k) for k, step in zip(middles, steps, strict=True)]
    assert min(rises) > 0.0


def test_level_of_tetrahedra_holds_the_electrons() -> None:
    kpoints_kc = regular_mesh((24, 24, 24))
    cubic = -2.0 * np.cos(2.0 * np.pi * kpoints_kc).sum(axis=1, keepdims=True)
    full, empty = cubic - 20.0, cubic + 20.0
    energies_kn = np.hstack([full, cubic, empty])
    # Half filling of the cubic lattice is at zero by symmetry; reached 1e-10.
    assert tetrahedron_level(energies_kn, (24, 24, 24), 1.5) == pytest.approx(0.0, abs=1e-9)
    # In a gap.
    assert tetrahedron_level(energies_kn, (24, 24, 24), 2.0) == pytest.approx(10.0, abs=1e-9)
    assert -14.0 > tetrahedron_level(energies_kn, (24, 24, 24), 0.999) > -15.0
    with pytest.raises(ValueError, match="states in 3 bands"):
        tetrahedron_level(energies_kn, (24, 24, 24), 3.0)


def test_zones_of_other_lattices_have_the_volume_of_the_cell() -> None:
    numbers = np.random.default_rng(3)
    skew = np.array([[1.0, 0.0, 0.0], [3.7, 1.0, 0.0], [-2.2, 5.1, 1.3]])
    for vectors in (np.eye(3), skew, numbers.standard_normal((3, 3))):
        zone = brillouin_zone(vectors)
        volume = 0.0
        for face in zone.faces:
            for a, b in pairwise(face):
                volume += abs(np.linalg.det(np.array([face[0], a, b]))) / 6.0
        assert volume == pytest.approx(abs(np.linalg.det(vectors)), rel=1e-9)
        # The zone is symmetric about the origin.
        corners = zone.corners_vc
        for corner in corners:
            assert np.linalg.norm(corners + corner, axis=1).min() < 1e-6


def test_a_grid_of_one_layer_is_written_and_cut(tmp_path: Path) -> None:
    axes = [2.0 * np.pi * np.arange(n) / n for n in (16, 16, 1)]
    places = np.stack(np.meshgrid(*axes, indexing="ij"))
    energy = -np.cos(places[0]) - np.cos(places[1])
    surface = FermiSurface(energy[None], (3,), -0.5, np.diag([4.0, 4.0, 20.0]))
    write_bxsf(tmp_path / "x.bxsf", surface, "square lattice")
    level, vectors, bands = read_bxsf(tmp_path / "x.bxsf")
    assert level == pytest.approx(-0.5 * EV_PER_HARTREE)
    assert bands[3].shape == (17, 17, 2)
    assert vectors[2, 2] == pytest.approx(1.0 / (20.0 * ANGSTROM_PER_BOHR))
    triangles, _ = surface_triangles(surface, 0, brillouin_zone(surface.reciprocal_cc))
    inside = triangles.reshape(-1, 3) * 4.0
    assert np.abs(np.cos(inside[:, 0]) + np.cos(inside[:, 1]) - 0.5).max() < 0.02


def test_silicon_has_no_fermi_surface(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    silicon = str(shared_path("oracle/openmx/si2/si2.scfout.xz"))
    wanted = ["--hamiltonian", silicon, "--quiet", "--out", str(tmp_path / "run")]
    assert main([*wanted, "--fermi-surface", "6x6x6"]) == 2
    message = capsys.readouterr().err
    assert "There is no Fermi surface: on the mesh the bands have a gap of 0." in message
    for mesh, text in (("6x6", "not a k mesh"), ("0x6x6", "not a k mesh"), ("1x1x1", "one point")):
        assert main([*wanted, "--fermi-surface", mesh]) == 2
        assert text in capsys.readouterr().err
