"""Write what a run leaves behind: results.h5, summary.json, summary.txt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hamgnn_solve.core.observables.band_path import BandPath
from hamgnn_solve.core.spectrum import Spectrum
from hamgnn_solve.core.units import EV_PER_HARTREE

__all__ = ["summarise", "write_results", "write_summary"]


def summarise(spectrum: Spectrum) -> dict[str, Any]:
    """Return the figures of a spectrum under the names of `summary.json`, energies in eV."""

    def in_ev(energy: float | None) -> float | None:
        return None if energy is None else energy * EV_PER_HARTREE

    return {
        "nelectrons": spectrum.electrons,
        "fermi_level_eV": in_ev(spectrum.fermi_level),
        "vbm_eV": in_ev(spectrum.vbm),
        "cbm_eV": in_ev(spectrum.cbm),
        "gap_eV": in_ev(spectrum.gap),
        "gap_kind": spectrum.gap_kind,
    }


def write_results(
    file: str | Path, spectrum: Spectrum, path: BandPath, summary: dict[str, Any]
) -> None:
    """Write `results.h5` (layout: docs/formats.md).

    Parameters
    ----------
    file : str or Path
        A file of that name is replaced.
    spectrum, path
        Of the same k-points.
    summary : dict
        Becomes the attributes of the file; `stages` becomes the group of timings.
    """
    with h5py.File(file, "w") as h5:
        h5["kpoints"] = spectrum.kpoints_kc
        h5["eigenvalues_eV"] = spectrum.eigenvalues_kn * EV_PER_HARTREE
        h5["band_index"] = spectrum.band_index_kn
        h5["residuals_eV"] = spectrum.residuals_kn * EV_PER_HARTREE
        h5["path/distance_per_angstrom"] = path.distance_k
        h5["path/label_index"] = np.array([index for index, _ in path.labels], dtype=np.int64)
        h5["path/label"] = np.array([name for _, name in path.labels], dtype=h5py.string_dtype())
        for stage in summary["stages"]:
            timing = h5.create_group(f"timings/{stage['name']}")
            timing.attrs["seconds"] = stage["seconds"]
            timing.attrs["peak_mb"] = stage["peak_mb"]
        for name, value in summary.items():
            if name != "stages":
                # A metal has no band edges: such an attribute is not a number.
                h5.attrs[name] = np.nan if value is None else value


def write_summary(folder: Path, summary: dict[str, Any], text: str) -> None:
    """Write `summary.json` for programs and `summary.txt` for people."""
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    (folder / "summary.txt").write_text(text, encoding="utf-8")
