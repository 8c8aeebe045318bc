"""Draw a density of states on the axes of a figure."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from hamgnn_solve.core.observables.density_of_states import DensityOfStates
from hamgnn_solve.core.observables.plot_style import SeriesStyle
from hamgnn_solve.core.units import EV_PER_HARTREE

__all__ = ["draw_dos"]

TOTAL = "#dcdcdc"


def draw_dos(
    axes: mpl.axes.Axes,
    dos: DensityOfStates,
    zero: float,
    window: tuple[float, float],
    names: tuple[str, ...],
    styles: list[SeriesStyle],
    *,
    broadening: float = 0.0,
    upright: bool = False,
) -> None:
    """Draw the total as an area and some projections as lines.

    Parameters
    ----------
    axes : Axes
    dos : DensityOfStates
    zero : float
        Energy in Hartree from which the axes count.
    window : tuple of float
        First and last energy from there in eV.
    names : tuple of str
        Projections to draw, the elements say.
    styles : list of SeriesStyle
        Of these.
    broadening : float
        Standard deviation in eV of a Gaussian that the drawn lines are convolved with.
    upright : bool
        The energy goes up, beside bands, instead of to the right.
    """
    energy_e = (dos.energies_e - zero) * EV_PER_HARTREE
    step = float(energy_e[1] - energy_e[0])

    def smooth(values_e: NDArray[np.float64]) -> NDArray[np.float64]:
        wide = gaussian_filter1d(values_e, broadening / step, mode="constant")
        return np.asarray(wide[shown]) * per_ev

    # A point beyond each end, so that nothing ends inside the window.
    first, last = np.searchsorted(energy_e, window)
    shown = slice(max(int(first) - 1, 0), int(last) + 1)
    per_ev = dos.electrons_per_band / EV_PER_HARTREE
    energy_e, total_e = energy_e[shown], smooth(dos.total_e)
    fill = axes.fill_betweenx if upright else axes.fill_between
    fill(energy_e, total_e, color=TOTAL, linewidth=0, label="total")
    # The edge of the area is seen where projections leave it.
    series: list[tuple[NDArray[np.float64], dict[str, Any]]] = [
        (total_e, {"color": "#8c8c8c", "linewidth": 0.5})
    ]
    for name, style in zip(names, styles, strict=True):
        projected_e = smooth(dos.projected_ge[dos.names.index(name)])
        series.append(
            (projected_e, {"color": style.colour, "linewidth": 1.0, "dashes": style.dashes})
        )
    for values_e, look in series:
        axes.plot(*((values_e, energy_e) if upright else (energy_e, values_e)), **look)
    top = 1.05 * max(float(total_e.max(initial=0.0)), 1e-6)
    if upright:
        axes.set_xlim(0.0, top)
        axes.set_xlabel("States/eV")
    else:
        axes.set_ylim(0.0, top)
        axes.set_ylabel("States per eV and cell")
