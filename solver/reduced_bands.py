"""Bands of a large cell at many k-points from the states of a few real ones.

Where H(k) is complex the factors are those of the embedding, so that one k-point costs as much as
ten real ones. Here the states of Gamma and of points on the zone's edge, solved in real arithmetic
with some bands more than wanted, are carried to each k (`anchors`, `trial_space`), where the bands
are found in their span (`reduced_space`). Along a straight piece of a path this is done at a few
nodes only, whose states span those between them (`path_interpolation`). Errors are estimated from
residuals at every k; more images of the anchors enter where they are largest, until they are small,
and a k-point where that does not suffice is solved from factors of its own and becomes an anchor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hamgnn_solve.core.crystal_symmetry import SymmetryOperation, symmetry_operations
from hamgnn_solve.core.hamiltonian import OrbitalSystem
from hamgnn_solve.core.observables.projections import Projections
from hamgnn_solve.core.spectrum import KBands
from hamgnn_solve.core.units import EV_PER_HARTREE
from hamgnn_solve.solver.anchors import Anchors, Image, are_equivalent, real_points
from hamgnn_solve.solver.conditioning import project_dependent_orbitals
from hamgnn_solve.solver.eigenpairs import Eigenpairs, eigenpairs_of_bands, states_around
from hamgnn_solve.solver.krylov import KrylovOptions
from hamgnn_solve.solver.mulliken import band_weights
from hamgnn_solve.solver.path_interpolation import Piece, projected_piece, straight_pieces
from hamgnn_solve.solver.pencil import Pencil, is_real_point
from hamgnn_solve.solver.reduced_products import ReducedProducts
from hamgnn_solve.solver.reduced_space import NotReducibleError, Window, assessed, choose_states
from hamgnn_solve.solver.symmetric_states import largest_residual, symmetric_states
from hamgnn_solve.solver.trial_space import TrialSpace

__all__ = ["Bands", "ReducedSpaceOptions", "reduced_bands"]

# Anchors hold this many times the wanted bands.
RICHER = 3
# Residuals of anchors that are none of the k-points, as of `KrylovOptions`.
ANCHOR_TOLERANCE = 1e-7
# Images around each node of a piece at first: up to this many times the distance of the nearest.
AROUND = 2.1
# Images of a piece and their vectors at most.
MOST_IMAGES, MOST_VECTORS = 12, 1500
# Bands with errors this many times the one asked for are nearly good; further images help as long
# as they reduce errors to this part.
CLOSE, HELPFUL = 10.0, 0.5
# So many states beyond the wanted ones are looked at, should some be none.
SPARE = 4
# Hartree. The common gap of all anchors must be wider, or bands could not be numbered between them.
SMALLEST_GAP = 2e-3
# No state may come nearer to the middle of that gap than this part of it.
EMPTY = 0.2
# Hartree. Windows reach beyond the bands of the anchors by this and the spread of their ends.
MARGIN = 5e-3


@dataclass(frozen=True)
class ReducedSpaceOptions:
    """What is needed to carry states from one k to another.

    Parameters
    ----------
    system : OrbitalSystem
        Places and shells of the atoms.
    largest_error : float
        In Hartree, estimated.
    """

    system: OrbitalSystem
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
    for piece in straight_pieces(kpoints_kc, rest, options.system.structure.cell_cc):
        for place, found in solver.piece(piece):
            largest = max(largest, found.error)
            yield place, found
    turned = f" ({solver.by_turning} by symmetry)" if solver.by_turning else ""
    others = f"; {solver.direct} had to be solved one by one" if solver.direct else ""
    announce(
        f"bands of {len(rest)} k-points from the states of {len(solver.anchors.states)}{turned}, "
        f"largest estimated error {1e3 * EV_PER_HARTREE * largest:.2g} meV{others}"
    )


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
        structure = options.system.structure
        reciprocal_cc = np.linalg.inv(structure.cell_cc).T
        candidates_ac = real_points(kpoints_kc)
        self.anchors = Anchors(
            pencil, structure.fractional_ic, reciprocal_cc, candidates_ac, self.anchor
        )
        self.products = ReducedProducts(pencil, options.largest_error)
        self.direct = self.by_turning = 0
        # States wanted under and over the gap, and its middle, once an anchor is solved.
        self.sides: tuple[int, int] | None = None
        self.sigma = np.nan
        self.gap = (-np.inf, np.inf)
        self.ends = [(np.inf, -np.inf), (np.inf, -np.inf)]

    def states_at(self, k_c: NDArray[np.float64], tolerance: float = 0.0) -> Eigenpairs:
        """Return the states around the gap at a k-point, more than are wanted."""
        pencil, bands = self.pencil, self.bands
        krylov = replace(self.krylov, tolerance=max(self.krylov.tolerance, tolerance))
        # S(k) of a large cell changes little with k: its first k-point speaks for all.
        if self.sides is None and project_dependent_orbitals(pencil, k_c):
            raise NotReducibleError(f"almost dependent orbitals at k = {k_c}")
        below, above = bands.middle - bands.first + 1, bands.last - bands.middle
        sides = self.sides or (RICHER * below, RICHER * above)
        sigma = self.start(k_c) if self.sides is None else self.sigma
        states = states_around(
            pencil,
            k_c,
            sigma,
            below,
            above,
            options=krylov,
            neighbours=sides,
            # The first shift may lie among the bands on one side of the gap.
            bands=(bands.first, bands.last),
        )
        if self.sides is None:
            self.sides = _balanced(states, below, above, self.anchor_bands)
            self.sigma = states.sigma
        return states

    def anchor(self, k_c: NDArray[np.float64]) -> Eigenpairs:
        """Return the states of an anchor that is asked for."""
        states = self.by_symmetry(k_c)
        if states is None:
            states = self.states_at(k_c, ANCHOR_TOLERANCE)
            self._learn(states)
        return states

    def by_symmetry(self, k_c: NDArray[np.float64]) -> Eigenpairs | None:
        """Return the states at a real k-point from those of an anchor that is turned into it.

        None where there is no such anchor, or H has not the symmetry of the atoms: an energy lies
        no further from one of H than the residual of its state, which must be no larger than the
        error allowed. Collective.
        """
        for known in self.anchors.states.values():
            for operation in self.symmetry if is_real_point(known.k_c) else ():
                if not are_equivalent(operation.rotated(known.k_c), k_c):
                    continue
                states = symmetric_states(
                    known, operation, self.options.system, self.pencil.rows, self.pencil.comm
                )
                if largest_residual(states, self.products) <= self.options.largest_error:
                    self.by_turning += 1
                    return states
        return None

    @cached_property
    def symmetry(self) -> list[SymmetryOperation]:
        """Rotations of the crystal. Collective."""
        comm, system = self.pencil.comm, self.options.system
        found: list[SymmetryOperation] = comm.bcast(
            symmetry_operations(system.structure, system.kind_i) if comm.rank == 0 else []
        )
        return found

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

    def bands_among(
        self,
        k_c: NDArray[np.float64],
        energies_n: NDArray[np.float64],
        turn: NDArray[Any],
        combined: Callable[[NDArray[Any]], NDArray[Any]],
    ) -> KBands | None:
        """Number states by the gap, with their errors; None where that cannot be done. Collective.

        Parameters
        ----------
        energies_n : ndarray, shape (n,)
            Of states and perhaps of some that are none, ascending.
        turn : ndarray, shape (m, n)
            Their coefficients in some vectors.
        combined : callable
            Returns combinations of these vectors.
        """
        bands = self.bands
        if len(energies_n) == 0:
            return None
        below, above = bands.middle - bands.first + 1, bands.last - bands.middle
        split = int((energies_n < self.sigma).sum())
        near = slice(max(split - below - SPARE, 0), split + above + SPARE)
        states = assessed(k_c, combined(turn[:, near]), self.products)
        energies_n = states.energies_n
        distance = EMPTY * (self.gap[1] - self.gap[0])
        if (np.abs(energies_n - self.sigma) < distance).any():
            return None
        split = int((energies_n < self.sigma).sum())
        part = slice(split - below, split + above)
        if part.start < 0 or part.stop > len(energies_n):
            return None
        largest = float(states.errors_n[part].max())
        residuals_n = states.residuals_n[part]
        weights_gn = self.weights(k_c, states.vectors_mn[:, part])
        return KBands(energies_n[part], residuals_n, bands.first, False, largest, weights_gn)

    def solved(self, k_c: NDArray[np.float64]) -> KBands:
        """Solve a k-point from its own factors; it becomes an anchor."""
        states = self.states_at(k_c)
        self.adopt(states)
        self.direct += 1
        return self.counted(states)

    def piece(self, piece: Piece) -> Iterator[tuple[int, KBands]]:
        """Yield the bands along a straight piece of the path."""
        if piece.interpolated:
            self.announce(
                f"{len(piece.places)} k-points on a line: states at {len(piece.nodes_jc)} nodes "
                "first"
            )
        images = self.first_images(piece)
        line = _Line(self.window, piece.line_c)
        nodes = self.nodes(line, list(piece.nodes_jc), images)
        if piece.interpolated:
            yield from self.between_nodes(piece, line, nodes)
        else:
            yield from zip(piece.places, (node.bands for node in nodes), strict=True)

    def between_nodes(
        self, piece: Piece, line: _Line, nodes: list[_Node]
    ) -> Iterator[tuple[int, KBands]]:
        """Yield the bands of the k-points of a piece from the states of its nodes."""
        projected = projected_piece(
            piece,
            self.anchors,
            self.products,
            line.window,
            nodes[0].space.periodic,
            [node.space.projected() for node in nodes],
            [node.coefficients for node in nodes],
        )
        images = nodes[0].space.images
        # What the nodes hold beside their images is large.
        nodes.clear()
        for place, k_c in zip(piece.places, piece.kpoints_kc, strict=True):
            energies_n, turn = projected.states(k_c)
            bands = self.bands_among(k_c, energies_n, turn, partial(projected.vectors, k_c))
            if bands is None or bands.error > self.options.largest_error:
                bands = self.nodes(line, [k_c], images)[0].bands
            yield place, bands

    def first_images(self, piece: Piece) -> list[Image]:
        """Return the images of solved anchors nearest to the nodes of a piece."""
        anchors, images = self.anchors, list[Image]()
        if not anchors.states:
            anchors.states_of(anchors.next_images(piece.nodes_jc[0], [])[0])
        for k_c in piece.nodes_jc:
            own = anchors.next_images(k_c, [], piece.line_c, solved=True)
            more = anchors.next_images(k_c, own, piece.line_c, solved=True)
            while more and more[0].distance <= AROUND * own[0].distance:
                own += more
                more = anchors.next_images(k_c, own, piece.line_c, solved=True)
            images += _others(own, images)
        return images

    def more_images(
        self, spaces: list[TrialSpace], poor: dict[int, float], line: _Line, before: float
    ) -> list[Image]:
        """Return further images for the spaces whose bands are poor, by their errors.

        Near the goal, images of a solved anchor around the poorest as long as they help; else the
        nearest of any, which may have to be solved. None where that would be too many.
        """
        worst = max(poor, key=poor.__getitem__)
        known, images = spaces[0].images, list[Image]()
        if poor[worst] < min(CLOSE * self.options.largest_error, HELPFUL * before):
            images = self.anchors.next_images(spaces[worst].k_c, known, line.along_c, solved=True)
            images = [image for image in images if image.number == images[0].number]
        if not images:
            for place in poor:
                more = self.anchors.next_images(spaces[place].k_c, known, line.along_c)
                images += _others(more, images)
        number = len(known) + len(images)
        too_many = number > MOST_IMAGES or number * self.anchor_bands > MOST_VECTORS
        return [] if too_many else images

    def nodes(
        self, line: _Line, nodes_jc: list[NDArray[np.float64]], images: list[Image]
    ) -> list[_Node]:
        """Carry images to some k-points on a line, more of them until the bands are good at all."""
        spaces = [
            TrialSpace(k_c, self.anchors, self.products, line.window.centre) for k_c in nodes_jc
        ]
        found: dict[int, _Node] = {}
        certified: dict[int, KBands] = {}
        before = np.inf
        while True:
            for space in spaces:
                space.extend(images)
            poor: dict[int, float] = {}
            for place, space in enumerate(spaces):
                if place in found:
                    continue
                turn, bands = self.states_in(space, line.window)
                bands = certified.get(place, bands)
                if bands is not None and bands.error <= self.options.largest_error:
                    found[place] = _Node(space, turn, bands)
                else:
                    poor[place] = np.inf if bands is None else bands.error
            if not poor:
                return [found[place] for place in range(len(spaces))]
            images = self.more_images(spaces, poor, line, before)
            before = max(poor.values())
            if not images:
                worst = max(poor, key=poor.__getitem__)
                space = spaces[worst]
                certified[worst] = self.solved(space.k_c)
                # The images nearest to it are its own.
                images = self.anchors.next_images(space.k_c, space.images, line.along_c)

    def states_in(self, space: TrialSpace, window: Window) -> tuple[NDArray[Any], KBands | None]:
        """Return coefficients of the states of a window in a space, and the bands among them."""
        comm, projected = self.pencil.comm, space.projected()
        chosen = choose_states(projected, window, self.products.shift) if comm.rank == 0 else None
        energies_n, turn = comm.bcast(chosen)
        return turn, self.bands_among(space.k_c, energies_n, turn, space.combined)


@dataclass(frozen=True)
class _Line:
    """A direction in k along which states are followed, and their window."""

    window: Window
    along_c: NDArray[np.float64] | None


@dataclass(frozen=True)
class _Node:
    """A space in which the bands at its k are good, and the states in it."""

    space: TrialSpace
    turn: NDArray[Any]
    bands: KBands

    @property
    def coefficients(self) -> NDArray[Any]:
        """The states in all vectors of the space, which may have grown."""
        return self.space.padded(self.turn)


def _others(images: list[Image], known: list[Image]) -> list[Image]:
    """Return the images that are not known."""
    return [image for image in images if not any(image.is_at(x.k_c) for x in known)]


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
