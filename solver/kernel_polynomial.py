"""Density of states of the whole spectrum of a sparse pencil by the kernel polynomial method."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.observables.density_of_states import DensityOfStates
from hamgnn_solve.core.observables.projections import Projections
from hamgnn_solve.solver.mulliken import group_sums, of_rows
from hamgnn_solve.solver.pencil import Pencil

__all__ = [
    "ChebyshevMoments",
    "KernelOptions",
    "chebyshev_moments",
    "kernel_dos",
    "kernel_width",
    "spectral_bounds",
]

LANCZOS_STEPS = 40
# Part of the width of the spectrum that is added on both sides.
SAFETY = 0.01
# Chebyshev polynomials of an operator within its bounds never lengthen a vector.
LARGEST_GROWTH = 2.0


@dataclass(frozen=True)
class KernelOptions:
    """How moments are made.

    Parameters
    ----------
    moments : int
        Number N of Chebyshev moments; `kernel_width` tells the resolution.
    vectors : int or None
        Random vectors of the trace; None for the exact trace over all unit vectors, which is for
        small pencils.
    bounds : tuple of float, optional
        Energies in Hartree that enclose all eigenvalues; from some Lanczos steps by default.
    seed : int
        Of the random vectors.
    block : int
        Vectors that are worked on at a time.
    """

    moments: int = 1000
    vectors: int | None = 16
    bounds: tuple[float, float] | None = None
    seed: int = 0
    block: int = 16

    def __post_init__(self) -> None:
        if self.moments < 2 or self.block < 1:
            raise ValueError(f"{self.moments} moments in blocks of {self.block} vectors")
        if self.vectors is not None and self.vectors < 2:
            raise ValueError("a random trace needs two vectors to tell its error")
        if self.bounds is not None and not self.bounds[0] < self.bounds[1]:
            raise ValueError(f"no energies between {self.bounds[0]} and {self.bounds[1]}")


@dataclass(frozen=True)
class ChebyshevMoments:
    """Moments of the projected densities of states of one pencil at one k.

    Parameters
    ----------
    values_ncr : ndarray, shape (N, C, R)
        sum_{m in cell c} of T_n(A)_mm, A = S^-1 H scaled to -1..1: one estimate a random vector,
        or the exact trace (R = 1).
    projections : Projections
        Whose cells these are.
    bounds : tuple of float
        Energies in Hartree that became -1 and 1.
    exact : bool
        Whether the trace is exact.
    electrons_per_band : int
    """

    values_ncr: NDArray[np.float64]
    projections: Projections
    bounds: tuple[float, float]
    exact: bool
    electrons_per_band: int

    def __post_init__(self) -> None:
        if self.values_ncr.ndim != 3 or self.values_ncr.shape[1] != self.projections.ncells:
            raise ValueError(f"moments of shape {self.values_ncr.shape}")

    @property
    def half_width(self) -> float:
        """Half the length of the interval in Hartree."""
        return 0.5 * (self.bounds[1] - self.bounds[0])

    def scaled(self, energies_e: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return energies in units of the interval, -1..1."""
        return (energies_e - 0.5 * (self.bounds[0] + self.bounds[1])) / self.half_width


def kernel_width(bounds: tuple[float, float], moments: int, energy: float | None = None) -> float:
    """Return the standard deviation in Hartree to which Jackson's kernel broadens a level.

    Weisse, Wellein, Alvermann and Fehske, Rev. Mod. Phys. 78, 275 (2006), equation 76.

    Parameters
    ----------
    bounds : tuple of float
        Energies in Hartree that enclose all eigenvalues.
    moments : int
    energy : float, optional
        The level in Hartree; in the middle of the bounds, where it is largest, by default.
    """
    half = 0.5 * (bounds[1] - bounds[0])
    x = 0.0 if energy is None else (energy - 0.5 * (bounds[0] + bounds[1])) / half
    angle = np.pi / (moments + 1)
    factor = (moments - x**2 * (moments - 1)) / (2 * (moments + 1))
    return float(half * np.sqrt(factor * (1.0 - np.cos(2 * angle))))


