"""`hamgnn-solve --hamiltonian`: given H and S, against LAPACK and what OpenMX prints."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import shared_path
from given_models import (
    CELL,
    STRUCTURE,
    crystal,
    dense_energies,
    density_of,
    pairs_within,
    random_overlap,
    symmetric,
    write_scfout,
)
from mpi4py import MPI
from numpy.typing import NDArray
from pencil_models import chain, pencil_of, printed_bands
from scipy.special import expit

from hamgnn_solve.cli.given import solve_given
from hamgnn_solve.cli.main import main
from hamgnn_solve.cli.options import SolveOptions
from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.hamiltonian import check_same_structure
from hamgnn_solve.core.io.deeph import write_deeph
from hamgnn_solve.core.io.operator_file import write_operator_file
from hamgnn_solve.core.io.scfout import read_scfout
from hamgnn_solve.core.structure import Structure
from hamgnn_solve.core.units import ANGSTROM_PER_BOHR, EV_PER_HARTREE, HARTREE_PER_KELVIN
from hamgnn_solve.solver.bands import solve_bands
from hamgnn_solve.solver.fermi import thermal_level

COMM = MPI.COMM_WORLD
SYSTEMS = ["h2o", "c2h4", "si2", "gaas2", "mos2_k5", "mos2_2x2", "sic8", "h2o_nc"]
KPOINTS = "0 0 0; 0.5 0 -0.5; 0.13 -0.21 0.37"


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One empty folder, known to all ranks."""
    made = tmp_path_factory.mktemp("run") if COMM.rank == 0 else None
    yield Path(COMM.bcast(made))
    COMM.Barrier()


def results(run: Path) -> dict[str, Any]:
    """Return datasets in Hartree and the summary of a run folder, on every rank."""
    COMM.Barrier()
    with h5py.File(run / "results.h5") as h5:
        found = {name: h5[name][:] for name in ("kpoints", "band_index")}
        found["energies"] = h5["eigenvalues_eV"][:] / EV_PER_HARTREE
    return {**found, **json.loads((run / "summary.json").read_text())}


@pytest.mark.parallel
@pytest.mark.parametrize("kind", ["h5", "deeph"])
@pytest.mark.parametrize("spin", ["off", "on", "nc"])
def test_bands_are_lapacks_on_any_number_of_ranks(folder: Path, spin: str, kind: str) -> None:
    given = crystal(spin)
    file = folder / f"test.{kind}"
    if COMM.rank == 0:
        (write_operator_file if kind == "h5" else write_deeph)(file, given)
    COMM.Barrier()
    solve_given(
        SolveOptions(
            hamiltonian=str(file),
            electrons=14.0 if kind == "deeph" else None,
            kpoints=KPOINTS,
            bands=100,
            quiet=True,
            out=str(folder / "run"),
        ),
        COMM,
    )
    found = results(folder / "run")
    expected = np.array([dense_energies(given, k_c) for k_c in found["kpoints"]])
    # Reached 2e-13 Hartree.
    assert np.abs(found["energies"] - expected).max() < 1e-11
    assert found["band_index"][0].tolist() == list(range(1, expected.shape[1] + 1))
    assert (found["natoms"], found["norbitals"]) == (4, 20 if spin == "off" else 40)
    assert found["file_fermi_level_eV"] == pytest.approx(-0.1 * EV_PER_HARTREE)


@pytest.mark.parallel
def test_window_of_spinor_bands_lies_around_the_last_electron(folder: Path) -> None:
    given = crystal("nc")
    if COMM.rank == 0:
        write_operator_file(folder / "a.h5", given)
    COMM.Barrier()
    arguments = ["--hamiltonian", str(folder / "a.h5"), "--kpoints", "0.1 0.2 0.3", "--quiet"]
    assert main([*arguments, "--bands", "6", "--out", str(folder / "run")]) == 0
    found = results(folder / "run")
    # Fourteen electrons fill fourteen bands of spinors.
    assert found["band_index"].tolist() == [list(range(12, 18))]
    expected = dense_energies(given, np.array([0.1, 0.2, 0.3]))
    assert found["energies"][0] == pytest.approx(expected[11:17], abs=1e-11)
    assert found["fermi_level_eV"] == pytest.approx(
        EV_PER_HARTREE * 0.5 * (expected[13] + expected[14]), abs=1e-9
    )


