"""Eigenvalues around the Fermi level with their global band indices."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

__all__ = ["KBands", "Spectrum"]


@dataclass(frozen=True)
class KBands:
    """Bands at one k.

    Parameters
    ----------
    energies_n, residuals_n : ndarray, shape (nbands,)
        In Hartree; ||H x - e S x|| / ||S x||.
    first_band : int
        Global index of the lowest, counted from 1.
    certified : bool
        Whether counts certify the indices.
    error : float
        Largest estimated error of the energies in Hartree, where they come from the states of
        other k-points; 0 where this one was solved.
    weights_gn : ndarray, shape (G, nbands), optional
        Mulliken weights of groups of orbitals.
    """

    energies_n: NDArray[np.float64]
    residuals_n: NDArray[np.float64]
    first_band: int
    certified: bool = True
    error: float = 0.0
    weights_gn: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        if self.energies_n.shape != self.residuals_n.shape:
            raise ValueError(
                f"{self.energies_n.shape} energies, {self.residuals_n.shape} residuals"
            )
        if self.weights_gn is not None and self.weights_gn.shape[1:] != self.energies_n.shape:
            raise ValueError(
                f"{self.energies_n.shape} energies, weights of shape {self.weights_gn.shape}"
            )


@dataclass(frozen=True)
class Spectrum:
    """Bands around the Fermi level at a list of k-points.

    Parameters
    ----------
    kpoints_kc : ndarray, shape (K, 3)
        Fractional k-points.
    eigenvalues_kn : ndarray, shape (K, B)
        In Hartree, ascending at each k.
    band_index_kn : ndarray of int64, shape (K, B)
        Global index of each band, from 1 for the lowest valence band.
    residuals_kn : ndarray, shape (K, B)
        Norm of the residual of each pair in Hartree.
    fermi_level : float
        In Hartree; the middle of the gap for an insulator.
    electrons : float
        Valence electrons per cell.
    electrons_per_band : int
        2, or 1 for bands of spinors.
    certified_k : ndarray of bool, shape (K,), optional
        Where the number of bands was certified by counts or all bands are known; by default at
        every k. Elsewhere band indices are counted from the gap.
    errors_k : ndarray, shape (K,), optional
        Largest estimated error in Hartree at k that were not solved by themselves; by default 0.
    weights_gkn : ndarray, shape (G, K, B), optional
        Mulliken weights of groups of orbitals in each state.
    groups : tuple of str
        Names of these groups, length G.
    """

    kpoints_kc: NDArray[np.float64]
    eigenvalues_kn: NDArray[np.float64]
    band_index_kn: NDArray[np.int64]
    residuals_kn: NDArray[np.float64]
    fermi_level: float
    electrons: float
    electrons_per_band: int = 2
    certified_k: NDArray[np.bool_] | None = None
    errors_k: NDArray[np.float64] | None = None
    weights_gkn: NDArray[np.float64] | None = None
    groups: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shape = self.eigenvalues_kn.shape
        if self.weights_gkn is not None and self.weights_gkn.shape != (len(self.groups), *shape):
            raise ValueError(
                f"weights of shape {self.weights_gkn.shape} for {len(self.groups)} groups, "
                f"eigenvalues of shape {shape}"
            )
        if len(self.kpoints_kc) != shape[0]:
            raise ValueError(f"{len(self.kpoints_kc)} k-points, eigenvalues of shape {shape}")
        if self.band_index_kn.shape != shape or self.residuals_kn.shape != shape:
            raise ValueError("eigenvalues, band indices and residuals differ in shape")
        if (np.diff(self.eigenvalues_kn, axis=1) < 0).any():
            raise ValueError("eigenvalues are not in ascending order")

    def shifted(self, energy: float) -> Spectrum:
        """Return the spectrum of H + energy * S (Hartree): every level is moved by `energy`."""
        return replace(
            self,
            eigenvalues_kn=self.eigenvalues_kn + energy,
            fermi_level=self.fermi_level + energy,
        )

    @property
    def filled_bands(self) -> float:
        """Number of bands that the electrons fill."""
        return self.electrons / self.electrons_per_band

    @property
    def is_metal(self) -> bool:
        """Whether a band crosses the Fermi level (an odd electron count always does)."""
        return self._edges() is None

    @property
    def vbm(self) -> float | None:
        """Highest occupied energy over the k-points in Hartree; None for a metal."""
        edges = self._edges()
        return None if edges is None else edges[0]

    @property
    def cbm(self) -> float | None:
        """Lowest empty energy over the k-points in Hartree; None for a metal."""
        edges = self._edges()
        return None if edges is None else edges[1]

    @property
    def gap(self) -> float:
        """Cbm - vbm in Hartree; 0 for a metal."""
        edges = self._edges()
        return 0.0 if edges is None else edges[1] - edges[0]

    @property
    def gap_kind(self) -> str:
        """Kind of the gap among the solved k-points: "direct", "indirect" or "metal"."""
        if self._edges() is None:
            return "metal"
        valence_k, conduction_k = self._edge_bands()
        smallest_direct = float((conduction_k - valence_k).min())
        return "direct" if smallest_direct - self.gap < 1e-6 else "indirect"

    def _edge_bands(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        occupied = round(self.filled_bands)
        valence_k = self.eigenvalues_kn[self.band_index_kn == occupied]
        conduction_k = self.eigenvalues_kn[self.band_index_kn == occupied + 1]
        return valence_k, conduction_k

    def _edges(self) -> tuple[float, float] | None:
        if abs(self.filled_bands - round(self.filled_bands)) > 1e-6:
            return None
        valence_k, conduction_k = self._edge_bands()
        if len(valence_k) == 0 or len(conduction_k) == 0:
            return None
        vbm, cbm = float(valence_k.max()), float(conduction_k.min())
        return (vbm, cbm) if cbm > vbm else None
