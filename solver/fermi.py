"""The Fermi level from the number of electrons."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.solver.eigenpairs import eigenpairs_near
from hamgnn_solve.solver.fragments import LevelGuess
from hamgnn_solve.solver.inertia import count_below
from hamgnn_solve.solver.pencil import Pencil

__all__ = [
    "FermiLevel",
    "fermi_level",
    "fill_bands",
    "into_gap",
    "locate_band",
    "normalised_weights",
    "thermal_level",
]

# Hartree. Bands closer than this (0.3 meV) do not make a gap.
SMALLEST_GAP = 1e-5
START = -0.2
FIRST_STEP = 0.05
STEPS = 60
# Bands further from the level than this many k_B T are full or empty to 1e-13.
THERMAL_REACH = 30.0


@dataclass(frozen=True)
class FermiLevel:
    """Where the filled bands end.

    Parameters
    ----------
    energy : float
        Fermi level in Hartree: the middle of the gap, or where the last electron goes.
    valence_band_maximum, conduction_band_minimum : float or None
        In Hartree; None for a metal, and the minimum is None where no empty band exists.
    """

    energy: float
    valence_band_maximum: float | None = None
    conduction_band_minimum: float | None = None

    @property
    def metal(self) -> bool:
        """Whether some band is partly filled, or the gap is below 1e-5 Hartree."""
        return self.valence_band_maximum is None

    @property
    def gap(self) -> float:
        """Band gap in Hartree; 0 for a metal, infinite where no empty band exists."""
        if self.valence_band_maximum is None:
            return 0.0
        if self.conduction_band_minimum is None:
            return float("inf")
        return self.conduction_band_minimum - self.valence_band_maximum


def normalised_weights(
    kpoints_kc: NDArray[np.float64], weights_k: NDArray[np.float64] | None
) -> NDArray[np.float64]:
    """Return weights that sum to one, equal ones by default.

    Raises
    ------
    InputError
        When there is no k-point, or weights are negative, all zero or of another number.
    """
    if kpoints_kc.ndim != 2 or kpoints_kc.shape[1:] != (3,) or len(kpoints_kc) == 0:
        raise InputError("k-points need three numbers each; give at least one.")
    weights = np.ones(len(kpoints_kc)) if weights_k is None else np.asarray(weights_k, dtype=float)
    if weights.shape != (len(kpoints_kc),) or weights.min() < 0.0 or not weights.sum() > 0.0:
        raise InputError(
            f"{len(kpoints_kc)} k-points need as many weights, none negative and not all zero."
        )
    return weights / weights.sum()


def check_electrons(pencil: Pencil, electrons: float) -> None:
    """Raise `InputError` when the bands cannot hold the electrons."""
    capacity = pencil.electrons_per_band * pencil.norbitals
    if not 0.0 < electrons <= capacity:
        raise InputError(
            f"{electrons:g} electrons do not fit into {pencil.norbitals} bands that hold "
            f"{capacity}; check the charge of the cell."
        )


def locate_band(
    pencil: Pencil, k_c: NDArray[np.float64], band: int, slack: int, start: float = START
) -> float:
    """Find an energy with `band` states below it at k, give or take `slack`, by inertia alone.

    Doubling steps from a start until the energy is enclosed, then regula falsi on the counts
    in turn with bisection. The factors at the energy found stay at hand. Collective.

    Returns
    -------
    float
        Energy in Hartree.
    """
    below: tuple[float, int] | None = None
    above: tuple[float, int] | None = None
    energy, step = start, FIRST_STEP
    for turn in range(STEPS):
        count = count_below(pencil, k_c, energy)
        if abs(count - band) <= slack:
            return energy
        if count < band:
            below = (energy, count)
        else:
            above = (energy, count)
        if below is None or above is None:
            energy += step if above is None else -step
            step *= 2.0
            continue
        share = 0.5 if turn % 2 else (band - below[1]) / (above[1] - below[1])
        energy = below[0] + min(max(share, 0.05), 0.95) * (above[0] - below[0])
    return energy


def into_gap(
    pencil: Pencil, k_c: NDArray[np.float64], band: int, energy: float, levels: LevelGuess
) -> float:
    """Return an energy with exactly `band` states below it where one is likely, else the one given.

    From an energy with some states more or less a search finds fewer of the wanted ones. Clusters
    have their gap where true bands begin, as these reach further than those of few atoms; where
    they hold few states from there to the energy with the right number of electrons, half of the
    way is tried. Collective.

    Parameters
    ----------
    energy : float
        In Hartree, with nearly so many states below it.
    levels : LevelGuess
        Levels of the clusters at this k.
    """
    charged = levels.energy(band)
    missing = band - count_below(pencil, k_c, energy)
    if missing * (charged - energy) <= 0.0:
        return energy
    if not levels.is_thin(min(energy, charged), max(energy, charged), band):
        return energy
    halfway = 0.5 * (energy + charged)
    return halfway if count_below(pencil, k_c, halfway) == band else energy


def fermi_level(
    pencil: Pencil,
    kpoints_kc: NDArray[np.float64],
    weights_k: NDArray[np.float64] | None,
    electrons: float,
    *,
    tolerance: float = SMALLEST_GAP,
) -> FermiLevel:
    """Find the Fermi level by bisection on the number of states below an energy.

    Zero temperature. Where the same whole number of bands, those that the electrons fill, lies
    below some energy at every k, the nearest states on both sides (certified by counts) are the
    band edges and the level is midway; else it is the energy where the weighted mean of the counts
    crosses that number. Needs no knowledge of the spectrum. Collective.

    Parameters
    ----------
    pencil : Pencil
        H and S.
    kpoints_kc : ndarray, shape (K, 3)
        Fractional k.
    weights_k : ndarray, shape (K,), optional
        Weights of the k-points; equal by default.
    electrons : float
        Electrons in the cell.
    tolerance : float
        Width in Hartree at which bisection ends; narrower gaps are not seen.

    Raises
    ------
    InputError
        When the electrons do not fit into the bands.
    """
    check_electrons(pencil, electrons)
    weights = normalised_weights(kpoints_kc, weights_k)
    filled = electrons / pencil.electrons_per_band

    low, high, step = -np.inf, np.inf, FIRST_STEP
    energy = START
    while high - low > tolerance:
        count_k = np.array([count_below(pencil, k_c, energy) for k_c in kpoints_kc])
        if (count_k == filled).all():
            return _level_in_gap(pencil, kpoints_kc, energy)
        if float(weights @ count_k) < filled:
            low = energy
        else:
            high = energy
        # Doubling steps until the level is enclosed, then bisection.
        if np.isinf(low) or np.isinf(high):
            energy, step = (high - step if np.isinf(low) else low + step), 2.0 * step
        else:
            energy = 0.5 * (low + high)
    return FermiLevel(energy)


def _level_in_gap(pencil: Pencil, kpoints_kc: NDArray[np.float64], energy: float) -> FermiLevel:
    edges = [eigenpairs_near(pencil, k_c, energy, 1, 1) for k_c in kpoints_kc]
    top = max(float(x.energies_n[0]) for x in edges)
    if any(len(x.energies_n) < 2 for x in edges):
        return FermiLevel(top, top)
    bottom = min(float(x.energies_n[1]) for x in edges)
    return _level_between(top, bottom)


def _level_between(top: float, bottom: float) -> FermiLevel:
    middle = 0.5 * (top + bottom)
    return FermiLevel(middle, top, bottom) if bottom - top > SMALLEST_GAP else FermiLevel(middle)


def fill_bands(
    energies_kn: NDArray[np.float64],
    first_band: int,
    norbitals: int,
    weights_k: NDArray[np.float64],
    electrons: float,
    electrons_per_band: int = 2,
) -> FermiLevel | None:
    """Fill known consecutive bands with electrons at zero temperature.

    Parameters
    ----------
    energies_kn : ndarray, shape (K, nbands)
        The same bands at every k, ascending, in Hartree.
    first_band : int
        Index of the first of them, counted from 1; all bands below it are full.
    norbitals : int
        Number of bands that exist.
    weights_k : ndarray, shape (K,)
        Weights that sum to one.
    electrons : float
        Electrons in the cell.
    electrons_per_band : int
        2 for orbitals without spin, 1 for spinors.

    Returns
    -------
    FermiLevel or None
        None when the level may lie outside these bands: they do not enclose it at every k.
    """
    filled = electrons / electrons_per_band
    nbands = energies_kn.shape[1]
    within = filled - (first_band - 1)
    last_band = first_band + nbands - 1
    if within < 0.0 or within > nbands:
        return None
    if within == round(within):
        count = round(within)
        top = energies_kn[:, count - 1].max() if count > 0 else None
        bottom = energies_kn[:, count].min() if count < nbands else None
        if top is not None and bottom is None and last_band == norbitals:
            return FermiLevel(float(top), float(top))
        if top is not None and bottom is not None and bottom - top > SMALLEST_GAP:
            return _level_between(float(top), float(bottom))
    order = np.argsort(energies_kn, axis=None)
    sorted_e = energies_kn.ravel()[order]
    states = np.cumsum(np.repeat(weights_k, nbands)[order])
    last = min(int(np.searchsorted(states, within - 1e-9)), len(sorted_e) - 1)
    level = float(sorted_e[last])
    if abs(states[last] - within) < 1e-9 and last + 1 < len(sorted_e):
        level = 0.5 * (level + float(sorted_e[last + 1]))
    enclosed_below = first_band == 1 or level > energies_kn[:, 0].max()
    enclosed_above = last_band == norbitals or level < energies_kn[:, -1].min()
    return FermiLevel(level) if enclosed_below and enclosed_above else None


def thermal_level(
    energies_kn: NDArray[np.float64],
    first_band: int,
    norbitals: int,
    weights_k: NDArray[np.float64],
    electrons: float,
    temperature: float,
    electrons_per_band: int = 2,
) -> float | None:
    """Return the energy at which Fermi-Dirac occupation of known bands holds the electrons.

    Parameters
    ----------
    energies_kn, first_band, norbitals, weights_k, electrons, electrons_per_band
        As for `fill_bands`.
    temperature : float
        k_B T in Hartree, above zero.

    Returns
    -------
    float or None
        Chemical potential in Hartree; None when bands beyond the known ones may be partly filled.
        In a gap wide against k_B T it is any energy at which rounding leaves the count right.
    """
    within = electrons / electrons_per_band - (first_band - 1)
    low, high = float(energies_kn.min()), float(energies_kn.max())
    low, high = low - THERMAL_REACH * temperature, high + THERMAL_REACH * temperature
    while high - low > 1e-12:
        middle = 0.5 * (low + high)
        if float(weights_k @ expit((middle - energies_kn) / temperature).sum(axis=1)) < within:
            low = middle
        else:
            high = middle
    level, reach = 0.5 * (low + high), THERMAL_REACH * temperature
    enclosed_below = first_band == 1 or level - reach > energies_kn[:, 0].max()
    last_band = first_band + energies_kn.shape[1] - 1
    enclosed_above = last_band == norbitals or level + reach < energies_kn[:, -1].min()
    return level if enclosed_below and enclosed_above else None
