"""H, S and H0 in an HDF5 file of our own (layout: docs/formats.md)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.hamiltonian import (
    CrystalHamiltonian,
    KMesh,
    OrbitalSystem,
    check_not_h0,
    half_reach,
)
from hamgnn_solve.core.operator import BlockOperator
from hamgnn_solve.core.pairs import PairList, displacements
from hamgnn_solve.core.structure import Structure

__all__ = [
    "append_rows",
    "create_operator_file",
    "read_half_reach",
    "read_operator_file",
    "read_operator_system",
    "write_operator_file",
]

FORMAT = "hamgnn-solve operators"
VERSION = 1
CHUNK = 1 << 14


def write_operator_file(path: str | Path, given: CrystalHamiltonian) -> None:
    """Write operators to a file; one of that name is replaced.

    Raises
    ------
    InputError
        When the file cannot be written.
    """
    create_operator_file(path, given.system)
    append_rows(path, given)


def create_operator_file(path: str | Path, system: OrbitalSystem) -> None:
    """Write the part of a file that tells atoms, orbitals and electrons.

    Raises
    ------
    InputError
        When the file cannot be written.
    """
    structure = system.structure
    try:
        h5 = h5py.File(path, "w")
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error}); choose another name.") from error
    with h5:
        h5.attrs["format"] = FORMAT
        h5.attrs["version"] = VERSION
        h5.attrs["spinors"] = system.spinors
        h5.attrs["electrons"] = _number(system.electrons)
        h5.attrs["chemical_potential"] = _number(system.chemical_potential)
        h5.attrs["temperature_kelvin"] = system.temperature
        h5["structure/symbols"] = np.array(structure.symbols, dtype=h5py.string_dtype())
        h5["structure/positions"] = structure.pos_ic
        h5["structure/cell"] = structure.cell_cc
        h5["orbitals/shells"] = np.array([len(shells) for shells in system.shells_i])
        h5["orbitals/l"] = np.array([x for shells in system.shells_i for x in shells])
        h5["orbitals/half_reach"] = np.zeros(structure.natoms)
        if system.mesh is not None:
            h5["mesh/kpoints"] = system.mesh.kpoints_kc
            h5["mesh/weights"] = system.mesh.weights_k


def append_rows(path: str | Path, given: CrystalHamiltonian) -> None:
    """Add the blocks of some atoms to a file that `create_operator_file` began.

    Under MPI the ranks call it one after the other; the order of the atoms in the file is free.
    """
    operators = {
        "H": given.hamiltonian,
        "H_imaginary": given.imaginary,
        "S": given.overlap,
        "H0": given.zero,
    }
    with h5py.File(path, "r+") as h5:
        for name, operator in operators.items():
            if operator is not None:
                _append(h5.require_group(name), operator)
        h5["orbitals/half_reach"][:] += half_reach(given.overlap)


def _append(group: h5py.Group, operator: BlockOperator) -> None:
    pairs, natoms = operator.pairs, len(operator.norb_i)
    columns = np.column_stack([pairs.first_p, pairs.second_p, pairs.shift_pc])
    if "pairs" not in group:
        group.create_dataset("pairs", (0, 5), "i4", maxshape=(None, 5), chunks=(CHUNK // 8, 5))
        group.create_dataset("values", (0,), "f8", maxshape=(None,), chunks=(CHUNK,))
        group["atom_pairs"] = np.zeros((natoms, 2), dtype=np.int64)
        group["atom_values"] = np.zeros((natoms, 2), dtype=np.int64)
    atoms = np.unique(pairs.first_p)
    first = np.searchsorted(pairs.first_p, atoms)
    last = np.searchsorted(pairs.first_p, atoms, side="right")
    for name, places, data in (
        ("pairs", np.stack([first, last], axis=1), columns),
        ("values", operator.offset_p[np.stack([first, last], axis=1)], operator.values),
    ):
        start = group[name].shape[0]
        group[name].resize(start + len(data), axis=0)
        group[name][start:] = data
        table = group[f"atom_{name}"][:]
        table[atoms] = np.stack([start + places[:, 0], places[:, 1] - places[:, 0]], axis=1)
        group[f"atom_{name}"][:] = table


def read_operator_system(path: str | Path) -> OrbitalSystem:
    """Read atoms, orbitals and electrons of a file.

    Raises
    ------
    InputError
        For a file that cannot be read, is of another kind or version, or is not whole.
    """
    with _opened(path) as h5:
        return _read_system(h5, path)


def read_half_reach(path: str | Path) -> NDArray[np.float64]:
    """Return half the length of each atom's longest pair of S in Bohr, shape (N,)."""
    with _opened(path) as h5:
        return np.asarray(h5["orbitals/half_reach"][:])


