"""PETSc and SLEPc, checked on import: the one door through which the solver reaches them.

Importing this module raises `InputError` with one sentence when they are missing or were built in
a way the solver cannot use.
"""

from __future__ import annotations

import ctypes
import os
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np

from hamgnn_solve.core.errors import InputError

__all__ = ["PETSc", "SLEPc", "check_build", "library_versions", "set_options"]

INSTALL = "install Debian's python3-petsc4py-real and python3-slepc4py-real (docs/install.md)"


def offer_scotch(petsc_folder: str) -> bool:
    """Load Debian's MUMPS with Scotch before PETSc draws in the one without.

    Debian builds MUMPS twice with the same interface, and its PETSc names the build that knows no
    nested dissection, with which factors of large cells take twice the time. Whoever is loaded
    first serves. A PETSc that is not Debian's is left alone.

    Parameters
    ----------
    petsc_folder : str
        PETSC_DIR of the PETSc that will be loaded.

    Returns
    -------
    bool
        Whether it was loaded.
    """
    debian = re.fullmatch(r"/usr/lib/petscdir/petsc([\d.]+)/(.+)-real", petsc_folder.rstrip("/"))
    if debian is None:
        return False
    petsc = Path("/usr/lib", debian[2], f"libpetsc_real.so.{debian[1]}")
    mumps = re.search(rb"libdmumps-([\d.]+)\.so", petsc.read_bytes()) if petsc.exists() else None
    if mumps is None:
        return False
    try:
        ctypes.CDLL(f"libdmumps_ptscotch-{mumps[1].decode()}.so", mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    return True


try:
    import petsc4py

    if os.environ.get("HAMGNN_SOLVE_SCOTCH", "yes") != "no":
        offer_scotch(petsc4py.get_config()["PETSC_DIR"])
    from mpi4py import MPI
    from petsc4py import PETSc
    from slepc4py import SLEPc
except ImportError as error:
    raise InputError(f"The solver needs petsc4py and slepc4py ({error}): {INSTALL}.") from error


def check_build(petsc: Any) -> None:
    """Check that PETSc has real double-precision scalars and MUMPS.

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
            f"This PETSc has scalars of type {np.dtype(petsc.ScalarType).name}, but inertia "
            f"counts need real double precision: {INSTALL}, or set PETSC_DIR to such a build."
        )
    if not petsc.Sys.hasExternalPackage("mumps"):
        raise InputError(
            f"This PETSc was built without MUMPS, which factorises H - sigma S: {INSTALL}."
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


check_build(PETSc)
