"""A folder of structures becomes a table, whatever happens to single ones."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from mpi4py import MPI

from hamgnn_solve.cli.options import SolveOptions
from hamgnn_solve.cli.solve import solve
from hamgnn_solve.cli.structure_runs import StructureRuns
from hamgnn_solve.cli.tools import main
from hamgnn_solve.core.io.screening import printed_table, read_row, write_record

SHEET = """{0}S2
1.0
{1} 0 0
{2} {3} 0
0 0 16
{0} S
1 2
Direct
0.3333333333 0.6666666667 0.5
0.6666666667 0.3333333333 0.598
0.6666666667 0.3333333333 0.402
"""
QUICK = ("--path-spacing", "0.4", "--bands", "12")


def write_sheet(file: Path, metal: str, lattice: float = 3.17) -> None:
    file.write_text(SHEET.format(metal, lattice, -lattice / 2, lattice * 3**0.5 / 2))


def table(out: Path) -> dict[str, dict[str, str]]:
    with (out / "table.csv").open() as file:
        return {row["structure"]: row for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def screened(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two sheets, a broken file and one of an unknown element, screened two at a time."""
    folder = tmp_path_factory.mktemp("screen") / "sheets"
    folder.mkdir()
    write_sheet(folder / "MoS2.vasp", "Mo")
    write_sheet(folder / "WS2.vasp", "W")
    write_sheet(folder / "SnS2.vasp", "Sn")
    (folder / "broken.cif").write_text("data_broken\n_cell_length_a what\n")
    (folder / "notes.txt").write_text("not a structure")
    out = folder.parent / "out"
    assert main(["screen", str(folder), "--out", str(out), "--jobs", "2", *QUICK]) == 0
    return folder, out


def test_table_has_a_row_for_each_structure(screened: tuple[Path, Path]) -> None:
    rows = table(screened[1])
    assert list(rows) == ["MoS2.vasp", "SnS2.vasp", "WS2.vasp", "broken.cif"]
    assert [row["status"] for row in rows.values()] == ["done", "refused", "done", "refused"]
    assert "No built-in model covers S, Sn" in rows["SnS2.vasp"]["reason"]
    assert "cannot be read as a crystal structure" in rows["broken.cif"]["reason"]
    for row in (rows["MoS2.vasp"], rows["WS2.vasp"]):
        # PBE gaps of the sheets in GPAW's dzp basis are 1.6 to 1.9 eV.
        assert 1.3 < float(row["gap_eV"]) < 2.2
        assert row["model"] == "tmd"
        assert row["unfamiliar_atoms"] == "0"
        assert float(row["seconds"]) > 0
    assert not (screened[1] / "runs").exists()
    assert not (screened[1] / "running").exists()


def test_figures_are_those_of_a_run(screened: tuple[Path, Path], tmp_path: Path) -> None:
    folder, out = screened
    options = SolveOptions(
        str(folder / "MoS2.vasp"),
        out=str(tmp_path / "run"),
        path_spacing=0.4,
        bands=12,
        quiet=True,
    )
    summary = solve(options, MPI.COMM_SELF)
    row = table(out)["MoS2.vasp"]
    for key in ("gap_eV", "vbm_eV", "cbm_eV", "fermi_level_eV"):
        assert float(row[key]) == pytest.approx(summary[key], abs=6e-5)
    assert row["gap_kind"] == summary["gap_kind"]
    with h5py.File(tmp_path / "run" / "results.h5") as run, h5py.File(out / "screening.h5") as h5:
        group = h5["MoS2.vasp"]
        # The network works in single precision, and sums in another order with more threads:
        # 2e-8 eV were seen.
        assert np.abs(group["eigenvalues_eV"][:] - run["eigenvalues_eV"][:]).max() < 1e-6
        assert np.array_equal(group["kpoints"], run["kpoints"])
        widths_n = np.ptp(run["eigenvalues_eV"][:], axis=0)
        highest = run["eigenvalues_eV"][:].max(axis=0) >= summary["vbm_eV"] - 1.0
        lowest = run["eigenvalues_eV"][:].min(axis=0) <= summary["cbm_eV"] + 1.0
        assert float(row["flattest_width_eV"]) == pytest.approx(
            widths_n[highest & lowest].min(), abs=6e-5
        )
        assert group.attrs["flat_bands"] == (widths_n[highest & lowest] < 0.05).sum()
        assert "gap_eV" not in h5["broken.cif"].attrs


