"""Folders of DeepH-pack: H and S, one HDF5 dataset a pair of atoms.

Units and order of orbitals are DeepH-pack's own: eV and Angstrom with OpenMX's constants, orbitals
of a shell as OpenMX orders them, spinors with all orbitals of spin up first.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from pymatgen.core.periodic_table import Element

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.hamiltonian import CrystalHamiltonian, OrbitalSystem, reordered
from hamgnn_solve.core.io.openmx_input import ANGSTROM_PER_OPENMX_BOHR, OPENMX_ORBITALS
from hamgnn_solve.core.operator import BlockOperator
from hamgnn_solve.core.pairs import PairList, displacements
from hamgnn_solve.core.structure import Structure

__all__ = ["read_deeph", "write_deeph"]

EV_PER_DEEPH_HARTREE = 27.2113845
HAMILTONIANS = ("hamiltonians.h5", "hamiltonians_pred.h5")


def write_deeph(folder: str | Path, given: CrystalHamiltonian) -> None:
    """Write H and S as DeepH-pack reads them.

    Parameters
    ----------
    folder : str or Path
        Made where it is missing; its files of these names are replaced.
    given : CrystalHamiltonian
        Of all atoms.

    Raises
    ------
    InputError
        When the folder cannot be written, or a shell has an l that DeepH's order does not cover.
    """
    folder, system = Path(folder), given.system
    cell_cc = system.structure.cell_cc * ANGSTROM_PER_OPENMX_BOHR
    pos_ic = system.structure.pos_ic * ANGSTROM_PER_OPENMX_BOHR
    numbers = [Element(symbol).Z for symbol in system.structure.symbols]
    shifts = np.unique(given.hamiltonian.pairs.shift_pc, axis=0)
    info: dict[str, Any] = {
        "nsites": system.structure.natoms,
        "isorthogonal": False,
        "isspinful": system.spinors,
        "norbits": int(system.norb_i.sum()),
    }
    if system.chemical_potential is not None:
        info["fermi_level"] = system.chemical_potential * EV_PER_DEEPH_HARTREE
    order = [OPENMX_ORBITALS.to_program(shells) for shells in system.shells_i]
    spin_order = _spin_order(order, system)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        np.savetxt(folder / "lat.dat", cell_cc.T)
        np.savetxt(folder / "rlat.dat", 2 * np.pi * np.linalg.inv(cell_cc))
        np.savetxt(folder / "site_positions.dat", pos_ic.T)
        np.savetxt(folder / "element.dat", numbers, fmt="%d")
        np.savetxt(folder / "R_list.dat", shifts, fmt="%d")
        rows = "".join(" ".join(map(str, shells)) + "\n" for shells in system.shells_i)
        (folder / "orbital_types.dat").write_text(rows)
        (folder / "info.json").write_text(json.dumps(info, indent=4) + "\n")
        imaginary = None
        if system.spinors:
            imaginary = given.imaginary or BlockOperator.zeros(
                given.hamiltonian.pairs, given.hamiltonian.norb_i
            )
            imaginary = reordered(imaginary, spin_order)
        hamiltonian = reordered(given.hamiltonian, spin_order)
        _write_blocks(folder / HAMILTONIANS[0], hamiltonian, imaginary, EV_PER_DEEPH_HARTREE)
        _write_blocks(folder / "overlaps.h5", reordered(given.overlap, order), None, 1.0)
    except OSError as error:
        raise InputError(f"The folder {folder} cannot be written ({error}).") from error


def read_deeph(folder: str | Path) -> CrystalHamiltonian:
    """Read H and S of a folder of DeepH-pack.

    Parameters
    ----------
    folder : str or Path
        With `hamiltonians.h5` (or `hamiltonians_pred.h5`), `overlaps.h5`, `lat.dat`,
        `site_positions.dat`, `element.dat`, `orbital_types.dat`, and `info.json` for spinors.
        The number of electrons is not among them.

    Raises
    ------
    InputError
        For a file that is missing or cannot be read, and for blocks that do not fit the orbitals.
    """
    folder = Path(folder)
    cell_cc = _table(folder / "lat.dat").reshape(3, 3).T / ANGSTROM_PER_OPENMX_BOHR
    pos_ic = _table(folder / "site_positions.dat").reshape(3, -1).T / ANGSTROM_PER_OPENMX_BOHR
    numbers = _table(folder / "element.dat").ravel().astype(int)
    if len(numbers) != len(pos_ic) or numbers.min() < 1 or numbers.max() > 118:
        raise InputError(
            f"{folder} has {len(pos_ic)} positions but {len(numbers)} atomic numbers that are "
            "elements; its files are of different structures."
        )
    structure = Structure(tuple(Element.from_Z(int(z)).symbol for z in numbers), pos_ic, cell_cc)
    shells_i = _shells(folder / "orbital_types.dat", structure.natoms)
    info = _info(folder / "info.json")
    level = info.get("fermi_level")
    system = OrbitalSystem(
        structure,
        shells_i,
        electrons=None,
        spinors=bool(info.get("isspinful", False)),
        chemical_potential=None if level is None else float(level) / EV_PER_DEEPH_HARTREE,
    )
    names = [folder / name for name in HAMILTONIANS if (folder / name).is_file()]
    if not names:
        raise InputError(f"{folder} holds neither {' nor '.join(HAMILTONIANS)}.")
    order = [OPENMX_ORBITALS.from_program(shells) for shells in shells_i]
    norb_i = system.norb_i
    overlap, _ = _read_blocks(folder / "overlaps.h5", structure, norb_i, 1.0)
    spinor_i = norb_i * (2 if system.spinors else 1)
    real, imaginary = _read_blocks(names[0], structure, spinor_i, EV_PER_DEEPH_HARTREE)
    spin_order = _spin_order(order, system)
    return CrystalHamiltonian(
        system,
        reordered(real, spin_order),
        reordered(overlap, order),
        None if imaginary is None else reordered(imaginary, spin_order),
    )


def _spin_order(order: list[NDArray[np.int64]], system: OrbitalSystem) -> list[NDArray[np.int64]]:
    if not system.spinors:
        return order
    return [np.concatenate([places, len(places) + places]) for places in order]


def _write_blocks(
    path: Path, real: BlockOperator, imaginary: BlockOperator | None, unit: float
) -> None:
    pairs = real.pairs
    with h5py.File(path, "w") as h5:
        for p in range(len(pairs)):
            block = real.block(p) if imaginary is None else real.block(p) + 1j * imaginary.block(p)
            key = [
                *pairs.shift_pc[p].tolist(),
                int(pairs.first_p[p]) + 1,
                int(pairs.second_p[p]) + 1,
            ]
            h5[str(key)] = unit * block


def _read_blocks(
    path: Path, structure: Structure, norb_i: NDArray[np.int64], unit: float
) -> tuple[BlockOperator, BlockOperator | None]:
    """Return the real part of all blocks divided by `unit`, and the imaginary one if any."""
    keys: list[list[int]] = []
    blocks: list[NDArray[Any]] = []
    try:
        with h5py.File(path, "r") as h5:
            for name, data in h5.items():
                keys.append([int(x) for x in json.loads(name)])
                blocks.append(data[()])
    except FileNotFoundError as error:
        raise InputError(f"There is no {path}; DeepH's folder is incomplete.") from error
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} is not a file of DeepH blocks ({error}).") from error
    table = np.array(keys, dtype=np.int64).reshape(-1, 5)
    first, second, shift = table[:, 3] - 1, table[:, 4] - 1, table[:, :3]
    if len(table) == 0 or table[:, 3:].min() < 1 or table[:, 3:].max() > structure.natoms:
        raise InputError(f"{path} has no blocks, or some of atoms beyond {structure.natoms}.")
    for p, block in enumerate(blocks):
        if block.shape != (norb_i[first[p]], norb_i[second[p]]):
            raise InputError(
                f"Block {keys[p]} of {path} has shape {block.shape}, but its orbitals want "
                f"{(int(norb_i[first[p]]), int(norb_i[second[p]]))}."
            )
    order = np.lexsort((*shift.T[::-1], second, first))
    first, second, shift = first[order], second[order], shift[order]
    values = np.concatenate([blocks[p].ravel() for p in order]) / unit
    if not np.isfinite(values).all():
        raise InputError(f"{path} holds numbers that are not finite.")
    pairs = PairList(first, second, shift, displacements(structure, first, second, shift))
    real = BlockOperator(pairs, norb_i, np.ascontiguousarray(values.real, dtype=np.float64))
    if not np.iscomplexobj(values):
        return real, None
    return real, BlockOperator(pairs, norb_i, np.ascontiguousarray(values.imag))


def _table(path: Path) -> NDArray[np.float64]:
    try:
        table = np.loadtxt(path, dtype=np.float64, ndmin=1)
    except OSError as error:
        raise InputError(f"There is no {path}; DeepH's folder is incomplete.") from error
    except ValueError as error:
        raise InputError(f"{path} is not a table of numbers ({error}).") from error
    if path.name in ("lat.dat", "site_positions.dat") and table.shape[0] != 3:
        raise InputError(f"{path} must have three rows: x, y and z.")
    return table


def _shells(path: Path, natoms: int) -> tuple[tuple[int, ...], ...]:
    try:
        lines = [line.split() for line in path.read_text().splitlines() if line.split()]
        shells_i = tuple(tuple(int(word) for word in words) for words in lines)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as lines of l, one an atom.") from error
    if len(shells_i) != natoms or min(min(shells) for shells in shells_i) < 0:
        raise InputError(f"{path} must have one line of l for each of the {natoms} atoms.")
    return shells_i


def _info(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        info = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}).") from error
    return info if isinstance(info, dict) else {}
