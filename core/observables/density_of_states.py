"""Density of states from eigenvalues on a k mesh: Gaussians or linear tetrahedra."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import trapezoid
from scipy.special import erf

__all__ = [
    "DensityOfStates",
    "dos_overlap",
    "energy_grid",
    "gaussian_dos",
    "tetrahedron_dos",
    "tetrahedron_level",
]

# A Gaussian beyond this many widths is zero to 1e-15.
REACH = 8.0


@dataclass(frozen=True)
class DensityOfStates:
    """Density of bands at a grid of energies, total and projected on groups of orbitals.

    A band counts once whatever it holds; with `electrons_per_band` these are electrons.

    Parameters
    ----------
    energies_e : ndarray, shape (E,)
        In Hartree, ascending.
    total_e : ndarray, shape (E,)
        Bands per Hartree and cell.
    integrated_e : ndarray, shape (E,)
        Bands per cell below each energy.
    names : tuple of str
        Name of each projection, length G.
    projected_ge : ndarray, shape (G, E)
        Bands per Hartree and cell.
    electrons_per_band : int
        2, or 1 for bands of spinors.
    broadening : float
        Standard deviation of the broadening in Hartree, in the middle of the spectrum where it
        varies; 0 for tetrahedra.
    error_e : ndarray, shape (E,), optional
        Standard error of `total_e` where a random trace made it.
    projected_error_ge : ndarray, shape (G, E), optional
        Standard errors of `projected_ge`.
    integrated_error_e : ndarray, shape (E,), optional
        Standard error of `integrated_e`.
    """

    energies_e: NDArray[np.float64]
    total_e: NDArray[np.float64]
    integrated_e: NDArray[np.float64]
    names: tuple[str, ...]
    projected_ge: NDArray[np.float64]
    electrons_per_band: int = 2
    broadening: float = 0.0
    error_e: NDArray[np.float64] | None = None
    projected_error_ge: NDArray[np.float64] | None = None
    integrated_error_e: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        shape = self.energies_e.shape
        if len(shape) != 1 or (np.diff(self.energies_e) <= 0.0).any():
            raise ValueError("energies of a density of states must ascend")
        if self.total_e.shape != shape or self.integrated_e.shape != shape:
            raise ValueError("a density of states and its energies differ in shape")
        if self.projected_ge.shape != (len(self.names), *shape):
            raise ValueError(f"{len(self.names)} projections of shape {self.projected_ge.shape}")

    def electrons_below(self, energy: float) -> float:
        """Return the electrons per cell that fill all states below an energy in Hartree."""
        if not self.energies_e[0] <= energy <= self.energies_e[-1]:
            raise ValueError(f"{energy} Hartree is not among the energies of this density")
        below = float(np.interp(energy, self.energies_e, self.integrated_e))
        return self.electrons_per_band * below


def energy_grid(low: float, high: float, step: float) -> NDArray[np.float64]:
    """Return energies from low to high (Hartree) at equal steps no larger than `step`."""
    if not (low < high and step > 0.0):
        raise ValueError(f"no energies from {low} to {high} in steps of {step}")
    return np.linspace(low, high, int(np.ceil((high - low) / step)) + 1)


def gaussian_dos(
    eigenvalues_kn: NDArray[np.float64],
    weights_k: NDArray[np.float64],
    energies_e: NDArray[np.float64],
    width: float,
    *,
    names: tuple[str, ...] = (),
    projections_gkn: NDArray[np.float64] | None = None,
    electrons_per_band: int = 2,
) -> DensityOfStates:
    """Return the density of states in which each level is a Gaussian.

    Parameters
    ----------
    eigenvalues_kn : ndarray, shape (K, B)
        In Hartree.
    weights_k : ndarray, shape (K,)
        Weights of the k-points; they sum to one.
    energies_e : ndarray, shape (E,)
        Where it is wanted, in Hartree, ascending.
    width : float
        Standard deviation in Hartree.
    names : tuple of str
        Of the projections.
    projections_gkn : ndarray, shape (G, K, B), optional
        Weight of each group in each level.
    electrons_per_band : int
    """
    if not width > 0.0:
        raise ValueError(f"a Gaussian of width {width}")
    weights_gkn = _with_total(eigenvalues_kn, projections_gkn, names)
    order = np.argsort(eigenvalues_kn, axis=None)
    level_x = eigenvalues_kn.ravel()[order]
    weight_gx = (weights_gkn * weights_k[:, None]).reshape(len(weights_gkn), -1)[:, order]
    full_gx = np.concatenate([np.zeros((len(weight_gx), 1)), np.cumsum(weight_gx, axis=1)], axis=1)
    density_ge = np.zeros((len(weight_gx), len(energies_e)))
    integrated_e = np.zeros(len(energies_e))
    bounds = np.searchsorted(
        level_x, np.stack([energies_e - REACH * width, energies_e + REACH * width])
    )
    for e, (first, last) in enumerate(bounds.T):
        distance_x = (energies_e[e] - level_x[first:last]) / width
        gaussian_x = np.exp(-0.5 * distance_x**2) / (np.sqrt(2.0 * np.pi) * width)
        density_ge[:, e] = weight_gx[:, first:last] @ gaussian_x
        step_x = 0.5 * (1.0 + erf(distance_x / np.sqrt(2.0)))
        integrated_e[e] = full_gx[0, first] + weight_gx[0, first:last] @ step_x
    return DensityOfStates(
        energies_e, density_ge[0], integrated_e, names, density_ge[1:], electrons_per_band, width
    )


def dos_overlap(left: DensityOfStates, right: DensityOfStates) -> float:
    """Return how far two densities of states g1 and g2 cover each other.

    Integral of min(g1, g2) over integral of max(g1, g2), over the energies of the grid: 1 when
    they are the same there, 0 when no state of one is at an energy of the other, not a number
    when both are empty.

    Raises
    ------
    ValueError
        When their energies differ.
    """
    if not np.array_equal(left.energies_e, right.energies_e):
        raise ValueError("densities of states at different energies cannot be compared")
    largest = trapezoid(np.maximum(left.total_e, right.total_e), left.energies_e)
    common = trapezoid(np.minimum(left.total_e, right.total_e), left.energies_e)
    return float(common / largest) if largest > 0.0 else np.nan


def tetrahedron_dos(
    eigenvalues_kn: NDArray[np.float64],
    divisions: tuple[int, int, int],
    energies_e: NDArray[np.float64],
    *,
    names: tuple[str, ...] = (),
    projections_gkn: NDArray[np.float64] | None = None,
    electrons_per_band: int = 2,
) -> DensityOfStates:
    """Return the density of states of bands that are linear in each tetrahedron of the mesh.

    Bloechl, Jepsen and Andersen, Phys. Rev. B 49, 16223 (1994), appendix B, without their
    curvature correction. The density is the mean over the step around each energy, so that its
    integral is that of the levels even where a band is flat. An axis with one division is one
    along which bands do not change.

    Parameters
    ----------
    eigenvalues_kn : ndarray, shape (K, B)
        In Hartree, the same bands at every k of a full regular mesh, last axis fastest:
        k = (i1 / n1, i2 / n2, i3 / n3) plus any one shift.
    divisions : tuple of int
        n1, n2, n3.
    energies_e : ndarray, shape (E,)
        In Hartree, at equal steps.
    names : tuple of str
        Of the projections.
    projections_gkn : ndarray, shape (G, K, B), optional
        Weight of each group in each level.
    electrons_per_band : int
    """
    if len(eigenvalues_kn) != int(np.prod(divisions)):
        raise ValueError(f"{len(eigenvalues_kn)} k-points on a mesh of {divisions}")
    step = float(energies_e[1] - energies_e[0])
    if not np.allclose(np.diff(energies_e), step, rtol=1e-6, atol=0.0):
        raise ValueError("tetrahedra need energies at equal steps")
    weights_gkn = _with_total(eigenvalues_kn, projections_gkn, names)
    corner_tv = _tetrahedra(divisions)
    edges = np.append(energies_e - 0.5 * step, energies_e[-1] + 0.5 * step)
    counts_ge = np.zeros((len(weights_gkn), len(edges)))
    integrated_e = np.zeros(len(energies_e))
    for n in range(eigenvalues_kn.shape[1]):
        energy_tv = eigenvalues_kn[corner_tv, n]
        order = np.argsort(energy_tv, axis=1)
        energy_tv = np.take_along_axis(energy_tv, order, axis=1)
        corners = np.take_along_axis(corner_tv, order, axis=1)
        weight_gtv = weights_gkn[:, corners, n] / len(corner_tv)
        counts_ge += _counted(energy_tv, weight_gtv, edges)
        integrated_e += _counted(energy_tv, weight_gtv[:1], energies_e)[0]
    density_ge = np.diff(counts_ge, axis=1) / step
    return DensityOfStates(
        energies_e, density_ge[0], integrated_e, names, density_ge[1:], electrons_per_band
    )


def tetrahedron_level(
    eigenvalues_kn: NDArray[np.float64], divisions: tuple[int, int, int], filled: float
) -> float:
    """Return the energy below which bands that are linear in tetrahedra hold some states.

    Parameters
    ----------
    eigenvalues_kn : ndarray, shape (K, B)
        As for `tetrahedron_dos`.
    divisions : tuple of int
        Of the mesh.
    filled : float
        States per cell, above 0 and below B.

    Returns
    -------
    float
        In Hartree, to 1e-10; the middle of the gap where there is one.
    """
    if not 0.0 < filled < eigenvalues_kn.shape[1]:
        raise ValueError(f"{filled} states in {eigenvalues_kn.shape[1]} bands")
    lowest_n, highest_n = eigenvalues_kn.min(axis=0), eigenvalues_kn.max(axis=0)
    # Bands do not cross in their order, so that the level lies in the band of the last state.
    low, high = float(lowest_n[int(filled)]), float(highest_n[int(np.ceil(filled)) - 1])
    corner_tv = _tetrahedra(divisions)
    partly = np.flatnonzero((lowest_n < high) & (highest_n > low))
    sorted_ntv = [np.sort(eigenvalues_kn[corner_tv, n], axis=1) for n in partly]
    within = filled - int((highest_n <= low).sum())
    while high - low > 1e-10:
        middle = 0.5 * (low + high)
        if sum(_part_below(energy_tv, middle) for energy_tv in sorted_ntv) < within:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


def _part_below(energy_tv: NDArray[np.float64], energy: float) -> float:
    """Return the part of a band below an energy; corners of tetrahedra in ascending order."""
    cut = (energy_tv[:, 0] < energy) & (energy_tv[:, 3] > energy)
    whole = int((energy_tv[:, 3] <= energy).sum())
    return float(whole + _corner_weights(energy_tv[cut], energy).sum()) / len(energy_tv)


def _with_total(
    eigenvalues_kn: NDArray[np.float64],
    projections_gkn: NDArray[np.float64] | None,
    names: tuple[str, ...],
) -> NDArray[np.float64]:
    """Return the weights of all groups after those of the total, which are one."""
    total = np.ones((1, *eigenvalues_kn.shape))
    if projections_gkn is None:
        projections_gkn = np.zeros((0, *eigenvalues_kn.shape))
    if projections_gkn.shape != (len(names), *eigenvalues_kn.shape):
        raise ValueError(f"{len(names)} names for projections of shape {projections_gkn.shape}")
    return np.concatenate([total, projections_gkn])


def _tetrahedra(divisions: tuple[int, int, int]) -> NDArray[np.int64]:
    """Return the k-points at the corners of all tetrahedra, six a cell of the mesh, (T, 4).

    Each goes from a corner of its cell to the opposite one along the three axes in some order.
    """
    cells = np.stack(np.meshgrid(*map(np.arange, divisions), indexing="ij"), -1).reshape(-1, 3)
    found = []
    for axes in permutations(range(3)):
        steps = np.zeros((4, 3), dtype=np.int64)
        steps[1:] = np.cumsum(np.eye(3, dtype=np.int64)[list(axes)], axis=0)
        place = (cells[:, None, :] + steps) % np.array(divisions)
        found.append((place[..., 0] * divisions[1] + place[..., 1]) * divisions[2] + place[..., 2])
    return np.concatenate(found).astype(np.int64)


def _counted(
    energy_tv: NDArray[np.float64], weight_gtv: NDArray[np.float64], energies_e: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the weights below some energies, summed over tetrahedra, shape (G, E).

    Tetrahedra that an energy cuts are worked out, those wholly below come from a running sum.
    """
    by_lowest = np.argsort(energy_tv[:, 0])
    energy_tv, weight_gtv = energy_tv[by_lowest], weight_gtv[:, by_lowest]
    lowest, highest = energy_tv[:, 0], energy_tv[:, 3]
    by_highest = np.argsort(highest)
    whole_gt = 0.25 * weight_gtv.sum(axis=2)[:, by_highest]
    whole_gt = np.concatenate([np.zeros((len(whole_gt), 1)), np.cumsum(whole_gt, axis=1)], axis=1)
    ended = np.searchsorted(highest[by_highest], energies_e, side="right")
    result_ge = whole_gt[:, ended]
    for e, energy in enumerate(energies_e):
        begun = int(np.searchsorted(lowest, energy))
        cut = np.flatnonzero(highest[:begun] > energy)
        if len(cut):
            corner_tv = _corner_weights(energy_tv[cut], float(energy))
            result_ge[:, e] += np.einsum("tv,gtv->g", corner_tv, weight_gtv[:, cut])
    return result_ge


