"""Sparse LDL^T factors of a symmetric matrix that changes its values but not its pattern."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hamgnn_solve._mumps import DoubleMumps, SingleMumps
from hamgnn_solve.core.errors import InputError
from hamgnn_solve.solver.petsc import numbered_options

__all__ = [
    "COARSE",
    "DOUBLE",
    "SINGLE",
    "FactorOptions",
    "Factorisation",
    "Precision",
    "SingularMatrixError",
    "SymmetricPattern",
]

# INFOG(1) of MUMPS (user's guide, section 8): its estimate of the workspace was too small.
WORKSPACE_TOO_SMALL = (-8, -9, -11, -12, -14, -15, -17, -20)
# Memory that was allowed, or that the machine has, is not enough.
ABOVE_BOUND = -19
OUT_OF_MEMORY = (-5, -6, -7, -13)
SINGULAR = -10
# Percent by which the workspace exceeds its estimate, at first and at most.
WORKSPACE, LARGEST_WORKSPACE = 30, 800
# Right-hand sides that are solved at a time.
COLUMNS = 64
MEGABYTE = 1e6


@dataclass(frozen=True)
class Precision:
    """How precisely a matrix is factorised.

    Parameters
    ----------
    number : type
        numpy.float32 or numpy.float64.
    negligible : float
        Blocks of which no entry is larger, in Hartree or of S, are left out.
    pivoting : float
        CNTL(1) of MUMPS: a pivot may be smaller than the entries it eliminates by this factor. In
        single precision a larger one makes solutions more accurate for some more operations.
    contraction : float
        Corrections of solutions must shrink to this part at each step.
    """

    number: type[np.float32] | type[np.float64]
    negligible: float
    pivoting: float
    contraction: float


# For counts alone, for searches, and where neither suffices.
COARSE = Precision(np.float32, 1e-5, 0.1, 0.2)
SINGLE = Precision(np.float32, 1e-6, 0.1, 0.05)
DOUBLE = Precision(np.float64, 1e-8, 0.01, np.inf)


@dataclass(frozen=True)
class FactorOptions:
    """How factors may be made.

    Parameters
    ----------
    memory : float or None
        Bytes that a rank may use for them; None for no bound.
    out_of_core : bool
        Keep the factors on disk from the start.
    compression : float
        Dropping parameter of block low-rank factors; 0 for exact ones.
    precisions : tuple of Precision
        Those tried, in this order; the last is taken as it is.
    announce : callable
        Told in one sentence when memory asks for another way than the usual one.
    """

    memory: float | None = None
    out_of_core: bool = False
    compression: float = 0.0
    precisions: tuple[Precision, ...] = (COARSE, SINGLE, DOUBLE)
    announce: Callable[[str], None] = lambda _text: None

    def __post_init__(self) -> None:
        if self.memory is not None and not self.memory > 0.0:
            raise ValueError(f"memory of {self.memory} bytes")
        if not 0.0 <= self.compression < 1.0:
            raise ValueError(f"compression {self.compression} is not in 0..1")
        if not self.precisions or self.precisions[-1] == COARSE:
            raise ValueError("coarse factors serve counts alone: the last precision is another")


@dataclass(frozen=True)
class SymmetricPattern:
    """Entries of a symmetric matrix on and above its diagonal, distributed over ranks.

    Parameters
    ----------
    row_n, column_n : ndarray of int32, shape (entries of this rank,)
        Counted from 1.
    order_m : ndarray of int32, shape (rows,)
        Place of each row in the order of elimination, counted from 1; the same on every rank.
    start_r : ndarray of int64, shape (ranks + 1,)
        First row of each rank, and the number of rows.
    """

    row_n: NDArray[np.int32]
    column_n: NDArray[np.int32]
    order_m: NDArray[np.int32]
    start_r: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.row_n.shape != self.column_n.shape or len(self.order_m) != self.start_r[-1]:
            raise ValueError(
                f"{len(self.row_n)} rows for {len(self.column_n)} columns, and an order of "
                f"{len(self.order_m)} rows for {self.start_r[-1]}"
            )


class Factorisation:
    """LDL^T of a symmetric matrix by MUMPS; the analysis is done once and kept.

    Parameters
    ----------
    pattern : SymmetricPattern
    comm : mpi4py.MPI.Comm
        The processes that share the matrix. Collective.
    options : FactorOptions
    precision : Precision
    """

    def __init__(
        self,
        pattern: SymmetricPattern,
        comm: MPI.Comm,
        options: FactorOptions,
        precision: Precision = DOUBLE,
    ) -> None:
        self.comm, self.options, self.precision = comm, options, precision
        self._number = precision.number
        self.start_r = pattern.start_r
        self.mumps = (SingleMumps if precision.number is np.float32 else DoubleMumps)(comm.py2f())
        # With several ranks the ScaLAPACK root front hides its pivots' signs and the inertia
        # comes out wrong; ICNTL(13) = 1 keeps that front on one process.
        self.mumps.set_icntl(13, 1)
        self.mumps.set_icntl(14, WORKSPACE)
        self.mumps.set_cntl(1, precision.pivoting)
        if options.memory is not None:
            self.mumps.set_icntl(23, max(int(options.memory / MEGABYTE), 1))
        self.mumps.set_icntl(22, int(options.out_of_core))
        if options.compression > 0.0:
            self.mumps.set_icntl(35, 2)
            self.mumps.set_cntl(7, options.compression)
        for number, value in numbered_options("mat_mumps_icntl_", 60, int):
            self.mumps.set_icntl(number, value)
        for number, real_value in numbered_options("mat_mumps_cntl_", 15, float):
            self.mumps.set_cntl(number, real_value)
        self.workspace = self.mumps.icntl(14)
        self.mumps.analyse(int(self.start_r[-1]), pattern.row_n, pattern.column_n, pattern.order_m)
        self._check()

    def factor(self, values_n: NDArray[np.float64]) -> int:
        """Factorise the matrix of some entries; return its number of negative eigenvalues.

        Sylvester's law of inertia: the negative pivots of LDL^T, INFOG(12) of MUMPS. Factors that
        exceed the memory are kept on disk, which is announced. Collective.

        Parameters
        ----------
        values_n : ndarray, shape (entries of this rank,)

        Raises
        ------
        SingularMatrixError
            When a pivot vanishes.
        InputError
            When memory runs out.
        """
        mumps, numbers_n = self.mumps, values_n.astype(self._number)
        while True:
            mumps.set_icntl(14, self.workspace)
            mumps.factor(numbers_n)
            status = mumps.infog(1)
            if status in WORKSPACE_TOO_SMALL and self.workspace < LARGEST_WORKSPACE:
                self.workspace *= 2
            elif status == ABOVE_BOUND and not mumps.icntl(22):
                mumps.set_icntl(22, 1)
                self.options.announce(
                    f"factors need {mumps.infog(16) / 1e3:.1f} GB a rank, more than the "
                    f"{(self.options.memory or 0.0) / 1e9:.1f} GB allowed: they are kept on disk "
                    f"({mumps.infog(26) / 1e3:.1f} GB a rank in memory)"
                )
            else:
                self._check()
                return mumps.infog(12)

    def solve(self, right_mn: NDArray[np.float64]) -> NDArray[np.float64]:
        """Solve with the last factors for several right-hand sides at once. Collective.

        Parameters
        ----------
        right_mn : ndarray, shape (rows of this rank, columns)

        Returns
        -------
        ndarray of the same shape, in memory column by column
        """
        nlocal, columns = right_mn.shape
        solution_mn = np.empty((nlocal, columns), order="F")
        for first in range(0, columns, COLUMNS):
            part = slice(first, min(first + COLUMNS, columns))
            vectors_nm = self._gathered(right_mn[:, part])
            self.mumps.solve(vectors_nm)
            self._check()
            solution_mn[:, part] = self._scattered(vectors_nm, nlocal)
        return solution_mn

    def _gathered(self, right_mn: NDArray[np.float64]) -> NDArray[Any]:
        """Return all rows on the first rank, one vector after the other; nothing elsewhere."""
        columns = right_mn.shape[1]
        if self.comm.size == 1:
            # A copy, since the solutions take its place.
            return np.array(right_mn.T, dtype=self._number, order="C")
        part_mn = np.ascontiguousarray(right_mn, dtype=self._number)
        # MUMPS reads how many vectors there are on the first rank alone.
        shape = (int(self.start_r[-1]) if self.comm.rank == 0 else 0, columns)
        every_mn = np.empty(shape, dtype=self._number)
        self.comm.Gatherv(part_mn, [every_mn, self._parts(columns)])
        return np.array(every_mn.T, order="C")

    def _scattered(self, vectors_nm: NDArray[Any], nlocal: int) -> NDArray[Any]:
        """Return the own rows of vectors that the first rank holds."""
        if self.comm.size == 1:
            return vectors_nm.T
        columns = vectors_nm.shape[0]
        part_mn = np.empty((nlocal, columns), dtype=self._number)
        every_mn = np.ascontiguousarray(vectors_nm.T)
        self.comm.Scatterv([every_mn, self._parts(columns)], part_mn)
        return part_mn

    def _parts(self, columns: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return how many numbers each rank has of some columns, and where they start."""
        return np.diff(self.start_r) * columns, self.start_r[:-1] * columns

    @property
    def statistics(self) -> dict[str, float]:
        """Entries of the factors, operations, and megabytes: of the fullest rank, and of all."""
        entries = self.mumps.infog(29)
        return {
            # A negative number counts millions.
            "entries": entries if entries >= 0 else -1e6 * entries,
            "operations": self.mumps.rinfog(3),
            "largest_mb": self.mumps.infog(21),
            "total_mb": self.mumps.infog(22),
        }

    def destroy(self) -> None:
        """Free the factors. Collective."""
        self.mumps.destroy()

    def _check(self) -> None:
        """Raise what the last step of MUMPS complains of."""
        status, detail = self.mumps.infog(1), self.mumps.infog(2)
        if status == SINGULAR:
            raise SingularMatrixError
        if status < 0:
            raise InputError(_failure(status, detail, self.mumps.infog(16)))


class SingularMatrixError(Exception):
    """The shift hits an eigenvalue; move it a little."""


def _failure(status: int, detail: int, needed: int) -> str:
    if status in OUT_OF_MEMORY or status == ABOVE_BOUND:
        return (
            f"H - sigma S cannot be factorised: MUMPS needs about {needed / 1e3:.1f} GB a rank "
            f"and does not get it (INFOG(1) = {status}); use more ranks on more machines, "
            "--out-of-core, a larger --memory-per-rank, or a smaller cell."
        )
    if status in WORKSPACE_TOO_SMALL:
        return (
            f"MUMPS's workspace stays too small (INFOG(1) = {status}) although it was raised by "
            f"{LARGEST_WORKSPACE} %: S is probably close to singular; look for atoms too close "
            "to each other."
        )
    return (
        f"MUMPS failed to factorise H - sigma S (INFOG(1) = {status}, INFOG(2) = {detail}); look "
        "the number up in the MUMPS user's guide."
    )
