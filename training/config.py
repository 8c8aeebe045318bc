"""What decides a training run: the YAML file of `hamgnn-tools train`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from hamgnn_solve.core.basis.openmx_table import OpenMXSpecies
from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.network.config import NetworkConfig
from hamgnn_solve.training.band_loss import BandLoss
from hamgnn_solve.training.loss import HamiltonianLoss
from hamgnn_solve.training.operator_states import StateLoss

__all__ = ["OptimizerSettings", "TrainingConfig", "TrainingStep", "read_training_config"]

SCHEDULES = ("cosine", "plateau", "constant")


@dataclass(frozen=True)
class OptimizerSettings:
    """Settings of AdamW and of its learning rate.

    Parameters
    ----------
    learning_rate : float
        Highest learning rate.
    schedule : str
        "cosine": half a cosine down to `final_fraction` at the last update. "plateau": times
        `factor` where the training loss has not fallen for `plateau_patience` validations, as
        PyTorch's ReduceLROnPlateau does. "constant".
    final_fraction : float
        Part of the learning rate that the cosine ends at.
    factor : float
        What a plateau multiplies the rate with.
    plateau_patience : int
        Validations without improvement before that.
    warmup_updates : int
        Updates over which the rate rises linearly at the start.
    betas : tuple of two floats
        Decay of the running means of gradient and squared gradient.
    amsgrad : bool
        Use the largest squared gradient so far, as published.
    gradient_clip : float
        Largest norm of the gradient, in units of the running mean of that norm; 0 for none.
    ema_decay : float
        Decay of the averaged weights that are validated and saved; 0 for the last ones.
    structures_per_update : int
        Structures whose gradients are summed for one update.

    Raises
    ------
    InputError
        For a value that makes no sense.
    """

    learning_rate: float
    schedule: str = "cosine"
    final_fraction: float = 0.01
    factor: float = 0.5
    plateau_patience: int = 5
    warmup_updates: int = 100
    betas: tuple[float, float] = (0.9, 0.99)
    amsgrad: bool = False
    gradient_clip: float = 10.0
    ema_decay: float = 0.998
    structures_per_update: int = 1

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise InputError(f"schedule {self.schedule} must be one of {', '.join(SCHEDULES)}.")
        if not self.learning_rate > 0:
            raise InputError(f"learning_rate {self.learning_rate} must be positive.")
        if not (0 <= self.ema_decay < 1 and 0 < self.factor < 1 and self.gradient_clip >= 0):
            raise InputError("ema_decay lies in [0, 1), factor in (0, 1), gradient_clip above 0.")
        if self.structures_per_update < 1 or self.plateau_patience < 1:
            raise InputError("structures_per_update and plateau_patience must be at least 1.")

    def rate(self, update: int, updates: int) -> float:
        """Return the learning rate of an update, counted from 0, but for plateaus."""
        warm = min(1.0, (update + 1) / max(self.warmup_updates, 1))
        if self.schedule != "cosine":
            return self.learning_rate * warm
        cosine = 0.5 * (1.0 + math.cos(math.pi * min(update / updates, 1.0)))
        return (
            self.learning_rate * warm * (self.final_fraction + (1.0 - self.final_fraction) * cosine)
        )


@dataclass(frozen=True)
class TrainingStep:
    """One step of a training: the first on H alone, the second with band energies, say.

    Parameters
    ----------
    updates : int
        Number of updates of the weights.
    optimizer : OptimizerSettings
    loss : HamiltonianLoss
        Loss on the blocks of H.
    bands : BandLoss, optional
        Loss on band energies that is added.
    states : StateLoss
        For a network that predicts operators of atoms: its loss, in place of the two.
    validate_every : int
        Updates between validations (and checkpoints).
    patience : int
        The step ends early when the validation loss has not fallen for so many validations; 0:
        never.

    Raises
    ------
    InputError
        For numbers that are too small.
    """

    updates: int
    optimizer: OptimizerSettings
    loss: HamiltonianLoss = field(default_factory=HamiltonianLoss)
    bands: BandLoss | None = None
    states: StateLoss = field(default_factory=StateLoss)
    validate_every: int = 250
    patience: int = 0

    def __post_init__(self) -> None:
        if min(self.updates, self.validate_every) < 1 or self.patience < 0:
            raise InputError("updates and validate_every must be at least 1, patience at least 0.")


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that decides a training run.

    Parameters
    ----------
    name : str
        Name of the model.
    labels : tuple of Path
        Label files.
    steps : tuple of TrainingStep
        The steps, one after the other.
    start : str, optional
        Model folder or built-in model that the weights, the network and the basis come from.
    species : dict of str to str, or of str to OpenMXSpecies
        Without `start`: data set of each element; the order gives the network's element types.
    network : NetworkConfig, optional
        Without `start`: shape of the network.
    orthonormal : bool
        Predict between orbitals that are orthonormal on each atom.
    omitted : dict of str to tuple of str
        Shells of the data sets that the basis does without.
    operator_widths : tuple of float, optional
        The network predicts operators of atoms (`core.atom_operators`): widths in Bohr of the
        Gaussians, none for projectors alone. Every step then has the loss `states`, no other.
    validation : tuple of str
        Names of labels that are never trained on and followed.
    test : tuple of str
        Names of labels that are not looked at.
    seed : int
        Seed of weights, order and k-points.
    device : str
        "cpu" or "cuda".

    Raises
    ------
    InputError
        When entries contradict each other.
    """

    name: str
    labels: tuple[Path, ...]
    steps: tuple[TrainingStep, ...]
    start: str | None = None
    species: Mapping[str, str] | Mapping[str, OpenMXSpecies] = field(default_factory=dict)
    network: NetworkConfig | None = None
    orthonormal: bool = True
    omitted: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    operator_widths: tuple[float, ...] | None = None
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not self.labels or not self.steps:
            raise InputError("A training needs label files (labels) and at least one step (steps).")
        if self.device not in ("cpu", "cuda"):
            raise InputError(f"device {self.device} must be cpu or cuda.")
        if (self.start is None) != (self.network is not None):
            raise InputError(
                "A training starts from a model (start) or from a new network (network and "
                "species); give one of the two."
            )
        if (self.network is None) == bool(self.species):
            raise InputError("species belong to a new network (network), and are needed there.")
        if self.operator_widths is not None:
            self._check_operators(self.operator_widths)
        elif self.network is not None and self.network.onsite_only:
            raise InputError("onsite_only is for a network of operators; give operator_widths.")
        both = sorted(set(self.validation) & set(self.test))
        if both:
            raise InputError(f"{both[0]} is named for validation and for test; choose one.")

    def _check_operators(self, widths: tuple[float, ...]) -> None:
        if self.network is None or not self.network.onsite_only or self.orthonormal:
            raise InputError(
                "operator_widths belong to a new network with onsite_only: true, and "
                "orthonormal: false."
            )
        if self.omitted or any(not isinstance(x, str) for x in self.species.values()):
            raise InputError("operator_widths need species of gpaw-data with all their shells.")
        if not all(width > 0 for width in widths):
            raise InputError("operator_widths must be positive.")