def chebyshev_moments(
    pencil: Pencil,
    k_c: Sequence[float] | NDArray[np.float64],
    projections: Projections,
    options: KernelOptions | None = None,
    advance: Callable[[], None] | None = None,
) -> ChebyshevMoments:
    """Compute the Chebyshev moments of S(k)^-1 H(k) resolved by orbitals. Collective.

    f(S^-1 H) has the diagonal sum_n f(e_n) c*_mn (S c_n)_m, the Mulliken populations. From random
    signs x and the Cholesky factors L of the on-site blocks of S come r = L^-T x and l = L x with
    <r l^T> = 1, so that l_m (f(A) r)_m has that diagonal as its mean (Weisse et al., section
    II.B.2, where L = 1); L takes most of the non-orthogonality out of the variance. S is
    factorised once, and a moment costs a product with H and a solve. The random vectors do not
    depend on the number of ranks.

    Parameters
    ----------
    pencil : Pencil
        H and S.
    k_c : array_like, shape (3,)
        Fractional k.
    projections : Projections
    options : KernelOptions, optional
    advance : callable, optional
        Called on every rank after each block of vectors.

    Raises
    ------
    InputError
        When S(k) is not positive definite, memory runs out, or an eigenvalue lies outside the
        bounds.
    """
    options = options or KernelOptions()
    operator = _Operator(pencil, k_c)
    bounds = options.bounds or operator.bounds()
    sums = group_sums(of_rows(pencil, projections.cell_of_orbital_m), projections.ncells)
    parts = []
    for left_mr, right_mr in _traces(pencil, options):
        parts.append(_block_moments(operator, bounds, left_mr, right_mr, sums, options.moments))
        if advance is not None:
            advance()
    values_ncr = pencil.comm.allreduce(np.concatenate(parts, axis=2))
    exact = options.vectors is None
    if exact:
        values_ncr = values_ncr.sum(axis=2, keepdims=True)
    return ChebyshevMoments(values_ncr, projections, bounds, exact, pencil.electrons_per_band)


def spectral_bounds(
    pencil: Pencil, k_c: Sequence[float] | NDArray[np.float64]
) -> tuple[float, float]:
    """Return energies in Hartree below and above all eigenvalues at k, from Lanczos. Collective.

    The extreme Ritz values moved outwards by their residuals and by a hundredth of the width; no
    proof, but the moments notice an eigenvalue outside.
    """
    return _Operator(pencil, k_c).bounds()


def kernel_dos(moments: ChebyshevMoments, energies_e: NDArray[np.float64]) -> DensityOfStates:
    """Return total, projected and integrated densities of states with Jackson's kernel.

    Weisse et al., equations 17, 71 and 76. Where the trace is random the standard errors follow
    from the spread over its vectors.

    Parameters
    ----------
    moments : ChebyshevMoments
    energies_e : ndarray, shape (E,)
        In Hartree, ascending; outside the bounds there are no states.
    """
    number, _, nvectors = moments.values_ncr.shape
    damped_ncr = moments.values_ncr * _jackson(number)[:, None, None]
    total_nr = damped_ncr.sum(axis=1)
    # Groups as sums of cells, vectors side by side: shape (N, G, R).
    groups_ngr = np.einsum("gc,ncr->ngr", moments.projections.member_gc.astype(float), damped_ncr)
    x_e = moments.scaled(energies_e)
    inside_e = np.abs(x_e) < 1.0
    angle_e = np.arccos(np.clip(x_e, -1.0, 1.0))
    order_n = np.arange(number)
    wave_en = np.cos(angle_e[:, None] * order_n) * np.where(order_n == 0, 1.0, 2.0)
    sine_e = np.where(inside_e, np.sin(angle_e), 1.0)
    wave_en *= (inside_e / (np.pi * sine_e * moments.half_width))[:, None]
    total_er = wave_en @ total_nr
    projected_ger = np.moveaxis(np.tensordot(wave_en, groups_ngr, axes=1), 0, 1)
    integrated_er = _integrals(angle_e, number) @ total_nr

    def error(estimates: NDArray[np.float64]) -> NDArray[np.float64] | None:
        if moments.exact:
            return None
        return np.asarray(estimates.std(axis=-1, ddof=1) / np.sqrt(nvectors))

    return DensityOfStates(
        energies_e,
        total_er.mean(axis=1),
        integrated_er.mean(axis=1),
        moments.projections.names,
        projected_ger.mean(axis=2),
        moments.electrons_per_band,
        kernel_width(moments.bounds, number),
        error(total_er),
        error(projected_ger),
        error(integrated_er),
    )


