"""What the user asked of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hamgnn_solve.core.errors import InputError

__all__ = ["SolveOptions"]


@dataclass(frozen=True)
class SolveOptions:
    """Options of `hamgnn-solve`; docs/reference.md explains each.

    Raises
    ------
    InputError
        For a number of bands below 2 or a spacing that is not positive.
    """

    structure: str
    out: str | None = None
    model: str = "tmd"
    kpath: str = "auto"
    kpoints: str | None = None
    path_spacing: float = 0.04
    bands: int = 40
    petsc: str = ""
    quiet: bool = False
    command: str = ""

    def __post_init__(self) -> None:
        if self.bands < 2:
            raise InputError(f"--bands {self.bands} is too few; ask for at least 2.")
        if not self.path_spacing > 0:
            raise InputError(f"--path-spacing {self.path_spacing} must be a positive number.")

    @property
    def run_folder(self) -> Path:
        """Folder of the results: --out, or the file's name with the ending .hamgnn."""
        if self.out is not None:
            return Path(self.out)
        name = Path(self.structure).name
        stem = Path(name).stem if "." in name else name
        return Path(f"{stem}.hamgnn")
