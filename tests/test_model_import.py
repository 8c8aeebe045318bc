"""Published checkpoints become model folders, their weights unchanged, and nothing of them runs."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import resource
import subprocess
import sys
import time
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import shared_path
from e3nn.o3 import Irrep, Irreps, wigner_3j

from hamgnn_solve.cli.tools import main
from hamgnn_solve.core.basis.openmx_table import TABLE_SHELLS, OpenMXSpecies, published_species
from hamgnn_solve.core.domain import serial_domain
from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.integrals.overlap import overlap
from hamgnn_solve.core.io.checkpoint import read_checkpoint
from hamgnn_solve.core.model import load_model, save_new_model
from hamgnn_solve.core.network.build import build_network
from hamgnn_solve.core.network.config import NetworkConfig
from hamgnn_solve.core.network.predict import predict
from hamgnn_solve.core.network.shells import V1_SIGN_FLIPS
from hamgnn_solve.core.published.model import published_model
from hamgnn_solve.core.published.settings import read_settings
from hamgnn_solve.core.structure import Structure

State = dict[str, torch.Tensor]
Content = dict[str, Any]

HARMONICS = ["0e", "1o", "2e", "3o", "4e", "5o", "6e"]
UNIVERSAL = "32x0o+128x0e+128x1o+64x1e+128x2e+32x2o+64x3o+32x3e+32x4o+32x4e+16x5o+8x5e+8x6e"
SMALL = NetworkConfig(
    irreps="1x0o+4x0e+3x1o+2x1e+3x2e+2x2o+2x3o+1x3e+2x4e",
    shells=(3, 2, 1),
    layers=2,
    cutoff=26.0,
    num_radial=5,
    invariant_layers=2,
    invariant_neurons=6,
    num_types=20,
    lmax=4,
    add_h0=True,
    sign_flips=True,
)


def coupling_tables(lmax: int, flips: frozenset[tuple[int, int, int]] = V1_SIGN_FLIPS) -> State:
    """Return the buffers cg_cal of a published checkpoint."""
    return {
        f"output_module.cg_cal.cg_{la}_{lb}_{total}": wigner_3j(la, lb, total, dtype=torch.float64)
        * (-1 if (la, lb, total) in flips else 1)
        for la in range(lmax + 1)
        for lb in range(lmax + 1)
        for total in range(abs(la - lb), la + lb + 1)
    }


def upstream_buffers(irreps: str, num_radial: int, lmax: int) -> State:
    """Return what else a state dict holds: masks, constants, tables of the radial functions."""
    embedding = "representation.chemical_embedding.linear"
    mask = [torch.full((mul * ir.dim,), float(ir == Irrep(0, 1))) for mul, ir in Irreps(irreps)]
    product = "representation.convnet.0.conv.tp"
    return {
        "representation.cutoff_func.cutoff": torch.tensor([26.0]),
        "representation.radial_basis.basis.freqs": torch.arange(1.0, num_radial + 1)
        * (np.pi / 26.0),
        "representation.radial_basis.cutoff.cutoff": torch.tensor([26.0]),
        f"{embedding}.bias": torch.zeros(0),
        f"{embedding}.output_mask": torch.cat(mask),
        f"{product}.weight": torch.zeros(0),
        f"{product}.output_mask": torch.ones(12),
        f"{product}._compiled_main_left_right._w3j_1_1_1": wigner_3j(1, 1, 1),
        f"{product}._compiled_main_left_right._w3j_2_1_3": wigner_3j(2, 1, 3),
        "output_module.onsitenet_linear.output_mask": torch.ones(9),
        **coupling_tables(lmax),
    }


def yaml_entries(config: NetworkConfig) -> Content:
    """Return the YAML file that a network of this shape was trained with."""
    norbitals = next(n for n, shells in TABLE_SHELLS.items() if shells == config.shells)
    common = {
        "cutoff": config.cutoff,
        "cutoff_func": "cos",
        "edge_sh_normalization": "component",
        "edge_sh_normalize": True,
        "irreps_edge_sh": " + ".join(HARMONICS[: config.lmax + 1]),
        "irreps_node_features": config.irreps,
        "num_radial": config.num_radial,
        "num_types": config.num_types,
        "rbf_func": "bessel",
        "set_features": True,
    }
    if config.version == 1:
        network = "HamGNN_pre" if config.attributes is None else "HamGNN_pre2"
        own = {
            "resnet": config.resnet,
            "feature_irreps_hidden": config.irreps,
            "irreps_edge_output": config.irreps,
            "irreps_node_output": config.irreps,
            "irreps_triplet_output": config.irreps,
            "invariant_layers": config.invariant_layers,
            "invariant_neurons": config.invariant_neurons,
            "num_interaction_layers": config.layers,
            "num_spherical": 8,
            "export_triplet": False,
            "add_edge_tp": config.edge_tp_irreps is not None,
            "irreps_node_prev": config.edge_tp_irreps or "4x0e",
            "num_node_attr_feas": config.attributes or 64,
        }
    else:
        network = "HamGNNpre"
        own = {
            "num_layers": config.layers,
            "radial_MLP": [config.invariant_neurons] * config.invariant_layers,
            "use_corr_prod": False,
            "correlation": 2,
            "use_kan": False,
            "build_internal_graph": False,
        }
    output = {
        "ham_only": True,
        "ham_type": "openmx",
        "nao_max": norbitals,
        "add_H0": config.add_h0,
        "symmetrize": config.symmetrize,
        "calculate_band_energy": False,
        "soc_switch": False,
        "nonlinearity_type": config.nonlinearity,
    }
    return {
        "setup": {"GNN_Net": network, "precision": 32},
        "representation_nets": {"HamGNN_pre": {**common, **own}},
        "output_nets": {"output_module": "HamGNN_out", "HamGNN_out": output},
    }


def write_yaml(path: Path, config: NetworkConfig, **changes: Any) -> Path:
    """Write a configuration; an entry that is changed to None is left out."""
    content = yaml_entries(config)
    network = content["representation_nets"]["HamGNN_pre"]
    output = content["output_nets"]["HamGNN_out"]
    for key, value in changes.items():
        section = output if key in output else network
        section[key] = value
        if key in content["setup"]:
            content["setup"][key] = section.pop(key)
        elif value is None:
            del section[key]
    path.write_text(yaml.safe_dump(content))
    return path


def lightning_content(state: State) -> Content:
    """Return a checkpoint of PyTorch Lightning around a state dict, with foreign objects in it."""
    modules = {name: types.ModuleType(name) for name in ("foreign_dict", "foreign_callbacks")}

    class ForeignDict(dict):  # type: ignore[type-arg]
        pass

    class ForeignCallback:
        def __init__(self) -> None:
            self.best = {1, 2}

    for name, made in (("foreign_dict", ForeignDict), ("foreign_callbacks", ForeignCallback)):
        made.__module__, made.__qualname__ = name, made.__name__
        setattr(modules[name], made.__name__, made)
    sys.modules.update(modules)
    hyper = ForeignDict(lr=0.01, nested=ForeignDict(path=Path("/tmp/somewhere")))
    hyper.origin = "attribute"  # type: ignore[attr-defined]
    moments = {n: {"step": 7, "exp_avg": torch.randn_like(x)} for n, x in enumerate(state.values())}
    return {
        "epoch": 41,
        "global_step": 4100,
        "pytorch-lightning_version": "1.5.10",
        "state_dict": OrderedDict(state),
        "loops": {"fit_loop": {"state_dict": {}, "progress": ForeignCallback()}},
        "callbacks": {ForeignCallback: {"best": torch.tensor(0.25), "seen": {"a", "b"}}},
        "optimizer_states": [{"state": moments, "param_groups": [{"betas": (0.9, 0.999)}]}],
        "lr_schedulers": [{"best": np.float64(0.5), "steps": np.arange(3), "range": range(3)}],
        "hyper_parameters": hyper,
    }


def save(path: Path, content: Any) -> Path:
    """Write a checkpoint whose foreign classes are unknown afterwards."""
    torch.save(content, path)
    for name in ("foreign_dict", "foreign_callbacks"):
        sys.modules.pop(name, None)
    return path


def small_state(config: NetworkConfig = SMALL) -> State:
    """Return a random state dict in the published layout."""
    torch.manual_seed(11)
    parameters = {k: x.detach() for k, x in build_network(config).named_parameters()}
    return {**parameters, **upstream_buffers(config.irreps, config.num_radial, 2)}


@pytest.fixture
def published(tmp_path: Path) -> tuple[Path, Path]:
    """A small random network as upstream would have saved it: checkpoint and configuration."""
    checkpoint = save(tmp_path / "small.ckpt", lightning_content(small_state()))
    return checkpoint, write_yaml(tmp_path / "config.yaml", SMALL)


def run(checkpoint: Path, config: Path, out: Path, *more: str) -> int:
    return main(
        ["model", "import", str(checkpoint), "--config", str(config), "-o", str(out), *more]
    )


def assert_same_weights(folder: Path, state: State, config: NetworkConfig) -> None:
    model = load_model(folder)
    assert model.network.config == config
    parameters = dict(model.network.named_parameters())
    assert parameters.keys() <= state.keys()
    for key, parameter in parameters.items():
        # Equal to the last bit: nothing is computed with them.
        assert torch.equal(parameter, state[key].to(torch.float32)), key


def test_small_network(published: tuple[Path, Path], tmp_path: Path) -> None:
    assert run(*published, tmp_path / "model") == 0
    assert_same_weights(tmp_path / "model", small_state(), SMALL)
    model = load_model(tmp_path / "model")
    assert model.name == "model"
    assert model.training["epoch"] == 41
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_types_are_atomic_numbers(published: tuple[Path, Path], tmp_path: Path) -> None:
    run(*published, tmp_path / "model")
    model = load_model(tmp_path / "model")
    # 20 types: the one-hot index is Z, so Ca (Z = 20) and V (23) have none.
    assert model.elements[-1] == "K"
    structure = Structure(("S", "H", "K"), 5.0 * np.eye(3), 30.0 * np.eye(3))
    assert model.types_i(structure).tolist() == [16, 1, 19]
    assert model.basis.norb_i(structure).tolist() == [13, 5, 14]
    assert model.basis.cutoff_i(structure).tolist() == [7.0, 6.0, 10.0]
    assert model.basis.electrons(structure) == 6 + 1 + 9
    # S has two of the three s shells.
    assert model.slots[16].tolist() == [0, 1, *range(3, 14)]
    assert model.slots[1].tolist() == [0, 1, 3, 4, 5]
    with pytest.raises(InputError, match="but not Mo"):
        model.check_covers(Structure(("Mo",), np.zeros((1, 3)), 30.0 * np.eye(3)))


def test_prediction_without_radial_functions(published: tuple[Path, Path], tmp_path: Path) -> None:
    run(*published, tmp_path / "model")
    model = load_model(tmp_path / "model")
    structure = Structure(("S", "H"), np.array([[0, 0, 0], [2.5, 0.3, 0.1]]), 40.0 * np.eye(3))
    domain = serial_domain(structure, model.basis)
    operator = predict(model, domain)
    assert len(operator.pairs) == 4
    assert len(operator.values) == 13 * 13 + 2 * 13 * 5 + 5 * 5
    assert np.isfinite(operator.values).all()
    with pytest.raises(InputError, match=r"as --dft-data or OPENMX_DFT_DATA"):
        overlap(structure, model.basis, domain.owned)


def test_chosen_elements(published: tuple[Path, Path], tmp_path: Path) -> None:
    assert run(*published, tmp_path / "model", "--elements", "S", "H") == 0
    assert load_model(tmp_path / "model").elements == ("H", "S")


def test_bare_state_dict(published: tuple[Path, Path], tmp_path: Path) -> None:
    bare = save(tmp_path / "bare.ckpt", small_state())
    assert run(bare, published[1], tmp_path / "model") == 0
    assert_same_weights(tmp_path / "model", small_state(), SMALL)


def test_without_sign_flips(published: tuple[Path, Path], tmp_path: Path) -> None:
    state = {**small_state(), **coupling_tables(2, frozenset())}
    checkpoint = save(tmp_path / "plain.ckpt", lightning_content(state))
    assert run(checkpoint, published[1], tmp_path / "model") == 0
    assert not load_model(tmp_path / "model").network.config.sign_flips


def test_views_of_one_storage(tmp_path: Path) -> None:
    base = torch.arange(24.0)
    state = {"a": base[4:10], "b": base.view(4, 6).t(), "c": base[:0], "d": base.half()[3]}
    read = read_checkpoint(save(tmp_path / "views.ckpt", {"state_dict": state})).tensors
    for key, tensor in state.items():
        assert torch.equal(read[key], tensor)
        assert read[key].dtype == tensor.dtype


FIXTURES = (
    "v1_f64_tiny26_gate_tiny2",
    "v1_pre2_tp0_tiny26_norm_tiny3",
    "v1_pre2_tp1_tiny26_norm_tiny3",
    "v1_tiny14_norm_light3",
    "v1_tiny26_gate_tiny2_noH0_nosym",
    "v2_tiny26_gate_tiny3",
)


def fixture_config(entry: Content) -> NetworkConfig:
    version = 2 if entry["arch"] == "v2" else 1
    hidden = entry.get("radial_MLP") or [entry["inv_neurons"]] * entry["inv_layers"]
    pre2 = entry.get("pre2", False)
    return NetworkConfig(
        irreps=entry["irreps"],
        shells=TABLE_SHELLS[entry["nao_max"]],
        layers=entry["layers"],
        cutoff=26.0,
        num_radial=entry["num_radial"],
        invariant_layers=len(hidden),
        invariant_neurons=hidden[0],
        num_types=119 if pre2 else entry["num_types"],
        lmax=4 if "sh" in entry else 6,
        nonlinearity=entry.get("nonlin", "gate"),
        attributes=entry["node_attr"] if pre2 else None,
        edge_tp_irreps=entry["prev"] if entry.get("add_edge_tp") else None,
        add_h0=entry.get("add_H0", True),
        symmetrize=entry.get("symmetrize", True),
        sign_flips=version == 1,
        version=version,
    )


def fixture_state(name: str) -> tuple[State, NetworkConfig]:
    """Return the published state dict and the shape of a reference network."""
    data = np.load(shared_path(f"oracle/hamgnn/{name}.npz"))
    config = fixture_config(json.loads(str(data["cfg"])))
    state = {k[2:]: torch.from_numpy(data[k]) for k in data if k.startswith("p/")}
    if config.version == 1:
        tables = np.load(shared_path("oracle/hamgnn/v1_cg_l3.npz"))
        state.update({f"output_module.cg_cal.{k}": torch.from_numpy(tables[k]) for k in tables})
    return state, config


@pytest.mark.parametrize("name", FIXTURES)
def test_published_networks(name: str, tmp_path: Path) -> None:
    state, config = fixture_state(name)
    checkpoint = save(tmp_path / "epoch=1.ckpt", lightning_content(state))
    settings = write_yaml(tmp_path / "config.yaml", config)
    assert run(checkpoint, settings, tmp_path / "model") == 0
    assert_same_weights(tmp_path / "model", state, config)


def test_names_of_2_0(tmp_path: Path) -> None:
    state, config = fixture_state("v2_tiny26_gate_tiny3")
    old = {
        re.sub(r"(on|off)site_hamiltonian_network", r"\1sitenet_h", k): x for k, x in state.items()
    }
    assert sum("sitenet_h." in key for key in old) == 6
    checkpoint = save(tmp_path / "old.ckpt", lightning_content(old))
    settings = write_yaml(tmp_path / "config.yaml", config)
    assert run(checkpoint, settings, tmp_path / "model") == 0
    assert_same_weights(tmp_path / "model", state, config)


def test_legacy_edge_update(tmp_path: Path) -> None:
    state, config = fixture_state("v2_tiny26_gate_tiny3")
    del state["representation.pair_interactions.0.skip_linear.weight"]
    checkpoint = save(tmp_path / "legacy.ckpt", lightning_content(state))
    settings = write_yaml(tmp_path / "config.yaml", config)
    model = published_model(read_checkpoint(checkpoint), read_settings(settings), "legacy")
    assert model.network.config.legacy_edge_update


def universal_state() -> State:
    """Return random tensors with the names and shapes of the universal model."""
    lines = shared_path("oracle/hamgnn/universal_state_dict.txt").read_text().splitlines()
    state = {}
    for line in lines:
        _, name, rest = line.split(" ", 2)
        shape = tuple(int(n) for n in re.findall(r"\d+", rest[: rest.index(")")]))
        match = re.search(r"_(\d+)_(\d+)_(\d+)$", name)
        if name.endswith("cutoff"):
            state[name] = torch.tensor([26.0])
        elif name.endswith("freqs"):
            state[name] = torch.arange(1.0, 65.0) * (np.pi / 26.0)
        elif "chemical_embedding" in name and name.endswith("output_mask"):
            state[name] = upstream_buffers(UNIVERSAL, 64, 0)[name]
        elif match and "_w3j_" in name:
            state[name] = wigner_3j(*map(int, match.groups()))
        else:
            state[name] = torch.randn(shape)
    return {**state, **coupling_tables(3)}


def test_universal_size(tmp_path: Path) -> None:
    config = NetworkConfig(
        irreps=UNIVERSAL,
        shells=(3, 2, 2, 1),
        layers=5,
        cutoff=26.0,
        num_radial=64,
        invariant_layers=2,
        invariant_neurons=64,
        num_types=96,
        lmax=6,
        add_h0=True,
        sign_flips=True,
    )
    state = universal_state()
    checkpoint = save(tmp_path / "universal.ckpt", {"state_dict": state, "epoch": 3})
    settings = write_yaml(tmp_path / "config.yaml", config)
    start = time.monotonic()
    assert run(checkpoint, settings, tmp_path / "universal") == 0
    seconds = time.monotonic() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"import of universal size: {seconds:.1f} s, peak {peak:.0f} MB")
    assert_same_weights(tmp_path / "universal", state, config)
    model = load_model(tmp_path / "universal")
    assert len(model.elements) == 77
    assert sum(x.numel() for x in model.network.parameters()) == 75_509_664


DISAGREEMENTS = {
    "num_interaction_layers": 3,
    "num_radial": 8,
    "invariant_layers": 1,
    "invariant_neurons": 64,
    "num_types": 60,
    "cutoff": 20.0,
    "nao_max": 19,
    "nonlinearity_type": "gate",
    "GNN_Net": "HamGNN_pre2",
    "irreps_edge_sh": "1x0e+1x1o+1x2e+1x3o",
}


@pytest.mark.parametrize("key", DISAGREEMENTS)
def test_disagreement(key: str, published: tuple[Path, Path], tmp_path: Path) -> None:
    said = DISAGREEMENTS[key]
    settings = write_yaml(tmp_path / "other.yaml", SMALL, **{key: said})
    with pytest.raises(InputError) as caught:
        published_model(read_checkpoint(published[0]), read_settings(settings), "x")
    message = str(caught.value)
    assert re.search(rf"{key} is {re.escape(str(said))}.* say ", message), message
    assert "give the configuration" in message


def test_other_irreps(published: tuple[Path, Path], tmp_path: Path) -> None:
    def refused(irreps: str) -> str:
        keys = (
            "irreps_node_features",
            "feature_irreps_hidden",
            "irreps_node_output",
            "irreps_edge_output",
        )
        settings = write_yaml(tmp_path / "other.yaml", SMALL, **dict.fromkeys(keys, irreps))
        with pytest.raises(InputError) as caught:
            published_model(read_checkpoint(published[0]), read_settings(settings), "x")
        return str(caught.value)

    wider = SMALL.irreps.replace("3x2e", "4x2e")
    assert "59 weights" in refused(wider)
    assert "52 weights" in refused(wider)
    # The order shows in the place of the even scalars.
    assert "say 0e at 1..4" in refused("4x0e+1x0o+3x1o+2x1e+3x2e+2x2o+2x3o+1x3e+2x4e")
    assert "cannot be used" in refused("4x0e+1x0e")
    assert "cannot be used" in refused("four of a kind")


UNSUPPORTED: dict[str, Any] = {
    "cutoff_func": "poly",
    "use_corr_prod": True,
    "lite_mode": True,
    "soc_switch": True,
    "ham_only": False,
    "ham_type": "abacus",
    "rbf_func": "gaussian",
    "edge_sh_normalization": "integral",
    "export_triplet": True,
    "apply_charge_doping": True,
}


@pytest.mark.parametrize("key", UNSUPPORTED)
def test_unsupported_settings(key: str, published: tuple[Path, Path], tmp_path: Path) -> None:
    settings = write_yaml(tmp_path / "other.yaml", SMALL, **{key: UNSUPPORTED[key]})
    with pytest.raises(InputError, match=f"{key} {UNSUPPORTED[key]} .*not supported"):
        published_model(read_checkpoint(published[0]), read_settings(settings), "x")


@pytest.mark.parametrize("network", ["HamGNN_pre_charge", "HamGNNTransformer"])
def test_unsupported_networks(network: str, published: tuple[Path, Path], tmp_path: Path) -> None:
    settings = write_yaml(tmp_path / "other.yaml", SMALL, GNN_Net=network)
    with pytest.raises(InputError, match=f"network {network} .*not supported"):
        published_model(read_checkpoint(published[0]), read_settings(settings), "x")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("output_module.ksi_on_scalar.weight", "has spin-orbit coupling"),
        ("output_module.onsitenet_s.weight", "has a predicted overlap"),
        ("representation.orb_transformers.0.weight", "has the transformer network"),
        ("representation.emb.emb_q.weight", "has a doping charge"),
        ("representation.something.weight", "that this version does not know"),
    ],
)
def test_unsupported_tensors(
    name: str, words: str, published: tuple[Path, Path], tmp_path: Path
) -> None:
    state = {**small_state(), name: torch.ones(3)}
    checkpoint = save(tmp_path / "other.ckpt", {"state_dict": state})
    with pytest.raises(InputError, match=words):
        published_model(read_checkpoint(checkpoint), read_settings(published[1]), "x")


def edited_state(published: tuple[Path, Path], edit: Callable[[State], object]) -> str:
    """Return how a state dict that was edited is refused."""
    state = small_state()
    edit(state)
    checkpoint = save(published[0].with_name("edited.ckpt"), {"state_dict": state})
    with pytest.raises(InputError) as caught:
        published_model(read_checkpoint(checkpoint), read_settings(published[1]), "x")
    return str(caught.value)


def only_one_tensor(state: State) -> None:
    state.clear()
    state["weight"] = torch.ones(2)


def test_state_dicts_that_do_not_fit(published: tuple[Path, Path]) -> None:
    cg = "output_module.cg_cal.cg_1_2_2"
    w3j = "representation.convnet.0.conv.tp._compiled_main_left_right._w3j_1_1_1"
    head = "output_module.offsitenet_linear.weight"
    layer = "representation.convnet.1.conv.linear_2.weight"
    assert "unknown signs (at (1, 2, 2))" in edited_state(published, lambda s: s[cg].neg_())
    assert "not Clebsch-Gordan" in edited_state(published, lambda s: s[cg].mul_(2.0))
    assert "lacks the coupling tables" in edited_state(published, lambda s: s.pop(cg))
    assert "the other sign" in edited_state(published, lambda s: s.update({w3j: -s[w3j]}))
    assert f"{head} of" in edited_state(published, lambda s: s.update({head: s[head][:-1]}))
    assert f"{layer} of" in edited_state(published, lambda s: s.pop(layer))
    assert "is not finite" in edited_state(published, lambda s: s[layer].fill_(float("nan")))
    assert "not those of a HamGNN" in edited_state(
        published, lambda s: s.clear() or s.update(a=s.get("a", torch.ones(2)))
    )
    freqs = "representation.radial_basis.basis.freqs"
    assert "trained frequencies" in edited_state(published, lambda s: s[freqs].mul_(1.1))
    assert "trained frequencies" in edited_state(
        published, lambda s: s.update({freqs: s[freqs][:3]})
    )
    radius = "representation.cutoff_func.cutoff"
    first = "representation.convnet.0.conv.fc.layer0.weight"
    flat = edited_state(published, lambda s: s.update({first: s[first].flatten()}))
    assert "not two dimensions" in flat
    assert "2 cutoff radii" in edited_state(published, lambda s: s[radius].mul_(1.1))


@pytest.mark.parametrize(
    "key",
    ["irreps_node_features", "irreps_edge_sh", "add_H0", "symmetrize", "resnet", "cutoff_func"],
)
def test_incomplete_configuration(key: str, published: tuple[Path, Path], tmp_path: Path) -> None:
    settings = write_yaml(tmp_path / "other.yaml", SMALL, **{key: None})
    with pytest.raises(InputError, match=f"has no entry {key}"):
        published_model(read_checkpoint(published[0]), read_settings(settings), "x")


def test_files_that_are_no_configuration(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    with pytest.raises(InputError, match="cannot be read"):
        read_settings(path)
    for text, words in (
        ("setup: [", "not plain YAML"),
        ("a: !!python/object/apply:os.system [true]", "not plain YAML"),
        ("setup: {GNN_Net: HamGNN_pre}", "not a HamGNN configuration"),
        ("[1, 2]", "not a HamGNN configuration"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=words):
            read_settings(path)


class Malice:
    """Leaves a file behind when it is unpickled as pickles usually are."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def malice(trace: Path) -> dict[str, Malice]:
    code = f"open({str(trace)!r}, 'w').close()"
    return {
        "posix.system": Malice(os.system, f"touch {trace}"),
        "builtins.eval": Malice(eval, code),
        "builtins.exec": Malice(exec, code),
        "builtins.getattr": Malice(getattr, "a", "b"),
        "subprocess.call": Malice(subprocess.call, ["touch", str(trace)]),
        "io.open": Malice(io.open, str(trace), "w"),
    }