class _Operator:
    """A = S(k)^-1 H(k), self-adjoint in the scalar product of S."""

    def __init__(self, pencil: Pencil, k_c: Sequence[float] | NDArray[np.float64]) -> None:
        self.pencil, self.k_c = pencil, k_c
        _, negative = pencil.factorise_overlap(k_c)
        if negative:
            raise InputError(
                f"The overlap at k = {np.asarray(k_c)} is not positive definite; two atoms are "
                "too close for the basis, or blocks are missing."
            )

    def solve(self, right_mr: NDArray[Any]) -> NDArray[Any]:
        """Return S^-1 X."""
        return self.pencil.solve(right_mr)

    def times(self, vectors_mr: NDArray[Any]) -> NDArray[Any]:
        """Return S^-1 H X."""
        return self.solve(self.pencil.hamiltonian_times(self.k_c, vectors_mr))

    def squared_norms(self, vectors_mr: NDArray[Any]) -> NDArray[np.float64]:
        """Return x^dagger S x of each vector."""
        image_mr = self.pencil.overlap_times(self.k_c, vectors_mr)
        local_r = (vectors_mr.conj() * image_mr).real.sum(axis=0)
        return np.asarray(self.pencil.comm.allreduce(local_r))

    def bounds(self) -> tuple[float, float]:
        """Return energies beyond both ends of the spectrum by Lanczos's recursion.

        S v comes from the same recursion as v, so that a step has one product and one solve.
        """
        comm, pencil = self.pencil.comm, self.pencil
        v = _signs(pencil, 1, 0)[:, :1]
        sv = pencil.overlap_times(self.k_c, v)
        before, s_before = np.zeros_like(sv), np.zeros_like(sv)
        diagonal: list[float] = []
        side: list[float] = []
        norm = np.sqrt(self.squared_norms(v)[0])
        for _ in range(min(LANCZOS_STEPS, pencil.norbitals)):
            v, sv = v / norm, sv / norm
            hv = pencil.hamiltonian_times(self.k_c, v)
            diagonal.append(comm.allreduce(float((v.conj() * hv).real.sum())))
            last = side[-1] if side else 0.0
            following = self.solve(hv) - diagonal[-1] * v - last * before
            s_following = hv - diagonal[-1] * sv - last * s_before
            before, s_before, v, sv = v, sv, following, s_following
            square = comm.allreduce(float((v.conj() * sv).real.sum()))
            norm = np.sqrt(max(square, 0.0))
            side.append(norm)
            if norm < 1e-12:
                break
        ritz_n, turn = scipy.linalg.eigh_tridiagonal(diagonal, side[:-1])
        residual_n = side[-1] * np.abs(turn[-1])
        margin = max(SAFETY * (ritz_n[-1] - ritz_n[0]), 1e-6)
        low = float(ritz_n[0] - residual_n[0] - margin)
        return low, float(ritz_n[-1] + residual_n[-1] + margin)


