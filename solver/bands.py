"""Bands around the Fermi level at a set of k-points."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hamgnn_solve.core.spectrum import Spectrum
from hamgnn_solve.solver.eigenpairs import Eigenpairs, eigenpairs_of_bands
from hamgnn_solve.solver.fermi import (
    FermiLevel,
    check_electrons,
    fermi_level,
    fill_bands,
    locate_band,
    normalised_weights,
    thermal_level,
)
from hamgnn_solve.solver.pencil import Pencil

__all__ = ["solve_bands"]

# Hartree. A shift lies this far from a band that stands alone.
BEYOND = 1e-3


def solve_bands(
    pencil: Pencil,
    kpoints_kc: NDArray[np.float64],
    electrons: float,
    nbands: int = 40,
    advance: Callable[[], None] | None = None,
    *,
    fermi: FermiLevel | None = None,
    weights_k: NDArray[np.float64] | None = None,
    temperature: float = 0.0,
) -> Spectrum:
    """Compute the bands around the Fermi level: half below, half above, the same at every k.

    An energy near the Fermi level is found at the first k by counting states; every further k
    starts from the bands already known. The level follows from filling the bands of these
    k-points, and by bisection on counts where the bands do not enclose it. Every rank gets the
    result. Collective.

    Parameters
    ----------
    pencil : Pencil
        H and S.
    kpoints_kc : ndarray, shape (K, 3)
        Fractional k.
    electrons : float
        Electrons in the cell.
    nbands : int
        Number of bands; fewer where the pencil ends.
    advance : callable, optional
        Called on every rank after each k-point.
    fermi : FermiLevel, optional
        The level of a k mesh, for bands along a path, where filling would mislead.
    weights_k : ndarray, shape (K,), optional
        Weights of the k-points of a mesh; equal by default.
    temperature : float
        k_B T in Hartree, which moves the level of a metal; the level of an insulator is midway in
        the gap.

    Raises
    ------
    InputError
        When the electrons do not fit, S is not positive definite, or bands cannot be
        certified.
    """
    kpoints_kc = np.atleast_2d(np.asarray(kpoints_kc, dtype=np.float64))
    weights = normalised_weights(kpoints_kc, weights_k)
    check_electrons(pencil, electrons)
    pencil.check_overlap(kpoints_kc[0])
    per_band = pencil.electrons_per_band
    middle = int(np.ceil(electrons / per_band - 1e-9))
    first = max(middle - nbands // 2 + 1, 1)
    last = min(max(middle + nbands - nbands // 2, first), pencil.norbitals)
    if fermi is None:
        sigma = locate_band(pencil, kpoints_kc[0], middle, nbands // 4)
    else:
        sigma = fermi.energy
    found: list[Eigenpairs] = []
    for k_c in kpoints_kc:
        found.append(eigenpairs_of_bands(pencil, k_c, sigma, first, last))
        if advance is not None:
            advance()
        sigma = _next_shift(found[-1])
    energies_kn = np.stack([x.energies_n for x in found])
    if fermi is None:
        fermi = fill_bands(energies_kn, first, pencil.norbitals, weights, electrons, per_band)
    if fermi is None:
        fermi = fermi_level(pencil, kpoints_kc, weights, electrons)
    if fermi.metal and temperature > 0.0:
        warm = thermal_level(
            energies_kn, first, pencil.norbitals, weights, electrons, temperature, per_band
        )
        fermi = fermi if warm is None else FermiLevel(warm)
    return Spectrum(
        kpoints_kc,
        energies_kn,
        np.stack([x.band_index_n for x in found]),
        np.stack([x.residuals_n for x in found]),
        fermi.energy,
        electrons,
        per_band,
    )


def _next_shift(last: Eigenpairs) -> float:
    """Return the middle of the last k's bands, so that the nearest states are the wanted ones."""
    if len(last.energies_n) == 1:
        return float(last.energies_n[0]) + BEYOND
    return float(last.energies_n[0] + last.energies_n[-1]) / 2
