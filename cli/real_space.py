"""The stages of a run that put densities and orbitals on a grid."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hamgnn_solve.cli.options import SolveOptions
from hamgnn_solve.cli.stages import Stages
from hamgnn_solve.core.basis.species import Basis
from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.hamiltonian import KMesh, OrbitalSystem, gamma_centred_mesh
from hamgnn_solve.core.integrals.separable import ProjectorOverlaps
from hamgnn_solve.core.io.volumetric import check_volumetric_name, write_volumetric
from hamgnn_solve.core.observables.plane_plot import plot_plane
from hamgnn_solve.core.operator import BlockOperator
from hamgnn_solve.core.real_space.augmentation import (
    AtomicDensities,
    add_augmentation,
    add_wave_augmentation,
    atomic_densities,
    is_augmented,
    orbital_projections,
    state_projections,
)
from hamgnn_solve.core.real_space.charges import hirshfeld_electrons, mulliken_electrons
from hamgnn_solve.core.real_space.free_atoms import FreeAtoms
from hamgnn_solve.core.real_space.grid import Grid, GridFunction, parse_points, spacing_in_bohr
from hamgnn_solve.core.real_space.orbital_grid import OrbitalGrid, tiling_of
from hamgnn_solve.core.real_space.phase import fixed_phase
from hamgnn_solve.core.real_space.spheres import give_to_nearest
from hamgnn_solve.core.spectrum import Spectrum
from hamgnn_solve.core.structure import Structure
from hamgnn_solve.core.units import ANGSTROM_PER_BOHR, EV_PER_HARTREE, HARTREE_PER_KELVIN
from hamgnn_solve.parallel.faults import agreed
from hamgnn_solve.parallel.grid_slabs import own_planes, planes_in_order, sum_to_slabs
from hamgnn_solve.solver.bands import DENSE, BandOptions, solve_bands
from hamgnn_solve.solver.density_matrix import (
    BandStates,
    DensityMatrix,
    Filling,
    density_from_states,
    density_matrix,
)
from hamgnn_solve.solver.fermi import FermiLevel, fill_bands, thermal_level
from hamgnn_solve.solver.kernel_polynomial import spectral_bounds
from hamgnn_solve.solver.pencil import Pencil
from hamgnn_solve.solver.states import States, states_between, states_of_bands, whole_vectors

__all__ = ["RealSpace", "check_real_space", "make_real_space", "wants_grid"]

DENSITY_UNIT, WAVE_UNIT = "electrons/Bohr^3", "Bohr^(-3/2)"
# Angstrom. A density mesh has so many k-points along an axis times its length, as the labels of
# the built-in models.
KPOINT_LENGTH = 19.0
# Kelvin. Occupations of metals, about 0.05 eV.
METAL_TEMPERATURE = 580.0
# Hartree. Neighbouring bands closer than this (1 meV) are one degenerate set.
DEGENERATE = 1e-3 / EV_PER_HARTREE
# Angstrom above the highest atom where a local density of states is shown.
HEIGHT = 2.0
# Bands on both sides of a wanted one among which its degenerate partners are looked for.
PARTNERS = 6
# Bands so close to each other are solved together.
TOGETHER = 60


@dataclass(frozen=True)
class RealSpace:
    """What a run has found out on a grid, for summary and results.

    Parameters
    ----------
    lines : list of str
        For the summary.
    charges : dict of str to ndarray, shape (N,)
        Charges of all atoms in units of e, by kind; an atom that has lost electrons is positive.
    figures : dict
        Numbers for `summary.json`.
    """

    lines: list[str] = field(default_factory=list)
    charges: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)


def wants_density(options: SolveOptions) -> bool:
    """Whether a run needs the density matrix."""
    return bool(options.density or options.difference_density or options.charges)


def wants_grid(options: SolveOptions) -> bool:
    """Whether a run needs anything of this module."""
    return wants_density(options) or bool(options.orbitals or options.ldos)


def check_real_space(options: SolveOptions, system: OrbitalSystem, basis: Basis | None) -> None:
    """Refuse options that cannot be followed, before anything is computed.

    Raises
    ------
    InputError
        For spinors, unknown orbitals, or a malformed grid, mesh, window, band or file name.
    """
    if not wants_grid(options):
        return
    if system.spinors:
        raise InputError("Densities and orbitals are not there for spinors yet; leave them out.")
    if basis is None:
        raise InputError(
            f"{options.hamiltonian} does not tell its orbitals, so there is nothing to put on a "
            "grid; give a structure and a model, or an .scfout of OpenMX with --dft-data."
        )
    for name in (options.density, options.difference_density):
        if name is not None:
            check_volumetric_name(name)
    _grid(options, system.structure)
    if wants_density(options):
        _mesh(options, system)
    if options.orbitals:
        _bands_asked(options.orbitals, system)
        _orbital_k(options)
    if options.ldos:
        _window(options.ldos)


def make_real_space(
    options: SolveOptions,
    pencil: Pencil,
    system: OrbitalSystem,
    basis: Basis,
    hamiltonian: BlockOperator,
    overlap: BlockOperator,
    spectrum: Spectrum,
    energy_shift: float,
    stages: Stages,
) -> RealSpace:
    """Make the densities, charges and orbitals that were asked for and write their files.

    Collective.

    Parameters
    ----------
    hamiltonian, overlap : BlockOperator
        Blocks whose first atom this rank owns.
    spectrum : Spectrum
        With `energy_shift` (Hartree) in its energies, which H does not have.
    """
    result = RealSpace()
    if not wants_grid(options):
        return result
    bare = spectrum.shifted(-energy_shift)
    work = _Work(options, pencil, system, basis, overlap, bare, energy_shift, stages)
    if wants_density(options):
        work.charge_density(hamiltonian, result)
    if options.orbitals:
        work.orbitals(result)
    if options.ldos:
        work.local_density_of_states(result)
    return result


class _Work:
    """Grid and orbitals of a run, and its spectrum without the shift of the levels."""

    def __init__(
        self,
        options: SolveOptions,
        pencil: Pencil,
        system: OrbitalSystem,
        basis: Basis,
        overlap: BlockOperator,
        spectrum: Spectrum,
        energy_shift: float,
        stages: Stages,
    ) -> None:
        structure = system.structure
        self.options, self.pencil, self.structure, self.basis = options, pencil, structure, basis
        self.system = system
        self.overlap, self.spectrum, self.stages = overlap, spectrum, stages
        self.energy_shift = energy_shift
        self.comm = stages.comm
        self.grid = _grid(options, structure)
        self.owned = np.flatnonzero(pencil.rows.owner_i == pencil.rows.rank)
        self.planes = own_planes(tiling_of(self.grid), self.comm)
        self.on_grid = OrbitalGrid(structure, basis, self.grid, self.owned)
        self.projections: ProjectorOverlaps | None = None
        if is_augmented(basis):
            with stages.stage("projectors"):
                self.projections = orbital_projections(structure, basis, self.owned)
        shape = "x".join(str(n) for n in self.grid.shape)
        stages.say(f"grid of {shape} points, {self._spacing()} Angstrom apart")

    def _spacing(self) -> str:
        steps = np.linalg.norm(self.grid.step_cc, axis=1) * ANGSTROM_PER_BOHR
        return ", ".join(f"{x:.3f}" for x in steps)

    def write(self, name: str | Path, function: GridFunction, title: str, unit: str) -> None:
        """Write a real function to a file, by the first rank. Collective."""
        planes = planes_in_order(function, self.comm)
        if self.comm.rank == 0:
            write_volumetric(name, self.structure, self.grid, planes, title, unit)
        else:
            for _ in planes:
                pass
        self.stages.say(f"{title}: {name}")

    # Density and charges.

    def charge_density(self, hamiltonian: BlockOperator, result: RealSpace) -> None:
        """Make the density matrix, the density and the charges. Collective."""
        options, structure = self.options, self.structure
        found = self._density_matrix(hamiltonian)
        valence_i = np.array([self.basis.species[s].valence for s in structure.symbols])
        populations = self.comm.allreduce(mulliken_electrons(found.operator, self.overlap))
        result.charges["mulliken"] = valence_i - populations
        result.figures["density_matrix_electrons"] = found.electrons
        result.lines.append(f"density matrix  {found.electrons:.6f} electrons, {found.method}")
        if options.density or options.difference_density:
            with self.stages.steps("density", len(self.on_grid.tiles)) as advance:
                density = self.density_of(found.operator, advance)
            total = self.comm.allreduce(density.sum())
            result.figures["density_electrons"] = total
            result.lines.append(f"density         {total:.6f} electrons on the grid")
            if options.density:
                with self.stages.stage("density file"):
                    self.write(options.density, density, "valence charge density", DENSITY_UNIT)
            with self.stages.stage("free atoms"):
                result.charges["hirshfeld"] = self._difference(density)
            if options.difference_density:
                with self.stages.stage("difference file"):
                    title = "valence density minus that of free atoms"
                    self.write(options.difference_density, density, title, DENSITY_UNIT)
        for kind, charge_i in result.charges.items():
            result.lines.append(f"{kind.capitalize():<16}{self._mean_charges(charge_i)}")

    def _mean_charges(self, charge_i: NDArray[np.float64]) -> str:
        means = [
            f"{symbol} {charge_i[self.structure.element_index_i == n].mean():+.3f}"
            for n, symbol in enumerate(self.structure.elements)
        ]
        return "mean charges " + ", ".join(means) + " e"

    def density_of(self, matrix: BlockOperator, advance: Any = None) -> GridFunction:
        """Return the density of a density matrix on this rank's planes. Collective."""

        def notify(tiles: int) -> None:
            for _ in range(tiles if advance is not None else 0):
                advance()

        (density,) = sum_to_slabs(self.on_grid.density(matrix, notify), self.comm)
        if self.projections is not None:
            part = atomic_densities(self.projections, matrix)
            whole = AtomicDensities(part.nproj_i, self.comm.allreduce(part.values))
            held_i = add_augmentation(density, self.structure, self.basis, whole)
            missing_i = whole.charges(self.structure, self.basis) - self.comm.allreduce(held_i)
            give_to_nearest(density, self.structure.pos_ic, missing_i)
        return density

    def _difference(self, density: GridFunction) -> NDArray[np.float64]:
        """Take the free atoms off a density, in place; returns the Hirshfeld charges. Collective.

        The density of each free atom is scaled to hold its valence electrons on the grid.
        """
        atoms = FreeAtoms(self.structure, self.basis, self.grid, self.planes)
        held_i = self.comm.allreduce(atoms.projections(density.like(np.ones(density.values.shape))))
        whole = atoms.superposition(atoms.valence_i / held_i)
        density.values[...] -= whole.values
        gained_i = hirshfeld_electrons(density, whole, atoms)
        return np.asarray(-self.comm.allreduce(gained_i))

    def _density_matrix(self, hamiltonian: BlockOperator) -> DensityMatrix:
        mesh = _mesh(self.options, self.system)
        filling = self._filling(mesh)
        many = len(mesh.kpoints_kc)
        warm = f", {filling.temperature / HARTREE_PER_KELVIN:.0f} K" if filling.temperature else ""
        self.stages.say(f"density matrix from {many} k-point(s){warm}")
        with self.stages.stage("density matrix"):
            found = density_matrix(
                hamiltonian,
                self.overlap,
                self.comm,
                mesh.kpoints_kc,
                mesh.weights_k,
                filling,
                largest_bytes=self.options.memory_bytes,
                notify=self._counter("k-points or poles of the density matrix"),
            )
        how = f"{found.npoles} poles" if found.method == "poles" else "LAPACK"
        self.stages.say(f"density matrix by {how}: {found.electrons:.6f} electrons")
        return found

    def _counter(self, what: str) -> Callable[[], None]:
        """Return what says after each part how many the first rank has done; minutes go by."""
        count = 0

        def notify() -> None:
            nonlocal count
            count += 1
            self.stages.say(f"{what}: {count} done on the first rank")

        return notify

    def _filling(self, mesh: KMesh) -> Filling:
        """Return how the electrons fill the bands at the k-points of a mesh. Collective."""
        pencil, electrons = self.pencil, self.spectrum.electrons
        per_band = self.spectrum.electrons_per_band
        if pencil.norbitals <= DENSE:
            with self.stages.stage("mesh bands"):
                bands = solve_bands(
                    pencil,
                    mesh.kpoints_kc,
                    electrons,
                    2 * pencil.norbitals,
                    weights_k=mesh.weights_k,
                )
            lowest = float(bands.eigenvalues_kn.min()) - 0.05
        else:
            bands = self._known_bands(mesh)
            # Below all states at Gamma; those at other k are no lower by more than the margin.
            lowest = spectral_bounds(pencil, np.zeros(3))[0] - 0.05
        energies_kn, first = bands.eigenvalues_kn, int(bands.band_index_kn[0, 0])
        last = pencil.norbitals if len(energies_kn[0]) < pencil.norbitals else len(energies_kn[0])
        level = fill_bands(energies_kn, first, last, mesh.weights_k, electrons, per_band)
        asked = self.options.temperature
        if asked is None and level is not None and not level.metal:
            return Filling(level, lowest, electrons, 0.0, per_band)
        kelvin = asked if asked is not None else self.system.temperature or METAL_TEMPERATURE
        warm = None
        if kelvin > 0.0:
            warm = thermal_level(
                energies_kn,
                first,
                last,
                mesh.weights_k,
                electrons,
                kelvin * HARTREE_PER_KELVIN,
                per_band,
            )
        elif level is not None:
            return Filling(level, lowest, electrons, 0.0, per_band)
        if warm is None:
            raise InputError(
                "The bands near the Fermi level do not hold the thermal occupation; ask for more "
                "--bands or a lower --temperature."
            )
        return Filling(FermiLevel(warm), lowest, electrons, kelvin * HARTREE_PER_KELVIN, per_band)

    def _known_bands(self, mesh: KMesh) -> Spectrum:
        """Return the bands near the Fermi level at a mesh; at Gamma alone those at hand."""
        solved = self.spectrum
        at_gamma = np.flatnonzero((solved.kpoints_kc == 0.0).all(axis=1))
        if len(mesh.kpoints_kc) > 1 or len(at_gamma) == 0:
            return solve_bands(
                self.pencil,
                mesh.kpoints_kc,
                solved.electrons,
                self.options.bands,
                weights_k=mesh.weights_k,
                options=BandOptions(announce=self.stages.say),
            )
        k = at_gamma[:1]
        return Spectrum(
            solved.kpoints_kc[k],
            solved.eigenvalues_kn[k],
            solved.band_index_kn[k],
            solved.residuals_kn[k],
            solved.fermi_level,
            solved.electrons,
            solved.electrons_per_band,
        )

    # States.

    def orbitals(self, result: RealSpace) -> None:
        """Write the orbitals asked for. Collective."""
        k_c = _orbital_k(self.options)
        asked = _bands_asked(self.options.orbitals or "", self.system)
        level, highest = self.spectrum.fermi_level, self.pencil.nstates(k_c)

        def states(first: int, last: int) -> States:
            low, high = max(1, first - PARTNERS), min(highest, last + PARTNERS)
            return states_of_bands(self.pencil, k_c, low, high, level)

        lowest, uppermost = min(x[1] for x in asked), max(x[2] for x in asked)
        common: States | None = None
        if uppermost - lowest < TOGETHER:
            with self.stages.stage("orbital states"):
                common = states(lowest, uppermost)
        for name, first, last in asked:
            with self.stages.stage(f"orbital {name}"):
                found = states(first, last) if common is None else common
                self._orbital(name, first, last, found, result)

    def _orbital(self, name: str, first: int, last: int, states: States, result: RealSpace) -> None:
        energies_n, low = states.energies_n, states.first_band
        alone = first == last
        whole = (first, last)
        if alone:
            whole = _degenerate_set(energies_n, first - low)
            whole = (whole[0] + low, whole[1] + low)
        levels_n = (energies_n[first - low : last - low + 1] + self.energy_shift) * EV_PER_HARTREE
        line = f"band {first}" if alone else f"bands {first} to {last}"
        result.lines.append(f"{name:<16}{line}, {', '.join(f'{x:.4f}' for x in levels_n)} eV")
        folder, ending = self.options.run_folder, self.options.grid_format
        stem = name.replace(":", "_")
        if alone:
            for part, function in self._wave(states, first - low).items():
                suffix = "" if part == "real" else f"-{part}"
                file = folder / f"orbital-{stem}{suffix}.{ending}"
                self.write(file, function, f"{part} part of orbital {name}", WAVE_UNIT)
        if not alone or whole != (first, last):
            if alone:
                result.lines.append(
                    f"{'':<16}degenerate: bands {whole[0]} to {whole[1]} within 1 meV, their "
                    "density is written too"
                )
            chosen = slice(whole[0] - low, whole[1] - low + 1)
            density = self._state_density(states, chosen)
            count = whole[1] - whole[0] + 1
            title = f"density of the {count} states of {name}"
            self.write(folder / f"states-{stem}.{ending}", density, title, DENSITY_UNIT)

    def _wave(self, states: States, place: int) -> dict[str, GridFunction]:
        """Return the real part, and at complex k the imaginary part, of a state. Collective."""
        vector_mn = whole_vectors(states.vectors_mn[:, place : place + 1], self.pencil)
        image_mn = self.pencil.overlap_times(states.k_c, states.vectors_mn[:, place : place + 1])
        vector_mn = fixed_phase(vector_mn, whole_vectors(image_mn, self.pencil))
        real, imaginary = sum_to_slabs(self.on_grid.states(vector_mn, states.k_c), self.comm)
        wave = real.like(real.values + 1j * imaginary.values)
        if self.projections is not None:
            part = state_projections(self.projections, vector_mn, states.k_c)
            whole = self.comm.allreduce(part)
            add_wave_augmentation(wave, self.structure, self.basis, whole[:, 0], states.k_c)
        found = {"real": wave.like(wave.values.real)}
        if not self.pencil.is_real_at(states.k_c):
            found["imaginary"] = wave.like(wave.values.imag)
        return found

    def _state_density(self, states: States, chosen: slice) -> GridFunction:
        vectors_mn = states.vectors_mn[:, chosen]
        filled = BandStates(states.k_c, 1.0, vectors_mn, np.ones(vectors_mn.shape[1]))
        found = density_from_states([filled], self.overlap, self.pencil.rows, self.comm)
        return self.density_of(found.operator)

    def local_density_of_states(self, result: RealSpace) -> None:
        """Write the density of the states in a window of energies, and a picture. Collective."""
        low, high = _window(self.options.ldos or "")
        level = self.spectrum.fermi_level
        mesh = _mesh(self.options, self.system)
        filled, count = [], 0.0
        with self.stages.stage("ldos states"):
            for k_c, weight in zip(mesh.kpoints_kc, mesh.weights_k, strict=True):
                states = states_between(
                    self.pencil, k_c, level + low / EV_PER_HARTREE, level + high / EV_PER_HARTREE
                )
                number = len(states.energies_n)
                count += weight * number
                filled.append(BandStates(k_c, float(weight), states.vectors_mn, np.ones(number)))
        if count == 0.0:
            raise InputError(
                f"There is no state from {low:g} to {high:g} eV around the Fermi level; choose "
                "another window for --ldos."
            )
        with self.stages.stage("ldos"):
            found = density_from_states(filled, self.overlap, self.pencil.rows, self.comm)
            density = self.density_of(found.operator)
        result.lines.append(f"ldos            {count:g} states from {low:g} to {high:g} eV")
        folder = self.options.run_folder
        with self.stages.stage("ldos files"):
            title = f"states {low:g} to {high:g} eV from the Fermi level"
            self.write(folder / f"ldos.{self.options.grid_format}", density, title, DENSITY_UNIT)
            self._plane_picture(density, title, folder / "ldos.png")

    def _plane_picture(self, density: GridFunction, title: str, file: Path) -> None:
        """Draw a function on the plane of the first two lattice vectors at a height. Collective."""
        fractional = _plane_height(self.options, self.structure)
        plane = round(fractional * self.grid.shape[2]) % self.grid.shape[2]
        own = np.ascontiguousarray(density.values[:, :, plane])
        parts = self.comm.gather(own)
        with agreed(self.comm):
            if parts is not None:
                values = np.concatenate(parts)
                cell_cc = self.grid.cell_cc[:2, :] * ANGSTROM_PER_BOHR
                plot_plane(values, cell_cc, title, DENSITY_UNIT, file)