def _block_moments(
    operator: _Operator,
    bounds: tuple[float, float],
    left_mr: NDArray[np.float64],
    right_mr: NDArray[np.float64],
    sums: Any,
    number: int,
) -> NDArray[np.float64]:
    """Return this rank's moments of a block of vectors, shape (number, cells, vectors)."""
    centre, half = 0.5 * (bounds[0] + bounds[1]), 0.5 * (bounds[1] - bounds[0])
    before: NDArray[Any] = right_mr
    current = (operator.times(right_mr) - centre * right_mr) / half
    values_ncr = np.empty((number, sums.shape[0], right_mr.shape[1]))
    values_ncr[0] = sums @ (left_mr * right_mr)
    values_ncr[1] = sums @ (left_mr * current.real)
    for n in range(2, number):
        following = (2.0 / half) * (operator.times(current) - centre * current) - before
        before, current = current, following
        values_ncr[n] = sums @ (left_mr * current.real)
    lengths_r = operator.squared_norms(current) / operator.squared_norms(right_mr)
    if not lengths_r.max() < LARGEST_GROWTH**2:
        raise InputError(
            f"An eigenvalue lies outside {bounds[0]:.4f}..{bounds[1]:.4f} Hartree, the bounds of "
            "the kernel polynomials; give wider bounds."
        )
    return values_ncr


def _traces(
    pencil: Pencil, options: KernelOptions
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Yield the rows of this rank of blocks of l and r whose products make up the trace."""
    rows = pencil.rows
    if options.vectors is None:
        own = np.arange(rows.start, rows.stop)
        for first in range(0, rows.nrows, options.block):
            column = np.arange(first, min(first + options.block, rows.nrows))
            unit_mr = (own[:, None] == column).astype(np.float64)
            yield unit_mr, unit_mr
        return
    for first in range(0, options.vectors, options.block):
        last = min(first + options.block, options.vectors)
        signs_mr = np.hstack([_signs(pencil, options.seed, r) for r in range(first, last)])
        yield _on_site_turned(pencil, signs_mr)


def _signs(pencil: Pencil, seed: int, number: int) -> NDArray[np.float64]:
    """Return one vector of random signs, the same for any number of ranks, shape (own rows, 1)."""
    numbers = np.random.default_rng([seed, number])
    sign_m = numbers.integers(0, 2, pencil.norbitals, dtype=np.int8)
    return (2.0 * of_rows(pencil, sign_m) - 1.0)[:, None]


def _on_site_turned(
    pencil: Pencil, signs_mr: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return L x and L^-T x for Cholesky factors L of the blocks (i, i, 0) of S."""
    overlap, rows = pencil.operators["S"], pencil.rows
    pairs = overlap.pairs
    on_site_p = (pairs.first_p == pairs.second_p) & ~pairs.shift_pc.any(axis=1)
    left_mr, right_mr = np.empty_like(signs_mr), np.empty_like(signs_mr)
    for chosen_p, size, columns in overlap.groups():
        own_p = chosen_p[on_site_p[chosen_p]]
        if len(own_p) == 0:
            continue
        factors = np.linalg.cholesky(overlap.blocks(own_p, size, columns))
        for p, factor in zip(own_p, factors, strict=True):
            first = rows.first_row_i[pairs.first_p[p]] - rows.start
            part = signs_mr[first : first + size]
            left_mr[first : first + size] = factor @ part
            right_mr[first : first + size] = scipy.linalg.solve_triangular(
                factor, part, trans="T", lower=True
            )
    return left_mr, right_mr


def _jackson(number: int) -> NDArray[np.float64]:
    """Return Jackson's damping factors (Weisse et al., equation 71), shape (number,)."""
    n, angle = np.arange(number), np.pi / (number + 1)
    sine = np.sin(n * angle) / np.tan(angle)
    return np.asarray(((number - n + 1) * np.cos(n * angle) + sine) / (number + 1))


def _integrals(angle_e: NDArray[np.float64], number: int) -> NDArray[np.float64]:
    """Return integrals from -1 of what `kernel_dos` sums, shape (E, number).

    Of T_n / (pi sqrt(1 - x^2)) up to x = cos(a): (pi - a) / pi for n = 0, -sin(n a) / (n pi) else.
    """
    n = np.arange(1, number)
    waves_en = -2.0 * np.sin(angle_e[:, None] * n) / (np.pi * n)
    return np.column_stack([1.0 - angle_e / np.pi, waves_en])
