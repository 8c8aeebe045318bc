"""`hamgnn-tools evaluate`: errors of a model against labels."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hamgnn_solve.core.model import Model

__all__ = ["add_evaluate"]

DESCRIPTION = """\
Compare the predictions of a model with labels.

Printed are, for every structure, the error of H in meV over all, on-site and off-site elements
after the best constant c times S is removed; c; the gap and its error; the errors of the band
edges with the model's own zero of energy; the error of the energies near the Fermi level, each
from its own Fermi level (the middle of the gap); the overlap of the densities of states; the
error of the lowest energy with c. Energies in eV. Averages follow, H by elements and distance."""

EPILOG = """\
examples:
  hamgnn-tools evaluate run/model labels.h5 --names held-out-1 held-out-2
  hamgnn-tools evaluate run/model labels.h5 --out figures
  hamgnn-tools evaluate run/model labels.h5 --record "held-out structures"

exit codes: 0 done, 2 the input cannot be used (one sentence says why), 1 anything else"""


def add_evaluate(subjects: Any) -> None:
    """Add the parser of the command to the subparsers of `hamgnn-tools`."""
    parser: argparse.ArgumentParser = subjects.add_parser(
        name="evaluate",
        help="errors of a model against labels",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="DIR|NAME", help="model folder or built-in model")
    parser.add_argument("labels", metavar="LABELS.h5", help="label file")
    parser.add_argument("--names", metavar="NAME", nargs="+", help="labels to use (default: all)")
    parser.add_argument(
        "--record",
        metavar="TITLE",
        help="write the averages into model.yaml under this title, and the model card MODEL.md",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="draw the bands of each structure, label and prediction: NAME.png and NAME.svg",
    )
    for name, default, what in (
        ("window", 1.0, "energies up to this far from the Fermi level count"),
        ("dos-window", 6.0, "the same for the overlap of densities of states"),
        ("broadening", 0.1, "standard deviation of their Gaussians"),
    ):
        parser.add_argument(
            f"--{name}",
            metavar="EV",
            type=float,
            default=default,
            help=f"{what} (default: %(default)s)",
        )
    parser.set_defaults(action=_evaluate)


def _evaluate(parsed: argparse.Namespace) -> None:
    import yaml

    from hamgnn_solve.core.errors import InputError
    from hamgnn_solve.core.model_selection import find_model
    from hamgnn_solve.training.comparison import compare, draw_comparison
    from hamgnn_solve.training.evaluate import EnergyRanges, error_table, errors_of, summary
    from hamgnn_solve.training.label_file import labels_of

    if parsed.record is not None and not Path(parsed.model).is_dir():
        raise InputError(
            f"--record writes into a model folder, and {parsed.model} is none; give its path."
        )
    ranges = EnergyRanges(parsed.window, parsed.dos_window, parsed.broadening)
    model = find_model(parsed.model)
    errors = []
    for name, label in labels_of(Path(parsed.labels), parsed.names):
        comparison = compare(model, name, label)
        errors.append(errors_of(comparison, ranges))
        if parsed.out is not None:
            draw_comparison(comparison, Path(parsed.out))
    print(error_table(errors, ranges), end="\n\n")
    averages = summary(errors, ranges)
    print(yaml.safe_dump(averages, sort_keys=False), end="")
    if parsed.record is not None:
        _record(model, parsed, averages)


def _record(model: Model, parsed: argparse.Namespace, averages: dict[str, Any]) -> None:
    from dataclasses import replace

    from hamgnn_solve.core.model import save_model
    from hamgnn_solve.training.model_card import write_model_card

    folder = Path(parsed.model)
    entry = {**averages, "command": _command(parsed)}
    recorded = replace(model, errors={**model.errors, parsed.record: entry})
    save_model(recorded, folder)
    write_model_card(recorded, folder)


def _command(parsed: argparse.Namespace) -> str:
    """Return the command that measures the same again, files by name alone."""
    words = ["hamgnn-tools", "evaluate", Path(parsed.model).resolve().name]
    words += [Path(parsed.labels).name]
    for name in ("window", "dos_window", "broadening"):
        words += [f"--{name.replace('_', '-')}", f"{getattr(parsed, name):g}"]
    return shlex.join(words + (["--names", *parsed.names] if parsed.names else []))
