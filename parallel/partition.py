"""Which rank owns which atom."""

from __future__ import annotations

import numpy as np
import pymetis
from mpi4py import MPI
from numpy.typing import NDArray

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.pairs import PairList, find_pairs
from hamgnn_solve.core.structure import Structure
from hamgnn_solve.core.units import ANGSTROM_PER_BOHR

__all__ = ["partition_atoms"]

LINK_RADIUS = 3.75 / ANGSTROM_PER_BOHR  # atoms closer than twice this may be linked
MAX_LINKS = 32
# Cuts to choose from, and how much more than the mean the fullest domain may hold.
SEEDS = 3
EVEN_LOAD = 1.05


def partition_atoms(
    structure: Structure,
    reach_i: NDArray[np.float64],
    comm: MPI.Intracomm,
    ndomains: int | None = None,
) -> NDArray[np.int64]:
    """Divide the atoms into compact domains of equal work with METIS. Collective.

    The graph links each atom to at most 32 nearest neighbours, so it stays small (O(N));
    an atom weighs as many pairs as it has within orbital range. Each rank counts the pairs of a
    slice of the atoms, and rank 0 partitions.

    Parameters
    ----------
    structure : Structure
        The whole structure.
    reach_i : ndarray, shape (N,)
        Orbital cutoff of each atom in Bohr.
    comm : mpi4py communicator
        Its ranks share the counting.
    ndomains : int, optional
        Number of domains; one for each rank by default. The domains do not depend on how many
        ranks count.

    Returns
    -------
    ndarray of int64, shape (N,)
        Rank that owns each atom, the same on every rank.

    Raises
    ------
    InputError
        For more domains than atoms.
    """
    ndomains = comm.size if ndomains is None else ndomains
    if ndomains > structure.natoms:
        raise InputError(
            f"{ndomains} ranks for {structure.natoms} atoms leave some without work; "
            f"start at most {structure.natoms} ranks."
        )
    if ndomains == 1:
        return np.zeros(structure.natoms, dtype=np.int64)
    mine = np.array_split(np.arange(structure.natoms), comm.size)[comm.rank]
    weight_i = np.concatenate(comm.allgather(_pair_counts(structure, reach_i, mine)))
    links = comm.gather(_nearest_links(structure, mine))
    owner_i = None
    if comm.rank == 0 and links is not None:
        owner_i = _metis(np.concatenate(links), weight_i, ndomains)
    return np.asarray(comm.bcast(owner_i), dtype=np.int64)


def _pair_counts(
    structure: Structure, reach_i: NDArray[np.float64], atoms: NDArray[np.int64]
) -> NDArray[np.int64]:
    pairs = find_pairs(structure, reach_i, atoms)
    return np.bincount(pairs.first_p - atoms[0], minlength=len(atoms)) + 1


def _nearest_links(structure: Structure, atoms: NDArray[np.int64]) -> NDArray[np.int64]:
    pairs = find_pairs(structure, np.full(structure.natoms, LINK_RADIUS), atoms)
    order = np.lexsort((pairs.distance_p, pairs.first_p))
    near: PairList = pairs.select(order)
    start_p = np.searchsorted(near.first_p, near.first_p, side="left")
    kept = (np.arange(len(near)) - start_p < MAX_LINKS) & (near.first_p != near.second_p)
    return np.stack([near.first_p[kept], near.second_p[kept]], axis=1)


def _metis(links: NDArray[np.int64], weight_i: NDArray[np.int64], nparts: int) -> NDArray[np.int64]:
    """Return the best of a few cuts: the fewest cut links among those of even load."""
    both = np.unique(np.concatenate([links, links[:, ::-1]]), axis=0)
    starts = np.searchsorted(both[:, 0], np.arange(len(weight_i) + 1))
    adjacency = pymetis.CSRAdjacency(starts.tolist(), both[:, 1].tolist())
    best, best_score = None, (True, np.inf)
    for recursive in (False, True):
        for seed in range(SEEDS):
            cut, owner = pymetis.part_graph(
                nparts,
                adjacency=adjacency,
                vweights=weight_i.tolist(),
                recursive=recursive,
                options=pymetis.Options(seed=seed),
            )
            owner_i = np.asarray(owner, dtype=np.int64)
            load = np.bincount(owner_i, weights=weight_i, minlength=nparts)
            uneven = bool(load.max() > EVEN_LOAD * load.mean())
            score = (uneven, float(load.max()) if uneven else float(cut))
            if load.min() > 0 and score < best_score:
                best, best_score = owner_i, score
    return _equal_slices(weight_i, nparts) if best is None else best


def _equal_slices(weight_i: NDArray[np.int64], nparts: int) -> NDArray[np.int64]:
    """Cut the atoms in file order, at least one each: METIS may leave parts of few atoms empty."""
    natoms = len(weight_i)
    middle = np.cumsum(weight_i) - weight_i / 2
    owner_i = np.floor(nparts * middle / weight_i.sum()).astype(np.int64)
    at_most = np.minimum(np.arange(natoms), nparts - 1)
    at_least = nparts - 1 - np.minimum(np.arange(natoms)[::-1], nparts - 1)
    owner_i = np.clip(owner_i, at_least, at_most)
    # A heavy atom may make the owners jump by more than one; close the gaps from the left.
    for i in range(1, natoms):
        owner_i[i] = np.clip(owner_i[i], owner_i[i - 1], owner_i[i - 1] + 1)
    return owner_i
