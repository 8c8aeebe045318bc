"""The Fermi surface from band energies on a k mesh: triangles inside the first Brillouin zone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import permutations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from scipy.spatial import Voronoi

__all__ = ["BrillouinZone", "FermiSurface", "brillouin_zone", "surface_triangles"]

# Points along the longest reciprocal lattice vector between which a picture is interpolated.
FINE = 40
# A vertex of the zone belongs to a face when it is this near, in units of the longest vector.
ON_FACE = 1e-6


@dataclass(frozen=True)
class FermiSurface:
    """Bands that cross the Fermi level, on a full regular k mesh.

    Parameters
    ----------
    energies_bxyz : ndarray, shape (B, n1, n2, n3)
        In Hartree at k = (i1 / n1, i2 / n2, i3 / n3).
    bands : tuple of int
        Their global indices, from 1.
    fermi_level : float
        In Hartree.
    cell_cc : ndarray, shape (3, 3)
        Lattice vectors as rows in Bohr.
    """

    energies_bxyz: NDArray[np.float64]
    bands: tuple[int, ...]
    fermi_level: float
    cell_cc: NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.energies_bxyz.ndim != 4 or len(self.energies_bxyz) != len(self.bands):
            raise ValueError(
                f"energies of shape {self.energies_bxyz.shape} for {len(self.bands)} bands"
            )

    def shifted(self, energy: float) -> FermiSurface:
        """Return the surface of H + energy * S (Hartree): every level is moved by `energy`."""
        return replace(
            self,
            energies_bxyz=self.energies_bxyz + energy,
            fermi_level=self.fermi_level + energy,
        )

    @cached_property
    def reciprocal_cc(self) -> NDArray[np.float64]:
        """Reciprocal lattice vectors as rows in 1/Bohr, 2 pi included."""
        return np.asarray(2.0 * np.pi * np.linalg.inv(self.cell_cc).T)


@dataclass(frozen=True)
class BrillouinZone:
    """The Wigner-Seitz cell of a reciprocal lattice.

    Parameters
    ----------
    normals_fc : ndarray, shape (F, 3)
        Reciprocal lattice vectors G that make its faces: k.G <= G^2 / 2 inside.
    faces : tuple of ndarray, each of shape (corners, 3)
        Corners of each face in order around it.
    """

    normals_fc: NDArray[np.float64]
    faces: tuple[NDArray[np.float64], ...]

    @property
    def corners_vc(self) -> NDArray[np.float64]:
        """All corners, those that faces share several times."""
        return np.concatenate(self.faces)

    @property
    def edges_ecc(self) -> NDArray[np.float64]:
        """Edges from corner to corner, shape (E, 2, 3)."""
        edges = np.concatenate(
            [np.stack([face, np.roll(face, -1, axis=0)], axis=1) for face in self.faces]
        )
        # Two faces share each.
        size = np.abs(self.corners_vc).max()
        _, first = np.unique(np.rint(edges.mean(axis=1) / size * 1e6), axis=0, return_index=True)
        return np.asarray(edges[np.sort(first)])


def brillouin_zone(reciprocal_cc: NDArray[np.float64]) -> BrillouinZone:
    """Return the first Brillouin zone of a lattice.

    Parameters
    ----------
    reciprocal_cc : ndarray, shape (3, 3)
        Reciprocal lattice vectors as rows; the zone has their unit.
    """
    # Vectors of a reduced basis are the short ones; two shells of it hold all neighbours.
    reduced_cc = _reduced(reciprocal_cc)
    axes = np.arange(-2, 3)
    points = np.stack(np.meshgrid(axes, axes, axes, indexing="ij"), -1).reshape(-1, 3) @ reduced_cc
    origin = len(points) // 2
    voronoi = Voronoi(points)
    normals, faces = [], []
    for pair, corners in zip(voronoi.ridge_points, voronoi.ridge_vertices, strict=True):
        if origin in pair and -1 not in corners:
            face = voronoi.vertices[corners]
            # Qhull may leave faces of almost no extent where corners are shared.
            if _area(face) > ON_FACE * np.abs(reduced_cc).max() ** 2:
                normals.append(points[pair[0] if pair[1] == origin else pair[1]])
                faces.append(face)
    return BrillouinZone(np.array(normals), tuple(faces))


def _area(face_vc: NDArray[np.float64]) -> float:
    """Return the area of a plane polygon."""
    from_first = face_vc[1:] - face_vc[0]
    return float(0.5 * np.linalg.norm(np.cross(from_first[:-1], from_first[1:]).sum(axis=0)))


def _reduced(vectors_cc: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a basis of the same lattice with vectors that no other one shortens."""
    reduced = vectors_cc.copy()
    steps = np.array(list(np.ndindex(3, 3))) - 1
    while True:
        before = np.linalg.norm(reduced, axis=1).sum()
        for i in range(3):
            others = reduced[[j for j in range(3) if j != i]]
            candidates = reduced[i] + steps @ others
            reduced[i] = candidates[np.argmin(np.linalg.norm(candidates, axis=1))]
        if np.linalg.norm(reduced, axis=1).sum() > before * (1.0 - 1e-9):
            return reduced


