"""Memory that a rank may use."""

from __future__ import annotations

import os
from pathlib import Path

from mpi4py import MPI

__all__ = ["memory_per_rank"]

# Left to the system and to what other programs may still ask for.
SHARE = 0.8


def memory_per_rank(comm: MPI.Intracomm) -> float:
    """Return a rank's share in bytes of the memory that its machine has free. Collective.

    The ranks of one machine share alike, so that all find the same value.
    """
    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    try:
        free: float = node.bcast(_free_memory())
        return SHARE * free / node.size
    finally:
        node.Free()


def _free_memory() -> float:
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
