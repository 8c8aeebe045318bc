"""Structures: what is refused, and reading crystal files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.io.structure import read_structure, write_structure
from hamgnn_solve.core.structure import Structure
from hamgnn_solve.core.units import ANGSTROM_PER_BOHR


def write_cif(file: Path, sites: str, cell: str = "3 3 3 90 90 90") -> Path:
    names = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    lines = [f"_cell_{name} {number}" for name, number in zip(names, cell.split(), strict=True)]
    loop = ["type_symbol", "label", "fract_x", "fract_y", "fract_z", "occupancy"]
    text = ["data_test", *lines, "loop_", *(f"_atom_site_{name}" for name in loop), sites]
    file.write_text("\n".join(text) + "\n")
    return file


def test_the_bilayer_is_read_as_written(bilayer_file: Path) -> None:
    structure = read_structure(bilayer_file)
    assert structure.elements == ("Mo", "S", "W")
    assert [structure.symbols.count(x) for x in structure.elements] == [7, 28, 7]
    # In the order of the file, and without rounding towards thirds (reached 3e-16).
    assert "".join(structure.symbols) == "Mo" * 7 + "S" * 14 + "W" * 7 + "S" * 14
    expected = [0.19047619047619052, 0.9523809523809523, 0.4480464084627196]
    assert np.abs(structure.fractional_ic[7] - expected).max() < 1e-14
    length = np.linalg.norm(structure.cell_cc[0]) * ANGSTROM_PER_BOHR
    assert abs(length - 8.387031656074752) < 1e-12


def test_poscar_and_cif_agree(tmp_path: Path, bilayer_file: Path) -> None:
    from pymatgen.core import Structure as PymatgenStructure

    structure = read_structure(bilayer_file)
    crystal = PymatgenStructure(
        structure.cell_cc * ANGSTROM_PER_BOHR, structure.symbols, structure.fractional_ic
    )
    crystal.to(str(tmp_path / "POSCAR"), fmt="poscar")
    again = read_structure(tmp_path / "POSCAR")
    assert again.symbols == structure.symbols
    # POSCAR is written with twelve decimals or more of each fraction.
    assert np.abs(again.pos_ic - structure.pos_ic).max() < 1e-9


def skewed_crystal(left_handed: bool) -> Structure:
    """Return a chiral triclinic crystal, somewhere in space, with atoms outside the cell."""
    random = np.random.default_rng(5)
    cell_cc = np.array([[9.0, 0.4, -0.8], [1.1, 10.0, 0.3], [-0.7, 2.1, 12.0]])
    turn_cc = np.linalg.qr(random.normal(size=(3, 3)))[0]
    cell_cc = cell_cc @ (turn_cc * np.sign(np.linalg.det(turn_cc)))
    if left_handed:
        cell_cc = cell_cc[[1, 0, 2]]
    symbols = ("Mo", "S", "Mo", "S", "S", "W")
    grid_ic = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 1, 1]]) / 2
    places_ic = grid_ic + random.uniform(-0.1, 0.1, (6, 3)) + np.array([[0, -1, 2]] * 6)
    return Structure(symbols, places_ic @ cell_cc, cell_cc)


@pytest.mark.parametrize("left_handed", [False, True])
@pytest.mark.parametrize("name", ["a.cif", "a.vasp", "POSCAR-a"])
def test_written_files_are_read_again(tmp_path: Path, name: str, left_handed: bool) -> None:
    structure = skewed_crystal(left_handed)
    write_structure(tmp_path / name, structure)
    again = read_structure(tmp_path / name)
    assert again.symbols == structure.symbols
    # What turns one cell into the other: a proper rotation, for a POSCAR none at all.
    handed_cc = structure.cell_cc * [[1], [-1 if left_handed else 1], [1]]
    turn_cc = np.linalg.solve(handed_cc, again.cell_cc)
    assert np.linalg.det(turn_cc) > 0
    assert np.abs(turn_cc @ turn_cc.T - np.eye(3)).max() < 1e-12
    if not name.endswith(".cif"):
        assert np.abs(turn_cc - np.eye(3)).max() < 1e-12
    # Every atom is where it was, modulo the lattice. Reached 4e-14 Angstrom.
    moved_ic = np.linalg.solve(again.cell_cc.T, (again.pos_ic - structure.pos_ic @ turn_cc).T).T
    error_ic = (moved_ic - np.round(moved_ic)) @ again.cell_cc
    assert np.abs(error_ic).max() * ANGSTROM_PER_BOHR < 1e-11


def test_the_example_is_written_as_it_is(tmp_path: Path, bilayer_file: Path) -> None:
    structure = read_structure(bilayer_file)
    write_structure(tmp_path / "again.cif", structure)
    again = read_structure(tmp_path / "again.cif")
    assert np.abs(again.cell_cc - structure.cell_cc).max() < 1e-12
    # One atom lies on the boundary: 0.9999999999999998 is read as 0.
    moved_ic = again.fractional_ic - structure.fractional_ic
    assert np.abs(moved_ic - np.round(moved_ic)).max() < 1e-13


def test_files_are_not_overwritten(tmp_path: Path, bilayer_file: Path) -> None:
    structure = read_structure(bilayer_file)
    file = tmp_path / "new.cif"
    file.write_text("precious")
    with pytest.raises(InputError, match=r"new\.cif exists; .*--overwrite"):
        write_structure(file, structure)
    assert file.read_text() == "precious"
    write_structure(file, structure, overwrite=True)
    assert read_structure(file).symbols == structure.symbols
    with pytest.raises(InputError, match=r"new\.xyz tells no format"):
        write_structure(tmp_path / "new.xyz", structure)
    with pytest.raises(InputError, match="There is no folder"):
        write_structure(tmp_path / "none" / "new.cif", structure)
    (tmp_path / "folder.cif").mkdir()
    with pytest.raises(InputError, match="cannot be written"):
        write_structure(tmp_path / "folder.cif", structure, overwrite=True)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"There is no file .*nothing\.cif"):
        read_structure(tmp_path / "nothing.cif")


@pytest.mark.parametrize("name", ["noise.cif", "POSCAR", "noise.txt"])
def test_unreadable_file(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_bytes(b"\x00\xffthis is not a crystal\n" * 3)
    with pytest.raises(InputError, match="cannot be read as a crystal structure"):
        read_structure(file)


def test_partial_occupancy(tmp_path: Path) -> None:
    file = write_cif(tmp_path / "half.cif", "Si Si1 0 0 0 1.0\nSi Si2 .5 .5 .5 0.5")
    with pytest.raises(InputError, match=r"Site 2 .* is occupied partly"):
        read_structure(file)


def test_mixed_site(tmp_path: Path) -> None:
    file = write_cif(tmp_path / "mixed.cif", "Mo A1 0 0 0 0.5\nW A2 0 0 0 0.5")
    with pytest.raises(InputError, match="by several elements"):
        read_structure(file)


def test_overlapping_atoms_are_named(tmp_path: Path) -> None:
    file = write_cif(tmp_path / "close.cif", "Si Si1 0 0 0 1\nS S1 .5 0 0 1\nO O1 .5 .1 0 1")
    with pytest.raises(InputError, match=r"Atoms 2 \(S\) and 3 \(O\) are 0\.300 Angstrom apart"):
        read_structure(file)


def test_an_atom_too_close_to_its_own_image_is_refused() -> None:
    with pytest.raises(InputError, match=r"Atoms 1 \(H\) and 1 \(H\)"):
        Structure(("H",), np.zeros((1, 3)), np.diag([0.5, 10.0, 10.0]))


@pytest.mark.parametrize(
    "cell",
    [np.zeros((3, 3)), np.array([[5.0, 0, 0], [0, 5.0, 0], [5.0, 5.0, 0]])],
    ids=["empty", "flat"],
)
def test_cell_without_volume(cell: np.ndarray) -> None:
    with pytest.raises(InputError, match="has no volume"):
        Structure(("H",), np.zeros((1, 3)), cell)


def test_flat_cell_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "POSCAR").write_text("flat\n1.0\n3 0 0\n0 3 0\n3 3 0\nSi\n1\nDirect\n0 0 0\n")
    with pytest.raises(InputError, match=r"has no volume|cannot be read"):
        read_structure(tmp_path / "POSCAR")


def test_numbers_that_are_not_finite() -> None:
    with pytest.raises(InputError, match="not a finite number"):
        Structure(("H",), np.array([[np.nan, 0, 0]]), 10 * np.eye(3))


def test_structure_without_atoms() -> None:
    with pytest.raises(InputError, match="no atoms"):
        Structure((), np.zeros((0, 3)), 10 * np.eye(3))
