"""Bands along a straight piece of a path from the states at a few nodes of it.

The states at Chebyshev-Lobatto nodes, carried to any k of the piece, span the states there. H(k)
and S(k) between these vectors are smooth functions of the place along the piece, since k enters as
exp(i k.d) over distances d no longer than orbitals reach: they are worked out at the nodes and
interpolated (Berrut and Trefethen, SIAM Rev. 46, 501 (2004), Eq. 4.2 and 5.4).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import factorial

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from hamgnn_solve.solver.anchors import Anchors
from hamgnn_solve.solver.pencil import Pencil
from hamgnn_solve.solver.reduced_space import (
    ReducedStates,
    Window,
    assessed,
    choose_states,
    multiplied,
    reduced_states,
)
from hamgnn_solve.solver.shifted_inverse import ShiftedInverse

__all__ = ["Piece", "straight_pieces"]

# Bohr. Blocks between orbitals that are further apart are small.
REACH = 16.0
# Largest term of the Chebyshev series of exp(i k.d) that is left out.
TRUNCATION = 3e-6
FEWEST_NODES = 4
# Directions of the nodes' states with a smaller share (squared) are left out.
INDEPENDENT = 1e-5
# Conjugate-gradient steps of the folded operator.
STEPS = 3


@dataclass(frozen=True)
class Piece:
    """K-points on a line.

    Parameters
    ----------
    places : list of int
        Which k-points of the path.
    kpoints_kc : ndarray, shape (n, 3)
        In the order of the path.
    nodes_jc : ndarray, shape (J, 3), or None
        Nodes between the ends of the piece, which include those; None where there would be as
        many of them as k-points.
    """

    places: list[int]
    kpoints_kc: NDArray[np.float64]
    nodes_jc: NDArray[np.float64] | None

    def projected(
        self,
        pencil: Pencil,
        anchors: Anchors,
        states: list[NDArray[np.complex128]],
        window: Window,
        inverse: ShiftedInverse,
    ) -> ProjectedPiece:
        """Return the pencil between the states of all nodes, at the nodes. Collective."""
        nodes_jc = self.nodes_jc
        if nodes_jc is None:
            raise ValueError("a piece without nodes")
        comm = pencil.comm
        periodic_mn = np.hstack(
            [anchors.phase(-k_c)[:, None] * x for k_c, x in zip(nodes_jc, states, strict=True)]
        )
        gram = comm.bcast(comm.allreduce(periodic_mn.conj().T @ periodic_mn))
        size_n, turn = scipy.linalg.eigh(0.5 * (gram + gram.conj().T))
        kept = size_n > INDEPENDENT * size_n[-1]
        turn = turn[:, kept] / np.sqrt(size_n[kept])
        basis_mn, of_nodes = periodic_mn @ turn, turn.conj().T @ gram
        matrices = []
        for k_c in nodes_jc:
            v = multiplied(pencil, k_c, anchors.phase(k_c)[:, None] * basis_mn)
            t_mn = v.h_mn - window.centre * v.s_mn
            divided_mn = inverse.times(k_c, t_mn, STEPS)
            pairs = ((v.vectors_mn, v.h_mn), (v.vectors_mn, v.s_mn), (t_mn, divided_mn))
            matrices.append([comm.allreduce(x.conj().T @ y) for x, y in pairs])
        ends = np.cumsum([x.shape[1] for x in states])
        return ProjectedPiece(
            pencil,
            anchors,
            nodes_jc,
            basis_mn,
            np.split(of_nodes, ends[:-1], axis=1),
            np.array(matrices),
            window,
            inverse,
        )


@dataclass(frozen=True)
class ProjectedPiece:
    """H, S and the folded operator between vectors of a piece, at its nodes.

    Parameters
    ----------
    nodes_jc : ndarray, shape (J, 3)
    basis_mn : ndarray, shape (rows of this rank, m)
        Vectors without the phase exp(2 pi i k.tau).
    states_j : list of ndarray, shape (m, states)
        The states of each node in this basis.
    matrices : ndarray, shape (J, 3, m, m)
        H, S and T^+ (H + c S)^-1 T.
    """

    pencil: Pencil
    anchors: Anchors
    nodes_jc: NDArray[np.float64]
    basis_mn: NDArray[np.complex128]
    states_j: list[NDArray[np.complex128]]
    matrices: NDArray[np.complex128]
    window: Window
    inverse: ShiftedInverse

    def at(self, k_c: NDArray[np.float64], nodes: int) -> ReducedStates:
        """Return the states of the window at a k of the piece from the nearest nodes. Collective.

        The states of more nodes give better energies until what is no state mixes in.
        """
        comm, inverse = self.pencil.comm, self.inverse
        span = self._span(k_c, nodes)
        h, s, square = (span.conj().T @ x @ span for x in self._interpolated(k_c))
        energies_n, turn = comm.bcast(
            choose_states(h, s, self.window, inverse.shift, lambda c: c.conj().T @ square @ c)
        )
        vectors_mn = self.anchors.phase(k_c)[:, None] * (self.basis_mn @ (span @ turn))
        found = multiplied(self.pencil, k_c, vectors_mn)
        return assessed(energies_n, found, inverse.by_atoms, inverse)

    def without_interpolation(
        self, k_c: NDArray[np.float64], nodes: int, steps: int
    ) -> ReducedStates:
        """Return the same from H(k) and S(k) themselves, folded in more steps. Collective."""
        vectors_mn = self.anchors.phase(k_c)[:, None] * (self.basis_mn @ self._span(k_c, nodes))
        trial = multiplied(self.pencil, k_c, vectors_mn)
        return reduced_states(k_c, trial, self.window, self.inverse, steps)

    def _span(self, k_c: NDArray[np.float64], nodes: int) -> NDArray[np.complex128]:
        """Return coefficients of orthonormal vectors that span the states of the nearest nodes."""
        distance_j = np.abs(self._place(self.nodes_jc) - self._place(k_c))
        beside = np.argsort(distance_j, kind="stable")[:nodes]
        return np.linalg.qr(np.hstack([self.states_j[j] for j in beside]))[0]

    def _place(self, k_c: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return places on the piece, 0 and 1 at its ends."""
        line_c = self.nodes_jc[-1] - self.nodes_jc[0]
        return np.asarray((k_c - self.nodes_jc[0]) @ line_c / (line_c @ line_c))

    def _interpolated(self, k_c: NDArray[np.float64]) -> NDArray[np.complex128]:
        """Return the three matrices at a k of the piece by the barycentric formula."""
        place_j = self._place(self.nodes_jc)
        difference_j = self._place(k_c) - place_j
        there = np.flatnonzero(np.abs(difference_j) < 1e-9)
        if len(there):
            return self.matrices[there[0]]
        weight_j = (-1.0) ** np.arange(len(place_j))
        weight_j[[0, -1]] *= 0.5
        weight_j /= difference_j
        return np.asarray(np.einsum("j,jxmn->xmn", weight_j / weight_j.sum(), self.matrices))


