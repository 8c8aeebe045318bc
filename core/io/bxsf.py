"""Write band energies on a k mesh for XCrySDen and FermiSurfer."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hamgnn_solve.core.observables.fermi_surface import FermiSurface
from hamgnn_solve.core.units import ANGSTROM_PER_BOHR, EV_PER_HARTREE

__all__ = ["write_bxsf"]

PER_LINE = 6


def write_bxsf(file: str | Path, surface: FermiSurface, comment: str) -> None:
    """Write a BXSF file (XCrySDen's band grids, http://www.xcrysden.org/doc/XSF.html).

    A general grid: the points at the end of each axis repeat those at its beginning, and the last
    axis runs fastest. Energies are in eV, reciprocal lattice vectors in 1/Angstrom without the
    factor 2 pi.

    Parameters
    ----------
    file : str or Path
    surface : FermiSurface
    comment : str
        One line about where it comes from.
    """
    energies = np.pad(
        surface.energies_bxyz * EV_PER_HARTREE, ((0, 0), (0, 1), (0, 1), (0, 1)), mode="wrap"
    )
    vectors = surface.reciprocal_cc / (2.0 * np.pi * ANGSTROM_PER_BOHR)
    lines = [
        "BEGIN_INFO",
        f"  # {comment}",
        f"  Fermi Energy: {surface.fermi_level * EV_PER_HARTREE:.8f}",
        "END_INFO",
        "BEGIN_BLOCK_BANDGRID_3D",
        "  band_energies",
        "  BANDGRID_3D_BANDS",
        f"  {len(surface.bands)}",
        "  " + " ".join(str(n) for n in energies.shape[1:]),
        "  0.0 0.0 0.0",
        *("  " + " ".join(f"{x:.10f}" for x in vector) for vector in vectors),
    ]
    for band, energy_xyz in zip(surface.bands, energies, strict=True):
        lines.append(f"  BAND: {band}")
        values = [f"{x:.8f}" for x in energy_xyz.ravel()]
        lines += [
            "  " + " ".join(values[start : start + PER_LINE])
            for start in range(0, len(values), PER_LINE)
        ]
    lines += ["  END_BANDGRID_3D", "END_BLOCK_BANDGRID_3D"]
    Path(file).write_text("\n".join(lines) + "\n", encoding="ascii", errors="replace")
