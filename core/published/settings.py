"""The YAML file that a HamGNN network was trained with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from e3nn.o3 import Irreps

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.network.irreps import parse_irreps

__all__ = ["Settings", "read_settings"]

# The only value that is supported of a YAML entry; an absent entry has it.
SUPPORTED_SETTINGS = {
    "add_H_nonsoc": False,
    "apply_charge_doping": False,
    "build_internal_graph": False,
    "collinear_spin": False,
    "edge_sh_normalization": "component",
    "edge_sh_normalize": True,
    "export_triplet": False,
    "ham_only": True,
    "ham_type": "openmx",
    "lite_mode": False,
    "rbf_func": "bessel",
    "soc_switch": False,
    "spin_constrained": False,
    "use_corr_prod": False,
    "use_kan": False,
}


@dataclass(frozen=True)
class Settings:
    """Entries of a HamGNN YAML file that describe the network.

    Parameters
    ----------
    path : Path
        The file.
    network : str
        Name of the network (`setup.GNN_Net`).
    entries : dict
        Entries of the network and of its output, together.
    """

    path: Path
    network: str
    entries: Mapping[str, Any]

    def __getitem__(self, key: str) -> Any:
        """Return an entry; raises `InputError` when the file does not have it."""
        if self.entries.get(key) is None:
            raise InputError(
                f"{self.path} has no entry {key}; give the complete file that the weights were "
                "trained with."
            )
        return self.entries[key]

    def irreps(self, key: str) -> Irreps:
        """Return an entry as irreps; raises `InputError` when it is not."""
        try:
            return parse_irreps(str(self[key]))
        except ValueError as error:
            raise InputError(
                f"{key} of {self.path} cannot be used ({error}); mend the file."
            ) from error

    def flag(self, key: str) -> bool:
        """Return an entry that is true or false; raises `InputError` when it is neither."""
        value = self[key]
        if not isinstance(value, bool):
            raise InputError(f"{key} {value} of {self.path} is neither true nor false; mend it.")
        return value

    def check_supported(self) -> None:
        """Raise `InputError` for a kind of network that is not supported, whatever its sizes."""
        if "charge" in self.network or "ransformer" in self.network:
            raise InputError(
                f"The network {self.network} of {self.path} is not supported; supported are "
                "HamGNN_pre, HamGNN_pre2 and HamGNNConv."
            )
        for key, wanted in SUPPORTED_SETTINGS.items():
            said = self.entries.get(key, wanted)
            if said != wanted:
                raise InputError(
                    f"{key} {said} of {self.path} is not supported, only {wanted} is; choose "
                    "another checkpoint."
                )


def read_settings(path: Path | str) -> Settings:
    """Read the YAML file that a HamGNN network was trained with.

    Raises
    ------
    InputError
        When the file cannot be read or has no sections of a network and its output.
    """
    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"The configuration {path} cannot be read; give the YAML file that the weights were "
            "trained with."
        ) from error
    except yaml.YAMLError as error:
        raise InputError(
            f"{path} is not plain YAML; give the file that training was started with."
        ) from error
    setup = _section(content, "setup")
    network = str(setup.get("GNN_Net", ""))
    nets, outputs = _section(content, "representation_nets"), _section(content, "output_nets")
    # Upstream reads the section HamGNN_pre for every convolutional network.
    net = _section(nets, network) or _section(nets, "HamGNN_pre")
    output = _section(outputs, str(outputs.get("output_module"))) or _section(outputs, "HamGNN_out")
    if not (network and net and output):
        raise InputError(
            f"{path} is not a HamGNN configuration (it needs setup.GNN_Net, representation_nets "
            "and output_nets); give the YAML file that the weights were trained with."
        )
    return Settings(path, network, {**net, **output})


def _section(content: object, key: str) -> dict[str, Any]:
    value = content.get(key) if isinstance(content, dict) else None
    return value if isinstance(value, dict) else {}