def straight_pieces(
    kpoints_kc: NDArray[np.float64], todo: list[int], cell_cc: NDArray[np.float64]
) -> Iterator[Piece]:
    """Divide k-points in the order of a path into straight pieces.

    A piece goes on to a neighbouring real point of the path, which is solved and serves as a node.

    Parameters
    ----------
    kpoints_kc : ndarray, shape (K, 3)
        All k-points of the path.
    todo : list of int
        Those wanted, ascending.
    cell_cc : ndarray, shape (3, 3)
        Lattice vectors in Bohr.
    """
    reciprocal_cc = 2.0 * np.pi * np.linalg.inv(cell_cc).T
    wanted = set(todo)
    start = 0
    while start < len(kpoints_kc):
        stop = start + 1
        while stop < len(kpoints_kc) and _straight(kpoints_kc[start : stop + 1]):
            stop += 1
        inside = [place for place in range(start, stop) if place in wanted]
        wanted -= set(inside)
        if inside:
            ends_jc = kpoints_kc[[start, stop - 1]]
            nodes_jc = _nodes(ends_jc, reciprocal_cc)
            fewer = len(nodes_jc) < len(inside)
            yield Piece(inside, kpoints_kc[inside], nodes_jc if fewer else None)
        # The last point of a piece is the first of the next, unless it stands alone.
        start = max(stop - 1, start + 1)


def _straight(kpoints_kc: NDArray[np.float64]) -> bool:
    """Tell whether the last k-point goes on along the line of those before, steps being equal."""
    steps = np.diff(kpoints_kc, axis=0)
    return len(steps) < 2 or bool(np.abs(steps[-1] - steps[-2]).max() < 1e-6)


def _nodes(ends_jc: NDArray[np.float64], reciprocal_cc: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Chebyshev-Lobatto nodes, enough to interpolate exp(i k.d) over distances in reach.

    The n-th term of its Chebyshev series is 2 J_n(x) <= 2 (x / 2)^n / n! with x = |k| d / 2.
    """
    half = 0.25 * REACH * float(np.linalg.norm((ends_jc[1] - ends_jc[0]) @ reciprocal_cc))
    number = FEWEST_NODES
    while 2.0 * half**number / factorial(number) > TRUNCATION:
        number += 1
    place_j = 0.5 - 0.5 * np.cos(np.pi * np.arange(number) / (number - 1))
    return ends_jc[0] + place_j[:, None] * (ends_jc[1] - ends_jc[0])
