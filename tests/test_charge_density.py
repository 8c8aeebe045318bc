"""Charge densities on a grid against GPAW's and OpenMX's, and orbitals of C60."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from conftest import shared_path
from density_models import filling_of, serial_density
from mpi4py import MPI

from hamgnn_solve.cli.given import solve_given
from hamgnn_solve.cli.options import SolveOptions
from hamgnn_solve.core.basis.gpaw_data import built_in_basis, read_partial_waves, read_species
from hamgnn_solve.core.basis.openmx_data import openmx_basis
from hamgnn_solve.core.basis.species import Basis
from hamgnn_solve.core.hamiltonian import reordered
from hamgnn_solve.core.io.openmx_input import OPENMX_ORBITALS
from hamgnn_solve.core.io.scfout import read_scfout, scfout_hamiltonian
from hamgnn_solve.core.operator import BlockOperator
from hamgnn_solve.core.real_space.augmentation import (
    add_augmentation,
    atomic_densities,
    orbital_projections,
)
from hamgnn_solve.core.real_space.free_atoms import FreeAtoms
from hamgnn_solve.core.real_space.grid import Grid, GridFunction
from hamgnn_solve.core.real_space.orbital_grid import OrbitalGrid
from hamgnn_solve.core.structure import Structure

COMM = MPI.COMM_SELF


@dataclass(frozen=True)
class Reference:
    """A GPAW calculation with our density matrix of its H and S."""

    dft: Any
    structure: Structure
    basis: Basis
    density_matrix: BlockOperator
    overlap: BlockOperator
    grid: Grid

    def smooth(self) -> GridFunction:
        """Return our smooth density on all points of GPAW's grid."""
        everyone = np.arange(self.structure.natoms)
        tiles = OrbitalGrid(self.structure, self.basis, self.grid, everyone).density(
            self.density_matrix
        )
        planes = np.zeros((1, *self.grid.shape))
        tiles.add_to(planes, 0)
        return GridFunction(self.grid, 0, planes[0])


def gpaw_reference(atoms: Atoms, kpts: tuple[int, int, int]) -> Reference:
    gpaw = pytest.importorskip("gpaw.new.ase_interface")
    from hamgnn_solve.core.pairs import PairList
    from hamgnn_solve.training.gpaw_blocks import cut_into_pairs, extract_blocks

    calculator = gpaw.GPAW(
        mode={"name": "lcao", "force_complex_dtype": True},
        basis="dzp",
        xc="PBE",
        h=0.2,
        kpts={"size": kpts, "gamma": True},
        nbands="nao",
        symmetry="off",
        occupations={"name": "fermi-dirac", "width": 0.01},
        convergence={"density": 1e-7},
        txt=None,
    )
    calculator.create_new_calculation(atoms)
    dft = calculator.dft
    dft.converge()
    dft.calculate_energy()
    cell_cc = dft.density.nt_sR.desc.cell_cv.copy()
    positions_ic = dft.relpos_ac @ cell_cc
    shift_xc, h_xmm, s_xmm = extract_blocks(dft, positions_ic)
    norb_i = np.array([setup.nao for setup in dft.setups], dtype=np.int64)
    first, second, shift_pc, h_values, s_values = cut_into_pairs(
        shift_xc, h_xmm, s_xmm, norb_i.astype(np.int32)
    )
    first, second, shift_pc = (x.astype(np.int64) for x in (first, second, shift_pc))
    vector_pc = positions_ic[second] + shift_pc @ cell_cc - positions_ic[first]
    pairs = PairList(first, second, shift_pc, vector_pc)
    hamiltonian, overlap = (BlockOperator(pairs, norb_i, x) for x in (h_values, s_values))
    structure = Structure(tuple(atoms.get_chemical_symbols()), positions_ic, cell_cc)
    states = list(dft.ibzwfs)
    kpoints_kc = np.array([wfs.kpt_c for wfs in states])
    weights_k = np.array([wfs.weight for wfs in states])
    electrons = float(sum(setup.Nv for setup in dft.setups))
    filling = filling_of(hamiltonian, overlap, kpoints_kc, electrons)
    found = serial_density(hamiltonian, overlap, kpoints_kc, filling, weights_k, method="dense")
    return Reference(
        dft,
        structure,
        built_in_basis({symbol: symbol for symbol in structure.elements}),
        found.operator,
        overlap,
        Grid(cell_cc, tuple(int(n) for n in dft.density.nt_sR.desc.size_c)),
    )


@pytest.fixture(scope="module")
def water() -> Reference:
    atoms = molecule("H2O")
    atoms.set_cell([8.0, 8.4, 8.8])
    atoms.center()
    atoms.pbc = False
    return gpaw_reference(atoms, (1, 1, 1))


