"""Record the surroundings of a training set's atoms, by which runs tell unfamiliar ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from hamgnn_solve.core.domain import serial_domain
from hamgnn_solve.core.environments import (
    ElementEnvironments,
    Environments,
    nearest_distances,
    whitening,
)
from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.io.structure import read_structure
from hamgnn_solve.core.model import Model
from hamgnn_solve.core.network.predict import predict_invariants
from hamgnn_solve.core.structure import Structure
from hamgnn_solve.core.units import ANGSTROM_PER_BOHR
from hamgnn_solve.training.label_file import label_structures

__all__ = ["read_training_structures", "record_environments"]

# Part of the training atoms that would be known if their own structure were not in the set.
QUANTILE = 0.99
# Atoms of an element that are kept, chosen to be far from each other.
LARGEST = 2000
LEAST_THRESHOLD = 1.0


def record_environments(model: Model, structures: Mapping[str, Structure]) -> Model:
    """Return the model with the surroundings of the training set's atoms.

    The threshold of an element is the 99 % quantile of the distances between its atoms and the
    nearest atoms of all other structures (leave one structure out).

    Parameters
    ----------
    model : Model
        Its environments, if any, are replaced.
    structures : dict of str to Structure
        The training set by name.

    Raises
    ------
    InputError
        When the model does not cover a structure, or an element that occurs does so in one
        structure alone.
    """
    rows: dict[str, list[NDArray[np.float32]]] = {}
    for structure in structures.values():
        invariants_if = predict_invariants(model, serial_domain(structure, model.basis))
        symbol_i = np.array(structure.symbols)
        for symbol in structure.elements:
            rows.setdefault(symbol, []).append(invariants_if[symbol_i == symbol])
    if not rows:
        raise InputError("There is no training structure; give at least two.")
    for symbol, parts in rows.items():
        if len(parts) < 2:
            raise InputError(
                f"{symbol} occurs in one training structure alone, which tells no distance between "
                "structures; give at least two with it."
            )
    elements = {symbol: _element(rows[symbol]) for symbol in sorted(rows)}
    return replace(model, environments=Environments(elements))


def read_training_structures(paths: list[Path]) -> dict[str, Structure]:
    """Read structures from recipes (YAML), label files (HDF5) and structure files, by name.

    Raises
    ------
    InputError
        When a file is missing or cannot be read, or a name occurs twice.
    """
    found: dict[str, Structure] = {}
    for path in paths:
        for name, structure in _structures_of(path).items():
            if name in found:
                raise InputError(
                    f"{path} has the structure {name}, which another file has too; give each once."
                )
            found[name] = structure
    return found


def _structures_of(path: Path) -> dict[str, Structure]:
    if not path.is_file():
        raise InputError(f"There is no file {path}; check its name.")
    if path.suffix in (".h5", ".hdf5"):
        try:
            with h5py.File(path, "r", locking=False) as file:
                return label_structures(file)
        except (OSError, KeyError) as error:
            raise InputError(f"{path} cannot be read as a label file ({error}).") from error
    if path.suffix in (".yaml", ".yml"):
        try:
            # ASE comes with GPAW, which models can do without.
            from hamgnn_solve.training.recipe import read_recipe
        except ImportError as error:
            raise InputError(f"Recipes such as {path} need ASE; install it with pip.") from error
        return {
            one.name: Structure(
                tuple((atoms := one.build()).get_chemical_symbols()),
                atoms.positions / ANGSTROM_PER_BOHR,
                np.array(atoms.cell) / ANGSTROM_PER_BOHR,
            )
            for one in read_recipe(path)
        }
    return {path.name: read_structure(path)}


def _element(parts: list[NDArray[np.float32]]) -> ElementEnvironments:
    """Return what is kept of an element's training atoms, given structure by structure."""
    invariants_af = np.concatenate(parts).astype(np.float64)
    number_a = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    centre_f, axes_fq, deviation_q, floor = whitening(invariants_af)
    unbounded = ElementEnvironments(
        centre_f, axes_fq, deviation_q, floor, np.zeros((1, len(deviation_q))), LEAST_THRESHOLD
    )
    atoms_aq, beside_a = unbounded.whitened(invariants_af)
    kept = _spread_out(atoms_aq, LARGEST)
    distance_a = np.zeros(len(atoms_aq))
    for number in range(len(parts)):
        own, others = number_a == number, kept[number_a[kept] != number]
        distance_a[own] = np.hypot(
            nearest_distances(atoms_aq[own], atoms_aq[others]), beside_a[own]
        )
    threshold = max(float(np.quantile(distance_a, QUANTILE)), LEAST_THRESHOLD)
    return replace(unbounded, atoms_aq=atoms_aq[kept], threshold=threshold)


def _spread_out(points_aq: NDArray[np.float64], number: int) -> NDArray[np.int64]:
    """Return indices of at most `number` points, each the farthest from those before it."""
    if len(points_aq) <= number:
        return np.arange(len(points_aq))
    chosen = [0]
    distance_a = np.linalg.norm(points_aq - points_aq[0], axis=1)
    while len(chosen) < number:
        chosen.append(int(distance_a.argmax()))
        distance_a = np.minimum(
            distance_a, np.linalg.norm(points_aq - points_aq[chosen[-1]], axis=1)
        )
    return np.sort(chosen)
