"""Draw bands near the Fermi level."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hamgnn_solve.core.observables.band_path import BandPath
from hamgnn_solve.core.spectrum import Spectrum
from hamgnn_solve.core.units import EV_PER_HARTREE

__all__ = ["plot_band_comparison", "plot_bands"]

# eV on each side of the gap.
WINDOW = 1.5
COMPARED = 3.0


def plot_bands(spectrum: Spectrum, path: BandPath, title: str, file: str | Path) -> None:
    """Draw eigenvalues against the path, zero at the valence band maximum (or Fermi level).

    Parameters
    ----------
    spectrum : Spectrum
    path : BandPath
        Of the same k-points.
    title : str
    file : str or Path
        Picture to write; the name tells the format.
    """
    zero = spectrum.fermi_level if spectrum.vbm is None else spectrum.vbm
    energy_kn = (spectrum.eigenvalues_kn - zero) * EV_PER_HARTREE
    with mpl.rc_context({"font.size": 9, "axes.linewidth": 0.8}):
        figure = Figure(figsize=(3.6, 4.0), dpi=200, layout="constrained")
        axes = figure.add_subplot()
        _draw(axes, path, energy_kn, color="#1b4f8a", linewidth=1.0)
        gap = spectrum.gap * EV_PER_HARTREE
        if spectrum.vbm is not None:
            axes.axhspan(0.0, gap, color="#e9e4d4", linewidth=0)
            axes.text(
                0.98, gap / 2, f"{gap:.3f} eV, {spectrum.gap_kind}", ha="right", va="center",
                transform=axes.get_yaxis_transform(),
            )  # fmt: skip
        else:
            axes.axhline(0.0, color="black", linewidth=0.6, linestyle="--")
        _label_axis(axes, path)
        axes.set_ylim(max(-WINDOW, energy_kn.min()), min(gap + WINDOW, energy_kn.max()))
        reference = "Fermi level" if spectrum.vbm is None else "valence band maximum"
        axes.set_ylabel(f"Energy above the {reference} (eV)")
        axes.set_title(title, fontsize=9)
        figure.savefig(file)


def plot_band_comparison(
    label: Spectrum, predicted: Spectrum, path: BandPath, title: str, *files: str | Path
) -> None:
    """Draw predicted bands over those of a label, zero at the label's Fermi level.

    The label's lines are grey and wide, the predicted ones dark and dashed, so that they differ
    printed in grey too.

    Parameters
    ----------
    label, predicted : Spectrum
        Of the same k-points.
    path : BandPath
        Of these k-points.
    title : str
    *files : str or Path
        Pictures to write; the name tells the format.
    """
    label_kn, predicted_kn = (
        (x.eigenvalues_kn - label.fermi_level) * EV_PER_HARTREE for x in (label, predicted)
    )
    low, high = (
        (label.fermi_level if edge is None else edge) - label.fermi_level
        for edge in (label.vbm, label.cbm)
    )
    low, high = low * EV_PER_HARTREE - COMPARED, high * EV_PER_HARTREE + COMPARED
    with mpl.rc_context({"font.size": 9, "axes.linewidth": 0.8}):
        figure = Figure(figsize=(3.6, 4.4), dpi=200, layout="constrained")
        axes = figure.add_subplot()
        for energy_kn, style in (
            (label_kn, {"color": "#9a9a9a", "linewidth": 2.2, "label": "label"}),
            (
                predicted_kn,
                {"color": "#8a1b1b", "linewidth": 1.0, "dashes": (3, 1.5), "label": "predicted"},
            ),
        ):
            shown = ((energy_kn > low) & (energy_kn < high)).any(axis=0)
            _draw(axes, path, energy_kn[:, shown], **style)
        axes.axhline(0.0, color="black", linewidth=0.6, linestyle=":")
        _label_axis(axes, path)
        axes.set_ylim(low, high)
        axes.set_ylabel("Energy above the label's Fermi level (eV)")
        axes.set_title(title, fontsize=9)
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
        for file in files:
            figure.savefig(file)


def _draw(
    axes: mpl.axes.Axes, path: BandPath, energy_kn: NDArray[np.float64], **style: Any
) -> None:
    """Draw bands as lines along the path, the levels of a single k-point as horizontal lines."""
    name = style.pop("label", None)
    place_k = path.distance_k
    if len(place_k) == 1:
        place_k, energy_kn = np.array([-0.5, 0.5]), np.repeat(energy_kn, 2, axis=0)
    for line in axes.plot(place_k, energy_kn, **style)[:1]:
        line.set_label(name)


def _label_axis(axes: mpl.axes.Axes, path: BandPath) -> None:
    """Mark the special points; join the names where two branches meet at one place."""
    if len(path.distance_k) > 1:
        for index, _ in path.labels:
            axes.axvline(path.distance_k[index], color="black", linewidth=0.5)
    names: dict[float, str] = {}
    for index, name in path.labels:
        place = float(path.distance_k[index])
        names[place] = f"{names[place]}|{name}" if place in names else name
    if names:
        axes.set_xticks(list(names), list(names.values()))
    else:
        axes.set_xlabel("k-point")
    if len(path.distance_k) > 1:
        axes.set_xlim(path.distance_k[0], path.distance_k[-1])