def _grid(options: SolveOptions, structure: Structure) -> Grid:
    if options.grid_points is not None:
        return Grid(structure.cell_cc, parse_points(options.grid_points))
    return Grid.of_spacing(structure.cell_cc, spacing_in_bohr(options.grid_spacing))


def _mesh(options: SolveOptions, system: OrbitalSystem) -> KMesh:
    """Return the mesh asked for, or of the run that made H, or one fit for the cell."""
    if options.density_mesh is not None:
        return gamma_centred_mesh(parse_points(options.density_mesh))
    if system.mesh is not None:
        return system.mesh
    lengths = np.linalg.norm(system.structure.cell_cc, axis=1) * ANGSTROM_PER_BOHR
    first, second, third = (max(1, round(KPOINT_LENGTH / x)) for x in lengths)
    return gamma_centred_mesh((first, second, third))


def _orbital_k(options: SolveOptions) -> NDArray[np.float64]:
    words = options.orbital_k.replace(",", " ").split()
    try:
        k_c = np.array([float(word) for word in words])
    except ValueError:
        k_c = np.zeros(0)
    if k_c.shape != (3,) or not np.isfinite(k_c).all():
        raise InputError(
            f'--orbital-k "{options.orbital_k}" must be three numbers, the fractional k.'
        )
    return k_c


