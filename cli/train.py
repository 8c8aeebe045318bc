"""`hamgnn-tools train`: train a network on labels."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

__all__ = ["add_train"]

DESCRIPTION = """\
Train a network on labels, step after step (on H, then with band energies), as CONFIG says:
docs/reference.md lists its entries. The folder receives curve-N.csv for each step, checkpoint.pt
and model/, the model folder with averaged weights. Started again, a run that was stopped goes on.
Under mpirun the structures of an update are shared out over the ranks."""

EPILOG = """\
examples:
  hamgnn-tools train training/recipes/tmd_train.yaml -o tmd-run
  mpirun -n 4 hamgnn-tools train mine.yaml -o run

exit codes: 0 done, 2 the input cannot be used (one sentence says why), 1 anything else"""


def add_train(subjects: Any) -> None:
    """Add the parser of the command to the subparsers of `hamgnn-tools`."""
    parser: argparse.ArgumentParser = subjects.add_parser(
        name="train",
        help="train a network on labels",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", metavar="CONFIG.yaml", help="what to train and how")
    parser.add_argument(
        "-o", "--out", metavar="DIR", required=True, help="folder of curves, checkpoint and model"
    )
    parser.set_defaults(action=_train)


def _train(parsed: argparse.Namespace) -> int:
    from mpi4py import MPI

    from hamgnn_solve.parallel.faults import agreed, exit_code_of
    from hamgnn_solve.training.config import read_training_config
    from hamgnn_solve.training.train import train

    comm = MPI.COMM_WORLD

    def work() -> None:
        with agreed(comm):
            config = read_training_config(Path(parsed.config))
        train(config, Path(parsed.out), comm, lambda line: print(line, flush=True))

    return exit_code_of("hamgnn-tools", comm, work)
