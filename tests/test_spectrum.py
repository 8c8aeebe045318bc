"""Gaps read off a spectrum, and the files a run leaves."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from hamgnn_solve.cli.stages import Stages
from hamgnn_solve.core.io.results import summarise, write_results, write_summary
from hamgnn_solve.core.observables.band_path import BandPath
from hamgnn_solve.core.observables.figures import Content, draw_figure
from hamgnn_solve.core.observables.plot_style import FigureStyle
from hamgnn_solve.core.spectrum import Spectrum
from hamgnn_solve.core.units import EV_PER_HARTREE


def spectrum(valence: list[float], conduction: list[float], electrons: float = 8.0) -> Spectrum:
    eigenvalues_kn = np.column_stack([np.full(len(valence), -0.5), valence, conduction])
    return Spectrum(
        kpoints_kc=np.zeros((len(valence), 3)),
        eigenvalues_kn=eigenvalues_kn,
        band_index_kn=np.tile([3, 4, 5], (len(valence), 1)),
        residuals_kn=np.full_like(eigenvalues_kn, 1e-10),
        fermi_level=0.0,
        electrons=electrons,
    )


def test_direct_gap() -> None:
    found = spectrum([-0.1, -0.02, -0.1], [0.2, 0.03, 0.2])
    assert (found.vbm, found.cbm, found.gap_kind) == (-0.02, 0.03, "direct")
    assert found.gap == pytest.approx(0.05)


def test_indirect_gap() -> None:
    found = spectrum([-0.1, -0.02, -0.1], [0.01, 0.03, 0.2])
    assert found.gap == pytest.approx(0.03)
    assert found.gap_kind == "indirect"


def test_overlapping_bands_and_odd_electrons_are_metals() -> None:
    for found in (
        spectrum([-0.1, 0.05, -0.1], [0.01, 0.1, 0.2]),
        spectrum([-0.1, -0.02, -0.1], [0.2, 0.03, 0.2], electrons=7.0),
    ):
        assert found.is_metal
        assert (found.vbm, found.cbm, found.gap, found.gap_kind) == (None, None, 0.0, "metal")


def test_unsorted_eigenvalues_are_refused() -> None:
    with pytest.raises(ValueError, match="ascending"):
        spectrum([0.3], [0.1])


def test_files_hold_the_spectrum(tmp_path: Path) -> None:
    found = spectrum([-0.1, -0.02], [0.2, 0.03])
    path = BandPath(found.kpoints_kc, np.array([0.0, 0.4]), ((0, "M"), (1, "Γ")))
    stages = [{"name": "read", "seconds": 1.5, "peak_mb": 100.0}]
    summary = {**summarise(found), "model": "tmd", "stages": stages}
    write_results(tmp_path / "results.h5", found, path, summary)
    write_summary(tmp_path, summary, "text\n")
    draw_figure(
        found, path, None, Content(), FigureStyle(title="two points"), tmp_path / "bands.png"
    )
    assert (tmp_path / "bands.png").stat().st_size > 5000
    assert json.loads((tmp_path / "summary.json").read_text())["gap_kind"] == "direct"
    with h5py.File(tmp_path / "results.h5") as h5:
        assert np.array_equal(h5["eigenvalues_eV"], found.eigenvalues_kn * EV_PER_HARTREE)
        assert np.array_equal(h5["band_index"], found.band_index_kn)
        assert h5.attrs["gap_eV"] == pytest.approx(0.05 * EV_PER_HARTREE)
        assert h5["timings/read"].attrs["seconds"] == 1.5
        assert [x.decode() for x in h5["path/label"]] == ["M", "Γ"]


def test_a_metal_has_no_edges_in_its_files(tmp_path: Path) -> None:
    found = spectrum([0.0, -0.1], [0.01, 0.2], electrons=7.0)
    path = BandPath(found.kpoints_kc, np.array([0.0, 0.4]), ())
    write_results(tmp_path / "results.h5", found, path, {**summarise(found), "stages": []})
    with h5py.File(tmp_path / "results.h5") as h5:
        assert np.isnan(h5.attrs["vbm_eV"])
    draw_figure(found, path, None, Content(), FigureStyle(), tmp_path / "bands.png")


def test_the_log_says_how_far_a_stage_is(capsys: pytest.CaptureFixture[str]) -> None:
    from mpi4py import MPI

    stages = Stages(MPI.COMM_SELF)
    with stages.steps("spectrum", 25) as advance:
        for _ in range(25):
            advance()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 9
    assert lines[-1].endswith("spectrum: 25 of 25")
    assert stages.done[0]["name"] == "spectrum"
    assert stages.done[0]["peak_mb"] > 10
    assert "spectrum" in stages.table()
