"""Progress of a run and the table of its stages."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from mpi4py import MPI
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

__all__ = ["Stages"]


@dataclass
class Stages:
    """Times the stages of a run and says on rank 0 where it stands.

    On a terminal a stage with steps is a bar; in a batch log it is a few plain lines.

    Parameters
    ----------
    comm : mpi4py communicator
    quiet : bool
        Say nothing while running.
    """

    comm: MPI.Intracomm
    quiet: bool = False
    done: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._start = time.monotonic()
        self._console = Console(file=sys.stderr, highlight=False)

    def say(self, text: str) -> None:
        """Print a line on rank 0."""
        if self.comm.rank == 0 and not self.quiet:
            elapsed = time.monotonic() - self._start
            self._console.print(f"[{elapsed:7.1f} s] {text}", markup=False, soft_wrap=True)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage. Collective; the slowest rank counts."""
        started = time.monotonic()
        yield
        seconds = self.comm.allreduce(time.monotonic() - started, op=MPI.MAX)
        peak = self.comm.allreduce(_peak_megabytes(), op=MPI.MAX)
        self.done.append({"name": name, "seconds": round(seconds, 3), "peak_mb": round(peak, 1)})

    @contextmanager
    def steps(self, name: str, total: int) -> Iterator[Callable[[], None]]:
        """Time a stage of `total` steps; the block calls what it is given after each step."""
        with self.stage(name):
            if self.comm.rank == 0 and not self.quiet and self._console.is_terminal:
                columns = (TextColumn(name), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
                with Progress(*columns, console=self._console) as bar:
                    task = bar.add_task(name, total=total)
                    yield lambda: bar.advance(task)
            else:
                yield self._line_counter(name, total)

    def _line_counter(self, name: str, total: int) -> Callable[[], None]:
        """Return a counter that says about ten times in all how far it is."""
        count = 0
        every = max(-(-total // 10), 1)

        def advance() -> None:
            nonlocal count
            count += 1
            if count % every == 0 or count == total:
                self.say(f"{name}: {count} of {total}")

        return advance

    def table(self) -> str:
        """Return the table of stages: wall seconds, and peak memory of the fullest rank so far."""
        lines = [f"{'stage':<16}{'wall s':>10}{'peak MB/rank':>15}"]
        lines += [f"{s['name']:<16}{s['seconds']:>10.2f}{s['peak_mb']:>15.0f}" for s in self.done]
        total = sum(s["seconds"] for s in self.done)
        peak = max((s["peak_mb"] for s in self.done), default=0.0)
        lines.append(f"{'total':<16}{total:>10.2f}{peak:>15.0f}")
        return "\n".join(lines)


def _peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
