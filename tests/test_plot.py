"""Figures of runs: what is drawn, from which file, and what is refused."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import h5py
import matplotlib as mpl
import numpy as np
import pytest
from given_models import crystal
from matplotlib.figure import Figure

from hamgnn_solve.cli.main import main as solve
from hamgnn_solve.cli.tools import main as tools
from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.io.operator_file import write_operator_file
from hamgnn_solve.core.io.read_results import read_results
from hamgnn_solve.core.observables.band_path import BandPath, _label
from hamgnn_solve.core.observables.band_plot import draw_gap, draw_weights, label_path
from hamgnn_solve.core.observables.plot_style import element_colour, series_styles
from hamgnn_solve.core.spectrum import Spectrum
from hamgnn_solve.core.units import EV_PER_HARTREE

CM = 1.0 / 2.54


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a random crystal of Mo, S and H."""
    folder = tmp_path_factory.mktemp("run")
    write_operator_file(folder / "h.h5", crystal())
    wanted = ["--hamiltonian", str(folder / "h.h5"), "--kpath", "G-Z", "--quiet", "--bands", "8"]
    options = ["--fat-bands", "--dos", "2x2x2", "--path-spacing", "0.2"]
    assert solve([*wanted, *options, "--out", str(folder / "run")]) == 0
    return folder / "run"


def texts(file: Path) -> list[str]:
    """Return the texts of an SVG file."""
    root = ElementTree.fromstring(file.read_text())
    return ["".join(x.itertext()).strip() for x in root.iter("{http://www.w3.org/2000/svg}text")]


def test_what_a_run_left_is_read_back(run: Path) -> None:
    found = read_results(run)
    with h5py.File(run / "results.h5") as h5:
        weights = h5["band_weights/weight"][:]
        groups = h5["band_weights/group"].asstr()[:].tolist()
        total = h5["dos/total_per_eV"][:]
        assert (
            np.abs(found.spectrum.eigenvalues_kn * EV_PER_HARTREE - h5["eigenvalues_eV"]).max()
            < 1e-12
        )
    assert groups == ["H", "Mo", "S", "H s", "Mo s", "Mo p", "Mo d", "S s", "S p"]
    assert found.spectrum.groups == tuple(groups)
    assert np.array_equal(found.spectrum.weights_gkn, weights)
    assert np.abs(weights[:3].sum(axis=0) - 1.0).max() < 1e-12
    assert np.abs(weights[3:].sum(axis=0) - 1.0).max() < 1e-12
    assert found.dos is not None
    assert np.abs(found.dos.total_e * 2.0 / EV_PER_HARTREE - total).max() < 1e-12 * total.max()
    assert found.path.labels[0] == (0, "Γ")
    assert found.natoms == 4


def test_plot_makes_the_figure_asked_for(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "figure.v1"
    assert tools(["plot", str(run), "--format", "png,svg", "-o", str(out), "--width", "12"]) == 0
    made = texts(tmp_path / "figure.v1.svg")
    assert {"Mo", "S", "H", "total", "States/eV", "run, 4 atoms", "Γ"} <= set(made)
    image = mpl.image.imread(tmp_path / "figure.v1.png")
    assert image.shape[1] == int(12 * CM * 300)
    wanted = ["--panels", "bands", "--weights", "Mo d, S  p", "--no-title", "--format", "svg"]
    for name in ("one", "two"):
        assert tools(["plot", str(run), *wanted, "-o", str(tmp_path / name)]) == 0
    made = texts(tmp_path / "one.svg")
    assert {"Mo d", "S p"} <= set(made)
    assert not {"Mo", "total", "run, 4 atoms"} & set(made)
    # The same figure is the same file.
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert tools(["plot", str(run), "--panels", "dos", "--weights", "shells"]) == 0
    assert (run / "dos.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--window", "3", "1"], "give the lower one first"),
        (["--window", "900", "901"], "Nothing lies between"),
        (["--weights", "Fe"], "no weights of 'Fe' in this run; it has H, Mo, S"),
        (["--width", "1"], "cm width"),
        (["--width", "wide"], "--width wide is no width"),
        (["--font-size", "1"], "font of 1 points"),
        (["--format", "gif"], "--format gif is unknown"),
        (["--dpi", "1"], "dots per inch"),
        (["--broadening", "-1"], "broadening of -1"),
        (["-o", "/nowhere/at/all"], "cannot be written"),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    options: list[str], message: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tools(["plot", str(run), *options]) == 2
    assert message in capsys.readouterr().err


