"""Atoms outside the training set: the distances, the file, and what the built-in model says."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from ase import Atoms
from conftest import shared_path
from network_models import crystal, small_model, small_model_of_version_2

from hamgnn_solve.cli.tools import main
from hamgnn_solve.core.domain import serial_domain
from hamgnn_solve.core.environments import (
    ElementEnvironments,
    Environments,
    unfamiliar_atoms,
    unfamiliar_text,
    whitening,
)
from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.io.structure import read_structure
from hamgnn_solve.core.model import Model, load_model, save_model
from hamgnn_solve.core.model_selection import built_in_model
from hamgnn_solve.core.network.predict import predict_invariants
from hamgnn_solve.core.structure import Structure
from hamgnn_solve.core.units import ANGSTROM_PER_BOHR
from hamgnn_solve.training.environments import read_training_structures, record_environments
from hamgnn_solve.training.recipe import SlabEntry, build_slab

RECIPE = Path(__file__).parent.parent / "training" / "recipes" / "tmd.yaml"


@pytest.fixture(scope="module")
def tmd() -> Model:
    return built_in_model("tmd")


def structure_of(atoms: Atoms) -> Structure:
    return Structure(
        tuple(atoms.get_chemical_symbols()),
        atoms.positions / ANGSTROM_PER_BOHR,
        np.array(atoms.cell) / ANGSTROM_PER_BOHR,
    )


def distances(model: Model, structure: Structure) -> np.ndarray:
    assert model.environments is not None
    invariants_if = predict_invariants(model, serial_domain(structure, model.basis))
    return model.environments.relative_distances(structure.symbols, invariants_if)


def sheet(repeat: int = 1) -> Atoms:
    return build_slab(SlabEntry("mos2", ("MoS2",))).repeat((repeat, repeat, 1))


def test_distance_is_that_of_the_floored_covariance() -> None:
    """Against d^2 = (x - y) C^-1 (x - y) with the inverse of the whole matrix."""
    random = np.random.default_rng(5)
    mixing = np.linalg.qr(random.normal(size=(6, 6)))[0]
    atoms_af = random.normal(size=(40, 6)) * np.array([3.0, 1.0, 0.5, 0, 0, 0]) @ mixing + 2.0
    points_if = atoms_af[:9] + random.normal(size=(9, 6))
    centre_f, axes_fq, deviation_q, floor = whitening(atoms_af)
    assert len(deviation_q) == 3
    plain = ElementEnvironments(centre_f, axes_fq, deviation_q, floor, np.zeros((1, 3)), 1.0)
    known = replace(plain, atoms_aq=plain.whitened(atoms_af)[0])
    variance_f, vectors_ff = np.linalg.eigh(np.cov(atoms_af.T, bias=True))
    variance_f = np.maximum(variance_f, 1e-4 * variance_f.max())
    inverse_ff = vectors_ff / variance_f @ vectors_ff.T
    step_iaf = points_if[:, None] - atoms_af
    square_ia = np.einsum("iaf,fg,iag->ia", step_iaf, inverse_ff, step_iaf)
    expected = np.sqrt(square_ia.min(axis=1))
    # Reached 3e-15.
    assert np.abs(known.distances(points_if) / expected - 1.0).max() < 1e-10
    assert np.abs(known.distances(atoms_af)).max() < 1e-6


def test_equal_atoms_leave_no_axis() -> None:
    centre_f, axes_fq, deviation_q, floor = whitening(np.ones((4, 3)))
    known = ElementEnvironments(centre_f, axes_fq, deviation_q, floor, np.zeros((1, 0)), 1.0)
    assert known.distances(np.ones((2, 3))).tolist() == [0.0, 0.0]
    # Beyond the rounding of a network.
    assert known.distances(np.full((1, 3), 1.01))[0] > 100


def test_threshold_leaves_one_structure_out() -> None:
    model = small_model()
    slabs = {
        f"{n}": structure_of(build_slab(SlabEntry("x", ("MoS2",), rattle=0.05 * n, seed=n)))
        for n in range(1, 5)
    }
    recorded = record_environments(model, slabs).environments
    assert recorded is not None
    parts = [
        predict_invariants(model, serial_domain(x, model.basis))[1:].astype(float)
        for x in slabs.values()
    ]
    known = recorded.elements["S"]
    coordinates = [known.whitened(part) for part in parts]
    found = []
    for n, (along, beside) in enumerate(coordinates):
        others = [x for m, (part, _) in enumerate(coordinates) if m != n for x in part]
        for point, length in zip(along, beside, strict=True):
            nearest = min(math.dist(point, other) for other in others)
            found.append(math.hypot(nearest, length))
    assert known.threshold == pytest.approx(max(np.quantile(found, 0.99), 1.0), rel=1e-6)
    assert sorted(recorded.elements) == ["Mo", "S"]


def test_training_structures_are_known(tmd: Model) -> None:
    structures = read_training_structures([RECIPE])
    seen = [x for n, x in structures.items() if n not in tmd.training["held_out"]][::8]
    assert len(seen) == 10
    # Reached 0.65 over all 77; not 0, because small components are not kept.
    assert max(distances(tmd, x).max() for x in seen) < 0.8


def test_held_out_structures_with_large_errors_are_told(tmd: Model) -> None:
    """The two held-out cells whose on-site blocks err by more than 7 meV (docs/models.md)."""
    structures = read_training_structures([RECIPE])
    reached = {n: distances(tmd, structures[n]).max() for n in tmd.training["held_out"]}
    assert min(reached["mows-rattled-3"], reached["mows-rectangular-3"]) > 3.0
    assert max(reached["mows-H-r1"], reached["ws2-rattled-4"]) < 1.0


@pytest.mark.parametrize("name", ["1_2", "2_3"])
def test_twisted_cells_are_known(tmd: Model, name: str) -> None:
    structure = read_structure(shared_path(f"structures/twisted_mos2_ws2_{name}.cif"))
    # Reached 0.32 and 0.34: none of 42 and of 114 atoms is listed.
    assert distances(tmd, structure).max() < 0.5


def vacancy() -> Atoms:
    atoms = sheet(4)
    del atoms[next(i for i, atom in enumerate(atoms) if atom.symbol == "S")]
    return atoms


def alloy() -> Atoms:
    atoms = sheet(2)
    for i in [i for i, atom in enumerate(atoms) if atom.symbol == "Mo"][:2]:
        atoms[i].symbol = "W"
    return atoms


def octahedral() -> Atoms:
    atoms = sheet()
    lower = int(atoms.positions[:, 2].argmin())
    fractional = atoms.get_scaled_positions()
    fractional[lower, :2] = (0.0, 0.0)
    atoms.set_scaled_positions(fractional)
    return atoms


def compressed() -> Atoms:
    atoms = sheet()
    cell = np.array(atoms.cell)
    cell[:2] *= 0.9
    atoms.set_cell(cell, scale_atoms=True)
    return atoms


@pytest.mark.parametrize(
    ("atoms", "listed", "largest"),
    [
        (vacancy(), 4, 2.4),  # the three Mo beside the vacancy, and the S below it
        (alloy(), 12, 7.5),
        (octahedral(), 3, 19.8),
        (compressed(), 3, 14.8),
    ],
    ids=["S vacancy", "alloy", "1T", "compressed by 10 %"],
)
def test_what_was_never_seen_is_listed(
    tmd: Model, atoms: Atoms, listed: int, largest: float
) -> None:
    relative_i = distances(tmd, structure_of(atoms))
    assert (relative_i > 1.0).sum() == listed
    assert relative_i.max() == pytest.approx(largest, rel=0.02)


def test_atoms_beside_a_vacancy_are_the_ones(tmd: Model) -> None:
    whole = sheet(4)
    missing = whole.positions[next(i for i, atom in enumerate(whole) if atom.symbol == "S")]
    atoms = vacancy()
    atoms.append("S")
    atoms.positions[-1] = missing
    apart_i = atoms.get_distances(-1, range(len(atoms) - 1), mic=True)
    nearest = set(np.argsort(apart_i)[:4].tolist())
    listed = np.flatnonzero(distances(tmd, structure_of(vacancy())) > 1.0)
    # Three Mo at 2.41 and the other S of the column at 3.13 Angstrom.
    assert set(listed.tolist()) == nearest


def test_no_dependence_on_frame_or_order(tmd: Model) -> None:
    structure = structure_of(alloy())
    here = distances(tmd, structure)
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    order = np.random.default_rng(2).permutation(structure.natoms)
    moved = Structure(
        tuple(structure.symbols[i] for i in order),
        (structure.pos_ic[order] + [1.0, -2.0, 0.5]) @ turn,
        structure.cell_cc @ turn,
    )
    # Reached 7e-6 of distances up to 7.5: single precision.
    assert np.abs(distances(tmd, moved) - here[order]).max() < 5e-5


@pytest.mark.parametrize("build", [small_model, small_model_of_version_2])
@pytest.mark.parametrize("inverted", [1.0, -1.0])
def test_invariants_of_both_networks(build: Callable[[], Model], inverted: float) -> None:
    model = build()
    structure = crystal()
    turn, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    turned = inverted * np.linalg.det(turn) * turn
    other = Structure(structure.symbols, structure.pos_ic @ turned, structure.cell_cc @ turned)
    here = predict_invariants(model, serial_domain(structure, model.basis))
    there = predict_invariants(model, serial_domain(other, model.basis))
    assert here.shape == (4, 19)
    # Reached 4e-8.
    assert np.abs(here - there).max() < 1e-6 * np.abs(here).max()
    assert np.abs(here[1] - here[3]).max() > 1e-3 * np.abs(here).max()


def test_folder_keeps_them(tmp_path: Path, tmd: Model) -> None:
    save_model(tmd, tmp_path)
    again = load_model(tmp_path)
    structure = structure_of(octahedral())
    assert np.array_equal(distances(again, structure), distances(tmd, structure))
    file = tmp_path / "environments.safetensors"
    assert file.stat().st_size < 300_000
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(InputError, match=r"environments.safetensors.*checksum"):
        load_model(tmp_path)
    # A model without them leaves no file of another.
    save_model(replace(tmd, environments=None), tmp_path)
    assert not file.exists()
    assert load_model(tmp_path).environments is None


def test_environments_of_another_network(tmd: Model) -> None:
    with pytest.raises(ValueError, match="environments of 128 invariants for a network of 19"):
        replace(small_model(), environments=tmd.environments)


def test_command_leaves_out_what_was_held_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slabs = [{"name": f"s{n}", "layers": ["MoS2"], "rattle": 0.03, "seed": n} for n in range(4)]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"structures": slabs}))
    folder = tmp_path / "model"
    save_model(replace(small_model(), training={"held_out": ["s3"]}), folder)
    assert main(["model", "environments", str(folder), str(recipe)]) == 0
    assert "3 structures recorded" in (printed := capsys.readouterr().out)
    assert "1 held out" in printed
    recorded = load_model(folder).environments
    assert recorded is not None
    assert len(recorded.elements["S"].atoms_aq) == 6
    assert main(["model", "environments", str(folder), str(recipe), str(recipe)]) == 2
    assert "has the structure s0, which another file has too" in capsys.readouterr().err


def test_one_structure_tells_no_threshold() -> None:
    with pytest.raises(InputError, match="Mo occurs in one training structure alone"):
        record_environments(small_model(), {"one": structure_of(sheet())})


def test_what_is_said() -> None:
    symbols = ("Mo", "S", "S")
    assert unfamiliar_text(symbols, None) == "not recorded by this model"
    assert unfamiliar_text(symbols, np.array([0.2, 1.0, 0.0])) == "all known"
    assert unfamiliar_text(symbols, np.array([1.5, 0.3, 2.25])) == (
        "2 of 3 atoms outside the training set: S 3, Mo 1 "
        "(largest distance 2.2 times the threshold)"
    )
    untrained = np.array([np.inf, 0.3, 2.0])
    assert unfamiliar_text(symbols, untrained).endswith(
        "Mo 1, S 3 (largest distance 2.0 times the threshold; no Mo in the training set)"
    )
    assert unfamiliar_atoms(symbols, untrained) == [
        {"atom": 1, "element": "Mo", "distance": None},
        {"atom": 3, "element": "S", "distance": 2.0},
    ]


def test_element_without_training_atoms(tmd: Model) -> None:
    assert tmd.environments is not None
    without_w = Environments({k: x for k, x in tmd.environments.elements.items() if k != "W"})
    relative_i = distances(replace(tmd, environments=without_w), structure_of(alloy()))
    symbols = alloy().get_chemical_symbols()
    assert np.isinf(relative_i).tolist() == [symbol == "W" for symbol in symbols]
