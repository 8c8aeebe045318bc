"""The TSHS files of TranSIESTA: a structure with H and S, read by sisl and TBtrans."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.io import FortranFile

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.hamiltonian import CrystalHamiltonian, on_pairs
from hamgnn_solve.core.operator import BlockOperator
from hamgnn_solve.core.pairs import PairList, join_pairs
from hamgnn_solve.core.units import HARTREE_PER_KELVIN

__all__ = ["write_tshs"]

VERSION = 1
RYDBERG_PER_HARTREE = 2.0


def write_tshs(path: str | Path, given: CrystalHamiltonian) -> None:
    """Write H and S for `sisl.get_sile(path).read_hamiltonian()`.

    The format holds no chemical symbols and no names of orbitals; orbitals follow the atoms, with
    m = -l..l of each shell. sisl moves energies so that the Fermi level of the file is zero.

    Parameters
    ----------
    path : str or Path
        Its name must end in `.TSHS`, by which sisl tells the format.
    given : CrystalHamiltonian
        Of all atoms, without spin.

    Raises
    ------
    InputError
        For spinors, another ending, or a file that cannot be written.

    Notes
    -----
    Version 1 of the format: Fortran's sequential records, Rydberg and Bohr, one record a row of
    the sparse matrices, whose columns count the orbitals of all cells in the order of the last
    record.
    """
    path, system = Path(path), given.system
    if path.suffix != ".TSHS":
        raise InputError(f"sisl tells the format by the ending .TSHS; name {path.name} so.")
    if system.spinors:
        raise InputError("Spinors are not written as TSHS; write h5 or deeph for them.")
    structure, norb_i = system.structure, system.norb_i
    pairs = join_pairs(structure, given.hamiltonian.pairs, given.overlap.pairs)
    reach_c = np.abs(pairs.shift_pc).max(axis=0, initial=0)
    shift_rc = _cells(reach_c)
    indptr, columns, (h, s) = _rows(pairs, norb_i, shift_rc, (given.hamiltonian, given.overlap))
    total = int(norb_i.sum())
    level = system.chemical_potential or 0.0
    energies = np.array(
        [
            RYDBERG_PER_HARTREE * level,
            system.electrons or 0.0,
            RYDBERG_PER_HARTREE * HARTREE_PER_KELVIN * system.temperature,
        ]
    )
    sizes = [structure.natoms, total, total * len(shift_rc), 1, len(columns)]
    try:
        with FortranFile(path, "w") as file:
            file.write_record(np.array([VERSION], "i4"))
            file.write_record(np.array(sizes, "i4"))
            file.write_record((2 * reach_c + 1).astype("i4"))
            file.write_record(structure.cell_cc.ravel(), structure.pos_ic.ravel())
            file.write_record(np.zeros(3, "i4"))  # Gamma only: no; S only: no
            file.write_record(np.eye(3, dtype="i4").ravel(), np.zeros(3))  # k mesh and its shift
            file.write_record(energies)
            file.write_record(np.zeros(2, "i4"))  # step of molecular dynamics, moved atom
            file.write_record(np.concatenate([[0], np.cumsum(norb_i)]).astype("i4"))
            file.write_record(np.diff(indptr).astype("i4"))
            for data in ((columns + 1).astype("i4"), s, RYDBERG_PER_HARTREE * h):
                for start, stop in itertools.pairwise(indptr):
                    file.write_record(data[start:stop])
            file.write_record(shift_rc.ravel().astype("i4"))
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}).") from error


def _cells(reach_c: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the cells as SIESTA counts them: the first axis fastest, 0, 1, ..., -1 on each."""
    axes = [np.r_[0 : reach + 1, -reach:0] for reach in reach_c]
    third, second, first = np.meshgrid(axes[2], axes[1], axes[0], indexing="ij")
    return np.stack([first.ravel(), second.ravel(), third.ravel()], axis=1)


def _rows(
    pairs: PairList,
    norb_i: NDArray[np.int64],
    shift_rc: NDArray[np.int64],
    operators: tuple[BlockOperator, BlockOperator],
) -> tuple[NDArray[np.int64], NDArray[np.int64], list[NDArray[np.float64]]]:
    """Return row pointers, columns and the values of both operators on the blocks of `pairs`."""
    # A number for each cell that follows from its three indices, to look up its place.
    reach_c = shift_rc.max(axis=0)
    strides = np.array([1, 2 * reach_c[0] + 1, (2 * reach_c[0] + 1) * (2 * reach_c[1] + 1)])
    place_of = np.empty(len(shift_rc), dtype=np.int64)
    place_of[(shift_rc + reach_c) @ strides] = np.arange(len(shift_rc))
    cell_p = place_of[(pairs.shift_pc + reach_c) @ strides]

    first_i = np.cumsum(norb_i) - norb_i
    pattern = BlockOperator.zeros(pairs, norb_i)
    row, column = np.empty((2, len(pattern.values)), dtype=np.int64)
    values = [on_pairs(operator, pairs).values for operator in operators]
    for chosen, rows, columns in pattern.groups():
        places = pattern.places(chosen, rows * columns).reshape(-1, rows, columns)
        start_p = first_i[pairs.first_p[chosen]]
        stop_p = cell_p[chosen] * norb_i.sum() + first_i[pairs.second_p[chosen]]
        row[places] = start_p[:, None, None] + np.arange(rows)[:, None]
        column[places] = stop_p[:, None, None] + np.arange(columns)
    order = np.lexsort((column, row))
    indptr = np.searchsorted(row[order], np.arange(norb_i.sum() + 1))
    return indptr, column[order], [data[order] for data in values]
