"""Bands around the Fermi level at a set of k-points."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hamgnn_solve.core.observables.projections import Projections
from hamgnn_solve.core.spectrum import KBands, Spectrum
from hamgnn_solve.parallel.faults import agreed
from hamgnn_solve.solver.conditioning import project_dependent_orbitals
from hamgnn_solve.solver.dense import dense_bands
from hamgnn_solve.solver.dense_kpoints import over_kpoints
from hamgnn_solve.solver.eigenpairs import Eigenpairs, eigenpairs_between, eigenpairs_of_bands
from hamgnn_solve.solver.fermi import (
    FermiLevel,
    check_electrons,
    fermi_level,
    fill_bands,
    into_gap,
    locate_band,
    normalised_weights,
    thermal_level,
)
from hamgnn_solve.solver.fragments import guess_levels
from hamgnn_solve.solver.groups import pencil_groups
from hamgnn_solve.solver.krylov import KrylovOptions
from hamgnn_solve.solver.mulliken import band_weights, dense_band_weights
from hamgnn_solve.solver.pencil import Pencil
from hamgnn_solve.solver.reduced_bands import (
    Bands,
    ReducedSpaceOptions,
    reduced_bands,
)
from hamgnn_solve.solver.reduced_space import NotReducibleError
from hamgnn_solve.solver.slices import sliced_bands

__all__ = ["BandOptions", "band_range", "solve_bands"]

# Orbitals up to which LAPACK is faster than sparse factors (bench/RESULTS.md).
DENSE = 2000
# Bands beyond which one shift costs more than several.
SLICED = 150
# Hartree. Windows of one k serve the next when they are this much wider.
WIDER = 2e-3


@dataclass(frozen=True)
class BandOptions:
    """How bands are solved.

    Parameters
    ----------
    krylov : KrylovOptions
    largest_dense : int
        Number of orbitals up to which all is done by LAPACK.
    known : dict of int to KBands
        Bands of k-points solved by an earlier run.
    store : callable
        Told of every k-point that is solved: its place in the list and its bands. On every rank.
    announce : callable
        Told in one sentence which way is taken.
    groups : int
        Groups of ranks that work on different k-points or slices, each with a copy of the pencil.
    reduced : ReducedSpaceOptions, optional
        Lets bands of large cells at complex k-points come from the states of a few real ones.
    projections : Projections, optional
        Groups of orbitals whose Mulliken weights are wanted in every state.
    """

    krylov: KrylovOptions = field(default_factory=KrylovOptions)
    largest_dense: int = DENSE
    known: dict[int, KBands] = field(default_factory=dict)
    store: Callable[[int, KBands], None] = lambda _place, _bands: None
    announce: Callable[[str], None] = lambda _text: None
    groups: int = 1
    reduced: ReducedSpaceOptions | None = None
    projections: Projections | None = None


def band_range(
    electrons: float, electrons_per_band: int, nbands: int, norbitals: int
) -> tuple[int, int, int]:
    """Return the first of some bands around the Fermi level, the last that is filled, and the last.

    Half of them lie below the level; fewer where the bands end.
    """
    middle = int(np.ceil(electrons / electrons_per_band - 1e-9))
    first = max(middle - nbands // 2 + 1, 1)
    return first, middle, min(max(middle + nbands - nbands // 2, first), norbitals)


def solve_bands(
    pencil: Pencil,
    kpoints_kc: NDArray[np.float64],
    electrons: float,
    nbands: int = 40,
    advance: Callable[[], None] | None = None,
    *,
    fermi: FermiLevel | None = None,
    weights_k: NDArray[np.float64] | None = None,
    temperature: float = 0.0,
    options: BandOptions | None = None,
) -> Spectrum:
    """Compute the bands around the Fermi level: half below, half above, the same at every k.

    Small pencils go to LAPACK, the k-points shared among the ranks. For large ones an energy near
    the Fermi level is found at the first k by counting states; every further k starts from the
    window of the bands already known. The level follows from filling the bands of these
    k-points, and by bisection on counts where the bands do not enclose it. Every rank gets the
    result. Collective.

    Parameters
    ----------
    pencil : Pencil
        H and S.
    kpoints_kc : ndarray, shape (K, 3)
        Fractional k.
    electrons : float
        Electrons in the cell.
    nbands : int
        Number of bands; fewer where the pencil ends.
    advance : callable, optional
        Called on every rank after each k-point.
    fermi : FermiLevel, optional
        The level of a k mesh, for bands along a path, where filling would mislead.
    weights_k : ndarray, shape (K,), optional
        Weights of the k-points of a mesh; equal by default.
    temperature : float
        k_B T in Hartree, which moves the level of a metal; the level of an insulator is midway in
        the gap.
    options : BandOptions, optional

    Raises
    ------
    InputError
        When the electrons do not fit, S is not positive definite, or bands cannot be
        certified.
    """
    options = options or BandOptions()
    kpoints_kc = np.atleast_2d(np.asarray(kpoints_kc, dtype=np.float64))
    weights = normalised_weights(kpoints_kc, weights_k)
    check_electrons(pencil, electrons)
    per_band = pencil.electrons_per_band
    first, middle, last = band_range(electrons, per_band, nbands, pencil.norbitals)
    found = dict(options.known)
    todo = [place for place in range(len(kpoints_kc)) if place not in found]
    if pencil.norbitals <= options.largest_dense:
        options.announce(f"{pencil.norbitals} orbitals: LAPACK at every k-point")
        solved = _dense(pencil, kpoints_kc, todo, first, last, options.projections)
    else:
        solved = _sparse(pencil, kpoints_kc, todo, first, last, middle, fermi, options)
    for _ in found:
        if advance is not None:
            advance()
    for place, bands in solved:
        found[place] = bands
        options.store(place, bands)
        if advance is not None:
            advance()
    bands_k = [found[place] for place in range(len(kpoints_kc))]
    # Directions taken out of an ill-conditioned S may leave fewer bands at some k.
    number = min(len(x.energies_n) for x in bands_k)
    energies_kn = np.stack([x.energies_n[:number] for x in bands_k])
    given = fermi is not None
    if fermi is None:
        fermi = fill_bands(energies_kn, first, pencil.norbitals, weights, electrons, per_band)
    if fermi is None:
        fermi = fermi_level(pencil, kpoints_kc, weights, electrons)
    if fermi.metal and temperature > 0.0 and not given:
        warm = thermal_level(
            energies_kn, first, pencil.norbitals, weights, electrons, temperature, per_band
        )
        fermi = fermi if warm is None else FermiLevel(warm)
    return Spectrum(
        kpoints_kc,
        energies_kn,
        np.stack([x.first_band + np.arange(number) for x in bands_k]),
        np.stack([x.residuals_n[:number] for x in bands_k]),
        fermi.energy,
        electrons,
        per_band,
        np.array([x.certified for x in bands_k]),
        np.array([x.error for x in bands_k]),
        *_weights(bands_k, number, options.projections),
    )


def _weights(
    bands_k: list[KBands], number: int, projections: Projections | None
) -> tuple[NDArray[np.float64] | None, tuple[str, ...]]:
    """Return the weights of the first bands at all k and the names of their groups."""
    if projections is None:
        return None, ()
    weights_k = [x.weights_gn for x in bands_k if x.weights_gn is not None]
    return np.stack([x[:, :number] for x in weights_k], axis=1), projections.names


def _dense(
    pencil: Pencil,
    kpoints_kc: NDArray[np.float64],
    todo: list[int],
    first: int,
    last: int,
    projections: Projections | None,
) -> Iterator[tuple[int, KBands]]:
    """Solve k-points by LAPACK, one on each rank at a time."""

    def work(h: NDArray[Any], s: NDArray[Any], k_c: NDArray[np.float64]) -> KBands:
        energies_n, vectors_mn = dense_bands(h, s, first, last, k_c)
        image_mn = s @ vectors_mn
        residual_mn = h @ vectors_mn - image_mn * energies_n
        norms = [np.linalg.norm(x, axis=0) for x in (residual_mn, image_mn)]
        weights_gn = None if projections is None else dense_band_weights(s, vectors_mn, projections)
        return KBands(energies_n, norms[0] / norms[1], first, weights_gn=weights_gn)

    yield from zip(todo, over_kpoints(pencil, kpoints_kc[todo], work), strict=True)


def _sparse(
    pencil: Pencil,
    kpoints_kc: NDArray[np.float64],
    todo: list[int],
    first: int,
    last: int,
    middle: int,
    fermi: FermiLevel | None,
    options: BandOptions,
) -> Iterator[tuple[int, KBands]]:
    """Solve k-points from sparse factors, one in each group of ranks at a time.

    Of many bands the groups share the slices of one k-point instead.
    """
    todo = list(todo)
    general = sum(not pencil.is_real_at(kpoints_kc[place]) for place in todo)
    sliced = last - first + 1 > SLICED
    # Spinors have no real k-points and no conjugate states at -k.
    real = pencil.is_real_at((0.0, 0.0, 0.0))
    if options.reduced and real and general > 1 and not sliced and first <= middle < last:
        try:
            for place, found in reduced_bands(
                pencil,
                kpoints_kc,
                list(todo),
                Bands(first, middle, last),
                lambda k_c: _start(pencil, k_c, middle, last - first + 1, fermi, options),
                options.reduced,
                options.krylov,
                options.announce,
                options.projections,
            ):
                todo.remove(place)
                yield place, found
        except NotReducibleError as reason:
            options.announce(f"{reason}: the other k-points are solved one by one")
    if not todo:
        return
    general = sum(not pencil.is_real_at(kpoints_kc[place]) for place in todo)
    if general and len(todo) > 1:
        options.announce(
            f"at {general} of {len(todo)} k-points H(k) is complex, and each costs many times "
            "what Gamma does (--kpath none: Gamma alone)"
        )
    group = pencil_groups(pencil, options.groups)
    previous: Eigenpairs | None = None
    together = 1 if sliced else group.count
    for start in range(0, len(todo), together):
        part = todo[start : start + together]
        own: KBands | None = None
        with agreed(group.world):
            if sliced or group.number < len(part):
                k_c = kpoints_kc[part[group.number % together]]
                excluded = project_dependent_orbitals(group.pencil, k_c)
                if excluded:
                    options.announce(f"k = {k_c}: {excluded} almost dependent orbitals taken out")
                final = min(last, group.pencil.nstates(k_c))
                if previous is None:
                    sigma = _start(group.pencil, k_c, middle, final - first + 1, fermi, options)
        if sliced:
            yield (
                part[0],
                sliced_bands(
                    group,
                    k_c,
                    sigma,
                    first,
                    final,
                    options=options.krylov,
                    announce=options.announce,
                    projections=options.projections,
                ),
            )
            continue
        with agreed(group.world):
            if group.number < len(part):
                if previous is None:
                    previous = eigenpairs_of_bands(
                        group.pencil, k_c, sigma, first, final, options=options.krylov
                    )
                else:
                    previous = _next_window(
                        group.pencil, k_c, previous, first, final, middle, options
                    )
                weights_gn = None
                if options.projections is not None:
                    weights_gn = band_weights(
                        group.pencil, k_c, previous.vectors_mn, options.projections
                    )
                own = KBands(
                    previous.energies_n, previous.residuals_n, first, weights_gn=weights_gn
                )
        solved = dict(group.world.allgather((group.number, own)))
        for number, place in enumerate(part):
            yield place, solved[number]


def _start(
    pencil: Pencil,
    k_c: NDArray[np.float64],
    middle: int,
    nbands: int,
    fermi: FermiLevel | None,
    options: BandOptions,
) -> float:
    """Return an energy near the middle band, where the factors are then at hand."""
    slack = nbands // 4
    if fermi is not None:
        sigma = locate_band(pencil, k_c, middle, slack, fermi.energy)
    else:
        levels = guess_levels(pencil, k_c)
        sigma = locate_band(pencil, k_c, middle, slack, levels.gap(middle))
        sigma = into_gap(pencil, k_c, middle, sigma, levels)
    options.announce(f"an energy near the Fermi level found after {pencil.factorisations} counts")
    return sigma


def _next_window(
    pencil: Pencil,
    k_c: NDArray[np.float64],
    previous: Eigenpairs,
    first: int,
    last: int,
    middle: int,
    options: BandOptions,
) -> Eigenpairs:
    """Solve a k-point in the window of the bands of another one, from both its ends."""
    energies_n = previous.energies_n
    return eigenpairs_between(
        pencil,
        k_c,
        float(energies_n[0]) - WIDER,
        float(energies_n[-1]) + WIDER,
        (first, last),
        min(max(middle, first), last),
        options=options.krylov,
    )
