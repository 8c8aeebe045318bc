"""Bands without dispersion along a path."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["BandWidth", "band_widths", "near_gap"]


@dataclass(frozen=True)
class BandWidth:
    """One band over all k-points of a path; energies in the unit of what it was made from.

    Parameters
    ----------
    index : int
        Global index of the band, from 1.
    lowest, highest : float
        Its extreme energies over the whole path.
    """

    index: int
    lowest: float
    highest: float

    @property
    def width(self) -> float:
        """Highest minus lowest energy."""
        return self.highest - self.lowest

    @property
    def centre(self) -> float:
        """Mean of the highest and the lowest energy."""
        return 0.5 * (self.highest + self.lowest)


def band_widths(
    eigenvalues_kn: NDArray[np.float64], band_index_kn: NDArray[np.int64]
) -> list[BandWidth]:
    """Return the width of every band that is known at all k-points, by index.

    Parameters
    ----------
    eigenvalues_kn : ndarray, shape (K, N)
        NaN where a band was not solved.
    band_index_kn : ndarray of int, shape (K, N)
        Global indices.

    Returns
    -------
    list of BandWidth
        Empty for fewer than two k-points, at which every band would seem flat.
    """
    nk = len(eigenvalues_kn)
    if nk < 2:
        return []
    solved_kn = np.isfinite(eigenvalues_kn)
    indices, counts = np.unique(band_index_kn[solved_kn], return_counts=True)
    widths = []
    for index in indices[counts == nk]:
        energies_k = eigenvalues_kn[solved_kn & (band_index_kn == index)]
        widths.append(BandWidth(int(index), float(energies_k.min()), float(energies_k.max())))
    return widths


def near_gap(
    widths: list[BandWidth], valence_edge: float, conduction_edge: float, window: float
) -> list[BandWidth]:
    """Return bands that lie within `window` of the gap, the flattest first.

    A band lies there when its nearest energy is no farther below the valence edge or above the
    conduction edge than the window; for a metal both edges are its Fermi level.
    """
    near = [
        band
        for band in widths
        if band.highest >= valence_edge - window and band.lowest <= conduction_edge + window
    ]
    return sorted(near, key=lambda band: (band.width, band.index))
