"""What the user asked of a run."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from hamgnn_solve.core.errors import InputError

__all__ = ["SolveOptions", "k_mesh", "openmx_data_folder"]


def openmx_data_folder(named: str | None) -> Path | None:
    """Return OpenMX's data: the folder named, or what OPENMX_DFT_DATA names; None for neither."""
    name = named or os.environ.get("OPENMX_DFT_DATA")
    return Path(name) if name else None


def k_mesh(text: str, option: str) -> tuple[int, int, int]:
    """Return the divisions of a k mesh such as "6x6x1"; raises `InputError` for what is none."""
    match = re.fullmatch(r"(\d+)x(\d+)x(\d+)", text.strip().lower())
    mesh = tuple(int(x) for x in match.groups()) if match else (0, 0, 0)
    if min(mesh) == 0:
        raise InputError(f"{option} {text} is not a k mesh; write 6x6x1, or 1x1x1 for Gamma.")
    return mesh[0], mesh[1], mesh[2]


@dataclass(frozen=True)
class SolveOptions:
    """Options of `hamgnn-solve`; docs/reference.md explains each.

    Raises
    ------
    InputError
        For a number of bands below 2, a spacing that is not positive, a memory that is no size,
        electrons that are not a positive number, or neither structure nor Hamiltonian.
    """

    structure: str = ""
    hamiltonian: str | None = None
    electrons: float | None = None
    out: str | None = None
    model: str = "auto"
    dft_data: str | None = None
    kpath: str = "auto"
    kpoints: str | None = None
    path_spacing: float = 0.04
    bands: int = 40
    band_error: float = 1e-3
    memory_per_rank: str | None = None
    device: str = "cpu"
    write_matrices: bool = False
    out_of_core: bool = False
    compression: float = 0.0
    subspace: int = 0
    groups: int = 1
    eigensolver: str = "block"
    restart: bool = False
    dos: str | None = None
    dos_moments: int = 1000
    density: str | None = None
    difference_density: str | None = None
    charges: bool = False
    density_mesh: str | None = None
    temperature: float | None = None
    orbitals: str | None = None
    orbital_k: str = "0 0 0"
    ldos: str | None = None
    ldos_height: float | None = None
    grid_spacing: float = 0.2
    grid_points: str | None = None
    grid_format: str = "cube"
    fat_bands: bool = False
    fermi_surface: str | None = None
    petsc: str = ""
    quiet: bool = False
    command: str = ""

    def __post_init__(self) -> None:
        if not self.structure and self.hamiltonian is None:
            raise InputError("Give a structure file, or --hamiltonian with a file of H and S.")
        if self.electrons is not None and self.hamiltonian is None:
            raise InputError(
                "--electrons is for --hamiltonian; a model knows how many electrons its atoms have."
            )
        if self.write_matrices and self.hamiltonian is not None:
            raise InputError(
                "--write-matrices is for a predicted H; hamgnn-tools convert writes a given one in "
                "other formats."
            )
        if self.electrons is not None and not 0.0 < self.electrons < float("inf"):
            raise InputError(f"--electrons {self.electrons} must be a positive number.")
        if self.bands < 2:
            raise InputError(f"--bands {self.bands} is too few; ask for at least 2.")
        if not 0.0 <= self.band_error < 1.0:
            raise InputError(
                f"--band-error {self.band_error:g} is no accuracy in eV; write 0.001, or 0 to "
                "solve every k-point by itself."
            )
        if not self.path_spacing > 0:
            raise InputError(f"--path-spacing {self.path_spacing} must be a positive number.")
        if self.device not in ("cpu", "cuda"):
            raise InputError(f"--device {self.device} is unknown; choose cpu or cuda.")
        if not 0.0 <= self.compression < 1e-3:
            raise InputError(
                f"--compression {self.compression:g} is no dropping tolerance for factors; write "
                "1e-10 to 1e-6."
            )
        if self.subspace < 0:
            raise InputError(f"--subspace {self.subspace} must be a number of vectors.")
        if self.dos_moments < 2:
            raise InputError(f"--dos-moments {self.dos_moments} is too few; give some hundreds.")
        if self.temperature is not None and not 0.0 <= self.temperature < 1e6:
            raise InputError(f"--temperature {self.temperature:g} must be a number of kelvins.")
        if self.grid_format not in ("cube", "xsf", "h5"):
            raise InputError(f"--grid-format {self.grid_format}: choose cube, xsf or h5.")
        if self.groups < 1:
            raise InputError(f"--groups {self.groups} must be a number of groups of ranks.")
        if self.eigensolver not in ("block", "slepc"):
            raise InputError(f"--eigensolver {self.eigensolver} is unknown; choose block or slepc.")
        _ = self.memory_bytes

    @property
    def memory_bytes(self) -> float | None:
        """Bytes of --memory-per-rank; None when it was not given."""
        if self.memory_per_rank is None:
            return None
        match = re.fullmatch(r"(\d+(?:\.\d*)?)\s*([MG])i?B?", self.memory_per_rank.strip(), re.I)
        if match is None or not float(match[1]) > 0:
            raise InputError(
                f"--memory-per-rank {self.memory_per_rank} is not a size; write 4GB or 500MB."
            )
        return float(match[1]) * {"M": 1e6, "G": 1e9}[match[2].upper()]

    @property
    def dft_data_folder(self) -> Path | None:
        """OpenMX's data: --dft-data, or what OPENMX_DFT_DATA names; None for neither."""
        return openmx_data_folder(self.dft_data)

    @property
    def source(self) -> str:
        """The file that H comes from: --hamiltonian, or the structure that a model is asked for."""
        return self.structure if self.hamiltonian is None else self.hamiltonian

    @property
    def run_folder(self) -> Path:
        """Folder of the results: --out, or the file's name with the ending .hamgnn."""
        if self.out is not None:
            return Path(self.out)
        name = Path(self.source).name.removesuffix(".xz")
        stem = Path(name).stem if "." in name else name
        return Path(f"{stem}.hamgnn")