def read_training_config(path: Path) -> TrainingConfig:
    """Read a training file; names of files in it are relative to its folder.

    Raises
    ------
    InputError
        When the file cannot be read, or an entry is missing, unknown or of the wrong kind.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path} cannot be read as YAML ({error}); mend the file.") from error
    try:
        return _config(_table(content, "the file"), path.parent)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (TypeError, ValueError) as error:
        raise InputError(f"{path} has an entry of the wrong kind ({error}); mend it.") from error


def _config(content: dict[str, Any], folder: Path) -> TrainingConfig:
    entries = _entries(TrainingConfig, content, "the file")
    entries["labels"] = tuple(folder / str(name) for name in _list(content["labels"], "labels"))
    entries["steps"] = tuple(_step(item) for item in _list(content["steps"], "steps"))
    for key in ("validation", "test"):
        entries[key] = tuple(map(str, _list(content.get(key, []), key)))
    if "species" in content:
        entries["species"] = {
            str(symbol): _species(str(symbol), entry)
            for symbol, entry in _table(content["species"], "species").items()
        }
    if "omitted" in content:
        entries["omitted"] = {
            str(symbol): tuple(map(str, _list(names, "omitted")))
            for symbol, names in _table(content["omitted"], "omitted").items()
        }
    if "network" in content:
        network = _table(content["network"], "network")
        network.setdefault("num_types", len(entries.get("species", {})))
        entries["network"] = NetworkConfig(**_entries(NetworkConfig, network, "network"))
    if entries.get("start") is not None:
        beside = folder / str(entries["start"])
        entries["start"] = str(beside if beside.is_dir() else entries["start"])
    return TrainingConfig(**entries)


def _species(symbol: str, entry: Any) -> Any:
    if not isinstance(entry, dict):
        return str(entry)
    return OpenMXSpecies(
        symbol,
        str(entry["orbitals"]),
        str(entry["pseudopotential"]),
        float(entry["valence"]),
    )


def _step(item: Any) -> TrainingStep:
    content = _table(item, "a step")
    own = {one.name for one in fields(OptimizerSettings)}
    optimizer = {key: value for key, value in content.items() if key in own}
    others = {key: value for key, value in content.items() if key not in own}
    if "learning_rate" not in optimizer:
        raise InputError("a step has no learning_rate.")
    entries = _entries(TrainingStep, {**others, "optimizer": None}, "a step")
    entries["optimizer"] = OptimizerSettings(**_entries(OptimizerSettings, optimizer, "a step"))
    if "loss" in content:
        loss = _table(content["loss"], "loss")
        entries["loss"] = HamiltonianLoss(**_entries(HamiltonianLoss, loss, "loss"))
    if content.get("bands") is not None:
        entries["bands"] = BandLoss(
            **_entries(BandLoss, _table(content["bands"], "bands"), "bands")
        )
    if "states" in content:
        states = _table(content["states"], "states")
        entries["states"] = StateLoss(**_entries(StateLoss, states, "states"))
    return TrainingStep(**entries)


def _entries(kind: Any, content: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the entries of a data class, lists as tuples; unknown and missing ones are refused."""
    known = {one.name: one for one in fields(kind)}
    unknown = sorted(set(content) - set(known))
    if unknown:
        raise InputError(
            f"{where} has an unknown entry {unknown[0]}; known are {', '.join(known)}."
        )
    for name, one in known.items():
        if one.default is MISSING and one.default_factory is MISSING and name not in content:
            raise InputError(f"{where} has no entry {name}.")
    return {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}


def _table(content: Any, where: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise InputError(f"{where} must be a table of names and values.")
    return {str(key): value for key, value in content.items()}


def _list(content: Any, where: str) -> list[Any]:
    if not isinstance(content, list):
        raise InputError(f"{where} must be a list.")
    return content
