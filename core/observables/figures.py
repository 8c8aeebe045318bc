"""Figures of a run: bands, densities of states, and both side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.observables.band_path import BandPath
from hamgnn_solve.core.observables.band_plot import (
    FAINT,
    LINE,
    draw_band_lines,
    draw_gap,
    draw_weights,
    label_path,
)
from hamgnn_solve.core.observables.density_of_states import DensityOfStates
from hamgnn_solve.core.observables.dos_plot import TOTAL, draw_dos
from hamgnn_solve.core.observables.plot_style import FigureStyle, SeriesStyle, series_styles
from hamgnn_solve.core.spectrum import Spectrum
from hamgnn_solve.core.units import EV_PER_HARTREE

__all__ = ["Content", "draw_comparison_figure", "draw_figure"]

# eV shown on each side of the gap in figures with bands; in those without, up to this energy.
BESIDE_GAP, ABOVE = 1.5, 10.0
COMPARED = 3.0
# Densities are broadened by this part of the window, and at least so many eV.
SMOOTHED, NARROWEST = 250.0, 0.04
# Points of the ribbon of a whole state.
THICKEST = 4.0
# Share below which a shell is left out.
MATTERS = 0.03
# Heights of figures in cm by their width.
TALL, WIDE = 1.1, 0.68
ZERO_NAMES = {"vbm": r"$E - E_\mathrm{VBM}$ (eV)", "fermi": r"$E - E_\mathrm{F}$ (eV)"}


@dataclass(frozen=True)
class Content:
    """What a figure shows.

    Parameters
    ----------
    panels : str
        "bands", "dos", or "both" side by side.
    window : tuple of float, optional
        Lowest and highest energy in eV from the zero.
    zero : str
        "vbm", "fermi", or "auto": the valence band maximum, in a metal the Fermi level.
    weights : str
        Groups of orbitals that are shown: "elements", "shells" (without those that hardly occur in
        the window), "none", or names as in "Mo d, S p".
    broadening : float, optional
        Standard deviation in eV by which a density of states is broadened; by default 1/250 of the
        window, and at least 0.04.

    Raises
    ------
    InputError
        For an empty window or a negative broadening.
    """

    panels: str = "bands"
    window: tuple[float, float] | None = None
    zero: str = "auto"
    weights: str = "elements"
    broadening: float | None = None

    def __post_init__(self) -> None:
        if self.window is not None and not self.window[0] < self.window[1]:
            raise InputError(
                f"There are no energies from {self.window[0]:g} to {self.window[1]:g} eV; give "
                "the lower one first."
            )
        if self.broadening is not None and not self.broadening >= 0.0:
            raise InputError(f"A broadening of {self.broadening:g} eV is none; give 0 or more.")


def _named_groups(text: str, known: Sequence[str]) -> tuple[str, ...]:
    """Return the groups that a text names; raises `InputError` for one that is not known."""
    if text == "none":
        return ()
    if text in ("elements", "shells"):
        return tuple(name for name in known if (" " in name) == (text == "shells"))
    names = tuple(" ".join(name.split()) for name in text.split(","))
    for name in names:
        if name not in known:
            there = ", ".join(known) or "none (solve it with --fat-bands or --dos)"
            raise InputError(f"There are no weights of '{name}' in this run; it has {there}.")
    return names


def draw_figure(
    spectrum: Spectrum,
    path: BandPath,
    dos: DensityOfStates | None,
    content: Content,
    style: FigureStyle,
    *files: str | Path,
) -> None:
    """Draw bands, a density of states, or both with one axis of energies.

    Parameters
    ----------
    spectrum : Spectrum
    path : BandPath
        Of the same k-points.
    dos : DensityOfStates, optional
        Needed where the content has one; energies on the scale of the spectrum.
    content : Content
    style : FigureStyle
    *files : str or Path
        Pictures to write; the name tells the format.

    Raises
    ------
    InputError
        When a density of states is to be drawn and there is none, or nothing lies in the window.
    """
    if dos is None and content.panels != "bands":
        raise InputError("This run has no density of states; solve it with --dos MESH.")
    zero, name = _zero(spectrum, content.zero)
    window = content.window or _window(spectrum, dos, content.panels, zero)
    _check_window(spectrum, dos, content.panels, zero, window)
    shown = _Shown(spectrum, path, dos if content.panels != "bands" else None, zero, window)
    groups = shown.groups(content.weights)
    styles = series_styles(groups)
    fat = content.panels != "dos" and bool(groups) and spectrum.weights_gkn is not None
    panels = (len(groups) if fat else 1) if content.panels != "dos" else 0
    with style.settings():
        figure = style.figure(style.width * (TALL if (panels, shown.dos) == (1, None) else WIDE))
        ratios = [1.0] * panels + ([] if shown.dos is None else [0.5 * max(panels, 1) ** 0.5])
        row = figure.subplots(1, len(ratios), sharey=True, width_ratios=ratios, squeeze=False)[0]
        for number, axes in enumerate(row[:panels]):
            group = (groups[number], styles[number]) if fat else None
            # Narrow panels take thinner ribbons.
            shown.bands(axes, group, min(THICKEST, 0.8 * style.width / len(ratios)))
            if number == 0:
                draw_gap(axes, spectrum, path, zero, row[1] if panels > 1 else None)
        if shown.dos is not None:
            width = max((window[1] - window[0]) / SMOOTHED, NARROWEST)
            width = width if content.broadening is None else content.broadening
            shown.density(row[-1], groups, styles, width, upright=panels > 0)
        (row[0].set_ylabel if panels else row[0].set_xlabel)(ZERO_NAMES[name])
        _finish(figure, style, groups if shown.dos is not None else (), styles)
        _thin_labels(figure)
        style.save(figure, *files)


@dataclass(frozen=True)
class _Shown:
    """What the panels of a figure show, and the zero (Hartree) and window (eV) of its energies."""

    spectrum: Spectrum
    path: BandPath
    dos: DensityOfStates | None
    zero: float
    window: tuple[float, float]

    def groups(self, text: str) -> tuple[str, ...]:
        """Return the groups that a text names; of shells those that matter in the window."""
        known = self.spectrum.groups if self.dos is None else self.dos.names
        groups = _named_groups(text, known)
        if text != "shells":
            return groups
        shares = [self._share(name) for name in groups]
        return tuple(name for name, share in zip(groups, shares, strict=True) if share > MATTERS)

    def _share(self, name: str) -> float:
        """Return the share of a group in the states of the window."""
        low, high = (self.zero + x / EV_PER_HARTREE for x in self.window)
        if self.dos is not None:
            inside = (self.dos.energies_e > low) & (self.dos.energies_e < high)
            part = self.dos.projected_ge[self.dos.names.index(name), inside].sum()
            return float(part / max(self.dos.total_e[inside].sum(), 1e-12))
        if self.spectrum.weights_gkn is None:
            return 0.0
        energy_kn = self.spectrum.eigenvalues_kn
        inside_kn = (energy_kn > low) & (energy_kn < high)
        weight_kn = self.spectrum.weights_gkn[self.spectrum.groups.index(name)]
        return float(weight_kn[inside_kn].sum() / max(int(inside_kn.sum()), 1))

    def bands(
        self, axes: mpl.axes.Axes, group: tuple[str, SeriesStyle] | None, thickness: float
    ) -> None:
        """Draw bands as lines, with ribbons for the weights of a group where one is named."""
        energy_kn = (self.spectrum.eigenvalues_kn - self.zero) * EV_PER_HARTREE
        label_path(axes, self.path)
        axes.set_ylim(*self.window)
        axes.axhline(0.0, color="black", linewidth=0.6, linestyle=":", zorder=1)
        if group is None or self.spectrum.weights_gkn is None:
            draw_band_lines(axes, self.path, energy_kn, color=LINE, linewidth=0.9)
            return
        name, style = group
        weight_kn = self.spectrum.weights_gkn[self.spectrum.groups.index(name)]
        draw_band_lines(axes, self.path, energy_kn, color=FAINT, linewidth=0.4)
        draw_weights(axes, self.path, energy_kn, weight_kn, style.colour, thickness)
        axes.set_title(name, pad=3.0)

    def density(
        self,
        axes: mpl.axes.Axes,
        groups: tuple[str, ...],
        styles: list[SeriesStyle],
        broadening: float,
        *,
        upright: bool,
    ) -> None:
        """Draw the density of states; upright beside bands."""
        if self.dos is None:
            raise ValueError("no density of states")
        draw_dos(
            axes, self.dos, self.zero, self.window, groups, styles, broadening=broadening,
            upright=upright,
        )  # fmt: skip
        line = axes.axhline if upright else axes.axvline
        line(0.0, color="black", linewidth=0.6, linestyle=":")
        if not upright:
            axes.set_xlim(*self.window)


def _finish(
    figure: Figure, style: FigureStyle, groups: tuple[str, ...], styles: list[SeriesStyle]
) -> None:
    """Add the title, and the legend of a density of states."""
    if style.title:
        figure.suptitle(style.title)
    if not groups:
        return
    handles: list[Patch | Line2D] = [Patch(color=TOTAL, label="total")]
    for name, look in zip(groups, styles, strict=True):
        line = Line2D([], [], color=look.colour, label=name, linewidth=1.0)
        line.set_dashes(look.dashes)
        handles.append(line)
    figure.legend(
        handles=handles, loc="outside lower center", ncols=round(style.width / 2), frameon=False,
        handlelength=2.6, columnspacing=1.4,
    )  # fmt: skip


def _thin_labels(figure: Figure) -> None:
    """Leave out names of special points that would cover the one before."""
    figure.draw_without_rendering()
    for axes in figure.axes:
        end = -np.inf
        for label in axes.get_xticklabels():
            extent = label.get_window_extent()
            if extent.x0 < end and label.get_text():
                label.set_visible(False)
            else:
                end = extent.x1


def _zero(spectrum: Spectrum, choice: str) -> tuple[float, str]:
    """Return the energy in Hartree from which a figure counts, and which it is."""
    if choice == "vbm" and spectrum.vbm is None:
        raise InputError("A metal has no valence band maximum; give --zero fermi.")
    if choice == "fermi" or spectrum.vbm is None:
        return spectrum.fermi_level, "fermi"
    return spectrum.vbm, "vbm"


def _window(
    spectrum: Spectrum, dos: DensityOfStates | None, panels: str, zero: float
) -> tuple[float, float]:
    """Return the energies shown by default in eV: around the gap, or all of the valence bands."""
    if panels == "dos" and dos is not None:
        low, high = ((x - zero) * EV_PER_HARTREE for x in dos.energies_e[[0, -1]])
        return float(low), min(float(high), ABOVE)
    low, high = (
        ((spectrum.fermi_level if edge is None else edge) - zero) * EV_PER_HARTREE
        for edge in (spectrum.vbm, spectrum.cbm)
    )
    energy_kn = (spectrum.eigenvalues_kn - zero) * EV_PER_HARTREE
    # Lines must not end inside the window: the lowest and highest band cover it at every k.
    low = min(max(low - BESIDE_GAP, float(energy_kn.min())), low - 0.1)
    high = max(min(high + BESIDE_GAP, float(energy_kn.max())), high + 0.1)
    return low, high


def _check_window(
    spectrum: Spectrum,
    dos: DensityOfStates | None,
    panels: str,
    zero: float,
    window: tuple[float, float],
) -> None:
    """Refuse a window in which there is nothing to draw."""
    known = []
    if panels != "dos":
        known.append(spectrum.eigenvalues_kn)
    if panels != "bands" and dos is not None:
        known.append(dos.energies_e)
    for energies in known:
        low, high = ((x - zero) * EV_PER_HARTREE for x in (energies.min(), energies.max()))
        if window[1] <= low or window[0] >= high:
            raise InputError(
                f"Nothing lies between {window[0]:g} and {window[1]:g} eV; the energies of this "
                f"run go from {low:.2f} to {high:.2f} eV from the zero of the figure."
            )


def draw_comparison_figure(
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
    low, high = (
        ((label.fermi_level if edge is None else edge) - label.fermi_level) * EV_PER_HARTREE
        for edge in (label.vbm, label.cbm)
    )
    low, high = low - COMPARED, high + COMPARED
    style = FigureStyle(title=title)
    with style.settings():
        figure = style.figure(1.2 * style.width)
        axes = figure.add_subplot()
        label_path(axes, path)
        for spectrum, look in (
            (label, {"color": FAINT, "linewidth": 2.2, "label": "label"}),
            (
                predicted,
                {"color": "#8a1b1b", "linewidth": 1.0, "dashes": (3, 1.5), "label": "predicted"},
            ),
        ):
            energy_kn = (spectrum.eigenvalues_kn - label.fermi_level) * EV_PER_HARTREE
            shown = ((energy_kn > low) & (energy_kn < high)).any(axis=0)
            draw_band_lines(axes, path, energy_kn[:, shown], **look)
        axes.axhline(0.0, color="black", linewidth=0.6, linestyle=":")
        axes.set_ylim(low, high)
        axes.set_ylabel(r"$E - E_\mathrm{F}$ of the label (eV)")
        figure.suptitle(title)
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
        style.save(figure, *files)
