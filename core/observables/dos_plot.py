"""Draw a density of states."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from hamgnn_solve.core.observables.density_of_states import DensityOfStates
from hamgnn_solve.core.units import EV_PER_HARTREE

__all__ = ["plot_dos"]

# Lines for projections that differ in colour and, printed in grey, in brightness.
COLOURS = ("#1b4f8a", "#c8501e", "#2f8f5b", "#8a1b6b", "#b39000", "#4aa3c7")


def plot_dos(
    dos: DensityOfStates,
    fermi_level: float,
    names: Sequence[str],
    title: str,
    file: str | Path,
    *,
    window: tuple[float, float] | None = None,
) -> None:
    """Draw the total as an area and some projections as lines, zero at the Fermi level.

    Parameters
    ----------
    dos : DensityOfStates
    fermi_level : float
        In Hartree.
    names : sequence of str
        Projections to draw, the elements say.
    title : str
    file : str or Path
        Picture to write; the name tells the format.
    window : tuple of float, optional
        First and last energy from the Fermi level in eV; all energies by default.
    """
    energy_e = (dos.energies_e - fermi_level) * EV_PER_HARTREE
    first, last = (energy_e[0], energy_e[-1]) if window is None else window
    shown = (energy_e >= first) & (energy_e <= last)
    if not shown.any():
        raise ValueError(f"no energies of the density of states in {first}..{last} eV")
    per_ev = dos.electrons_per_band / EV_PER_HARTREE
    with mpl.rc_context({"font.size": 9, "axes.linewidth": 0.8}):
        figure = Figure(figsize=(4.8, 3.2), dpi=200, layout="constrained")
        axes = figure.add_subplot()
        total_e = dos.total_e[shown] * per_ev
        axes.fill_between(energy_e[shown], total_e, color="#d9d9d9", linewidth=0, label="total")
        for number, name in enumerate(names):
            projected_e = dos.projected_ge[dos.names.index(name)][shown] * per_ev
            colour = COLOURS[number % len(COLOURS)]
            axes.plot(energy_e[shown], projected_e, color=colour, linewidth=1.0, label=name)
        axes.axvline(0.0, color="black", linewidth=0.6, linestyle="--")
        axes.set_xlim(first, last)
        axes.set_ylim(0.0, 1.05 * max(float(np.max(total_e)), 1e-6))
        axes.set_xlabel("Energy above the Fermi level (eV)")
        axes.set_ylabel("States per eV and cell")
        axes.set_title(title, fontsize=9)
        axes.legend(frameon=False)
        figure.savefig(file)
