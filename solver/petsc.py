"""PETSc and SLEPc, checked on import: the one door through which the solver reaches them.

Importing this module raises `InputError` with one sentence when they are missing or were built in
a way the solver cannot use.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np

from hamgnn_solve.core.errors import InputError

__all__ = [
    "PETSc",
    "SLEPc",
    "check_build",
    "library_versions",
    "numbered_options",
    "set_options",
]

Number = TypeVar("Number", int, float)

INSTALL = "install Debian's python3-petsc4py-real and python3-slepc4py-real (docs/install.md)"


try:
    import petsc4py
    from mpi4py import MPI
    from petsc4py import PETSc
    from slepc4py import SLEPc
except ImportError as error:
    raise InputError(f"The solver needs petsc4py and slepc4py ({error}): {INSTALL}.") from error


def check_build(petsc: Any) -> None:
    """Check that PETSc has real double-precision scalars.

    Parameters
    ----------
    petsc : module
        `petsc4py.PETSc`.

    Raises
    ------
    InputError
        With what to install, when it is built otherwise.
    """
    if np.dtype(petsc.ScalarType) != np.float64:
        raise InputError(
            f"This PETSc has scalars of type {np.dtype(petsc.ScalarType).name}, but the solver's "
            f"are real and double: {INSTALL}, or set PETSC_DIR to such a build."
        )


def library_versions() -> dict[str, str]:
    """Return the versions of PETSc, SLEPc and MPI, for the record of a run."""
    return {
        "petsc": ".".join(str(number) for number in PETSc.Sys.getVersion()),
        "slepc": ".".join(str(number) for number in SLEPc.Sys.getVersion()),
        "petsc4py": petsc4py.__version__,
        "mpi": MPI.Get_library_version().split(",")[0].strip(),
    }


def set_options(text: str) -> None:
    """Put a user's options into PETSc's database, as in ``--petsc "-mat_mumps_icntl_14 50"``.

    Every rank must call it with the same text, before the first `Pencil` is made.

    Raises
    ------
    InputError
        When the text does not start with an option name.
    """
    words = shlex.split(text)
    if words and not words[0].startswith("-"):
        raise InputError(
            f"PETSc options must start with a dash, but '{words[0]}' does not; write for example "
            '--petsc "-mat_mumps_icntl_14 50".'
        )
    if "-mat_mumps_icntl_35" in words:
        raise InputError("Ask for compressed factors with --compression, not through --petsc.")
    PETSc.Options().insertString(text)


def numbered_options(
    prefix: str, largest: int, kind: Callable[[str], Number]
) -> Iterator[tuple[int, Number]]:
    """Yield number and value of the options a user gave as ``-<prefix><number> <value>``.

    Parameters
    ----------
    prefix : str
    largest : int
        Numbers go from 1 to this.
    kind : callable
        Reads a value.

    Raises
    ------
    InputError
        When a value is not of its kind.
    """
    options = PETSc.Options()
    for number in range(1, largest + 1):
        if not options.hasName(f"{prefix}{number}"):
            continue
        text = options.getString(f"{prefix}{number}")
        try:
            yield number, kind(text)
        except ValueError as error:
            raise InputError(f"-{prefix}{number} takes a number, not '{text}'.") from error


check_build(PETSc)
