"""H and S in our HDF5, in DeepH's folders, as PETSc binaries and in sisl."""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import shared_path
from given_models import SHELLS, crystal, dense_energies
from numpy.typing import NDArray

from hamgnn_solve.cli.convert import add_convert
from hamgnn_solve.cli.given import read_hamiltonian
from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.hamiltonian import CrystalHamiltonian
from hamgnn_solve.core.io.deeph import read_deeph, write_deeph
from hamgnn_solve.core.io.deepx import read_deepx, write_deepx
from hamgnn_solve.core.io.operator_file import (
    append_rows,
    create_operator_file,
    read_half_reach,
    read_operator_file,
    write_operator_file,
)
from hamgnn_solve.core.io.scfout import scfout_hamiltonian
from hamgnn_solve.core.io.tshs import write_tshs
from hamgnn_solve.core.operator import BlockOperator, dense_matrix

GENERAL = np.array([0.13, -0.21, 0.37])


def same_blocks(left: BlockOperator | None, right: BlockOperator | None) -> float:
    """Return the largest difference of two operators that must have the same pairs."""
    assert (left is None) == (right is None)
    if left is None or right is None:
        return 0.0
    assert np.array_equal(left.pairs.first_p, right.pairs.first_p)
    assert np.array_equal(left.pairs.second_p, right.pairs.second_p)
    assert np.array_equal(left.pairs.shift_pc, right.pairs.shift_pc)
    assert np.abs(left.pairs.vector_pc - right.pairs.vector_pc).max(initial=0.0) < 1e-13
    return float(np.abs(left.values - right.values).max(initial=0.0))


def convert(*arguments: str | Path) -> None:
    """Run `hamgnn-tools convert`."""
    parser = argparse.ArgumentParser()
    add_convert(parser.add_subparsers())
    parsed = parser.parse_args(["convert", *map(str, arguments)])
    parsed.action(parsed)


@pytest.mark.parametrize("spin", ["off", "on", "nc"])
def test_our_file_gives_back_what_was_written(tmp_path: Path, spin: str) -> None:
    given = crystal(spin)
    write_operator_file(tmp_path / "a.h5", given)
    read = read_operator_file(tmp_path / "a.h5")
    for name in ("hamiltonian", "overlap", "imaginary", "zero"):
        assert same_blocks(getattr(given, name), getattr(read, name)) == 0.0
    assert read.system.shells_i == SHELLS
    assert read.system.structure.symbols == given.system.structure.symbols
    assert np.array_equal(read.system.structure.cell_cc, given.system.structure.cell_cc)
    assert (read.system.electrons, read.system.spinors) == (14.0, spin != "off")
    assert (read.system.temperature, read.system.chemical_potential) == (300.0, -0.1)
    assert read.system.mesh is not None
    assert read.system.mesh.weights_k.tolist() == [0.75, 0.25]


def test_rows_are_written_and_read_in_any_order(tmp_path: Path) -> None:
    given = crystal("nc", electrons=None)
    path = tmp_path / "a.h5"
    create_operator_file(path, given.system)
    for atoms in ([1, 2], [3], [0]):
        append_rows(path, given.rows_of(np.array(atoms)))
    whole = read_operator_file(path)
    assert whole.system.electrons is None
    assert same_blocks(given.hamiltonian, whole.hamiltonian) == 0.0
    for atoms in ([0, 2, 3], [1], []):
        owned = np.array(atoms, dtype=np.int64)
        part = read_operator_file(path, owned)
        assert same_blocks(given.rows_of(owned).hamiltonian, part.hamiltonian) == 0.0
        assert same_blocks(given.rows_of(owned).imaginary, part.imaginary) == 0.0
        assert same_blocks(given.rows_of(owned).overlap, part.overlap) == 0.0
    reach_i = read_half_reach(path)
    assert reach_i.max() <= 3.0
    assert reach_i.min() > 2.0


