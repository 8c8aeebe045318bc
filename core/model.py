"""A trained model: a folder with `model.yaml` and `weights.safetensors`."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from hamgnn_solve.core.basis.gpaw_data import built_in_basis
from hamgnn_solve.core.basis.orthonormal import orthonormal_orbitals
from hamgnn_solve.core.basis.species import Basis
from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.network.config import NetworkConfig
from hamgnn_solve.core.network.hamgnn import HamiltonianNetwork
from hamgnn_solve.core.structure import Structure

__all__ = ["Model", "built_in_model", "find_model", "load_model", "save_model"]

FORMAT = 1
DESCRIPTION = "model.yaml"
WEIGHTS = "weights.safetensors"
ORBITALS = {True: "orthonormalised on each atom", False: "as in the data set"}


@dataclass(frozen=True)
class Model:
    """A network with the basis its blocks refer to.

    Parameters
    ----------
    name : str
        Name for messages and results.
    species : dict of str to str
        Data set of the `gpaw-data` package ("Mo.6") by chemical symbol; the order of the symbols
        is that of the network's element types.
    network : HamiltonianNetwork
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
    """

    name: str
    species: dict[str, str]
    network: HamiltonianNetwork
    energy_shift: float = 0.0
    orthonormal: bool = False
    training: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.species) != self.network.config.num_types:
            raise ValueError(
                f"{len(self.species)} elements, but the network tells "
                f"{self.network.config.num_types} apart"
            )

    @property
    def elements(self) -> tuple[str, ...]:
        """Chemical symbols of the elements, in the order of the network's types."""
        return tuple(self.species)

    @cached_property
    def basis(self) -> Basis:
        """Orbitals and projectors of the elements."""
        return built_in_basis(self.species)

    @cached_property
    def slots(self) -> list[NDArray[np.int64]]:
        """Place in the network's block table of each orbital of each element type."""
        table = self.network.table
        return [table.slots(self.basis.species[symbol].shell_l) for symbol in self.elements]

    @cached_property
    def mixing(self) -> list[NDArray[np.float64]]:
        """Network orbitals in terms of the basis's, (orbitals, orbitals) for each element type."""
        species = [self.basis.species[symbol] for symbol in self.elements]
        if self.orthonormal:
            return [orthonormal_orbitals(one) for one in species]
        return [np.eye(one.norbitals) for one in species]

    def check_covers(self, structure: Structure) -> None:
        """Raise `InputError` when the model does not know an element of the structure."""
        self.basis.check_covers(structure, f"Model {self.name}")

    def types_i(self, structure: Structure) -> NDArray[np.int64]:
        """Return the network's type of each atom, shape (N,); raises as `check_covers`."""
        self.check_covers(structure)
        index = {symbol: t for t, symbol in enumerate(self.elements)}
        return np.array([index[symbol] for symbol in structure.symbols], dtype=np.int64)


def save_model(model: Model, folder: Path) -> None:
    """Write `model.yaml` and `weights.safetensors` into `folder`, made when absent."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {key: x.detach().contiguous() for key, x in model.network.state_dict().items()}
    weights = save_tensors(state)
    config = asdict(model.network.config)
    config["shells"] = list(config["shells"])
    description = {
        "format": FORMAT,
        "name": model.name,
        "basis": {
            "source": "gpaw-data",
            "species": dict(model.species),
            "orbitals": ORBITALS[model.orthonormal],
        },
        "units": {"energy": "Hartree", "length": "Bohr"},
        "network": config,
        "energy_shift": model.energy_shift,
        "weights": {"file": WEIGHTS, "sha256": hashlib.sha256(weights).hexdigest()},
        "training": model.training,
        "errors": model.errors,
    }
    (folder / WEIGHTS).write_bytes(weights)
    (folder / DESCRIPTION).write_text(yaml.safe_dump(description, sort_keys=False, width=100))


def load_model(folder: Path | str) -> Model:
    """Read a model folder.

    Raises
    ------
    InputError
        When a file is missing, damaged or does not fit the other.
    """
    folder = Path(folder)
    description = _read_description(folder / DESCRIPTION)
    try:
        if description["format"] != FORMAT:
            raise InputError(
                f"{folder / DESCRIPTION} has format {description['format']}, this version reads "
                f"{FORMAT}; get the model that belongs to this version."
            )
        if description["basis"]["source"] != "gpaw-data":
            raise InputError(
                f"{folder / DESCRIPTION} asks for the basis {description['basis']['source']}, "
                "but this version knows gpaw-data; choose another model."
            )
        settings = dict(description["network"])
        settings["shells"] = tuple(settings["shells"])
        config = NetworkConfig(**settings)
        checksum = str(description["weights"]["sha256"])
        species = {str(k): str(v) for k, v in description["basis"]["species"].items()}
        name, shift = str(description["name"]), float(description["energy_shift"])
        orthonormal = {text: flag for flag, text in ORBITALS.items()}[
            description["basis"]["orbitals"]
        ]
        network = HamiltonianNetwork(config)
        model = Model(
            name,
            species,
            network,
            shift,
            orthonormal,
            dict(description.get("training") or {}),
            dict(description.get("errors") or {}),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{folder / DESCRIPTION} does not describe a model ({_words(error)}); restore the file."
        ) from error
    _load_weights(network, folder / WEIGHTS, checksum)
    network.eval().requires_grad_(False)
    return model


def built_in_model(name: str = "tmd") -> Model:
    """Load a model that comes with the package.

    Raises
    ------
    InputError
        When there is no built-in model of this name.
    """
    models = resources.files("hamgnn_solve") / "models"
    known = sorted(entry.name for entry in models.iterdir() if (entry / DESCRIPTION).is_file())
    if name not in known:
        raise InputError(
            f"There is no built-in model {name}; built in are {', '.join(known) or 'none'}, "
            "or give the path of a model folder."
        )
    with resources.as_file(models / name) as folder:
        return load_model(folder)


def find_model(name: str) -> Model:
    """Load a model by the path of its folder, or else by the name of a built-in one.

    Raises
    ------
    InputError
        When there is neither, or as `load_model`.
    """
    if "/" in name or Path(name).is_dir():
        return load_model(name)
    return built_in_model(name)


def _words(error: Exception) -> str:
    return f"no entry {error}" if isinstance(error, KeyError) else str(error)


def _read_description(path: Path) -> dict[str, Any]:
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


def _load_weights(network: HamiltonianNetwork, path: Path, checksum: str) -> None:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"The weights {path} cannot be read; restore the model folder.") from error
    if hashlib.sha256(content).hexdigest() != checksum:
        raise InputError(
            f"The weights {path} are damaged or belong to another model (their checksum is not "
            "that of model.yaml); restore the model folder."
        )
    try:
        state = load_tensors(content)
    except SafetensorError as error:
        raise InputError(f"{path} is not a safetensors file; restore the model folder.") from error
    wanted = {key: tuple(x.shape) for key, x in network.state_dict().items()}
    found = {key: tuple(x.shape) for key, x in state.items()}
    for key in sorted(wanted.keys() | found.keys()):
        if wanted.get(key) != found.get(key):
            raise InputError(
                f"The weights {path} do not fit the network of model.yaml (tensor {key} has shape "
                f"{found.get(key, 'none')}, not {wanted.get(key, 'none')}); "
                "restore the model folder."
            )
    network.load_state_dict(state)
    for key, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise InputError(f"Tensor {key} of {path} is not finite; restore the model folder.")
