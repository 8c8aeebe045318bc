"""Labels in the orbitals of a model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.model import GPAW_DATA, OPENMX, Model
from hamgnn_solve.core.structure import Structure
from hamgnn_solve.training.label_file import Label, label_structure_of

__all__ = ["check_same_orbitals", "labelled_structure"]


def labelled_structure(label: Label, model: Model) -> Structure:
    """Return the structure of a label, open axes so long that no image is in orbital range."""
    structure = label_structure_of(label)
    model.check_covers(structure)
    reach = 2 * float(model.basis.cutoff_i(structure).max())
    height_c = 1.0 / np.linalg.norm(np.linalg.inv(structure.cell_cc), axis=0)
    fractional_ic = structure.fractional_ic
    needed_c = np.ptp(fractional_ic, axis=0) * height_c + reach
    factor_c = np.where(label.periodic_c, 1.0, np.maximum(needed_c / height_c, 1.0))
    return replace(structure, cell_cc=structure.cell_cc * factor_c[:, None])


def check_same_orbitals(model: Model, name: str, label: Label) -> None:
    """Raise `InputError` when a label, by name, is not in the basis of the model."""
    own = {
        symbol: species if isinstance(species, str) else species.name
        for symbol, species in model.species.items()
    }
    source = OPENMX if model.openmx_species else GPAW_DATA
    if label.basis != source:
        raise InputError(
            f"The label {name} is in the basis {label.basis} and model {model.name} in {source}; "
            "give labels in the basis of the model."
        )
    for symbol, orbitals in label.species.items():
        if own.get(symbol) != orbitals:
            raise InputError(
                f"The label {name} has the orbitals {orbitals} and model {model.name} "
                f"{own.get(symbol)}; give labels in the orbitals of the model."
            )
