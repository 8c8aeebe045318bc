"""A trained model: a folder with `model.yaml` and `weights.safetensors`."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors

from hamgnn_solve.core.atom_operators import atom_functions
from hamgnn_solve.core.basis.gpaw_data import built_in_species
from hamgnn_solve.core.basis.openmx_table import OpenMXSpecies
from hamgnn_solve.core.basis.orthonormal import orthonormal_orbitals
from hamgnn_solve.core.basis.species import Basis, Species
from hamgnn_solve.core.environments import Environments, read_environments, write_environments
from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.network.build import build_network
from hamgnn_solve.core.network.config import NetworkConfig
from hamgnn_solve.core.network.hamgnn import HamiltonianNetwork
from hamgnn_solve.core.network.hamgnn_v2 import HamiltonianNetworkV2
from hamgnn_solve.core.network.invariants import ninvariants
from hamgnn_solve.core.structure import Structure

__all__ = [
    "DESCRIPTION",
    "GPAW_DATA",
    "OPENMX",
    "Model",
    "check_new_folder",
    "load_model",
    "read_description",
    "save_model",
    "save_new_model",
]

FORMAT = 1
DESCRIPTION = "model.yaml"
WEIGHTS = "weights.safetensors"
ENVIRONMENTS = "environments.safetensors"
GPAW_DATA, OPENMX = "gpaw-data", "openmx"
ORBITALS = {True: "orthonormalised on each atom", False: "as in the data set"}


@dataclass(frozen=True)
class Model:
    """A network with the basis its blocks refer to.

    Parameters
    ----------
    name : str
        Name for messages and results.
    species : dict of str to str, or of str to OpenMXSpecies
        Orbitals by chemical symbol. In the built-in basis: data set of the `gpaw-data` package
        ("Mo.6"), and the order of the symbols is that of the network's element types. In an
        OpenMX basis: labels, and the type of an element is its atomic number.
    network : HamiltonianNetwork or HamiltonianNetworkV2
        The network, ready for inference.
    energy_shift : float
        Constant c in Hartree: H = prediction + c S has its energies relative to the mean of the
        vacuum levels on both sides of a slab. The prediction itself is without it.
    orthonormal : bool
        The network predicts blocks between the orbitals of `orthonormal_orbitals`; `predict`
        returns them between the orbitals of the basis all the same.
    training : dict
        What the weights were trained on.
    errors : dict
        Measured errors on structures that were not trained on.
    omitted : dict of str to tuple of str
        Shells of the data sets ("5s-sz"), by symbol, that the basis does without: those that make
        it nearly dependent. The network has a place for them all the same.
    environments : Environments, optional
        Surroundings of the training set's atoms, by which a run tells which of its atoms lie
        outside; None where they were not recorded.
    operator_widths : tuple of float, optional
        The network predicts operators of atoms (`core.atom_operators`) between functions of an
        element, of which the Gaussians have these widths in Bohr; without, blocks of H.
    """

    name: str
    species: Mapping[str, str] | Mapping[str, OpenMXSpecies]
    network: HamiltonianNetwork | HamiltonianNetworkV2
    energy_shift: float = 0.0
    orthonormal: bool = False
    training: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, Any] = field(default_factory=dict)
    omitted: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    environments: Environments | None = None
    operator_widths: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.environments is not None:
            found, own = self.environments.ninvariants, ninvariants(self.network.irreps)
            if found != own:
                raise ValueError(f"environments of {found} invariants for a network of {own}")
        num_types = self.network.config.num_types
        if self.network.config.onsite_only != (self.operator_widths is not None):
            raise ValueError("a network of on-site blocks alone is one of operators of atoms")
        if not self.openmx_species:
            if len(self.species) != num_types:
                raise ValueError(
                    f"{len(self.species)} elements, but the network tells {num_types} apart"
                )
            if not set(self.omitted) <= set(self.species):
                raise ValueError("shells of an element are omitted that the model does not know")
            return
        plain = not (self.orthonormal or self.omitted or self.operator_widths)
        if len(self.openmx_species) != len(self.species) or not plain:
            raise ValueError("an OpenMX basis has labels for all elements and plain orbitals")
        for symbol, species in self.openmx_species.items():
            if species.symbol != symbol or species.atomic_number >= num_types:
                raise ValueError(f"{species.name} has no place as {symbol} in {num_types} types")

    @cached_property
    def openmx_species(self) -> dict[str, OpenMXSpecies]:
        """Labels of an OpenMX basis by symbol; empty for the built-in basis."""
        return {k: v for k, v in self.species.items() if isinstance(v, OpenMXSpecies)}

    @property
    def elements(self) -> tuple[str, ...]:
        """Chemical symbols of the elements, in the order of the network's types."""
        return tuple(self.species)

    @cached_property
    def type_of(self) -> dict[str, int]:
        """Type in the network of each element, by symbol."""
        if self.openmx_species:
            return {k: species.atomic_number for k, species in self.openmx_species.items()}
        return {symbol: number for number, symbol in enumerate(self.elements)}

    @cached_property
    def basis(self) -> Basis:
        """Orbitals and projectors of the elements."""
        if self.openmx_species:
            return Basis(self.openmx_species)
        return Basis(
            {
                symbol: species.without(self.omitted.get(symbol, ()))
                for symbol, species in self.data_sets.items()
            }
        )

    @cached_property
    def data_sets(self) -> dict[str, Species]:
        """Whole data sets of a built-in basis by symbol, omitted shells included."""
        names = {symbol: str(name) for symbol, name in self.species.items()}
        return built_in_species(names)

    @cached_property
    def kept(self) -> dict[str, NDArray[np.int64]]:
        """Which orbitals of its data set the basis has, for each element of a built-in basis."""
        result = {}
        for symbol, species in self.data_sets.items():
            omitted = self.omitted.get(symbol, ())
            kept = [shell.name not in omitted for shell in species.shells]
            result[symbol] = np.flatnonzero(
                np.repeat(kept, [2 * degree + 1 for degree in species.shell_l])
            )
        return result

    @cached_property
    def slots(self) -> list[NDArray[np.int64]]:
        """Place in the network's block table of each orbital, for each type of the network.

        A type that is no element of the model has no orbitals.
        """
        result = [np.zeros(0, dtype=np.int64)] * self.network.config.num_types
        table = self.network.table
        for symbol, number in self.type_of.items():
            if self.openmx_species:
                result[number] = table.slots(self.basis.species[symbol].shell_l)
            else:
                whole = table.slots(self.data_sets[symbol].shell_l)
                result[number] = whole[self.kept[symbol]]
        return result

    @cached_property
    def operator_slots(self) -> list[NDArray[np.int64]]:
        """Place in the network's block table of each function of an atom, for each type."""
        assert self.operator_widths is not None
        return [
            self.network.table.slots(
                atom_functions(self.basis.species[symbol], self.operator_widths).shell_l
            )
            for symbol in self.elements
        ]

    @cached_property
    def mixing(self) -> list[NDArray[np.float64]]:
        """Network orbitals in terms of the basis's, (orbitals, orbitals) for each type.

        Raises
        ------
        InputError
            When an omitted shell is part of an orbital that is kept.
        """
        result = [np.eye(len(slots)) for slots in self.slots]
        if self.orthonormal:
            for symbol, number in self.type_of.items():
                whole = orthonormal_orbitals(self.data_sets[symbol])
                kept = self.kept[symbol]
                result[number] = whole[np.ix_(kept, kept)]
                if (np.abs(np.delete(whole[kept], kept, axis=1)) > 1e-10).any():
                    raise InputError(
                        f"Model {self.name}: of the shells of {symbol} with one l only the most "
                        "extended may be omitted, since the others are orthonormalised first."
                    )
        return result

    def check_covers(self, structure: Structure) -> None:
        """Raise `InputError` when the model does not know an element of the structure."""
        self.basis.check_covers(structure, f"Model {self.name}")

    def types_i(self, structure: Structure) -> NDArray[np.int64]:
        """Return the network's type of each atom, shape (N,); raises as `check_covers`."""
        self.check_covers(structure)
        return np.array([self.type_of[symbol] for symbol in structure.symbols], dtype=np.int64)


