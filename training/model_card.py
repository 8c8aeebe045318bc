"""The model card `MODEL.md`: what `model.yaml` says, for people."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hamgnn_solve.core.model import Model

__all__ = ["CARD", "entry_lines", "model_card", "model_facts", "write_model_card"]

CARD = "MODEL.md"
# Heading and key of the figures of a record, in the order of the card's table.
COLUMNS = (
    ("gap", "gap_mae_eV"),
    ("±1 eV", "energies_within_1eV_of_fermi_mae_eV"),
    ("band edges", "band_edge_mae_eV"),
    ("DOS overlap", "dos_overlap"),
    ("lowest energy", "lowest_energy_error_eV"),
)
# Errors of the lowest energy in eV below which states are false rather than inaccurate.
FALSE_STATE = -0.5


def write_model_card(model: Model, folder: Path) -> None:
    """Write the card of a model into its folder."""
    (folder / CARD).write_text(model_card(model), encoding="utf-8")


def model_card(model: Model) -> str:
    """Return the card of a model in Markdown: all of it comes from what `model.yaml` holds."""
    lines = [
        f"# Model {model.name}",
        "",
        "Made from `model.yaml` by `hamgnn-tools evaluate --record`; change that file, not this.",
        "",
        "## What it is",
        "",
    ]
    lines += [
        f"- {key}: {value}"
        for key, value in model_facts(model).items()
        if key not in ("model", "elements")
    ]
    lines += ["", "| element | data set |", "|---|---|"]
    lines += [f"| {symbol} | {_data_set(model, symbol)} |" for symbol in model.elements]
    lines += ["", "## What it was trained on", ""]
    training = {key: value for key, value in model.training.items() if key != "limits"}
    lines += _listed(training) if training else ["Not told."]
    lines += ["", "## Measured errors", ""]
    lines += _measured(model.errors)
    lines += ["", "## Known limits", ""]
    lines += [f"- {limit}" for limit in _limits(model)]
    return "\n".join(lines) + "\n"


def model_facts(model: Model) -> dict[str, str]:
    """Return what a model is and how large it is, by name of the property."""
    config = model.network.config
    count = sum(x.numel() for x in model.network.parameters())
    size = sum(x.numel() * x.element_size() for x in model.network.state_dict().values())
    tables = "learned element table" if config.attributes else "one-hot elements"
    cutoff = f"{config.cutoff:g} Bohr"
    if config.message_cutoff is not None:
        cutoff += f", messages {config.message_cutoff:g} Bohr"
    return {
        "model": model.name,
        "network": f"HamGNN {config.version}, {config.layers} layers, {config.nonlinearity}, "
        f"{tables}, {config.num_types} types",
        "irreps": config.irreps,
        "parameters": f"{count:,} ({size / 1e6:.1f} MB)",
        "cutoff": cutoff,
        "radial": f"{config.num_radial} functions, {config.invariant_layers} hidden layers of "
        f"{config.invariant_neurons}",
        "harmonics": f"up to l = {config.lmax}",
        "predicts": _predicted(model),
        "hermitian": "blocks are symmetrised" if config.symmetrize else "blocks are as predicted",
        "basis": "OpenMX 2019" if model.openmx_species else "gpaw-data, dzp",
        "elements": str(len(model.elements)),
    }


def _predicted(model: Model) -> str:
    if model.operator_widths is not None:
        widths = ", ".join(f"{width:g}" for width in model.operator_widths)
        return f"operators of atoms, Gaussians of {widths} Bohr" if widths else "operators of atoms"
    return "H - H0" if model.network.config.add_h0 else "H"


def entry_lines(entry: Any, depth: int) -> list[str]:
    """Return the lines of a record of model.yaml, nested ones indented by two spaces a level."""
    indent = "  " * depth
    if not isinstance(entry, Mapping):
        return [f"{indent}{entry}"]
    lines = []
    for key, value in entry.items():
        if isinstance(value, Mapping):
            lines += [f"{indent}{key}", *entry_lines(value, depth + 1)]
        elif isinstance(value, list):
            lines.append(f"{indent}{key}: {', '.join(map(str, value))}")
        else:
            lines.append(f"{indent}{key}: {value}")
    return lines


def _listed(entry: Mapping[str, Any]) -> list[str]:
    """Return a record as a Markdown list."""
    lines = entry_lines(entry, 0)
    return [f"{line[: len(line) - len(line.lstrip())]}- {line.lstrip()}" for line in lines]


def _data_set(model: Model, symbol: str) -> str:
    if symbol not in model.openmx_species:
        omitted = model.omitted.get(symbol, ())
        without = " without " + ", ".join(f"`{name}`" for name in omitted) if omitted else ""
        return f"`{model.species[symbol]}`{without}"
    species = model.openmx_species[symbol]
    return f"`{species.name}`, `{species.pseudopotential}`"


def _measured(errors: Mapping[str, Any]) -> list[str]:
    if not errors:
        return ["None measured."]
    heading = ["labels", "structures", "H, all", "H, on-site", "H, off-site"]
    heading += [name for name, _ in COLUMNS]
    lines = [
        "Mean absolute errors: H in meV over the elements within orbital range, after the best "
        "c·S is removed; energies in eV. ±1 eV: energies within 1 eV of the Fermi level (of a "
        "molecule's gap), each from its own Fermi level, the middle of the gap. Band edges: with "
        "the model's own zero of energy. Of the lowest energy it is the largest error downwards.",
        "",
        f"| {' | '.join(heading)} |",
        "|" + "---|" * len(heading),
    ]
    for title, record in errors.items():
        blocks = record.get("hamiltonian_mae_meV", {})
        cells = [title, str(len(record.get("structures", [])))]
        cells += [_figure(blocks.get(key)) for key in ("all", "onsite", "offsite")]
        cells += [_figure(record.get(key)) for _, key in COLUMNS]
        lines.append(f"| {' | '.join(cells)} |")
    for title, record in errors.items():
        rest = {key: value for key, value in record.items() if key != "command"}
        lines += ["", f"### {title}", "", *_listed(rest)]
        if "command" in record:
            lines += ["", "Measured by", "", f"    {record['command']}"]
    return lines


def _figure(value: Any) -> str:
    return "–" if value is None else f"{value:g}"


def _limits(model: Model) -> list[str]:
    """Return the limits that follow from the description, and those that it lists."""
    limits = [
        f"It knows {' '.join(model.elements)} in the data sets above and refuses other elements.",
        "Spin, magnetism and spin–orbit coupling are not predicted.",
        "Structures unlike those it was trained on have larger errors; "
        + ("runs list such atoms." if model.environments else "no run tells."),
    ]
    if not model.errors:
        limits.append("No errors were measured: compare it with labels of your own first.")
    for title, record in model.errors.items():
        lowest = record.get("lowest_energy_error_eV")
        if lowest is not None and lowest < FALSE_STATE:
            limits.append(
                f"False states: in “{title}” the lowest energy is {-lowest:g} eV too low, the sign "
                "of errors too large for nearly dependent orbitals."
            )
    return limits + [str(limit) for limit in model.training.get("limits", [])]
