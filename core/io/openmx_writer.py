"""Write input files of OpenMX for runs whose H and S become labels."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hamgnn_solve.core.basis.openmx_data import openmx_basis
from hamgnn_solve.core.basis.openmx_table import OpenMXSpecies
from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.io.openmx_input import ANGSTROM_PER_OPENMX_BOHR, read_openmx_input
from hamgnn_solve.core.io.structure import read_structures
from hamgnn_solve.core.observables.band_path import vacuum_axes
from hamgnn_solve.core.structure import Structure
from hamgnn_solve.core.units import ANGSTROM_PER_BOHR

__all__ = ["OpenMXSettings", "openmx_input_text", "write_openmx_input", "write_openmx_inputs"]

# Angstrom. Positions are written with twelve decimals.
SAME_PLACE = 1e-9

TEMPLATE = """\
System.CurrrentDirectory ./
System.Name {name}
{data_path}level.of.stdout 1
level.of.fileout 0
HS.fileout on

scf.XcType GGA-PBE
scf.SpinPolarization off
scf.ElectronicTemperature {temperature:g}
scf.energycutoff {energy_cutoff:g}
scf.EigenvalueSolver {solver}
scf.Kgrid {kgrid}
scf.maxIter {max_steps}
scf.criterion {criterion:.1e}
scf.Mixing.Type rmm-diis
scf.Init.Mixing.Weight 0.10
scf.Min.Mixing.Weight 0.001
scf.Max.Mixing.Weight 0.400
scf.Mixing.History 7
scf.Mixing.StartPulay 5
MD.Type Nomd