def _corner_weights(energy_tv: NDArray[np.float64], energy: float) -> NDArray[np.float64]:
    """Return the integration weights of the corners of tetrahedra that an energy cuts, (T, 4).

    Bloechl, Jepsen and Andersen, equations B1 to B17, for a tetrahedron of volume one;
    energies e1 <= e2 <= e3 <= e4 with e1 < energy < e4.
    """
    weight_tv = np.zeros_like(energy_tv)
    part = (energy_tv[:, 1:3] <= energy).sum(axis=1)
    for index, formula in enumerate((_first_part, _second_part, _third_part)):
        chosen = part == index
        if chosen.any():
            weight_tv[chosen] = formula(energy_tv[chosen], energy)
    return weight_tv


def _first_part(energy_tv: NDArray[np.float64], energy: float) -> NDArray[np.float64]:
    """Weights for e1 < energy < e2 (B2 to B5)."""
    above = energy - energy_tv[:, 0]
    inverse_tv = 1.0 / (energy_tv[:, 1:] - energy_tv[:, :1])
    count = 0.25 * above**3 * inverse_tv.prod(axis=1)
    others_tv = (count * above)[:, None] * inverse_tv
    return np.column_stack([4.0 * count - others_tv.sum(axis=1), others_tv])


def _second_part(energy_tv: NDArray[np.float64], energy: float) -> NDArray[np.float64]:
    """Weights for e2 <= energy < e3 (B7 to B13)."""
    e1, e2, e3, e4 = energy_tv.T
    e31, e41, e32, e42 = e3 - e1, e4 - e1, e3 - e2, e4 - e2
    a1, a2, b3, b4 = energy - e1, energy - e2, e3 - energy, e4 - energy
    c1 = 0.25 * a1**2 / (e41 * e31)
    c2 = 0.25 * a1 * a2 * b3 / (e41 * e32 * e31)
    c3 = 0.25 * a2**2 * b4 / (e42 * e32 * e41)
    return np.column_stack(
        [
            c1 + (c1 + c2) * b3 / e31 + (c1 + c2 + c3) * b4 / e41,
            c1 + c2 + c3 + (c2 + c3) * b3 / e32 + c3 * b4 / e42,
            (c1 + c2) * a1 / e31 + (c2 + c3) * a2 / e32,
            (c1 + c2 + c3) * a1 / e41 + c3 * a2 / e42,
        ]
    )


def _third_part(energy_tv: NDArray[np.float64], energy: float) -> NDArray[np.float64]:
    """Weights for e3 <= energy < e4 (B14 to B17): the whole less what is above."""
    above_tv = _first_part(-energy_tv[:, ::-1], -energy)[:, ::-1]
    return 0.25 - above_tv