def test_finished_structures_are_not_solved_again(
    screened: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = screened
    records = {file.name: file.stat().st_mtime_ns for file in (out / "records").iterdir()}
    # Another threshold needs no new run: all bands are narrower than 50 eV.
    command = ["screen", str(folder), "--out", str(out), *QUICK, "--flat-width", "50"]
    assert main(command) == 0
    captured = capsys.readouterr()
    assert "4 structures, 4 of them done already" in captured.err
    assert "narrower than 50 eV over the whole path" in captured.out
    assert int(table(out)["MoS2.vasp"]["flat_bands"]) >= 3
    assert {x.name: x.stat().st_mtime_ns for x in (out / "records").iterdir()} == records


def test_changed_file_and_options_are_noticed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "sheets", tmp_path / "out"
    folder.mkdir()
    write_sheet(folder / "SnS2.vasp", "Sn")
    command = ["screen", str(folder), "--out", str(out), *QUICK]
    assert main(command) == 0
    assert "No built-in model" in table(out)["SnS2.vasp"]["reason"]
    write_sheet(folder / "SnS2.vasp", "Mo")
    assert main([*command, "--keep-runs"]) == 0
    assert "0 of them done already" in capsys.readouterr().err.splitlines()[-2]
    assert table(out)["SnS2.vasp"]["status"] == "done"
    assert (out / "runs" / "SnS2.vasp.hamgnn" / "bands.png").exists()
    # Runs again, into the time limit.
    assert main([*command[:-1], "14", "--time-limit", "0.1"]) == 0
    assert "0 of them done already" in capsys.readouterr().err
    assert table(out)["SnS2.vasp"]["status"] == "failed"


def test_killed_screening_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = tmp_path / "sheets", tmp_path / "out"
    folder.mkdir()
    for n in range(2):
        write_sheet(folder / f"{n}.vasp", "Mo", 3.15 + 0.01 * n)
    command = ["screen", str(folder), "--out", str(out), *QUICK]
    names = ("OMPI_ALLOW", "OMPI_MCA_mpi_yield")
    environment = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(names) or not name.startswith(("OMPI_", "PMIX_", "ORTE_", "OPAL_"))
    }
    start = "import sys; from hamgnn_solve.cli.tools import main; sys.exit(main())"
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", start, *command], stderr=log, stdout=log, env=environment
        )
    first = out / "records" / "0.vasp.h5"
    for _ in range(6000):
        if first.exists():
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert first.exists(), (tmp_path / "log").read_text()
    made = first.stat().st_mtime_ns
    assert len(list((out / "records").glob("*.h5"))) == 1
    assert main(command) == 0
    assert "2 structures, 1 of them done already" in capsys.readouterr().err
    assert first.stat().st_mtime_ns == made
    assert [row["status"] for row in table(out).values()] == ["done"] * 2


def test_time_limit_fails_and_is_tried_again(tmp_path: Path) -> None:
    folder, out = tmp_path / "sheets", tmp_path / "out"
    folder.mkdir()
    write_sheet(folder / "MoS2.vasp", "Mo")
    command = ["screen", str(folder), "--out", str(out), *QUICK]
    assert main([*command, "--time-limit", "0.2"]) == 0
    row = table(out)["MoS2.vasp"]
    assert (row["status"], row["reason"]) == ("failed", "stopped at the time limit of 0.2 s")
    assert main(command) == 0
    assert table(out)["MoS2.vasp"]["status"] == "done"


def test_a_kill_from_outside_ends_one_run_alone(tmp_path: Path) -> None:
    write_sheet(tmp_path / "a.vasp", "Mo")
    write_sheet(tmp_path / "b.vasp", "Sn")
    runs = StructureRuns(tmp_path / "running", ["--kpath=none"], 1, None)
    found = {}
    popen = subprocess.Popen

    class Killed(popen):  # type: ignore[misc, valid-type]
        def __init__(self, command: list[str], **settings: object) -> None:
            super().__init__(command, **settings)
            if command[-1].endswith("a.vasp"):
                self.kill()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hamgnn_solve.cli.structure_runs.subprocess.Popen", Killed)
        runs.run_all(
            [tmp_path / "a.vasp", tmp_path / "b.vasp"], lambda file, x: found.update({file.name: x})
        )
    assert found["a.vasp"].status == "failed"
    assert "killed from outside" in found["a.vasp"].reason
    assert found["b.vasp"].status == "refused"


def test_a_metal_has_no_edges(tmp_path: Path) -> None:
    results = tmp_path / "results.h5"
    with h5py.File(results, "w") as h5:
        h5["eigenvalues_eV"] = np.array([[-1.0, 0.1], [-0.9, -0.1]])
        h5["band_index"] = np.array([[1, 2], [1, 2]])
        h5.attrs.update({"gap_eV": 0.0, "vbm_eV": np.nan, "cbm_eV": np.nan, "fermi_level_eV": 0.0})
        h5.attrs.update({"natoms": 1, "model": "x", "gap_kind": "metal"})
    record = tmp_path / "x.h5"
    write_record(record, "inputs", "done", 1.0, "", results)
    row = read_row("x.cif", record, 0.15, 0.5)
    assert (row.vbm_eV, row.cbm_eV, row.gap_eV) == (None, None, 0.0)
    # The lower band is flat but farther than 0.5 eV from the Fermi level.
    assert (row.flat_bands, row.flattest_band) == (0, 2)
    assert row.flattest_width_eV == pytest.approx(0.2)
    assert row.unfamiliar_atoms is None
    assert "metal" in printed_table([row])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--jobs", "0"], "must be a number of runs"),
        (["--time-limit", "0"], "must be a number of seconds"),
        (["--flat-width", "0"], "positive energy"),
        (["--model", "nothing"], "no built-in model nothing"),
        (["--bands", "1"], "at least 2"),
    ],
)
def test_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], says: str
) -> None:
    assert main(["screen", str(tmp_path), *options]) == 2
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_folders_without_structures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["screen", str(tmp_path / "none")]) == 2
    assert "There is no folder" in capsys.readouterr().err
    assert main(["screen", str(tmp_path)]) == 2
    assert "has no structure file" in capsys.readouterr().err