@pytest.mark.parallel
def test_scfout_is_handed_out_to_the_ranks(folder: Path) -> None:
    pairs, norb_i = pairs_within(2.6), crystal().overlap.norb_i
    overlap = random_overlap(pairs, norb_i, 5)
    parts = [symmetric(pairs, norb_i, 8)]
    file = folder / "made.scfout"
    if COMM.rank == 0:
        write_scfout(file, "off", parts, [], overlap, [density_of(overlap, 7.0)], 14.0)
    COMM.Barrier()
    # The mesh of the run, three by one by two points, halved by time reversal.
    arguments = ["--hamiltonian", str(file), "--kpoints", "mesh", "--quiet", "--bands", "40"]
    assert main([*arguments, "--out", str(folder / "run")]) == 0
    found = results(folder / "run")
    assert len(found["kpoints"]) == 3
    pencil = pencil_of(parts[0], overlap)
    expected = solve_bands(pencil, found["kpoints"], 14.0, 40)
    # Reached 4e-16 Hartree.
    assert np.abs(found["energies"] - expected.eigenvalues_kn).max() < 1e-11


# One run a system serves both tests of it.
@pytest.fixture(scope="module", params=SYSTEMS)
def solved(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """All bands on OpenMX's own k mesh, through the sparse solver."""
    name: str = request.param
    out = tmp_path_factory.mktemp(name)
    file = shared_path("oracle/openmx") / name / f"{name}.scfout.xz"
    options = SolveOptions(
        hamiltonian=str(file), kpoints="mesh", bands=1000, quiet=True, out=str(out)
    )
    solve_given(options, COMM)
    return {**results(out), "name": name}


def printed(name: str) -> NDArray[np.float64]:
    """Return the eigenvalues that OpenMX prints, one row a k-point."""
    file = shared_path("oracle/openmx") / name / f"{name}.out"
    if name != "h2o_nc":
        return np.array([energies_n for _, energies_n in printed_bands(file)])
    text = file.read_text(encoding="latin-1")
    text = text[text.index("for non-collinear KS-eq.") :]
    return np.array(
        [re.findall(r"^\s+\d+\s+(-?\d+\.\d{10,})\s*$", text, re.MULTILINE)], dtype=float
    )


def test_every_eigenvalue_that_openmx_prints(solved: dict[str, Any]) -> None:
    found, printed_kn = solved, printed(solved["name"])
    bands = printed_kn.shape[1]
    assert len(found["energies"]) == len(printed_kn)
    assert found["energies"].shape[1] == bands
    # Reached 2.3e-7 Hartree (SiC), 2.1e-7 (Si), at most 3.3e-8 elsewhere; with spin-orbit
    # coupling 2.5e-9.
    assert np.abs(found["energies"] - printed_kn).max() < 5e-7
    assert np.array_equal(found["band_index"][-1], np.arange(1, bands + 1))


def test_fermi_level_of_openmx(solved: dict[str, Any]) -> None:
    """All these systems have a gap, in which OpenMX's search may stop anywhere.

    What its level, temperature and k weights do fix is the number of electrons; the middle of the
    gap is fixed by the printed eigenvalues.
    """
    found, name, printed_kn = solved, solved["name"], printed(solved["name"])
    data = read_scfout(shared_path("oracle/openmx") / name / f"{name}.scfout.xz")
    per_band = 1 if name == "h2o_nc" else 2
    filled = round(data.electrons) // per_band
    top, bottom = printed_kn[:, filled - 1].max(), printed_kn[:, filled].min()
    level = found["fermi_level_eV"] / EV_PER_HARTREE
    # Reached 2.4e-10 Hartree.
    assert level == pytest.approx(0.5 * (top + bottom), abs=1e-8)
    assert top < data.chemical_potential < bottom
    assert found["file_fermi_level_eV"] == pytest.approx(data.chemical_potential * EV_PER_HARTREE)
    warmth = data.electronic_temperature * HARTREE_PER_KELVIN
    weights_k = np.full(len(printed_kn), 2.0)
    weights_k[np.abs(found["kpoints"]).max(axis=1) < 1e-4] = 1.0
    weights_k /= weights_k.sum()
    filling_kn = expit((data.chemical_potential - found["energies"]) / warmth)
    # Reached 7e-15 electrons.
    assert per_band * weights_k @ filling_kn.sum(axis=1) == pytest.approx(data.electrons, abs=1e-10)
    # With a half electron less the level lies in the valence band, where it is sharp.
    levels = [
        thermal_level(x, 1, x.shape[1], weights_k, data.electrons - 0.5, warmth, per_band)
        for x in (found["energies"], printed_kn)
    ]
    assert levels[0] is not None
    # Reached 2.2e-10 Hartree.
    assert levels[0] == pytest.approx(levels[1], abs=1e-8)


def test_thermal_level_of_two_levels() -> None:
    # One electron on two bands at -1 and 1 and k_B T = 0.1: by symmetry the level is 0.
    energies_kn = np.array([[-1.0, 1.0]])
    one = np.ones(1)
    assert thermal_level(energies_kn, 1, 2, one, 2.0, 0.5) == pytest.approx(0.0, abs=1e-11)
    # Half an electron in a single level e: f = 1/4 of two, so mu = e - k_B T ln 3.
    lone = thermal_level(np.array([[0.3]]), 1, 1, one, 0.5, 0.02)
    assert lone == pytest.approx(0.3 - 0.02 * np.log(3.0), abs=1e-11)
    # Bands beyond the known ones could be filled: nothing can be said.
    assert thermal_level(energies_kn, 5, 20, one, 9.0, 0.5) is None


def test_temperature_moves_the_level_of_a_metal() -> None:
    pencil = pencil_of(*chain([-0.25], overlap=0.1))
    mesh = np.stack([np.arange(16) / 16, np.zeros(16), np.zeros(16)], axis=1)
    cold = solve_bands(pencil, mesh, 0.7)
    warm = solve_bands(pencil, mesh, 0.7, temperature=0.01)
    energies = cold.eigenvalues_kn.ravel()
    assert 2 * expit((warm.fermi_level - energies) / 0.01).mean() == pytest.approx(0.7, abs=1e-10)
    assert warm.fermi_level != cold.fermi_level


def test_weights_of_a_mesh_count() -> None:
    pencil = pencil_of(*chain([-0.25], overlap=0.1))
    whole = np.stack([np.arange(8) / 8, np.zeros(8), np.zeros(8)], axis=1)
    weights = np.array([1.0, 2.0, 2.0, 2.0, 1.0]) / 8
    for electrons in (0.5, 1.1):
        half = solve_bands(pencil, whole[:5], electrons, weights_k=weights)
        assert half.fermi_level == pytest.approx(
            solve_bands(pencil, whole, electrons).fermi_level, abs=1e-9
        )


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Run the command on input it must refuse; returns rank 0's one sentence."""
    assert main([str(x) for x in arguments]) == 2
    captured = capsys.readouterr()
    lines = COMM.bcast(captured.err if COMM.rank == 0 else None).splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("hamgnn-solve: ")
    return str(lines[0])


@pytest.mark.parallel
def test_what_cannot_be_solved(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    if COMM.rank == 0:
        write_operator_file(folder / "a.h5", crystal(electrons=None))
        write_deeph(folder / "d", crystal())
        (folder / "cut.h5").write_bytes((folder / "a.h5").read_bytes()[:5000])
        (folder / "a.txt").write_text("text")
        (folder / "text.scfout").write_text("text")
    COMM.Barrier()
    out = ("--quiet", "--out", folder / "run")
    given = ("--hamiltonian",)
    assert "--electrons N" in refused(capsys, *given, folder / "a.h5", *out)
    assert "--electrons N" in refused(capsys, *given, folder / "d", *out)
    many = refused(capsys, *given, folder / "d", *out, "--electrons", "50", "--kpath", "none")
    assert "do not fit" in many
    mesh = refused(capsys, *given, folder / "d", *out, "--electrons", "14", "--kpoints", "mesh")
    assert "does not tell the k mesh" in mesh
    assert "not a whole HDF5 file" in refused(capsys, *given, folder / "cut.h5", *out)
    assert "There is no file" in refused(capsys, *given, folder / "none.h5", *out)
    assert "There is no file" in refused(capsys, *given, folder / "none.scfout", *out)
    assert "cannot be told from its name" in refused(capsys, *given, folder / "a.txt", *out)
    assert "header" in refused(capsys, *given, folder / "text.scfout", *out)
    assert "Give a structure file" in refused(capsys, "--quiet")
    assert "positive" in refused(capsys, *given, folder / "d", "--electrons", "-1")
    assert "--electrons is for" in refused(capsys, "a.cif", "--electrons", "8")


POSCAR = """test
1.0
{cell}
Mo S H S
1 1 1 1
Cartesian
{atoms}
"""


@pytest.mark.parallel
def test_structure_beside_a_hamiltonian_is_compared(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    moved = STRUCTURE.pos_ic.copy()
    if COMM.rank == 0:
        write_operator_file(folder / "a.h5", crystal())
        for name in ("same", "moved"):
            # Another image of an atom is the same atom.
            moved[1] += CELL[0]
            moved[2, 0] += 0.0 if name == "same" else 0.5
            rows = [
                "\n".join(" ".join(map(str, row * ANGSTROM_PER_BOHR)) for row in table)
                for table in (CELL, moved)
            ]
            (folder / f"{name}.vasp").write_text(POSCAR.format(cell=rows[0], atoms=rows[1]))
    COMM.Barrier()
    given = ["--hamiltonian", str(folder / "a.h5"), "--out", str(folder / "run"), "--quiet"]
    assert main([str(folder / "same.vasp"), *given, "--kpath", "none"]) == 0
    capsys.readouterr()
    message = refused(capsys, str(folder / "moved.vasp"), *given)
    assert "atom 3 (H) 0.265 Angstrom elsewhere" in message


def test_other_cell_and_other_elements_are_told() -> None:
    stretched = Structure(STRUCTURE.symbols, STRUCTURE.pos_ic, 1.01 * CELL)
    with pytest.raises(InputError, match="has another cell"):
        check_same_structure(STRUCTURE, stretched, "a.cif")
    swapped = Structure(("S", "Mo", "H", "S"), STRUCTURE.pos_ic, CELL)
    with pytest.raises(InputError, match="other elements"):
        check_same_structure(STRUCTURE, swapped, "a.cif")


def test_run_folder_is_named_after_the_hamiltonian() -> None:
    assert SolveOptions(hamiltonian="a/mos2.scfout.xz").run_folder == Path("mos2.hamgnn")
    assert SolveOptions(hamiltonian="a/deeph-folder").run_folder == Path("deeph-folder.hamgnn")


@pytest.mark.parallel
def test_predicted_matrices_give_the_same_bands(bilayer_file: Path, folder: Path) -> None:
    kpoints = ["--kpoints", "0 0 0; 0.2 0.1 0", "--bands", "8", "--quiet"]
    first = [str(bilayer_file), "--write-matrices", "--out", str(folder / "run")]
    assert main([*first, *kpoints]) == 0
    written = str(folder / "run" / "matrices.h5")
    second = [str(bilayer_file), "--hamiltonian", written, "--out", str(folder / "again")]
    assert main([*second, *kpoints]) == 0
    predicted, given = results(folder / "run"), results(folder / "again")
    assert np.array_equal(predicted["band_index"], given["band_index"])
    # The model's energy shift is in the written H. Reached 6e-16 Hartree.
    assert np.abs(predicted["energies"] - given["energies"]).max() < 1e-10
    assert predicted["gap_eV"] == pytest.approx(given["gap_eV"], abs=1e-8)


def test_matrices_are_written_of_predictions_only() -> None:
    with pytest.raises(InputError, match="hamgnn-tools convert"):
        SolveOptions(hamiltonian="a.h5", write_matrices=True)
