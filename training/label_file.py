"""The label of one structure, and the HDF5 file that holds many."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.model import GPAW_DATA
from hamgnn_solve.core.operator import BlockOperator, dense_matrix
from hamgnn_solve.core.pairs import PairList
from hamgnn_solve.core.structure import Structure

__all__ = [
    "Label",
    "band_energies",
    "distinct_labels",
    "label_operators",
    "label_structure_of",
    "label_structures",
    "labels_of",
    "pencil_energies",
    "read_label",
    "restrict_label",
    "write_label",
]

NOT_DETAILS = ("name", "symbols", "recipe", "basis", "species")


@dataclass(frozen=True)
class Label:
    """Hamiltonian and overlap blocks of one structure, with the spectrum that checks them.

    Parameters
    ----------
    symbols : tuple of str
        Chemical symbols of the N atoms.
    positions_ic : ndarray, shape (N, 3)
        Positions in Bohr as GPAW uses them: wrapped into the cell along periodic axes.
    cell_cc : ndarray, shape (3, 3)
        Lattice vectors as rows, in Bohr.
    periodic_c : ndarray of bool, shape (3,)
        Which axes are periodic.
    norb_i : ndarray of int, shape (N,)
        Orbitals of each atom, in GPAW's order: radial functions as listed in the basis file, each
        with m = -l..l.
    first_p, second_p : ndarray of int32, shape (P,)
        Atoms of each ordered pair; the pairs are sorted by (first, second, shift).
    shift_pc : ndarray of int32, shape (P, 3)
        Cell of the second atom in lattice vectors.
    h_values, s_values : ndarray, shape (sum of block sizes,)
        Blocks in Hartree (overlap: no unit), row-major norb[first] x norb[second], concatenated.
    kpoints_kc : ndarray, shape (K, 3)
        GPAW's irreducible k-points, fractional.
    eigenvalues_kn : ndarray, shape (K, norb_i.sum())
        GPAW's eigenvalues there, in Hartree.
    details : dict
        electrons, fermi_level and energy (Hartree), gap (Hartree), scf_steps, gpts, kpts,
        eigenvalue_error_eV, seconds.
    basis : str
        Where the orbitals come from: "gpaw-data" or "openmx".
    species : dict of str to str
        Data set of each element there, by symbol ("Mo.6", "Mo7.0-s3p2d1").
    h0_values : ndarray, shape as `h_values`, optional
        H0 in Hartree, what a network that predicts H - H0 is given; none in the built-in basis.
    """

    symbols: tuple[str, ...]
    positions_ic: NDArray[np.float64]
    cell_cc: NDArray[np.float64]
    periodic_c: NDArray[np.bool_]
    norb_i: NDArray[np.int32]
    first_p: NDArray[np.int32]
    second_p: NDArray[np.int32]
    shift_pc: NDArray[np.int32]
    h_values: NDArray[np.float64]
    s_values: NDArray[np.float64]
    kpoints_kc: NDArray[np.float64]
    eigenvalues_kn: NDArray[np.float64]
    details: dict[str, Any]
    basis: str = GPAW_DATA
    species: dict[str, str] = field(default_factory=dict)
    h0_values: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        size = int((self.norb_i[self.first_p] * self.norb_i[self.second_p]).sum())
        for name, values in (("H", self.h_values), ("S", self.s_values), ("H0", self.h0_values)):
            if values is not None and values.shape != (size,):
                raise ValueError(
                    f"{len(self.first_p)} pairs hold {size} values, not {values.shape} for {name}"
                )


def band_energies(label: Label, kpoints_kc: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return all eigenvalues of the label's pencil at fractional k-points, (K, M), Hartree."""
    return pencil_energies(*label_operators(label), kpoints_kc)


