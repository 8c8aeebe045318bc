"""Folders of DeepH's newer layout: POSCAR, info.json and one flat HDF5 file an operator.

Orbitals of a shell stand as ours, m = -l..l, so that nothing is permuted; energies are in eV.
"""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.hamiltonian import CrystalHamiltonian, OrbitalSystem, on_pairs
from hamgnn_solve.core.io.structure import read_structure
from hamgnn_solve.core.operator import BlockOperator
from hamgnn_solve.core.pairs import PairList, displacements, join_pairs
from hamgnn_solve.core.structure import Structure
from hamgnn_solve.core.units import ANGSTROM_PER_BOHR

__all__ = ["is_deepx", "read_deepx", "write_deepx"]

# DeepH's constant, which is OpenMX's.
EV_PER_DEEPH_HARTREE = 27.2113845
SHELLS = "elements_orbital_map"


def is_deepx(folder: str | Path) -> bool:
    """Tell whether a folder has the newer layout."""
    return (Path(folder) / "POSCAR").is_file()


def write_deepx(folder: str | Path, given: CrystalHamiltonian) -> None:
    """Write H and S.

    Parameters
    ----------
    folder : str or Path
        Made where it is missing; its files of these names are replaced.
    given : CrystalHamiltonian
        Of all atoms.

    Raises
    ------
    InputError
        When the folder cannot be written, or atoms of one element have different shells.
    """
    folder, system = Path(folder), given.system
    structure = system.structure
    shells: dict[str, tuple[int, ...]] = {}
    for symbol, own in zip(structure.symbols, system.shells_i, strict=True):
        if shells.setdefault(symbol, own) != own:
            raise InputError(
                f"Atoms of {symbol} have different shells, for which this layout of DeepH has no "
                "place; write the format deeph."
            )
    level = system.chemical_potential or 0.0
    info = {
        "atoms_quantity": structure.natoms,
        "orbits_quantity": int(system.norb_i.sum()),
        "orthogonal_basis": False,
        "spinful": system.spinors,
        "fermi_energy_eV": level * EV_PER_DEEPH_HARTREE,
        SHELLS: {symbol: list(own) for symbol, own in shells.items()},
    }
    # DeepH wants the same pairs in all files.
    pairs = join_pairs(structure, given.hamiltonian.pairs, given.overlap.pairs)
    hamiltonian = on_pairs(given.hamiltonian, pairs)
    values: NDArray[Any] = EV_PER_DEEPH_HARTREE * hamiltonian.values
    if system.spinors:
        values = values.astype(np.complex128)
    if given.imaginary is not None:
        values += 1j * EV_PER_DEEPH_HARTREE * on_pairs(given.imaginary, pairs).values
    overlap = on_pairs(given.overlap, pairs)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "POSCAR").write_text(_poscar(structure))
        (folder / "info.json").write_text(json.dumps(info, indent=4) + "\n")
        _write(folder / "hamiltonian.h5", hamiltonian, values)
        _write(folder / "overlap.h5", overlap, overlap.values)
    except OSError as error:
        raise InputError(f"The folder {folder} cannot be written ({error}).") from error


def read_deepx(folder: str | Path) -> CrystalHamiltonian:
    """Read H and S of a folder with `POSCAR`, `info.json`, `hamiltonian.h5` and `overlap.h5`.

    The number of electrons is not among them.

    Raises
    ------
    InputError
        For a file that is missing or cannot be read, and for blocks that do not fit the orbitals.
    """
    folder = Path(folder)
    structure = read_structure(folder / "POSCAR")
    path = folder / "info.json"
    try:
        info = json.loads(path.read_text())
        shells = {symbol: tuple(map(int, own)) for symbol, own in info[SHELLS].items()}
        shells_i = tuple(shells[symbol] for symbol in structure.symbols)
        system = OrbitalSystem(
            structure,
            shells_i,
            electrons=None,
            spinors=bool(info["spinful"]),
            chemical_potential=float(info["fermi_energy_eV"]) / EV_PER_DEEPH_HARTREE,
        )
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{path} does not tell the shells of every element of POSCAR, spin and Fermi level "
            f"({error})."
        ) from error
    spinor_i = system.norb_i * (2 if system.spinors else 1)
    real, imaginary = _read(folder / "hamiltonian.h5", structure, spinor_i, EV_PER_DEEPH_HARTREE)
    overlap, _ = _read(folder / "overlap.h5", structure, system.norb_i, 1.0)
    return CrystalHamiltonian(system, real, overlap, imaginary)


