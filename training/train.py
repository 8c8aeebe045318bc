"""Train a network on labelled structures, step after step, on one or more ranks.

The structures of an update are shared out over the ranks and their gradients summed, so that the
weights do not depend on the number of ranks but by rounding. Every rank holds all labels. The
folder receives a `curve-N.csv` for each step, `checkpoint.pt` and `model/`, the model folder with
the averaged weights and, at the end, the surroundings of the atoms trained on; a run that was
stopped goes on where its last validation was.
"""

from __future__ import annotations

import copy
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from mpi4py import MPI

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.model import Model, save_model
from hamgnn_solve.core.model_selection import find_model
from hamgnn_solve.core.network.build import Network, build_network
from hamgnn_solve.core.network.hamgnn import HamiltonianNetwork
from hamgnn_solve.core.network.radial import radial_functions
from hamgnn_solve.parallel.faults import agreed
from hamgnn_solve.training.band_loss import random_kpoints
from hamgnn_solve.training.config import OptimizerSettings, TrainingConfig, TrainingStep
from hamgnn_solve.training.csv_rows import append_row
from hamgnn_solve.training.dataset import TrainingStructure, read_labels
from hamgnn_solve.training.energy_zero import moved, onsite_shifts
from hamgnn_solve.training.environments import (
    read_training_structures,
    record_environments,
)
from hamgnn_solve.training.loss import MEV_PER_HARTREE, HamiltonianLoss
from hamgnn_solve.training.operator_states import (
    OperatorStructure,
    StateLoss,
    fit_operators,
    read_operator_labels,
)
from hamgnn_solve.training.reference import fit_reference

AnyStructure = TrainingStructure | OperatorStructure

__all__ = ["initialise", "make_optimizer", "train"]

CHECKPOINT = "checkpoint.pt"
CURVE = "curve-{}.csv"
# Root mean square of what radial perceptrons are first given of the closest pair.
RADIAL_SIZE = 0.4
OUTPUT_SCALE = 0.01
# Apart from training, so that no structure is validated at the k-points it was trained at.
VALIDATION_SEED = 1 << 31


def make_optimizer(
    settings: OptimizerSettings, parameters: Iterable[torch.nn.Parameter]
) -> torch.optim.AdamW:
    """Return AdamW without weight decay, with the settings of a step."""
    return torch.optim.AdamW(
        parameters,
        lr=settings.learning_rate,
        betas=settings.betas,
        eps=1e-8,
        weight_decay=0.0,
        amsgrad=settings.amsgrad,
    )


def initialise(model: Model, structures: Sequence[AnyStructure], loss: StateLoss) -> None:
    """Give a new network starting values of the right size.

    The reference (of operators: one for each element) is fitted to the labels. Radial weights
    start so large that the closest pair makes itself felt without drowning all others, and output
    weights small, because the reference is already near.

    Parameters
    ----------
    model : Model
    structures : sequence of TrainingStructure or OperatorStructure
    loss : StateLoss
        Where the network predicts operators, the weights of the fit.
    """
    config = model.network.config
    shortest = min(one.pairs.distance.min() for one in structures if len(one.pairs.distance))
    radial = radial_functions(
        shortest[None], config.message_radius, config.num_radial, config.cutoff_power
    )
    scale = RADIAL_SIZE / float(radial.square().mean().sqrt())
    with torch.no_grad():
        if model.operator_widths is None:
            _fit_blocks(model, [one for one in structures if isinstance(one, TrainingStructure)])
        else:
            assert isinstance(model.network, HamiltonianNetwork)  # TrainingConfig checks it
            chosen = [one for one in structures if isinstance(one, OperatorStructure)]
            model.network.onsite_reference.copy_(fit_operators(model, chosen, loss))
        for key, parameter in model.network.named_parameters():
            if key.endswith("fc.layer0.weight"):
                parameter.mul_(scale)
            if key.endswith("sitenet_linear.weight"):
                parameter.mul_(OUTPUT_SCALE)


def _fit_blocks(model: Model, structures: list[TrainingStructure]) -> None:
    """Fit reference blocks to labels that are brought to one zero of energy."""
    shifts = onsite_shifts(structures) if model.orthonormal else np.zeros(len(structures))
    fit_reference(model, [moved(one, float(c)) for one, c in zip(structures, shifts, strict=True)])


