"""Errors of models whose error is known, the command, and the model card."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.linalg
import torch
import yaml
from given_models import random_overlap, symmetric
from numpy.typing import NDArray
from scipy.special import erfc

from hamgnn_solve.cli.tools import main
from hamgnn_solve.core.basis.openmx_table import published_species
from hamgnn_solve.core.domain import serial_domain
from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.model import Model, load_model, save_model
from hamgnn_solve.core.network.build import build_network
from hamgnn_solve.core.network.config import NetworkConfig
from hamgnn_solve.core.network.predict import predict
from hamgnn_solve.core.observables.density_of_states import dos_overlap, energy_grid, gaussian_dos
from hamgnn_solve.core.operator import BlockOperator, dense_matrix
from hamgnn_solve.core.structure import Structure
from hamgnn_solve.core.units import EV_PER_HARTREE
from hamgnn_solve.training.comparison import compare
from hamgnn_solve.training.evaluate import (
    EnergyRanges,
    _fermi_level,
    error_table,
    evaluate,
    summary,
)
from hamgnn_solve.training.label_file import Label, write_label
from hamgnn_solve.training.model_card import model_card

IRREPS = "4x0e+2x1o+1x1e+2x2e+1x2o+1x3o+1x3e+1x4e"
SPECIES = {"Mo": "Mo.6", "S": "S"}
POSITIONS = np.array([[1.0, 1.0, 9.0], [5.0, 2.0, 10.5]])
KPOINTS = np.array([[0.0, 0.0, 0.0], [0.3, 0.1, 0.0]])
ELECTRONS = 12.0
MEV = 1000.0 * EV_PER_HARTREE


def network_of(**settings: object) -> torch.nn.Module:
    torch.manual_seed(0)
    base = {
        "irreps": IRREPS, "layers": 1, "cutoff": 13.0, "num_radial": 4, "invariant_layers": 1,
        "invariant_neurons": 8, "lmax": 4,
    }  # fmt: skip
    return build_network(NetworkConfig(**{**base, **settings}))


@pytest.fixture(scope="module")
def model() -> Model:
    network = network_of(shells=(2, 2, 2), num_types=2, symmetrize=True)
    return Model("tiny", SPECIES, network, orthonormal=True)


@pytest.fixture(scope="module")
def openmx_model() -> Model:
    species = published_species(14)
    chosen = {symbol: species[symbol] for symbol in ("C", "H")}
    return Model("omx", chosen, network_of(shells=(3, 2, 1), num_types=20, add_h0=True))


def slab() -> Structure:
    return Structure(("Mo", "S"), POSITIONS, np.diag([16.0, 16.0, 30.0]))


def prediction(model: Model, structure: Structure) -> BlockOperator:
    return predict(model, serial_domain(structure, model.basis))


def orbitals_of(model: Model) -> dict[str, str]:
    return {symbol: getattr(x, "name", x) for symbol, x in model.species.items()}


def label_of(
    model: Model,
    structure: Structure,
    hamiltonian: BlockOperator,
    overlap: BlockOperator,
    *,
    periodic: tuple[bool, bool, bool] = (True, True, False),
    electrons: float = ELECTRONS,
    zero: NDArray[np.float64] | None = None,
) -> Label:
    kpoints_kc = KPOINTS if any(periodic) else KPOINTS[:1]
    energies_kn = np.array(
        [
            scipy.linalg.eigvalsh(dense_matrix(hamiltonian, k), dense_matrix(overlap, k))
            for k in kpoints_kc
        ]
    )
    filled = int(electrons / 2)
    pairs = hamiltonian.pairs
    return Label(
        symbols=structure.symbols,
        positions_ic=structure.pos_ic,
        cell_cc=structure.cell_cc,
        periodic_c=np.array(periodic),
        norb_i=hamiltonian.norb_i.astype(np.int32),
        first_p=pairs.first_p.astype(np.int32),
        second_p=pairs.second_p.astype(np.int32),
        shift_pc=pairs.shift_pc.astype(np.int32),
        h_values=hamiltonian.values,
        s_values=overlap.values,
        kpoints_kc=kpoints_kc,
        eigenvalues_kn=energies_kn,
        details={
            "electrons": electrons,
            "fermi_level": float(energies_kn[:, filled - 1 : filled + 1].mean()),
        },
        basis="openmx" if model.openmx_species else "gpaw-data",
        species=orbitals_of(model),
        h0_values=zero,
    )  # fmt: skip


def moved(operator: BlockOperator, by: NDArray[np.float64]) -> BlockOperator:
    return replace(operator, values=operator.values + by)


def overlap_for(operator: BlockOperator) -> BlockOperator:
    return random_overlap(operator.pairs, operator.norb_i, 5)


def label_moved_by(model: Model, shift: float, cell: float = 16.0, **settings: object) -> Label:
    """Return the label that the model predicts exactly, but for prediction = label - shift S."""
    structure = replace(slab(), cell_cc=np.diag([cell, cell, 30.0]))
    predicted = prediction(model, structure)
    overlap = overlap_for(predicted)
    hamiltonian = moved(predicted, shift * overlap.values)
    return label_of(model, structure, hamiltonian, overlap, **settings)


def test_perfect_model_is_perfect(model: Model) -> None:
    label = label_moved_by(model, 0.02)
    errors = evaluate(replace(model, energy_shift=0.02), "one", label)
    assert all(total < 1e-9 for total, _ in errors.sums.values())
    assert abs(errors.gap_error) < 1e-9
    assert max(abs(errors.valence_edge), abs(errors.conduction_edge)) < 1e-9
    assert max(errors.window, abs(errors.lowest)) < 1e-9
    assert errors.dos_overlap == pytest.approx(1.0, abs=1e-9)


def test_constant_in_the_potential_is_no_error_but_shows(model: Model) -> None:
    shift = 0.02
    errors = evaluate(model, "one", label_moved_by(model, shift))
    assert errors.shift == pytest.approx(EV_PER_HARTREE * shift, rel=1e-9)
    assert all(total < 1e-9 for total, _ in errors.sums.values())
    assert max(errors.window, abs(errors.lowest), abs(errors.gap_error)) < 1e-9
    # Without the shift every energy is too low by just that.
    assert errors.valence_edge == pytest.approx(-EV_PER_HARTREE * shift, rel=1e-9)
    assert errors.dos_overlap == pytest.approx(1.0, abs=1e-9)


def test_errors_are_those_put_into_the_blocks(model: Model) -> None:
    predicted = prediction(model, slab())
    overlap = overlap_for(predicted)
    error = symmetric(predicted.pairs, predicted.norb_i, 3).values
    # Without its part along S no constant makes the error smaller.
    error = 1e-5 * (error - overlap.values * (overlap.values @ error) / (overlap.values**2).sum())
    label = label_of(model, slab(), moved(predicted, -error), overlap)
    errors = evaluate(model, "one", label)
    assert abs(errors.shift) < 1e-12
    expected: dict[str, list[float]] = {}
    for p in range(len(predicted.pairs)):
        i, j = predicted.pairs.first_p[p], predicted.pairs.second_p[p]
        same = predicted.pairs.distance_p[p] == 0
        names = sorted(label.symbols[x] for x in (i, j))
        block = np.abs(error[predicted.offset_p[p] : predicted.offset_p[p + 1]]).tolist()
        for key in ("all", f"onsite {names[0]}" if same else "-".join(names)):
            expected[key] = expected.get(key, []) + block
    assert {"onsite Mo", "onsite S", "Mo-S"} < set(expected)
    for key, values in expected.items():
        assert errors.sums[key][1] == len(values)
        assert errors.sums[key][0] == pytest.approx(MEV * sum(values), rel=1e-9)
    # First order perturbation theory at Gamma; second order is left. Reached 6e-8 of 1.2e-5 eV.
    h, s, dh = (
        dense_matrix(x, KPOINTS[0]) for x in (moved(predicted, -error), overlap,
                                              replace(predicted, values=error))
    )  # fmt: skip
    _, states = scipy.linalg.eigh(h, s)
    first_order = EV_PER_HARTREE * float((states[:, 0].conj() @ dh @ states[:, 0]).real)
    comparison = compare(model, "one", label)
    change = comparison.predicted_energies(KPOINTS[:1]) - comparison.label_energies(KPOINTS[:1])
    assert EV_PER_HARTREE * change[0, 0] == pytest.approx(first_order, rel=0.02)
    assert abs(first_order) > 1e-5
    assert 0.5 < errors.dos_overlap < 1.0


def test_overlap_of_densities_of_states() -> None:
    energies_e = energy_grid(-3.0, 3.0, 0.002)
    weights = np.ones(1)

    def dos(*levels: float) -> object:
        return gaussian_dos(np.array([levels]), weights, energies_e, 0.05)

    assert dos_overlap(dos(0.0, 1.0), dos(0.0, 1.0)) == 1.0
    assert dos_overlap(dos(-1.0), dos(1.0)) < 1e-12
    # One level of three is common.
    assert dos_overlap(dos(-1.0, 0.0), dos(-1.0, 1.0)) == pytest.approx(1 / 3, abs=1e-6)
    # Two Gaussians d apart have the area erfc(d / (2 sqrt(2) sigma)) in common; where they cross,
    # the integrand has a kink. Reached 5e-5.
    common = erfc(0.04 / (2 * np.sqrt(2) * 0.05))
    assert dos_overlap(dos(0.0), dos(0.04)) == pytest.approx(common / (2 - common), abs=1e-4)
    assert np.isnan(dos_overlap(dos(100.0), dos(100.0)))
    with pytest.raises(ValueError, match="different energies"):
        dos_overlap(dos(0.0), gaussian_dos(np.zeros((1, 1)), weights, energies_e + 0.1, 0.05))


def test_molecule_is_compared_around_its_gap_and_without_images(model: Model) -> None:
    predicted = prediction(model, slab())
    overlap = overlap_for(predicted)
    open_axes = (False, False, False)
    inside = np.flatnonzero((predicted.pairs.shift_pc == 0).all(axis=1))
    hamiltonian, overlap = (
        moved(predicted, 0.01 * overlap.values).select(inside),
        overlap.select(inside),
    )
    # Far apart, HOMO and LUMO leave nothing near the Fermi level between them.
    wide = label_of(model, slab(), hamiltonian, overlap, periodic=open_axes, electrons=12.0)
    levels = wide.eigenvalues_kn.copy()
    levels[:, 6:] += 1.0
    details = {**wide.details, "fermi_level": 0.5 * float(levels[0, 5] + levels[0, 6])}
    wide = replace(wide, eigenvalues_kn=levels, details=details)
    errors = evaluate(model, "molecule", wide, EnergyRanges(window=1e-6))
    # From the middle of each gap HOMO and LUMO are off by half of what was added: both count.
    assert errors.window == pytest.approx(EV_PER_HARTREE * 0.5, rel=1e-6)
    near = replace(wide, cell_cc=np.diag([8.0, 8.0, 8.0]))
    assert np.array_equal(
        compare(model, "one", near).predicted.values, compare(model, "one", wide).predicted.values
    )
    assert len(compare(model, "one", near).path().kpoints_kc) == 1


def test_metals_have_no_band_edges(model: Model) -> None:
    label = label_moved_by(model, 0.0)
    overlapping = label.eigenvalues_kn.copy()
    overlapping[1] += overlapping[0, 6] - overlapping[1, 5] + 0.03
    metal = replace(label, eigenvalues_kn=overlapping)
    errors = [evaluate(model, "metal", metal), evaluate(model, "insulator", label)]
    # All of the first empty band at Gamma lies 0.03 Hartree below the last filled one elsewhere.
    assert errors[0].label_gap == pytest.approx(-0.03 * EV_PER_HARTREE, rel=1e-9)
    assert np.isnan(errors[0].valence_edge)
    assert summary(errors[:1])["band_edge_mae_eV"] is None
    assert summary(errors)["band_edge_mae_eV"] == summary(errors[1:])["band_edge_mae_eV"]
    odd = replace(label, details={**label.details, "electrons": 11.0})
    half_filled = evaluate(model, "odd", odd)
    assert np.isnan(half_filled.gap)
    assert summary([half_filled])["gap_mae_eV"] is None
    assert " - " in error_table([half_filled])


def test_energies_count_from_the_middle_of_the_gap() -> None:
    energies_kn = np.array([[-2.0, -1.0, 1.0, 4.0], [-3.0, -1.5, 2.0, 3.0]])
    assert _fermi_level(energies_kn, 2.0) == pytest.approx(0.0)
    # Metals: the fourth energy at the first k-point lies below the third at the second.
    energies_kn[0, 3] = 1.5
    assert _fermi_level(energies_kn, 3.0) == pytest.approx(1.75)
    # Half a level filled at each k-point is one filled level of two; at one k-point it is half.
    assert _fermi_level(energies_kn, 2.5) == pytest.approx(1.25)
    assert _fermi_level(energies_kn[:1], 2.5) == 1.0


def test_label_in_the_orbitals_of_openmx(openmx_model: Model) -> None:
    """The network predicts H - H0, so H is what it predicts plus the H0 of the label."""
    molecule = Structure(("C", "H"), np.array([[5.0, 5.0, 5.0], [7.1, 5.0, 5.0]]), 30 * np.eye(3))
    predicted = prediction(openmx_model, molecule)
    overlap = overlap_for(predicted)
    zero = symmetric(predicted.pairs, predicted.norb_i, 11).values
    label = label_of(
        openmx_model, molecule, moved(predicted, zero + 0.03 * overlap.values), overlap,
        periodic=(False, False, False), electrons=5.0, zero=zero,
    )  # fmt: skip
    errors = evaluate(openmx_model, "CH", label)
    assert np.abs(zero).max() > 0.1
    assert all(total < 1e-9 for total, _ in errors.sums.values())
    assert errors.shift == pytest.approx(0.03 * EV_PER_HARTREE, rel=1e-9)
    with pytest.raises(InputError, match="holds no H0"):
        evaluate(openmx_model, "CH", replace(label, h0_values=None))
    with pytest.raises(InputError, match=r"C6\.0-s3p2d1"):
        evaluate(openmx_model, "CH", replace(label, species={"C": "C6.0-s3p2d1"}))


def test_labels_of_another_basis_are_refused(model: Model) -> None:
    label = label_moved_by(model, 0.0)
    with pytest.raises(InputError, match="basis openmx"):
        evaluate(model, "one", replace(label, basis="openmx"))


def test_ranges_are_positive() -> None:
    with pytest.raises(InputError, match="positive"):
        EnergyRanges(window=0.0)


@pytest.fixture
def folder(model: Model, tmp_path: Path) -> Path:
    """A folder with a model, and with labels of a slab and of a molecule."""
    save_model(model, tmp_path / "model")
    slab_label = label_moved_by(model, 0.001)
    with h5py.File(tmp_path / "labels.h5", "w") as file:
        write_label(file, "slab", slab_label, {})
        molecule = label_moved_by(model, 0.001, 40.0, periodic=(False, False, False))
        write_label(file, "molecule", molecule, {})
    return tmp_path


def test_command_draws_bands(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["evaluate", str(folder / "model"), str(folder / "labels.h5")]
    assert main([*command, "--out", str(folder / "figures")]) == 0
    names = {path.name for path in (folder / "figures").iterdir()}
    assert names == {"slab.png", "slab.svg", "molecule.png", "molecule.svg"}
    assert "stroke-dasharray" in (folder / "figures" / "slab.svg").read_text()
    printed = capsys.readouterr().out
    averages = yaml.safe_load(printed.split("\n\n")[1])
    assert averages["structures"] == ["molecule", "slab"]
    assert averages["dos_overlap"] == 1.0


def test_record_and_card_agree(folder: Path) -> None:
    weights = (folder / "model" / "weights.safetensors").read_bytes()
    command = ["evaluate", str(folder / "model"), str(folder / "labels.h5")]
    assert main([*command, "--names", "slab", "--record", "held out"]) == 0
    recorded = load_model(folder / "model")
    entry = recorded.errors["held out"]
    assert entry["structures"] == ["slab"]
    assert entry["command"].startswith("hamgnn-tools evaluate model labels.h5 ")
    assert entry["command"].endswith("--names slab")
    assert (folder / "model" / "weights.safetensors").read_bytes() == weights
    card = (folder / "model" / "MODEL.md").read_text()
    assert card == model_card(recorded)
    assert entry["command"] in card
    assert f"| held out | 1 | {entry['hamiltonian_mae_meV']['all']:g} |" in card
    for name in SPECIES.values():
        assert f"`{name}`" in card
    assert "False states" not in card
    wrong = {"held out": {**entry, "lowest_energy_error_eV": -3.0}}
    assert "3 eV too low" in model_card(replace(recorded, errors=wrong))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["model", "labels.h5", "--names", "slab", "none"], "has no label none"),
        (["model", "absent.h5"], "cannot be read as a label file"),
        (["model", "empty.h5"], "holds no labels"),
        (["model", "other.h5"], "is no label"),
        (["model", "labels.h5", "--window", "-1"], "positive"),
    ],
)
def test_faults_are_told_in_one_sentence(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    h5py.File(folder / "empty.h5", "w").close()
    with h5py.File(folder / "other.h5", "w") as file:
        file.create_group("something")
    paths = [str(folder / x) for x in arguments[:2]]
    assert main(["evaluate", *paths, *arguments[2:]]) == 2
    assert says in capsys.readouterr().err


def test_built_in_model_takes_no_record(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "tmd", str(folder / "labels.h5"), "--record", "x"]) == 2
    assert "give its path" in capsys.readouterr().err