def pencil_energies(
    hamiltonian: BlockOperator, overlap: BlockOperator, kpoints_kc: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return all eigenvalues of H(k) C = S(k) C e at fractional k-points, (K, M), Hartree."""
    return np.array(
        [
            scipy.linalg.eigvalsh(dense_matrix(hamiltonian, k_c), dense_matrix(overlap, k_c))
            for k_c in kpoints_kc
        ]
    )


def label_structure_of(label: Label) -> Structure:
    """Return the structure of a label."""
    return Structure(label.symbols, label.positions_ic, label.cell_cc)


def label_operators(label: Label) -> tuple[BlockOperator, BlockOperator]:
    """Return Hamiltonian (Hartree) and overlap of a label with all their blocks."""
    first, second = label.first_p.astype(np.int64), label.second_p.astype(np.int64)
    shift_pc = label.shift_pc.astype(np.int64)
    vector_pc = label.positions_ic[second] + shift_pc @ label.cell_cc - label.positions_ic[first]
    pairs = PairList(first, second, shift_pc, vector_pc)
    norb_i = label.norb_i.astype(np.int64)
    return (
        BlockOperator(pairs, norb_i, label.h_values),
        BlockOperator(pairs, norb_i, label.s_values),
    )


def restrict_label(label: Label, kept: Mapping[str, NDArray[np.int64]]) -> Label:
    """Return a label with some of the orbitals: blocks between these, energies as they were.

    Parameters
    ----------
    label : Label
    kept : dict of str to ndarray of int64
        Which orbitals of an element's data set stay, by symbol; all of an element without entry.
    """
    everything = {s: np.arange(n) for s, n in zip(label.symbols, label.norb_i, strict=True)}
    orbitals = {symbol: kept.get(symbol, whole) for symbol, whole in everything.items()}
    if all(len(orbitals[symbol]) == len(whole) for symbol, whole in everything.items()):
        return label
    sizes_i = np.array([len(orbitals[symbol]) for symbol in label.symbols], dtype=np.int32)
    symbol_i = np.array(label.symbols)
    whole = label_operators(label)[0]
    places = BlockOperator.zeros(whole.pairs, sizes_i.astype(np.int64))
    for a in orbitals:
        for b in orbitals:
            chosen = np.flatnonzero(
                (symbol_i[label.first_p] == a) & (symbol_i[label.second_p] == b)
            )
            shape = len(everything[a]), len(everything[b])
            place_pq = whole.places(chosen, shape[0] * shape[1]).reshape(-1, *shape)
            places.set_blocks(
                chosen, place_pq[:, orbitals[a]][:, :, orbitals[b]].astype(np.float64)
            )
    taken = places.values.astype(np.int64)
    return replace(
        label,
        norb_i=sizes_i,
        h_values=label.h_values[taken],
        s_values=label.s_values[taken],
        h0_values=None if label.h0_values is None else label.h0_values[taken],
    )


def write_label(file: h5py.File, name: str, label: Label, entry: dict[str, Any]) -> None:
    """Write `label` as group `name` and flush; the group appears only when it is complete.

    Parameters
    ----------
    file : h5py.File
        File open for writing.
    name : str
        Group name; it must not exist yet.
    label : Label
        What is written: datasets positions_ic, cell_cc, periodic_c, norb_i, first_p, second_p,
        shift_pc, H_values, S_values, kpoints_kc, eigenvalues_kn; the rest as attributes.
    entry : dict
        Where the structure comes from, kept as JSON in the attribute ``recipe``.
    """
    unfinished = f".{name}"
    if unfinished in file:
        del file[unfinished]
    group = file.create_group(unfinished)
    group.attrs["name"] = name
    group.attrs["symbols"] = list(label.symbols)
    group.attrs["recipe"] = json.dumps(entry)
    group.attrs["basis"] = label.basis
    group.attrs["species"] = json.dumps(label.species)
    for key, value in label.details.items():
        group.attrs[key] = value
    for key in (
        "positions_ic", "cell_cc", "periodic_c", "norb_i", "first_p", "second_p", "shift_pc",
        "kpoints_kc", "eigenvalues_kn",
    ):  # fmt: skip
        group[key] = getattr(label, key)
    group.create_dataset("H_values", data=label.h_values)
    group.create_dataset("S_values", data=label.s_values)
    if label.h0_values is not None:
        group.create_dataset("H0_values", data=label.h0_values)
    file.move(unfinished, name)
    file.flush()


def read_label(group: h5py.Group) -> Label:
    """Return the label of one group of a label file."""
    arrays = {
        key: group[key][...]
        for key in (
            "positions_ic", "cell_cc", "periodic_c", "norb_i", "first_p", "second_p", "shift_pc",
            "kpoints_kc", "eigenvalues_kn",
        )
    }  # fmt: skip
    details = {key: value for key, value in group.attrs.items() if key not in NOT_DETAILS}
    return Label(
        symbols=tuple(group.attrs["symbols"]),
        h_values=group["H_values"][...],
        s_values=group["S_values"][...],
        details=details,
        basis=str(group.attrs["basis"]),
        species=json.loads(group.attrs["species"]),
        h0_values=group["H0_values"][...] if "H0_values" in group else None,
        **arrays,
    )


def labels_of(path: Path, names: Sequence[str] | None = None) -> Iterator[tuple[str, Label]]:
    """Read the labels of a file one after the other, all or those of `names`, with their names.

    Raises
    ------
    InputError
        For a file that cannot be read, holds no labels, or lacks one of `names`.
    """
    try:
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        raise InputError(f"{path} cannot be read as a label file; check its name.") from error
    with file:
        present = [name for name in file if not name.startswith(".")]
        missing = [name for name in names or () if name not in present]
        if missing or not present:
            raise InputError(
                f"{path} has no label {missing[0]}; give names that it holds."
                if missing
                else f"{path} holds no labels; make some first."
            )
        for name in names or present:
            try:
                label = read_label(file[name])
            except KeyError as error:
                raise InputError(f"{name} in {path} is no label; make it again.") from error
            yield name, label


def distinct_labels(
    paths: Sequence[Path], left_out: Sequence[str] = ()
) -> Iterator[tuple[str, Label]]:
    """Read the labels of several files, but for those of `left_out`, with their names.

    Raises
    ------
    InputError
        As `labels_of`; when two files have a label of one name.
    """
    found: set[str] = set()
    for path in paths:
        for name, label in labels_of(path):
            if name in left_out:
                continue
            if name in found:
                raise InputError(f"{path} has a label {name}, which another file has too.")
            found.add(name)
            yield name, label


def label_structures(file: h5py.File) -> dict[str, Structure]:
    """Return the structures of all finished labels of a file by name, blocks left on disk."""
    return {
        name: Structure(
            tuple(group.attrs["symbols"]), group["positions_ic"][...], group["cell_cc"][...]
        )
        for name, group in file.items()
        if not name.startswith(".")
    }