def train(
    config: TrainingConfig,
    folder: Path,
    comm: MPI.Intracomm,
    say: Callable[[str], None] = print,
) -> Model:
    """Train, or continue to train, and return the model with averaged weights. Collective.

    Parameters
    ----------
    config : TrainingConfig
        What to train and how.
    folder : Path
        Receives curves, checkpoint and model; a checkpoint found there is continued.
    comm : mpi4py communicator
        Its ranks share the structures of each update.
    say : callable
        Gets lines of progress on the first rank.

    Raises
    ------
    InputError
        When the start model or a label cannot be used, or nothing is left to train on.
    """
    torch.manual_seed(config.seed)
    with agreed(comm):
        device = _device(config, comm)
        model = _start_model(config)
        _check_losses(config, model)
        seen, held_out = _read_structures(config, model)
        if config.start is None and not model.openmx_species:
            initialise(model, seen, config.steps[0].states)
    model = _Run(config, model, seen, held_out, folder, comm, device, say).run()
    if comm.rank == 0:
        model = _with_environments(model, config, {one.name for one in seen}, say)
        save_model(model, folder / "model")
    comm.Barrier()
    return model


def _check_losses(config: TrainingConfig, model: Model) -> None:
    """Raise `InputError` when a step has a loss that the model's network does not."""
    for step in config.steps:
        if model.operator_widths is None:
            if step.states != StateLoss():
                raise InputError("states are for a network of operators of atoms; leave them out.")
        elif step.bands is not None or step.loss != HamiltonianLoss():
            raise InputError(
                "A network of operators of atoms has the loss states; leave loss and bands out."
            )


def _with_environments(
    model: Model, config: TrainingConfig, names: set[str], say: Callable[[str], None]
) -> Model:
    """Record the surroundings of the atoms trained on, where they tell a threshold."""
    try:
        structures = read_training_structures(list(config.labels))
        return record_environments(model, {k: x for k, x in structures.items() if k in names})
    except InputError as error:
        say(f"environments are not recorded: {error}")
        return model


def _read_structures(
    config: TrainingConfig, model: Model
) -> tuple[list[AnyStructure], list[AnyStructure]]:
    """Return the structures to train on, and those held out for validation."""
    data: Mapping[str, AnyStructure]
    if model.operator_widths is not None:
        data = read_operator_labels(config.labels, model, config.test)
    else:
        with_states = any(step.loss.needs_states for step in config.steps)
        data = read_labels(config.labels, model, config.test, with_states)
    missing = [name for name in config.validation if name not in data]
    if missing:
        raise InputError(f"No label file has {missing[0]}, which is named for validation.")
    seen = [one for name, one in data.items() if name not in config.validation]
    if not seen:
        raise InputError("No label is left to train on; label structures, or hold out fewer.")
    return seen, [data[name] for name in config.validation]


def _start_model(config: TrainingConfig) -> Model:
    if config.start is not None:
        start = find_model(config.start)
        start.network.train().requires_grad_(True)
        return replace(
            start,
            name=config.name,
            training={"continues": start.training or start.name},
            errors={},
            environments=None,
        )
    assert config.network is not None  # TrainingConfig checks it
    return Model(
        config.name,
        config.species,
        build_network(config.network),
        orthonormal=config.orthonormal,
        omitted=config.omitted,
        operator_widths=config.operator_widths,
    )


def _device(config: TrainingConfig, comm: MPI.Intracomm) -> torch.device:
    if config.device == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise InputError("device cuda: this machine or build of torch has none; write cpu.")
    return torch.device("cuda", comm.rank % torch.cuda.device_count())