def _bands_asked(text: str, system: OrbitalSystem) -> list[tuple[str, int, int]]:
    """Return name, first and last band of each entry of a list like "homo,lumo+1,homo-4:homo,12".

    Raises
    ------
    InputError
        For an entry of another form, or a band that does not exist.
    """
    electrons = system.electrons or 0.0
    homo = int(np.ceil(electrons / system.electrons_per_band - 1e-9))
    norbitals = int(system.norb_i.sum())

    def band(word: str) -> int:
        match = re.fullmatch(r"(homo|lumo)([+-]\d+)?|(\d+)", word)
        if match is None:
            raise InputError(
                f"--orbitals: {word} is no band; write homo, lumo, homo-1, a number of a band, or "
                "a set like homo-4:homo."
            )
        start = {"homo": homo, "lumo": homo + 1, None: 0}[match[1]]
        number = int(match[3]) if match[3] else start + int(match[2] or 0)
        if not 1 <= number <= norbitals:
            raise InputError(
                f"--orbitals: {word} is band {number}, and there are {norbitals} bands."
            )
        return number

    asked = []
    for entry in text.replace(" ", "").lower().split(","):
        ends = [band(word) for word in entry.split(":")]
        if len(ends) > 2 or ends[0] > ends[-1]:
            raise InputError(f"--orbitals: {entry} is no set of bands; write homo-4:homo.")
        asked.append((entry, ends[0], ends[-1]))
    return asked


