"""`hamgnn-tools screen`: gaps and flat bands of all structure files of a folder."""

from __future__ import annotations

import argparse
import fcntl
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from hamgnn_solve.cli.options import SolveOptions

if TYPE_CHECKING:
    from hamgnn_solve.cli.structure_runs import RunOutcome

__all__ = ["add_screen"]

DESCRIPTION = """\
Solve every structure file of a folder and make one table.

Each structure is a run of hamgnn-solve of its own with one rank, so that one that fails does not
end the others. OUT receives table.csv, screening.h5 (all bands) and records. Started again, the
command goes on: structures that are done are not solved again unless their file, the model or an
option that matters has changed; failed ones are."""

EPILOG = """\
examples:
  hamgnn-tools screen candidates --jobs 8
  hamgnn-tools screen candidates --out first --time-limit 600 --flat-width 0.02

exit codes: 0 done (failures have their row), 2 the input cannot be used, 1 anything else"""

FLAT_WIDTH, FLAT_WINDOW = 0.05, 1.0  # eV


def add_screen(subjects: Any) -> None:
    """Add the parser of the command to the subparsers of `hamgnn-tools`."""
    parser: argparse.ArgumentParser = subjects.add_parser(
        name="screen",
        help="gaps and flat bands of all structure files of a folder",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", metavar="DIR", help="folder of CIF, POSCAR, XSF, ... files")
    parser.add_argument(
        "-o", "--out", metavar="OUT", help="folder to write (default: <name of DIR>.screening)"
    )
    parser.add_argument(
        "--jobs", metavar="N", type=int, default=1, help="runs at a time (default: %(default)s)"
    )
    parser.add_argument(
        "--time-limit", metavar="S", type=float, help="stop a run after this many seconds"
    )
    parser.add_argument(
        "--flat-width",
        metavar="EV",
        type=float,
        default=FLAT_WIDTH,
        help="a band is flat when its highest and lowest energy over the whole path differ by less "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--flat-window",
        metavar="EV",
        type=float,
        default=FLAT_WINDOW,
        help="flat bands are looked for this far below and above the gap (default: %(default)s)",
    )
    parser.add_argument("--keep-runs", action="store_true", help="keep all run folders, in runs/")
    for name, kind, text in (
        ("model", str, "built-in model or a model folder"),
        ("dft_data", str, "OpenMX's DFT_DATA19 folder, for models of its orbitals"),
        ("kpath", str, "path for the bands, as of hamgnn-solve"),
        ("path_spacing", float, "largest step along the path in 1/Angstrom"),
        ("bands", int, "bands at each k-point, half below the Fermi level"),
        ("band_error", float, "largest estimated error of interpolated bands, in eV"),
    ):
        default = getattr(SolveOptions, name)
        shown = "" if default is None else f" (default: {default})"
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            metavar=name.upper(),
            type=kind,
            default=default,
            help=text + shown,
        )
    parser.add_argument(
        "--memory-per-run",
        metavar="SIZE",
        help="memory a run may use, 4GB say (default: its share of what is free now)",
    )
    parser.set_defaults(action=_screen)


def _screen(parsed: argparse.Namespace) -> None:
    from hamgnn_solve.cli.structure_runs import StructureRuns
    from hamgnn_solve.core.io.screening import (
        is_finished,
        printed_table,
        read_row,
        write_record,
        write_screening,
        write_table,
    )
    from hamgnn_solve.core.io.structure import structure_files

    options = _checked(parsed)
    files = structure_files(Path(parsed.folder))
    inputs = _inputs_of(files, options)
    out = Path(parsed.out or f"{Path(parsed.folder).resolve().name}.screening")
    flat = (parsed.flat_width, parsed.flat_window)
    with _alone_in(out):
        records = {file: out / "records" / f"{file.name}.h5" for file in files}
        waiting = [file for file in files if not is_finished(records[file], inputs[file])]
        for file in waiting:
            records[file].unlink(missing_ok=True)
        _say(f"{len(files)} structures, {len(files) - len(waiting)} of them done already")
        count = len(files) - len(waiting)

        def finished(file: Path, outcome: RunOutcome) -> None:
            nonlocal count
            count += 1
            results = outcome.folder / "results.h5" if outcome.status == "done" else None
            write_record(
                records[file],
                inputs[file],
                outcome.status,
                outcome.seconds,
                outcome.reason,
                results,
            )
            _keep_or_remove(outcome.folder, out / "runs" if parsed.keep_runs else None)
            _say(f"[{count}/{len(files)}] {file.name}: {outcome.status} {outcome.reason}".rstrip())

        arguments = _run_arguments(options, parsed)
        runs = StructureRuns(out / "running", arguments, parsed.jobs, parsed.time_limit)
        try:
            runs.run_all(waiting, finished)
        except KeyboardInterrupt:
            _say("stopped; the same command goes on")
            sys.exit(130)
        finally:
            # Also of what is there when the screening is interrupted.
            made = {file: record for file, record in records.items() if record.exists()}
            rows = [read_row(file.name, record, *flat) for file, record in made.items()]
            write_table(out / "table.csv", rows)
            write_screening(
                out / "screening.h5", list(zip(rows, made.values(), strict=True)), *flat
            )
            shutil.rmtree(out / "running", ignore_errors=True)
    print(printed_table(rows))
    print(
        f"\nflat: bands narrower than {flat[0]:g} eV over the whole path, within {flat[1]:g} eV of "
        f"the gap; flattest: the narrowest there; unknown: atoms outside the training set\n"
        f"wrote {out / 'table.csv'} and {out / 'screening.h5'}"
    )


