"""Draw bands on the axes of a figure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.collections import LineCollection
from numpy.typing import NDArray

from hamgnn_solve.core.observables.band_path import BandPath
from hamgnn_solve.core.spectrum import Spectrum
from hamgnn_solve.core.units import EV_PER_HARTREE

__all__ = ["draw_band_lines", "draw_gap", "draw_weights", "label_path"]

LINE = "#1b4f8a"
# Where weights are drawn over the bands, these step back.
FAINT = "#9a9a9a"
# The weight without a ribbon, and pieces of a ribbon at least.
SMALLEST, PIECES = 0.02, 80
# K-points that are no path are numbered one by one up to so many.
MOST_TICKS = 12
# Half the length of the dash of a level at a k-point that is on no path.
DASH = 0.3


def _strokes(path: BandPath) -> Iterator[tuple[NDArray[np.float64], NDArray[np.int64]]]:
    """Yield places along the axis and the k-points whose energies are drawn there.

    A path is one stroke; the levels of a single k-point are lines across the axes, and those of
    k-points that are no path are dashes.
    """
    number = len(path.distance_k)
    if number == 1:
        yield np.array([-0.5, 0.5]), np.array([0, 0])
    elif path.labels:
        yield path.distance_k, np.arange(number)
    else:
        for k, place in enumerate(path.distance_k):
            yield np.array([place - DASH, place + DASH]), np.array([k, k])


def draw_band_lines(
    axes: mpl.axes.Axes, path: BandPath, energy_kn: NDArray[np.float64], **style: Any
) -> None:
    """Draw bands as lines along a path, or the levels of k-points that are none as dashes.

    Parameters
    ----------
    axes : Axes
    path : BandPath
        Of K points.
    energy_kn : ndarray, shape (K, n)
        In eV.
    style
        Of the lines, as matplotlib takes it; `label` names all of them together.
    """
    name = style.pop("label", None)
    for place_k, chosen in _strokes(path):
        lines = axes.plot(place_k, energy_kn[chosen], **style)
        lines[0].set_label(name)
        name = None


def draw_weights(
    axes: mpl.axes.Axes,
    path: BandPath,
    energy_kn: NDArray[np.float64],
    weight_kn: NDArray[np.float64],
    colour: tuple[float, float, float],
    thickness: float,
) -> None:
    """Draw bands as ribbons whose thickness is the weight of a group in the state.

    Parameters
    ----------
    axes : Axes
        Whose energies are those of the window.
    path : BandPath
        Of K points.
    energy_kn : ndarray, shape (K, n)
        In eV.
    weight_kn : ndarray, shape (K, n)
        Negative weights are drawn as none.
    colour : tuple of float
    thickness : float
        In points, of a state that lies wholly on the group.
    """
    low, high = axes.get_ylim()
    for place_k, chosen in _strokes(path):
        # Pieces short enough to show how weights change; one where nothing does.
        count = len(chosen) - 1
        parts = 1 if chosen[0] == chosen[-1] else -(-PIECES // count)
        between_x = np.linspace(0.0, count, count * parts + 1)
        place_x, energy_xn, weight_xn = (
            _between(values, between_x)
            for values in (place_k, energy_kn[chosen], weight_kn[chosen])
        )
        point_xnc = np.stack([np.broadcast_to(place_x[:, None], energy_xn.shape), energy_xn], -1)
        piece_qpc = np.stack([point_xnc[:-1], point_xnc[1:]], axis=2).reshape(-1, 2, 2)
        weight_q = 0.5 * (weight_xn[:-1] + weight_xn[1:]).ravel()
        height_q = piece_qpc[:, :, 1].mean(axis=1)
        # Where branches meet the path has a jump, over which nothing is drawn.
        forward = piece_qpc[:, 1, 0] > piece_qpc[:, 0, 0]
        shown = forward & (weight_q > SMALLEST) & (height_q > low) & (height_q < high)
        axes.add_collection(
            LineCollection(
                list(piece_qpc[shown]), linewidths=thickness * weight_q[shown], colors=[colour],
                capstyle="round", zorder=2.5,
            ),
            autolim=False,
        )  # fmt: skip


def _between(values_kn: NDArray[np.float64], between_x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return values at fractions of the way from one row to the next."""
    row_x = np.minimum(between_x.astype(np.int64), len(values_kn) - 2)
    share_x = (between_x - row_x).reshape(-1, *[1] * (values_kn.ndim - 1))
    return (1.0 - share_x) * values_kn[row_x] + share_x * values_kn[row_x + 1]


