"""Train a network on labelled structures.

    python -m hamgnn_solve.training.train RECIPE.yaml --labels FILE.h5 --out FOLDER

The folder receives `curve.csv`, `checkpoint.pt` and `model/`, the model folder with the averaged
weights and the surroundings of the atoms trained on. The same command continues a run that was
stopped.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
import yaml

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.model import Model, load_model, save_model
from hamgnn_solve.core.network.build import Network
from hamgnn_solve.core.network.config import NetworkConfig
from hamgnn_solve.core.network.hamgnn import HamiltonianNetwork
from hamgnn_solve.training.dataset import TrainingStructure, read_labels
from hamgnn_solve.training.environments import record_environments
from hamgnn_solve.training.label_file import label_structures
from hamgnn_solve.training.loss import MEV_PER_HARTREE, HamiltonianLoss
from hamgnn_solve.training.reference import fit_reference

__all__ = ["OptimizerSettings", "TrainingRecipe", "initialise", "read_training_recipe", "train"]

CHECKPOINT = "checkpoint.pt"
CURVE = "curve.csv"
KPOINTS = 2  # an update looks at
RADIAL_SCALE = 4.0
OUTPUT_SCALE = 0.01


@dataclass(frozen=True)
class OptimizerSettings:
    """Settings of AdamW and its schedule.

    Parameters
    ----------
    steps : int
        Number of parameter updates.
    learning_rate, final_fraction : float
        Highest learning rate, and the fraction of it at the end of the cosine decay.
    warmup_steps : int
        Updates over which the rate rises linearly.
    gradient_clip : float
        Largest norm of the gradient, in units of the running mean of that norm.
    ema_decay : float
        Decay of the averaged weights that are validated and saved.
    structures_per_step : int
        Structures whose gradients are summed for one update.
    validate_every : int
        Updates between validations (and checkpoints).
    """

    steps: int
    learning_rate: float
    final_fraction: float
    warmup_steps: int
    gradient_clip: float
    ema_decay: float
    structures_per_step: int
    validate_every: int

    def __post_init__(self) -> None:
        if min(self.steps, self.structures_per_step, self.validate_every) < 1:
            raise InputError("steps, structures_per_step and validate_every must be at least 1.")
        if not (self.learning_rate > 0 and 0 <= self.ema_decay < 1):
            raise InputError("learning_rate must be positive and ema_decay lie in [0, 1).")

    def rate(self, step: int) -> float:
        """Return the learning rate of an update, counted from 0."""
        warm = min(1.0, (step + 1) / max(self.warmup_steps, 1))
        cosine = 0.5 * (1.0 + math.cos(math.pi * min(step / self.steps, 1.0)))
        return (
            self.learning_rate * warm * (self.final_fraction + (1.0 - self.final_fraction) * cosine)
        )


@dataclass(frozen=True)
class TrainingRecipe:
    """Everything that decides a training run, apart from the labels.

    Parameters
    ----------
    name : str
        Name of the model.
    species : dict of str to str
        Data set of each element; the order gives the network's element types.
    orthonormal : bool
        Predict between orbitals that are orthonormal on each atom.
    network : NetworkConfig
        Shape of the network.
    loss : HamiltonianLoss
        Loss and its weights.
    optimizer : OptimizerSettings
        Optimiser and schedule.
    seed : int
        Seed of weights and order.
    validation : tuple of str
        Names of labels that are never trained on.
    """

    name: str
    species: dict[str, str]
    orthonormal: bool
    network: NetworkConfig
    loss: HamiltonianLoss
    optimizer: OptimizerSettings
    seed: int
    validation: tuple[str, ...]


def read_training_recipe(path: Path) -> TrainingRecipe:
    """Read a recipe.

    Raises
    ------
    InputError
        When the file cannot be read or an entry is missing, unknown or of the wrong kind.
    """
    try:
        content = yaml.safe_load(path.read_text())
        species = {str(k): str(v) for k, v in content["species"].items()}
        network = {**content["network"], "num_types": len(species)}
        network["shells"] = tuple(network["shells"])
        loss: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in content["loss"].items()
        }
        return TrainingRecipe(
            name=str(content["name"]),
            species=species,
            orthonormal=bool(content["orthonormal"]),
            network=NetworkConfig(**network),
            loss=HamiltonianLoss(**loss),
            optimizer=OptimizerSettings(**content["optimizer"]),
            seed=int(content["seed"]),
            validation=tuple(content["validation"]),
        )
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is not a training recipe ({error}); mend that entry.") from error


def initialise(model: Model, structures: list[TrainingStructure]) -> None:
    """Give a new network starting values of the right size.

    The reference blocks are fitted to the labels. Radial weights start large, because squared
    envelopes are small, and output weights small, because the reference is already near.
    """
    with torch.no_grad():
        fit_reference(model, structures)
        for key, parameter in model.network.named_parameters():
            if key.endswith("fc.layer0.weight"):
                parameter.mul_(RADIAL_SCALE)
            if key.endswith("sitenet_linear.weight"):
                parameter.mul_(OUTPUT_SCALE)


def train(
    recipe: TrainingRecipe, labels: Path, folder: Path, start_from: Path | None = None
) -> Model:
    """Train, or continue to train, and return the model with averaged weights.

    Parameters
    ----------
    recipe : TrainingRecipe
        What to train and how.
    labels : Path
        HDF5 file of labels.
    folder : Path
        Receives curve, checkpoint and model; a checkpoint found there is continued.
    start_from : Path, optional
        Model folder whose weights a new run starts from.
    """
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    model = Model(
        recipe.name,
        recipe.species,
        HamiltonianNetwork(recipe.network),
        orthonormal=recipe.orthonormal,
    )
    data = read_labels(labels, model)
    held_out = [data[name] for name in recipe.validation if name in data]
    seen = [one for name, one in data.items() if name not in recipe.validation]
    if not seen:
        raise InputError(f"{labels} holds no label to train on; label structures first.")
    if start_from is None:
        initialise(model, seen)
    else:
        start = load_model(start_from)
        model.network.load_state_dict(start.network.state_dict())
        model = replace(model, training={"continues": start.training})
    trained = _Run(recipe, model, seen, held_out, folder).run()
    return _with_environments(trained, labels, {one.name for one in seen}, folder / "model")


def _with_environments(model: Model, labels: Path, names: set[str], folder: Path) -> Model:
    """Record the surroundings of the atoms trained on, where they tell a threshold, and save."""
    with h5py.File(labels, "r", locking=False) as file:
        structures = {k: x for k, x in label_structures(file).items() if k in names}
    try:
        model = record_environments(model, structures)
    except InputError as error:
        print(f"environments are not recorded: {error}", flush=True)
        return model
    save_model(model, folder)
    return model


class _Run:
    """One run: network, averaged weights, optimiser, and where it stands."""

    def __init__(
        self,
        recipe: TrainingRecipe,
        model: Model,
        seen: list[TrainingStructure],
        held_out: list[TrainingStructure],
        folder: Path,
    ) -> None:
        self.recipe, self.model, self.folder = recipe, model, folder
        self.seen, self.held_out = seen, held_out
        self.network = model.network
        self.average = HamiltonianNetwork(recipe.network)
        self.average.load_state_dict(self.network.state_dict())
        self.average.requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(),
            lr=recipe.optimizer.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=0.0,
        )
        self.step = 0
        self.gradient_norm = 0.0
        self.shifts: deque[float] = deque(maxlen=len(seen))
        if (folder / CHECKPOINT).exists():
            self._restore()

    def run(self) -> Model:
        """Update until the recipe's number of steps is reached."""
        settings = self.recipe.optimizer
        order = self._order()
        sums: dict[str, float] = {}
        began = time.perf_counter()
        while self.step < settings.steps:
            for group in self.optimizer.param_groups:
                group["lr"] = settings.rate(self.step)
            self.optimizer.zero_grad()
            for _ in range(settings.structures_per_step):
                structure, bands = next(order)
                parts = self.recipe.loss(
                    _all_blocks(self.network, structure),
                    structure,
                    [structure.bands[b] for b in bands],
                )
                torch.autograd.backward(parts["loss"] / settings.structures_per_step)
                for key, value in parts.items():
                    sums[key] = sums.get(key, 0.0) + float(value.detach().abs())
                self.shifts.append(float(parts["shift"].detach()))
            self._update()
            self.step += 1
            if self.step % settings.validate_every == 0 or self.step == settings.steps:
                count = settings.validate_every * settings.structures_per_step
                row = {f"train_{key}": value / count for key, value in sums.items()}
                self._validate(row, time.perf_counter() - began)
                sums = {}
        return self._averaged_model()

    def _order(self) -> Iterator[tuple[TrainingStructure, list[int]]]:
        """Yield structures in an order that depends on seed and step alone."""
        drawn = self.step * self.recipe.optimizer.structures_per_step
        while True:
            epoch, within = divmod(drawn, len(self.seen))
            random = np.random.default_rng([self.recipe.seed, epoch])
            order = random.permutation(len(self.seen))
            bands = random.integers(0, 1 << 30, (len(self.seen), KPOINTS))
            for place in range(within, len(self.seen)):
                structure = self.seen[order[place]]
                drawn += 1
                yield structure, [int(b) % len(structure.bands) for b in bands[place]]

    def _update(self) -> None:
        settings = self.recipe.optimizer
        limit = settings.gradient_clip * self.gradient_norm if self.gradient_norm else math.inf
        norm = float(torch.nn.utils.clip_grad_norm_(self.network.parameters(), limit))
        if not math.isfinite(norm):
            raise RuntimeError(f"gradient of step {self.step} is not finite")
        self.gradient_norm = 0.98 * self.gradient_norm + 0.02 * norm if self.step else norm
        self.optimizer.step()
        decay = min(settings.ema_decay, (1.0 + self.step) / (10.0 + self.step))
        with torch.no_grad():
            for slow, fast in zip(
                self.average.parameters(), self.network.parameters(), strict=True
            ):
                slow.lerp_(fast, 1.0 - decay)

    def _validate(self, row: dict[str, float], seconds: float) -> None:
        sums: dict[str, list[float]] = {}
        with torch.no_grad():
            for structure in self.held_out:
                parts = self.recipe.loss(
                    _all_blocks(self.average, structure), structure, structure.bands[:KPOINTS]
                )
                for key, value in parts.items():
                    sums.setdefault(key, []).append(abs(float(value)))
        means = {f"validation_{key}": float(np.mean(value)) for key, value in sums.items()}
        rate = self.recipe.optimizer.rate(self.step)
        record: dict[str, float] = {
            "step": self.step,
            "seconds": round(seconds, 1),
            "learning_rate": rate,
        }
        record |= {key: round(value, 4) for key, value in (row | means).items()}
        print(", ".join(f"{k} {v}" for k, v in record.items()), flush=True)
        path = self.folder / CURVE
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(record), extrasaction="ignore")
            if new:
                writer.writeheader()
            writer.writerow(record)
        save_model(self._averaged_model(), self.folder / "model")
        self._save()

    def _averaged_model(self) -> Model:
        training: dict[str, Any] = {
            "structures": len(self.seen),
            "held_out": [structure.name for structure in self.held_out],
            "steps": self.step,
            "seed": self.recipe.seed,
            "reference": "on-site constants and two-centre terms by least squares, not trained",
            **self.model.training,
        }
        return Model(
            self.recipe.name,
            self.recipe.species,
            self.average,
            float(np.mean(self.shifts)) / MEV_PER_HARTREE if self.shifts else 0.0,
            self.recipe.orthonormal,
            training,
        )

    def _save(self) -> None:
        state = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "gradient_norm": self.gradient_norm,
        }
        unfinished = self.folder / f"{CHECKPOINT}.part"
        torch.save(state, unfinished)
        unfinished.replace(self.folder / CHECKPOINT)

    def _restore(self) -> None:
        state = torch.load(self.folder / CHECKPOINT, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        self.gradient_norm = state["gradient_norm"]


def _all_blocks(network: Network, structure: TrainingStructure) -> torch.Tensor:
    return torch.cat(network(structure.types, structure.pairs, structure.reverse))


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Train a network on labelled structures.")
    parser.add_argument("recipe", type=Path, help="training recipe (YAML)")
    parser.add_argument("--labels", type=Path, required=True, help="label file (HDF5)")
    parser.add_argument("--out", type=Path, required=True, help="folder of curve and model")
    parser.add_argument("--init", type=Path, help="model folder to start from")
    options = parser.parse_args(arguments)
    try:
        train(read_training_recipe(options.recipe), options.labels, options.out, options.init)
    except InputError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
