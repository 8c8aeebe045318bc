"""Draw bands near the Fermi level."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from hamgnn_solve.core.observables.band_path import BandPath
from hamgnn_solve.core.spectrum import Spectrum
from hamgnn_solve.core.units import EV_PER_HARTREE

__all__ = ["plot_bands"]

WINDOW = 1.5  # eV on each side of the gap


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
        lines = axes.plot(path.distance_k, energy_kn, color="#1b4f8a", linewidth=1.0)
        if len(path.distance_k) == 1:
            for line in lines:
                line.set(marker="_", markersize=40)
        gap = spectrum.gap * EV_PER_HARTREE
        if spectrum.vbm is not None:
            axes.axhspan(0.0, gap, color="#e9e4d4", linewidth=0)
            axes.text(
                0.98, gap / 2, f"{gap:.3f} eV, {spectrum.gap_kind}", ha="right", va="center",
                transform=axes.get_yaxis_transform(),
            )  # fmt: skip
        else:
            axes.axhline(0.0, color="black", linewidth=0.6, linestyle="--")
        for index, _ in path.labels:
            axes.axvline(path.distance_k[index], color="black", linewidth=0.5)
        _label_axis(axes, path)
        axes.set_ylim(max(-WINDOW, energy_kn.min()), min(gap + WINDOW, energy_kn.max()))
        reference = "Fermi level" if spectrum.vbm is None else "valence band maximum"
        axes.set_ylabel(f"Energy above the {reference} (eV)")
        axes.set_title(title, fontsize=9)
        figure.savefig(file)


def _label_axis(axes: mpl.axes.Axes, path: BandPath) -> None:
    """Join the names where two branches of the path meet at one place."""
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