def draw_gap(
    axes: mpl.axes.Axes,
    spectrum: Spectrum,
    path: BandPath,
    zero: float,
    beside: mpl.axes.Axes | None = None,
) -> None:
    """Draw the gap of an insulator: an arrow from valence maximum to conduction minimum.

    Parameters
    ----------
    axes : Axes
    spectrum : Spectrum
        A metal leaves nothing.
    path : BandPath
    zero : float
        Energy in Hartree from which the axes count.
    beside : Axes, optional
        Axes that take the value, where those with the arrow are narrow.
    """
    top, bottom = spectrum.vbm, spectrum.cbm
    if top is None or bottom is None:
        return
    valence, conduction = _edge_places(spectrum, path)
    low, high = ((x - zero) * EV_PER_HARTREE for x in (top, bottom))
    axes.plot([valence, conduction], [low, high], "o", color="black", markersize=2.4, zorder=4)
    axes.annotate(
        "", (conduction, high), (valence, low), zorder=4,
        arrowprops={"arrowstyle": "-|>,head_width=0.16,head_length=0.32", "color": "black",
                    "linewidth": 0.8, "shrinkA": 0.0, "shrinkB": 0.0},
    )  # fmt: skip
    text = f"{high - low:.3f} eV\n{spectrum.gap_kind}"
    middle, height = 0.5 * (valence + conduction), 0.5 * (low + high)
    look: Any = {
        "multialignment": "center", "zorder": 3.5,
        "bbox": {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.8},
    }  # fmt: skip
    if beside is not None:
        beside.text(
            0.5, height, text, ha="center", va="center", transform=beside.get_yaxis_transform(),
            **look,
        )  # fmt: skip
        return
    first, last = axes.get_xlim()
    # Beside an upright arrow on its roomier side; over an inclined one on the side it leans from.
    upright = abs(conduction - valence) < 1e-6 * (last - first)
    left = middle > 0.5 * (first + last) if upright else conduction > valence
    axes.annotate(
        text, (middle, height), xytext=(-5 if left else 5, 0 if upright else 2),
        textcoords="offset points", ha="right" if left else "left",
        va="center" if upright else "bottom", **look,
    )  # fmt: skip


def _edge_places(spectrum: Spectrum, path: BandPath) -> tuple[float, float]:
    """Return where along the path the band edges lie; of several places the nearest two."""
    place_k = path.distance_k if len(path.distance_k) > 1 else np.zeros(1)
    filled = round(spectrum.filled_bands)
    places = []
    for band, edge in ((filled, spectrum.vbm), (filled + 1, spectrum.cbm)):
        energy_k = np.where(spectrum.band_index_kn == band, spectrum.eigenvalues_kn, np.nan)
        away_k = np.abs(np.nanmin(np.abs(energy_k - edge), axis=1))
        places.append(place_k[away_k < 1e-6])
    distance = np.abs(places[0][:, None] - places[1])
    first, second = np.unravel_index(int(np.argmin(distance)), distance.shape)
    return float(places[0][first]), float(places[1][second])


def label_path(axes: mpl.axes.Axes, path: BandPath) -> None:
    """Mark the special points; names are joined where two branches meet at one place."""
    several = len(path.distance_k) > 1
    names: dict[float, str] = {}
    for index, name in path.labels:
        place = float(path.distance_k[index])
        names[place] = f"{names[place]}|{name}" if place in names else name
        if several:
            axes.axvline(place, color="black", linewidth=0.5, zorder=1)
    if not names:
        axes.set_xlabel("k-point")
        if len(path.distance_k) <= MOST_TICKS:
            axes.set_xticks(path.distance_k, [str(k + 1) for k in range(len(path.distance_k))])
        axes.margins(x=0.05)
        return
    axes.set_xticks(list(names) if several else [0.0], list(names.values()))
    axes.tick_params(axis="x", length=0.0)
    axes.set_xlim(*((path.distance_k[0], path.distance_k[-1]) if several else (-0.5, 0.5)))