Species.Number {nspecies}
<Definition.of.Atomic.Species
{species}
Definition.of.Atomic.Species>
Atoms.Number {natoms}
Atoms.SpeciesAndCoordinates.Unit Ang
<Atoms.SpeciesAndCoordinates
{atoms}
Atoms.SpeciesAndCoordinates>
Atoms.UnitVectors.Unit Ang
<Atoms.UnitVectors
{cell}
Atoms.UnitVectors>
"""


@dataclass(frozen=True)
class OpenMXSettings:
    """How finely OpenMX samples space, k-space and occupations.

    Parameters
    ----------
    energy_cutoff : float
        Of the real-space grid in Ry. The grid is the larger part of a label's noise: it breaks
        the symmetry of H by 0.4 meV on site at 200 Ry (MoS2), by half of that at 400.
    kspacing : float
        Largest distance of k-points in 1/Angstrom, 2 pi included.
    temperature : float
        Electronic temperature in kelvin.
    criterion : float
        Largest change of the band energy in the last step in Hartree.
    max_steps : int
        Steps before OpenMX gives up.

    Raises
    ------
    InputError
        For a number that is not positive.
    """

    energy_cutoff: float = 300.0
    kspacing: float = 0.3
    temperature: float = 300.0
    criterion: float = 1e-7
    max_steps: int = 300

    def __post_init__(self) -> None:
        numbers = (self.energy_cutoff, self.kspacing, self.criterion, self.max_steps)
        if not min(*numbers, self.temperature) > 0:
            raise InputError("Every setting of an OpenMX run must be a positive number.")

    def kgrid(self, structure: Structure) -> tuple[int, int, int]:
        """Return the divisions of the k mesh; one along an axis with vacuum."""
        reciprocal_cc = 2 * np.pi * np.linalg.inv(structure.cell_cc).T / ANGSTROM_PER_BOHR
        # A mesh that fits exactly is not made denser by the last digit.
        count_c = np.ceil(np.linalg.norm(reciprocal_cc, axis=1) / self.kspacing - 1e-6).astype(int)
        first, second, third = (
            1 if empty else max(1, int(count))
            for count, empty in zip(count_c, vacuum_axes(structure), strict=True)
        )
        return first, second, third


def openmx_input_text(
    name: str,
    structure: Structure,
    species: Mapping[str, OpenMXSpecies],
    settings: OpenMXSettings,
    dft_data: Path | None = None,
) -> str:
    """Return the text of an input file (.dat) that ends with H and S in `NAME.scfout`.

    Parameters
    ----------
    name : str
        System.Name; OpenMX's files begin with it.
    structure : Structure
    species : mapping of str to OpenMXSpecies
        Orbitals and pseudopotential of each element, by symbol.
    settings : OpenMXSettings
    dft_data : Path, optional
        DATA.PATH; OpenMX's own default where it is not given.

    Raises
    ------
    InputError
        For an element that `species` lacks.
    """
    missing = [symbol for symbol in structure.elements if symbol not in species]
    if missing:
        raise InputError(
            f"HamGNN's table of OpenMX orbitals has no {missing[0]} for {name}; leave this "
            "structure out, or take a larger table."
        )
    kgrid = settings.kgrid(structure)
    chosen = [species[symbol] for symbol in structure.elements]
    rows = zip(structure.symbols, structure.pos_ic * ANGSTROM_PER_BOHR, strict=True)
    return TEMPLATE.format(
        name=name,
        data_path="" if dft_data is None else f"DATA.PATH {dft_data}\n",
        temperature=settings.temperature,
        energy_cutoff=settings.energy_cutoff,
        # One k-point needs no complex arithmetic.
        solver="Cluster" if kgrid == (1, 1, 1) else "Band",
        kgrid=" ".join(map(str, kgrid)),
        max_steps=settings.max_steps,
        criterion=settings.criterion,
        nspecies=len(chosen),
        species="\n".join(f" {x.symbol} {x.name} {x.pseudopotential}" for x in chosen),
        natoms=structure.natoms,
        atoms="\n".join(
            f" {number} {symbol} {_numbers(pos_c)} {_numbers([species[symbol].valence / 2] * 2, 2)}"
            for number, (symbol, pos_c) in enumerate(rows, start=1)
        ),
        cell="\n".join(f" {_numbers(row)}" for row in structure.cell_cc * ANGSTROM_PER_BOHR),
    )


def write_openmx_input(
    path: Path,
    structure: Structure,
    species: Mapping[str, OpenMXSpecies],
    settings: OpenMXSettings,
    dft_data: Path | None = None,
    *,
    overwrite: bool = False,
) -> None:
    """Write an input file, System.Name after the name of `path`, and read it back.

    Parameters
    ----------
    path : Path
        File to write; its folder is made.
    structure, species, settings, dft_data
        As `openmx_input_text`.
    overwrite : bool
        Replace a file that says something else.

    Raises
    ------
    InputError
        As `openmx_input_text`; when another input stands there or the file cannot be written.
    RuntimeError
        When what is read back is not what was written.
    """
    text = openmx_input_text(path.stem, structure, species, settings, dft_data)
    try:
        if path.exists() and path.read_text() != text and not overwrite:
            raise InputError(
                f"{path} exists and asks for something else; choose another folder, or replace "
                "it with --overwrite."
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror}); choose another folder."
        ) from error
    _check(path, structure, species, settings)


def write_openmx_inputs(
    files: Sequence[str | Path],
    folder: Path,
    species: Mapping[str, OpenMXSpecies],
    settings: OpenMXSettings,
    dft_data: Path | None = None,
    *,
    overwrite: bool = False,
) -> list[Path]:
    """Write `NAME/NAME.dat` below a folder for every structure of some files; return the inputs.

    A structure is named by its file, or by the folder of a POSCAR or CONTCAR; several of one
    file are numbered. Parameters and faults as of `write_openmx_input`.

    Raises
    ------
    InputError
        Also when a structure file cannot be read, or two structures have one name. Nothing is
        written then.
    """
    structures: dict[str, Structure] = {}
    for file in map(Path, files):
        frames = read_structures(file)
        for number, structure in enumerate(frames, start=1):
            name = _name(file) if len(frames) == 1 else f"{_name(file)}-{number:04d}"
            if name in structures:
                raise InputError(
                    f"{file} is the second file that makes {name}; rename it, or write it to "
                    "another folder."
                )
            openmx_input_text(name, structure, species, settings)
            structures[name] = structure
    if dft_data is not None:
        elements = {symbol for x in structures.values() for symbol in x.elements}
        openmx_basis(dft_data, [species[symbol] for symbol in sorted(elements)])
        dft_data = dft_data.resolve()
    paths = []
    for name, structure in structures.items():
        path = folder / name / f"{name}.dat"
        write_openmx_input(path, structure, species, settings, dft_data, overwrite=overwrite)
        paths.append(path)
    return paths


def _name(file: Path) -> str:
    """Return a name of a structure that OpenMX takes: no blanks."""
    name = file.stem
    if file.name.upper() in ("POSCAR", "CONTCAR"):
        name = file.resolve().parent.name
    elif file.name.upper().startswith(("POSCAR.", "CONTCAR.")):
        name = file.name.split(".", 1)[1]
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)


def _check(
    path: Path,
    structure: Structure,
    species: Mapping[str, OpenMXSpecies],
    settings: OpenMXSettings,
) -> None:
    read = read_openmx_input(path)
    moved = max(
        float(np.abs(mine * ANGSTROM_PER_BOHR - other * ANGSTROM_PER_OPENMX_BOHR).max())
        for mine, other in (
            (structure.pos_ic, read.structure.pos_ic),
            (structure.cell_cc, read.structure.cell_cc),
        )
    )
    wanted = [(species[symbol].name, species[symbol].pseudopotential)
              for symbol in structure.symbols]  # fmt: skip
    found = [(label.orbitals, label.pseudopotential) for label in read.labels_i]
    kgrid = settings.kgrid(structure)
    if moved > SAME_PLACE or found != wanted or (read.kgrid, read.spin) != (kgrid, "off"):
        raise RuntimeError(f"{path} reads as another calculation than was written")


def _numbers(values: object, digits: int = 12) -> str:
    return " ".join(f"{value:.{digits}f}" for value in np.asarray(values, dtype=np.float64))
