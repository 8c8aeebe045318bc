"""Write what a run leaves behind, and keep what it has reached: results.h5, summary.json, .txt."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.observables.band_path import BandPath
from hamgnn_solve.core.observables.density_of_states import DensityOfStates
from hamgnn_solve.core.spectrum import KBands, Spectrum
from hamgnn_solve.core.units import EV_PER_HARTREE

__all__ = [
    "BandStore",
    "digest",
    "read_weights",
    "summarise",
    "write_charges",
    "write_dos",
    "write_environment_distances",
    "write_results",
    "write_summary",
]

# Entries of a summary that become groups or datasets instead of attributes.
NOT_ATTRIBUTES = ("stages", "unfamiliar_atoms")


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
        "solved_kpoints": len(spectrum.kpoints_kc),
        "certified_kpoints": len(spectrum.kpoints_kc)
        if spectrum.certified_k is None
        else int(spectrum.certified_k.sum()),
        "largest_residual_eV": in_ev(float(spectrum.residuals_kn.max())),
        "largest_error_eV": 0.0
        if spectrum.errors_k is None
        else in_ev(float(spectrum.errors_k.max())),
    }


class BandStore:
    """The bands solved so far in `results.h5`, from which a killed run goes on.

    Every new k-point replaces the file by a whole one, so that a run may be killed at any time.

    Parameters
    ----------
    file : str or Path
    kpoints_kc : ndarray, shape (K, 3)
        Fractional k of the run.
    nbands : int
        Bands asked for at each k.
    inputs : str
        What tells runs of other input apart (a digest).
    energy_shift : float
        Added to energies in the file, in Hartree.
    groups : tuple of str
        Groups of orbitals whose weights each k-point must have; k-points that an earlier run left
        without them are solved again.
    """

    def __init__(
        self,
        file: str | Path,
        kpoints_kc: NDArray[np.float64],
        nbands: int,
        inputs: str,
        energy_shift: float = 0.0,
        groups: tuple[str, ...] = (),
    ) -> None:
        self.file, self.kpoints_kc, self.nbands = Path(file), kpoints_kc, nbands
        self.inputs, self.energy_shift, self.groups = inputs, energy_shift, groups
        self.bands: dict[int, KBands] = {}

    def read(self) -> dict[int, KBands]:
        """Take over the k-points that an earlier run left; returns them.

        Raises
        ------
        InputError
            When the file was made from other input, or is no results file.
        """
        if not self.file.exists():
            return {}
        try:
            with h5py.File(self.file) as h5:
                if h5.attrs["inputs"] != self.inputs:
                    raise InputError(
                        f"{self.file} was made from other input (structure, model, k-points or "
                        "number of bands); choose another folder with --out, or leave --restart "
                        "out."
                    )
                energies_kn = h5["eigenvalues_eV"][:] / EV_PER_HARTREE - self.energy_shift
                residuals_kn = h5["residuals_eV"][:] / EV_PER_HARTREE
                first_k, certified_k = h5["band_index"][:, 0], h5["certified"][:]
                errors_k = h5["estimated_error_eV"][:] / EV_PER_HARTREE
                weights_gkn, groups = read_weights(h5) if self.groups else (None, ())
        except (OSError, KeyError) as error:
            raise InputError(
                f"{self.file} cannot be read as results of a run ({error}); leave --restart out."
            ) from error
        if self.groups != groups:
            return {}
        for k in np.flatnonzero(np.isfinite(energies_kn[:, 0])):
            there = np.isfinite(energies_kn[k])
            weights_gn = None if weights_gkn is None else weights_gkn[:, k, there]
            self.bands[int(k)] = KBands(
                energies_kn[k][there],
                residuals_kn[k][there],
                int(first_k[k]),
                bool(certified_k[k]),
                float(errors_k[k]),
                weights_gn,
            )
        return dict(self.bands)

    def store(self, place: int, bands: KBands) -> None:
        """Add a k-point and write the file."""
        self.bands[place] = bands
        width = max(len(x.energies_n) for x in self.bands.values())
        shape = (len(self.kpoints_kc), width)
        energies_kn, residuals_kn = np.full(shape, np.nan), np.full(shape, np.nan)
        index_kn, certified_k = np.zeros(shape, dtype=np.int64), np.zeros(shape[0], dtype=bool)
        errors_k = np.zeros(shape[0])
        weights_gkn = np.full((len(self.groups), *shape), np.nan)
        for k, x in self.bands.items():
            here = (k, slice(len(x.energies_n)))
            energies_kn[here] = (x.energies_n + self.energy_shift) * EV_PER_HARTREE
            residuals_kn[here] = x.residuals_n * EV_PER_HARTREE
            index_kn[k] = x.first_band + np.arange(width)
            certified_k[k], errors_k[k] = x.certified, x.error * EV_PER_HARTREE
            if x.weights_gn is not None:
                weights_gkn[:, k, here[1]] = x.weights_gn
        unfinished = self.file.with_name(self.file.name + ".new")
        with h5py.File(unfinished, "w") as h5:
            h5["kpoints"] = self.kpoints_kc
            h5["eigenvalues_eV"], h5["residuals_eV"] = energies_kn, residuals_kn
            h5["band_index"], h5["certified"] = index_kn, certified_k
            h5["estimated_error_eV"] = errors_k
            _write_weights(h5, weights_gkn, self.groups)
            h5.attrs["inputs"] = self.inputs
        unfinished.replace(self.file)


def _write_weights(
    h5: h5py.File, weights_gkn: NDArray[np.float64] | None, groups: tuple[str, ...]
) -> None:
    """Write the weights of groups of orbitals in the bands, where there are any."""
    if weights_gkn is not None and groups:
        h5["band_weights/group"] = np.array(groups, dtype=h5py.string_dtype())
        h5["band_weights/weight"] = weights_gkn


def read_weights(h5: h5py.File) -> tuple[NDArray[np.float64] | None, tuple[str, ...]]:
    """Return the weights of groups of orbitals in the bands, (G, K, N), and the groups' names."""
    if "band_weights" not in h5:
        return None, ()
    names = h5["band_weights/group"].asstr()[:].tolist()
    return h5["band_weights/weight"][:], tuple(names)


