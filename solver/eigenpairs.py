"""Bands near an energy, with their global index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.solver.factorisation import DOUBLE
from hamgnn_solve.solver.inertia import factorise_near
from hamgnn_solve.solver.krylov import KrylovOptions, nearest_states
from hamgnn_solve.solver.pencil import Pencil
from hamgnn_solve.solver.slepc_krylov import slepc_states

__all__ = [
    "Eigenpairs",
    "eigenpairs_between",
    "eigenpairs_near",
    "eigenpairs_of_bands",
    "states_around",
]

# Hartree. An edge for counting lies this far outside the last band, beyond its error.
MARGIN = 1e-6
# Vectors whose part outside the span of the others is smaller (squared) are copies.
INDEPENDENT = 1e-8
ATTEMPTS = 10
# Hartree. A state nearer to a shift than this may count on either side of it.
TOO_CLOSE = 2e-7
# States beyond the wanted ones, among which an edge for counting finds a hole.
SPARE = 4
# An edge for counting lies in one of so many holes beyond the wanted states.
HOLES = 24
# A factorisation takes as long as solves for operations / entries of factors / this many vectors.
SOLVES = 10.0
# Blocks that every search is given.
BLOCKS = 12
# A shift beside unconverged states keeps this part of their spread as its distance.
NEARNESS = 0.1
# Hartree. What has a larger residual is not taken for a state.
LARGEST_RESIDUAL = 1e-6


@dataclass(frozen=True)
class Eigenpairs:
    """Consecutive bands at one k; the same on every rank but for the vectors.

    Parameters
    ----------
    k_c : ndarray, shape (3,)
        Fractional k.
    energies_n : ndarray, shape (nbands,)
        In Hartree, ascending.
    band_index_n : ndarray of int64, shape (nbands,)
        1 is the lowest band of the pencil.
    residuals_n : ndarray, shape (nbands,)
        ||H x - e S x|| / ||S x|| in Hartree.
    vectors_mn : ndarray, shape (rows of this rank, nbands)
        S-orthonormal eigenvectors, real or complex as k demands, in the row order of the pencil.
    count : int
        Number of states below `sigma`.
    sigma : float
        The shift in Hartree.
    beyond_mn : ndarray, shape (rows of this rank, neighbours)
        States further out that have converged less, where a search was asked for neighbours.
    """

    k_c: NDArray[np.float64]
    energies_n: NDArray[np.float64]
    band_index_n: NDArray[np.int64]
    residuals_n: NDArray[np.float64]
    vectors_mn: NDArray[Any]
    count: int
    sigma: float
    beyond_mn: NDArray[Any]


def eigenpairs_near(
    pencil: Pencil,
    k_c: Sequence[float] | NDArray[np.float64],
    sigma: float,
    nbands_below: int,
    nbands_above: int,
    *,
    options: KrylovOptions | None = None,
) -> Eigenpairs:
    """Compute the nearest bands below and above an energy at k.

    Block Krylov-Schur on the LDL^T factors (MUMPS) whose inertia gives the band index; counts
    beyond both ends certify that no band is missing. Collective.

    Parameters
    ----------
    pencil : Pencil
        H and S.
    k_c : array_like, shape (3,)
        Fractional k.
    sigma : float
        Energy in Hartree.
    nbands_below, nbands_above : int
        How many bands are wanted on each side; where fewer exist, those are returned.
    options : KrylovOptions, optional

    Raises
    ------
    InputError
        When the bands cannot be certified, S is not positive definite, or memory runs out.
    """
    search = _Search(pencil, k_c, options)
    sigma, count = search.shift_to(sigma)
    first = max(count - nbands_below + 1, 1)
    last = min(count + nbands_above, pencil.nstates(k_c))
    return search.bands(first, last)


def eigenpairs_of_bands(
    pencil: Pencil,
    k_c: Sequence[float] | NDArray[np.float64],
    sigma: float,
    first_band: int,
    last_band: int,
    *,
    options: KrylovOptions | None = None,
    known: Eigenpairs | None = None,
) -> Eigenpairs:
    """Compute the bands of given global indices at k, searched from an energy near them.

    Parameters
    ----------
    first_band, last_band : int
        Bands counted from 1, both included; sigma (Hartree) should lie among them.
    known : Eigenpairs, optional
        States at this k that need no search.

    Other parameters, results and errors are those of `eigenpairs_near`.
    """
    if not 1 <= first_band <= last_band <= pencil.nstates(k_c):
        raise ValueError(f"no bands {first_band}..{last_band} among {pencil.nstates(k_c)}")
    search = _Search(pencil, k_c, options, known)
    search.shift_to(sigma)
    return search.bands(first_band, last_band)


def eigenpairs_between(
    pencil: Pencil,
    k_c: Sequence[float] | NDArray[np.float64],
    low: float,
    high: float,
    wanted: tuple[int, int] | None = None,
    middle_band: int | None = None,
    *,
    options: KrylovOptions | None = None,
) -> Eigenpairs:
    """Compute all bands between two energies at k from the factors at both.

    The counts at both ends say how many there are; bands up to the middle one are searched from
    below, the others from above, so that both factorisations serve the search and the certificate.

    Parameters
    ----------
    low, high : float
        Energies in Hartree.
    wanted : (int, int), optional
        First and last band to return, counted from 1; where the window misses one, it is searched
        beyond. By default the bands between the energies.
    middle_band : int, optional
        Last band that is searched from below, a band at the edge of a gap say; half of the bands
        by default.

    Other parameters, results and errors are those of `eigenpairs_near`.
    """
    if not low < high:
        raise ValueError(f"no energies between {low} and {high}")
    search = _Search(pencil, k_c, options)
    high, count_high = search.shift_to(high)
    # The count at the other end is not known yet when the middle band is.
    if middle_band is not None:
        search.extend(count_high - middle_band, 0)
        low, count_low = search.shift_to(low)
    else:
        low, count_low = search.shift_to(low)
        middle_band = (count_low + count_high) // 2
        search.shift_to(high)
        search.extend(count_high - middle_band, 0)
        search.shift_to(low)
    search.extend(0, middle_band - count_low)
    first, last = wanted or (count_low + 1, count_high)
    return search.bands(first, last)


def states_around(
    pencil: Pencil,
    k_c: Sequence[float] | NDArray[np.float64],
    sigma: float,
    below: int,
    above: int,
    *,
    options: KrylovOptions | None = None,
    known: Eigenpairs | None = None,
    neighbours: tuple[int, int] = (0, 0),
    bands: tuple[int, int] | None = None,
) -> Eigenpairs:
    """Find the nearest states on both sides of a shift from one factorisation.

    The count at the shift numbers the bands; no count at the ends certifies that none is missing.

    Parameters
    ----------
    below, above : int
        States wanted under and over the shift; fewer come back where fewer exist.
    known : Eigenpairs, optional
        States at this k that need no search.
    neighbours : (int, int)
        So many on either side are wanted, the further ones less converged (`nearest_states`).
    bands : (int, int), optional
        First and last band, counted from 1, that must be among the states too.

    Other parameters and errors are those of `eigenpairs_near`.
    """
    search = _Search(pencil, k_c, options, known)
    _, count = search.shift_to(sigma)
    if bands is not None:
        below, above = max(below, count - bands[0] + 1), max(above, bands[1] - count)
    first, last = max(count - below + 1, 1), min(count + above, pencil.nstates(k_c))
    for attempt in range(ATTEMPTS):
        # A shift that hit a state has moved.
        count, split = search.counts[search.sigma], int((search.energies_n < search.sigma).sum())
        below, above = count - first + 1, last - count
        missing = below - split, above - (len(search.energies_n) - split)
        if max(missing) <= 0:
            break
        search.extend(*missing, neighbours=neighbours if attempt == 0 else (0, 0))
    else:
        raise InputError(
            f"Of the bands {first} to {last} at k = {search.k_c} some were not found; ask for "
            "fewer bands."
        )
    return search.around(max(below, neighbours[0]), max(above, neighbours[1]))


class _Search:
    """States found so far at one k, and the counts at the shifts that were factorised."""

    def __init__(
        self,
        pencil: Pencil,
        k_c: Sequence[float] | NDArray[np.float64],
        options: KrylovOptions | None,
        known: Eigenpairs | None = None,
    ) -> None:
        self.pencil = pencil
        self.k_c = np.asarray(k_c, dtype=np.float64)
        self.real = pencil.is_real_at(k_c)
        self.dtype = np.float64 if self.real else np.complex128
        self.options = options or KrylovOptions()
        self.attempts = 0
        # Energies and vectors of wanted states that a search left unconverged, and its shift.
        self.rest: tuple[NDArray[np.float64], NDArray[Any], float] | None = None
        # The first shift and its count, from which bands are numbered until ends are counted.
        self.anchor: tuple[float, int] = (np.nan, 0)
        # Counts at the ends of everything need no factorisation.
        self.counts: dict[float, int] = {-np.inf: 0, np.inf: pencil.nstates(k_c)}
        self.energies_n = np.zeros(0)
        self.vectors_mn: NDArray[Any] = np.zeros((pencil.rows.nlocal, 0), dtype=self.dtype)
        self.residuals_n = np.zeros(0)
        if known is not None:
            self.energies_n, self.residuals_n = known.energies_n, known.residuals_n
            self.vectors_mn = known.vectors_mn

    def shift_to(self, sigma: float, *, counting: bool = False) -> tuple[float, int]:
        """Factorise at an energy; returns where that was possible, and the count there."""
        self.factorisation, self.sigma, count = factorise_near(
            self.pencil, self.k_c, sigma, counting=counting
        )
        self.counts[self.sigma] = count
        if np.isnan(self.anchor[0]):
            self.anchor = (self.sigma, count)
        return self.sigma, count

    def bands(self, first: int, last: int) -> Eigenpairs:
        """Search until the bands first..last are found and certified."""
        missing = 0
        for _ in range(ATTEMPTS):
            anchor, count = self.anchor
            split = int((self.energies_n < anchor).sum())
            below = max(count - first + 1, 0) - split
            above = max(last - count, 0) - (len(self.energies_n) - split)
            if below > 0 or above > 0:
                self._search_on(max(below, 0), max(above, 0))
                continue
            low, high = self._edge(first, -1), self._edge(last, 1)
            known = (self.energies_n > low) & (self.energies_n < high)
            missing = self.counts[high] - self.counts[low] - int(known.sum())
            if missing == 0:
                return self._result(low, first, last)
            if missing < 0:
                break
            self.extend(missing, missing)
        raise InputError(
            f"Bands {first} to {last} at k = {self.k_c} cannot be certified: the count of states "
            f"between their ends exceeds the number found by {missing}; ask for fewer bands."
        )

    def _search_on(self, below: int, above: int) -> None:
        """Search more states on either side, one side alone from a shift that is near to it."""
        known = len(self.energies_n) > 0
        if self.rest is None and not known:
            statistics = self.factorisation.statistics
            patience = statistics["operations"] / statistics["entries"] / SOLVES
            patience = max(patience, BLOCKS * self.options.block)
            self.extend(below + SPARE, above + SPARE, patience)
            return
        side = -1 if below > 0 else 1
        near = self._beside_the_rest(side)
        if near is not None:
            self._search_beside(near, side, below if side < 0 else above)
            return
        if known and above == 0:
            self.shift_to(float(self.energies_n[0]) - MARGIN)
        elif known and below == 0:
            self.shift_to(float(self.energies_n[-1]) + MARGIN)
        self.extend(below + SPARE if below else 0, above + SPARE if above else 0)

    def _search_beside(self, energy: float, side: int, missing: int) -> None:
        """Search what is missing on one side of the anchor from an energy near to it.

        Its count tells how many of these states lie between it and the anchor; no more are asked
        for there, since beyond the anchor the next ones are far.
        """
        sigma, count = self.shift_to(energy)
        anchor, anchored = self.anchor
        between = int(((self.energies_n - sigma) * (self.energies_n - anchor) < 0.0).sum())
        inside = max(abs(count - anchored) - between, 0)
        beyond = max(missing - inside, 0) + SPARE
        self.extend(*((beyond, inside) if side < 0 else (inside, beyond)))

    def _beside_the_rest(self, side: int) -> float | None:
        """Return an energy from which states that did not converge are near; None without any.

        Close to the first of them, so that they stand out from those beyond them, and at most
        midway to the states on the other side of the shift they were searched from.
        """
        if self.rest is None:
            return None
        rest_n, _, sigma = self.rest
        wanted_n = rest_n[side * (rest_n - sigma) > 0.0]
        if len(wanted_n) == 0:
            return None
        others_n = np.concatenate([rest_n, self.energies_n])
        others_n = others_n[side * (others_n - sigma) < 0.0]
        first = side * (side * wanted_n).min()
        distance = max(NEARNESS * float(np.ptp(wanted_n)), MARGIN)
        if len(others_n):
            distance = min(distance, 0.5 * float(np.abs(others_n - first).min()))
        return float(first - side * distance)

    def extend(
        self,
        below: int,
        above: int,
        patience: float = np.inf,
        neighbours: tuple[int, int] = (0, 0),
    ) -> None:
        """Find unknown states on both sides of the shift and join them to those known.

        What has not converged when patience, in vectors solved for, ends is kept as the rest, and
        so are neighbours beyond the states that must have converged.
        """
        if below <= 0 and above <= 0:
            return
        relaxed = self.factorisation.precision != DOUBLE
        search = partial(nearest_states, patience=patience, relaxed=relaxed, neighbours=neighbours)
        found = (slepc_states if self.options.slepc else search)(
            self.pencil.solve,
            lambda x: self.pencil.overlap_times(self.k_c, x),
            self._start(below, above),
            self.pencil.comm,
            max(below, 0),
            max(above, 0),
            self.options,
            self.vectors_mn if self.vectors_mn.shape[1] else None,
        )
        self.attempts += 1
        if len(found.rest_t):
            self.rest = (self.sigma + found.rest_t, found.rest_mn, self.sigma)
        if found.vectors_mn.shape[1]:
            self._join(found.vectors_mn)
        self._leave_states()

    def _leave_states(self) -> None:
        """Count anew beside the shift where a state lies on it, on which side rounding says."""
        distance_n = np.abs(self.energies_n - self.sigma)
        if len(distance_n) == 0 or distance_n.min() > TOO_CLOSE:
            return
        del self.counts[self.sigma]
        anchored = self.anchor[0] == self.sigma
        # The next hole among the known states that is wide enough, or beyond all of them.
        edges = np.concatenate([self.energies_n, [self.energies_n[-1] + 8.0 * TOO_CLOSE]])
        wide = np.flatnonzero((np.diff(edges) > 4.0 * TOO_CLOSE) & (edges[1:] > self.sigma))
        hole = int(wide[0])
        sigma, count = self.shift_to(0.5 * float(edges[hole] + edges[hole + 1]))
        if anchored:
            self.anchor = (sigma, count)

    def _start(self, below: int, above: int) -> NDArray[Any]:
        """Return vectors to start from: random ones, with what an ended search left of a side."""
        shape = (self.pencil.rows.nlocal, self.options.block)
        random = np.random.default_rng([self.attempts, self.pencil.rows.start])
        start = random.standard_normal(shape).astype(self.dtype)
        if self.rest is not None and (below <= 0 or above <= 0):
            rest_n, rest_mn, sigma = self.rest
            chosen = (rest_n < sigma) if below > 0 else (rest_n > sigma)
            mixed = np.random.default_rng(self.attempts).standard_normal(
                (int(chosen.sum()), self.options.block)
            )
            start = 1e-3 * start + rest_mn[:, chosen] @ mixed
        return self.pencil.without_excluded(self.k_c, start)

    def _join(self, found_mn: NDArray[Any]) -> None:
        """Rayleigh-Ritz on known and new states; what is no state to the end is left out."""
        states_mn = np.hstack([self.vectors_mn, found_mn])
        # A shift on a state amplifies what rounding leaves along directions taken out.
        states_mn = self.pencil.without_excluded(self.k_c, states_mn)
        self.energies_n, self.vectors_mn, self.residuals_n = self._ritz(states_mn)
        good = self.residuals_n < LARGEST_RESIDUAL
        self.energies_n, self.residuals_n = self.energies_n[good], self.residuals_n[good]
        self.vectors_mn = self.vectors_mn[:, good]

    def _ritz(
        self, states_mn: NDArray[Any]
    ) -> tuple[NDArray[np.float64], NDArray[Any], NDArray[np.float64]]:
        """Return energies, S-orthonormal vectors and residuals in the span of some states."""
        pencil, k_c, comm = self.pencil, self.k_c, self.pencil.comm
        h_mn = pencil.hamiltonian_times(k_c, states_mn)
        s_mn = pencil.overlap_times(k_c, states_mn)
        gram, small = (comm.allreduce(states_mn.conj().T @ x) for x in (s_mn, h_mn))
        # One rank decides, so that rounding cannot make two ranks keep different states.
        energies_n, turn = comm.bcast(_rayleigh_ritz(gram, small) if comm.rank == 0 else None)
        s_mn = s_mn @ turn
        residual_mn = pencil.without_excluded(k_c, h_mn @ turn - s_mn * energies_n)
        norms = comm.allreduce(
            np.stack([(np.abs(x) ** 2).sum(axis=0) for x in (residual_mn, s_mn)])
        )
        return energies_n, states_mn @ turn, np.sqrt(norms[0] / norms[1])

    def _position(self, band: int) -> int:
        """Return where a band stands among the known ones, as the count at the anchor has it."""
        anchor, count = self.anchor
        return int((self.energies_n < anchor).sum()) + band - count - 1

    def _edge(self, band: int, side: int) -> float:
        """Return a counted energy below (side -1) or above (side 1) a band; counts where needed.

        Counting shifts lie in the widest hole among the known states beyond the band.
        """
        if band == (1 if side < 0 else self.pencil.nstates(self.k_c)):
            return side * np.inf
        position = self._position(band)
        energy = self.energies_n[position]
        counted = [s for s in self.counts if np.isfinite(s) and side * (s - energy) > 0.0]
        if counted:
            return min(counted, key=lambda s: abs(s - energy))
        beyond = self.energies_n[position::-1] if side < 0 else self.energies_n[position:]
        beyond = beyond[: HOLES + 1]
        edge = energy + side * MARGIN
        if len(beyond) > 1:
            hole = int(np.argmax(np.abs(np.diff(beyond))))
            edge = 0.5 * float(beyond[hole] + beyond[hole + 1])
        return self.shift_to(edge, counting=True)[0]

    def around(self, below: int, above: int) -> Eigenpairs:
        """Return the nearest known states on both sides of the shift, numbered by its count."""
        split = int((self.energies_n < self.sigma).sum())
        kept = slice(max(split - below, 0), split + above)
        return self._numbered(kept, self.sigma)

    def _result(self, low: float, first: int, last: int) -> Eigenpairs:
        start = int((self.energies_n < low).sum()) + first - self.counts[low] - 1
        return self._numbered(slice(start, start + last - first + 1), low)

    def _numbered(self, kept: slice, counted: float) -> Eigenpairs:
        """Return some of the known states, their indices from the count at an energy."""
        index_n = np.arange(len(self.energies_n)) + 1 + self.counts[counted]
        index_n -= int((self.energies_n < counted).sum())
        anchor, count = self.anchor
        return Eigenpairs(
            self.k_c,
            self.energies_n[kept],
            index_n[kept],
            self.residuals_n[kept],
            self.vectors_mn[:, kept],
            count,
            anchor,
            self.vectors_mn[:, :0] if self.rest is None else self.rest[1],
        )


def _rayleigh_ritz(
    gram: NDArray[Any], small: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[Any]]:
    """Return Ritz values and the coefficients of S-orthonormal Ritz vectors.

    A state found twice is one direction of the Gram matrix and counts once.
    """
    scale_n = 1.0 / np.sqrt(np.diag(gram).real)
    scaled = scale_n[:, None] * gram * scale_n
    size_n, directions = scipy.linalg.eigh(0.5 * (scaled + scaled.conj().T))
    kept = size_n > INDEPENDENT
    orthonormal = scale_n[:, None] * directions[:, kept] / np.sqrt(size_n[kept])
    projected = orthonormal.conj().T @ small @ orthonormal
    values_n, turn = scipy.linalg.eigh(0.5 * (projected + projected.conj().T))
    return values_n, orthonormal @ turn
