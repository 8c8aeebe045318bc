"""Which model a run uses: the built-in one that covers the structure, or the one that was named."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.model import DESCRIPTION, Model, load_model, read_description
from hamgnn_solve.core.structure import Structure

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

__all__ = [
    "AUTO",
    "BuiltInModel",
    "built_in_model",
    "built_in_models",
    "covering_model",
    "descriptions",
    "find_model",
    "measured_errors",
]

AUTO = "auto"
NONE_MEASURED = "no measured errors on record"


@dataclass(frozen=True)
class BuiltInModel:
    """What is said of a model that comes with the package, its weights left on disk.

    Parameters
    ----------
    name : str
        Name of its folder.
    elements : tuple of str
        Chemical symbols that it knows.
    errors : dict
        Measured errors by title of the record, as in `model.yaml`.
    """

    name: str
    elements: tuple[str, ...]
    errors: Mapping[str, Any]

    @property
    def hamiltonian_error(self) -> float:
        """Largest mean absolute error of H over the records in meV; infinite where none is."""
        found = [_hamiltonian_error(record) for record in self.errors.values()]
        return max((x for x in found if x is not None), default=math.inf)


def built_in_models() -> list[BuiltInModel]:
    """Return what is known of each built-in model, by name.

    Raises
    ------
    InputError
        When a `model.yaml` of the package is damaged.
    """
    found = []
    for folder in sorted(_models().iterdir(), key=lambda entry: entry.name):
        if not (folder / DESCRIPTION).is_file():
            continue
        with resources.as_file(folder / DESCRIPTION) as path:
            description = read_description(path)
        try:
            elements = tuple(str(symbol) for symbol in description["basis"]["species"])
            errors = dict(description.get("errors") or {})
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"The description of the built-in model {folder.name} is damaged; install "
                "hamgnn-solve again."
            ) from error
        found.append(BuiltInModel(folder.name, elements, errors))
    return found


def covering_model(structure: Structure, models: Sequence[BuiltInModel]) -> BuiltInModel:
    """Return the model that covers the elements of a structure and knows the fewest others.

    Among equals the one with the smaller Hamiltonian error (the largest of each model's records)
    comes first, then the order of names.

    Raises
    ------
    InputError
        When none covers all elements.
    """
    covering = [model for model in models if set(structure.elements) <= set(model.elements)]
    if not covering:
        known = "; ".join(f"{x.name} knows {', '.join(sorted(x.elements))}" for x in models)
        raise InputError(
            f"No built-in model covers {', '.join(structure.elements)} ({known or 'there is none'}"
            "); import the published universal weights with 'hamgnn-tools model import' and give "
            "their folder as --model DIR (docs/how-to/import-weights.md), or train a model of "
            "your own (docs/how-to/own-model.md)."
        )
    return min(covering, key=lambda x: (len(x.elements), x.hamiltonian_error, x.name))


def built_in_model(name: str) -> Model:
    """Load a model that comes with the package.

    Raises
    ------
    InputError
        When there is no built-in model of this name.
    """
    known = [model.name for model in built_in_models()]
    if name not in known:
        raise InputError(
            f"There is no built-in model {name}; built in are {', '.join(known) or 'none'}, "
            "or give the path of a model folder."
        )
    with resources.as_file(_models() / name) as folder:
        return load_model(folder)


def find_model(name: str, structure: Structure | None = None) -> Model:
    """Load the model that was asked for.

    Parameters
    ----------
    name : str
        Path of a model folder, name of a built-in model, or "auto" for the built-in model that
        covers the structure.
    structure : Structure, optional
        Has to be covered; "auto" needs it.

    Raises
    ------
    InputError
        When there is no such model, it does not know an element, or as `load_model`.
    """
    if name == AUTO:
        if structure is None:
            raise InputError("A model cannot be chosen without a structure; name one.")
        return built_in_model(covering_model(structure, built_in_models()).name)
    model = load_model(name) if "/" in name or Path(name).is_dir() else built_in_model(name)
    if structure is not None:
        model.check_covers(structure)
    return model


def descriptions(name: str) -> list[str]:
    """Return the texts that a model's weights and basis follow from: its `model.yaml`.

    For "auto" those of all built-in models, as others may change the choice.

    Parameters
    ----------
    name : str
        As in `find_model`.
    """
    if "/" in name or Path(name).is_dir():
        return [(Path(name) / DESCRIPTION).read_text()]
    names = [model.name for model in built_in_models()] if name == AUTO else [name]
    return [(_models() / one / DESCRIPTION).read_text() for one in names]


def measured_errors(errors: Mapping[str, Any]) -> str:
    """Return one line on all records of measured errors that tell that of the Hamiltonian.

    Such as "Hamiltonian MAE 0.53 meV, gap error 3 meV on twisted bilayer of 42 atoms".
    """
    parts = []
    for title, record in errors.items():
        hamiltonian = _hamiltonian_error(record)
        if hamiltonian is None:
            continue
        text = f"Hamiltonian MAE {hamiltonian:.2f} meV"
        if isinstance(gap := record.get("gap_mae_eV"), int | float):
            text += f", gap error {1000 * gap:.0f} meV"
        parts.append(f"{text} on {title}")
    return "; ".join(parts) or NONE_MEASURED


def _hamiltonian_error(record: Any) -> float | None:
    """Return the mean absolute error of H in meV that a record of `model.yaml` tells."""
    try:
        return float(record["hamiltonian_mae_meV"]["all"])
    except (KeyError, TypeError, ValueError):
        return None


def _models() -> Traversable:
    return resources.files("hamgnn_solve") / "models"
