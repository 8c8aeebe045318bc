"""Read back what a run left in results.h5."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.io.results import read_weights
from hamgnn_solve.core.observables.band_path import BandPath
from hamgnn_solve.core.observables.density_of_states import DensityOfStates
from hamgnn_solve.core.spectrum import Spectrum
from hamgnn_solve.core.units import EV_PER_HARTREE

__all__ = ["RunResults", "read_results"]


@dataclass(frozen=True)
class RunResults:
    """Bands of a run, and its density of states where it has one.

    Parameters
    ----------
    spectrum : Spectrum
    path : BandPath
        Of the same k-points.
    dos : DensityOfStates or None
        Energies on the scale of the spectrum.
    natoms : int
    """

    spectrum: Spectrum
    path: BandPath
    dos: DensityOfStates | None
    natoms: int


def read_results(folder: str | Path) -> RunResults:
    """Read the results of a finished run.

    Parameters
    ----------
    folder : str or Path
        The run folder.

    Raises
    ------
    InputError
        When it holds no results, or those of a run that was stopped.
    """
    file = Path(folder) / "results.h5"
    if not file.is_file():
        raise InputError(f"There is no {file}; give the folder that hamgnn-solve left.")
    try:
        with h5py.File(file) as h5:
            if "path" not in h5:
                raise InputError(f"{file} is of a run that was stopped; finish it with --restart.")
            dos = _dos(h5["dos"]) if "dos" in h5 else None
            return RunResults(_spectrum(h5), _path(h5), dos, int(h5.attrs["natoms"]))
    except (OSError, KeyError, ValueError) as error:
        raise InputError(
            f"{file} cannot be read as results of hamgnn-solve ({error}); solve the structure "
            "again."
        ) from error


def _spectrum(h5: h5py.File) -> Spectrum:
    weights_gkn, groups = read_weights(h5)
    return Spectrum(
        h5["kpoints"][:],
        h5["eigenvalues_eV"][:] / EV_PER_HARTREE,
        h5["band_index"][:],
        h5["residuals_eV"][:] / EV_PER_HARTREE,
        float(h5.attrs["fermi_level_eV"]) / EV_PER_HARTREE,
        float(h5.attrs["nelectrons"]),
        int(h5.attrs["electrons_per_band"]),
        h5["certified"][:],
        h5["estimated_error_eV"][:] / EV_PER_HARTREE,
        weights_gkn,
        groups,
    )


def _path(h5: h5py.File) -> BandPath:
    names = h5["path/label"].asstr()[:].tolist()
    labels = tuple(zip(h5["path/label_index"][:].tolist(), names, strict=True))
    return BandPath(h5["kpoints"][:], h5["path/distance_per_angstrom"][:], labels)


def _dos(group: h5py.Group) -> DensityOfStates:
    """Return the density of states; in the file it counts electrons, here bands."""
    per_band = int(group.attrs["electrons_per_band"])

    def values(name: str, unit: float) -> NDArray[Any] | None:
        return group[name][:] / unit if name in group else None

    per_ev = per_band / EV_PER_HARTREE
    return DensityOfStates(
        group["energy_eV"][:] / EV_PER_HARTREE,
        np.asarray(values("total_per_eV", per_ev)),
        np.asarray(values("electrons", per_band)),
        tuple(group["projection"].asstr()[:].tolist()),
        np.asarray(values("projected_per_eV", per_ev)),
        per_band,
        float(group.attrs["broadening_eV"]) / EV_PER_HARTREE,
        values("total_error_per_eV", per_ev),
        values("projected_error_per_eV", per_ev),
        values("electrons_error", per_band),
    )
