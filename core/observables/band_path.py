"""The path through the Brillouin zone along which bands are drawn."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import seekpath
from numpy.typing import NDArray

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.structure import Structure
from hamgnn_solve.core.units import ANGSTROM_PER_BOHR

__all__ = ["BandPath", "band_path", "listed_kpoints", "vacuum_axes"]

VACUUM = 6.0 / ANGSTROM_PER_BOHR
GREEK = {"GAMMA": "Γ", "DELTA": "Δ", "LAMBDA": "Λ", "SIGMA": "Σ"}
GAMMA_LABELS = {"G", "GAMMA", "Γ"}


@dataclass(frozen=True)
class BandPath:
    """Points along which eigenvalues are solved and drawn.

    Parameters
    ----------
    kpoints_kc : ndarray, shape (K, 3)
        In units of the reciprocal lattice vectors of the cell.
    distance_k : ndarray, shape (K,)
        Length along the path in 1/Angstrom (2 pi included); a jump between branches adds none.
    labels : tuple of (int, str)
        Index and name of the special points.
    """

    kpoints_kc: NDArray[np.float64]
    distance_k: NDArray[np.float64]
    labels: tuple[tuple[int, str], ...]

    def __post_init__(self) -> None:
        nk = len(self.kpoints_kc)
        if self.kpoints_kc.shape != (nk, 3) or self.distance_k.shape != (nk,):
            raise ValueError(f"{nk} k-points do not fit distances of shape {self.distance_k.shape}")


def listed_kpoints(text: str) -> BandPath:
    """Read k-points such as "0 0 0; 0.5 0 0" (fractional, separated by semicolons).

    Raises
    ------
    InputError
        When an entry is not three numbers.
    """
    points = []
    for entry in filter(None, (part.strip() for part in text.split(";"))):
        try:
            point = [float(number) for number in entry.replace(",", " ").split()]
        except ValueError:
            point = []
        if len(point) != 3 or not np.isfinite(point).all():
            raise InputError(
                f"'{entry}' in --kpoints is not a k-point; give three numbers a point, separated "
                'by semicolons: --kpoints "0 0 0; 0.5 0 0".'
            )
        points.append(point)
    if not points:
        raise InputError('--kpoints is empty; give at least one point, as in --kpoints "0 0 0".')
    return BandPath(np.array(points), np.arange(len(points), dtype=np.float64), ())


def vacuum_axes(structure: Structure) -> tuple[bool, bool, bool]:
    """Tell along which lattice vectors a slab of at least 6 Angstrom holds no atom."""
    normal_cc = np.linalg.inv(structure.cell_cc).T
    height_c = 1.0 / np.linalg.norm(normal_cc, axis=1)
    place_ic = np.sort(structure.fractional_ic % 1.0, axis=0)
    following = np.concatenate([place_ic[1:], place_ic[:1] + 1.0])
    widest_c = (following - place_ic).max(axis=0) * height_c
    a, b, c = (bool(gap >= VACUUM) for gap in widest_c)
    return a, b, c


def band_path(structure: Structure, request: str, spacing: float) -> BandPath:
    """Return the path for a request: "auto", "none" or special points such as "M-G-K".

    "auto" takes the path of Hinuma et al. (Comput. Mater. Sci. 128, 140 (2017)) through seekpath,
    without the points that leave the plane of a slab or the axis of a wire. For a hexagonal slab
    it is M-G-K, as moire bands are usually drawn. "none" is the Gamma point alone.

    Parameters
    ----------
    structure : Structure
    request : str
        Special points are named as seekpath names them for this lattice; G stands for Gamma.
    spacing : float
        Largest step along the path in 1/Angstrom.

    Raises
    ------
    InputError
        For a point that this lattice does not have.
    """
    if request == "none":
        return BandPath(np.zeros((1, 3)), np.zeros(1), ((0, "Γ"),))
    coordinates, segments = _special_points(structure)
    if request == "auto":
        corners = _automatic_corners(structure, coordinates, segments)
    else:
        corners = [[_named(name, coordinates) for name in request.split("-")]]
    return _walk(structure, corners, coordinates, spacing)


def _special_points(
    structure: Structure,
) -> tuple[dict[str, NDArray[np.float64]], list[tuple[str, str]]]:
    numbers = structure.element_index_i + 1
    cell = (structure.cell_cc * ANGSTROM_PER_BOHR, structure.fractional_ic, numbers)
    with warnings.catch_warnings():
        # A supercell is drawn in its own Brillouin zone: that is what the user gave.
        warnings.simplefilter("ignore")
        found = seekpath.get_path_orig_cell(cell)
    # Rounding keeps 1/2 exact: H(k) is real there.
    points = {name: np.round(k, 12) + 0.0 for name, k in found["point_coords"].items()}
    return points, found["path"]


def _automatic_corners(
    structure: Structure,
    coordinates: dict[str, NDArray[np.float64]],
    segments: list[tuple[str, str]],
) -> list[list[str]]:
    vacuum = np.array(vacuum_axes(structure))
    kept = {name for name, k in coordinates.items() if np.abs(k[vacuum]).max(initial=0) < 1e-8}
    if vacuum.sum() == 1 and {"M", "GAMMA", "K"} <= kept and _is_hexagonal(structure, vacuum):
        return [["M", "GAMMA", "K"]]
    branches: list[list[str]] = []
    for start, end in segments:
        if start not in kept or end not in kept:
            continue
        if branches and branches[-1][-1] == start:
            branches[-1].append(end)
        else:
            branches.append([start, end])
    return branches or [["GAMMA"]]


def _is_hexagonal(structure: Structure, vacuum: NDArray[np.bool_]) -> bool:
    a, b = structure.cell_cc[~vacuum]
    cosine = a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
    equal = abs(np.linalg.norm(a) / np.linalg.norm(b) - 1.0) < 1e-3
    return bool(equal and abs(abs(cosine) - 0.5) < 1e-3)


def _named(name: str, coordinates: dict[str, NDArray[np.float64]]) -> str:
    wanted = "GAMMA" if name.strip().upper() in GAMMA_LABELS else name.strip()
    if wanted not in coordinates:
        known = ", ".join("G" if key == "GAMMA" else key for key in sorted(coordinates))
        raise InputError(
            f"This lattice has no special point '{name}'; it has {known} "
            "(or give coordinates with --kpoints)."
        )
    return wanted


def _walk(
    structure: Structure,
    branches: list[list[str]],
    coordinates: dict[str, NDArray[np.float64]],
    spacing: float,
) -> BandPath:
    reciprocal_cc = 2 * np.pi * np.linalg.inv(structure.cell_cc).T / ANGSTROM_PER_BOHR
    kpoints: list[NDArray[np.float64]] = []
    distances: list[float] = []
    labels: list[tuple[int, str]] = []
    for branch in branches:
        labels.append((len(kpoints), _label(branch[0])))
        kpoints.append(coordinates[branch[0]])
        distances.append(distances[-1] if distances else 0.0)
        for start, end in pairwise(branch):
            step = coordinates[end] - coordinates[start]
            length = float(np.linalg.norm(step @ reciprocal_cc))
            count = max(int(np.ceil(length / spacing)), 1)
            fractions = np.arange(1, count + 1) / count
            kpoints.extend(coordinates[start] + fraction * step for fraction in fractions)
            distances.extend((distances[-1] + fractions * length).tolist())
            labels.append((len(kpoints) - 1, _label(end)))
    return BandPath(np.array(kpoints), np.array(distances), tuple(labels))


def _label(name: str) -> str:
    """Return seekpath's name of a point ("GAMMA", "SIGMA_0") as it is printed."""
    stem, _, index = name.partition("_")
    stem = GREEK.get(stem, stem)
    return f"{stem}$_{{{index}}}$" if index else stem
