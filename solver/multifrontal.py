"""The order in which orbitals are eliminated from a sparse pencil, and the fronts it makes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pymetis
from numpy.typing import NDArray

__all__ = ["Front", "FrontTree", "Run", "dissect"]

# Cost of a front beside its multiplications, in the same unit (multiply-adds of complex numbers,
# about 6e9 a second): what moving one number of its update matrix costs, and what a front costs
# even when it is empty. Measured on one core of a Xeon; they only steer which fronts are joined.
COST_OF_MOVE = 50.0
COST_OF_FRONT = 1e6
# Orders to choose from; the work they cause differs by a tenth.
SEEDS = 5


@dataclass(frozen=True)
class Run:
    """Consecutive update rows of a front that are consecutive in its parent too.

    Parameters
    ----------
    start, stop : int
        Among the update rows of the front.
    target : int
        First of them among the rows of the parent (pivots first).
    """

    start: int
    stop: int
    target: int


@dataclass(frozen=True)
class Front:
    """Orbitals that are eliminated together, and those that their elimination couples.

    Parameters
    ----------
    pivots : ndarray of int64
        Atoms whose orbitals are eliminated, in the order of elimination.
    updates : ndarray of int64
        Atoms eliminated later that couple to them, filled-in ones included, in that order.
    npivots, nupdates : int
        Number of orbitals of either.
    parent : int
        Front that eliminates the first of `updates`; -1 where there is none.
    children : tuple of int
        Fronts whose parent this is.
    runs : tuple of Run
        Where the update rows lie in the parent.
    """

    pivots: NDArray[np.int64]
    updates: NDArray[np.int64]
    npivots: int
    nupdates: int
    parent: int
    children: tuple[int, ...]
    runs: tuple[Run, ...]

    @property
    def nrows(self) -> int:
        """Number of orbitals of pivots and updates."""
        return self.npivots + self.nupdates


@dataclass(frozen=True)
class FrontTree:
    """Fronts of a multifrontal factorisation, children before parents.

    Duff and Reid, ACM Trans. Math. Softw. 9, 302 (1983); Liu, SIAM Review 34, 82 (1992).

    Parameters
    ----------
    fronts : tuple of Front
        In the order of factorisation (a postorder of the tree).
    norb_i : ndarray of int64, shape (N,)
        Number of orbitals of every atom.
    """

    fronts: tuple[Front, ...]
    norb_i: NDArray[np.int64]

    @cached_property
    def order_i(self) -> NDArray[np.int64]:
        """Atoms in the order of elimination, shape (N,)."""
        return np.concatenate([front.pivots for front in self.fronts])

    @cached_property
    def rank_i(self) -> NDArray[np.int64]:
        """Place of each atom in the order of elimination, shape (N,)."""
        return _inverse(self.order_i)

    @cached_property
    def front_i(self) -> NDArray[np.int64]:
        """Front that eliminates each atom, shape (N,)."""
        front_i = np.empty(len(self.norb_i), dtype=np.int64)
        for f, front in enumerate(self.fronts):
            front_i[front.pivots] = f
        return front_i

    @cached_property
    def _row_table(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Keys (front, atom), ascending, and the first row of the atom in the front."""
        keys, rows = [], []
        for f, front in enumerate(self.fronts):
            atoms = np.concatenate([front.pivots, front.updates])
            norb = self.norb_i[atoms]
            keys.append(f * len(self.norb_i) + atoms)
            rows.append(np.cumsum(norb) - norb)
        key = np.concatenate(keys)
        order = np.argsort(key)
        return key[order], np.concatenate(rows)[order]

    def rows_of(self, front: NDArray[np.int64], atom: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the first row of atoms in fronts, -1 where the front lacks the atom."""
        keys, rows = self._row_table
        wanted = front * len(self.norb_i) + atom
        place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        return np.where(keys[place] == wanted, rows[place], -1)

    def holds(self, first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Tell which pairs of atoms lie within the filled pattern, shape (P,)."""
        ahead = self.rank_i[first] < self.rank_i[second]
        earlier, later = np.where(ahead, first, second), np.where(ahead, second, first)
        return self.rows_of(self.front_i[earlier], later) >= 0

    @property
    def nfactor(self) -> int:
        """Numbers in one triangle of the factors, the blocks of pivots whole."""
        return sum(front.npivots * front.nrows for front in self.fronts)

    def peak_numbers(self, symmetric: bool) -> int:
        """Return how many numbers one selected inversion holds at most, factors included."""
        sides = 1 if symmetric else 2
        factors = peak = waiting = 0
        for front in self.fronts:
            update = front.nupdates**2
            panel = sides * front.npivots * front.nrows
            peak = max(peak, factors + waiting + update + 2 * panel)
            factors += sides * front.npivots * front.nupdates + front.npivots**2
            waiting += update - sum(self.fronts[c].nupdates ** 2 for c in front.children)
        for front in reversed(self.fronts):
            given = sum(self.fronts[c].nupdates ** 2 for c in front.children)
            panel = sides * front.npivots * front.nrows
            peak = max(peak, factors + waiting + given + 2 * panel)
            factors -= sides * front.npivots * front.nupdates + front.npivots**2
            waiting += given - front.nupdates**2
        return peak

    def multiplications(self, symmetric: bool) -> float:
        """Return multiply-adds of one factorisation and selected inversion."""
        sides = 1 if symmetric else 2
        return sum(_work(x.npivots, x.nupdates) for x in self.fronts) * sides


def dissect(
    first: NDArray[np.int64], second: NDArray[np.int64], norb_i: NDArray[np.int64]
) -> FrontTree:
    """Order the atoms of a sparse pencil by nested dissection and find its fronts.

    The order is METIS' (Karypis and Kumar, SIAM J. Sci. Comput. 20, 359 (1998)), the tree that of
    Liu (SIAM J. Matrix Anal. Appl. 11, 134 (1990)); a front joins its parent where this is
    expected to save time, as the rows that become full are then few (Ashcraft and Grimes, ACM
    Trans. Math. Softw. 15, 291 (1989)).

    Parameters
    ----------
    first, second : ndarray of int64, shape (P,)
        Atoms with a coupling block, in both directions, repeated or not; an atom's own blocks may
        be left out.
    norb_i : ndarray of int64, shape (N,)
        Number of orbitals of every atom.
    """
    natoms = len(norb_i)
    other = first != second
    keys = np.unique(first[other] * natoms + second[other])
    trees = (_tree(keys // natoms, keys % natoms, norb_i, seed) for seed in range(SEEDS))
    return min(trees, key=lambda tree: tree.multiplications(symmetric=True))


def _tree(
    first: NDArray[np.int64], second: NDArray[np.int64], norb_i: NDArray[np.int64], seed: int
) -> FrontTree:
    order_i = _metis_order(first, second, norb_i, seed)
    rank_i = _inverse(order_i)
    columns = _filled_columns(rank_i[first], rank_i[second], len(norb_i))
    nodes = _joined(columns, norb_i[order_i])
    return FrontTree(tuple(_fronts(nodes, order_i, norb_i)), norb_i)


@dataclass
class _Node:
    """A front while fronts are joined; atoms are numbered as METIS orders them."""

    pivots: list[int]
    updates: NDArray[np.int64]
    children: list[int]
    npivots: int
    nupdates: int


def _metis_order(
    first: NDArray[np.int64], second: NDArray[np.int64], norb_i: NDArray[np.int64], seed: int
) -> NDArray[np.int64]:
    if len(first) == 0:
        return np.arange(len(norb_i))
    starts = np.searchsorted(first, np.arange(len(norb_i) + 1))
    adjacency = pymetis.CSRAdjacency(starts.tolist(), second.tolist())
    order, _ = pymetis.nested_dissection(
        adjacency, vweights=norb_i.tolist(), options=pymetis.Options(seed=seed)
    )
    return np.asarray(order, dtype=np.int64)


def _filled_columns(
    earlier: NDArray[np.int64], later: NDArray[np.int64], natoms: int
) -> list[NDArray[np.int64]]:
    """Return for each atom the later ones that its elimination couples, ascending.

    The first of them is its parent in the elimination tree; what it couples passes on to it.
    """
    below = later > earlier
    earlier, later = earlier[below], later[below]
    order = np.lexsort((later, earlier))
    starts = np.searchsorted(earlier[order], np.arange(natoms + 1))
    later = later[order]
    columns: list[NDArray[np.int64]] = []
    passed: list[list[NDArray[np.int64]]] = [[] for _ in range(natoms)]
    for i in range(natoms):
        column = later[starts[i] : starts[i + 1]]
        if passed[i]:
            column = np.unique(np.concatenate([column, *passed[i]]))
            passed[i] = []
        columns.append(column)
        if len(column) > 1:
            passed[column[0]].append(column[1:])
    return columns


def _work(npivots: int, nupdates: int) -> float:
    """Return multiply-adds of a symmetric front: factorisation and inversion."""
    n, m = float(npivots), float(nupdates)
    return 0.6 * n**3 + 1.5 * n**2 * m + 1.5 * n * m**2


def _cost(npivots: int, nupdates: int) -> float:
    return _work(npivots, nupdates) + COST_OF_MOVE * float(nupdates) ** 2 + COST_OF_FRONT


def _joined(columns: list[NDArray[np.int64]], norb_i: NDArray[np.int64]) -> dict[int, _Node]:
    """Make a front of every atom and join fronts with their parents where that saves time.

    The rows of a parent hold those of its children, so the joint front has the update rows of the
    parent.
    """
    nodes: dict[int, _Node] = {}
    children: list[list[int]] = [[] for _ in columns]
    for i, column in enumerate(columns):
        nupdates = int(norb_i[column].sum())
        node = _Node([i], column, [], int(norb_i[i]), nupdates)
        # Children with the most update rows leave the fewest empty places.
        for c in sorted(children[i], key=lambda c: -nodes[c].nupdates):
            child = nodes[c]
            apart = _cost(child.npivots, child.nupdates) + _cost(node.npivots, nupdates)
            if _cost(child.npivots + node.npivots, nupdates) < apart:
                node.pivots = child.pivots + node.pivots
                node.children += child.children
                node.npivots += child.npivots
                del nodes[c]
            else:
                node.children.append(c)
        nodes[i] = node
        if len(column):
            children[column[0]].append(i)
    return nodes


def _fronts(
    nodes: dict[int, _Node], order_i: NDArray[np.int64], norb_i: NDArray[np.int64]
) -> Iterator[Front]:
    """Number the joined fronts in postorder and tell where update rows lie in the parent."""
    is_child = {c for node in nodes.values() for c in node.children}
    sequence = list(_postorder(nodes, [x for x in nodes if x not in is_child]))
    number = {x: f for f, x in enumerate(sequence)}
    parent = {c: x for x, node in nodes.items() for c in node.children}
    rank = _inverse(np.array([i for x in sequence for i in nodes[x].pivots], dtype=np.int64))
    for x in sequence:
        node = nodes[x]
        updates = node.updates[np.argsort(rank[node.updates])]
        runs: tuple[Run, ...] = ()
        if x in parent:
            above = nodes[parent[x]]
            rows = np.concatenate(
                [np.array(above.pivots), above.updates[np.argsort(rank[above.updates])]]
            )
            runs = _runs(updates, rows, norb_i[order_i], above.npivots)
        yield Front(
            order_i[node.pivots],
            order_i[updates],
            node.npivots,
            node.nupdates,
            number[parent[x]] if x in parent else -1,
            tuple(sorted(number[c] for c in node.children)),
            runs,
        )


def _postorder(nodes: dict[int, _Node], roots: list[int]) -> Iterator[int]:
    stack = [(x, False) for x in reversed(roots)]
    while stack:
        x, done = stack.pop()
        if done:
            yield x
            continue
        stack.append((x, True))
        stack.extend((c, False) for c in nodes[x].children)


def _runs(
    updates: NDArray[np.int64],
    rows: NDArray[np.int64],
    norb: NDArray[np.int64],
    parent_npivots: int,
) -> tuple[Run, ...]:
    """Group update atoms of a front by consecutive places among the atoms of its parent."""
    place = np.full(len(norb), -1, dtype=np.int64)
    place[rows] = np.cumsum(norb[rows]) - norb[rows]
    target = place[updates]
    size = norb[updates]
    start = np.cumsum(size) - size
    # The rows of pivots and of updates are stored apart, so a run ends with the pivots.
    broken = (np.diff(target) != size[:-1]) | (
        (target[1:] >= parent_npivots) & (target[:-1] < parent_npivots)
    )
    begin = np.flatnonzero(np.concatenate([[True], broken]))[: len(updates)]
    end = np.append(begin[1:], len(updates))
    return tuple(
        Run(int(start[b]), int(start[e - 1] + size[e - 1]), int(target[b]))
        for b, e in zip(begin, end, strict=True)
    )


def _inverse(order: NDArray[np.int64]) -> NDArray[np.int64]:
    inverse = np.empty(len(order), dtype=np.int64)
    inverse[order] = np.arange(len(order))
    return inverse
