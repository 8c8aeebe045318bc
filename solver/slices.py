"""Hundreds or thousands of bands at one k, sliced by shifts that groups of ranks share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.observables.projections import Projections
from hamgnn_solve.core.spectrum import KBands
from hamgnn_solve.parallel.faults import agreed
from hamgnn_solve.solver.eigenpairs import states_around
from hamgnn_solve.solver.groups import PencilGroup
from hamgnn_solve.solver.krylov import KrylovOptions
from hamgnn_solve.solver.mulliken import band_weights

__all__ = ["sliced_bands"]

# States that are searched on each side of a shift.
SIDE = 50
# Part of them that the next shift's are to share, so that each certifies the other.
SHARED = 0.1
# Hartree. The same band from two shifts must agree.
AGREEMENT = 1e-7
ROUNDS = 400


@dataclass(frozen=True)
class _Slice:
    """Consecutive bands around one shift, numbered by its count."""

    sigma: float
    count: int
    first: int
    energies_n: NDArray[np.float64]
    residuals_n: NDArray[np.float64]
    weights_gn: NDArray[np.float64] | None

    @property
    def last(self) -> int:
        return self.first + len(self.energies_n) - 1

    def energy(self, band: int) -> float:
        return float(self.energies_n[band - self.first])


def sliced_bands(
    group: PencilGroup,
    k_c: Sequence[float] | NDArray[np.float64],
    sigma: float,
    first: int,
    last: int,
    *,
    options: KrylovOptions | None = None,
    announce: Callable[[str], None] = lambda _text: None,
    projections: Projections | None = None,
) -> KBands:
    """Compute the bands first..last at k by spectrum slicing. Collective over all groups.

    Every shift is factorised once: its count numbers the states that a Krylov search finds on both
    sides. In each round every group takes one shift, placed where bands are still unknown: between
    slices, or as far beyond the outermost as its own states reach. Neighbouring slices must share
    bands and agree on them, and a count must lie beyond either end, so that a missed or doubled
    state is noticed: it would move the numbers of one slice against those of the other.

    Parameters
    ----------
    group : PencilGroup
    k_c : array_like, shape (3,)
        Fractional k.
    sigma : float
        Energy in Hartree near the bands, where the first slice lies.
    first, last : int
        Bands, counted from 1.
    options : KrylovOptions, optional
    announce : callable, optional
        Told in one sentence after each round.
    projections : Projections, optional
        Groups of orbitals whose Mulliken weights are wanted.

    Raises
    ------
    InputError
        When slices contradict each other, S is not positive definite, or memory runs out.
    """
    slices: list[_Slice] = []
    proposals = [sigma]
    for _ in range(ROUNDS):
        own: _Slice | None = None
        with agreed(group.world):
            if group.number < len(proposals):
                own = _solve(group, k_c, proposals[group.number], options, projections)
        found = {x.sigma: x for x in group.world.allgather(own) if x is not None}
        slices = sorted([*slices, *found.values()], key=lambda x: x.sigma)
        _check(slices)
        proposals = _proposals(slices, first, last, group.count, group.pencil.nstates(k_c))
        known = sum(min(x.last, last) - max(x.first, first) + 1 for x in slices)
        announce(
            f"{len(slices)} slices, {known} bands of {last - first + 1} found, shared included"
        )
        if not proposals:
            return _joined(slices, first, last)
    raise InputError(
        f"Bands {first} to {last} are not complete after {len(slices)} slices; ask for fewer bands."
    )


def _solve(
    group: PencilGroup,
    k_c: Sequence[float] | NDArray[np.float64],
    sigma: float,
    options: KrylovOptions | None,
    projections: Projections | None,
) -> _Slice:
    """Factorise at a shift and find the states around it."""
    found = states_around(group.pencil, k_c, sigma, SIDE, SIDE, options=options)
    below = int((found.energies_n < found.sigma).sum())
    first = found.count - below + 1
    weights_gn = (
        None
        if projections is None
        else band_weights(group.pencil, k_c, found.vectors_mn, projections)
    )
    return _Slice(found.sigma, found.count, first, found.energies_n, found.residuals_n, weights_gn)


def _check(slices: list[_Slice]) -> None:
    """Compare the bands that neighbouring slices share."""
    for lower, upper in pairwise(slices):
        for band in range(max(upper.first, lower.first), min(lower.last, upper.last) + 1):
            difference = abs(lower.energy(band) - upper.energy(band))
            if difference > AGREEMENT:
                raise InputError(
                    f"Slices at {lower.sigma:.6f} and {upper.sigma:.6f} Hartree differ by "
                    f"{difference:.1e} Hartree on band {band}: one of them missed a state; give "
                    "--subspace a larger number."
                )


def _proposals(
    slices: list[_Slice], first: int, last: int, groups: int, nstates: int
) -> list[float]:
    """Return shifts for the next round, at most one for each group; none when all is known."""
    inner = [
        0.5 * float(lower.energies_n[-1] + upper.energies_n[0])
        for lower, upper in pairwise(slices)
        if lower.last < upper.first
    ]
    lowest, highest = slices[0], slices[-1]
    downward = lowest.count > first - 1 and lowest.first > 1
    upward = highest.count < last and highest.last < nstates
    outer = []
    if downward:
        reach = (1.0 - SHARED) * (lowest.sigma - float(lowest.energies_n[0]))
        bound = _outermost(reach, lowest.count - first + 1)
        outer.append([lowest.sigma - n * bound * 1.9 for n in range(1, groups + 1)])
    if upward:
        reach = (1.0 - SHARED) * (float(highest.energies_n[-1]) - highest.sigma)
        bound = _outermost(reach, last - highest.count)
        outer.append([highest.sigma + n * bound * 1.9 for n in range(1, groups + 1)])
    # Both directions in turn.
    alternating = [x for pair in zip(*outer, strict=False) for x in pair]
    return (inner + alternating)[:groups]


def _outermost(reach: float, missing: int) -> float:
    """Return half a step of shifts: as far as states reach, less where few bands are missing."""
    return max(reach * min(1.0, (missing + 3) / SIDE), 1e-6)


def _joined(slices: list[_Slice], first: int, last: int) -> KBands:
    """Return the wanted bands, each from the slice whose shift is nearest."""
    nearest: dict[int, tuple[float, _Slice]] = {}
    for part in slices:
        for band in range(max(part.first, first), min(part.last, last) + 1):
            distance = abs(part.energy(band) - part.sigma)
            if band not in nearest or distance < nearest[band][0]:
                nearest[band] = (distance, part)
    chosen = [(nearest[band][1], band) for band in range(first, last + 1)]
    weights = [x.weights_gn[:, band - x.first] for x, band in chosen if x.weights_gn is not None]
    return KBands(
        np.array([x.energy(band) for x, band in chosen]),
        np.array([x.residuals_n[band - x.first] for x, band in chosen]),
        first,
        weights_gn=np.stack(weights, axis=1) if weights else None,
    )
