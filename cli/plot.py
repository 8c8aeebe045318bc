"""`hamgnn-tools plot`: the figures of a run, drawn again for a paper."""

from __future__ import annotations

import argparse
from pathlib import Path

__all__ = ["add_plot"]

FORMATS = ("png", "svg", "pdf")


def add_plot(subjects: argparse._SubParsersAction) -> None:
    """Add `plot` to the subjects of `hamgnn-tools`."""
    parser = subjects.add_parser(
        "plot",
        help="bands and density of states of a run, drawn for a paper",
        description="Draw bands and density of states of a run from its results.h5. The gap of an "
        "insulator is an arrow from the valence maximum to the conduction minimum of the solved "
        "k-points.",
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="run folder of hamgnn-solve")
    parser.add_argument(
        "--panels",
        choices=("bands", "dos", "both"),
        help="what is drawn; both: side by side (default: both, where the run has a density of "
        "states)",
    )
    parser.add_argument(
        "--window",
        nargs=2,
        type=float,
        metavar=("LOW", "HIGH"),
        help="energies in eV from the zero (default: 1.5 eV on each side of the gap; of a density "
        "of states alone all up to 10 eV)",
    )
    parser.add_argument(
        "--zero",
        choices=("auto", "vbm", "fermi"),
        default="auto",
        help="zero of energy: valence maximum or Fermi level (auto: the Fermi level for metals)",
    )
    parser.add_argument(
        "--weights",
        metavar="GROUPS",
        default="elements",
        help='elements, shells, none, or a list such as "Mo d, S p": lines of the density of '
        "states, and a panel with ribbons each for bands of a run with --fat-bands (default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--broadening",
        metavar="EV",
        type=float,
        help="standard deviation of a Gaussian over the density of states (default: 1/250 of the "
        "window, at least 0.04)",
    )
    parser.add_argument(
        "--width",
        metavar="CM",
        default="single",
        help="single (8.6 cm) or double (17.8 cm) for a column or two, or a number (default: "
        "%(default)s)",
    )
    parser.add_argument("--height", metavar="CM", type=float, help="(default: from the width)")
    parser.add_argument(
        "--font-size", metavar="PT", type=float, default=8.0, help="(default: %(default)g)"
    )
    parser.add_argument(
        "--dpi", metavar="N", type=int, default=300, help="of png files (default: %(default)s)"
    )
    heading = parser.add_mutually_exclusive_group()
    heading.add_argument("--title", help="(default: name of the run and number of atoms)")
    heading.add_argument("--no-title", action="store_true", help="leave the title out")
    parser.add_argument(
        "--format",
        metavar="png|svg|pdf,...",
        default="png",
        help="one or several, such as png,svg (default: %(default)s)",
    )
    parser.add_argument(
        "-o",
        "--out",
        metavar="NAME",
        type=Path,
        help="file without ending (default: bands, dos or bands-dos in the run folder)",
    )
    parser.set_defaults(action=plot)


def plot(parsed: argparse.Namespace) -> int:
    """Draw the figure that was asked for and say where it is."""
    from hamgnn_solve.core.errors import InputError
    from hamgnn_solve.core.io.read_results import read_results
    from hamgnn_solve.core.observables.figures import Content, draw_figure
    from hamgnn_solve.core.observables.plot_style import FigureStyle, figure_title

    formats = [name.strip() for name in parsed.format.split(",")]
    for name in formats:
        if name not in FORMATS:
            raise InputError(f"--format {name} is unknown; choose {', '.join(FORMATS)}.")
    results = read_results(parsed.run)
    panels = parsed.panels or ("bands" if results.dos is None else "both")
    content = Content(
        panels,
        None if parsed.window is None else tuple(parsed.window),
        parsed.zero,
        parsed.weights,
        parsed.broadening,
    )
    title = parsed.title
    if title is None:
        title = figure_title(parsed.run, results.natoms)
    style = FigureStyle(
        _width(parsed.width),
        parsed.height,
        parsed.font_size,
        "" if parsed.no_title else title,
        parsed.dpi,
    )
    stem = parsed.out or parsed.run / {"both": "bands-dos"}.get(panels, panels)
    files = [stem.with_name(f"{stem.name}.{name}") for name in formats]
    try:
        draw_figure(results.spectrum, results.path, results.dos, content, style, *files)
    except OSError as error:
        raise InputError(
            f"{stem} cannot be written ({error.strerror}); choose another name with -o."
        ) from error
    print(" ".join(map(str, files)))
    return 0


def _width(text: str) -> float:
    """Return a width in cm from the name of a column or a number."""
    from hamgnn_solve.core.errors import InputError
    from hamgnn_solve.core.observables.plot_style import COLUMN_WIDTHS

    if text in COLUMN_WIDTHS:
        return COLUMN_WIDTHS[text]
    try:
        return float(text)
    except ValueError as error:
        raise InputError(f"--width {text} is no width; write single, double or 12.") from error