def digest(*parts: Any) -> str:
    """Return a number that tells inputs apart: texts, numbers, arrays."""
    total = hashlib.sha256()
    for part in parts:
        array = np.ascontiguousarray(part) if isinstance(part, np.ndarray) else None
        total.update(repr(part).encode() if array is None else array.tobytes())
        total.update(b";")
    return total.hexdigest()


def write_results(
    file: str | Path,
    spectrum: Spectrum,
    path: BandPath,
    summary: dict[str, Any],
    inputs: str = "",
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
    inputs : str
        What `BandStore` tells runs apart by.
    """
    certified_k, errors_k = spectrum.certified_k, spectrum.errors_k
    with h5py.File(file, "w") as h5:
        h5["kpoints"] = spectrum.kpoints_kc
        h5["eigenvalues_eV"] = spectrum.eigenvalues_kn * EV_PER_HARTREE
        h5["band_index"] = spectrum.band_index_kn
        h5["residuals_eV"] = spectrum.residuals_kn * EV_PER_HARTREE
        h5["certified"] = (
            np.ones(len(spectrum.kpoints_kc), dtype=bool) if certified_k is None else certified_k
        )
        h5["estimated_error_eV"] = (
            np.zeros(len(spectrum.kpoints_kc)) if errors_k is None else errors_k * EV_PER_HARTREE
        )
        _write_weights(h5, spectrum.weights_gkn, spectrum.groups)
        h5["path/distance_per_angstrom"] = path.distance_k
        h5["path/label_index"] = np.array([index for index, _ in path.labels], dtype=np.int64)
        h5["path/label"] = np.array([name for _, name in path.labels], dtype=h5py.string_dtype())
        for stage in summary["stages"]:
            timing = h5.create_group(f"timings/{stage['name']}")
            timing.attrs["seconds"] = stage["seconds"]
            timing.attrs["peak_mb"] = stage["peak_mb"]
        h5.attrs["inputs"] = inputs
        h5.attrs["electrons_per_band"] = spectrum.electrons_per_band
        for name, value in summary.items():
            if name not in NOT_ATTRIBUTES:
                # A metal has no band edges: such an attribute is not a number.
                h5.attrs[name] = np.nan if value is None else value


def write_dos(file: str | Path, dos: DensityOfStates, fermi_level: float) -> None:
    """Add the group `dos` to `results.h5` (layout: docs/formats.md); one that is there is replaced.

    Energies are in eV on the scale of the eigenvalues; densities count electrons per eV and cell
    that the states can hold, `electrons` those that states below each energy hold.

    Parameters
    ----------
    file : str or Path
        A file that `write_results` wrote.
    dos : DensityOfStates
    fermi_level : float
        In Hartree.
    """
    per_ev = dos.electrons_per_band / EV_PER_HARTREE
    with h5py.File(file, "r+") as h5:
        if "dos" in h5:
            del h5["dos"]
        group = h5.create_group("dos")
        group["energy_eV"] = dos.energies_e * EV_PER_HARTREE
        group["total_per_eV"] = dos.total_e * per_ev
        group["electrons"] = dos.integrated_e * dos.electrons_per_band
        group["projection"] = np.array(dos.names, dtype=h5py.string_dtype())
        group["projected_per_eV"] = dos.projected_ge * per_ev
        errors = {
            "total_error_per_eV": (dos.error_e, per_ev),
            "projected_error_per_eV": (dos.projected_error_ge, per_ev),
            "electrons_error": (dos.integrated_error_e, dos.electrons_per_band),
        }
        for name, (values, unit) in errors.items():
            if values is not None:
                group[name] = values * unit
        group.attrs["electrons_per_band"] = dos.electrons_per_band
        group.attrs["broadening_eV"] = dos.broadening * EV_PER_HARTREE
        group.attrs["fermi_level_eV"] = fermi_level * EV_PER_HARTREE


def write_charges(file: str | Path, charges: dict[str, NDArray[np.float64]]) -> None:
    """Add the group `charges` to `results.h5`: a dataset of each kind, one number an atom.

    Parameters
    ----------
    file : str or Path
        A file that `write_results` wrote.
    charges : dict of str to ndarray, shape (N,)
        "mulliken", "hirshfeld"; in units of e, positive where electrons are missing.
    """
    with h5py.File(file, "r+") as h5:
        for kind, charge_i in charges.items():
            h5[f"charges/{kind}"] = charge_i


def write_environment_distances(file: str | Path, relative_i: NDArray[np.float64]) -> None:
    """Add the dataset `environment_distance` to `results.h5`: one number an atom.

    Parameters
    ----------
    file : str or Path
        A file that `write_results` wrote.
    relative_i : ndarray, shape (N,)
        Distance to the training set in units of the threshold, infinite without training atoms.
    """
    with h5py.File(file, "r+") as h5:
        h5["environment_distance"] = relative_i


def write_summary(folder: Path, summary: dict[str, Any], text: str) -> None:
    """Write `summary.json` for programs and `summary.txt` for people."""
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    (folder / "summary.txt").write_text(text, encoding="utf-8")
