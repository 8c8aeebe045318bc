"""Read and write crystal files with pymatgen."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from pymatgen.core import Lattice
from pymatgen.core import Structure as PymatgenStructure
from pymatgen.io.cif import CifParser, CifWriter
from pymatgen.io.vasp.inputs import Poscar

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.structure import Structure
from hamgnn_solve.core.units import ANGSTROM_PER_BOHR

__all__ = [
    "check_new_file",
    "read_structure",
    "read_structures",
    "structure_files",
    "write_structure",
]

# Decimals of fractions, lengths (Angstrom) and angles (degrees) in CIF files.
CIF_DECIMALS = 14
FRAMES = (".xyz", ".extxyz")
# Names by which pymatgen tells the formats.
PATTERNS = ("*.cif", "*POSCAR*", "*CONTCAR*", "*.vasp", "*.xsf", "*.cssr", "*.json")


def read_structure(path: str | Path) -> Structure:
    """Read a crystal file: CIF, POSCAR/CONTCAR, XSF, CSSR or pymatgen JSON.

    Parameters
    ----------
    path : str or Path
        The file; its format is told from its name, as pymatgen does.

    Returns
    -------
    Structure
        The cell as the file states it (symmetry expanded, not reduced to a primitive cell).

    Raises
    ------
    InputError
        For a missing or unreadable file, sites shared by several elements or partly occupied,
        and everything that `Structure` refuses.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no file {path}; check the name of the structure file.")
    crystal = _parse(path)
    for number, site in enumerate(crystal, start=1):
        if not site.is_ordered:
            raise InputError(
                f"Site {number} of {path} is occupied partly or by several elements "
                f"({site.species_string}); make an ordered cell (pymatgen's "
                "OrderDisorderedStructureTransformation does it) and give that."
            )
    symbols = tuple(site.specie.symbol for site in crystal)
    pos_ic = np.array(crystal.cart_coords, dtype=np.float64) / ANGSTROM_PER_BOHR
    cell_cc = np.array(crystal.lattice.matrix, dtype=np.float64) / ANGSTROM_PER_BOHR
    return Structure(symbols, pos_ic, cell_cc)


def read_structures(path: str | Path) -> list[Structure]:
    """Read every structure of a file: all frames of extended XYZ, or what `read_structure` reads.

    Raises
    ------
    InputError
        As `read_structure`; for extended XYZ also when ASE is missing or a frame has no cell.
    """
    path = Path(path)
    if path.suffix.lower() not in FRAMES:
        return [read_structure(path)]
    try:
        from ase.io import read
    except ImportError as error:
        raise InputError(
            f"Reading {path} needs ASE, which is not installed; pip install ase."
        ) from error
    try:
        frames = read(path, index=":", format="extxyz")
    except Exception as error:  # ASE's parser raises many kinds for a malformed file
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise InputError(
            f"The file {path} cannot be read as extended XYZ ({reason}); mend it."
        ) from error
    structures = []
    for number, atoms in enumerate(frames, start=1):
        if atoms.cell.rank < 3:
            raise InputError(
                f"Frame {number} of {path} has no cell of three lattice vectors; write one with "
                'Lattice="..." in its second line, a molecule with vacuum around it.'
            )
        structures.append(
            Structure(
                tuple(atoms.get_chemical_symbols()),
                np.array(atoms.positions, dtype=np.float64) / ANGSTROM_PER_BOHR,
                np.array(atoms.cell.array, dtype=np.float64) / ANGSTROM_PER_BOHR,
            )
        )
    return structures


def structure_files(folder: Path) -> list[Path]:
    """Return the files of a folder whose names are those of structure files, by name.

    Raises
    ------
    InputError
        When there is no such folder, or no such file in it.
    """
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}; give one with structure files.")
    found = {file for pattern in PATTERNS for file in folder.glob(pattern) if file.is_file()}
    if not found:
        raise InputError(f"{folder} has no structure file; named {', '.join(PATTERNS)} they count.")
    return sorted(found)


