"""Training: gauge, labels as tensors, a run that learns, and a run that is continued."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.linalg
import torch
import yaml
from numpy.typing import NDArray

from hamgnn_solve.core.basis.gpaw_data import built_in_basis
from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.model import Model, load_model
from hamgnn_solve.core.network.hamgnn import HamiltonianNetwork
from hamgnn_solve.core.operator import BlockOperator
from hamgnn_solve.core.pairs import PairList, find_pairs, onsite_pairs
from hamgnn_solve.core.structure import Structure
from hamgnn_solve.training import train as train_module
from hamgnn_solve.training.dataset import bloch_matrix, training_structure
from hamgnn_solve.training.label_file import Label, label_operators, write_label
from hamgnn_solve.training.loss import HamiltonianLoss, aligned_error, state_error
from hamgnn_solve.training.train import TrainingRecipe, read_training_recipe, train

SPECIES = {"Mo": "Mo.6", "S": "S"}
RECIPE = {
    "name": "tiny",
    "species": SPECIES,
    "orthonormal": True,
    "network": {
        "irreps": "4x0e+2x1o+1x1e+2x2e+1x2o+1x3o+1x3e+1x4e",
        "shells": [2, 2, 2],
        "layers": 1,
        "cutoff": 13.0,
        "message_cutoff": 8.0,
        "num_radial": 4,
        "invariant_layers": 1,
        "invariant_neurons": 8,
        "lmax": 4,
        "nonlinearity": "gate",
        "pair_radial": True,
        "envelope": True,
        "reference_radial": 8,
        "reference_cutoff": 24.0,
    },
    "loss": {"band_weight": 0.0},
    "optimizer": {
        "steps": 6,
        "learning_rate": 0.01,
        "final_fraction": 0.1,
        "warmup_steps": 1,
        "gradient_clip": 10.0,
        "ema_decay": 0.5,
        "structures_per_step": 1,
        "validate_every": 3,
    },
    "seed": 1,
    "validation": ["held-out"],
}


def structure(bond: float) -> Structure:
    cell = np.diag([16.0, 16.0, 30.0])
    return Structure(("Mo", "S"), np.array([[1.0, 1.0, 9.0], [1.0 + bond, 2.0, 10.5]]), cell)


def made_up_label(bond: float) -> Label:
    """Return a label with a Hermitian, positive definite pencil that no program computed."""
    basis = built_in_basis(SPECIES)
    one = structure(bond)
    offsite = find_pairs(one, basis.cutoff_i(one))
    onsite = onsite_pairs(np.arange(2, dtype=np.int64))
    order_keys = [
        np.concatenate([getattr(onsite, key), getattr(offsite, key)])
        for key in ("first_p", "second_p", "shift_pc", "vector_pc")
    ]
    order = np.lexsort((*order_keys[2].T[::-1], order_keys[1], order_keys[0]))
    pairs = PairList(*(x[order] for x in order_keys))
    norb_i = basis.norb_i(one)
    hamiltonian, overlap = (BlockOperator.zeros(pairs, norb_i) for _ in range(2))
    reverse = pairs.position_of(pairs.reversed())
    random = np.random.default_rng(7)
    for p in range(len(pairs)):
        decay = np.exp(-0.5 * pairs.distance_p[p])
        hamiltonian.block(p)[...] = 0.1 * decay * random.normal(size=hamiltonian.block(p).shape)
        overlap.block(p)[...] = 0.05 * decay * random.normal(size=overlap.block(p).shape)
    symmetric = []
    for operator in (hamiltonian, overlap):
        result = BlockOperator.zeros(pairs, norb_i)
        for p in range(len(pairs)):
            result.block(p)[...] = operator.block(p) + operator.block(int(reverse[p])).T
            if operator is overlap and pairs.distance_p[p] == 0:
                result.block(p)[...] += np.eye(len(result.block(p)))
        symmetric.append(result)
    kpoints = np.array([[0.0, 0.0, 0.0], [0.3, 0.1, 0.0]])
    energies = np.array(
        [
            scipy.linalg.eigvalsh(bloch_matrix(symmetric[0], k), bloch_matrix(symmetric[1], k))
            for k in kpoints
        ]
    )
    return Label(
        symbols=one.symbols,
        positions_ic=one.pos_ic,
        cell_cc=one.cell_cc,
        periodic_c=np.array([True, True, False]),
        norb_i=norb_i.astype(np.int32),
        first_p=pairs.first_p.astype(np.int32),
        second_p=pairs.second_p.astype(np.int32),
        shift_pc=pairs.shift_pc.astype(np.int32),
        h_values=symmetric[0].values,
        s_values=symmetric[1].values,
        kpoints_kc=kpoints,
        eigenvalues_kn=energies,
        details={"electrons": 12.0, "fermi_level": float(energies[:, 5:7].mean())},
    )


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("labels") / "labels.h5"
    with h5py.File(path, "w") as file:
        for name, bond in (("one", 4.0), ("two", 4.3), ("held-out", 4.15)):
            write_label(file, name, made_up_label(bond), {})
    return path


@pytest.fixture
def recipe(tmp_path: Path) -> TrainingRecipe:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return read_training_recipe(path)


def new_model(recipe: TrainingRecipe) -> Model:
    torch.manual_seed(0)
    return Model(
        "tiny",
        recipe.species,
        HamiltonianNetwork(recipe.network),
        orthonormal=recipe.orthonormal,
    )


def test_energy_zero_is_no_error(recipe: TrainingRecipe) -> None:
    one = training_structure("one", made_up_label(4.0), new_model(recipe))
    error, shift = aligned_error(0.3 * one.overlap, one.overlap, one.present)
    assert float(shift) == pytest.approx(-0.3, rel=1e-6)
    assert float(error.abs().max()) < 1e-6
    loss = HamiltonianLoss(band_weight=1.0, shift_weight=0.0)
    exact = loss(one.target, one, one.bands[:1])
    moved = loss(one.target + 0.2 * one.overlap, one, one.bands[:1])
    # Reached 2e-4 meV in single precision.
    assert abs(float(moved["mae"]) - float(exact["mae"])) < 1e-3


def test_error_between_states_is_that_of_energies(recipe: TrainingRecipe) -> None:
    label = made_up_label(4.0)
    one = training_structure("one", label, new_model(recipe))
    band = one.bands[0]
    torch.manual_seed(2)
    error = 1e-5 * torch.randn_like(one.target)
    error[one.natoms :] += error[one.natoms :][one.reverse].transpose(1, 2)
    error[: one.natoms] += error[: one.natoms].transpose(1, 2).clone()
    error = torch.where(one.present, error, torch.zeros_like(error))
    first_order = state_error(error, one, band).diagonal().real.numpy()
    label_operator, overlap = label_operators(label)
    changed = BlockOperator(
        label_operator.pairs, label_operator.norb_i, label_operator.values.copy()
    )
    _add_table(changed, error.double().numpy(), new_model(recipe))
    k_c = band.kpoint_c.double().numpy()
    exact = [
        scipy.linalg.eigvalsh(bloch_matrix(h, k_c), bloch_matrix(overlap, k_c))
        for h in (label_operator, changed)
    ]
    # Second order is left: reached 5e-7 of 5e-5 Hartree.
    assert np.abs(first_order).max() > 2e-5
    assert np.abs(exact[1] - exact[0] - first_order).max() < 2e-6


def _add_table(operator: BlockOperator, table: NDArray[np.float64], model: Model) -> None:
    """Add blocks in the network's order (on-site first) to an operator with the same pairs."""
    structure_of = structure(4.0)
    pairs = find_pairs(structure_of, model.basis.cutoff_i(structure_of))
    types = model.types_i(structure_of)
    for q, block in enumerate(table):
        if q < structure_of.natoms:
            wanted = onsite_pairs(np.array([q], dtype=np.int64))
        else:
            wanted = pairs.select(np.array([q - structure_of.natoms]))
        p = int(operator.pairs.position_of(wanted)[0])
        i, j = int(wanted.first_p[0]), int(wanted.second_p[0])
        a, b = types[i], types[j]
        left, right = np.linalg.inv(model.mixing[a]), np.linalg.inv(model.mixing[b]).T
        operator.block(p)[...] += left @ block[np.ix_(model.slots[a], model.slots[b])] @ right


