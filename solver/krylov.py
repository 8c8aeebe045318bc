"""States nearest to a shift: block Krylov-Schur iterations on A = H - sigma S."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from mpi4py import MPI
from numpy.typing import NDArray

from hamgnn_solve.core.errors import InputError

__all__ = ["KrylovOptions", "Nearest", "Product", "Solve", "nearest_states"]

# Of a new vector rounding alone is left when its squared S-norm falls below this part.
NOTHING_NEW = 1e-24
# Below this part of it the projection is repeated.
CANCELLED = 1e-12
# Directions of vectors of length one with smaller squared S-norm depend on the others.
DEPENDENT = 1e-13
# A block whose parts along the others are smaller needs no further pass.
ORTHOGONAL = 1e-8
PASSES = 4
# A search whose wanted states all have smaller relative residuals is allowed twice the patience.
PROMISING = 1e-2
# Relative residuals of neighbours that are returned with the wanted states.
NEIGHBOURLY = 1e-3
# Ritz values are looked at each time the space has grown by this part.
GROWTH = 0.1

# Relative accuracy of early solutions; later ones may be as much coarser as the states have
# converged by then (Simoncini and Szyld, SIAM J. Sci. Comput. 25, 454 (2003)), and no coarser than
# a largest error.
EARLY_ACCURACY = 2e-7
COARSEST = 1e-3

Product = Callable[[NDArray[Any]], NDArray[Any]]
Solve = Callable[[NDArray[Any], float], NDArray[Any]]


@dataclass(frozen=True)
class KrylovOptions:
    """How the space of vectors grows.

    Parameters
    ----------
    block : int
        Vectors that are solved for at a time: more cost less each, but a longer space.
    largest : int
        Vectors that are held before a restart; 0 for six times the wanted states and at least 64
        blocks.
    tolerance : float
        Residual of a state of A^-1 S relative to its eigenvalue.
    restarts : int
        After so many the search is given up.
    slepc : bool
        Leave the iterations to SLEPc.
    """

    block: int = 16
    largest: int = 0
    tolerance: float = 1e-9
    restarts: int = 60
    slepc: bool = False

    def __post_init__(self) -> None:
        if self.block < 1 or self.largest < 0 or self.restarts < 1 or not self.tolerance > 0.0:
            raise ValueError(f"{self} cannot be iterated")


@dataclass(frozen=True)
class Nearest:
    """States nearest to a shift.

    Parameters
    ----------
    vectors_mn : ndarray, shape (rows of this rank, states)
        What has converged, S-orthonormal up to rounding, each state once.
    rest_t : ndarray, shape (R,)
        Ritz values t of other states asked for, which have not converged when the search ended.
    rest_mn : ndarray, shape (rows of this rank, R)
        Their Ritz vectors.
    """

    vectors_mn: NDArray[Any]
    rest_t: NDArray[np.float64]
    rest_mn: NDArray[Any]


def nearest_states(
    solve: Solve,
    overlap_times: Product,
    start_mn: NDArray[Any],
    comm: MPI.Comm,
    below: int,
    above: int,
    options: KrylovOptions,
    known_mn: NDArray[Any] | None = None,
    patience: float = np.inf,
    *,
    relaxed: bool = False,
    neighbours: tuple[int, int] = (0, 0),
) -> Nearest:
    """Find the states of A x = t S x whose t is nearest to zero, on either side of it.

    Thick-restart block Lanczos (Wu and Simon, SIAM J. Matrix Anal. Appl. 22, 602 (2000)), which for
    symmetric problems is Krylov-Schur (Stewart, SIAM J. Matrix Anal. Appl. 23, 601 (2001)), for the
    operator A^-1 S in the inner product of S, with every block orthogonalised against all others.
    A block finds degenerate states together and shares one pass over the factors. Collective.

    Parameters
    ----------
    solve : callable
        Applies A^-1 to vectors (rows of this rank, columns) with a relative accuracy.
    overlap_times : callable
        Applies S.
    start_mn : ndarray, shape (rows of this rank, block)
        Vectors to start from, random ones or neighbours of the states.
    comm : mpi4py.MPI.Comm
    below, above : int
        How many states with negative and with positive t must have converged.
    options : KrylovOptions
    known_mn : ndarray, shape (rows of this rank, K), optional
        S-orthonormal states that are not to be found again.
    patience : float
        Vectors solved for after which the search ends with what it has; twice as many where all
        states begin to converge.
    relaxed : bool
        Whether late solutions may be coarse.
    neighbours : (int, int)
        So many on each side are returned, if they are more than `below` and `above`, the further
        ones with relative residuals of `NEIGHBOURLY`.

    Returns
    -------
    Nearest
        At least the wanted states, where fewer exist all; fewer where patience ended. The rest are
        wanted states that are missing, and neighbours.

    Raises
    ------
    InputError
        When they do not converge.
    """
    space = _Space(overlap_times, comm, start_mn, known_mn)
    size = int(comm.allreduce(start_mn.shape[0])) - space.nknown
    below, above = min(below, size), min(above, size)
    every = (max(below, neighbours[0]), max(above, neighbours[1]))
    wanted = below + above
    width = start_mn.shape[1]
    largest = options.largest or max(6 * wanted, 4 * sum(every), 64 * options.block)
    largest = min(max(largest, 4 * width, wanted + 2 * width), size)
    space.reserve(largest + 2 * width)
    space.append(start_mn)
    looked_at = solved = 0
    accuracy = EARLY_ACCURACY
    for _ in range(options.restarts):
        while True:
            solved += space.next_width
            space.expand(solve, accuracy)
            exhausted = space.next_width == 0
            full = space.size + space.next_width > largest
            if not (exhausted or full) and space.size < (1.0 + GROWTH) * looked_at:
                continue
            looked_at = space.size
            ritz = space.ritz()
            if relaxed:
                accuracy = _accuracy_after(ritz.largest_residual(below, above))
            done = ritz.has_converged(below, above, options.tolerance)
            if exhausted or (done and ritz.has_converged(*every, NEIGHBOURLY)):
                return space.nearest(ritz, ritz.chosen(below, above, options.tolerance), *every)
            near_its_end = ritz.has_converged(below, above, PROMISING) and solved < 2.0 * patience
            if solved >= patience and not near_its_end:
                return space.nearest(ritz, ritz.converged(options.tolerance), *every)
            if full:
                break
        space.restart(ritz, ritz.kept(*every, largest - 2 * width))
        looked_at = 0
    raise InputError(
        f"{wanted} states around the energy did not converge after {options.restarts} restarts of "
        f"a space of {largest} vectors; ask for fewer bands or give --subspace a larger number."
    )


def _accuracy_after(residual: float) -> float:
    """Return how accurate solutions must be when states have converged to a relative residual."""
    return min(EARLY_ACCURACY / min(max(residual, EARLY_ACCURACY), 1.0), COARSEST)


@dataclass(frozen=True)
class _Ritz:
    """Ritz values theta of A^-1 S, their coefficients and residuals."""

    theta_n: NDArray[np.float64]
    turn: NDArray[Any]
    residual_n: NDArray[np.float64]
    coupling: NDArray[Any]

    def _outermost(self, count: int, positive: bool) -> NDArray[np.int64]:
        """Return the Ritz values of one sign that are largest in magnitude, outermost first."""
        signed = self.theta_n if positive else -self.theta_n
        order = np.argsort(-signed, kind="stable")
        return order[signed[order] > 0.0][:count]

    def has_converged(self, below: int, above: int, tolerance: float) -> bool:
        """Tell whether the outermost values of both signs have small relative residuals."""
        return self.largest_residual(below, above) <= tolerance

    def largest_residual(self, below: int, above: int) -> float:
        """Return the largest relative residual of the wanted values, infinite where some lack."""
        largest = 0.0
        for count, positive in ((below, False), (above, True)):
            chosen = self._outermost(count, positive)
            if len(chosen) < count:
                return np.inf
            relative_n = self.residual_n[chosen] / np.abs(self.theta_n[chosen])
            largest = max(largest, float(relative_n.max(initial=0.0)))
        return largest

    def chosen(self, below: int, above: int, tolerance: float) -> NDArray[np.int64]:
        """Return the wanted states and those beyond them that have converged as well."""
        good = self.residual_n <= 10.0 * tolerance * np.abs(self.theta_n)
        wanted = np.zeros(len(self.theta_n), dtype=bool)
        wanted[self._outermost(below, False)] = True
        wanted[self._outermost(above, True)] = True
        return np.flatnonzero(wanted | good)

    def converged(self, tolerance: float) -> NDArray[np.int64]:
        """Return what has converged."""
        return np.flatnonzero(self.residual_n <= tolerance * np.abs(self.theta_n))

    def others(self, below: int, above: int, found: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the outermost values of both signs that are not among those found."""
        every = np.concatenate([self._outermost(below, False), self._outermost(above, True)])
        return every[~np.isin(every, found)]

    def kept(self, below: int, above: int, room: int) -> NDArray[np.int64]:
        """Return what a restart keeps: the wanted states and half as many beyond them."""
        sides = [
            self._outermost(count + count // 2 + 4, side)
            for count, side in ((below, False), (above, True))
            if count > 0
        ]
        kept = np.concatenate(sides)
        return kept[np.argsort(-np.abs(self.theta_n[kept]), kind="stable")][:room]


class _Space:
    """S-orthonormal vectors V, their products S V, and T = V^dagger S A^-1 S V."""

    def __init__(
        self,
        overlap_times: Product,
        comm: MPI.Comm,
        start_mn: NDArray[Any],
        known_mn: NDArray[Any] | None,
    ) -> None:
        self.overlap_times, self.comm = overlap_times, comm
        self.rows, self.dtype = start_mn.shape[0], start_mn.dtype
        known = np.zeros((self.rows, 0), self.dtype) if known_mn is None else known_mn
        self.nknown = known.shape[1]
        self.known = (known, overlap_times(known) if self.nknown else known)
        self.size = 0
        self.next_width = 0

    def reserve(self, columns: int) -> None:
        self.v = np.empty((self.rows, columns), self.dtype, order="F")
        self.sv = np.empty((self.rows, columns), self.dtype, order="F")
        self.t = np.zeros((columns, columns), self.dtype)

    def append(self, block_mn: NDArray[Any]) -> None:
        """Make a block S-orthonormal to all others and put it after them."""
        block, _, _ = self._orthogonal(np.array(block_mn, dtype=self.dtype, order="F"))
        self.next_width = block[0].shape[1]
        place = slice(self.size, self.size + self.next_width)
        self.v[:, place], self.sv[:, place] = block
        self.coupling = np.zeros((self.next_width, 0), self.dtype)

    def expand(self, solve: Solve, accuracy: float) -> None:
        """Apply A^-1 S to the last block and append what is new in it.

        What couples the block to those before is known from them: a coarse solution would spoil it.
        """
        start, self.size = self.size, self.size + self.next_width
        image = np.asfortranarray(solve(self.sv[:, start : self.size], accuracy))
        block, coefficients, coupling = self._orthogonal(image)
        own = coefficients[start:]
        self.t[start : self.size, start : self.size] = 0.5 * (own + own.conj().T)
        coupled = slice(start - self.coupling.shape[1], start)
        self.t[start : self.size, coupled] = self.coupling
        self.t[coupled, start : self.size] = self.coupling.conj().T
        self.coupling = coupling
        self.next_width = block[0].shape[1]
        place = slice(self.size, self.size + self.next_width)
        if place.stop > self.v.shape[1]:
            raise ValueError("the space of vectors is full")
        self.v[:, place], self.sv[:, place] = block

    def ritz(self) -> _Ritz:
        """Return Ritz values; the same on every rank, for one rank works them out."""
        t = self.t[: self.size, : self.size]
        solved = scipy.linalg.eigh(0.5 * (t + t.conj().T)) if self.comm.rank == 0 else None
        theta_n, turn = self.comm.bcast(solved)
        coupling = self.coupling @ turn[self.size - self.coupling.shape[1] :]
        return _Ritz(theta_n, turn, np.linalg.norm(coupling, axis=0), coupling)

    def nearest(self, ritz: _Ritz, found: NDArray[np.int64], below: int, above: int) -> Nearest:
        """Return what was found, and the rest of some states on both sides."""
        rest = ritz.others(below, above, found)
        vectors = [self.v[:, : self.size] @ ritz.turn[:, chosen] for chosen in (found, rest)]
        return Nearest(vectors[0], 1.0 / ritz.theta_n[rest], vectors[1])

    def restart(self, ritz: _Ritz, kept: NDArray[np.int64]) -> None:
        """Shrink the space to some Ritz vectors and the block that follows them."""
        count, width = len(kept), self.next_width
        turn = ritz.turn[:, kept]
        following = slice(self.size, self.size + width)
        for vectors in (self.v, self.sv):
            new = vectors[:, : self.size] @ turn
            block = vectors[:, following].copy()
            vectors[:, :count], vectors[:, count : count + width] = new, block
        self.t[...] = 0.0
        self.t[:count, :count] = np.diag(ritz.theta_n[kept])
        self.coupling = ritz.coupling[:, kept]
        self.size = count

    def _orthogonal(
        self, block: NDArray[Any]
    ) -> tuple[tuple[NDArray[Any], NDArray[Any]], NDArray[Any], NDArray[Any]]:
        """Make a block S-orthonormal to the space and in itself.

        Returns
        -------
        (vectors, S vectors), coefficients along the space, coefficients along the new vectors
        """
        self._project(block, self.known)
        coefficients = self._project(block, self._basis)
        image = np.asfortranarray(self.overlap_times(block))
        coupling = np.eye(block.shape[1], dtype=self.dtype)
        before_n = (np.abs(coefficients) ** 2).sum(axis=0)
        norm_n = self.comm.allreduce((block.conj() * image).real.sum(axis=0))
        if (norm_n < CANCELLED * before_n).any():
            # Rounding along the others would pass for something new.
            self._project(block, self.known, image)
            coefficients += self._project(block, self._basis, image)
        left = np.inf
        for _ in range(PASSES):
            gram = self.comm.allreduce(block.conj().T @ image)
            root, inverse = self._roots(gram, before_n)
            before_n = np.zeros(root.shape[0])
            block, image = block @ inverse, image @ inverse
            coupling = root @ coupling
            if left < ORTHOGONAL or block.shape[1] == 0:
                break
            # What rounding left along the others, now that the vectors have length one.
            rest = [self._project(block, basis, image) for basis in (self.known, self._basis)]
            coefficients += rest[1] @ coupling
            left = max(float(np.abs(x).max(initial=0.0)) for x in rest)
        return (block, image), coefficients, coupling

    @property
    def _basis(self) -> tuple[NDArray[Any], NDArray[Any]]:
        return self.v[:, : self.size], self.sv[:, : self.size]

    def _project(
        self,
        block: NDArray[Any],
        basis: tuple[NDArray[Any], NDArray[Any]],
        image: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """Take the part along a basis off a block and its product with S, in place; return it."""
        vectors, images = basis
        if vectors.shape[1] == 0:
            return np.zeros((0, block.shape[1]), self.dtype)
        part = np.asarray(self.comm.allreduce(images.conj().T @ block))
        block -= vectors @ part
        if image is not None:
            image -= images @ part
        return part

    def _roots(
        self, gram: NDArray[Any], before_n: NDArray[np.float64]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return R and R^-1 of the independent part of a Gram matrix R^dagger R.

        `before_n` are the squared norms of what the projections took off each vector.
        """
        solved = None
        if self.comm.rank == 0:
            norm_n = np.diag(gram).real
            new = norm_n > NOTHING_NEW * (norm_n + before_n)
            scale_n = np.where(new, 1.0 / np.sqrt(np.where(new, norm_n, 1.0)), 0.0)
            scaled = scale_n[:, None] * gram * scale_n
            size_n, turn = scipy.linalg.eigh(0.5 * (scaled + scaled.conj().T))
            kept = size_n > DEPENDENT
            length, turn = np.sqrt(size_n[kept]), turn[:, kept]
            norms = np.sqrt(np.where(new, norm_n, 0.0))
            root = length[:, None] * turn.conj().T * norms
            solved = (root, scale_n[:, None] * turn / length)
        root, inverse = self.comm.bcast(solved)
        return root, inverse
