"""Functions on a grid whose planes are divided over the ranks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hamgnn_solve.core.real_space.grid import GridFunction
from hamgnn_solve.core.real_space.orbital_grid import TileFunction, Tiling

__all__ = ["own_planes", "planes_in_order", "sum_to_slabs"]

# Numbers sent together when planes are collected.
MESSAGE = 1 << 22


def own_planes(tiling: Tiling, comm: MPI.Intracomm) -> tuple[int, int]:
    """Return the first plane of this rank and the one behind its last; whole layers of tiles."""
    layers = tiling.shape[0]
    first, last = (layers * (comm.rank + n) // comm.size for n in (0, 1))
    return int(tiling.bounds[0][first]), int(tiling.bounds[0][last])


def sum_to_slabs(part: TileFunction, comm: MPI.Intracomm) -> list[GridFunction]:
    """Sum functions on tiles over the ranks; each rank gets its planes of the grid. Collective.

    Parameters
    ----------
    part : TileFunction
        What this rank adds.
    comm : mpi4py communicator

    Returns
    -------
    list of GridFunction
        One for each function of `part`.
    """
    tiling = part.tiling
    first, stop = own_planes(tiling, comm)
    grid = tiling.grid
    nfunctions = part.values.shape[1]
    planes = np.zeros((nfunctions, stop - first, *grid.shape[1:]))
    per_layer = tiling.shape[1] * tiling.shape[2]
    layers = tiling.shape[0]
    edges = per_layer * np.array([layers * rank // comm.size for rank in range(comm.size + 1)])
    ends = np.searchsorted(part.tiles, edges)
    # One rank after the other, so that no rank holds what others send it all at once.
    for shift in range(comm.size):
        to, source = (comm.rank + shift) % comm.size, (comm.rank - shift) % comm.size
        mine = slice(ends[to], ends[to + 1])
        count = comm.sendrecv(ends[to + 1] - ends[to], dest=to, source=source)
        tiles = np.empty(count, dtype=np.int64)
        values: NDArray[np.float64] = np.empty((count, *part.values.shape[1:]))
        comm.Sendrecv(part.tiles[mine], to, recvbuf=tiles, source=source)
        comm.Sendrecv(np.ascontiguousarray(part.values[mine]), to, recvbuf=values, source=source)
        TileFunction(tiling, tiles, values).add_to(planes, first)
    return [GridFunction(grid, first, one) for one in planes]


def planes_in_order(function: GridFunction, comm: MPI.Intracomm) -> Iterator[NDArray[np.float64]]:
    """Yield all planes of a real function on rank 0, some at a time, and nothing elsewhere.

    Collective: every rank must go through the iterator to its end.

    Parameters
    ----------
    function : GridFunction
        The planes of this rank, those of rank 0 first.
    comm : mpi4py communicator
    """
    shape = function.grid.shape[1:]
    step = max(1, MESSAGE // (shape[0] * shape[1]))
    counts = comm.allgather(len(function.values))
    for rank, count in enumerate(counts):
        for start in range(0, count, step):
            part = slice(start, min(start + step, count))
            if comm.rank == rank:
                values = np.ascontiguousarray(function.values[part])
                if rank != 0:
                    comm.Send(values, dest=0)
            elif comm.rank == 0:
                values = np.empty((part.stop - part.start, *shape))
                comm.Recv(values, source=rank)
            if comm.rank == 0:
                yield values