def write_structure(path: str | Path, structure: Structure, overwrite: bool = False) -> None:
    """Write a crystal file: CIF or POSCAR, by its name.

    Atoms keep their order. A CIF holds lengths and angles but no orientation: read again, the first
    lattice vector lies in the xz plane, the third along z, and atoms outside the cell are back
    inside. A POSCAR keeps Cartesian coordinates. Both are right-handed: of a left-handed cell the
    second lattice vector is written with the opposite sign, which is the same crystal.

    Parameters
    ----------
    path : str or Path
        The file: `.cif`, or `.vasp` or a name with POSCAR or CONTCAR in it.
    structure : Structure
        What to write.
    overwrite : bool
        Replace an existing file.

    Raises
    ------
    InputError
        For a name of neither format, and a file that exists or cannot be written.
    """
    path = Path(path)
    check_new_file(path, overwrite)
    cell_cc = structure.cell_cc * ANGSTROM_PER_BOHR
    if np.linalg.det(cell_cc) < 0:
        cell_cc = cell_cc * np.array([[1.0], [-1.0], [1.0]])
    crystal = PymatgenStructure(
        Lattice(cell_cc),
        structure.symbols,
        structure.pos_ic * ANGSTROM_PER_BOHR,
        coords_are_cartesian=True,
    )
    if _format_to_write(path) == "cif":
        text = str(CifWriter(crystal, significant_figures=CIF_DECIMALS))
    else:
        text = Poscar(crystal).get_str(significant_figures=16)
    try:
        path.write_text(text)
    except OSError as error:
        raise InputError(f"The file {path} cannot be written ({error.strerror}).") from error


def check_new_file(path: str | Path, overwrite: bool = False) -> None:
    """Check that `write_structure` may write a file, before the work for it begins.

    Raises
    ------
    InputError
        For a name of neither format, a missing folder, and an existing file without `overwrite`.
    """
    path = Path(path)
    _format_to_write(path)
    if not path.parent.is_dir():
        raise InputError(f"There is no folder {path.parent} to write {path.name} to; make it.")
    if path.exists() and not overwrite:
        raise InputError(
            f"The file {path} exists; give another name, or --overwrite to replace it."
        )


def _format_to_write(path: Path) -> str:
    if path.suffix.lower() == ".cif":
        return "cif"
    if path.suffix == ".vasp" or "POSCAR" in path.name or "CONTCAR" in path.name:
        return "poscar"
    raise InputError(
        f"The name {path.name} tells no format to write; let it end in .cif, or in .vasp or hold "
        "POSCAR for a POSCAR."
    )


def _parse(path: Path) -> PymatgenStructure:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if path.suffix.lower() == ".cif":
                # The default tolerance would move atoms onto nearby ideal fractions.
                parser = CifParser(path, frac_tolerance=0.0, occupancy_tolerance=1.0)
                crystal = parser.parse_structures(primitive=False, on_error="raise")[0]
                return _in_file_order(crystal, parser)
            return PymatgenStructure.from_file(path, primitive=False)
    except Exception as error:  # pymatgen's parsers raise many kinds for a malformed file
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise InputError(
            f"The file {path} cannot be read as a crystal structure ({reason}); give a CIF, "
            "POSCAR, XSF, CSSR or pymatgen JSON file, named so that its format can be told."
        ) from error


def _in_file_order(crystal: PymatgenStructure, parser: CifParser) -> PymatgenStructure:
    """Undo pymatgen's sorting by element, so that messages name atoms as the file counts them."""
    block = next(iter(parser.as_dict().values()))
    labels = block.get("_atom_site_label", [])
    place = {label: number for number, label in reversed(list(enumerate(labels)))}
    if not all(site.label in place for site in crystal):
        return crystal
    return PymatgenStructure.from_sites(sorted(crystal, key=lambda site: place[site.label]))
