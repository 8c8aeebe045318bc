"""Densities of states from eigenvalues against analytic ones, and what is written."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import j0

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.hamiltonian import OrbitalSystem
from hamgnn_solve.core.io.results import write_dos
from hamgnn_solve.core.observables.density_of_states import (
    DensityOfStates,
    energy_grid,
    gaussian_dos,
    tetrahedron_dos,
)
from hamgnn_solve.core.observables.projections import projections_of
from hamgnn_solve.core.structure import Structure
from hamgnn_solve.core.units import EV_PER_HARTREE


def mesh(*divisions: int) -> np.ndarray:
    axes = [np.arange(n) / n for n in divisions]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)


def cubic_bands(*divisions: int) -> np.ndarray:
    """Return -2 sum_c cos(2 pi k_c), shape (K, 1)."""
    return -2.0 * np.cos(2.0 * np.pi * mesh(*divisions)).sum(axis=1, keepdims=True)


def cubic_dos(energy: float) -> float:
    """Return the density of the cubic lattice with hopping 1: (1/pi) int cos(E t) J0(2 t)^3 dt."""
    return quad(lambda t: np.cos(energy * t) * j0(2 * t) ** 3, 0.0, 400.0, limit=2000)[0] / np.pi


def test_chain_by_tetrahedra() -> None:
    energies_e = energy_grid(-2.5, 2.5, 0.01)
    shift = 4.0  # the two axes without dispersion move the band
    found = tetrahedron_dos(cubic_bands(2000, 1, 1) + shift, (2000, 1, 1), energies_e)
    inside = np.abs(energies_e) < 1.95
    exact_e = 1.0 / (np.pi * np.sqrt(4.0 - energies_e[inside] ** 2))
    # Linear between points that are 1/2000 apart, mean over steps of 0.01.
    assert np.abs(found.total_e[inside] / exact_e - 1.0).max() < 3e-3
    count_e = np.arccos(-energies_e[inside] / 2.0) / np.pi
    assert np.abs(found.integrated_e[inside] - count_e).max() < 1e-5


def test_cubic_lattice_by_tetrahedra() -> None:
    energies_e = energy_grid(-7.0, 7.0, 0.05)
    found = tetrahedron_dos(cubic_bands(32, 32, 32), (32, 32, 32), energies_e)
    for energy in (-5.0, -3.0, -1.0, 0.0, 1.5, 4.0):
        near = float(np.interp(energy, energies_e, found.total_e))
        assert near == pytest.approx(cubic_dos(energy), abs=1.5e-3)
    # Reached 3e-12.
    assert found.total_e.sum() * 0.05 == pytest.approx(1.0, abs=1e-10)
    assert found.electrons_below(0.0) == pytest.approx(1.0, abs=1e-9)
    # The middle of the band is Van Hove's plateau: density of the two methods alike.
    smooth = gaussian_dos(cubic_bands(32, 32, 32), np.full(32**3, 32.0**-3), energies_e, 0.15)
    assert np.abs(smooth.integrated_e - found.integrated_e).max() < 0.01


def test_free_electrons_by_tetrahedra() -> None:
    # In a cube of side 1 in k, energies below 0.2 keep away from its faces: N = 4 pi/3 E^(3/2).
    k_kc = mesh(24, 24, 24)
    k_kc = k_kc - np.rint(k_kc)
    energies_e = energy_grid(0.0, 0.2, 0.002)
    found = tetrahedron_dos((k_kc**2).sum(axis=1)[:, None], (24, 24, 24), energies_e)
    exact = 4.0 * np.pi / 3.0 * 0.15**1.5
    # A mesh without curvature correction lifts the band by h^2/4: the error is of second order.
    assert np.interp(0.15, energies_e, found.integrated_e) == pytest.approx(exact, rel=0.02)


def test_flat_band_and_lone_point_keep_their_states() -> None:
    energies_e = energy_grid(-1.0, 1.0, 0.1)
    flat = np.full((8, 2), 0.2)
    flat[:, 1] = 5.0
    for divisions, bands in (((2, 2, 2), flat), ((1, 1, 1), flat[:1])):
        found = tetrahedron_dos(bands, divisions, energies_e)
        assert found.total_e.sum() * 0.1 == pytest.approx(1.0)
        assert found.integrated_e[-1] == pytest.approx(1.0)


@pytest.mark.parametrize("method", ["gaussian", "tetrahedra"])
def test_projections_sum_to_the_total(method: str) -> None:
    numbers = np.random.default_rng(0)
    bands = np.sort(numbers.uniform(-1.0, 1.0, (60, 7)), axis=1)
    parts = numbers.dirichlet(np.ones(3), (60, 7)).transpose(2, 0, 1)
    energies_e = energy_grid(-1.5, 1.5, 0.02)
    names = ("a", "b", "c")
    if method == "gaussian":
        weights_k = numbers.dirichlet(np.ones(60))
        found = gaussian_dos(bands, weights_k, energies_e, 0.05, names=names, projections_gkn=parts)
        expected_g = (parts * weights_k[:, None]).sum(axis=(1, 2))
    else:
        found = tetrahedron_dos(bands, (3, 4, 5), energies_e, names=names, projections_gkn=parts)
        expected_g = parts.mean(axis=1).sum(axis=1)
    assert np.abs(found.projected_ge.sum(axis=0) - found.total_e).max() < 1e-12
    assert found.total_e.sum() * 0.02 == pytest.approx(7.0, abs=1e-10)
    assert found.projected_ge.sum(axis=1) * 0.02 == pytest.approx(expected_g, abs=1e-10)
    assert found.integrated_e[-1] == pytest.approx(7.0, abs=1e-10)


def test_gaussian_integral_is_its_integral() -> None:
    bands = np.array([[-0.3, 0.1], [0.0, 0.4]])
    energies_e = energy_grid(-1.0, 1.0, 0.001)
    found = gaussian_dos(bands, np.array([0.25, 0.75]), energies_e, 0.04)
    below_e = np.cumsum(found.total_e) * 0.001 - 0.0005 * found.total_e
    # Trapezoids.
    assert np.abs(below_e - found.integrated_e).max() < 1e-5


def system() -> OrbitalSystem:
    cell = np.diag([10.0, 12.0, 14.0])
    structure = Structure(("S", "Mo", "S"), np.arange(9.0).reshape(3, 3), cell)
    return OrbitalSystem(structure, ((0, 1), (0, 0, 2), (0, 1)), 18.0)


def test_groups_of_elements_shells_and_atoms() -> None:
    groups = projections_of(system(), [3])
    assert groups.names == ("Mo", "S", "Mo s", "Mo d", "S s", "S p", "atom 3 (S)")
    assert groups.elements == ("Mo", "S")
    counts = np.bincount(groups.cell_of_orbital_m, minlength=groups.ncells).astype(float)
    assert groups.summed(counts).tolist() == [7, 8, 2, 5, 2, 6, 4]
    with pytest.raises(InputError, match="no atom 4"):
        projections_of(system(), [4])


def test_dos_is_written(tmp_path: Path) -> None:
    energies_e = energy_grid(-1.0, 1.0, 0.01)
    bands = np.array([[-0.3, 0.1]])
    parts = np.array([[[0.25, 0.5]], [[0.75, 0.5]]])
    dos = gaussian_dos(
        bands, np.ones(1), energies_e, 0.04, names=("Mo", "S"), projections_gkn=parts
    )
    file = tmp_path / "results.h5"
    h5py.File(file, "w").close()
    for _ in range(2):
        write_dos(file, dos, -0.1)
    with h5py.File(file) as h5:
        group = h5["dos"]
        step = group["energy_eV"][1] - group["energy_eV"][0]
        assert group["total_per_eV"][:].sum() * step == pytest.approx(4.0, abs=1e-6)
        assert group["electrons"][-1] == pytest.approx(4.0)
        assert group["projection"].asstr()[:].tolist() == ["Mo", "S"]
        assert (group["projected_per_eV"][:].sum(axis=1) * step) == pytest.approx([1.5, 2.5])
        assert group.attrs["fermi_level_eV"] == pytest.approx(-0.1 * EV_PER_HARTREE)
        assert "total_error_per_eV" not in group
    with pytest.raises(ValueError, match="ascend"):
        DensityOfStates(energies_e[::-1], dos.total_e, dos.integrated_e, (), dos.projected_ge[:0])
