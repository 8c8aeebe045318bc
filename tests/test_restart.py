"""A run that was stopped goes on with the k-points it has."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from hamgnn_solve.cli.main import main
from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.io.results import BandStore, digest
from hamgnn_solve.core.spectrum import KBands

KPOINTS = "; ".join(f"{0.01 * n:.2f} 0.1 0" for n in range(24))


def finished(file: Path) -> int:
    """Return how many k-points a results file holds."""
    if not file.exists():
        return 0
    with h5py.File(file) as h5:
        return int(np.isfinite(h5["eigenvalues_eV"][:, 0]).sum())


def test_killed_run_goes_on_where_it_was(
    bilayer_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    wanted = [str(bilayer_file), "--kpoints", KPOINTS, "--bands", "8", "--out", str(run)]
    command = [sys.executable, "-c", "import sys; from hamgnn_solve.cli.main import main; main()"]
    # A process of its own, not one of this one's MPI job.
    kept_names = ("OMPI_ALLOW", "OMPI_MCA_mpi_yield")
    environment = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(kept_names) or not name.startswith(("OMPI_", "PMIX_", "ORTE_", "OPAL_"))
    }
    log = (tmp_path / "log").open("w")
    process = subprocess.Popen(
        [*command, *wanted], stdout=log, stderr=log, env=environment, cwd=tmp_path
    )
    for _ in range(3000):
        if finished(run / "results.h5") >= 3:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = finished(run / "results.h5")
    assert 3 <= kept < 24, (tmp_path / "log").read_text()
    with h5py.File(run / "results.h5") as h5:
        first = h5["eigenvalues_eV"][0]
    assert main([*wanted, "--restart"]) == 0
    assert f"{kept} of 24 k-points are in" in capsys.readouterr().err
    whole = tmp_path / "whole"
    assert main([*wanted[:-1], str(whole), "--quiet"]) == 0
    with h5py.File(run / "results.h5") as one, h5py.File(whole / "results.h5") as other:
        # Kept bits; the rest as without a stop but for the single precision of the network, which
        # rounds differently from process to process: reached 4e-9 eV.
        assert np.array_equal(one["eigenvalues_eV"][0], first)
        difference = np.abs(one["eigenvalues_eV"][:] - other["eigenvalues_eV"][:])
        assert difference.max() < 1e-7
        assert np.array_equal(one["band_index"], other["band_index"])


def test_other_input_is_not_taken_over(
    bilayer_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = [str(bilayer_file), "--kpath", "none", "--out", str(tmp_path), "--quiet"]
    assert main([*wanted, "--bands", "6"]) == 0
    capsys.readouterr()
    assert main([*wanted, "--bands", "8", "--restart"]) == 2
    assert "made from other input" in capsys.readouterr().err
    assert main([*wanted, "--bands", "6", "--restart"]) == 0


def test_store_keeps_what_it_was_given(tmp_path: Path) -> None:
    file, kpoints = tmp_path / "results.h5", np.zeros((3, 3))
    bands = KBands(np.array([-0.2, 0.1]), np.array([1e-10, 2e-10]), 7, certified=False, error=3e-5)
    BandStore(file, kpoints, 2, "here", 0.05).store(1, bands)
    read = BandStore(file, kpoints, 2, "here", 0.05).read()
    assert list(read) == [1]
    assert read[1].energies_n == pytest.approx(bands.energies_n, abs=1e-15)
    assert (read[1].first_band, read[1].certified) == (7, False)
    assert read[1].error == pytest.approx(3e-5, rel=1e-12)
    file.write_bytes(b"damaged")
    with pytest.raises(InputError, match="cannot be read"):
        BandStore(file, kpoints, 2, "here").read()


def test_digests_tell_inputs_apart() -> None:
    numbers = np.arange(4.0)
    assert digest("a", 1, numbers) == digest("a", 1, numbers.copy())
    assert digest("a", 1, numbers) != digest("a", 1, numbers + 1e-15 * (numbers == 1))
    assert digest("ab") != digest("a", "b")
