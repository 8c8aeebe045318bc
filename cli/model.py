"""`hamgnn-tools model`: import published models, describe models, list the built-in ones."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hamgnn_solve.core.model import Model

__all__ = ["add_model"]

EXIT_CODES = """\
exit codes: 0 done, 2 the input cannot be used (one sentence says why), 1 anything else"""

EPILOG = f"""\
examples:
  hamgnn-tools model import universal_Hamiltonian.ckpt --config model_config.yaml -o universal
  hamgnn-tools model list
  hamgnn-tools model info universal
  hamgnn-tools model info tmd
  hamgnn-tools model environments run/model labels.h5

{EXIT_CODES}"""

IMPORT_DESCRIPTION = """\
Make a model folder (model.yaml, weights.safetensors) of a HamGNN checkpoint.

The weights stay as they are, in single precision. Nothing that the checkpoint asks Python to run
is run. The YAML file that the weights were trained with is needed for what tensors do not show,
above all the order of the irreps; where both tell something, they have to agree."""

ENVIRONMENTS_DESCRIPTION = """\
Record the surroundings of the training set's atoms in a model folder (environments.safetensors).

Runs with the model then list the atoms whose surroundings lie outside. Structures that model.yaml
names as held out are left out. One process; a structure takes about as long as its network."""

ENVIRONMENTS_EPILOG = f"""\
examples:
  hamgnn-tools model environments run/model labels.h5
  hamgnn-tools model environments mos2 recipe.yaml more.cif

{EXIT_CODES}"""

IMPORT_EPILOG = f"""\
examples:
  hamgnn-tools model import universal_Hamiltonian.ckpt --config model_config.yaml -o universal
  hamgnn-tools model import mos2.ckpt --config config.yaml -o mos2 --elements Mo S

