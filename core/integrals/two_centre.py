"""Two-centre integrals of atom-centred functions, from tables in the distance."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, cached_property
from math import ceil
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from hamgnn_solve.core.basis.species import AnyRadialFunction
from hamgnn_solve.core.integrals.bessel import (
    MomentumShells,
    bessel_of_distance,
    transform_shells,
)
from hamgnn_solve.core.integrals.gaunt import gaunt
from hamgnn_solve.core.integrals.harmonics import real_harmonics, unit_vectors
from hamgnn_solve.core.integrals.table_cache import kept_on_disk

try:
    from hamgnn_solve import _native
except ImportError:  # a checkout that was not built: the same sums in numpy, slower
    _native = None  # type: ignore[assignment]

__all__ = ["Operator", "Shells", "TwoCentreTable", "two_centre_blocks", "two_centre_table"]

Shells = tuple[AnyRadialFunction, ...]
# Numbers of a table from which on it is kept on disk.
LARGE_TABLE = 10_000

Operator = Literal["overlap", "kinetic"]

CHUNK = 2048
# Knots beyond a sharp end, so that the condition at the last one does not reach back to it.
BEYOND = 8


@dataclass(frozen=True)
class ShellGroup:
    """The columns of a table that couple the first shells of one l with the second of one l.

    Parameters
    ----------
    l1, l2 : int
        Angular momenta.
    rows, columns : ndarray of int64, shape (first shells, 2 l1 + 1), (second shells, 2 l2 + 1)
        Where the orbitals of these shells stand in a block.
    couplings : tuple of (int, slice)
        Each L with its columns, which run over first shells, then second shells.
    """

    l1: int
    l2: int
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    couplings: tuple[tuple[int, slice], ...]


@dataclass(frozen=True)
class TwoCentreTable:
    """Radial parts of all two-centre integrals between the shells of two species.

    Parameters
    ----------
    shape : tuple of int
        Orbitals of the first and of the second species.
    reach : float
        Distance in Bohr from which on every integral is zero.
    step : float
        Distance of the knots in Bohr.
    coefficients : ndarray, shape (intervals, 4, columns)
        Cubic splines between the knots, highest power first.
    groups : tuple of ShellGroup
        What the columns mean.
    """

    shape: tuple[int, int]
    reach: float
    step: float
    coefficients: NDArray[np.float64]
    groups: tuple[ShellGroup, ...]

    def radial(self, distance_p: NDArray[np.float64]) -> NDArray[np.float64]:
        """Evaluate all columns at distances in Bohr, shape (P, columns)."""
        interval_p = np.minimum(
            (distance_p / self.step).astype(np.int64), len(self.coefficients) - 1
        )
        offset_p = (distance_p - interval_p * self.step)[:, None]
        cubic, square, linear, constant = self.coefficients.transpose(1, 0, 2)
        values = cubic[interval_p]
        for lower in (square, linear, constant):
            values *= offset_p
            values += lower[interval_p]
        values[distance_p >= self.reach] = 0.0
        return values

    def envelope(self, distance_p: NDArray[np.float64]) -> NDArray[np.float64]:
        """Bound the elements of blocks at these distances and all larger ones, shape (P,)."""
        knot_size = np.abs(self.coefficients[:, 3]).max(axis=1)
        bound = np.append(np.maximum.accumulate(knot_size[::-1])[::-1], 0.0)
        interval_p = np.minimum((distance_p / self.step).astype(np.int64), len(knot_size))
        return np.where(distance_p < self.reach, bound[interval_p], 0.0)

    def blocks(self, vector_pc: NDArray[np.float64]) -> NDArray[np.float64]:
        """Evaluate the integrals for vectors from the first to the second atom.

        Parameters
        ----------
        vector_pc : ndarray, shape (P, 3)
            Vectors in Bohr.

        Returns
        -------
        ndarray, shape (P, first orbitals, second orbitals)
        """
        rows, columns = self.shape
        result = np.empty((len(vector_pc), rows, columns))
        place_p = np.arange(len(vector_pc)) * rows * columns
        self.fill(vector_pc, result.reshape(-1), place_p, np.full(len(vector_pc), columns))
        return result

    def fill(
        self,
        vector_pc: NDArray[np.float64],
        values: NDArray[np.float64],
        place_p: NDArray[np.int64],
        stride_p: NDArray[np.int64],
    ) -> None:
        """Write the integrals for vectors into a buffer.

        Parameters
        ----------
        vector_pc : ndarray, shape (P, 3)
            Vectors in Bohr.
        values : ndarray
            The buffer.
        place_p : ndarray of int64, shape (P,)
            Where each block begins in the buffer.
        stride_p : ndarray of int64, shape (P,)
            Numbers from one row of the block to the next.
        """
        for start in range(0, len(vector_pc), CHUNK):
            part = slice(start, start + CHUNK)
            distance_p = np.linalg.norm(vector_pc[part], axis=1)
            harmonics = real_harmonics(self.largest_l, unit_vectors(vector_pc[part]))
            if _native is None:
                rows, columns = self.shape
                places = place_p[part, None, None] + (
                    stride_p[part, None, None] * np.arange(rows)[:, None] + np.arange(columns)
                )
                values[places] = self._blocks(distance_p, harmonics)
            else:
                _native.fill_blocks(
                    self.coefficients,
                    self.step,
                    self.reach,
                    distance_p,
                    np.concatenate(harmonics, axis=1),
                    *self._layout,
                    values,
                    place_p[part],
                    stride_p[part],
                )

    @cached_property
    def largest_l(self) -> int:
        """Largest L of the harmonics."""
        return max((big_l for group in self.groups for big_l, _ in group.couplings), default=0)

    def _blocks(
        self, distance_p: NDArray[np.float64], harmonics: list[NDArray[np.float64]]
    ) -> NDArray[np.float64]:
        radial = self.radial(distance_p)
        result = np.empty((len(distance_p), *self.shape))
        for group in self.groups:
            blocks = np.zeros((len(distance_p), *group.rows.shape, *group.columns.shape))
            for big_l, columns in group.couplings:
                angular = np.einsum(
                    "pc,abc->pab", harmonics[big_l], gaunt(group.l1, group.l2, big_l)
                )
                amplitude = radial[:, columns].reshape(len(radial), len(group.rows), -1)
                blocks += amplitude[:, :, None, :, None] * angular[:, None, :, None, :]
            place = np.ix_(np.arange(len(blocks)), group.rows.ravel(), group.columns.ravel())
            result[place] = blocks.reshape(len(blocks), group.rows.size, group.columns.size)
        return result

    @cached_property
    def _layout(
        self,
    ) -> tuple[
        NDArray[np.int64],
        NDArray[np.int64],
        NDArray[np.int64],
        NDArray[np.int64],
        NDArray[np.int64],
        NDArray[np.float64],
    ]:
        """Return `groups` as the arrays that the native code reads (`TableLayout`)."""
        groups: list[tuple[int, ...]] = []
        couplings: list[tuple[int, ...]] = []
        rows: list[int] = []
        columns: list[int] = []
        places: list[NDArray[np.int64]] = [np.zeros((0, 2), dtype=np.int64)]
        coefficients: list[NDArray[np.float64]] = [np.zeros(0)]
        entries = 0
        for group in self.groups:
            begin = (len(rows), len(columns), len(couplings), len(group.couplings))
            groups.append((group.l1, len(group.rows), group.l2, len(group.columns), *begin))
            rows += group.rows[:, 0].tolist()
            columns += group.columns[:, 0].tolist()
            for big_l, radial in group.couplings:
                tensor = gaunt(group.l1, group.l2, big_l)
                first, second, harmonic = np.nonzero(tensor)
                couplings.append((radial.start, entries, len(first)))
                entries += len(first)
                block_place = first * (2 * group.l2 + 1) + second
                places.append(np.column_stack([block_place, big_l**2 + harmonic]))
                coefficients.append(tensor[first, second, harmonic])
        return (
            np.array(groups, dtype=np.int64).reshape(-1, 8),
            np.array(rows, dtype=np.int64),
            np.array(columns, dtype=np.int64),
            np.array(couplings, dtype=np.int64).reshape(-1, 3),
            np.concatenate(places),
            np.concatenate(coefficients),
        )


def two_centre_blocks(
    first: Shells,
    second: Shells,
    vector_pc: NDArray[np.float64],
    operator: Operator = "overlap",
) -> NDArray[np.float64]:
    """Integrate <f_m | O | g_m'(r - d)> for many vectors d.

    Parameters
    ----------
    first, second : tuple of RadialFunction
        Shells on the atom at the origin and on the atom at d.
    vector_pc : ndarray, shape (P, 3)
        Vectors d in Bohr.
    operator : {"overlap", "kinetic"}
        O = 1 or O = -(1/2) Laplacian (then in Hartree).

    Returns
    -------
    ndarray, shape (P, first orbitals, second orbitals)

    Notes
    -----
    Momenta end at 20/Bohr. What the functions hold beyond is negligible between atoms (4e-7 Hartree
    in the kinetic energy) but not always in the kinetic energy of one atom: 2e-4 Hartree for the
    built-in hydrogen, 2e-5 or less for C, N, O, S, Zn, Se, Mo and W.
    """
    table = two_centre_table(transform_shells(first), transform_shells(second), operator)
    return table.blocks(vector_pc)


def two_centre_table(
    first: MomentumShells, second: MomentumShells, operator: Operator = "overlap"
) -> TwoCentreTable:
    """Tabulate the radial integrals of two sets of shells; cached by their identity.

    The integral of shells a, b is the sum over L = |l_a - l_b|, ..., l_a + l_b in steps of two of
    8 i^(l_a - l_b - L) [integral of k^2 f_a(k) f_b(k) j_L(kR) dk] sum_M G Y_LM(R/|R|), with f(k)
    the spherical Bessel transforms and G the Gaunt coefficients (Sankey and Niklewski, Phys.
    Rev. B 40, 3979 (1989), in Fourier form: Soler et al., J. Phys. Condens. Matter 14, 2745
    (2002)); k^4/2 in place of k^2 gives the kinetic energy.

    Raises
    ------
    ValueError
        When the shells are known on different momenta.
    """
    if first.grid is not second.grid:
        raise ValueError("both sets of shells must be known on the same momenta")
    return _tabulate(first, second, operator, min(first.step, second.step))


@cache
def _tabulate(
    first: MomentumShells, second: MomentumShells, operator: Operator, step: float
) -> TwoCentreTable:
    reach = first.cutoff + second.cutoff
    sharp_end = first.sharp_end or second.sharp_end
    count = ceil(reach / step) + 1 + (BEYOND if sharp_end else 0)
    groups: list[ShellGroup] = []
    # Columns with even L, then those with odd L: their splines start with different conditions.
    widths = [0, 0]
    for l1, rows in _shells_by_l(first).items():
        for l2, columns in _shells_by_l(second).items():
            couplings = []
            for big_l in range(abs(l1 - l2), l1 + l2 + 1, 2):
                start = widths[big_l % 2]
                widths[big_l % 2] += len(rows) * len(columns)
                couplings.append((big_l, slice(start, widths[big_l % 2])))
            groups.append(ShellGroup(l1, l2, rows, columns, tuple(couplings)))

    def compute() -> NDArray[np.float64]:
        return _coefficients(first, second, operator, step, count, groups, sharp_end)

    if 4 * count * sum(widths) < LARGE_TABLE:
        coefficients = compute()
    else:
        coefficients = kept_on_disk(
            [
                f"two-centre {operator} {step!r} {count} {sharp_end}",
                first.grid.momentum_k,
                first.grid.weight_k,
                *(np.array(x.shell_l) for x in (first, second)),
                *(x.cutoff_s for x in (first, second)),
                *(x.transform_sk for x in (first, second)),
            ],
            compute,
        )
    return TwoCentreTable(
        shape=(first.size, second.size),
        reach=reach,
        step=step,
        coefficients=coefficients,
        groups=tuple(_after(group, widths[0]) for group in groups),
    )


def _coefficients(
    first: MomentumShells,
    second: MomentumShells,
    operator: Operator,
    step: float,
    count: int,
    groups: list[ShellGroup],
    sharp_end: bool,
) -> NDArray[np.float64]:
    """Integrate over momenta at every distance and fit splines, shape (intervals, 4, columns)."""
    momentum_k, weight_k = first.grid.momentum_k, first.grid.weight_k
    power_k = momentum_k**2 if operator == "overlap" else 0.5 * momentum_k**4
    distance_g = step * np.arange(count)
    values_gx: tuple[list[NDArray[np.float64]], ...] = ([], [])
    for group in groups:
        members_1 = np.array(first.shell_l) == group.l1
        members_2 = np.array(second.shell_l) == group.l2
        product_kab = np.einsum(
            "k,ak,bk->kab",
            8 * weight_k * power_k,
            first.transform_sk[members_1],
            second.transform_sk[members_2],
        ).reshape(len(momentum_k), -1)
        end_ab = np.add.outer(first.cutoff_s[members_1], second.cutoff_s[members_2]).ravel()
        for big_l, _ in group.couplings:
            sign = (-1) ** ((group.l1 - group.l2 - big_l) // 2)
            # Rounded up, so that all pairs of species share one table of Bessel functions.
            bessel_gk = bessel_of_distance(big_l, first.grid, step, 256 * ceil(count / 256))
            values = sign * (bessel_gk[:count] @ product_kab)
            if not sharp_end:
                values[distance_g[:, None] >= end_ab] = 0.0
            values_gx[big_l % 2].append(values)
    even, odd = (np.concatenate([np.zeros((count, 0)), *values], axis=1) for values in values_gx)
    splines = [_spline_coefficients(distance_g, even, 1), _spline_coefficients(distance_g, odd, 2)]
    return np.concatenate(splines, axis=2)


def _after(group: ShellGroup, even: int) -> ShellGroup:
    """Move the columns of a group with odd L behind the `even` ones with even L."""
    couplings = tuple(
        (big_l, slice(columns.start + even, columns.stop + even) if big_l % 2 else columns)
        for big_l, columns in group.couplings
    )
    return replace(group, couplings=couplings)


def _spline_coefficients(
    distance_g: NDArray[np.float64], values_gx: NDArray[np.float64], derivative: int
) -> NDArray[np.float64]:
    """Fit splines whose given derivative vanishes at R = 0, and the first one at the end.

    j_L has the parity (-1)^L: the first derivative vanishes for even L, the second for odd L.
    """
    if values_gx.shape[1] == 0:
        return np.zeros((len(distance_g) - 1, 4, 0))
    zero = np.zeros(values_gx.shape[1])
    spline = CubicSpline(distance_g, values_gx, bc_type=((derivative, zero), (1, zero)))
    return np.asarray(spline.c.transpose(1, 0, 2))


def _shells_by_l(shells: MomentumShells) -> dict[int, NDArray[np.int64]]:
    """Return the places of the orbitals of each l, shape (shells, 2l + 1)."""
    places: dict[int, list[NDArray[np.int64]]] = {}
    start = 0
    for angular in shells.shell_l:
        size = 2 * angular + 1
        places.setdefault(angular, []).append(np.arange(start, start + size))
        start += size
    return {angular: np.array(rows) for angular, rows in sorted(places.items())}