def save_model(model: Model, folder: Path) -> None:
    """Write a model's files into `folder`, made when absent."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {key: x.detach().contiguous() for key, x in model.network.state_dict().items()}
    weights = save_tensors(state)
    config = asdict(model.network.config)
    config["shells"] = list(config["shells"])
    description = {
        "format": FORMAT,
        "name": model.name,
        "basis": {
            "source": OPENMX if model.openmx_species else GPAW_DATA,
            "species": _species_entries(model),
            "orbitals": ORBITALS[model.orthonormal],
            **(
                {"omitted": {k: list(v) for k, v in model.omitted.items()}} if model.omitted else {}
            ),
            **(
                {}
                if model.operator_widths is None
                else {"operator_widths": list(model.operator_widths)}
            ),
        },
        "units": {"energy": "Hartree", "length": "Bohr"},
        "network": config,
        "energy_shift": model.energy_shift,
        "weights": {"file": WEIGHTS, "sha256": hashlib.sha256(weights).hexdigest()},
        "training": model.training,
        "errors": model.errors,
    }
    if model.environments is None:
        (folder / ENVIRONMENTS).unlink(missing_ok=True)
    else:
        environments = write_environments(model.environments)
        checksum = hashlib.sha256(environments).hexdigest()
        description["environments"] = {"file": ENVIRONMENTS, "sha256": checksum}
        (folder / ENVIRONMENTS).write_bytes(environments)
    (folder / WEIGHTS).write_bytes(weights)
    (folder / DESCRIPTION).write_text(yaml.safe_dump(description, sort_keys=False, width=100))


def check_new_folder(folder: Path, overwrite: bool = False) -> None:
    """Raise `InputError` when `save_new_model` would refuse the folder."""
    if folder.exists() and not overwrite:
        raise InputError(f"{folder} exists; choose another folder, or replace it with --overwrite.")
    if folder.exists() and not (folder / DESCRIPTION).is_file():
        raise InputError(f"{folder} is not a model folder and is left alone; choose another.")


def save_new_model(model: Model, folder: Path, overwrite: bool = False) -> None:
    """Write a model folder that is whole or not there at all.

    Parameters
    ----------
    model : Model
    folder : Path
        Folder to make.
    overwrite : bool
        Replace a model folder of this name.

    Raises
    ------
    InputError
        When the folder exists and is not to be overwritten, is not a model's, or cannot be
        written.
    """
    check_new_folder(folder, overwrite)
    folder = folder.resolve()
    # Beside the target, so that renaming does not copy.
    written = folder.with_name(f".{folder.name}.{os.getpid()}.new")
    replaced = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    try:
        save_model(model, written)
        if folder.exists():
            folder.rename(replaced)
        written.rename(folder)
    except OSError as error:
        if replaced.exists() and not folder.exists():
            replaced.rename(folder)
        raise InputError(
            f"The model folder {folder} cannot be written ({error.strerror}); choose another."
        ) from error
    finally:
        shutil.rmtree(written, ignore_errors=True)
    shutil.rmtree(replaced, ignore_errors=True)


def load_model(folder: Path | str) -> Model:
    """Read a model folder.

    Raises
    ------
    InputError
        When a file is missing, damaged or does not fit the other.
    """
    folder = Path(folder)
    description = read_description(folder / DESCRIPTION)
    try:
        if description["format"] != FORMAT:
            raise InputError(
                f"{folder / DESCRIPTION} has format {description['format']}, this version reads "
                f"{FORMAT}; get the model that belongs to this version."
            )
        settings = dict(description["network"])
        settings["shells"] = tuple(settings["shells"])
        config = NetworkConfig(**settings)
        checksum = str(description["weights"]["sha256"])
        species = _read_species(folder / DESCRIPTION, description["basis"])
        name, shift = str(description["name"]), float(description["energy_shift"])
        orthonormal = {text: flag for flag, text in ORBITALS.items()}[
            description["basis"]["orbitals"]
        ]
        network = build_network(config, initialise=False)
        widths = description["basis"].get("operator_widths")
        model = Model(
            name,
            species,
            network,
            shift,
            orthonormal,
            dict(description.get("training") or {}),
            dict(description.get("errors") or {}),
            {
                str(symbol): tuple(map(str, names))
                for symbol, names in description["basis"].get("omitted", {}).items()
            },
            _load_environments(folder, description.get("environments")),
            None if widths is None else tuple(map(float, widths)),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{folder / DESCRIPTION} does not describe a model ({_words(error)}); restore the file."
        ) from error
    _load_weights(network, folder / WEIGHTS, checksum)
    network.eval().requires_grad_(False)
    return model


def _species_entries(model: Model) -> dict[str, Any]:
    if not model.openmx_species:
        return dict(model.species)
    return {
        symbol: {
            "orbitals": species.name,
            "pseudopotential": species.pseudopotential,
            "valence": species.valence,
        }
        for symbol, species in model.openmx_species.items()
    }


def _read_species(path: Path, entries: Any) -> dict[str, str] | dict[str, OpenMXSpecies]:
    if entries["source"] == GPAW_DATA:
        return {str(symbol): str(name) for symbol, name in entries["species"].items()}
    if entries["source"] == OPENMX:
        return {
            str(symbol): OpenMXSpecies(
                str(symbol),
                str(entry["orbitals"]),
                str(entry["pseudopotential"]),
                float(entry["valence"]),
            )
            for symbol, entry in entries["species"].items()
        }
    raise InputError(
        f"{path} asks for the basis {entries['source']}, but this version knows {GPAW_DATA} and "
        f"{OPENMX}; choose another model."
    )


def _words(error: Exception) -> str:
    return f"no entry {error}" if isinstance(error, KeyError) else str(error)


def read_description(path: Path) -> dict[str, Any]:
    """Read a `model.yaml`.

    Raises
    ------
    InputError
        When it is missing or no YAML file of entries.
    """
    try:
        description = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"The model description {path} cannot be read; give a folder with model.yaml and "
            "weights.safetensors."
        ) from error
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not valid YAML; restore the file.") from error
    if not isinstance(description, dict):
        raise InputError(f"{path} does not describe a model; restore the file.")
    return description


def _load_environments(folder: Path, entry: Any) -> Environments | None:
    if entry is None:
        return None
    path = folder / ENVIRONMENTS
    try:
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != str(entry["sha256"]):
            raise ValueError("its checksum is not that of model.yaml")
        return read_environments(content)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}, the surroundings of the training atoms, cannot be used ({error}); restore "
            "the model folder, or make the file again with hamgnn-tools model environments."
        ) from error


def _load_weights(network: torch.nn.Module, path: Path, checksum: str) -> None:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while part := file.read(1 << 20):
                digest.update(part)
    except OSError as error:
        raise InputError(f"The weights {path} cannot be read; restore the model folder.") from error
    if digest.hexdigest() != checksum:
        raise InputError(
            f"The weights {path} are damaged or belong to another model (their checksum is not "
            "that of model.yaml); restore the model folder."
        )
    try:
        # Maps the file: the ranks of a machine share one copy of what they only read.
        state = load_file(path)
    except SafetensorError as error:
        raise InputError(f"{path} is not a safetensors file; restore the model folder.") from error
    own = network.state_dict()
    wanted = {key: tuple(x.shape) for key, x in own.items()}
    found = {key: tuple(x.shape) for key, x in state.items()}
    for key in sorted(wanted.keys() | found.keys()):
        if wanted.get(key) != found.get(key):
            raise InputError(
                f"The weights {path} do not fit the network of model.yaml (tensor {key} has shape "
                f"{found.get(key, 'none')}, not {wanted.get(key, 'none')}); "
                "restore the model folder."
            )
    # Assigned, not copied: large models would be in memory once more.
    network.load_state_dict({key: x.to(own[key].dtype) for key, x in state.items()}, assign=True)
    for key, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise InputError(f"Tensor {key} of {path} is not finite; restore the model folder.")