def test_training_learns_and_holds_back(
    recipe: TrainingRecipe, labels: Path, tmp_path: Path
) -> None:
    optimizer = replace(recipe.optimizer, steps=60, validate_every=20, learning_rate=0.1)
    longer = replace(recipe, optimizer=optimizer)
    model = train(longer, labels, tmp_path / "run")
    rows = list(csv.DictReader((tmp_path / "run" / "curve.csv").open()))
    assert [int(row["step"]) for row in rows] == [20, 40, 60]
    # Random blocks hold little that symmetry lets a network learn; reached 0.981.
    assert float(rows[-1]["train_loss"]) < 0.99 * float(rows[0]["train_loss"])
    assert model.training["structures"] == 2
    assert model.training["held_out"] == ["held-out"]
    again = load_model(tmp_path / "run" / "model")
    assert again.training["steps"] in (20, 40, 60)


def test_continued_run_equals_an_uninterrupted_one(
    recipe: TrainingRecipe, labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(recipe, labels, tmp_path / "whole")

    class KilledError(Exception):
        pass

    save = train_module._Run._save

    def save_and_die(run: train_module._Run) -> None:
        save(run)
        if run.step == 3:
            raise KilledError

    monkeypatch.setattr(train_module._Run, "_save", save_and_die)
    with pytest.raises(KilledError):
        train(recipe, labels, tmp_path / "parts")
    monkeypatch.undo()
    parts = train(recipe, labels, tmp_path / "parts")
    one, other = whole.network.state_dict(), parts.network.state_dict()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_recipe_with_an_unknown_entry(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, "loss": {"no_such_weight": 1.0}}))
    with pytest.raises(InputError, match="no_such_weight"):
        read_training_recipe(path)
    with pytest.raises(InputError, match="not a training recipe"):
        read_training_recipe(tmp_path / "missing.yaml")


def test_shipped_recipe_is_valid() -> None:
    path = Path(train_module.__file__).parent / "recipes" / "tmd_train.yaml"
    assert read_training_recipe(path).network.num_types == 3
