"""Mulliken weights of bands by every route of the solver, against LAPACK in the test itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
from given_models import crystal
from mpi4py import MPI
from numpy.typing import NDArray
from pencil_models import folded_kpoints, owned_part
from test_reduced_bands import (
    ELECTRONS,
    MEV,
    REPEATS,
    monolayer,
    supercell_pencil,
    supercell_system,
)

from hamgnn_solve.core.hamiltonian import CrystalHamiltonian
from hamgnn_solve.core.io.results import BandStore
from hamgnn_solve.core.observables.projections import projections_of
from hamgnn_solve.core.operator import dense_matrix
from hamgnn_solve.core.spectrum import KBands, Spectrum
from hamgnn_solve.parallel.rows import OrbitalRows
from hamgnn_solve.solver import bands as bands_module
from hamgnn_solve.solver.bands import BandOptions, solve_bands
from hamgnn_solve.solver.pencil import Pencil
from hamgnn_solve.solver.reduced_bands import ReducedSpaceOptions

pytestmark = pytest.mark.parallel
COMM = MPI.COMM_WORLD
KPOINTS = np.array([[0.0, 0.0, 0.0], [0.5, 0.0, 0.5], [0.13, -0.21, 0.37]])
# Hartree. Levels nearer than this are one set, whose weights are compared as sums.
DEGENERATE = 2e-5


def given_pencil(given: CrystalHamiltonian) -> Pencil:
    owner_i = np.arange(given.system.structure.natoms) % COMM.size
    norb_i = given.system.norb_i * (2 if given.system.spinors else 1)
    imaginary = given.imaginary and owned_part(given.imaginary, owner_i, COMM.rank)
    return Pencil(
        owned_part(given.hamiltonian, owner_i, COMM.rank),
        owned_part(given.overlap_of_bands, owner_i, COMM.rank),
        OrbitalRows(owner_i, norb_i, COMM.size, COMM.rank),
        COMM,
        imaginary=imaginary,
        electrons_per_band=given.system.electrons_per_band,
    )


def expected_weights(
    given: CrystalHamiltonian, k_c: NDArray[np.float64], groups: dict[str, NDArray[np.bool_]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return energies and the weights of groups by LAPACK and by the definition."""
    h, s = dense_matrix(given.hamiltonian, k_c), dense_matrix(given.overlap_of_bands, k_c)
    if given.imaginary is not None:
        h = h + 1j * dense_matrix(given.imaginary, k_c)
    energies_n, c_mn = scipy.linalg.eigh(h, s)
    parts = [np.einsum("mn,mp,pn->n", c_mn[x].conj(), s[x], c_mn).real for x in groups.values()]
    return energies_n, np.array(parts)


def crystal_groups(spinors: bool) -> dict[str, NDArray[np.bool_]]:
    """Return which orbitals of the random crystal Mo S H S belong to some groups."""
    one = [["Mo s"] + 3 * ["Mo p"] + 5 * ["Mo d"], 2 * ["S s"] + 3 * ["S p"], ["H s"]]
    one += [one[1]]
    labels = np.array([name for atom in one for name in atom * (2 if spinors else 1)])
    names = ("Mo", "S", "H", "Mo p", "Mo d", "S s", "S p")
    elements = np.array([x.split()[0] for x in labels])
    return {name: (labels == name) | (elements == name) for name in names}


