"""The command `hamgnn-tools`: structures, labels, training, models, matrices, figures and more."""

from __future__ import annotations

import argparse
import sys

from hamgnn_solve import __version__
from hamgnn_solve.cli.convert import add_convert
from hamgnn_solve.cli.evaluate import add_evaluate
from hamgnn_solve.cli.label import add_label
from hamgnn_solve.cli.model import add_model
from hamgnn_solve.cli.openmx import add_openmx
from hamgnn_solve.cli.plot import add_plot
from hamgnn_solve.cli.screen import add_screen
from hamgnn_solve.cli.structure import add_structure
from hamgnn_solve.cli.train import add_train

__all__ = ["main"]

EPILOG = """\
examples:
  hamgnn-tools structure twist MoS2 WS2 9 10
  hamgnn-tools label recipe.yaml -o labels.h5
  hamgnn-tools train train.yaml -o run
  hamgnn-tools evaluate run/model labels.h5
  hamgnn-tools screen candidates --jobs 8
  hamgnn-tools model list
  hamgnn-tools convert mos2.scfout mos2.h5 --to h5
  hamgnn-tools openmx collect runs -o labels.h5
  hamgnn-tools plot crystal.hamgnn --window -2 3 --format png,svg

exit codes: 0 done, 2 the input cannot be used (one sentence says why), 1 anything else"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="hamgnn-tools",
        description="Structures, labels, training, models, matrices, screenings and figures "
        "around hamgnn-solve.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    subjects = parser.add_subparsers(required=True, metavar="SUBJECT")
    add_structure(subjects)
    add_label(subjects)
    add_train(subjects)
    add_evaluate(subjects)
    add_screen(subjects)
    add_model(subjects)
    add_convert(subjects)
    add_openmx(subjects)
    add_plot(subjects)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parsed = build_parser().parse_args(arguments)
    # Imported here so that --help answers at once.
    from hamgnn_solve.core.errors import InputError

    try:
        return int(parsed.action(parsed) or 0)
    except InputError as error:
        print(f"hamgnn-tools: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
