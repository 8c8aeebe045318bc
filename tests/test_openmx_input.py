"""Reading OpenMX input files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import shared_path
from pencil_models import printed_bands

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.io.openmx_input import openmx_mesh, read_openmx_input

TEXT = """\
# A comment, and a keyword in capitals
SYSTEM.NAME test
scf.Kgrid   3  1 2   # the mesh
scf.ElectronicTemperature 450.0
Species.Number 2
<Definition.of.Atomic.Species
 Mo1 Mo7.0-s3p2d2 Mo_PBE19

 S   S7.0_OP-s2p2>1d1  S_PBE19   # optimised
Definition.of.Atomic.Species>
Atoms.Number 2
Atoms.SpeciesAndCoordinates.Unit Ang
<Atoms.SpeciesAndCoordinates
 1 Mo1 0.0 0.0 1.0 7.0 7.0
 2 S   1.0 0.5 2.5 3.0 3.0
Atoms.SpeciesAndCoordinates>
Atoms.UnitVectors.Unit Ang
<Atoms.UnitVectors
 4.0 0.0 0.0
 -2.0 3.0 0.0
 0.0 0.0 9.0d0
Atoms.UnitVectors>
"""
BOHR = 0.529177249


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_whole_input(tmp_path: Path) -> None:
    data = read_openmx_input(write(tmp_path / "a.dat", TEXT))
    assert data.structure.symbols == ("Mo", "S")
    assert data.structure.cell_cc * BOHR == pytest.approx(
        np.array([[4, 0, 0], [-2, 3, 0], [0, 0, 9]]), abs=1e-14
    )
    assert data.structure.pos_ic[1] * BOHR == pytest.approx([1.0, 0.5, 2.5], abs=1e-14)
    assert [label.orbitals for label in data.labels_i] == ["Mo7.0-s3p2d2", "S7.0_OP-s2p2>1d1"]
    assert data.labels_i[0].shell_l == (0, 0, 0, 1, 1, 2, 2)
    assert data.labels_i[1].shell_l == (0, 0, 1, 2)
    assert data.labels_i[1].pseudopotential == "S_PBE19"
    assert (data.kgrid, data.temperature, data.spin) == ((3, 1, 2), 450.0, "off")


def test_defaults_are_those_of_openmx(tmp_path: Path) -> None:
    lines = [x for x in TEXT.splitlines() if not x.startswith("scf.") and ".Unit " not in x]
    data = read_openmx_input(write(tmp_path / "a.dat", "\n".join(lines)))
    assert (data.kgrid, data.temperature, data.spin) == ((1, 1, 1), 300.0, "off")
    assert data.structure.pos_ic[0, 2] * BOHR == pytest.approx(1.0)


def test_units(tmp_path: Path) -> None:
    in_bohr = read_openmx_input(write(tmp_path / "a.dat", TEXT.replace("Unit Ang", "Unit AU")))
    assert in_bohr.structure.cell_cc[2, 2] == 9.0
    assert in_bohr.structure.pos_ic[1].tolist() == [1.0, 0.5, 2.5]
    text = TEXT.replace("Coordinates.Unit Ang", "Coordinates.Unit FRAC").replace(
        "1.0 0.5 2.5", "0.25 0.5 0.75"
    )
    fractional = read_openmx_input(write(tmp_path / "b.dat", text))
    assert fractional.structure.fractional_ic[1] == pytest.approx([0.25, 0.5, 0.75])


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("<Atoms.UnitVectors\n", "", "no block <Atoms.UnitVectors"),
        ("Atoms.UnitVectors>", "", "does not end"),
        (" -2.0 3.0 0.0\n", "", "has 2 lines, not three"),
        ("-2.0 3.0", "-2.0 three", "Line 20 of .*not a number"),
        ("1.0 0.5 2.5 3.0 3.0", "1.0 0.5", "Line 15 of .*three coordinates"),
        (" 2 S ", " 2 W ", "Line 15 of .*not among Mo1, S"),
        ("Mo7.0-s3p2d2", "Mo7.0", "Line 7 of .*must name a species"),
        ("S7.0_OP", "Xx7.0", "Line 9 of .*must name a species"),
        ("Atoms.Number 2", "Atoms.Number 3", "lists 2 atoms"),
        ("3  1 2", "3  0 2", "positive whole numbers"),
        ("3  1 2", "3  1", "positive whole numbers"),
        ("450.0", "-1", "below zero"),
        ("Vectors.Unit Ang", "Vectors.Unit nm", "must be Ang or AU"),
        ("SYSTEM.NAME test", "scf.SpinPolarization yes", "off, on or nc"),
        ("1.0 0.5 2.5", "0.0 0.0 1.1", "closer than 0.4"),
    ],
)
def test_faults_are_told_in_one_sentence(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert old in TEXT
    with pytest.raises(InputError, match=says):
        read_openmx_input(write(tmp_path / "a.dat", TEXT.replace(old, new)))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_openmx_input(tmp_path / "none.dat")


def test_mesh_halved_by_time_reversal_is_the_whole_mesh() -> None:
    whole = openmx_mesh((3, 1, 4), time_reversal=False)
    half = openmx_mesh((3, 1, 4), time_reversal=True)
    assert (len(whole.weights_k), len(half.weights_k)) == (12, 6)
    assert half.weights_k.sum() == pytest.approx(1.0, abs=1e-15)
    # Each point of the whole mesh is a kept one or, to OpenMX's small shifts, minus a kept one.
    both = np.concatenate([half.kpoints_kc, -half.kpoints_kc])
    distance = np.abs(whole.kpoints_kc[:, None] - both[None]).max(axis=2).min(axis=1)
    assert distance.max() < 5e-6
    assert openmx_mesh((3, 1, 1), time_reversal=True).weights_k == pytest.approx([2 / 3, 1 / 3])


@pytest.mark.parametrize(
    "name", ["h2o", "c2h4", "si2", "gaas2", "mos2_k5", "mos2_2x2", "sic8", "h2o_nc"]
)
def test_mesh_is_the_one_openmx_prints(name: str) -> None:
    folder = shared_path("oracle/openmx") / name
    data = read_openmx_input(folder / f"{name}.dat")
    printed_kc = np.array([k_c for k_c, _ in printed_bands(folder / f"{name}.out")])
    # Printed with five decimals.
    assert np.abs(printed_kc - data.mesh.kpoints_kc).max() < 5e-6
    assert data.temperature == 100.0