@pytest.mark.parametrize("spin", ["off", "on", "nc"])
@pytest.mark.parametrize("route", ["lapack", "sparse", "sliced", "groups"])
def test_weights_are_those_of_lapack(
    route: str, spin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if route == "sliced":
        monkeypatch.setattr(bands_module, "SLICED", 3)
    given = crystal(spin)
    projections = projections_of(given.system)
    options = BandOptions(
        largest_dense=10**6 if route == "lapack" else 0,
        groups=COMM.size if route == "groups" else 1,
        projections=projections,
    )
    spectrum = solve_bands(given_pencil(given), KPOINTS, 14.0, 6, options=options)
    found_gkn = spectrum.weights_gkn
    assert found_gkn is not None
    assert spectrum.groups == projections.names
    groups = crystal_groups(given.system.spinors)
    for k, k_c in enumerate(KPOINTS):
        energies_n, weights_gn = expected_weights(given, k_c, groups)
        chosen = spectrum.band_index_kn[k] - 1
        assert np.abs(spectrum.eigenvalues_kn[k] - energies_n[chosen]).max() < 1e-9
        for name, weight_n in zip(groups, weights_gn[:, chosen], strict=True):
            error_n = np.abs(found_gkn[spectrum.groups.index(name), k] - weight_n)
            # Reached 1e-14 by LAPACK, 2e-10 by the others.
            assert error_n.max() < 1e-7
    elements = [projections.names.index(name) for name in projections.elements]
    assert np.abs(found_gkn[elements].sum(axis=0) - 1.0).max() < 1e-12
    assert COMM.bcast(found_gkn) == pytest.approx(found_gkn, abs=1e-13)


def supercell_spectrum(kpoints_kc: NDArray[np.float64], nbands: int, error: float) -> Spectrum:
    """Solve the supercell; error 0: every k-point by itself."""
    system = supercell_system()
    reduced = ReducedSpaceOptions(system, error) if error else None
    options = BandOptions(largest_dense=0, reduced=reduced, projections=projections_of(system))
    return solve_bands(supercell_pencil(), kpoints_kc, ELECTRONS, nbands, options=options)


def folded_weights(
    k_c: NDArray[np.float64], of_orbital: dict[str, NDArray[np.bool_]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return all levels of the supercell and their weights from LAPACK in the primitive cell."""
    _, hamiltonian, s = monolayer()
    energies, weights = [], []
    for q_c in folded_kpoints(tuple(k_c), REPEATS):
        h_q, s_q = dense_matrix(hamiltonian, q_c), dense_matrix(s, q_c)
        energies_n, c_mn = scipy.linalg.eigh(h_q, s_q)
        population_mn = (c_mn.conj() * (s_q @ c_mn)).real
        energies.append(energies_n)
        weights.append(np.array([population_mn[x].sum(axis=0) for x in of_orbital.values()]))
    order = np.argsort(np.concatenate(energies))
    return np.concatenate(energies)[order], np.concatenate(weights, axis=1)[:, order]


@pytest.mark.parametrize(("error", "bound"), [(0.0, 1e-7), (1.0 * MEV, 0.02)])
def test_weights_of_a_supercell_are_those_of_its_primitive_cell(error: float, bound: float) -> None:
    """Sums over sets of near levels, from states solved by themselves and in the reduced space."""
    along = np.linspace(0.0, 1.0, 9)[:, None] * np.array([0.16, 0.16, 0.0])
    kpoints_kc = np.vstack([along, [[0.3, 0.1, 0.0]]]) if error else along[:2]
    spectrum = supercell_spectrum(kpoints_kc, 20, error)
    assert spectrum.weights_gkn is not None
    assert spectrum.certified_k is not None
    assert spectrum.certified_k.tolist() == ([True] + 9 * [False] if error else [True, True])
    cells = projections_of(supercell_system()).cell_of_orbital_m[: monolayer()[1].norb_i.sum()]
    projections = projections_of(supercell_system())
    of_orbital = {name: projections.member_gc[g, cells] for g, name in enumerate(projections.names)}
    largest = 0.0
    for k, k_c in enumerate(kpoints_kc):
        levels, weights_gn = folded_weights(k_c, of_orbital)
        found_gn = np.zeros_like(weights_gn)
        first = int(spectrum.band_index_kn[k, 0]) - 1
        found_gn[:, first : first + 20] = spectrum.weights_gkn[:, k]
        # Sets end where the next level is further away than the error mixes them.
        near = max(30.0 * error, DEGENERATE)
        ends = np.flatnonzero(np.append(np.diff(levels) > near, True)) + 1
        for start, stop in zip(np.append(0, ends[:-1]), ends, strict=True):
            if start >= first and stop <= first + 20:
                difference_g = (found_gn - weights_gn)[:, start:stop].sum(axis=1)
                largest = max(largest, float(np.abs(difference_g).max()))
    # Reached 1.2e-8 and 0.015.
    assert 0.0 < largest < bound
    elements = [projections.names.index(name) for name in projections.elements]
    assert np.abs(spectrum.weights_gkn[elements].sum(axis=0) - 1.0).max() < 1e-12


def test_store_keeps_weights_and_asks_for_those_that_are_missing(tmp_path: Path) -> None:
    file, kpoints = tmp_path / f"results-{COMM.rank}.h5", np.zeros((3, 3))
    weights_gn = np.array([[0.25, 0.5, 1.0], [0.75, 0.5, 0.0]])
    bands = KBands(np.array([-0.2, 0.1, 0.2]), np.zeros(3), 7, weights_gn=weights_gn)
    shorter = KBands(np.array([-0.2, 0.1]), np.zeros(2), 7, weights_gn=weights_gn[:, :2])
    store = BandStore(file, kpoints, 3, "here", groups=("Mo", "S"))
    store.store(1, bands)
    store.store(2, shorter)
    read = BandStore(file, kpoints, 3, "here", groups=("Mo", "S")).read()
    assert sorted(read) == [1, 2]
    for place, expected in ((1, weights_gn), (2, weights_gn[:, :2])):
        assert np.array_equal(read[place].weights_gn, expected)
    assert sorted(BandStore(file, kpoints, 3, "here").read()) == [1, 2]
    BandStore(file, kpoints, 3, "here").store(0, KBands(np.zeros(2), np.zeros(2), 7))
    assert BandStore(file, kpoints, 3, "here", groups=("Mo", "S")).read() == {}
