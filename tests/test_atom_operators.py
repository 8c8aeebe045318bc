"""Hamiltonians of the operators of atoms: their matrices, labels between states, the fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
import yaml
from mpi4py import MPI
from network_models import small_operator_model
from operator_models import (
    OPERATOR_CONFIG,
    WIDTHS,
    all_pairs,
    operator_folder,
    operator_label,
    random_operators,
)
from training_models import SPECIES, STEP, config_of, structure

from hamgnn_solve.core.atom_operators import (
    add_kinetic,
    atom_functions,
    function_overlaps,
    operator_hamiltonian,
)
from hamgnn_solve.core.basis.gpaw_data import built_in_basis, read_species
from hamgnn_solve.core.domain import serial_domain
from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.integrals.overlap import overlap
from hamgnn_solve.core.model import Model, load_model, save_model
from hamgnn_solve.core.network.predict import predict
from hamgnn_solve.core.operator import BlockOperator, dense_matrix
from hamgnn_solve.core.pairs import find_pairs, join_pairs, onsite_pairs
from hamgnn_solve.core.structure import Structure
from hamgnn_solve.training import train as train_module
from hamgnn_solve.training.config import read_training_config
from hamgnn_solve.training.label_file import label_structure_of
from hamgnn_solve.training.operator_states import (
    StateLoss,
    fit_operators,
    operator_structure,
)
from hamgnn_solve.training.train import train


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return operator_folder(tmp_path_factory.mktemp("labels"))


def new_model(folder: Path) -> Model:
    return train_module._start_model(config_of(folder, **OPERATOR_CONFIG))


def test_functions_are_orthonormal() -> None:
    for symbol in ("H", "C", "Zn"):
        functions = atom_functions(read_species(symbol), WIDTHS)
        grid = functions.grid
        metric = (functions.transform_sk * (grid.weight_k * grid.momentum_k**2)) @ (
            functions.transform_sk.T
        )
        degrees = np.array(functions.shell_l)
        same = degrees[:, None] == degrees
        error = np.where(same, 2.0 / np.pi * metric - np.eye(len(degrees)), 0.0)
        # Reached 4e-11 of zinc, whose functions are nearest to dependent.
        assert np.abs(error).max() < 1e-9
        assert (np.diff(degrees) >= 0).all()


def test_matrix_is_that_of_the_formula() -> None:
    one, basis = structure(4.0), built_in_basis(SPECIES)
    rows = np.arange(one.natoms)
    operators = random_operators(one)
    h = operator_hamiltonian(one, basis, WIDTHS, all_pairs(one), operators, rows)
    kinetic = BlockOperator.zeros(h.pairs, h.norb_i)
    add_kinetic(kinetic, one, basis)
    overlaps = function_overlaps(one, basis, WIDTHS, rows)
    start = np.concatenate([[0], np.cumsum(h.norb_i)])
    for k_c in (np.zeros(3), np.array([0.21, -0.4, 0.0])):
        expected = dense_matrix(kinetic, k_c)
        for a, matrix in operators.items():
            wide = np.zeros((len(matrix), start[-1]), dtype=complex)
            for p in np.flatnonzero(overlaps.pairs.first_p == a):
                j = overlaps.pairs.second_p[p]
                phase = np.exp(2j * np.pi * overlaps.pairs.shift_pc[p] @ k_c)
                wide[:, start[j] : start[j + 1]] += phase * overlaps.blocks(np.array([p]))[0]
            expected += wide.conj().T @ matrix @ wide
        # What is left out couples by less than 1e-6; reached 4e-16 at Gamma.
        assert np.abs(dense_matrix(h, k_c) - expected).max() < 5e-6


def test_one_operator_missing_is_an_error() -> None:
    one, basis = structure(4.0), built_in_basis(SPECIES)
    with pytest.raises(ValueError, match="atom 1 has no operator"):
        operator_hamiltonian(
            one, basis, WIDTHS, all_pairs(one), {0: random_operators(one)[0]}, np.arange(2)
        )


def test_labels_of_the_same_operators_have_no_error(folder: Path) -> None:
    """What training compares is what prediction makes."""
    model, loss = new_model(folder), StateLoss()
    label = operator_label(4.0)
    one = operator_structure("one", label, model)
    n = model.network.table.norbitals
    operators = torch.zeros(2, n, n)
    for i, matrix in random_operators(label_structure_of(label)).items():
        slots = model.operator_slots[int(one.types[i])]
        operators[i][np.ix_(slots, slots)] = torch.from_numpy(matrix).float()
    for states in one.states:
        parts = loss(operators, states)
        # Single precision; reached 0.08 meV.
        assert float(parts["loss"]) < 0.3
        assert abs(float(parts["shift"])) < 0.3
        # A change of a thousandth of a Hartree is seen.
        changed = operators.clone()
        changed[1][:9, :9] += 1e-3 * torch.eye(9)
        assert float(loss(changed, states)["loss"]) > 0.5


def test_loss_is_free_of_the_zero_of_energy(folder: Path) -> None:
    model, loss = new_model(folder), StateLoss()
    one = operator_structure("one", operator_label(4.0), model)
    states = one.states[0]
    torch.manual_seed(1)
    operators = torch.randn(2, *model.network.onsite_reference.shape[1:])
    before = loss(operators, states)
    lifted = replace(states, rest_nn=states.rest_nn + 0.3 * torch.eye(len(states.energies_n)))
    after = loss(operators, lifted)
    assert float(after["loss"]) == pytest.approx(float(before["loss"]), rel=1e-5)
    assert float(before["shift"] - after["shift"]) == pytest.approx(0.3 * 27211.386, rel=1e-4)


def test_fit_finds_the_operators_again(folder: Path) -> None:
    model, loss = new_model(folder), StateLoss()
    structures = [operator_structure(str(b), operator_label(b), model) for b in (3.6, 4.0, 4.3)]
    fitted = fit_operators(model, structures, loss)
    errors = [float(loss(fitted[s.types], x)["loss"]) for s in structures for x in s.states]
    nothing = [
        float(loss(torch.zeros_like(fitted[s.types]), x)["loss"])
        for s in structures
        for x in s.states
    ]
    # The ridge leaves something: reached 0.6 of 1400 meV.
    assert max(errors) < 2e-3 * min(nothing)


def test_errors_of_operators_make_no_false_states() -> None:
    """Ethylene: the same error of blocks puts a state far below all others."""
    basis = built_in_basis({"C": "C", "H": "H"})
    positions = np.array([[0.0, 0.0, 1.26], [0.0, 0.0, -1.26]])
    hydrogens = np.array([[0.0, s * 1.75, t * 2.33] for s in (1, -1) for t in (1, -1)])
    one = Structure(
        ("C", "C", "H", "H", "H", "H"), np.concatenate([positions, hydrogens]), 30.0 * np.eye(3)
    )
    rows = np.arange(6)
    onsite = onsite_pairs(rows)
    pairs = join_pairs(one, onsite, find_pairs(one, basis.cutoff_i(one)))
    random = np.random.default_rng(4)
    operators = {}
    for i, symbol in enumerate(one.symbols):
        size = atom_functions(basis.species[symbol], WIDTHS).size
        matrix = random.normal(scale=0.02, size=(size, size))
        operators[i] = matrix + matrix.T
    nothing = {i: np.zeros_like(matrix) for i, matrix in operators.items()}
    s = dense_matrix(overlap(one, basis, rows), np.zeros(3)).real
    exact, wrong = (
        dense_matrix(operator_hamiltonian(one, basis, WIDTHS, pairs, x, rows), np.zeros(3)).real
        for x in (nothing, operators)
    )
    error = wrong - exact
    blocks = random.normal(scale=error.std() / np.sqrt(2), size=error.shape)
    blocks = blocks + blocks.T
    lowest = [scipy.linalg.eigvalsh(h, s)[0] for h in (exact, wrong, exact + blocks)]
    # The lowest is 0.113 Hartree; reached 0.120 by operators, -23.9 by blocks.
    assert lowest[1] > lowest[0] - 0.1
    assert lowest[2] < lowest[0] - 2.0


def test_saved_model_predicts_the_same(tmp_path: Path) -> None:
    model = small_operator_model()
    save_model(model, tmp_path)
    again = load_model(tmp_path)
    assert again.operator_widths == model.operator_widths
    domain = serial_domain(structure(4.0), model.basis)
    assert np.array_equal(predict(model, domain).values, predict(again, domain).values)


def test_training_learns(folder: Path, tmp_path: Path) -> None:
    steps = [{**STEP, "updates": 40, "validate_every": 20}]
    config = config_of(folder, **{**OPERATOR_CONFIG, "steps": steps})
    model = train(config, tmp_path / "run", MPI.COMM_SELF)
    rows = (tmp_path / "run" / "curve-1.csv").read_text().splitlines()
    assert len(rows) == 3
    label = operator_label(4.15)
    energies = [
        scipy.linalg.eigvalsh(dense_matrix(h, np.zeros(3)), dense_matrix(s, np.zeros(3)))
        for h, s in [
            (
                predict(model, serial_domain(structure(4.15), model.basis)),
                overlap(structure(4.15), model.basis, np.arange(2)),
            )
        ]
    ]
    difference = energies[0][:12] - label.eigenvalues_kn[0, :12]
    # The labels are made of operators of elements; reached 6e-5 Hartree.
    assert np.abs(difference - difference.mean()).max() < 1e-3


def test_continued_run_equals_an_uninterrupted_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(folder, **OPERATOR_CONFIG)
    whole = train(config, tmp_path / "whole", MPI.COMM_SELF)

    class KilledError(Exception):
        pass

    save = train_module._Run._save

    def save_and_die(run: train_module._Run) -> None:
        save(run)
        raise KilledError

    monkeypatch.setattr(train_module._Run, "_save", save_and_die)
    with pytest.raises(KilledError):
        train(config, tmp_path / "parts", MPI.COMM_SELF)
    monkeypatch.undo()
    parts = train(config, tmp_path / "parts", MPI.COMM_SELF)
    one, other = whole.network.state_dict(), parts.network.state_dict()
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert whole.energy_shift == parts.energy_shift


def test_training_goes_on_from_a_model(folder: Path, tmp_path: Path) -> None:
    first = train(config_of(folder, **OPERATOR_CONFIG), tmp_path / "first", MPI.COMM_SELF)
    entries = {
        k: v
        for k, v in OPERATOR_CONFIG.items()
        if k not in ("network", "species", "orthonormal", "operator_widths")
    }
    still = {**STEP, "updates": 1, "learning_rate": 1e-30, "ema_decay": 0.0}
    path = folder / "fine.yaml"
    start = str(tmp_path / "first" / "model")
    path.write_text(yaml.safe_dump({**entries, "start": start, "steps": [still]}))
    fine = train(read_training_config(path), tmp_path / "fine", MPI.COMM_SELF)
    one, other = first.network.state_dict(), fine.network.state_dict()
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert fine.operator_widths == WIDTHS


def test_losses_of_the_other_kind_are_refused(folder: Path, tmp_path: Path) -> None:
    config = config_of(
        folder, **{**OPERATOR_CONFIG, "steps": [{**STEP, "bands": {"weight": 0.01}}]}
    )
    with pytest.raises(InputError, match="leave loss and bands out"):
        train(config, tmp_path, MPI.COMM_SELF)
    config = config_of(folder, steps=[{**STEP, "states": {"width": 0.2}}])
    with pytest.raises(InputError, match="states are for"):
        train(config, tmp_path, MPI.COMM_SELF)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"operator_widths": None}, "onsite_only is for a network of operators"),
        ({"operator_widths": [0.5, -1.0]}, "must be positive"),
        ({"orthonormal": True}, "orthonormal: false"),
        ({"omitted": {"Mo": ["5s-sz"]}}, "all their shells"),
        ({"steps": [{**STEP, "states": {"width": 0.0}}]}, "width must be positive"),
        ({"steps": [{**STEP, "states": {"no_such": 0.0}}]}, "no_such"),
        ({"network": {**OPERATOR_CONFIG["network"], "onsite_only": False}}, "onsite_only: true"),
    ],
)
def test_faults_of_the_file_are_named(folder: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        config_of(folder, **{**OPERATOR_CONFIG, **changes})


def test_functions_that_reach_too_far_are_refused(folder: Path) -> None:
    model = replace(new_model(folder), operator_widths=(4.0, 1.0))
    with pytest.raises(InputError, match="reach"):
        operator_structure("one", operator_label(4.0), model)
