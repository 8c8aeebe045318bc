"""How figures look: sizes for print, colours of elements, and lines that differ in grey print."""

from __future__ import annotations

import colorsys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import matplotlib as mpl
import yaml
from matplotlib.figure import Figure

from hamgnn_solve.core.errors import InputError

__all__ = [
    "COLUMN_WIDTHS",
    "FigureStyle",
    "SeriesStyle",
    "element_colour",
    "figure_title",
    "series_styles",
]

# Widths of one and of two columns of a journal page in cm.
COLUMN_WIDTHS = {"single": 8.6, "double": 17.8}
CM_PER_INCH = 2.54
# Relative luminance above which a colour is hard to read on white: contrast below 3.5 to 1.
BRIGHTEST = 0.25
# Shells of an element differ in brightness too.
SHELL_SHADES = {"s": 1.0, "p": 0.62, "d": 0.35, "f": 0.15}
DASHES: tuple[tuple[float, ...], ...] = (
    (),
    (4.0, 1.4),
    (1.2, 1.2),
    (5.0, 1.4, 1.2, 1.4),
    (8.0, 2.0),
    (3.0, 1.0, 1.0, 1.0, 1.0, 1.0),
)


@dataclass(frozen=True)
class FigureStyle:
    """Size and text of a figure.

    Parameters
    ----------
    width, height : float
        In cm; the height of a figure follows from its panels by default.
    font_size : float
        In points.
    title : str
        Empty for none.
    dots_per_inch : int
        Of pictures made of pixels.

    Raises
    ------
    InputError
        For sizes that no page or screen has.
    """

    width: float = COLUMN_WIDTHS["single"]
    height: float | None = None
    font_size: float = 8.0
    title: str = ""
    dots_per_inch: int = 200

    def __post_init__(self) -> None:
        for name, size in (("width", self.width), ("height", self.height)):
            if size is not None and not 3.0 <= size <= 100.0:
                raise InputError(f"A figure of {size:g} cm {name} cannot be drawn; give 3 to 100.")
        if not 4.0 <= self.font_size <= 40.0:
            raise InputError(f"A font of {self.font_size:g} points is none; give 4 to 40.")
        if not 30 <= self.dots_per_inch <= 2400:
            raise InputError(f"{self.dots_per_inch} dots per inch are none; give 30 to 2400.")

    @contextmanager
    def settings(self) -> Iterator[None]:
        """Set matplotlib's sizes while a figure is drawn."""
        size = self.font_size
        chosen: Any = {
            "font.size": size,
            "axes.titlesize": size,
            "figure.titlesize": size,
            "legend.fontsize": size,
            "axes.linewidth": 0.7,
            "xtick.major.width": 0.7,
            "ytick.major.width": 0.7,
            # Text stays text in a vector graphic.
            "svg.fonttype": "none",
            "svg.hashsalt": "hamgnn-solve",
            "pdf.fonttype": 42,
        }
        with mpl.rc_context(chosen):
            yield

    def figure(self, height: float) -> Figure:
        """Return an empty figure; `height` in cm holds where the style has none."""
        size = (self.width / CM_PER_INCH, (self.height or height) / CM_PER_INCH)
        return Figure(figsize=size, dpi=self.dots_per_inch, layout="constrained")

    @staticmethod
    def save(figure: Figure, *files: str | Path) -> None:
        """Write a figure to files whose names tell the format.

        Without dates, so that the same figure is the same file.
        """
        options: dict[str, dict[str, Any]] = {
            ".svg": {"metadata": {"Date": None}},
            ".pdf": {"metadata": {"CreationDate": None}},
            ".png": {"pil_kwargs": {"optimize": True}},
        }
        for file in files:
            figure.savefig(file, **options.get(Path(file).suffix, {}))


@dataclass(frozen=True)
class SeriesStyle:
    """How one series of several is drawn.

    Parameters
    ----------
    colour : tuple of float
        Red, green, blue.
    dashes : tuple of float
        Lengths on and off in line widths; empty for a solid line.
    """

    colour: tuple[float, float, float]
    dashes: tuple[float, ...]


@cache
def _jmol() -> dict[str, list[int]]:
    """Return Jmol's colours of the elements, from pymatgen's table."""
    table = resources.files("pymatgen.vis") / "ElementColorSchemes.yaml"
    colours: dict[str, list[int]] = yaml.safe_load(table.read_text(encoding="utf-8"))["Jmol"]
    return colours


def figure_title(run_folder: Path, natoms: int) -> str:
    """Return the title of a run's figures: its name and the number of atoms."""
    return f"{run_folder.resolve().stem}, {natoms} atom{'s' if natoms > 1 else ''}"


def element_colour(symbol: str) -> tuple[float, float, float]:
    """Return Jmol's colour of an element, darkened where it is too bright to read on white.

    Parameters
    ----------
    symbol : str
        Elements that Jmol does not know are grey.

    Returns
    -------
    tuple of float
        Red, green, blue from 0 to 1.
    """
    red, green, blue = (x / 255.0 for x in _jmol().get(symbol, [110, 110, 110]))
    return _darkened((red, green, blue), BRIGHTEST)


def series_styles(names: Sequence[str]) -> list[SeriesStyle]:
    """Return styles for groups of orbitals ("Mo", "Mo d"), all different printed in grey too.

    Parameters
    ----------
    names : sequence of str
        The first word is the element, the second a shell.
    """
    styles = []
    for number, name in enumerate(names):
        symbol, _, shell = name.partition(" ")
        colour = element_colour(symbol)
        shade = SHELL_SHADES.get(shell, 1.0)
        if shade < 1.0:
            colour = _darkened(colour, shade * _luminance(colour))
        styles.append(SeriesStyle(colour, DASHES[number % len(DASHES)]))
    return styles


def _luminance(colour: tuple[float, float, float]) -> float:
    """Return the relative luminance of an sRGB colour (IEC 61966-2-1)."""
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _darkened(colour: tuple[float, float, float], largest: float) -> tuple[float, float, float]:
    """Return a colour of the same hue whose luminance does not exceed a bound."""
    hue, lightness, saturation = colorsys.rgb_to_hls(*colour)
    while _luminance(colour) > largest and lightness > 0.0:
        lightness -= 0.005
        colour = colorsys.hls_to_rgb(hue, max(lightness, 0.0), saturation)
    return colour