class _Run:
    """One run: network, averaged weights, optimiser, and where it stands."""

    def __init__(
        self,
        config: TrainingConfig,
        model: Model,
        seen: list[AnyStructure],
        held_out: list[AnyStructure],
        folder: Path,
        comm: MPI.Intracomm,
        device: torch.device,
        say: Callable[[str], None],
    ) -> None:
        self.config, self.model, self.folder = config, model, folder
        self.comm, self.device, self.say = comm, device, say
        self.seen, self.held_out = seen, held_out
        # Before a device gets a copy: the weights of the first rank are written into the others'.
        for tensor in model.network.state_dict().values():
            comm.Bcast(tensor.detach().numpy())
        self.network: Network = model.network.to(device)
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.place = 0
        self.update = 0
        self.gradient_norm = 0.0
        self.best, self.waited = math.inf, 0
        self.shifts: deque[float] = deque(maxlen=len(seen))
        self.some_open = not all(one.periodic_c.all() for one in seen)
        self._begin_step()
        with agreed(comm):
            if (folder / CHECKPOINT).exists():
                self._restore()
        if comm.rank == 0:
            folder.mkdir(parents=True, exist_ok=True)

    @property
    def step(self) -> TrainingStep:
        """The step of the training that the run is in."""
        return self.config.steps[self.place]

    def run(self) -> Model:
        """Update until all steps are done."""
        while self.place < len(self.config.steps):
            self._run_step()
            if self.step.optimizer.ema_decay:
                # The next step, or nothing, goes on from the weights that were validated.
                self.network.load_state_dict(self.average.state_dict())
            self.place += 1
            if self.place < len(self.config.steps):
                self.update, self.best, self.waited = 0, math.inf, 0
                self._begin_step()
                self._save()
        self.place = len(self.config.steps) - 1
        return self._averaged_model()

    def _begin_step(self) -> None:
        settings = self.step.optimizer
        self.optimizer = make_optimizer(settings, self.network.parameters())
        self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimizer,
            factor=settings.factor,
            patience=settings.plateau_patience,
            threshold=1e-6,
            cooldown=settings.plateau_patience // 2,
            min_lr=1e-6,
        )

    def _run_step(self) -> None:
        step, sums = self.step, dict[str, float]()
        began, since = time.perf_counter(), 0
        while self.update < step.updates and not (0 < step.patience <= self.waited):
            if step.optimizer.schedule != "plateau" or self.update < step.optimizer.warmup_updates:
                for group in self.optimizer.param_groups:
                    group["lr"] = step.optimizer.rate(self.update, step.updates)
            self.optimizer.zero_grad()
            report = self._gradients()
            for key, value in report.items():
                sums[key] = sums.get(key, 0.0) + value
            self._apply()
            self.update += 1
            since += 1
            if self.update % step.validate_every == 0 or self.update == step.updates:
                row = {f"train_{key}": value / since for key, value in sums.items()}
                self._validate(row, time.perf_counter() - began)
                sums, since = {}, 0

    def _gradients(self) -> dict[str, float]:
        """Sum the gradients of an update's structures over the ranks; return the mean losses."""
        count = self.step.optimizer.structures_per_update
        reports: list[tuple[int, dict[str, float], bool]] = []
        for number in range(self.comm.rank, count, self.comm.size):
            drawn = self.update * count + number
            structure, random = self._drawn(drawn)
            parts = self._losses(self.network, structure, random)
            torch.autograd.backward(parts["loss"] / count)
            report = {key: float(value.detach()) for key, value in parts.items()}
            reports.append((number, report, bool(structure.periodic_c.all())))
        gradients = [
            torch.zeros_like(p) if p.grad is None else p.grad for p in self.network.parameters()
        ]
        if self.comm.size > 1:
            flat = torch.cat([x.flatten() for x in gradients]).cpu().numpy()
            total = np.empty_like(flat)
            self.comm.Allreduce(flat, total)
            pieces = torch.from_numpy(total).split([x.numel() for x in gradients])
            gradients = [
                piece.view_as(x).to(x.device) for piece, x in zip(pieces, gradients, strict=True)
            ]
        for parameter, gradient in zip(self.network.parameters(), gradients, strict=True):
            parameter.grad = gradient
        everyone = sorted(
            (one for ranks in self.comm.allgather(reports) for one in ranks),
            key=lambda report: report[0],
        )
        # A crystal without vacuum has no zero of its own to agree with.
        self.shifts.extend(
            report["shift"] for _, report, filled in everyone if not (filled and self.some_open)
        )
        return {
            key: sum(abs(report.get(key, 0.0)) for _, report, _ in everyone) / count
            for key in everyone[0][1]
        }

    def _drawn(self, drawn: int) -> tuple[AnyStructure, np.random.Generator]:
        """Return the structure number `drawn` of the run's order, which the seed decides alone."""
        epoch, within = divmod(drawn, len(self.seen))
        order = np.random.default_rng([self.config.seed, self.place, epoch]).permutation(
            len(self.seen)
        )
        random = np.random.default_rng([self.config.seed, self.place, epoch, within])
        return self.seen[order[within]], random

    def _losses(
        self,
        network: Network,
        structure: AnyStructure,
        random: np.random.Generator,
    ) -> dict[str, torch.Tensor]:
        """Return the losses of a structure in meV."""
        step, structure = self.step, structure.to(self.device)
        if isinstance(structure, OperatorStructure):
            assert isinstance(network, HamiltonianNetwork)
            operators = network.atom_blocks(structure.types, structure.pairs, structure.reverse)
            return step.states(
                operators, structure.states[int(random.integers(len(structure.states)))]
            )
        states = []
        if structure.bands and step.loss.needs_states:
            chosen = random.integers(0, len(structure.bands), step.loss.state_kpoints)
            states = [structure.bands[int(b)] for b in chosen]
        predicted = torch.cat(network(structure.types, structure.pairs, structure.reverse))
        parts = step.loss(predicted, structure, states)
        if step.bands is not None:
            kpoints_kc = random_kpoints(structure, step.bands.kpoints, random)
            parts["bands"] = MEV_PER_HARTREE * step.bands(predicted, structure, kpoints_kc)
            parts["loss"] = parts["loss"] + step.bands.weight * parts["bands"]
        return parts

    def _apply(self) -> None:
        settings = self.step.optimizer
        clip = settings.gradient_clip if self.gradient_norm else 0.0
        limit = clip * self.gradient_norm if clip else math.inf
        norm = float(torch.nn.utils.clip_grad_norm_(self.network.parameters(), limit))
        if not math.isfinite(norm):
            raise RuntimeError(f"the gradient of update {self.update} is not finite")
        known = self.gradient_norm > 0
        self.gradient_norm = 0.98 * self.gradient_norm + 0.02 * norm if known else norm
        self.optimizer.step()
        decay = min(settings.ema_decay, (1.0 + self.update) / (10.0 + self.update))
        with torch.no_grad():
            for slow, fast in zip(
                self.average.parameters(), self.network.parameters(), strict=True
            ):
                slow.lerp_(fast, 1.0 - decay)

    def _validate(self, row: dict[str, float], seconds: float) -> None:
        rows: list[dict[str, float]] = []
        with torch.no_grad():
            for number in range(self.comm.rank, len(self.held_out), self.comm.size):
                random = np.random.default_rng([self.config.seed, VALIDATION_SEED, number])
                parts = self._losses(self.average, self.held_out[number], random)
                rows.append({key: abs(float(value)) for key, value in parts.items()})
        everyone = [one for ranks in self.comm.allgather(rows) for one in ranks]
        means = {
            f"validation_{key}": float(np.mean([one[key] for one in everyone]))
            for key in (everyone[0] if everyone else {})
        }
        judged = means.get("validation_loss", row["train_loss"])
        self.waited = 0 if judged < self.best else self.waited + 1
        self.best = min(self.best, judged)
        rate = self.optimizer.param_groups[0]["lr"]
        if self.step.optimizer.schedule == "plateau":
            self.plateau.step(row["train_loss"])
        record: dict[str, float] = {
            "step": self.place + 1,
            "update": self.update,
            "seconds": round(seconds, 1),
            "learning_rate": rate,
        }
        record |= {key: round(value, 4) for key, value in (row | means).items()}
        if self.comm.rank == 0:
            self.say(", ".join(f"{key} {value}" for key, value in record.items()))
            append_row(self.folder / CURVE.format(self.place + 1), record)
            save_model(self._averaged_model(), self.folder / "model")
        self._save()

    def _averaged_model(self) -> Model:
        settings = self.step.optimizer
        average = copy.deepcopy(self.average if settings.ema_decay else self.network).cpu()
        training: dict[str, Any] = {
            "structures": len(self.seen),
            "held_out": [structure.name for structure in self.held_out] + list(self.config.test),
            "updates": [s.updates for s in self.config.steps[: self.place]] + [self.update],
            "seed": self.config.seed,
            **self.model.training,
        }
        return replace(
            self.model,
            network=average,
            energy_shift=float(np.mean(self.shifts)) / MEV_PER_HARTREE if self.shifts else 0.0,
            training=training,
        )

    def _save(self) -> None:
        if self.comm.rank != 0:
            return
        state = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "plateau": self.plateau.state_dict(),
            "place": self.place,
            "update": self.update,
            "gradient_norm": self.gradient_norm,
            "best": self.best,
            "waited": self.waited,
            "shifts": list(self.shifts),
        }
        unfinished = self.folder / f"{CHECKPOINT}.part"
        torch.save(state, unfinished)
        unfinished.replace(self.folder / CHECKPOINT)

    def _restore(self) -> None:
        path = self.folder / CHECKPOINT
        try:
            state = torch.load(path, weights_only=True, map_location=self.device)
            if state["place"] >= len(self.config.steps):
                raise InputError(
                    f"The checkpoint {path} is of step {state['place'] + 1}, but the file has "
                    f"{len(self.config.steps)}; choose another folder."
                )
            self.place, self.update = state["place"], state["update"]
            self._begin_step()
            self.network.load_state_dict(state["network"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.plateau.load_state_dict(state["plateau"])
            self.gradient_norm = state["gradient_norm"]
            self.best, self.waited = state["best"], state["waited"]
            self.shifts.extend(state["shifts"])
        except (OSError, EOFError, RuntimeError, ValueError, KeyError, UnpicklingError) as error:
            raise InputError(
                f"The checkpoint {path} is damaged or of another network; restore it, or choose "
                "another folder."
            ) from error
        if self.comm.rank == 0:
            self.say(f"goes on at update {self.update} of step {self.place + 1}")
