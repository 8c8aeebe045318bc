"""Memory that this machine has free."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["SHARE", "free_memory"]

# Part of the free memory to use; the rest is for the system and what other programs may ask for.
SHARE = 0.8


def free_memory() -> float:
    """Return free memory in bytes: what the kernel could give, within the control group's bound."""
    free = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(1024.0 * int(x.split()[1]) for x in lines if x.startswith("MemAvailable:"))
        group = Path("/sys/fs/cgroup")
        bound = (group / "memory.max").read_text().strip()
        if bound != "max":
            used = int((group / "memory.current").read_text())
            free = min(free, float(int(bound) - used))
    except (OSError, StopIteration, ValueError):
        pass  # no such files on this system: all its memory is the best guess
    return free
