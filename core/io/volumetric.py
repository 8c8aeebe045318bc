"""Functions on a grid as files that other programs draw: Gaussian cube, XSF of XCrySDen, HDF5.

The values come as blocks of planes along the first lattice vector, one after the other, so that
no process has to hold a whole function; only XSF, whose fastest axis is the first, needs it whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

import h5py
import numpy as np
from numpy.typing import NDArray
from pymatgen.core.periodic_table import Element

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.real_space.grid import Grid
from hamgnn_solve.core.structure import Structure
from hamgnn_solve.core.units import ANGSTROM_PER_BOHR

__all__ = ["VOLUMETRIC_ENDINGS", "check_volumetric_name", "write_volumetric"]

VOLUMETRIC_ENDINGS = (".cube", ".xsf", ".h5")


def check_volumetric_name(path: str | Path) -> None:
    """Raise `InputError` for a name that tells none of the formats, or a folder that is not there.

    Parameters
    ----------
    path : str or Path
        Must end in .cube, .xsf or .h5.
    """
    path = Path(path)
    if path.suffix not in VOLUMETRIC_ENDINGS:
        raise InputError(
            f"The format of {path} cannot be told from its name; let it end in "
            f"{', '.join(VOLUMETRIC_ENDINGS[:-1])} or {VOLUMETRIC_ENDINGS[-1]}."
        )
    if not path.parent.is_dir():
        raise InputError(f"The folder of {path} does not exist; make it first.")


def write_volumetric(
    path: str | Path,
    structure: Structure,
    grid: Grid,
    planes: Iterable[NDArray[np.float64]],
    title: str,
    unit: str,
) -> None:
    """Write a real function on a grid in the format that the name asks for.

    Parameters
    ----------
    path : str or Path
        Ends in .cube, .xsf or .h5; a file of that name is replaced when all is written.
    structure : Structure
        Its positions are written moved into the home cell.
    grid : Grid
    planes : iterable of ndarray, shape (planes, n2, n3) each
        The values, plane by plane along the first axis.
    title : str
        One line that says what the values are.
    unit : str
        Their unit, "electrons/Bohr^3" say.

    Raises
    ------
    InputError
        For another ending.
    """
    path = Path(path)
    check_volumetric_name(path)
    unfinished = path.with_name(path.name + ".new")
    heading = f"{title} [{unit}]"
    if path.suffix == ".h5":
        _write_h5(unfinished, structure, grid, planes, title, unit)
    else:
        write = _write_cube if path.suffix == ".cube" else _write_xsf
        with unfinished.open("w", encoding="ascii", errors="replace") as file:
            write(file, structure, grid, planes, heading)
    unfinished.replace(path)


def _numbers(structure: Structure) -> list[int]:
    return [Element(symbol).Z for symbol in structure.symbols]


def _home_positions(structure: Structure) -> NDArray[np.float64]:
    fractional_ic = structure.fractional_ic
    # Rounding must not move an atom on a face of the cell to the other one.
    return (fractional_ic - np.floor(fractional_ic + 1e-10)) @ structure.cell_cc


def _write_cube(
    file: TextIO,
    structure: Structure,
    grid: Grid,
    planes: Iterable[NDArray[np.float64]],
    heading: str,
) -> None:
    """Lengths in Bohr, values with the last axis fastest, a new line after each row of it."""
    file.write(f"{heading}\nhamgnn-solve; lengths in Bohr, no repeated end points\n")
    file.write(f"{structure.natoms:5d} {0.0:12.6f} {0.0:12.6f} {0.0:12.6f}\n")
    for count, step_c in zip(grid.shape, grid.step_cc, strict=True):
        file.write(f"{count:5d} " + " ".join(f"{x:15.10f}" for x in step_c) + "\n")
    for number, pos_c in zip(_numbers(structure), _home_positions(structure), strict=True):
        row = " ".join(f"{x:15.10f}" for x in pos_c)
        file.write(f"{number:5d} {float(number):12.6f} {row}\n")
    whole, rest = divmod(grid.shape[2], 6)
    line = " ".join(["%13.6E"] * 6) + "\n"
    last = " ".join(["%13.6E"] * rest) + "\n" if rest else ""
    form = line * whole + last
    for block in planes:
        for rows in block.reshape(-1, grid.shape[2]):
            file.write(form % tuple(rows.tolist()))


def _write_xsf(
    file: TextIO,
    structure: Structure,
    grid: Grid,
    planes: Iterable[NDArray[np.float64]],
    heading: str,
) -> None:
    """Lengths in Angstrom; a general grid, which repeats the first point of each axis at its end.

    http://www.xcrysden.org/doc/XSF.html
    """
    cell_cc = grid.cell_cc * ANGSTROM_PER_BOHR
    vectors = "".join("  ".join(f"{x:16.10f}" for x in row) + "\n" for row in cell_cc)
    file.write(f"# {heading}\nCRYSTAL\nPRIMVEC\n{vectors}PRIMCOORD\n{structure.natoms} 1\n")
    positions = _home_positions(structure) * ANGSTROM_PER_BOHR
    for number, pos_c in zip(_numbers(structure), positions, strict=True):
        file.write(f"{number:4d} " + " ".join(f"{x:16.10f}" for x in pos_c) + "\n")
    whole = np.concatenate(list(planes))
    whole = np.pad(whole, [(0, 1)] * 3, mode="wrap")
    counts = " ".join(str(n) for n in whole.shape)
    file.write("BEGIN_BLOCK_DATAGRID_3D\nhamgnn-solve\nBEGIN_DATAGRID_3D_values\n")
    file.write(f"{counts}\n0.0 0.0 0.0\n{vectors}")
    form = " ".join(["%13.6E"] * whole.shape[0]) + "\n"
    for plane in whole.T:
        for row in plane:
            file.write(form % tuple(row.tolist()))
    file.write("END_DATAGRID_3D\nEND_BLOCK_DATAGRID_3D\n")


def _write_h5(
    path: Path,
    structure: Structure,
    grid: Grid,
    planes: Iterable[NDArray[np.float64]],
    title: str,
    unit: str,
) -> None:
    with h5py.File(path, "w") as file:
        values = file.create_dataset("values", grid.shape, dtype="f8")
        values.attrs["unit"], values.attrs["title"] = unit, title
        first = 0
        for block in planes:
            values[first : first + len(block)] = block
            first += len(block)
        file["cell_A"] = grid.cell_cc * ANGSTROM_PER_BOHR
        file["positions_A"] = _home_positions(structure) * ANGSTROM_PER_BOHR
        file["numbers"] = np.array(_numbers(structure), dtype=np.int64)
