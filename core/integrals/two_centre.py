"""Two-centre integrals of atom-centred functions, from tables in the distance."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import ceil
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from hamgnn_solve.core.basis.species import RadialFunction
from hamgnn_solve.core.integrals.bessel import (
    bessel_of_distance,
    bessel_transform,
    momentum_grid,
)
from hamgnn_solve.core.integrals.gaunt import gaunt
from hamgnn_solve.core.integrals.harmonics import real_harmonics, unit_vectors

__all__ = ["Shells", "TwoCentreTable", "two_centre_blocks", "two_centre_table"]

Shells = tuple[RadialFunction, ...]

# Knots in Bohr; the splines then miss the integrals by 3e-8 at most (hydrogen to zinc).
STEP = 1 / 32
CHUNK = 2048


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
    coefficients : ndarray, shape (intervals, 4, columns)
        Cubic splines on intervals of `STEP`, highest power first.
    groups : tuple of ShellGroup
        What the columns mean.
    """

    shape: tuple[int, int]
    reach: float
    coefficients: NDArray[np.float64]
    groups: tuple[ShellGroup, ...]

    def radial(self, distance_p: NDArray[np.float64]) -> NDArray[np.float64]:
        """Evaluate all columns at distances in Bohr, shape (P, columns)."""
        interval_p = np.minimum((distance_p / STEP).astype(np.int64), len(self.coefficients) - 1)
        offset_p = (distance_p - interval_p * STEP)[:, None]
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
        interval_p = np.minimum((distance_p / STEP).astype(np.int64), len(knot_size))
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
        result = np.empty((len(vector_pc), *self.shape))
        for start in range(0, len(vector_pc), CHUNK):
            part = slice(start, start + CHUNK)
            self._fill(vector_pc[part], result[part])
        return result

    def _fill(self, vector_pc: NDArray[np.float64], result: NDArray[np.float64]) -> None:
        radial = self.radial(np.linalg.norm(vector_pc, axis=1))
        largest = max(big_l for group in self.groups for big_l, _ in group.couplings)
        harmonics = real_harmonics(largest, unit_vectors(vector_pc))
        for group in self.groups:
            blocks = np.zeros((len(vector_pc), *group.rows.shape, *group.columns.shape))
            for big_l, columns in group.couplings:
                angular = np.einsum(
                    "pc,abc->pab", harmonics[big_l], gaunt(group.l1, group.l2, big_l)
                )
                amplitude = radial[:, columns].reshape(len(radial), len(group.rows), -1)
                blocks += amplitude[:, :, None, :, None] * angular[:, None, :, None, :]
            place = np.ix_(np.arange(len(blocks)), group.rows.ravel(), group.columns.ravel())
            result[place] = blocks.reshape(len(blocks), group.rows.size, group.columns.size)


def two_centre_blocks(
    first: Shells,
    second: Shells,
    vector_pc: NDArray[np.float64],
    operator: Literal["overlap", "kinetic"] = "overlap",
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
    return two_centre_table(first, second, operator).blocks(vector_pc)


@cache
def two_centre_table(
    first: Shells, second: Shells, operator: Literal["overlap", "kinetic"] = "overlap"
) -> TwoCentreTable:
    """Tabulate the radial integrals of two sets of shells; cached by the shells' identity.

    The integral of shells a, b is the sum over L = |l_a - l_b|, ..., l_a + l_b in steps of two of
    8 i^(l_a - l_b - L) [integral of k^2 f_a(k) f_b(k) j_L(kR) dk] sum_M G Y_LM(R/|R|), with f(k)
    the spherical Bessel transforms and G the Gaunt coefficients (Sankey and Niklewski, Phys.
    Rev. B 40, 3979 (1989), in Fourier form: Soler et al., J. Phys. Condens. Matter 14, 2745
    (2002)); k^4/2 in place of k^2 gives the kinetic energy.
    """
    reach = max(shell.cutoff for shell in first) + max(shell.cutoff for shell in second)
    count = ceil(reach / STEP) + 1
    distance_g = STEP * np.arange(count)
    momentum_k, weight_k = momentum_grid()
    power_k = momentum_k**2 if operator == "overlap" else 0.5 * momentum_k**4
    groups = []
    splines: list[NDArray[np.float64]] = []
    start = 0
    for l1, rows in _shells_by_l(first).items():
        for l2, columns in _shells_by_l(second).items():
            members_1 = [shell for shell in first if shell.l == l1]
            members_2 = [shell for shell in second if shell.l == l2]
            product_kab = np.einsum(
                "k,ak,bk->kab",
                8 * weight_k * power_k,
                [bessel_transform(shell) for shell in members_1],
                [bessel_transform(shell) for shell in members_2],
            ).reshape(len(momentum_k), -1)
            end_ab = np.add.outer(
                [shell.cutoff for shell in members_1], [shell.cutoff for shell in members_2]
            ).ravel()
            couplings = []
            for big_l in range(abs(l1 - l2), l1 + l2 + 1, 2):
                sign = (-1) ** ((l1 - l2 - big_l) // 2)
                values = sign * (_bessel_rows(big_l, count) @ product_kab)
                values[distance_g[:, None] >= end_ab] = 0.0
                splines.append(_spline_coefficients(distance_g, values, big_l))
                couplings.append((big_l, slice(start, start + values.shape[1])))
                start += values.shape[1]
            groups.append(ShellGroup(l1, l2, rows, columns, tuple(couplings)))
    return TwoCentreTable(
        shape=(_size(first), _size(second)),
        reach=reach,
        coefficients=np.concatenate(splines, axis=2),
        groups=tuple(groups),
    )


def _spline_coefficients(
    distance_g: NDArray[np.float64], values: NDArray[np.float64], big_l: int
) -> NDArray[np.float64]:
    """Fit splines with the parity (-1)^L of j_L at R = 0 and zero slope at the end."""
    at_zero = (1, np.zeros(values.shape[1])) if big_l % 2 == 0 else (2, np.zeros(values.shape[1]))
    spline = CubicSpline(distance_g, values, bc_type=(at_zero, (1, np.zeros(values.shape[1]))))
    return spline.c.transpose(1, 0, 2)


def _bessel_rows(big_l: int, count: int) -> NDArray[np.float64]:
    # Rounded up, so that all pairs of species share one table of Bessel functions.
    return bessel_of_distance(big_l, STEP, 1024 * ceil(count / 1024))[:count]


def _shells_by_l(shells: Shells) -> dict[int, NDArray[np.int64]]:
    """Return the places of the orbitals of each l, shape (shells, 2l + 1)."""
    places: dict[int, list[NDArray[np.int64]]] = {}
    start = 0
    for shell in shells:
        size = 2 * shell.l + 1
        places.setdefault(shell.l, []).append(np.arange(start, start + size))
        start += size
    return {angular: np.array(rows) for angular, rows in sorted(places.items())}


def _size(shells: Shells) -> int:
    return sum(2 * shell.l + 1 for shell in shells)