@pytest.fixture(scope="module")
def crystal() -> Reference:
    # Cubic boron nitride, moved off symmetric places.
    edge = 3.61
    atoms = Atoms(
        "BN",
        positions=[[0.1, 0.2, 0.05], [0.1 + edge / 4, 0.2 + edge / 4, 0.08 + edge / 4]],
        cell=edge / 2 * np.array([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0]]),
        pbc=True,
    )
    return gpaw_reference(atoms, (3, 3, 3))


@pytest.mark.parametrize("name", ["water", "crystal"])
def test_smooth_density_is_that_of_gpaw(name: str, request: pytest.FixtureRequest) -> None:
    reference: Reference = request.getfixturevalue(name)
    density = reference.dft.density
    theirs = density.nt_sR.data[0] - density.nct_R.data
    ours = reference.smooth().values
    # GPAW leaves out the points on the open faces.
    inner = tuple(slice(n - m, n) for n, m in zip(ours.shape, theirs.shape, strict=True))
    assert theirs.max() > 0.3
    # GPAW's density is the one before its last step; the convergence above leaves 1e-6.
    assert np.abs(ours[inner] - theirs).max() < 1e-5


@pytest.mark.parametrize("name", ["water", "crystal"])
def test_atomic_density_matrices_are_those_of_gpaw(
    name: str, request: pytest.FixtureRequest
) -> None:
    reference: Reference = request.getfixturevalue(name)
    structure, basis = reference.structure, reference.basis
    everyone = np.arange(structure.natoms)
    projections = orbital_projections(structure, basis, everyone)
    found = atomic_densities(projections, reference.density_matrix)
    for atom in everyone:
        theirs = reference.dft.density.D_asii[atom][0].real
        ours = found.of(np.array([atom]))[0]
        assert np.abs(theirs).max() > 0.1
        assert np.abs(ours - theirs).max() < 2e-5


@pytest.mark.parametrize("name", ["water", "crystal"])
def test_smooth_density_and_augmentation_hold_the_electrons(
    name: str, request: pytest.FixtureRequest
) -> None:
    reference: Reference = request.getfixturevalue(name)
    structure, basis = reference.structure, reference.basis
    density = reference.smooth()
    smooth = density.sum()
    projections = orbital_projections(structure, basis, np.arange(structure.natoms))
    densities = atomic_densities(projections, reference.density_matrix)
    charge_i = densities.charges(structure, basis)
    held_i = add_augmentation(density, structure, basis, densities)
    assert charge_i.sum() > 0.05
    # The grid of 0.2 Angstrom integrates the smooth density to 7e-5 electrons.
    assert smooth + charge_i.sum() == pytest.approx(8.0, abs=2e-4)
    # Means over volumes near the nuclei: a cusp costs 0.004 electrons instead of 0.02.
    assert np.abs(held_i - charge_i).max() < 0.006
    assert density.sum() == pytest.approx(smooth + held_i.sum(), abs=1e-10)


def test_partial_waves_make_the_augmented_overlap() -> None:
    for name in ("H", "O", "Mo.6", "Zn"):
        waves, species = read_partial_waves(name), read_species(name)
        nodes, weights = np.polynomial.legendre.leggauss(400)
        radius_g = 0.5 * waves.radius * (nodes + 1.0)
        weight_g = 0.5 * waves.radius * weights * radius_g**2
        full, smooth = (
            np.array([wave(radius_g) for wave in part]) for part in (waves.full, waves.smooth)
        )
        degree = np.array([wave.l for wave in waves.full])
        difference = (full * weight_g) @ full.T - (smooth * weight_g) @ smooth.T
        difference *= degree[:, None] == degree
        # Splines through the data's own points: 2e-7 for molybdenum.
        assert np.abs(difference - species.projector_overlap).max() < 1e-6
        assert sum(waves.bound) == species.valence