def damage(path: Path, how: str) -> None:
    with h5py.File(path, "r+") as h5:
        if how == "foreign":
            del h5.attrs["format"]
        elif how == "newer":
            h5.attrs["version"] = 99
        elif how == "no S":
            del h5["S"]
        elif how == "no cell":
            del h5["structure/cell"]
        elif how == "shells":
            h5["orbitals/l"][0] = 2
        elif how == "atom":
            h5["S/pairs"][0, 1] = 77
        elif how == "values":
            h5["H/values"][3] = np.inf


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("foreign", "not a file of H and S"),
        ("newer", "version 99"),
        ("no S", "holds no S"),
        ("no cell", "lacks an entry"),
        ("shells", "do not fit the orbitals"),
        ("atom", "not in the structure"),
        ("values", "not finite"),
    ],
)
def test_damaged_files_of_ours(tmp_path: Path, how: str, says: str) -> None:
    path = tmp_path / "a.h5"
    write_operator_file(path, crystal())
    damage(path, how)
    with pytest.raises(InputError, match=says) as error:
        read_operator_file(path)
    assert "a.h5" in str(error.value)


def test_cut_missing_and_unwritable_files_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write_operator_file(path, crystal())
    (tmp_path / "cut.h5").write_bytes(path.read_bytes()[:3000])
    with pytest.raises(InputError, match="not a whole HDF5 file"):
        read_operator_file(tmp_path / "cut.h5")
    with pytest.raises(InputError, match="There is no file"):
        read_operator_file(tmp_path / "none.h5")
    with pytest.raises(InputError, match="cannot be written"):
        write_operator_file(tmp_path, crystal())


def test_h_equal_to_h0_is_refused(tmp_path: Path) -> None:
    given = crystal()
    path = tmp_path / "zero.h5"
    write_operator_file(path, replace(given, zero=given.hamiltonian))
    with pytest.raises(InputError, match=r"zero.h5 H equals H0"):
        read_operator_file(path)


@pytest.mark.parametrize("spin", ["off", "on", "nc"])
def test_folder_of_deeph_gives_back_what_was_written(tmp_path: Path, spin: str) -> None:
    given = crystal(spin)
    write_deeph(tmp_path / "d", given)
    read = read_deeph(tmp_path / "d")
    assert read.system.shells_i == SHELLS
    assert read.system.spinors == (spin != "off")
    # DeepH knows no electrons. Positions, energies: eV and Angstrom and back.
    assert read.system.electrons is None
    assert read.system.chemical_potential == pytest.approx(-0.1, abs=1e-15)
    assert np.abs(read.system.structure.pos_ic - given.system.structure.pos_ic).max() < 1e-14
    assert same_blocks(given.hamiltonian, read.hamiltonian) < 1e-15
    assert same_blocks(given.overlap, read.overlap) == 0.0
    if spin == "nc":
        assert same_blocks(given.imaginary, read.imaginary) < 1e-15


def test_folder_of_deeph_is_as_deeph_defines_it(tmp_path: Path) -> None:
    given = crystal()
    write_deeph(tmp_path / "d", given)
    cell = np.loadtxt(tmp_path / "d/lat.dat")
    # Columns are the vectors, in Angstrom; those of the reciprocal cell include 2 pi.
    assert cell[:, 1] == pytest.approx(np.array([0.5, 6.0, 0.0]) * 0.529177249)
    assert np.loadtxt(tmp_path / "d/rlat.dat").T @ cell == pytest.approx(2 * np.pi * np.eye(3))
    assert np.loadtxt(tmp_path / "d/site_positions.dat").shape == (3, 4)
    assert np.loadtxt(tmp_path / "d/element.dat").tolist() == [42, 16, 1, 16]
    first = (tmp_path / "d/orbital_types.dat").read_text().splitlines()[0]
    assert first.split() == ["0", "1", "2"]
    info = json.loads((tmp_path / "d/info.json").read_text())
    assert (info["isspinful"], info["norbits"]) == (False, 20)
    assert info["fermi_level"] == pytest.approx(-2.72113845)
    pairs = given.hamiltonian.pairs
    p = int(np.flatnonzero((pairs.first_p == 0) & (pairs.second_p == 1))[0])
    r = pairs.shift_pc[p]
    with h5py.File(tmp_path / "d/hamiltonians.h5") as h5:
        block = h5[f"[{r[0]}, {r[1]}, {r[2]}, 1, 2]"][()]
    # Rows s, px py pz, 3z2-r2 x2-y2 xy xz yz for our s, y z x, xy yz 3z2-r2 xz x2-y2.
    ours = given.hamiltonian.block(p)[[0, 3, 1, 2, 6, 8, 4, 7, 5]][:, [0, 1, 4, 2, 3]]
    assert np.abs(block - 27.2113845 * ours).max() < 1e-13


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("lat.dat", None, "incomplete"),
        ("lat.dat", "1 0 0 0 1 0", "three rows"),
        ("lat.dat", "one two three", "not a table"),
        ("element.dat", "42 16 1", "different structures"),
        ("orbital_types.dat", "0 1\n0\n0\n0\n", "has shape"),
        ("orbital_types.dat", "0 1\n", "one line of l"),
        ("orbital_types.dat", "s p\n", "cannot be read"),
        ("info.json", "{", "not JSON"),
        ("overlaps.h5", None, "incomplete"),
        ("overlaps.h5", "text", "not a file of DeepH blocks"),
        ("hamiltonians.h5", None, "holds neither"),
    ],
)
def test_damaged_folders_of_deeph(tmp_path: Path, file: str, text: str | None, says: str) -> None:
    write_deeph(tmp_path / "d", crystal())
    (tmp_path / "d" / file).unlink()
    if text is not None:
        (tmp_path / "d" / file).write_text(text)
    with pytest.raises(InputError, match=says):
        read_deeph(tmp_path / "d")


