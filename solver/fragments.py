"""A first guess of where the states lie, from small clusters of atoms solved densely."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hamgnn_solve.core.operator import BlockOperator, dense_matrix
from hamgnn_solve.core.pairs import PairList
from hamgnn_solve.solver.pencil import Pencil

__all__ = ["LevelGuess", "guess_levels"]

# Orbitals of a cluster, clusters of a rank, and clusters of all ranks together.
CLUSTER = 500
CLUSTERS_OF_RANK = 12
CLUSTERS = 48
# Part of the electrons that clusters may miss, and where a gap is looked for (Hartree).
CHARGE_ERROR = 0.1
WINDOW, RESOLUTION = 0.01, 1e-3
# Part of the states that are still next to none.
FEW = 1e-5
# States are few where their density is below this part of its mean around the electrons.
THIN = 0.5


class LevelGuess:
    """An estimate of the number of states below an energy.

    Parameters
    ----------
    energies_n : ndarray, shape (levels,)
        Levels of all clusters in Hartree.
    weights_n : ndarray, shape (levels,)
        How many states of the cell each stands for.
    """

    def __init__(self, energies_n: NDArray[np.float64], weights_n: NDArray[np.float64]) -> None:
        order = np.argsort(energies_n, kind="stable")
        self.energies_n = energies_n[order]
        self.count_n = np.cumsum(weights_n[order])

    def energy(self, states: float) -> float:
        """Return the energy in Hartree below which about so many states lie."""
        place = int(np.searchsorted(self.count_n, states))
        below = self.energies_n[max(place - 1, 0)]
        return float(0.5 * (below + self.energies_n[min(place, len(self.energies_n) - 1)]))

    def gap(self, states: float) -> float:
        """Return the energy in Hartree with the fewest states around it near a count of states.

        Charges of the clusters are right to a tenth only, but a gap shows as a minimum.
        """
        levels = self._levels_around(states)
        if len(levels) == 0:
            return self.energy(states)
        tried = np.arange(levels[0], levels[-1] + RESOLUTION, RESOLUTION)
        bounds = np.stack([tried - WINDOW, tried + WINDOW])
        count_n = np.concatenate([[0.0], self.count_n])
        low, high = count_n[np.searchsorted(self.energies_n, bounds)]
        within = high - low
        # The middle of the widest stretch with next to no states: there may be several gaps.
        fewest = within <= within.min() + FEW * states
        ends = np.flatnonzero(np.diff(np.concatenate([[False], fewest, [False]]).astype(np.int8)))
        first, last = ends.reshape(-1, 2)[np.argmax(np.diff(ends.reshape(-1, 2), axis=1))]
        return float(0.5 * (tried[first] + tried[last - 1]))

    def is_thin(self, low: float, high: float, states: float) -> bool:
        """Tell whether fewer states lie between two energies than elsewhere near a count of states.

        Surfaces of the clusters leave some in a gap too.
        """
        levels = self._levels_around(states)
        if len(levels) < 2 or not low < high:
            return False
        ends = np.searchsorted(self.energies_n, [low, high, levels[0], levels[-1]])
        count_n = np.concatenate([[0.0], self.count_n])[ends]
        mean = (count_n[3] - count_n[2]) / max(float(levels[-1] - levels[0]), RESOLUTION)
        return bool(count_n[1] - count_n[0] < THIN * mean * (high - low))

    def _levels_around(self, states: float) -> NDArray[np.float64]:
        """Return the levels where the count is right but for the error of its charge."""
        slack = CHARGE_ERROR * states + 2.0
        near = (self.count_n >= states - slack) & (self.count_n <= states + slack)
        return self.energies_n[near]


def guess_levels(pencil: Pencil, k_c: Sequence[float] | NDArray[np.float64]) -> LevelGuess:
    """Estimate how many states lie below an energy from clusters cut out of the cell. Collective.

    The divide-and-conquer idea (Yang, Phys. Rev. Lett. 66, 1438 (1991)) for its density of states
    alone: around some atoms the nearest ones are solved as if nothing else were there; levels
    count by their Mulliken weight on the middle atom, which stands for all atoms with as many
    orbitals. Costs seconds, and is right to some tenths of an electron volt, so that it only says
    where counting begins.

    Parameters
    ----------
    pencil : Pencil
    k_c : array_like, shape (3,)
        Fractional k of the matrices that will be counted.
    """
    rows, comm = pencil.rows, pencil.comm
    every = min(max(CLUSTERS // comm.size, 1), CLUSTERS_OF_RANK, len(rows.owned))
    # Evenly through the atoms of each kind, so that rare ones have their cluster too.
    by_kind = rows.owned[np.argsort(rows.norb_i[rows.owned], kind="stable")]
    middles = (
        by_kind[np.unique(np.linspace(0, len(by_kind) - 1, every).astype(int))] if every else []
    )
    own: list[tuple[int, NDArray[np.float64], NDArray[np.float64]]] = []
    for middle in middles:
        energies_n, weights_n = _cluster(pencil, k_c, int(middle))
        own.append((int(rows.norb_i[middle]), energies_n, weights_n))
    found = [cluster for part in comm.allgather(own) for cluster in part]
    kinds, counts = np.unique(rows.norb_i, return_counts=True)
    solved = [norb for norb, _, _ in found]
    energies, weights = [], []
    for norb, energies_n, weights_n in found:
        share = counts[kinds == norb][0] / solved.count(norb)
        energies.append(energies_n)
        weights.append(share * weights_n)
    total = np.concatenate(weights)
    # Kinds of atoms without a cluster are taken to be like the others.
    return LevelGuess(np.concatenate(energies), total * pencil.norbitals / total.sum())


def _cluster(
    pencil: Pencil, k_c: Sequence[float] | NDArray[np.float64], middle: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return levels of the own atoms around one, and their Mulliken weights on it."""
    rows = pencil.rows
    pairs = pencil.operators["H"].pairs
    near = np.flatnonzero((pairs.first_p == middle) & (rows.owner_i[pairs.second_p] == rows.rank))
    near = near[np.argsort(pairs.distance_p[near], kind="stable")]
    atoms = np.concatenate([[middle], pairs.second_p[near]])
    atoms = atoms[np.sort(np.unique(atoms, return_index=True)[1])]
    atoms = atoms[np.cumsum(rows.norb_i[atoms]) <= max(CLUSTER, rows.norb_i[middle])]
    cluster = (_matrix(pencil, names, atoms, k_c) for names in (("H", "Im H"), ("S",)))
    real = pencil.is_real_at(k_c)
    h, s = ((x.real if real else x) for x in cluster)
    h, s = 0.5 * (h + h.conj().T), 0.5 * (s + s.conj().T)
    # Cutting pairs to all images may leave S with small or negative eigenvalues.
    size_n, turn = np.linalg.eigh(s)
    kept = size_n > 1e-6
    orthonormal = turn[:, kept] / np.sqrt(size_n[kept])
    energies_n, vectors = np.linalg.eigh(orthonormal.conj().T @ h @ orthonormal)
    vectors = orthonormal @ vectors
    norb = int(rows.norb_i[middle])
    weights_n = (vectors[:norb].conj() * (s[:norb] @ vectors)).real.sum(axis=0)
    return energies_n, weights_n


def _matrix(
    pencil: Pencil,
    names: tuple[str, ...],
    atoms: NDArray[np.int64],
    k_c: Sequence[float] | NDArray[np.float64],
) -> NDArray[np.complex128]:
    """Return H(k) or S(k) among some atoms of this rank, in their order."""
    norb_i = pencil.rows.norb_i
    place_i = np.full(len(norb_i), -1)
    place_i[atoms] = np.arange(len(atoms))
    size = int(norb_i[atoms].sum())
    total = np.zeros((size, size), dtype=np.complex128)
    for name in names:
        if name not in pencil.operators:
            continue
        pairs = pencil.operators[name].pairs
        first_p, second_p = place_i[pairs.first_p], place_i[pairs.second_p]
        part = pencil.operators[name].select(np.flatnonzero((first_p >= 0) & (second_p >= 0)))
        inside = part.pairs
        among = PairList(
            place_i[inside.first_p], place_i[inside.second_p], inside.shift_pc, inside.vector_pc
        )
        cluster = BlockOperator(among, norb_i[atoms], part.values)
        total += (1j if name == "Im H" else 1.0) * dense_matrix(cluster, k_c)
    return total
