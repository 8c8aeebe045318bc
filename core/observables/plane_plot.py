"""Draw a function on a plane of the cell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hamgnn_solve.core.observables.plot_style import FigureStyle

__all__ = ["plot_plane"]

# Angstrom. Small cells are repeated up to this length.
SHOWN = 15.0


def plot_plane(
    values: NDArray[np.float64],
    cell_cc: NDArray[np.float64],
    title: str,
    unit: str,
    file: str | Path,
) -> None:
    """Draw a function on the plane of two lattice vectors, small cells several times.

    Parameters
    ----------
    values : ndarray, shape (n1, n2)
        On points a/n1 A1 + b/n2 A2.
    cell_cc : ndarray, shape (2, 3)
        A1 and A2 as rows, in Angstrom.
    title, unit : str
        Of the values.
    file : str or Path
        Picture to write; the name tells the format.
    """
    lengths = np.linalg.norm(cell_cc, axis=1)
    repeats = [max(1, int(np.ceil(SHOWN / length))) for length in lengths]
    shown = np.tile(values, repeats)
    # The plane's own axes: x along A1, y at right angles to it.
    along = cell_cc[0] / lengths[0]
    first = np.array([lengths[0], 0.0])
    across = cell_cc[1] @ along
    second = np.array([across, np.sqrt(max(lengths[1] ** 2 - across**2, 0.0))])
    corners = np.indices((shown.shape[0] + 1, shown.shape[1] + 1)).astype(float)
    parts = corners / np.array(values.shape)[:, None, None]
    x, y = (parts[0] * first[c] + parts[1] * second[c] for c in (0, 1))
    aspect = float(np.ptp(x)) / float(np.ptp(y))
    style = FigureStyle(title=title)
    with style.settings():
        # Room for the axis below, the title above and the scale at the right.
        figure = style.figure(max(0.62 * style.width / aspect + 1.8, 4.0))
        axes = figure.add_subplot()
        # The power of ten belongs to the label: over the scale it would run into the title.
        power = int(np.floor(np.log10(shown.max()))) if shown.max() > 0.0 else 0
        scaled = shown / 10.0**power
        mesh = axes.pcolormesh(x, y, scaled, cmap="inferno", vmin=0.0, rasterized=True)
        axes.set_aspect("equal")
        axes.set_xlabel("x (Å)")
        axes.set_ylabel("y (Å)")
        axes.set_title(style.title)
        figure.colorbar(mesh, ax=axes, label=f"10$^{{{power}}}$ " + unit.replace("^3", "$^3$"))
        style.save(figure, file)
