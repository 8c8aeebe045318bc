"""CPU seconds and memory of a part of a benchmark."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def measured(stage: str) -> Iterator[None]:
    """Print the CPU seconds of a block and the peak memory of the process after it."""
    started = time.process_time()
    yield
    seconds = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{stage:<34}{seconds:>10.2f} CPU s{peak:>9.0f} MB", flush=True)
