"""Inputs for OpenMX, its output files, and labels from its runs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.linalg
from conftest import shared_path
from pencil_models import printed_bands

from hamgnn_solve.cli.tools import main
from hamgnn_solve.core.basis.openmx_table import published_species
from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.io.openmx_input import ANGSTROM_PER_OPENMX_BOHR, read_openmx_input
from hamgnn_solve.core.io.openmx_output import read_openmx_output
from hamgnn_solve.core.io.openmx_writer import (
    OpenMXSettings,
    openmx_input_text,
    write_openmx_input,
)
from hamgnn_solve.core.io.scfout import read_scfout, scfout_hamiltonian, scfout_zero
from hamgnn_solve.core.io.structure import read_structure
from hamgnn_solve.core.model import Model
from hamgnn_solve.core.network.build import build_network
from hamgnn_solve.core.network.config import NetworkConfig
from hamgnn_solve.core.units import ANGSTROM_PER_BOHR
from hamgnn_solve.training import openmx_labels
from hamgnn_solve.training.band_loss import BandLoss
from hamgnn_solve.training.dataset import bloch_sum, training_structure
from hamgnn_solve.training.evaluate import evaluate
from hamgnn_solve.training.label_file import band_energies, labels_of, read_label
from hamgnn_solve.training.openmx_labels import collect_labels, openmx_label

SYSTEMS = ["h2o", "c2h4", "si2", "gaas2", "mos2_k5"]
FRAMES = """\
2
Lattice="3.0 0.0 0.0 0.0 3.0 0.0 0.0 0.0 20.0" Properties=species:S:1:pos:R:3 pbc="T T F"
B 0.0 0.0 9.0
N 1.5 1.5 9.1
1
Lattice="2.5 0.0 0.0 0.0 2.5 0.0 0.0 0.0 2.5" Properties=species:S:1:pos:R:3 pbc="T T T"
Li 0.0 0.0 0.0
"""


def run_of(name: str) -> Path:
    return shared_path("oracle/openmx") / name / f"{name}.scfout.xz"


def copied(folder: Path, name: str, *, into: str | None = None) -> Path:
    """Copy what collecting needs of a reference run into a folder that can be written."""
    target = folder / (into or name)
    target.mkdir(parents=True)
    for ending in ("scfout.xz", "out", "dat"):
        shutil.copy(run_of(name).with_name(f"{name}.{ending}"), target)
        (target / f"{name}.{ending}").chmod(0o644)
    return target


@pytest.mark.parametrize("name", SYSTEMS)
def test_labels_reproduce_what_openmx_printed(name: str) -> None:
    label = openmx_label(run_of(name), shared_path("dft_data19"))
    printed = printed_bands(run_of(name).with_name(f"{name}.out"))
    assert len(printed) == len(label.kpoints_kc)
    chosen = range(0, len(printed), 7)
    energies_kn = band_energies(label, np.array([printed[k][0] for k in chosen]))
    for row, k in enumerate(chosen):
        printed_n = printed[k][1]
        assert len(printed_n) > label.details["electrons"] / 2
        # Reached: 2.1e-7 Hartree (Si), as OpenMX's H itself.
        assert np.abs(energies_kn[row][: len(printed_n)] - printed_n).max() < 5e-7
        assert np.abs(label.eigenvalues_kn[k] - energies_kn[row]).max() < 1e-9
    assert label.details["eigenvalue_error_eV"] < 5e-7 * 27.3
    # Reached 1.3e-10.
    assert label.details["overlap_deviation"] < 1e-9
    # H0 of OpenMX itself, from the program that HamGNN's users build. Reached 1.2e-6 Hartree.
    zero = scfout_zero(run_of(name).with_name("overlap.scfout.xz"))
    assert label.h0_values is not None
    assert np.abs(label.h0_values - zero.values).max() < 5e-6
    hamiltonian = scfout_hamiltonian(run_of(name)).hamiltonian
    assert np.array_equal(label.h_values, hamiltonian.values)
    # H - H0 is as large as H, but most of it is a constant in the potential: without c S, what is
    # left for a network is 0.20 to 0.34 of H. (Of GaAs, with its 3d shell, it is 0.88.)
    rest, whole = (_without_overlap(x, label.s_values) for x in
                   (label.h_values - label.h0_values, label.h_values))  # fmt: skip
    assert 0.15 * whole < rest < (0.9 if name == "gaas2" else 0.35) * whole
    assert (label.basis, label.details["electrons"] % 2) == ("openmx", 0.0)


def _without_overlap(values: np.ndarray, overlap: np.ndarray) -> float:
    return float(np.linalg.norm(values - (overlap @ values) / (overlap @ overlap) * overlap))


def test_open_axes_are_those_without_pairs() -> None:
    data = shared_path("dft_data19")
    periodic = {x: openmx_label(run_of(x), data).periodic_c.tolist() for x in
                ("h2o", "mos2_k5", "si2")}  # fmt: skip
    assert periodic == {"h2o": [False] * 3, "mos2_k5": [True, True, False], "si2": [True] * 3}


def test_labels_go_into_training_and_evaluation() -> None:
    label = openmx_label(run_of("h2o"), shared_path("dft_data19"))
    network = build_network(
        NetworkConfig(
            irreps="4x0e+2x0o+2x1o+2x1e+2x2e+2x2o+1x3o+1x3e+1x4e", shells=(3, 2, 1), layers=1,
            cutoff=26.0, num_radial=4, invariant_layers=1, invariant_neurons=4, num_types=20,
            lmax=4, add_h0=True,
        )
    )  # fmt: skip
    species = published_species(14)
    model = Model("tiny", {symbol: species[symbol] for symbol in ("H", "O")}, network)
    assert label.species == {symbol: x.name for symbol, x in species.items() if symbol in "HO"}
    one = training_structure("h2o", label, model)
    assert int(one.present.sum()) == len(label.h_values)
    values = np.sort((label.h_values - label.h0_values).astype(np.float32))
    assert np.array_equal(np.sort(one.target[one.present].numpy()), values)
    # Band energies are those of H, not of H - H0.
    loss = BandLoss(weight=1.0, states=4, aligned=False)
    assert float(loss(one.target, one, np.zeros((1, 3)))) < 1e-12
    moved = one.target + 0.1 * one.overlap
    assert float(loss(moved, one, np.zeros((1, 3)))) == pytest.approx(0.1, abs=1e-6)
    h, s = (bloch_sum(x, one, np.zeros(3)).numpy() for x in (one.hamiltonian, one.overlap))
    levels = scipy.linalg.eigvalsh(h, s)
    # Single precision of the blocks: reached 2e-7 Hartree of what OpenMX prints.
    assert levels[3:5] == pytest.approx([-0.26162779, 0.03792207], abs=2e-6)
    errors = evaluate(model, "h2o", label)
    # HOMO and LUMO as OpenMX prints them.
    assert errors.label_gap == pytest.approx((0.03792207 + 0.26162779) * 27.211386, abs=1e-5)
    assert not np.isnan(errors.window)


def test_output_file() -> None:
    folder = shared_path("oracle/openmx")
    output = read_openmx_output(folder / "si2" / "si2.out")
    assert output.total_energy == -8.214448278377
    assert len(output.band_energies_t) == 12
    assert output.last_change == pytest.approx(2.410910376690 - 2.410910375641, abs=1e-15)
    assert (len(output.kpoints_kc), len(output.eigenvalues_k)) == (63, 63)
    assert {len(x) for x in output.eigenvalues_k} == {26}
    assert output.kpoints_kc[1].tolist() == [-0.4, -0.4, -0.2]
    molecule = read_openmx_output(folder / "h2o" / "h2o.out")
    assert molecule.kpoints_kc.tolist() == [[0.0, 0.0, 0.0]]
    assert molecule.eigenvalues_k[0][[0, 3]].tolist() == [-0.93376130704323, -0.26162779089500]


def test_unfinished_output_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.out").write_text("  SCF history at MD= 1\n   SCF=   1  NormRD=  1.0 Uele= 2.0\n")
    with pytest.raises(InputError, match="did not end"):
        read_openmx_output(tmp_path / "a.out")
    with pytest.raises(InputError, match="cannot be read"):
        read_openmx_output(tmp_path / "none.out")


def test_folder_is_collected_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = shared_path("dft_data19")
    runs, out = tmp_path / "runs", tmp_path / "labels.h5"
    for name in ("h2o", "c2h4"):
        copied(runs, name)
    shutil.copy(run_of("h2o").with_name("overlap.scfout.xz"), runs / "h2o")
    command = ["openmx", "collect", str(runs), "-o", str(out), "--dft-data", str(data)]
    assert main(command) == 2
    assert "1 of the .scfout files gave no label" in capsys.readouterr().err
    refused = (tmp_path / "labels.refused.txt").read_text()
    assert refused.startswith("h2o/overlap.scfout.xz: ")
    assert "this file holds H0, not a converged H" in refused
    (runs / "h2o" / "overlap.scfout.xz").unlink()
    # Labels that are there are not made again.
    monkeypatch.setattr(openmx_labels, "openmx_label", None)
    assert main(command) == 0
    assert not (tmp_path / "labels.refused.txt").exists()
    assert "0 labels added, 2 were there" in capsys.readouterr().out
    found = dict(labels_of(out))
    assert set(found) == {"h2o", "c2h4"}
    fresh = openmx_label(run_of("h2o"), data)
    assert np.array_equal(found["h2o"].h_values, fresh.h_values)
    assert found["h2o"].h0_values is not None
    with h5py.File(out) as file:
        assert read_label(file["c2h4"]).details["fermi_level"] == pytest.approx(
            read_scfout(run_of("c2h4")).chemical_potential
        )


def _no_output(run: Path) -> None:
    (run / "h2o.out").unlink()


def _not_converged(run: Path) -> None:
    path = run / "h2o.out"
    path.write_text(path.read_text().replace("Uele= -4.044955898403", "Uele= -4.044956898403"))


def _other_levels(run: Path) -> None:
    path = run / "h2o.out"
    path.write_text(path.read_text().replace(" -0.26162779089500", " -0.26164779089500"))


def _other_kpoints(run: Path) -> None:
    shutil.copy(run_of("si2").with_name("si2.out"), run / "h2o.out")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_no_output, r"h2o\.out is missing"),
        (_not_converged, "did not converge"),
        (_other_levels, "misses the eigenvalues of the .out file by 2.0e-05"),
        (_other_kpoints, "other k-points"),
    ],
)
def test_runs_that_make_no_label(tmp_path: Path, spoil: Callable[[Path], None], says: str) -> None:
    run = copied(tmp_path, "h2o")
    spoil(run)
    with pytest.raises(InputError, match=says):
        openmx_label(run / "h2o.scfout.xz", shared_path("dft_data19"))


def test_other_orbitals_are_told_by_their_overlap(tmp_path: Path) -> None:
    source = shared_path("dft_data19")
    for name in ("PAO/O6.0.pao", "PAO/H6.0.pao", "VPS/O_PBE19.vps", "VPS/H_PBE19.vps"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(source / name, tmp_path / name)
    path = tmp_path / "PAO" / "H6.0.pao"
    path.chmod(0o644)
    lines = path.read_text(encoding="latin-1").splitlines()
    start = lines.index("<pseudo.atomic.orbitals.L=0")
    for n in range(start + 1, start + 501):
        words = lines[n].split()
        words[2] = f"{float(words[2]) * 1.0001:.15e}"
        lines[n] = " ".join(words)
    path.write_text("\n".join(lines), encoding="latin-1")
    # The on-site element of a scaled orbital is 1.0001 squared.
    with pytest.raises(InputError, match=r"S in .* differs by 2\.0e-04"):
        openmx_label(run_of("h2o"), tmp_path)


def test_spin_is_refused() -> None:
    with pytest.raises(InputError, match="has spin"):
        openmx_label(run_of("h2o_nc"), shared_path("dft_data19"))


def test_folders_without_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match=r"no \.scfout file"):
        collect_labels(tmp_path, tmp_path, tmp_path / "labels.h5")
    for name in ("a.scfout", "a.scfout.xz"):
        (tmp_path / name).write_text("")
    with pytest.raises(InputError, match="would both be the label a"):
        collect_labels(tmp_path, tmp_path, tmp_path / "labels.h5")
    (tmp_path / "a.scfout.xz").unlink()
    assert main(["openmx", "collect", str(tmp_path), "-o", str(tmp_path / "x.h5")]) == 2
    assert "--dft-data or OPENMX_DFT_DATA" in capsys.readouterr().err


def test_written_input_is_the_structure(tmp_path: Path, bilayer_file: Path) -> None:
    structure = read_structure(bilayer_file)
    path = tmp_path / "bilayer" / "bilayer.dat"
    write_openmx_input(path, structure, published_species(26), OpenMXSettings(kspacing=0.4))
    read = read_openmx_input(path)
    assert read.structure.symbols == structure.symbols
    moved = read.structure.pos_ic * ANGSTROM_PER_OPENMX_BOHR - structure.pos_ic * ANGSTROM_PER_BOHR
    # Written with twelve decimals.
    assert np.abs(moved).max() < 1e-11
    # 2 pi / (8.34 A sin 60) = 0.87 / A in the plane, vacuum across.
    assert read.kgrid == (3, 3, 1)
    assert {x.orbitals for x in read.labels_i} == {"Mo7.0-s3p2d2", "W7.0-s3p2d2f1", "S7.0-s2p2d1"}
    electrons = sum(
        float(up) + float(down)
        for up, down in (
            line.split()[5:7]
            for line in path.read_text().splitlines()
            if len(line.split()) == 7
        )
    )  # fmt: skip
    assert electrons == sum({"Mo": 14, "W": 12, "S": 6}[x] for x in structure.symbols)


def keywords(text: str) -> dict[str, list[float | str]]:
    """Return what follows every keyword outside of blocks, numbers as numbers."""
    found: dict[str, list[float | str]] = {}
    for line in text.splitlines():
        words = line.split()
        if not words or "." not in words[0] or words[0][0] in "<-0123456789":
            continue
        if words[0].endswith(">") or words[0] in ("DATA.PATH", "MD.maxIter"):
            continue
        found[words[0]] = [
            float(x) if x.replace(".", "").replace("e-", "").isdigit() else x.lower()
            for x in words[1:]
        ]
    return found


@pytest.mark.parametrize(("name", "kspacing"), [("h2o", 0.5), ("si2", 0.47), ("mos2_k5", 0.46)])
def test_input_asks_for_what_the_reference_runs_did(name: str, kspacing: float) -> None:
    """Every keyword of runs that OpenMX has carried out, so that it reads ours as well."""
    file = shared_path("oracle/openmx") / name / f"{name}.dat"
    read = read_openmx_input(file)
    settings = OpenMXSettings(200.0, kspacing, 100.0)
    text = openmx_input_text(name, read.structure, published_species(19), settings)
    expected = keywords(file.read_text())
    assert len(expected) > 18
    assert keywords(text) == expected


def test_command_writes_every_frame(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ase")
    (tmp_path / "two frames.extxyz").write_text(FRAMES)
    out = tmp_path / "runs"
    command = ["openmx", "write", str(tmp_path / "two frames.extxyz"), "-o", str(out)]
    assert main(command) == 0
    first, second = (out / f"two_frames-000{n}" / f"two_frames-000{n}.dat" for n in (1, 2))
    assert capsys.readouterr().out.split() == ["wrote", str(first), "wrote", str(second)]
    read = read_openmx_input(first)
    assert read.structure.pos_ic[1] * ANGSTROM_PER_OPENMX_BOHR == pytest.approx([1.5, 1.5, 9.1])
    assert read.kgrid == (7, 7, 1)
    assert read_openmx_input(second).kgrid == (9, 9, 9)
    # Odd numbers of electrons are shared between the spins.
    assert "1.50 1.50" in second.read_text()
    # The same again is no conflict, another setting is one.
    assert main(command) == 0
    assert main([*command, "--kspacing", "0.2"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main([*command, "--kspacing", "0.2", "--overwrite"]) == 0
    assert read_openmx_input(second).kgrid == (13, 13, 13)


def test_faults_of_what_is_to_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], bilayer_file: Path
) -> None:
    command = ["openmx", "write", str(bilayer_file)]
    out = ["-o", str(tmp_path / "runs")]
    faults = {
        "second file that makes": [*command, str(bilayer_file), *out],
        "must be a positive number": [*command, *out, "--kspacing", "0"],
        "cannot be read": [*command, *out, "--dft-data", str(tmp_path / "none")],
        "There is no file": [*command, str(tmp_path / "absent.cif"), *out],
    }
    for says, arguments in faults.items():
        assert main(arguments) == 2
        assert says in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    with pytest.raises(InputError, match="no Mo"):
        openmx_input_text("x", read_structure(bilayer_file), {}, OpenMXSettings())
    pytest.importorskip("ase")
    (tmp_path / "free.xyz").write_text("1\nProperties=species:S:1:pos:R:3\nH 0.0 0.0 0.0\n")
    assert main(["openmx", "write", str(tmp_path / "free.xyz"), *out]) == 2
    assert "no cell" in capsys.readouterr().err