{EXIT_CODES}"""


def add_model(subjects: Any) -> None:
    """Add the parser of the command to the subparsers of `hamgnn-tools`."""
    model = _parser(
        subjects.add_parser,
        name="model",
        help="import a published model, describe models",
        description="Import a published model, describe a model, list the built-in ones.",
        epilog=EPILOG,
    )
    actions = model.add_subparsers(required=True, metavar="ACTION")
    _add_import(actions)
    _add_info(actions)
    _add_list(actions)
    _add_environments(actions)


def _parser(make: Any, **settings: Any) -> argparse.ArgumentParser:
    result: argparse.ArgumentParser = make(
        formatter_class=argparse.RawDescriptionHelpFormatter, **settings
    )
    return result


def _add_import(actions: Any) -> None:
    parser = _parser(
        actions.add_parser,
        name="import",
        help="make a model folder of a HamGNN checkpoint",
        description=IMPORT_DESCRIPTION,
        epilog=IMPORT_EPILOG,
    )
    parser.add_argument("checkpoint", metavar="CKPT", help="checkpoint of PyTorch Lightning")
    parser.add_argument(
        "--config",
        metavar="YAML",
        help="HamGNN's YAML file that the weights were trained with (model_config.yaml)",
    )
    parser.add_argument("-o", "--out", metavar="DIR", required=True, help="model folder to make")
    parser.add_argument("--name", metavar="NAME", help="name of the model (default: that of DIR)")
    parser.add_argument(
        "--elements",
        metavar="X",
        nargs="+",
        default=[],
        help="elements that the weights were trained on (default: all that the network has room "
        "for; a checkpoint does not tell)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a model folder")
    parser.set_defaults(action=_import)


def _add_info(actions: Any) -> None:
    parser = _parser(
        actions.add_parser,
        name="info",
        help="describe a model",
        description="Print what a model knows, how large it is, and what is said of its training.",
        epilog=f"examples:\n  hamgnn-tools model info tmd\n\n{EXIT_CODES}",
    )
    parser.add_argument("model", metavar="DIR|NAME", help="model folder or built-in model")
    parser.set_defaults(action=_info)


def _add_list(actions: Any) -> None:
    parser = _parser(
        actions.add_parser,
        name="list",
        help="list the built-in models",
        description="Print the built-in models, the elements each knows and its measured errors.",
        epilog=f"examples:\n  hamgnn-tools model list\n\n{EXIT_CODES}",
    )
    parser.set_defaults(action=_list)


def _add_environments(actions: Any) -> None:
    parser = _parser(
        actions.add_parser,
        name="environments",
        help="record the surroundings of the training set's atoms in a model folder",
        description=ENVIRONMENTS_DESCRIPTION,
        epilog=ENVIRONMENTS_EPILOG,
    )
    parser.add_argument("model", metavar="DIR", help="model folder to add the file to")
    parser.add_argument(
        "structures",
        metavar="STRUCTURES",
        nargs="+",
        help="structure files, recipes (YAML) or label files (HDF5) of the training set",
    )
    parser.set_defaults(action=_environments)


def _import(parsed: argparse.Namespace) -> None:
    from hamgnn_solve.core.errors import InputError
    from hamgnn_solve.core.io.checkpoint import read_checkpoint
    from hamgnn_solve.core.model import check_new_folder, save_new_model
    from hamgnn_solve.core.published.model import published_model
    from hamgnn_solve.core.published.settings import read_settings

    if parsed.config is None:
        raise InputError(
            "The order of the irreps and whether H0 is added do not show in a checkpoint; give "
            "the YAML file that it was trained with (model_config.yaml) as --config."
        )
    folder = Path(parsed.out)
    check_new_folder(folder, parsed.overwrite)
    settings = read_settings(parsed.config)
    checkpoint = read_checkpoint(parsed.checkpoint)
    name = parsed.name or folder.resolve().name
    model = published_model(checkpoint, settings, name, tuple(parsed.elements))
    save_new_model(model, folder, parsed.overwrite)
    print(f"wrote {folder}\n\n{describe(model)}", end="")


def _info(parsed: argparse.Namespace) -> None:
    from hamgnn_solve.core.model_selection import find_model

    print(describe(find_model(parsed.model)), end="")


def _environments(parsed: argparse.Namespace) -> None:
    from hamgnn_solve.core.model import load_model, save_model
    from hamgnn_solve.training.environments import read_training_structures, record_environments

    folder = Path(parsed.model)
    model = load_model(folder)
    structures = read_training_structures([Path(name) for name in parsed.structures])
    held_out = set(model.training.get("held_out", ())) & structures.keys()
    seen = {name: one for name, one in structures.items() if name not in held_out}
    model = record_environments(model, seen)
    save_model(model, folder)
    assert model.environments is not None  # just made
    print(f"{len(seen)} structures recorded in {folder}, {len(held_out)} held out")
    for symbol, known in model.environments.elements.items():
        print(f"{symbol:<4}{len(known.atoms_aq)} atoms, threshold {known.threshold:.2f}")


def _list(_parsed: argparse.Namespace) -> None:
    from hamgnn_solve.core.model_selection import built_in_models, measured_errors

    for model in built_in_models():
        print(f"{model.name:<12}{' '.join(sorted(model.elements))}")
        print(f"{'':<12}{measured_errors(model.errors)}")


def describe(model: Model) -> str:
    """Return what `model info` prints."""
    from hamgnn_solve.training.model_card import entry_lines, model_facts

    lines = [f"{key:<12}{value}" for key, value in model_facts(model).items()]
    lines += [f"  {line}" for line in _element_lines(model)]
    lines += ["training", *entry_lines(model.training or "not told", 1)]
    lines += ["errors", *entry_lines(model.errors or "none measured", 1)]
    return "\n".join(lines) + "\n"


def _element_lines(model: Model) -> list[str]:
    """Return a line for each set of shells: orbitals, shells and the elements that have them."""
    kinds: dict[tuple[int, ...], list[str]] = {}
    for symbol in model.elements:
        species = model.basis.species[symbol]
        kinds.setdefault(species.shell_l, []).append(species.name)
    return [
        f"{sum(2 * degree + 1 for degree in shell_l):>3} orbitals: {' '.join(names)}"
        for shell_l, names in sorted(kinds.items(), key=lambda item: (len(item[0]), item[0]))
    ]