def test_foreign_block_of_deeph(tmp_path: Path) -> None:
    write_deeph(tmp_path / "d", crystal())
    with h5py.File(tmp_path / "d/overlaps.h5", "r+") as h5:
        h5["[0, 0, 0, 5, 1]"] = np.zeros((1, 1))
    with pytest.raises(InputError, match="beyond 4"):
        read_deeph(tmp_path / "d")


def test_predicted_hamiltonians_of_deeph_are_read(tmp_path: Path) -> None:
    write_deeph(tmp_path / "d", crystal())
    shutil.move(tmp_path / "d/hamiltonians.h5", tmp_path / "d/hamiltonians_pred.h5")
    assert same_blocks(read_deeph(tmp_path / "d").hamiltonian, crystal().hamiltonian) < 1e-15


@pytest.mark.parametrize("spin", ["off", "on", "nc"])
def test_newer_folder_of_deeph_gives_back_what_was_written(tmp_path: Path, spin: str) -> None:
    given = crystal(spin)
    convert_to(tmp_path / "d", given, "deepx")
    read = read_hamiltonian(tmp_path / "d")
    assert read.system.shells_i == SHELLS
    assert (read.system.electrons, read.system.spinors) == (None, spin != "off")
    assert read.system.chemical_potential == pytest.approx(-0.1, abs=1e-15)
    assert np.abs(read.system.structure.pos_ic - given.system.structure.pos_ic).max() < 1e-13
    # Reached 4e-15 Hartree.
    assert np.abs(bands(read) - bands(given)).max() < 1e-13


def convert_to(target: Path, given: CrystalHamiltonian, kind: str) -> None:
    source = target.with_name("source.h5")
    write_operator_file(source, given)
    convert(source, target, "--to", kind)


def test_newer_folder_of_deeph_is_as_deeph_defines_it(tmp_path: Path) -> None:
    given = crystal("nc")
    write_deepx(tmp_path / "d", given)
    info = json.loads((tmp_path / "d/info.json").read_text())
    assert info["elements_orbital_map"] == {"Mo": [0, 1, 2], "S": [0, 0, 1], "H": [0]}
    assert (info["atoms_quantity"], info["orbits_quantity"], info["spinful"]) == (4, 20, True)
    assert given.imaginary is not None
    with h5py.File(tmp_path / "d/hamiltonian.h5") as h, h5py.File(tmp_path / "d/overlap.h5") as s:
        table = h["atom_pairs"][:]
        assert np.array_equal(table, s["atom_pairs"][:])
        # A block that only S has is zero in H; one that both have stands in eV, rows of atom i.
        pairs = given.hamiltonian.pairs
        assert len(table) > len(pairs)
        p = int(np.flatnonzero((pairs.first_p == 0) & (pairs.second_p == 1))[0])
        wanted = [*pairs.shift_pc[p], 0, 1]
        place = int(np.flatnonzero((table == wanted).all(axis=1))[0])
        start, stop = h["chunk_boundaries"][place : place + 2]
        block = h["entries"][start:stop].reshape(h["chunk_shapes"][place])
    expected = given.hamiltonian.block(p) + 1j * given.imaginary.block(p)
    assert block.shape == (18, 10)
    assert np.abs(block - 27.2113845 * expected).max() < 1e-13


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        ("info.json", "{}", "does not tell the shells"),
        ("info.json", None, "cannot be read"),
        ("overlap.h5", None, "incomplete"),
        ("overlap.h5", "text", "not a file of DeepH blocks"),
        ("POSCAR", "text", "cannot be read as a crystal"),
        ("hamiltonian.h5", ("entries", np.zeros(7)), "do not fit"),
        ("hamiltonian.h5", ("chunk_shapes", np.ones((3, 2), dtype=int)), "do not fit"),
        ("hamiltonian.h5", ("atom_pairs", np.full((3, 5), 9)), "beyond 4"),
        ("hamiltonian.h5", ("atom_pairs", np.zeros((0, 5))), "no pairs"),
    ],
)
def test_damaged_newer_folders_of_deeph(
    tmp_path: Path, file: str, change: str | tuple[str, Any] | None, says: str
) -> None:
    write_deepx(tmp_path / "d", crystal())
    if isinstance(change, tuple):
        with h5py.File(tmp_path / "d" / file, "r+") as h5:
            del h5[change[0]]
            h5[change[0]] = change[1]
    else:
        (tmp_path / "d" / file).unlink()
        if change is not None:
            (tmp_path / "d" / file).write_text(change)
    with pytest.raises(InputError, match=says):
        read_deepx(tmp_path / "d")