def read_operator_file(
    path: str | Path, atoms: NDArray[np.int64] | None = None
) -> CrystalHamiltonian:
    """Read operators of a file.

    Parameters
    ----------
    path : str or Path
    atoms : ndarray of int64, optional
        First atoms whose blocks are read, ascending; all by default. Nothing else is read.

    Raises
    ------
    InputError
        As `read_operator_system`; for blocks that do not fit the orbitals, numbers that are not
        finite, and an H that equals H0.
    """
    with _opened(path) as h5:
        system = _read_system(h5, path)
        norb_i = system.norb_i
        spinor_i = norb_i * (2 if system.spinors else 1)
        chosen = np.arange(len(norb_i)) if atoms is None else atoms
        sizes = {"H": spinor_i, "H_imaginary": spinor_i, "S": norb_i, "H0": norb_i}
        for name in ("H", "S"):
            if name not in h5:
                raise InputError(f"{path} holds no {name}; write it anew with H and S.")
        operators = {
            name: _read_operator(h5[name], system.structure, size, chosen, f"{name} of {path}")
            for name, size in sizes.items()
            if name in h5
        }
        given = CrystalHamiltonian(
            system,
            operators["H"],
            operators["S"],
            operators.get("H_imaginary"),
            operators.get("H0"),
        )
        check_not_h0(given, str(path))
        return given


@contextmanager
def _opened(path: str | Path) -> Iterator[h5py.File]:
    """Open a file for reading; what h5py cannot find in it becomes one sentence."""
    if not Path(path).is_file():
        raise InputError(f"There is no file {path}; check its name.")
    try:
        h5 = h5py.File(path, "r")
    except OSError as error:
        raise InputError(f"{path} is not a whole HDF5 file; write it anew.") from error
    with h5:
        try:
            yield h5
        except (KeyError, OSError, TypeError) as error:
            raise InputError(
                f"{path} lacks an entry of the format '{FORMAT}' ({error}); write it anew."
            ) from error


def _read_system(h5: h5py.File, path: str | Path) -> OrbitalSystem:
    if h5.attrs.get("format") != FORMAT:
        raise InputError(
            f"{path} is not a file of H and S written by hamgnn-tools convert (its attribute "
            f"'format' is not '{FORMAT}')."
        )
    if h5.attrs["version"] != VERSION:
        raise InputError(
            f"{path} has version {h5.attrs['version']} of its format, and this program reads "
            f"version {VERSION}; use a newer hamgnn-solve."
        )
    symbols = tuple(h5["structure/symbols"].asstr()[:].tolist())
    structure = Structure(symbols, h5["structure/positions"][:], h5["structure/cell"][:])
    counts, degrees = h5["orbitals/shells"][:], h5["orbitals/l"][:].tolist()
    if len(counts) != structure.natoms or counts.min() < 1 or counts.sum() != len(degrees):
        raise InputError(f"The shells in {path} do not belong to its atoms; write it anew.")
    ends = np.cumsum(counts).tolist()
    shells_i = tuple(tuple(degrees[end - n : end]) for n, end in zip(counts, ends, strict=True))
    mesh = None
    if "mesh" in h5:
        mesh = KMesh(h5["mesh/kpoints"][:], h5["mesh/weights"][:])
    return OrbitalSystem(
        structure,
        shells_i,
        _known(h5.attrs["electrons"]),
        bool(h5.attrs["spinors"]),
        mesh,
        float(h5.attrs["temperature_kelvin"]),
        _known(h5.attrs["chemical_potential"]),
    )


def _read_operator(
    group: h5py.Group,
    structure: Structure,
    norb_i: NDArray[np.int64],
    atoms: NDArray[np.int64],
    what: str,
) -> BlockOperator:
    columns = _read_rows(group["pairs"], group["atom_pairs"][:], atoms).astype(np.int64)
    values = _read_rows(group["values"], group["atom_values"][:], atoms)
    first, second, shift = columns[:, 0], columns[:, 1], columns[:, 2:]
    natoms = structure.natoms
    if len(columns) and (columns[:, :2].min() < 0 or columns[:, :2].max() >= natoms):
        raise InputError(f"{what} has a pair of atoms that are not in the structure.")
    if int((norb_i[first] * norb_i[second]).sum()) != len(values):
        raise InputError(f"The blocks of {what} do not fit the orbitals; write it anew.")
    if not np.isfinite(values).all():
        raise InputError(f"{what} holds numbers that are not finite; write it anew.")
    pairs = PairList(first, second, shift, displacements(structure, first, second, shift))
    return BlockOperator(pairs, norb_i, values)


def _read_rows(
    data: h5py.Dataset, table: NDArray[np.int64], atoms: NDArray[np.int64]
) -> NDArray[Any]:
    """Read the rows of some atoms, in the order of `atoms`, in as few accesses as they allow."""
    pieces = [data[start:stop] for start, stop in _runs(table[atoms])]
    return np.concatenate(pieces) if pieces else data[:0]


def _runs(places: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Join (start, count) that follow each other in the file."""
    places = places[places[:, 1] > 0]
    if len(places) == 0:
        return
    stops = places.sum(axis=1)
    breaks = np.flatnonzero(places[1:, 0] != stops[:-1]) + 1
    for run in np.split(np.arange(len(places)), breaks):
        yield int(places[run[0], 0]), int(stops[run[-1]])


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