def surface_triangles(
    surface: FermiSurface, band: int, zone: BrillouinZone
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the Fermi surface of one band as triangles inside the first Brillouin zone.

    The energies are interpolated by periodic cubic splines to a finer mesh, whose cells are divided
    into six tetrahedra each; in a tetrahedron the surface is plane.

    Parameters
    ----------
    surface : FermiSurface
    band : int
        Its place among the bands of the surface.
    zone : BrillouinZone
        In 1/Bohr.

    Returns
    -------
    triangles_tvc : ndarray, shape (T, 3, 3)
        Corners in 1/Bohr.
    gradients_tc : ndarray, shape (T, 3)
        Gradient of the energy at their middles, towards empty states.
    """
    reciprocal_cc, level = surface.reciprocal_cc, surface.fermi_level
    energy_xyz = surface.energies_bxyz[band]
    divisions = np.array(energy_xyz.shape)
    fine = np.maximum(FINE * np.linalg.norm(reciprocal_cc, axis=1), 1.0)
    fine = np.maximum(np.rint(fine / np.linalg.norm(reciprocal_cc, axis=1).max()), 1.0)
    fine = np.where(divisions > 1, np.maximum(fine, divisions), 1).astype(np.int64)
    fractional_vc = zone.corners_vc @ np.linalg.inv(reciprocal_cc)
    low = np.floor(fractional_vc.min(axis=0) * fine - 1e-9).astype(np.int64)
    high = np.ceil(fractional_vc.max(axis=0) * fine + 1e-9).astype(np.int64)
    axes = [np.arange(a, b + 1) for a, b in zip(low, high, strict=True)]
    places = np.meshgrid(*[x / f * n for x, f, n in zip(axes, fine, divisions, strict=True)],
                         indexing="ij")  # fmt: skip
    values = map_coordinates(energy_xyz, places, order=3, mode="grid-wrap") - level
    triangles = _isosurface(values)
    fractional = (triangles + low) / fine
    triangles_tvc = _clipped(fractional @ reciprocal_cc, zone)
    middles = triangles_tvc.mean(axis=1) @ np.linalg.inv(reciprocal_cc) * fine - low
    slopes = np.stack(
        [map_coordinates(_slope(values, axis), middles.T, order=1, mode="nearest") * fine[axis]
         for axis in range(3)], axis=1
    )  # fmt: skip
    return triangles_tvc, slopes @ np.linalg.inv(reciprocal_cc).T


def _slope(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    return np.gradient(values, axis=axis)


def _isosurface(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return where values on a grid are zero, as triangles in units of the grid, (T, 3, 3)."""
    cells = np.stack(np.meshgrid(*[np.arange(n - 1) for n in values.shape], indexing="ij"), -1)
    cells = cells.reshape(-1, 3)
    corners = np.array(list(np.ndindex(2, 2, 2)))
    below = np.stack([values[tuple((cells + corner).T)] < 0.0 for corner in corners])
    cells = cells[below.any(axis=0) & ~below.all(axis=0)]
    found = []
    for axes in permutations(range(3)):
        # From a corner of the cell to the opposite one along the three axes in some order.
        steps = np.zeros((4, 3), dtype=np.int64)
        steps[1:] = np.cumsum(np.eye(3, dtype=np.int64)[list(axes)], axis=0)
        places = cells[:, None, :] + steps
        found.append(_cut(values[tuple(np.moveaxis(places, -1, 0))], places.astype(float)))
    return np.concatenate(found)


def _cut(values_tv: NDArray[np.float64], places_tvc: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the triangles in which linear functions in tetrahedra are zero."""
    order = np.argsort(values_tv, axis=1)
    values = np.take_along_axis(values_tv, order, axis=1)
    places = np.take_along_axis(places_tvc, order[:, :, None], axis=1)

    def crossing(chosen: NDArray[np.bool_], a: int, b: int) -> NDArray[np.float64]:
        share = values[chosen, a] / (values[chosen, a] - values[chosen, b])
        return places[chosen, a] + share[:, None] * (places[chosen, b] - places[chosen, a])

    below = (values < 0.0).sum(axis=1)
    # Edges that carry the corners of each triangle, by how many corners lie below.
    edges = {
        1: [((0, 1), (0, 2), (0, 3))],
        2: [((0, 2), (0, 3), (1, 3)), ((0, 2), (1, 3), (1, 2))],
        3: [((0, 3), (1, 3), (2, 3))],
    }
    return np.concatenate(
        [
            np.stack([crossing(below == count, *edge) for edge in triangle], axis=1)
            for count, triangles in edges.items()
            for triangle in triangles
        ]
    )


def _clipped(triangles_tvc: NDArray[np.float64], zone: BrillouinZone) -> NDArray[np.float64]:
    """Return the parts of triangles inside the zone, cut at its faces."""
    for normal in zone.normals_fc:
        outside_tv = triangles_tvc @ normal - 0.5 * normal @ normal
        kept = [triangles_tvc[(outside_tv <= 0.0).all(axis=1)]]
        for count in (1, 2):
            cut = (outside_tv > 0.0).sum(axis=1) == count
            # The lone corner first: the one outside, or the one inside.
            sign = 1.0 if count == 1 else -1.0
            lone = np.argmax(sign * outside_tv[cut], axis=1)
            turn = (lone[:, None] + np.arange(3)) % 3
            corner = np.take_along_axis(triangles_tvc[cut], turn[:, :, None], axis=1)
            distance = np.take_along_axis(outside_tv[cut], turn, axis=1)
            share = distance[:, :1] / (distance[:, :1] - distance[:, 1:])
            edge = corner[:, :1] + share[:, :, None] * (corner[:, 1:] - corner[:, :1])
            if count == 1:
                kept.append(np.stack([edge[:, 0], corner[:, 1], corner[:, 2]], axis=1))
                kept.append(np.stack([edge[:, 0], corner[:, 2], edge[:, 1]], axis=1))
            else:
                kept.append(np.concatenate([corner[:, :1], edge], axis=1))
        triangles_tvc = np.concatenate(kept)
    return triangles_tvc
