"""OpenMX's output file (.out): course of the self-consistency, total energy, eigenvalues."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hamgnn_solve.core.errors import InputError

__all__ = ["OpenMXOutput", "read_openmx_output"]

NUMBER = r"(-?\d+\.\d+)"
STEP = re.compile(rf"^\s*SCF=\s*\d+\s+NormRD=\s*{NUMBER}\s+Uele=\s*{NUMBER}", re.MULTILINE)
TOTAL = re.compile(rf"^\s*Utot\.\s+{NUMBER}", re.MULTILINE)
KPOINT = re.compile(rf"k1=\s*{NUMBER}\s+k2=\s*{NUMBER}\s+k3=\s*{NUMBER}")
LEVEL = re.compile(rf"^\s*\d+\s+{NUMBER}\s+{NUMBER}\s*$", re.MULTILINE)


@dataclass(frozen=True)
class OpenMXOutput:
    """What an output file says of the last geometry of a run.

    Parameters
    ----------
    band_energies_t : ndarray, shape (T,)
        Uele of every step of the self-consistency in Hartree.
    total_energy : float
        Utot in Hartree.
    kpoints_kc : ndarray, shape (K, 3)
        Fractional k at which eigenvalues are printed, to five decimals; K = 0 where there are
        none.
    eigenvalues_k : list of ndarray
        Eigenvalues printed at each, in Hartree, ascending; of the first spin.
    """

    band_energies_t: NDArray[np.float64]
    total_energy: float
    kpoints_kc: NDArray[np.float64]
    eigenvalues_k: list[NDArray[np.float64]]

    @property
    def last_change(self) -> float:
        """Change of Uele in the last step in Hartree, which OpenMX holds against scf.criterion."""
        if len(self.band_energies_t) < 2:
            return np.inf
        return abs(float(self.band_energies_t[-1] - self.band_energies_t[-2]))


def read_openmx_output(path: str | Path) -> OpenMXOutput:
    """Read an output file of OpenMX 3.9.

    Raises
    ------
    InputError
        For a file that cannot be read, or that ends before the total energy.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="latin-1")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).") from error
    history = text.rfind("SCF history at MD=")
    totals = TOTAL.findall(text)
    if history < 0 or not totals:
        raise InputError(f"{path} has no total energy: the run did not end, or it is no .out.")
    steps = [float(energy) for _, energy in STEP.findall(text, history)]
    kpoints_kc, eigenvalues_k = _eigenvalues(text)
    return OpenMXOutput(np.array(steps), float(totals[-1]), kpoints_kc, eigenvalues_k)


def _eigenvalues(text: str) -> tuple[NDArray[np.float64], list[NDArray[np.float64]]]:
    title = text.rfind("Eigenvalues (Hartree)")
    if title < 0:
        return np.zeros((0, 3)), []
    # Lines of stars end the title, and later the section.
    section = re.split(r"^\*{20,}\s*$", text[title:], flags=re.MULTILINE)
    body = max(section[:4], key=len)
    kpoints, eigenvalues = [], []
    for part in re.split(r"kloop=\d+", body)[1:] or [body]:
        k_c = KPOINT.search(part)
        kpoints.append([0.0] * 3 if k_c is None else [float(number) for number in k_c.groups()])
        eigenvalues.append(np.array([float(up) for up, _ in LEVEL.findall(part)]))
    return np.array(kpoints), eigenvalues
