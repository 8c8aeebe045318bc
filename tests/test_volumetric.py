"""Grid files, read back by ASE and pymatgen."""

from __future__ import annotations

from pathlib import Path

import ase.io.cube
import ase.io.xsf
import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from pymatgen.io.common import VolumetricData

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.io.volumetric import write_volumetric
from hamgnn_solve.core.real_space.grid import Grid
from hamgnn_solve.core.structure import Structure
from hamgnn_solve.core.units import ANGSTROM_PER_BOHR

CELL = np.array([[7.0, 0.0, 0.0], [-2.0, 8.0, 0.0], [0.5, 1.0, 9.0]])
# The second atom lies outside the home cell.
STRUCTURE = Structure(("O", "Zn"), np.array([[1.0, 2.0, 3.0], [8.5, 9.0, 1.0]]), CELL)
GRID = Grid(CELL, (6, 7, 9))


def values() -> NDArray[np.float64]:
    """Return a function without any symmetry, its size spread over many powers of ten."""
    random = np.random.default_rng(2)
    return random.normal(size=GRID.shape) * 10.0 ** random.integers(-9, 2, size=GRID.shape)


def written(folder: Path, ending: str) -> Path:
    file = folder / f"density{ending}"
    function = values()
    # In blocks of unequal size, as ranks hand them over.
    blocks = [function[:1], function[1:4], function[4:]]
    write_volumetric(file, STRUCTURE, GRID, blocks, "a density", "electrons/Bohr^3")
    assert [path.name for path in folder.iterdir()] == [file.name]
    return file


def test_cube_is_read_by_ase(tmp_path: Path) -> None:
    with written(tmp_path, ".cube").open() as file:
        found = ase.io.cube.read_cube(file)
    assert found["atoms"].get_chemical_symbols() == ["O", "Zn"]
    assert found["origin"] == pytest.approx([0.0, 0.0, 0.0])
    assert np.abs(found["atoms"].cell - CELL * ANGSTROM_PER_BOHR).max() < 1e-6
    # Seven digits are written.
    assert np.abs(found["data"] - values()).max() < 1e-6 * np.abs(values()).max()
    integral = found["data"].sum() * found["atoms"].get_volume() / GRID.npoints
    expected = values().sum() * STRUCTURE.volume / GRID.npoints * ANGSTROM_PER_BOHR**3
    assert integral == pytest.approx(expected, rel=1e-5)
    fractional = found["atoms"].get_scaled_positions(wrap=False)
    assert ((fractional >= 0) & (fractional < 1)).all()
    difference = fractional - STRUCTURE.fractional_ic
    assert np.abs(difference - np.rint(difference)).max() < 1e-6


def test_cube_is_read_by_pymatgen(tmp_path: Path) -> None:
    found = VolumetricData.from_cube(str(written(tmp_path, ".cube")))
    assert [site.specie.symbol for site in found.structure] == ["O", "Zn"]
    # Pymatgen scales a cube by its volume.
    total = found.data["total"]
    ratio = total / values()
    assert np.abs(ratio / ratio[0, 0, 0] - 1.0).max() < 1e-5


def test_xsf_is_read_by_ase(tmp_path: Path) -> None:
    with written(tmp_path, ".xsf").open() as file:
        data, origin, span_cc, atoms = ase.io.xsf.read_xsf(file, read_data=True)
    # A general grid repeats its first point at the end of each axis.
    assert data.shape == tuple(n + 1 for n in GRID.shape)
    inner = data[:-1, :-1, :-1]
    assert np.abs(inner - values()).max() < 1e-6 * np.abs(values()).max()
    assert all(np.array_equal(np.take(data, -1, n), np.take(data, 0, n)) for n in range(3))
    assert np.abs(np.asarray(span_cc) - CELL * ANGSTROM_PER_BOHR).max() < 1e-6
    assert np.abs(np.asarray(origin)).max() == 0.0
    assert atoms.get_chemical_symbols() == ["O", "Zn"]
    assert np.abs(atoms.cell - CELL * ANGSTROM_PER_BOHR).max() < 1e-6


def test_h5_holds_the_function(tmp_path: Path) -> None:
    with h5py.File(written(tmp_path, ".h5")) as file:
        assert np.array_equal(file["values"][:], values())
        assert file["values"].attrs["unit"] == "electrons/Bohr^3"
        assert np.abs(file["cell_A"][:] - CELL * ANGSTROM_PER_BOHR).max() < 1e-12
        assert file["numbers"][:].tolist() == [8, 30]


def test_other_endings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"let it end in .cube, .xsf or .h5"):
        write_volumetric(tmp_path / "rho.vasp", STRUCTURE, GRID, [values()], "a", "b")
    with pytest.raises(InputError, match=r"folder of .* does not exist"):
        write_volumetric(tmp_path / "no" / "rho.cube", STRUCTURE, GRID, [values()], "a", "b")
