"""Fetch the features of ghost atoms from the ranks that own them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from mpi4py import MPI
from mpi4py.util.dtlib import from_numpy_dtype
from numpy.typing import NDArray

__all__ = ["halo_exchange"]


def halo_exchange(
    comm: MPI.Intracomm,
    owner_i: NDArray[np.int64],
    owned: NDArray[np.int64],
    ghosts: NDArray[np.int64],
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Prepare the exchange of one row of features per atom. Collective.

    Neighbouring ranks and the rows that travel are fixed once; each call is one
    `MPI_Neighbor_alltoallv`.

    Parameters
    ----------
    comm : mpi4py communicator
    owner_i : ndarray of int64, shape (N,)
        Owner of every atom.
    owned, ghosts : ndarray of int64
        Global indices of this rank's atoms and of those it reads, both ascending.

    Returns
    -------
    callable
        Takes features (owned, ...) and returns (owned + ghosts, ...); collective.
    """
    ghost_owner = owner_i[ghosts]
    # Ghosts are received grouped by owner; `place` puts them back into ascending order.
    place = np.argsort(ghost_owner, kind="stable")
    receive_counts = np.bincount(ghost_owner, minlength=comm.size)
    wanted = [ghosts[place][ghost_owner[place] == rank] for rank in range(comm.size)]
    asked = comm.alltoall(wanted)
    sources = np.flatnonzero(receive_counts)
    targets = [rank for rank in range(comm.size) if len(asked[rank])]
    send_rows = np.searchsorted(
        owned, np.concatenate([asked[rank] for rank in targets]) if targets else owned[:0]
    )
    graph = comm.Create_dist_graph_adjacent(sources.tolist(), targets)
    receive_layout = _layout(receive_counts[sources])
    send_layout = _layout(np.array([len(asked[rank]) for rank in targets], dtype=np.int64))

    def exchange(features: torch.Tensor) -> torch.Tensor:
        rows = features.detach().contiguous().numpy()
        sent = np.ascontiguousarray(rows[send_rows])
        received = np.empty((len(ghosts), *rows.shape[1:]), dtype=rows.dtype)
        # One atom is one item, so that counts stay small whatever the width of the features.
        atom = from_numpy_dtype(rows.dtype).Create_contiguous(int(np.prod(rows.shape[1:])))
        atom.Commit()
        try:
            graph.Neighbor_alltoallv([sent, *send_layout, atom], [received, *receive_layout, atom])
        finally:
            atom.Free()
        ghost_rows = np.empty_like(received)
        ghost_rows[place] = received
        return torch.cat([features, torch.from_numpy(ghost_rows)])

    return exchange


def _layout(counts: NDArray[np.int64]) -> tuple[Any, Any]:
    displacements = np.concatenate([[0], np.cumsum(counts)[:-1]]) if len(counts) else counts
    return counts.tolist(), np.asarray(displacements, dtype=np.int64).tolist()