def test_newer_layout_has_one_set_of_shells_an_element(tmp_path: Path) -> None:
    given = crystal()
    shells = (*SHELLS[:3], (0, 1, 0))
    mixed = replace(given, system=replace(given.system, shells_i=shells))
    with pytest.raises(InputError, match="Atoms of S have different shells"):
        write_deepx(tmp_path / "d", mixed)


def petsc_binary(path: Path) -> NDArray[np.float64]:
    """Read a real sparse matrix by the description of the format in PETSc's manual (MatLoad)."""
    data = path.read_bytes()
    kind, rows, columns, nonzeros = np.frombuffer(data, ">i4", 4)
    assert kind == 1211216
    counts = np.frombuffer(data, ">i4", rows, 16)
    place = np.frombuffer(data, ">i4", nonzeros, 16 + 4 * rows)
    values = np.frombuffer(data, ">f8", nonzeros, 16 + 4 * (rows + nonzeros))
    assert len(data) == 16 + 4 * rows + 12 * nonzeros
    matrix = np.zeros((rows, columns))
    matrix[np.repeat(np.arange(rows), counts), place] = values
    return matrix


@pytest.mark.parametrize("spin", ["off", "nc"])
def test_petsc_matrices_are_those_of_lapack(tmp_path: Path, spin: str) -> None:
    given = crystal(spin)
    write_operator_file(tmp_path / "a.h5", given)
    convert(
        tmp_path / "a.h5", tmp_path / "m", "--to", "petsc", "--kpoints", "0 0.5 0; 0.13 -0.21 0.37"
    )
    entries = json.loads((tmp_path / "m/matrices.json").read_text())["matrices"]
    assert [entry["embedding"] for entry in entries] == [spin == "nc", True]
    for entry in entries:
        h, s = (petsc_binary(tmp_path / "m" / entry[name]) for name in ("H", "S"))
        assert len(h) == entry["rows"]
        if entry["embedding"]:
            h, s = (x[0::2, 0::2] + 1j * x[1::2, 0::2] for x in (h, s))
        k_c = np.array(entry["k"])
        expected = dense_matrix(given.hamiltonian, k_c)
        if given.imaginary is not None:
            expected = expected + 1j * dense_matrix(given.imaginary, k_c)
        # Reached 3e-16.
        assert np.abs(h - expected).max() < 1e-14
        assert np.abs(s - dense_matrix(given.overlap_of_bands, k_c)).max() < 1e-14


def sisl_hamiltonian(path: Path) -> Any:
    """Return sisl's Hamiltonian of a file, and Hartree in sisl's eV."""
    sisl = pytest.importorskip("sisl", reason="sisl is not installed (pip install sisl)")
    hartree = 2 * sisl.unit.siesta.unit_convert("Ry", "eV")
    return sisl.get_sile(path).read_hamiltonian(), hartree