def _poscar(structure: Structure) -> str:
    groups = [(symbol, len(list(atoms))) for symbol, atoms in groupby(structure.symbols)]
    tables = [structure.cell_cc * ANGSTROM_PER_BOHR, structure.fractional_ic]
    cell, places = (
        "\n".join("  ".join(f"{x: .16f}" for x in row) for row in table) for table in tables
    )
    symbols = " ".join(symbol for symbol, _ in groups)
    counts = " ".join(str(count) for _, count in groups)
    return f"hamgnn-solve\n1.0\n{cell}\n{symbols}\n{counts}\nDirect\n{places}\n"


def _write(path: Path, operator: BlockOperator, values: NDArray[Any]) -> None:
    pairs, norb_i = operator.pairs, operator.norb_i
    with h5py.File(path, "w") as h5:
        h5["atom_pairs"] = np.column_stack([pairs.shift_pc, pairs.first_p, pairs.second_p])
        h5["chunk_shapes"] = np.stack([norb_i[pairs.first_p], norb_i[pairs.second_p]], axis=1)
        h5["chunk_boundaries"] = operator.offset_p
        h5["entries"] = values


def _read(
    path: Path, structure: Structure, norb_i: NDArray[np.int64], unit: float
) -> tuple[BlockOperator, BlockOperator | None]:
    """Return the real part of all blocks divided by `unit`, and the imaginary one if any."""
    try:
        with h5py.File(path, "r") as h5:
            table = np.asarray(h5["atom_pairs"][:], dtype=np.int64)
            start_p = np.asarray(h5["chunk_boundaries"][:], dtype=np.int64)
            shape_p = np.asarray(h5["chunk_shapes"][:], dtype=np.int64)
            entries = h5["entries"][:] / unit
    except FileNotFoundError as error:
        raise InputError(f"There is no {path}; DeepH's folder is incomplete.") from error
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is not a file of DeepH blocks ({error}).") from error
    if table.ndim != 2 or table.shape[1:] != (5,) or len(table) == 0:
        raise InputError(f"{path} lists no pairs of atoms.")
    if table[:, 3:].min() < 0 or table[:, 3:].max() >= structure.natoms:
        raise InputError(f"{path} has blocks of atoms beyond {structure.natoms}.")
    order = np.lexsort((table[:, 2], table[:, 1], table[:, 0], table[:, 4], table[:, 3]))
    first, second, shift = table[order, 3], table[order, 4], table[order, :3]
    expected = np.stack([norb_i[first], norb_i[second]], axis=1)
    sizes = expected.prod(axis=1)
    if (
        shape_p.shape != expected.shape
        or len(start_p) != len(table) + 1
        or not np.array_equal(shape_p[order], expected)
        or not np.array_equal(np.diff(start_p)[order], sizes)
        or start_p[-1] != len(entries)
    ):
        raise InputError(f"The blocks of {path} do not fit the orbitals of info.json.")
    if not np.isfinite(entries).all():
        raise InputError(f"{path} holds numbers that are not finite.")
    within = np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    values = entries[np.repeat(start_p[:-1][order], sizes) + within]
    pairs = PairList(first, second, shift, displacements(structure, first, second, shift))
    real = BlockOperator(pairs, norb_i, np.array(values.real, dtype=np.float64))
    if not np.iscomplexobj(values):
        return real, None
    return real, BlockOperator(pairs, norb_i, np.array(values.imag, dtype=np.float64))