def _checked(parsed: argparse.Namespace) -> SolveOptions:
    """Return the options of all runs; refuses what every run would refuse."""
    from hamgnn_solve.core.errors import InputError
    from hamgnn_solve.core.model_selection import AUTO, find_model

    if parsed.jobs < 1:
        raise InputError(f"--jobs {parsed.jobs} must be a number of runs.")
    if parsed.time_limit is not None and not parsed.time_limit > 0:
        raise InputError(f"--time-limit {parsed.time_limit:g} must be a number of seconds.")
    if not (parsed.flat_width > 0 and parsed.flat_window >= 0):
        raise InputError("--flat-width must be a positive energy and --flat-window none below 0.")
    model = parsed.model
    if model != AUTO:
        find_model(model)
    if Path(model).is_dir():
        model = str(Path(model).absolute())
    return SolveOptions(
        structure=parsed.folder,
        model=model,
        dft_data=parsed.dft_data,
        kpath=parsed.kpath,
        path_spacing=parsed.path_spacing,
        bands=parsed.bands,
        band_error=parsed.band_error,
        memory_per_rank=parsed.memory_per_run,
    )


def _inputs_of(files: list[Path], options: SolveOptions) -> dict[Path, str]:
    """Return what tells results of other files, models and options apart."""
    from hamgnn_solve.core.io.results import digest
    from hamgnn_solve.core.model_selection import descriptions

    settings = (
        options.kpath,
        options.path_spacing,
        options.bands,
        options.band_error,
        str(options.dft_data_folder),
        options.model,
        *descriptions(options.model),
    )
    return {file: digest(file.read_bytes(), *settings) for file in files}


def _run_arguments(options: SolveOptions, parsed: argparse.Namespace) -> list[str]:
    from hamgnn_solve.core.memory import SHARE, free_memory

    size = options.memory_per_rank or f"{SHARE * free_memory() / parsed.jobs / 1e6:.0f}MB"
    folder = options.dft_data_folder
    return [
        f"--model={options.model}",
        *([] if folder is None else [f"--dft-data={folder.absolute()}"]),
        f"--kpath={options.kpath}",
        f"--path-spacing={options.path_spacing}",
        f"--bands={options.bands}",
        f"--band-error={options.band_error}",
        f"--memory-per-rank={size}",
    ]


@contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    """Make the folder of a screening and keep others out of it; SIGTERM is an interruption."""
    from hamgnn_solve.core.errors import InputError

    try:
        (out / "records").mkdir(parents=True, exist_ok=True)
        lock = (out / "lock").open("w")
    except OSError as error:
        raise InputError(
            f"The folder {out} cannot be written ({error.strerror}); choose another with --out."
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(
                f"Another screening works in {out}; wait for it, or choose another --out."
            ) from error
        before = signal.signal(signal.SIGTERM, _interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _keep_or_remove(folder: Path, kept: Path | None) -> None:
    if kept is not None and folder.exists():
        kept.mkdir(exist_ok=True)
        shutil.rmtree(kept / folder.name, ignore_errors=True)
        folder.rename(kept / folder.name)
    shutil.rmtree(folder, ignore_errors=True)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