def test_free_atoms_hold_their_electrons_and_no_charges() -> None:
    basis = built_in_basis({"O": "O", "H": "H"})
    structure = Structure(
        ("O", "H", "H"),
        np.array([[0.1, 0.2, 0.3], [1.9, 0.1, 0.2], [-0.4, 1.8, 0.4]]),
        np.array([[22.0, 0.0, 0.0], [1.0, 23.0, 0.0], [0.0, -1.0, 21.0]]),
    )
    grid = Grid.of_spacing(structure.cell_cc, 0.38)
    atoms = FreeAtoms(structure, basis, grid, (0, grid.shape[0]))
    ones = GridFunction(grid, 0, np.ones(grid.shape))
    held_i = atoms.projections(ones)
    # At 0.2 Angstrom the grid misses 0.9 % of an atom at most; the run scales it away.
    assert np.abs(held_i / atoms.valence_i - 1.0).max() < 0.015
    whole = atoms.superposition(atoms.valence_i / held_i)
    assert whole.sum() == pytest.approx(8.0, abs=1e-10)
    # Far from the nuclei it is the sum of what the data sets say.
    index = np.array([[5, 60 % grid.shape[1], 3]])
    point = grid.positions(index)[0]
    expected = 0.0
    for symbol, position in zip(structure.symbols, structure.pos_ic, strict=True):
        waves = read_partial_waves(symbol)
        for cell in np.indices((3, 3, 3)).reshape(3, -1).T - 1:
            distance = np.linalg.norm(point - position - cell @ structure.cell_cc)
            expected += np.exp(np.interp(distance, waves.radius_g, np.log(waves.density_g)))
    unscaled = atoms.superposition(np.ones(3))
    assert unscaled.values[tuple(index[0])] == pytest.approx(expected, rel=1e-4, abs=3e-9)


@pytest.mark.parametrize("name", ["h2o", "mos2_k5", "gaas2"])
def test_charges_and_density_of_openmx(name: str, tmp_path: Path) -> None:
    folder = shared_path(f"oracle/openmx/{name}")
    options = SolveOptions(
        hamiltonian=str(folder / f"{name}.scfout.xz"),
        dft_data=str(shared_path("dft_data19")),
        out=str(tmp_path / "run"),
        kpath="none",
        difference_density=str(tmp_path / "difference.h5"),
        grid_spacing=0.15,
        quiet=True,
    )
    summary = solve_given(options, COMM)
    lines = (folder / f"{name}.out").read_text(encoding="latin-1").splitlines()
    start = next(n for n, line in enumerate(lines) if "Up spin      Down spin" in line)
    populations = []
    for line in lines[start + 1 :]:
        words = line.split()
        if len(words) != 6:
            break
        populations.append(float(words[4]))
    with h5py.File(tmp_path / "run" / "results.h5") as file:
        mulliken, hirshfeld = file["charges/mulliken"][:], file["charges/hirshfeld"][:]
    total = summary["nelectrons"]
    valence = np.array(populations) + mulliken
    assert len(populations) == summary["natoms"]
    # OpenMX prints nine decimals; its density matrix is converged to some 1e-7.
    assert np.abs(valence - np.rint(valence)).max() < 2e-6
    assert summary["density_matrix_electrons"] == pytest.approx(total, abs=1e-6)
    # The sum over grid points of a norm-conserving valence density.
    assert summary["density_electrons"] == pytest.approx(total, abs=2e-3)
    assert abs(hirshfeld.sum()) < 2e-3
    with h5py.File(tmp_path / "difference.h5") as file:
        assert np.abs(file["values"][:]).max() > 0.02


@pytest.mark.parametrize("name", ["h2o", "mos2_k5"])
def test_density_is_that_of_the_density_matrix_of_openmx(name: str) -> None:
    file = shared_path(f"oracle/openmx/{name}/{name}.scfout.xz")
    given, stored = scfout_hamiltonian(file), read_scfout(file)
    system = given.system
    assert system.mesh is not None
    assert system.electrons is not None
    kpoints_kc, weights_k = system.mesh.kpoints_kc, system.mesh.weights_k
    filling = filling_of(given.hamiltonian, given.overlap, kpoints_kc, system.electrons)
    ours = serial_density(given.hamiltonian, given.overlap, kpoints_kc, filling, weights_k).operator
    order = [OPENMX_ORBITALS.from_program(shells) for shells in system.shells_i]
    # The file holds one of two equal spins.
    theirs = reordered(stored.density_matrices[0], order)
    theirs.values[:] *= 2.0
    assert np.abs(ours.values - theirs.values).max() < 2e-6
    basis = openmx_basis(shared_path("dft_data19"), system.openmx_species.values())
    structure = system.structure
    grid = Grid.of_spacing(structure.cell_cc, 0.5)
    densities = []
    for matrix in (ours, theirs):
        tiles = OrbitalGrid(structure, basis, grid, np.arange(structure.natoms)).density(matrix)
        planes = np.zeros((1, *grid.shape))
        tiles.add_to(planes, 0)
        densities.append(planes[0])
    assert densities[1].max() > 0.1
    # OpenMX's last step of self-consistency: 1e-7 to 1e-6.
    assert np.abs(densities[0] - densities[1]).max() < 2e-6
