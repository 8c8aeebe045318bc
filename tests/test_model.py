"""Model folders: what is written is read, and every fault is told in one sentence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from hamgnn_solve.core.basis.openmx_table import OpenMXSpecies
from hamgnn_solve.core.domain import serial_domain
from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.model import Model, load_model, save_model
from hamgnn_solve.core.model_selection import built_in_model
from hamgnn_solve.core.network.config import NetworkConfig
from hamgnn_solve.core.network.hamgnn import HamiltonianNetwork
from hamgnn_solve.core.network.predict import predict
from hamgnn_solve.core.structure import Structure


def tiny_model() -> Model:
    torch.manual_seed(1)
    config = NetworkConfig(
        irreps="2x0e+2x1o+1x1e+2x2e+1x2o+1x3o+1x3e+1x4e",
        shells=(2, 2, 2),
        layers=1,
        cutoff=22.0,
        num_radial=4,
        invariant_layers=1,
        invariant_neurons=4,
        num_types=2,
        lmax=4,
    )
    return Model(
        "tiny", {"Mo": "Mo.6", "S": "S"}, HamiltonianNetwork(config), 0.01, True, {"steps": 1}
    )


def molecule(*symbols: str) -> Structure:
    positions = np.array([[4.0 * i, 0.5 * i, 0.0] for i in range(len(symbols))])
    return Structure(symbols, positions, 40.0 * np.eye(3))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tiny_model(), tmp_path / "model")
    return tmp_path / "model"


def test_saved_model_predicts_the_same(folder: Path) -> None:
    model, again = tiny_model(), load_model(folder)
    assert (again.name, again.species, again.energy_shift) == ("tiny", model.species, 0.01)
    assert again.orthonormal
    assert again.training == {"steps": 1}
    domain = serial_domain(molecule("Mo", "S"), model.basis)
    assert np.array_equal(predict(model, domain).values, predict(again, domain).values)


def openmx_model() -> Model:
    config = replace(tiny_model().network.config, shells=(2, 2, 1), num_types=17, add_h0=True)
    species = {
        "S": OpenMXSpecies("S", "S7.0-s2p2d1", "S_PBE19", 6),
        "H": OpenMXSpecies("H", "H6.0-s2p1", "H_PBE19", 1),
    }
    return Model("openmx", species, HamiltonianNetwork(config))


def test_openmx_model_keeps_its_labels(tmp_path: Path) -> None:
    model = openmx_model()
    save_model(model, tmp_path)
    again = load_model(tmp_path)
    assert again.species == model.species
    assert again.type_of == {"S": 16, "H": 1}
    assert again.types_i(molecule("H", "S", "H")).tolist() == [1, 16, 1]
    assert [len(slots) for slots in again.slots] == [0, 5, *[0] * 14, 13]
    assert [len(mixing) for mixing in again.mixing] == [0, 5, *[0] * 14, 13]
    assert again.basis.electrons(molecule("H", "S", "H")) == 8


def test_openmx_element_without_a_type() -> None:
    network = openmx_model().network
    with pytest.raises(ValueError, match="no place as Cl in 17 types"):
        Model("x", {"Cl": OpenMXSpecies("Cl", "Cl7.0-s2p2d1", "Cl_PBE19", 7)}, network)
    with pytest.raises(ValueError, match="no place as H"):
        Model("x", {"H": OpenMXSpecies("S", "S7.0-s2p2d1", "S_PBE19", 6)}, network)


@pytest.mark.parametrize(
    ("source", "entry", "words"),
    [
        ("openmx", {"orbitals": "S7", "pseudopotential": "S", "valence": 6}, "not the label"),
        ("openmx", {"orbitals": "S7.0-s2p2d1", "valence": 6}, "pseudopotential"),
        ("openmx", "S7.0-s2p2d1", "does not describe a model"),
        ("siesta", "S", "asks for the basis siesta"),
    ],
)
def test_damaged_basis(tmp_path: Path, source: str, entry: object, words: str) -> None:
    save_model(openmx_model(), tmp_path)
    content = yaml.safe_load((tmp_path / "model.yaml").read_text())["basis"]
    edit(tmp_path, basis={**content, "source": source, "species": {"S": entry}})
    with pytest.raises(InputError, match=words):
        load_model(tmp_path)


def test_model_without_the_element(folder: Path) -> None:
    model = load_model(folder)
    model.check_covers(molecule("S", "Mo", "S"))
    with pytest.raises(InputError, match="knows Mo, S but not Se, W"):
        model.check_covers(molecule("W", "Se", "S"))


def edit(folder: Path, **changes: object) -> None:
    path = folder / "model.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        load_model(tmp_path / "nothing")


def test_description_is_not_yaml(folder: Path) -> None:
    (folder / "model.yaml").write_text("a: [1, 2")
    with pytest.raises(InputError, match="not valid YAML"):
        load_model(folder)


def test_description_is_empty(folder: Path) -> None:
    (folder / "model.yaml").write_text("")
    with pytest.raises(InputError, match="does not describe a model"):
        load_model(folder)


def test_description_lacks_an_entry(folder: Path) -> None:
    path = folder / "model.yaml"
    content = yaml.safe_load(path.read_text())
    del content["network"]["layers"]
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match="layers"):
        load_model(folder)


def test_format_of_another_version(folder: Path) -> None:
    edit(folder, format=99)
    with pytest.raises(InputError, match="format 99"):
        load_model(folder)


def test_missing_weights(folder: Path) -> None:
    (folder / "weights.safetensors").unlink()
    with pytest.raises(InputError, match="cannot be read"):
        load_model(folder)


@pytest.mark.parametrize("kept", [0, 100, -1])
def test_truncated_weights(folder: Path, kept: int) -> None:
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match="damaged or belong to another model"):
        load_model(folder)


def test_weights_of_another_kind(folder: Path) -> None:
    import hashlib

    (folder / "weights.safetensors").write_bytes(b"not tensors at all")
    digest = hashlib.sha256(b"not tensors at all").hexdigest()
    edit(folder, weights={"file": "weights.safetensors", "sha256": digest})
    with pytest.raises(InputError, match="not a safetensors file"):
        load_model(folder)


def test_shapes_that_do_not_fit(folder: Path) -> None:
    content = yaml.safe_load((folder / "model.yaml").read_text())
    edit(folder, network={**content["network"], "num_radial": 5})
    with pytest.raises(InputError, match="do not fit the network"):
        load_model(folder)


def test_weights_that_are_not_finite(tmp_path: Path) -> None:
    model = tiny_model()
    with torch.no_grad():
        next(model.network.parameters())[0] = float("nan")
    save_model(model, tmp_path)
    with pytest.raises(InputError, match="not finite"):
        load_model(tmp_path)


def test_unknown_built_in_model() -> None:
    with pytest.raises(InputError, match="no built-in model nonsense"):
        built_in_model("nonsense")


def test_built_in_model_covers_the_bilayer() -> None:
    model = built_in_model("tmd")
    assert set(model.elements) == {"Mo", "S", "W"}
    operator = predict(model, serial_domain(molecule("Mo", "S", "W"), model.basis))
    assert np.isfinite(operator.values).all()
    # The energy zero is the vacuum: the constant left over is far below 0.1 eV.
    assert abs(model.energy_shift) < 0.1 / 27.2