def _degenerate_set(energies_n: NDArray[np.float64], place: int) -> tuple[int, int]:
    """Return the first and last of neighbouring states that a state is degenerate with."""
    first = last = place
    while first > 0 and energies_n[first] - energies_n[first - 1] < DEGENERATE:
        first -= 1
    while last + 1 < len(energies_n) and energies_n[last + 1] - energies_n[last] < DEGENERATE:
        last += 1
    return first, last


def _window(text: str) -> tuple[float, float]:
    """Return the ends of a window like "-0.5:0.2" in eV."""
    try:
        low, high = (float(word) for word in text.split(":"))
    except ValueError:
        low = high = 0.0
    if not (np.isfinite([low, high]).all() and low < high):
        raise InputError(
            f"--ldos {text} is no window of energies; write --ldos=-0.5:0.2 (eV around the Fermi "
            "level)."
        )
    return low, high


def _plane_height(options: SolveOptions, structure: Structure) -> float:
    """Return where along the third lattice vector a plane is shown, between 0 and 1."""
    height = 1.0 / np.linalg.norm(np.linalg.inv(structure.cell_cc)[:, 2]) * ANGSTROM_PER_BOHR
    if options.ldos_height is not None:
        return float(options.ldos_height / height % 1.0)
    # The top of a slab is the atom below the widest gap.
    heights = np.sort(structure.fractional_ic[:, 2] % 1.0)
    gaps = np.diff(np.append(heights, heights[0] + 1.0))
    return float((heights[int(np.argmax(gaps))] + HEIGHT / height) % 1.0)
