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
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from hamgnn_solve.solver.anchors import Anchors
from hamgnn_solve.solver.reduced_products import ReducedProducts
from hamgnn_solve.solver.reduced_space import Projected, Window, choose_states

__all__ = ["Piece", "ProjectedPiece", "projected_piece", "straight_pieces"]

# Bohr. Blocks between orbitals that are further apart are small.
REACH = 16.0
# Largest term of the Chebyshev series of exp(i k.d) that is left out. It tells states from the
# rest; energies are those of H(k) and S(k) themselves.
TRUNCATION = 1e-2
FEWEST_NODES = 4
# Directions of the nodes' states with a smaller share (squared) are left out.
INDEPENDENT = 1e-5


@dataclass(frozen=True)
class Piece:
    """K-points on a line.

    Parameters
    ----------
    places : list of int
        Which k-points of the path.
    kpoints_kc : ndarray, shape (n, 3)
        In the order of the path.
    nodes_jc : ndarray, shape (J, 3)
        Nodes between the ends of the piece, which include those; the k-points themselves where
        these are no more.
    """

    places: list[int]
    kpoints_kc: NDArray[np.float64]
    nodes_jc: NDArray[np.float64]

    @property
    def interpolated(self) -> bool:
        """Whether the nodes are fewer than the k-points."""
        return len(self.nodes_jc) < len(self.kpoints_kc)

    @property
    def line_c(self) -> NDArray[np.float64] | None:
        """Direction of the piece; None for a single k-point."""
        return None if len(self.nodes_jc) < 2 else self.nodes_jc[-1] - self.nodes_jc[0]


@dataclass(frozen=True)
class ProjectedPiece:
    """The pencil between vectors of a piece, at its nodes.

    Parameters
    ----------
    nodes_jc : ndarray, shape (J, 3)
    basis_mn : ndarray, shape (rows of this rank, m)
        Vectors without the phase exp(2 pi i k.tau).
    matrices : ndarray, complex, shape (J, 3, m, m)
        H, S and the folded operator.
    """

    anchors: Anchors
    products: ReducedProducts
    window: Window
    nodes_jc: NDArray[np.float64]
    basis_mn: NDArray[Any]
    matrices: NDArray[Any]

    def states(self, k_c: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[Any]]:
        """Return energies and coefficients of the states of the window at a k of the piece."""
        comm, found = self.products.comm, None
        if comm.rank == 0:
            projected = Projected(*self._interpolated(k_c))
            found = choose_states(projected, self.window, self.products.shift)
        energies_n, turn = comm.bcast(found)
        return energies_n, turn

    def vectors(self, k_c: NDArray[np.float64], turn: NDArray[Any]) -> NDArray[Any]:
        """Return combinations of the vectors at a k, shape (rows of this rank, combinations)."""
        number = self.products.complex
        phase_m: NDArray[Any] = self.anchors.phase(k_c)[:, None].astype(number)
        return np.asarray(phase_m * (self.basis_mn @ turn.astype(number)))

    def _interpolated(self, k_c: NDArray[np.float64]) -> NDArray[Any]:
        """Return the three matrices at a k of the piece by the barycentric formula."""
        line_c = self.nodes_jc[-1] - self.nodes_jc[0]
        place_j = (self.nodes_jc - self.nodes_jc[0]) @ line_c / (line_c @ line_c)
        difference_j = (k_c - self.nodes_jc[0]) @ line_c / (line_c @ line_c) - place_j
        there = np.flatnonzero(np.abs(difference_j) < 1e-9)
        if len(there):
            return self.matrices[there[0]]
        weight_j = (-1.0) ** np.arange(len(place_j))
        weight_j[[0, -1]] *= 0.5
        weight_j /= difference_j
        weight_j = (weight_j / weight_j.sum()).astype(self.matrices.dtype)
        return np.asarray(np.tensordot(weight_j, self.matrices, 1))


def projected_piece(
    piece: Piece,
    anchors: Anchors,
    products: ReducedProducts,
    window: Window,
    vectors_mn: NDArray[Any],
    projected_j: list[Projected],
    states_j: list[NDArray[Any]],
) -> ProjectedPiece:
    """Return the pencil between the states of all nodes of a piece, at the nodes. Collective.

    Parameters
    ----------
    vectors_mn : ndarray, shape (rows of this rank, m)
        Vectors without the phase exp(2 pi i k.tau).
    projected_j : list of Projected
        The pencil between them, at each node.
    states_j : list of ndarray, shape (m, states)
        States of each node in these vectors.
    """
    turn = None
    if products.comm.rank == 0:
        states = np.hstack(states_j)
        overlap = sum(x.s for x in projected_j) / len(projected_j)
        size_n, turn = scipy.linalg.eigh(states.conj().T @ overlap @ states)
        kept = size_n > INDEPENDENT * size_n[-1]
        turn = states @ (turn[:, kept] / np.sqrt(size_n[kept]))
    turn = products.comm.bcast(turn)
    small_j = [x.between(turn) for x in projected_j]
    return ProjectedPiece(
        anchors,
        products,
        window,
        piece.nodes_jc,
        vectors_mn @ turn.astype(products.complex),
        np.array([(x.h, x.s, x.folded) for x in small_j]),
    )


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
            yield Piece(inside, kpoints_kc[inside], nodes_jc if fewer else kpoints_kc[inside])
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
