"""Bands of a large cell at many k-points from the states of a few real ones.

Where H(k) is complex the factors are those of the embedding, so that one k-point costs as much as
ten real ones. Here the states of Gamma and of points on the zone's edge, solved in real arithmetic
with some bands more than wanted, are carried to each k (`anchors`), where the bands are found in
their span (`reduced_space`). Along a straight piece of a path this is done at a few nodes only,
whose states span those between them (`path_interpolation`). Errors are estimated from residuals at
every k; more images of the anchors enter until they are small, and a k-point where that does not
suffice is solved from factors of its own and becomes an anchor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hamgnn_solve.core.observables.projections import Projections
from hamgnn_solve.core.spectrum import KBands
from hamgnn_solve.core.units import EV_PER_HARTREE
from hamgnn_solve.solver.anchors import Anchors, real_points
from hamgnn_solve.solver.conditioning import project_dependent_orbitals
from hamgnn_solve.solver.eigenpairs import Eigenpairs, eigenpairs_of_bands, states_around
from hamgnn_solve.solver.krylov import KrylovOptions
from hamgnn_solve.solver.mulliken import band_weights
from hamgnn_solve.solver.path_interpolation import Piece, ProjectedPiece, straight_pieces
from hamgnn_solve.solver.pencil import Pencil, is_real_point
from hamgnn_solve.solver.reduced_space import ReducedStates, Window, reduced_states
from hamgnn_solve.solver.shifted_inverse import ShiftedInverse

__all__ = ["Bands", "NotReducibleError", "ReducedSpaceOptions", "reduced_bands"]

# Anchors hold this many times the wanted bands.
RICHER = 3
# Images of anchors around a k-point: at first, at most, and vectors at most.
FEWEST_IMAGES, MOST_IMAGES, MOST_VECTORS = 3, 12, 1500
# Conjugate-gradient steps of residuals from anchors, at least, and beside nodes.
FEWEST_STEPS = 4
MORE_STEPS = 8
# Nodes of a piece whose states are tried between them.
NODES_BESIDE = (3, 2, 4)
# Hartree (30 meV). What has a larger error is no state.
SPURIOUS = 1.1e-3
# Hartree. The common gap of all anchors must be wider, or bands could not be numbered between them.
SMALLEST_GAP = 2e-3
# No state may come nearer to the middle of that gap than this part of it.
EMPTY = 0.2
# Hartree. Windows reach beyond the bands of the anchors by this and the spread of their ends.
MARGIN = 5e-4


@dataclass(frozen=True)
class ReducedSpaceOptions:
    """What is needed to carry states from one k to another.

    Parameters
    ----------
    fractional_ic : ndarray, shape (N, 3)
        Places of the atoms in units of the lattice vectors.
    cell_cc : ndarray, shape (3, 3)
        Lattice vectors as rows, in Bohr.
    largest_error : float
        In Hartree, estimated.
    """

    fractional_ic: NDArray[np.float64]
    cell_cc: NDArray[np.float64]
    largest_error: float

    def __post_init__(self) -> None:
        if not self.largest_error > 0.0:
            raise ValueError(f"a largest error of {self.largest_error} Hartree is never reached")


@dataclass(frozen=True)
class Bands:
    """Which bands are wanted, counted from 1: first..last, of which `middle` is the last filled."""

    first: int
    middle: int
    last: int


class NotReducibleError(Exception):
    """Bands cannot be told from the anchors; the message says why."""


def reduced_bands(
    pencil: Pencil,
    kpoints_kc: NDArray[np.float64],
    todo: list[int],
    bands: Bands,
    start: Callable[[NDArray[np.float64]], float],
    options: ReducedSpaceOptions,
    krylov: KrylovOptions,
    announce: Callable[[str], None],
    projections: Projections | None = None,
) -> Iterator[tuple[int, KBands]]:
    """Yield the bands of k-points, each once. Collective.

    Parameters
    ----------
    pencil : Pencil
    kpoints_kc : ndarray, shape (K, 3)
        Fractional k.
    todo : list of int
        Which of them.
    bands : Bands
    start : callable
        Returns an energy in the gap at a k-point.
    options : ReducedSpaceOptions
    krylov : KrylovOptions
    announce : callable
        Told in one sentence what is done.
    projections : Projections, optional
        Groups of orbitals whose Mulliken weights are wanted.

    Raises
    ------
    NotReducibleError
        When this way does not lead to the bands; what was yielded before holds.
    InputError
        As the solver of single k-points.
    """
    solver = _ReducedSolver(
        pencil, kpoints_kc[todo], bands, start, options, krylov, announce, projections
    )
    real = [place for place in todo if is_real_point(kpoints_kc[place])]
    for place in real:
        states = solver.states_at(kpoints_kc[place])
        yield place, solver.counted(states)
        solver.adopt(states)
    rest = [place for place in todo if place not in real]
    largest = 0.0
    for piece in straight_pieces(kpoints_kc, rest, options.cell_cc):
        for place, found in solver.piece(piece):
            largest = max(largest, found.bands.error)
            yield place, found.bands
    others = f"; {solver.direct} had to be solved one by one" if solver.direct else ""
    announce(
        f"bands of {len(rest)} k-points from the states of {len(solver.anchors.states)}, "
        f"largest estimated error {1e3 * EV_PER_HARTREE * largest:.2g} meV{others}"
    )


@dataclass(frozen=True)
class _Found:
    """Bands at a k-point and all vectors of the window there."""

    bands: KBands
    vectors_mn: NDArray[np.complex128]


class _ReducedSolver:
    """Anchors that have been solved, and what has been learnt from them."""

    def __init__(
        self,
        pencil: Pencil,
        kpoints_kc: NDArray[np.float64],
        bands: Bands,
        start: Callable[[NDArray[np.float64]], float],
        options: ReducedSpaceOptions,
        krylov: KrylovOptions,
        announce: Callable[[str], None],
        projections: Projections | None,
    ) -> None:
        self.projections = projections
        self.pencil, self.bands, self.options, self.krylov = pencil, bands, options, krylov
        self.start, self.announce = start, announce
        reciprocal_cc = np.linalg.inv(options.cell_cc).T
        candidates_ac = real_points(kpoints_kc)
        self.anchors = Anchors(
            pencil, options.fractional_ic, reciprocal_cc, candidates_ac, self.anchor
        )
        self.inverse = ShiftedInverse(pencil)
        self.images = FEWEST_IMAGES
        self.direct = 0
        # States wanted under and over the gap, and its middle, once an anchor is solved.
        self.sides: tuple[int, int] | None = None
        self.sigma = np.nan
        self.gap = (-np.inf, np.inf)
        self.ends = [(np.inf, -np.inf), (np.inf, -np.inf)]

    def states_at(self, k_c: NDArray[np.float64]) -> Eigenpairs:
        """Return the states around the gap at a k-point, more than are wanted."""
        pencil, krylov, bands = self.pencil, self.krylov, self.bands
        # S(k) of a large cell changes little with k: its first k-point speaks for all.
        if self.sides is None and project_dependent_orbitals(pencil, k_c):
            raise NotReducibleError(f"almost dependent orbitals at k = {k_c}")
        below, above = bands.middle - bands.first + 1, bands.last - bands.middle
        sides = self.sides or (RICHER * below, RICHER * above)
        sigma = self.start(k_c) if self.sides is None else self.sigma
        states = states_around(pencil, k_c, sigma, below, above, options=krylov, neighbours=sides)
        if self.sides is None:
            self.sides = _balanced(states, below, above, self.anchor_bands)
            self.sigma = states.sigma
        return states

    def anchor(self, k_c: NDArray[np.float64]) -> Eigenpairs:
        """Return the states of an anchor that is asked for."""
        states = self.states_at(k_c)
        self._learn(states)
        return states

    def adopt(self, states: Eigenpairs) -> None:
        """Make a solved k-point an anchor."""
        self._learn(states)
        self.anchors.add(states)

    def counted(self, states: Eigenpairs) -> KBands:
        """Return the wanted bands among some states, certified by counts at their ends."""
        first, last = self.bands.first, self.bands.last
        found = eigenpairs_of_bands(
            self.pencil, states.k_c, states.sigma, first, last, options=self.krylov, known=states
        )
        weights_gn = self.weights(states.k_c, found.vectors_mn)
        return KBands(found.energies_n, found.residuals_n, first, weights_gn=weights_gn)

    def weights(
        self, k_c: NDArray[np.float64], vectors_mn: NDArray[Any]
    ) -> NDArray[np.float64] | None:
        """Return the weights of the groups in some states, where they are wanted. Collective."""
        if self.projections is None:
            return None
        return band_weights(self.pencil, k_c, vectors_mn, self.projections)

    def _learn(self, states: Eigenpairs) -> None:
        """Narrow the common gap and widen the window by the states of an anchor."""
        energy = dict(zip(states.band_index_n.tolist(), states.energies_n.tolist(), strict=True))
        bands = self.bands
        self.gap = (
            max(self.gap[0], energy[bands.middle]),
            min(self.gap[1], energy[bands.middle + 1]),
        )
        if self.gap[1] - self.gap[0] < SMALLEST_GAP:
            raise NotReducibleError("the bands have no gap in common, from which they are numbered")
        self.sigma = 0.5 * (self.gap[0] + self.gap[1])
        self.ends = [
            (min(low, energy[band]), max(high, energy[band]))
            for (low, high), band in zip(self.ends, (bands.first, bands.last), strict=True)
        ]

    @property
    def anchor_bands(self) -> int:
        """Number of bands of an anchor."""
        return RICHER * (self.bands.last - self.bands.first + 1)

    @property
    def window(self) -> Window:
        """Energies between which the wanted bands of any k are looked for."""
        (low, low_top), (high_bottom, high) = self.ends
        return Window(low - (low_top - low) - MARGIN, high + (high - high_bottom) + MARGIN)

    def wanted(self, k_c: NDArray[np.float64], states: ReducedStates) -> KBands | None:
        """Number the states by the gap; None where they do not meet the accuracy asked for.

        Collective.
        """
        bands, error = self.bands, self.options.largest_error
        real = states.errors_n < SPURIOUS
        energies_n = states.energies_n[real]
        distance = EMPTY * (self.gap[1] - self.gap[0])
        if (np.abs(energies_n - self.sigma) < distance).any():
            return None
        split = int((energies_n < self.sigma).sum())
        part = slice(split - (bands.middle - bands.first + 1), split + bands.last - bands.middle)
        if part.start < 0 or part.stop > len(energies_n):
            return None
        largest = float(states.errors_n[real][part].max())
        if largest > error:
            return None
        residuals_n = states.residuals_n[real][part]
        weights_gn = self.weights(k_c, states.vectors_mn[:, real][:, part])
        return KBands(energies_n[part], residuals_n, bands.first, False, largest, weights_gn)

    def at(self, k_c: NDArray[np.float64]) -> _Found:
        """Return the bands at one k from the anchors around it, or from factors of its own."""
        number, trial, known = self.images, None, 0
        while True:
            images = self.anchors.nearest(k_c, number)
            many = len(images) > MOST_IMAGES or len(images) * self.anchor_bands > MOST_VECTORS
            if number > FEWEST_IMAGES and many:
                break
            more = self.anchors.trial(k_c, images[known:])
            trial, known = (more if trial is None else trial.with_more(more)), len(images)
            # In a larger space states are told from the rest by sharper residuals.
            steps = max(FEWEST_STEPS, len(images))
            states = reduced_states(k_c, trial, self.window, self.inverse, steps)
            good = self.wanted(k_c, states)
            if good is not None:
                self.images = number
                real = states.errors_n < SPURIOUS
                return _Found(good, states.vectors_mn[:, real])
            number = len(images) + 1
        return self.solved(k_c)

    def solved(self, k_c: NDArray[np.float64]) -> _Found:
        """Solve a k-point from its own factors; it becomes an anchor."""
        states = self.states_at(k_c)
        self.adopt(states)
        self.direct += 1
        every_mn = np.hstack([states.vectors_mn, states.beyond_mn])
        return _Found(self.counted(states), every_mn.astype(np.complex128))

    def piece(self, piece: Piece) -> Iterator[tuple[int, _Found]]:
        """Yield the bands along a straight piece of the path."""
        basis = None
        if piece.nodes_jc is not None:
            number, nodes = len(piece.places), len(piece.nodes_jc)
            self.announce(f"{number} k-points on a line: states at {nodes} nodes first")
            states = [self.node(k_c) for k_c in piece.nodes_jc]
            basis = piece.projected(self.pencil, self.anchors, states, self.window, self.inverse)
        for place, k_c in zip(piece.places, piece.kpoints_kc, strict=True):
            yield place, (basis and self.between_nodes(k_c, basis)) or self.at(k_c)

    def between_nodes(self, k_c: NDArray[np.float64], basis: ProjectedPiece) -> _Found | None:
        """Return the bands at a k of a piece; None where its nodes do not suffice."""
        for steps in (0, MORE_STEPS):
            for nodes in NODES_BESIDE:
                states = (
                    basis.without_interpolation(k_c, nodes, steps)
                    if steps
                    else basis.at(k_c, nodes)
                )
                good = self.wanted(k_c, states)
                if good is not None:
                    return _Found(good, states.vectors_mn)
        return None

    def node(self, k_c: NDArray[np.float64]) -> NDArray[np.complex128]:
        """Return the states of the window at a node of a piece."""
        if is_real_point(k_c):
            nearest = self.anchors.nearest(k_c, 1)[0]
            return self.anchors.carried(k_c, nearest)
        return self.at(k_c).vectors_mn


def _balanced(states: Eigenpairs, below: int, above: int, total: int) -> tuple[int, int]:
    """Divide `total` states between both sides so that both reach equally far beyond the wanted.

    The density of states beyond the wanted ones is taken from those known there.
    """
    split = int((states.energies_n < states.sigma).sum())
    under, over = states.energies_n[:split][::-1], states.energies_n[split:]
    sides = []
    for energies_n, wanted in ((under, below), (over, above)):
        outer = np.abs(energies_n[wanted - 1 :] - energies_n[wanted - 1])
        sides.append((len(outer) - 1) / max(float(outer[-1]), 1e-9) if len(outer) > 1 else 0.0)
    spare = total - below - above
    share = sides[0] / max(sum(sides), 1e-9)
    extra = round(spare * min(max(share, 0.15), 0.85))
    return below + extra, above + spare - extra