def test_folders_without_results_are_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tools(["plot", str(tmp_path)]) == 2
    assert "give the folder that hamgnn-solve left" in capsys.readouterr().err
    (tmp_path / "results.h5").write_bytes((run / "results.h5").read_bytes())
    with h5py.File(tmp_path / "results.h5", "r+") as h5:
        del h5["dos"]
    assert tools(["plot", str(tmp_path), "--panels", "dos"]) == 2
    assert "no density of states; solve it with --dos" in capsys.readouterr().err
    with h5py.File(tmp_path / "results.h5", "r+") as h5:
        del h5["path"]
    with pytest.raises(InputError, match="stopped; finish it with --restart"):
        read_results(tmp_path)
    (tmp_path / "results.h5").write_bytes(b"damaged")
    with pytest.raises(InputError, match="cannot be read"):
        read_results(tmp_path)


def spectrum(valence: list[float], conduction: list[float]) -> tuple[Spectrum, BandPath]:
    number = len(valence)
    energies_kn = np.column_stack([valence, conduction])
    kpoints_kc = np.outer(np.linspace(0.0, 0.5, number), [1.0, 0.0, 0.0])
    found = Spectrum(
        kpoints_kc, energies_kn, np.tile([1, 2], (number, 1)), np.zeros((number, 2)), 0.0, 2.0
    )
    return found, BandPath(kpoints_kc, np.arange(float(number)), ((0, "Γ"), (number - 1, "X")))


@pytest.mark.parametrize(
    ("valence", "conduction", "ends", "kind"),
    [
        ([-0.1, -0.02, -0.1], [0.2, 0.03, 0.2], (1.0, 1.0), "direct"),
        ([-0.02, -0.1, -0.1], [0.2, 0.2, 0.03], (0.0, 2.0), "indirect"),
        # Of equal edges the nearest two.
        ([-0.02, -0.1, -0.1, -0.02], [0.2, 0.2, 0.03, 0.2], (3.0, 2.0), "indirect"),
    ],
)
def test_the_arrow_spans_the_gap(
    valence: list[float], conduction: list[float], ends: tuple[float, float], kind: str
) -> None:
    found, path = spectrum(valence, conduction)
    axes = Figure().add_subplot()
    label_path(axes, path)
    axes.set_ylim(-3.0, 6.0)
    draw_gap(axes, found, path, -0.02)
    points = axes.lines[-1].get_xydata()
    assert points[:, 0].tolist() == list(ends)
    assert points[:, 1] == pytest.approx([0.0, 0.05 * EV_PER_HARTREE])
    assert axes.texts[-1].get_text() == f"{0.05 * EV_PER_HARTREE:.3f} eV\n{kind}"


def test_a_metal_has_no_arrow() -> None:
    found, path = spectrum([-0.1, 0.05, -0.1], [0.0, 0.1, 0.2])
    axes = Figure().add_subplot()
    draw_gap(axes, found, path, 0.0)
    assert len(axes.lines) == 0


def test_ribbons_are_as_thick_as_the_weights() -> None:
    found, path = spectrum([-0.1, -0.02, -0.1], [0.2, 0.03, 0.2])
    axes = Figure().add_subplot()
    axes.set_ylim(-3.0, 6.0)
    weight_kn = np.array([[1.0, 0.0], [0.5, -0.1], [1.0, 0.0]])
    draw_weights(axes, path, found.eigenvalues_kn * EV_PER_HARTREE, weight_kn, (0, 0, 0), 4.0)
    (ribbons,) = axes.collections
    widths = np.array(ribbons.get_linewidths())
    # The lower band alone, from its full weight to half of it in the middle.
    assert widths.max() == pytest.approx(4.0, rel=0.02)
    assert widths.min() == pytest.approx(2.0, rel=0.02)
    middles = np.array([x.mean(axis=0) for x in ribbons.get_segments()])
    assert middles[:, 1].max() < 0.0
    expected = 4.0 * (1.0 - 0.5 * (1.0 - np.abs(middles[:, 0] - 1.0)))
    assert np.abs(widths - expected).max() < 1e-9


def test_names_of_points_are_printed_as_letters() -> None:
    assert [_label(x) for x in ("GAMMA", "SIGMA_0", "DELTA", "LAMBDA_0", "X", "H_2")] == [
        "Γ", "Σ$_{0}$", "Δ", "Λ$_{0}$", "X", "H$_{2}$",
    ]  # fmt: skip


def test_colours_can_be_read_and_lines_differ_in_grey() -> None:
    for symbol in ("H", "S", "Pt", "Mo", "C", "Xx"):
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4
                  for x in element_colour(symbol)]  # fmt: skip
        luminance = float(np.dot([0.2126, 0.7152, 0.0722], linear))
        # Contrast to white (1.05 over luminance + 0.05) of at least 3.4.
        assert luminance <= 0.2501
    styles = series_styles(["Mo", "S", "W", "Mo s", "Mo p", "Mo d"])
    assert len({style.dashes for style in styles}) == 6
    assert len({style.colour for style in styles}) == 5