@pytest.mark.parametrize("name", malice(Path()))
@pytest.mark.parametrize("place", ["state_dict", "callbacks"])
def test_malicious_checkpoint(name: str, place: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    content = {"state_dict": {"a": torch.ones(2)}, place: {"a": malice(trace)[name]}}
    path = save(tmp_path / "malicious.ckpt", content)
    with pytest.raises(InputError, match=f"asks Python for {re.escape(name)}.*do not use"):
        read_checkpoint(path)
    assert not trace.exists()
    if name == "posix.system":
        # The same file does harm when it is read in the usual way.
        torch.load(path, weights_only=False)
        assert trace.exists()


def test_foreign_functions_are_not_called(tmp_path: Path) -> None:
    called = tmp_path / "called"
    module = types.ModuleType("foreign_callbacks")

    def touch(path: str) -> None:
        Path(path).touch()

    touch.__module__, touch.__qualname__ = "foreign_callbacks", "touch"
    module.touch = touch  # type: ignore[attr-defined]
    sys.modules["foreign_callbacks"] = module
    content = {"state_dict": {"a": torch.ones(2)}, "other": Malice(touch, str(called))}
    torch.save(content, tmp_path / "foreign.ckpt")
    # Importable still, and left alone all the same.
    tensors = read_checkpoint(tmp_path / "foreign.ckpt").tensors
    del sys.modules["foreign_callbacks"]
    assert torch.equal(tensors["a"], torch.ones(2))
    assert not called.exists()


def test_files_that_are_no_checkpoint(tmp_path: Path) -> None:
    def refused(content: bytes) -> str:
        path = tmp_path / "file.ckpt"
        path.write_bytes(content)
        with pytest.raises(InputError) as caught:
            read_checkpoint(path)
        return str(caught.value)

    def saved(content: Any) -> bytes:
        buffer = io.BytesIO()
        torch.save(content, buffer)
        return buffer.getvalue()

    with pytest.raises(InputError, match="cannot be read"):
        read_checkpoint(tmp_path / "nothing.ckpt")
    whole = saved({"state_dict": {"a": torch.arange(4000.0)}})
    assert "not a PyTorch checkpoint" in refused(b"")
    assert "not a PyTorch checkpoint" in refused(b"<html>404</html>")
    assert "cut off" in refused(whole[: len(whole) // 2])
    middle = len(whole) // 2
    assert "damaged" in refused(whole[:middle] + b"!!" + whole[middle + 2 :])
    assert "bare pickle" in refused(pickle.dumps({"model": Path()}))
    assert "whole Python object (torch.nn.modules.linear.Linear)" in refused(
        saved(torch.nn.Linear(2, 2))
    )
    assert "holds no state dict" in refused(saved([1, 2]))
    assert "holds no state dict" in refused(saved({"state_dict": {}}))
    assert "entry epoch that is not a tensor" in refused(saved({"epoch": 3}))
    other = io.BytesIO()
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("readme.txt", "text")
    assert "zip file but not a PyTorch checkpoint" in refused(other.getvalue())


def rewritten(path: Path, pickled: bytes) -> Path:
    """Write a checkpoint that holds a pickle as it is."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
    return path


@pytest.mark.parametrize(
    "pickled", [b"", b"\x80\x02.", b"garbage", b"\x80\x02K\x01Q.", b"\x80\x02]h\x09."]
)
def test_damaged_pickles(pickled: bytes, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="damaged"):
        read_checkpoint(rewritten(tmp_path / "x.ckpt", pickled))


def test_tensor_beyond_its_numbers(tmp_path: Path) -> None:
    path = save(tmp_path / "a.ckpt", {"state_dict": {"a": torch.arange(6.0)}})
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(tmp_path / "b.ckpt", "w") as short:
        for name in archive.namelist():
            content = archive.read(name)
            short.writestr(name, content[:8] if name.endswith("data/0") else content)
    with pytest.raises(InputError, match="damaged"):
        read_checkpoint(tmp_path / "b.ckpt")


def test_command_refuses(
    published: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*arguments: str) -> str:
        assert main(["model", *arguments]) == 2
        text = capsys.readouterr().err
        assert text.count("\n") == 1
        return text

    checkpoint, config = map(str, published)
    out = tmp_path / "model"
    assert "give the YAML file" in refused("import", checkpoint, "-o", str(out))
    assert "no place for Mo" in refused(
        "import", checkpoint, "--config", config, "-o", str(out), "--elements", "Mo"
    )
    assert "no built-in model" in refused("info", "nonsense")
    assert not out.exists()
    assert run(*published, out) == 0
    assert "exists" in refused("import", checkpoint, "--config", config, "-o", str(out))
    assert run(*published, out, "--overwrite", "--name", "other") == 0
    assert load_model(out).name == "other"
    (tmp_path / "diary").mkdir()
    assert "left alone" in refused(
        "import", checkpoint, "--config", config, "-o", str(tmp_path / "diary"), "--overwrite"
    )


def test_failed_overwrite_keeps_the_old_model(
    published: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(*published, tmp_path / "model")
    model = load_model(tmp_path / "model")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match="No space left"):
        save_new_model(model, tmp_path / "model", overwrite=True)
    monkeypatch.undo()
    load_model(tmp_path / "model")
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_info(
    published: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(*published, tmp_path / "model")
    capsys.readouterr()
    assert main(["model", "info", str(tmp_path / "model")]) == 0
    text = capsys.readouterr().out
    for words in ("HamGNN 1, 2 layers, norm", "H - H0", "26 Bohr", "S7.0-s2p2d1", "small.ckpt"):
        assert words in text
    assert main(["model", "info", "tmd"]) == 0
    text = capsys.readouterr().out
    assert "messages 10 Bohr" in text
    assert "W.6" in text
    assert "gap_mae_eV" in text


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--help"], ["model", "import", "--help"], ["model", "info", "--help"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 0
        assert "examples:" in capsys.readouterr().out


def test_element_table_follows_the_reference() -> None:
    reference = json.loads(shared_path("oracle/hamgnn/basis_tables.json").read_text())
    for norbitals, shells in TABLE_SHELLS.items():
        species = published_species(norbitals)
        wanted = reference[f"basis_{norbitals}"]
        assert {str(one.atomic_number) for one in species.values()} == wanted.keys()
        for symbol, one in species.items():
            assert one.norbitals == len(wanted[str(one.atomic_number)])
            assert one.pseudopotential == reference["VPS"][symbol]
            assert one.valence == reference["num_valence"][str(one.atomic_number)]
            assert one.norbitals <= sum((2 * n + 1) * count for n, count in enumerate(shells))
            if norbitals == 26:
                assert one.name == reference["PAO"][symbol]


def test_element_tables() -> None:
    assert published_species(26)["Fe"].cutoff == 5.5
    assert published_species(26)["Fe"].pseudopotential == "Fe_PBE19H"
    # The tables are not nested: iodine has an f shell in the largest alone.
    assert published_species(19)["I"].shell_l == (0, 0, 0, 1, 1, 2, 2)
    assert published_species(26)["I"].shell_l == (0, 0, 0, 1, 1, 2, 2, 3)
    assert "Mo" not in published_species(14)


@pytest.mark.parametrize("label", ["Mo", "Mo7.0", "S7.0-s2p2", "Mo7.0-s3g1", "Xx7.0-s1"])
def test_labels_that_are_none(label: str) -> None:
    with pytest.raises(ValueError, match="not the label"):
        OpenMXSpecies(label[:2] if label.startswith("X") else "Mo", label, "Mo_PBE19", 14)
