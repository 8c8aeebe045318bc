"""A training on several ranks gives the weights of one."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mpi4py import MPI
from operator_models import OPERATOR_CONFIG, operator_folder
from training_models import STEP, config_of, label_folder

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.training.config import TrainingConfig
from hamgnn_solve.training.train import train

COMM = MPI.COMM_WORLD


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A training of two steps, its file and labels written by the first rank."""
    made = None
    if COMM.rank == 0:
        folder = label_folder(tmp_path_factory.mktemp("labels"))
        step = {
            "updates": 4,
            "learning_rate": 0.01,
            "warmup_updates": 1,
            "ema_decay": 0.5,
            "validate_every": 2,
            "structures_per_update": 3,
        }
        made = config_of(folder, steps=[step, {**step, "bands": {"weight": 0.01, "states": 3}}])
    return COMM.bcast(made)


@pytest.mark.parallel
def test_ranks_share_the_structures_of_an_update(
    config: TrainingConfig, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder: Path = COMM.bcast(tmp_path_factory.mktemp("run") if COMM.rank == 0 else None)
    shared = train(config, folder / "all", COMM)
    alone = train(config, folder / f"one-{COMM.rank}", MPI.COMM_SELF)
    one, other = shared.network.state_dict(), alone.network.state_dict()
    assert one.keys() == other.keys()
    curves = [
        list(csv.DictReader((folder / name / "curve-2.csv").read_text().splitlines()))
        for name in ("all", f"one-{COMM.rank}")
    ]
    for row, expected in zip(*curves, strict=True):
        for key in ("update", "train_loss", "train_onsite", "validation_loss"):
            # Sums in another order in single precision, which AdamW makes large for weights with
            # next to no gradient, so the losses are compared: reached 2e-6.
            assert float(row[key]) == pytest.approx(float(expected[key]), rel=1e-4)
    assert shared.energy_shift == pytest.approx(alone.energy_shift, rel=1e-4)
    everywhere = COMM.allgather([x.double().sum().item() for x in one.values()])
    assert all(np.array_equal(ranks, everywhere[0]) for ranks in everywhere)
    assert (folder / "all" / "curve-2.csv").read_text().count("\n") == 3


@pytest.fixture(scope="module")
def operator_config(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same of a network that predicts operators of atoms."""
    made = None
    if COMM.rank == 0:
        folder = operator_folder(tmp_path_factory.mktemp("operator-labels"))
        steps = [{**STEP, "structures_per_update": 3}]
        made = config_of(folder, **{**OPERATOR_CONFIG, "steps": steps})
    return COMM.bcast(made)


@pytest.mark.parallel
def test_ranks_share_an_update_of_operators(
    operator_config: TrainingConfig, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder: Path = COMM.bcast(tmp_path_factory.mktemp("operators") if COMM.rank == 0 else None)
    for comm, name in ((COMM, "all"), (MPI.COMM_SELF, f"one-{COMM.rank}")):
        train(operator_config, folder / name, comm)
    rows, expected = (
        list(csv.DictReader((folder / name / "curve-1.csv").read_text().splitlines()))
        for name in ("all", f"one-{COMM.rank}")
    )
    for row, other in zip(rows, expected, strict=True):
        for key in ("train_loss", "validation_loss", "validation_levels"):
            # Reached 2e-5.
            assert float(row[key]) == pytest.approx(float(other[key]), rel=1e-3)


@pytest.mark.parallel
def test_all_ranks_refuse_together(config: TrainingConfig, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="three"):
        train(replace(config, validation=("three",)), tmp_path, COMM)
    assert torch.is_grad_enabled()
