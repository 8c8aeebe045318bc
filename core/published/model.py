"""A model of a published checkpoint."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import torch

from hamgnn_solve.core.basis.openmx_table import OpenMXSpecies, published_species
from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.io.checkpoint import Checkpoint
from hamgnn_solve.core.model import Model
from hamgnn_solve.core.network.build import build_network
from hamgnn_solve.core.network.config import NetworkConfig
from hamgnn_solve.core.network.shells import ShellTable
from hamgnn_solve.core.published.settings import Settings
from hamgnn_solve.core.published.shape import published_config

__all__ = ["published_model"]

# Names that HamGNN 2.0 has for what is called otherwise from 2.1 on.
OLD_NAMES = {
    "output_module.onsitenet_h.": "output_module.onsite_hamiltonian_network.",
    "output_module.offsitenet_h.": "output_module.offsite_hamiltonian_network.",
}

# Tensors that carry no weights: masks, constants of the products, tables computed here anew.
CONSTANTS = re.compile(
    r"\.(output_mask|freqs|cutoff)$|\._w3j_\d+_\d+_\d+$|\.cg_(cal|calculator)\.cg_\d+_\d+_\d+$"
)


def published_model(
    checkpoint: Checkpoint, settings: Settings, name: str, elements: tuple[str, ...] = ()
) -> Model:
    """Return the model of a published checkpoint, its weights unchanged.

    Parameters
    ----------
    checkpoint : Checkpoint
    settings : Settings
        YAML file that the weights were trained with.
    name : str
        Name of the model.
    elements : tuple of str
        Elements that the model is to accept; empty for all that the network has room for. A
        checkpoint does not tell which elements it was trained on.

    Raises
    ------
    InputError
        When the network is not supported, tensors and YAML disagree, or an element has no place
        in the network.
    """
    tensors = {_current_name(key): tensor for key, tensor in checkpoint.tensors.items()}
    checkpoint = replace(checkpoint, tensors=tensors)
    config = published_config(checkpoint, settings)
    try:
        network = build_network(config, initialise=False)
    except ValueError as error:
        raise InputError(
            f"The network of {checkpoint.path} is not supported ({error}); choose another "
            "checkpoint."
        ) from error
    _load(network, checkpoint, settings)
    training: dict[str, Any] = {
        "origin": "HamGNN checkpoint; it does not tell what it was trained on",
        "checkpoint": checkpoint.path.name,
        "sha256": checkpoint.sha256,
        "configuration": settings.path.name,
    }
    if checkpoint.epoch is not None:
        training["epoch"] = checkpoint.epoch
    species = _species(config, elements)
    return Model(name, species, network.eval().requires_grad_(False), training=training)


def _current_name(key: str) -> str:
    for old, new in OLD_NAMES.items():
        if key.startswith(old):
            return new + key[len(old) :]
    return key


def _load(network: torch.nn.Module, checkpoint: Checkpoint, settings: Settings) -> None:
    """Give a network the parameters of a checkpoint; all of them have to be used."""
    parameters = dict(network.named_parameters())
    for key, parameter in parameters.items():
        tensor = checkpoint.tensors.get(key)
        found = "none" if tensor is None else tuple(tensor.shape)
        if found != tuple(parameter.shape):
            raise InputError(
                f"Tensor {key} of {checkpoint.path} has shape {found}, but {settings.path} asks "
                f"for {tuple(parameter.shape)}; give the configuration that these weights were "
                "trained with."
            )
    for key, tensor in checkpoint.tensors.items():
        if key not in parameters and tensor.numel() and not CONSTANTS.search(key):
            raise InputError(
                f"The checkpoint {checkpoint.path} has a tensor {key} that this version does not "
                "know; choose another checkpoint."
            )
        if not torch.isfinite(tensor).all():
            raise InputError(
                f"Tensor {key} of {checkpoint.path} is not finite; choose another checkpoint."
            )
    state = {key: checkpoint.tensors[key].to(x.dtype) for key, x in parameters.items()}
    network.load_state_dict(state, strict=False, assign=True)


def _species(config: NetworkConfig, elements: tuple[str, ...]) -> dict[str, OpenMXSpecies]:
    """Return the elements of the block table that the network has a type for."""
    known = {
        symbol: species
        for symbol, species in published_species(ShellTable(config.shells).norbitals).items()
        if species.atomic_number < config.num_types
    }
    missing = [symbol for symbol in elements if symbol not in known]
    if missing:
        raise InputError(
            f"The network has no place for {', '.join(missing)}; it has room for {' '.join(known)}."
        )
    return {symbol: known[symbol] for symbol in known if not elements or symbol in elements}