def test_sisl_opens_what_we_write(tmp_path: Path) -> None:
    given = crystal()
    write_tshs(tmp_path / "a.TSHS", given)
    hamiltonian, hartree = sisl_hamiltonian(tmp_path / "a.TSHS")
    for k_c in (np.zeros(3), GENERAL):
        # The file's Fermi level of -0.1 Hartree becomes zero.
        expected = dense_energies(given, k_c) + 0.1
        # Reached 2e-15 Hartree.
        assert np.abs(hamiltonian.eigh(k_c) / hartree - expected).max() < 1e-12
    geometry = hamiltonian.geometry
    assert [atom.no for atom in geometry.atoms] == [9, 5, 1, 5]
    bohr = geometry.cell[0, 0] / given.system.structure.cell_cc[0, 0]
    assert geometry.cell == pytest.approx(bohr * given.system.structure.cell_cc)
    assert geometry.xyz == pytest.approx(bohr * given.system.structure.pos_ic)
    # An element of one pair: atom 1, orbital 4, with atom 2 of a neighbouring cell, orbital 2.
    pairs = given.hamiltonian.pairs
    p = int(np.flatnonzero((pairs.first_p == 0) & pairs.shift_pc.any(axis=1))[0])
    j, shift = int(pairs.second_p[p]), tuple(pairs.shift_pc[p].tolist())
    column = geometry.sc_index(shift) * geometry.no + geometry.a2o(j)
    assert hamiltonian[4, column][0] / hartree == pytest.approx(
        given.hamiltonian.block(p)[4, 0]
        + 0.1 * given.overlap.block(int(given.overlap.pairs.position_of(pairs)[p]))[4, 0],
        abs=1e-12,
    )


def test_sisl_finds_the_bands_of_openmx(tmp_path: Path) -> None:
    given = scfout_hamiltonian(shared_path("oracle/openmx/mos2_k5/mos2_k5.scfout.xz"))
    convert(
        shared_path("oracle/openmx/mos2_k5/mos2_k5.scfout.xz"), tmp_path / "m.TSHS", "--to", "tshs"
    )
    hamiltonian, hartree = sisl_hamiltonian(tmp_path / "m.TSHS")
    k_c = np.array([0.2, -0.4, 0.0])
    level = given.system.chemical_potential
    assert level is not None
    found = hamiltonian.eigh(k_c) / hartree + level
    # Reached 1.5e-9 Hartree: OpenMX's blocks (i, j, R) and (j, i, -R) differ by 3e-10.
    assert np.abs(found - dense_energies(given, k_c)).max() < 1e-8


def test_tshs_files_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Spinors are not written"):
        write_tshs(tmp_path / "a.TSHS", crystal("nc"))
    with pytest.raises(InputError, match=r"ending \.TSHS"):
        write_tshs(tmp_path / "a.txt", crystal())
    with pytest.raises(InputError, match="cannot be written"):
        write_tshs(tmp_path / "none" / "a.TSHS", crystal())


def bands(given: CrystalHamiltonian) -> NDArray[np.float64]:
    return dense_energies(given, GENERAL)


@pytest.mark.parametrize("spin", ["off", "nc"])
def test_a_chain_of_conversions_keeps_the_bands(tmp_path: Path, spin: str) -> None:
    given = crystal(spin)
    write_operator_file(tmp_path / "a.h5", given)
    convert(tmp_path / "a.h5", tmp_path / "d", "--to", "deeph")
    convert(tmp_path / "d", tmp_path / "b.h5", "--to", "h5")
    read = read_hamiltonian(tmp_path / "b.h5")
    # Reached 4e-15 Hartree.
    assert np.abs(bands(read) - bands(given)).max() < 1e-13


def test_convert_adds_h0(tmp_path: Path) -> None:
    folder = shared_path("oracle/openmx/h2o")
    zero, whole = folder / "overlap.scfout.xz", folder / "h2o.scfout.xz"
    convert(whole, tmp_path / "a.h5", "--to", "h5", "--h0", zero)
    read = read_operator_file(tmp_path / "a.h5")
    assert read.zero is not None
    assert np.abs(read.hamiltonian.values - read.zero.values).max() > 0.1
    with pytest.raises(InputError, match="no place for H0"):
        convert(whole, tmp_path / "d", "--to", "deeph", "--h0", zero)
    with pytest.raises(InputError, match="cannot be told from its name"):
        convert(folder / "h2o.dat", tmp_path / "d", "--to", "deeph")
