"""Runs of `hamgnn-solve` as processes of their own, several at a time."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hamgnn_solve.core.io.screening import DONE, FAILED, REFUSED

__all__ = ["RunOutcome", "StructureRuns"]

# A run is no part of an MPI job that the screening may have been started in.
MPI_NAMES = ("OMPI_COMM_", "OMPI_UNIVERSE", "OMPI_APP_", "PMIX_", "PMI_", "ORTE_", "OPAL_")


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended.

    Parameters
    ----------
    status : str
        "done", "refused" or "failed".
    reason : str
        One sentence where it is not done.
    seconds : float
        Wall time.
    folder : Path
        Its run folder.
    """

    status: str
    reason: str
    seconds: float
    folder: Path


class StructureRuns:
    """Runs with one rank each; a crash or kill of one leaves the others alone.

    Parameters
    ----------
    scratch : Path
        Folder for run folders; emptied first.
    arguments : sequence of str
        Options of `hamgnn-solve` for all runs; paths in them are absolute.
    jobs : int
        How many run at the same time.
    time_limit : float, optional
        Seconds after which a run is stopped.
    """

    def __init__(
        self, scratch: Path, arguments: Sequence[str], jobs: int, time_limit: float | None
    ) -> None:
        self.scratch, self.arguments = scratch.absolute(), list(arguments)
        self.jobs, self.time_limit = jobs, time_limit
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self._stopped = False
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir(parents=True)

    def run_all(self, files: Sequence[Path], finished: Callable[[Path, RunOutcome], None]) -> None:
        """Run all files; `finished` is called after each, in this thread.

        When this is interrupted, the runs under way are stopped.
        """
        with ThreadPoolExecutor(self.jobs) as pool:
            futures = {pool.submit(self._run, file): file for file in files}
            try:
                for future in as_completed(futures):
                    finished(futures[future], future.result())
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                self._stop()
                raise

    def _run(self, file: Path) -> RunOutcome:
        folder = self.scratch / f"{file.name}.hamgnn"
        program = [sys.executable, "-m", "hamgnn_solve.cli.main"]
        # With = and -- no name is taken for an option.
        wanted = [f"--out={folder}", *self.arguments, "--", str(file.absolute())]
        command = [*program, "--quiet", *wanted]
        environment = {k: x for k, x in os.environ.items() if not k.startswith(MPI_NAMES)}
        began = time.monotonic()
        with self._lock:
            if self._stopped:
                return RunOutcome(FAILED, "the screening was stopped", 0.0, folder)
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                env=environment,
                # Not where a checkout of the sources would hide the installed package.
                cwd=self.scratch,
                start_new_session=True,
            )
            self._running.add(process)
        try:
            _, log = process.communicate(timeout=self.time_limit)
            status, reason = _ending(process.returncode, log)
        except subprocess.TimeoutExpired:
            _kill(process)
            process.communicate()
            status, reason = FAILED, f"stopped at the time limit of {self.time_limit:g} s"
        finally:
            with self._lock:
                self._running.discard(process)
        return RunOutcome(status, reason, time.monotonic() - began, folder)

    def _stop(self) -> None:
        with self._lock:
            self._stopped = True
            for process in self._running:
                _kill(process)


def _kill(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):  # it has just ended
        os.killpg(process.pid, signal.SIGKILL)


def _ending(code: int, log: str) -> tuple[str, str]:
    """Return status and reason of a run that ended by itself, or was killed by others."""
    lines = [line for line in log.splitlines() if line.strip()]
    last = lines[-1].strip() if lines else "it said nothing"
    if code == 0:
        return DONE, ""
    if code == 2:
        return REFUSED, last.removeprefix("hamgnn-solve: ")
    if code == -signal.SIGKILL:
        return FAILED, "killed from outside, as the system does when memory runs out"
    if code < 0:
        return FAILED, f"ended by signal {signal.Signals(-code).name} ({last})"
    return FAILED, f"exit code {code}: {last}"
