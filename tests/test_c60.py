"""Orbitals of C60: a molecule in a box, 240 valence electrons, the fivefold highest level."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from ase.build import molecule
from mpi4py import MPI
from numpy.typing import NDArray

from hamgnn_solve.cli.options import SolveOptions
from hamgnn_solve.cli.real_space import make_real_space
from hamgnn_solve.cli.stages import Stages
from hamgnn_solve.core.basis.gpaw_data import built_in_basis
from hamgnn_solve.core.hamiltonian import OrbitalSystem
from hamgnn_solve.core.real_space.free_atoms import FreeAtoms
from hamgnn_solve.core.real_space.grid import Grid, GridFunction
from hamgnn_solve.core.units import EV_PER_HARTREE
from hamgnn_solve.parallel.rows import OrbitalRows
from hamgnn_solve.solver.bands import solve_bands
from hamgnn_solve.solver.pencil import Pencil

GAMMA = np.zeros((1, 3))


def test_highest_level_of_c60_is_fivefold_and_round(tmp_path: Path) -> None:
    pytest.importorskip("gpaw")
    from hamgnn_solve.training.label_file import label_operators, label_structure_of
    from hamgnn_solve.training.labels import LabelSettings, label_structure

    atoms = molecule("C60")
    atoms.set_cell([17.5] * 3)
    atoms.center()
    atoms.pbc = False
    label = label_structure(atoms, LabelSettings(open_spacing=0.3, density_convergence=1e-3))
    hamiltonian, overlap = label_operators(label)
    structure, comm = label_structure_of(label), MPI.COMM_SELF
    basis = built_in_basis(label.species)
    rows = OrbitalRows(np.zeros(60, dtype=np.int64), overlap.norb_i)
    pencil = Pencil(hamiltonian, overlap, rows, comm)
    spectrum = solve_bands(pencil, GAMMA, 240.0, 24)
    energies_n = spectrum.eigenvalues_kn[0] * EV_PER_HARTREE
    homo = energies_n[spectrum.band_index_kn[0] <= 120]
    # Five levels that a box and its grid split by less than 0.02 eV, then 1.2 eV of nothing to a
    # level of nine (gg and hg), and a gap of 1.7 eV above, to one of three.
    assert np.ptp(homo[-5:]) < 0.02
    assert homo[-5] - homo[-6] > 1.0
    assert 1.5 < spectrum.gap * EV_PER_HARTREE < 1.9
    options = SolveOptions(
        "c60.cif",
        out=str(tmp_path),
        orbitals="homo,homo-4:homo",
        charges=True,
        grid_spacing=0.25,
        grid_format="h5",
        quiet=True,
    )
    system = OrbitalSystem(structure, ((0, 1, 0, 1, 2),) * 60, 240.0)
    assert np.array_equal(system.norb_i, overlap.norb_i)
    result = make_real_space(
        options, pencil, system, basis, hamiltonian, overlap, spectrum, 0.0, Stages(comm, True)
    )
    # All atoms are alike; GPAW's coarse grid leaves 0.017 e on one.
    assert np.abs(result.charges["mulliken"]).max() < 0.03
    assert result.charges["mulliken"].sum() == pytest.approx(0.0, abs=1e-6)
    set_density = values_of(tmp_path / "states-homo-4_homo.h5")
    one = values_of(tmp_path / "orbital-homo.h5")
    grid = Grid.of_spacing(structure.cell_cc, 0.25 / 0.529177210903)
    assert set_density.shape == grid.shape
    assert set_density.sum() * grid.point_volume == pytest.approx(5.0, abs=1e-3)
    assert (one**2).sum() * grid.point_volume == pytest.approx(1.0, abs=0.02)
    # The set has the symmetry of the molecule, each of its states does not.
    free = FreeAtoms(structure, basis, grid, (0, grid.shape[0]))
    whole = free.superposition(np.ones(60))
    shares = [of_atoms(free, whole, values) for values in (set_density, one**2)]
    assert shares[0].sum() == pytest.approx(5.0, abs=0.01)
    assert np.ptp(shares[0]) < 0.05 * shares[0].mean()
    assert np.ptp(shares[1]) > 0.5 * shares[1].mean()


def values_of(file: Path) -> NDArray[np.float64]:
    with h5py.File(file) as h5:
        return np.asarray(h5["values"][:])


def of_atoms(
    free: FreeAtoms, whole: GridFunction, values: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return how much of a function lies on each atom, shared out as the free atoms share."""
    share = np.divide(values, whole.values, out=np.zeros_like(values), where=whole.values > 1e-12)
    return free.projections(whole.like(share))
