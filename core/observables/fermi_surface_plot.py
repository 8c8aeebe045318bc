"""Draw a Fermi surface in the first Brillouin zone."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
from matplotlib.lines import Line2D
from mpl_toolkits.mplot3d.art3d import Poly3DCollection
from numpy.typing import NDArray

from hamgnn_solve.core.observables.fermi_surface import (
    BrillouinZone,
    FermiSurface,
    brillouin_zone,
    surface_triangles,
)
from hamgnn_solve.core.observables.plot_style import FigureStyle

__all__ = ["plot_fermi_surface"]

# Colours of bands on the side of the empty states; the side of the filled ones is paler.
COLOURS = ((0.78, 0.42, 0.14), (0.16, 0.45, 0.70), (0.25, 0.58, 0.30), (0.60, 0.25, 0.55))
PALE = 0.55
# Where the viewer and the light stand, in degrees of height and azimuth.
VIEW, LIGHT = (17.0, 24.0), (50.0, 0.0)
AMBIENT = 0.45
# Points; one for all, since matplotlib does not sort widths with the polygons.
LINE = 0.45
# Factor at which that sphere fills the figure.
FILLED = 1.62
# Pieces of an edge of the zone, so that each is hidden by what lies in front of it.
PIECES = 20


def plot_fermi_surface(surface: FermiSurface, style: FigureStyle, file: str | Path) -> None:
    """Draw the Fermi surface of all bands with the edges of the zone.

    The side towards empty states has the full colour of the band, that towards filled states a
    paler one.

    Parameters
    ----------
    surface : FermiSurface
    style : FigureStyle
    file : str or Path
        Picture to write; the name tells the format.
    """
    zone = brillouin_zone(surface.reciprocal_cc)
    polygons, faces, edges = _zone_edges(zone)
    for number in range(len(surface.bands)):
        triangles_tvc, gradients_tc = surface_triangles(surface, number, zone)
        colours = _shaded(triangles_tvc, gradients_tc, COLOURS[number % len(COLOURS)])
        polygons += list(triangles_tvc)
        faces += colours
        # Edges in the colour of the face close the seams between triangles.
        edges += colours
    with style.settings():
        figure = style.figure(0.98 * style.width)
        axes = figure.add_subplot(projection="3d")
        axes.set_proj_type("ortho")
        axes.add_collection3d(
            Poly3DCollection(polygons, facecolors=faces, edgecolors=edges, linewidths=LINE)
        )
        # From every side the zone stays within the sphere through its outermost corner.
        reach = float(np.linalg.norm(zone.corners_vc, axis=1).max())
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach), zlim=(-reach, reach))
        axes.set_box_aspect((1.0, 1.0, 1.0), zoom=FILLED)
        axes.view_init(*VIEW)
        axes.set_axis_off()
        if style.title:
            figure.suptitle(style.title)
        handles = [
            Line2D([], [], linestyle="none", marker="s", markersize=6.0, label=f"band {band}",
                   color=COLOURS[number % len(COLOURS)])
            for number, band in enumerate(surface.bands)
        ]  # fmt: skip
        figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
        style.save(figure, file)


def _zone_edges(
    zone: BrillouinZone,
) -> tuple[list[NDArray[np.float64]], list[tuple[float, ...]], list[tuple[float, ...]]]:
    """Return the edges of the zone as flat polygons with their face and edge colours.

    Among the triangles, since matplotlib hides within one collection alone.
    """
    polygons: list[NDArray[np.float64]] = []
    share = np.linspace(0.0, 1.0, PIECES + 1)[:, None]
    for start, end in zone.edges_ecc:
        points = start + share * (end - start)
        polygons += [np.stack([a, b, b]) for a, b in pairwise(points)]
    black = (0.1, 0.1, 0.1, 1.0)
    return polygons, [black] * len(polygons), [black] * len(polygons)


def _direction(height: float, azimuth: float) -> NDArray[np.float64]:
    up, around = np.radians(height), np.radians(azimuth)
    return np.array([np.cos(up) * np.cos(around), np.cos(up) * np.sin(around), np.sin(up)])


def _shaded(
    triangles_tvc: NDArray[np.float64],
    gradients_tc: NDArray[np.float64],
    colour: tuple[float, float, float],
) -> list[tuple[float, ...]]:
    """Return the colour of each triangle under the light, as seen from the viewer's side."""
    sides = np.cross(
        triangles_tvc[:, 1] - triangles_tvc[:, 0], triangles_tvc[:, 2] - triangles_tvc[:, 0]
    )
    length = np.linalg.norm(gradients_tc, axis=1, keepdims=True)
    # Where two bands touch the gradient may vanish; there the triangle's own normal serves.
    normals = np.where(length > 1e-12, gradients_tc, sides)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-300)
    outer = normals @ _direction(*VIEW) > 0.0
    light = np.abs(normals @ _direction(*LIGHT))[:, None]
    full = np.array(colour)
    # Facing the viewer with the gradient: seen from the empty states.
    base = np.where(outer[:, None], full, full + PALE * (1.0 - full))
    shaded = base * (AMBIENT + (1.0 - AMBIENT) * light)
    highlight = 0.25 * np.maximum(light - 0.85, 0.0) / 0.15
    return [tuple(row) for row in np.clip(shaded + highlight * (1.0 - shaded), 0.0, 1.0)]
