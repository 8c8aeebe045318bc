"""H(k) and S(k) in PETSc's binary format."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.solver.pencil import Pencil
from hamgnn_solve.solver.petsc import PETSc

__all__ = ["write_matrices"]


def write_matrices(
    folder: str | Path, pencil: Pencil, kpoints_kc: NDArray[np.float64]
) -> list[dict[str, object]]:
    """Write the matrices at some k, and `matrices.json` that describes them. Collective.

    A matrix is what the pencil solves: at k with 2k a reciprocal lattice vector it is real, one row
    an orbital; elsewhere the real symmetric embedding, where orbital m has rows 2m and 2m + 1 and
    the entry a + ib is ((a, -b), (b, a)). Rows follow the atoms (under MPI: the ranks, then the
    atoms).

    Parameters
    ----------
    folder : str or Path
        Made where it is missing.
    pencil : Pencil
    kpoints_kc : ndarray, shape (K, 3)
        Fractional k.

    Returns
    -------
    list of dict
        What `matrices.json` holds for each k: `k`, names of the files `H` and `S`, `rows`,
        `embedding`.

    Raises
    ------
    InputError
        When the folder cannot be written.
    """
    folder = Path(folder)
    entries: list[dict[str, object]] = []
    for number, k_c in enumerate(np.atleast_2d(kpoints_kc), start=1):
        names = {name: f"{name}-{number}.petsc" for name in ("H", "S")}
        entry = {"k": k_c.tolist(), **names, "embedding": not pencil.is_real_at(k_c)}
        entries.append({**entry, "rows": pencil.norbitals * (1 if pencil.is_real_at(k_c) else 2)})
    _begin(folder, pencil, entries)
    for entry in entries:
        matrices = pencil.matrices(np.array(entry["k"]))
        for name, matrix in zip(("H", "S"), matrices, strict=True):
            viewer = PETSc.Viewer().createBinary(
                str(folder / str(entry[name])), PETSc.Viewer.Mode.WRITE, pencil.comm
            )
            matrix.view(viewer)
            viewer.destroy()
            matrix.destroy()
    return entries


def _begin(folder: Path, pencil: Pencil, entries: list[dict[str, object]]) -> None:
    """Make the folder and its description on the first rank; a fault is one on every rank."""
    fault = None
    if pencil.comm.rank == 0:
        description = {"energy_unit": "Hartree", "scalars": "real", "matrices": entries}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "matrices.json").write_text(json.dumps(description, indent=2) + "\n")
        except OSError as error:
            fault = f"The folder {folder} cannot be written ({error.strerror}); choose another."
    fault = pencil.comm.bcast(fault)
    if fault:
        raise InputError(fault)
