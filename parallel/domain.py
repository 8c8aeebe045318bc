"""Make the domain of this rank."""

from __future__ import annotations

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hamgnn_solve.core.basis.species import Basis
from hamgnn_solve.core.domain import Domain
from hamgnn_solve.core.pairs import find_pairs
from hamgnn_solve.core.structure import Structure
from hamgnn_solve.parallel.halo import halo_exchange

__all__ = ["distributed_domain"]


def distributed_domain(
    structure: Structure, basis: Basis, owner_i: NDArray[np.int64], comm: MPI.Intracomm
) -> Domain:
    """Return this rank's atoms, ghosts, pairs and halo exchange. Collective.

    Parameters
    ----------
    structure, basis
        The whole structure and the species of its elements.
    owner_i : ndarray of int64, shape (N,)
        Rank that owns each atom, from `partition_atoms`.
    comm : mpi4py communicator

    Returns
    -------
    Domain
        Pairs are found for the owned atoms alone; nothing of the size of all pairs is made.
    """
    owned = np.flatnonzero(owner_i == comm.rank)
    pairs = find_pairs(structure, basis.cutoff_i(structure), owned)
    ghosts = np.setdiff1d(pairs.second_p, owned)
    return Domain(
        structure, basis, owned, ghosts, pairs, halo_exchange(comm, owner_i, owned, ghosts)
    )
