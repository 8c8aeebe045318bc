"""LAPACK at many k-points of a small pencil, the k-points shared among the ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from hamgnn_solve.core.operator import BlockOperator, lattice_phases
from hamgnn_solve.parallel.faults import agreed
from hamgnn_solve.parallel.gather import gather_operator
from hamgnn_solve.solver.pencil import Pencil

__all__ = ["WholePencil", "over_kpoints"]

T = TypeVar("T")


class WholePencil:
    """A pencil of which every rank holds all blocks, as dense matrices at any k.

    Parameters
    ----------
    pencil : Pencil
        Small enough for dense matrices. Making a `WholePencil` is collective, using it is not.
    """

    def __init__(self, pencil: Pencil) -> None:
        self._sums = {
            name: _FourierSum(gather_operator(operator, pencil.comm, np.inf))
            for name, operator in pencil.operators.items()
        }

    def at(
        self, k_c: Sequence[float] | NDArray[np.float64]
    ) -> tuple[NDArray[np.complex128], NDArray[np.complex128]]:
        """Return H(k) and S(k), orbitals in the order of the atoms, shape (n, n) each."""
        h = self._sums["H"].at(k_c)
        if "Im H" in self._sums:
            h = h + 1j * self._sums["Im H"].at(k_c)
        return h, self._sums["S"].at(k_c)


class _FourierSum:
    """O(k) = sum_R exp(2 pi i k.R) O(R) as one sparse product for all entries.

    Each lattice vector R is a column and each entry of O a row, so that a k-point costs as many
    multiplications as there are values.
    """

    def __init__(self, operator: BlockOperator) -> None:
        norb_i, pairs = operator.norb_i, operator.pairs
        start_i = np.cumsum(norb_i) - norb_i
        self.size = int(norb_i.sum())
        self.shift_xc, image_p = np.unique(pairs.shift_pc, axis=0, return_inverse=True)
        image_p = image_p.ravel()
        entry_v = np.empty(len(operator.values), dtype=np.int64)
        image_v = np.empty(len(operator.values), dtype=np.int64)
        for chosen, rows, columns in operator.groups():
            place = operator.places(chosen, rows * columns)
            row = start_i[pairs.first_p[chosen]][:, None, None] + np.arange(rows)[:, None]
            column = start_i[pairs.second_p[chosen]][:, None, None] + np.arange(columns)
            entry_v[place] = (row * self.size + column).reshape(len(chosen), -1)
            image_v[place] = image_p[chosen][:, None]
        self.matrix = scipy.sparse.csr_array(
            (operator.values, (entry_v, image_v)), shape=(self.size**2, len(self.shift_xc))
        )

    def at(self, k_c: Sequence[float] | NDArray[np.float64]) -> NDArray[np.complex128]:
        phase_x = lattice_phases(self.shift_xc, k_c)
        # Two real columns: a complex vector would make scipy copy the matrix as a complex one.
        parts = self.matrix @ np.column_stack([phase_x.real, phase_x.imag])
        return parts.view(np.complex128).reshape(self.size, self.size)


def over_kpoints(
    pencil: Pencil,
    kpoints_kc: NDArray[np.float64],
    work: Callable[[NDArray[Any], NDArray[Any], NDArray[np.float64]], T],
) -> Iterator[T]:
    """Yield what `work` makes of each k-point, in their order, on every rank. Collective.

    Parameters
    ----------
    pencil : Pencil
        Small enough for dense matrices.
    kpoints_kc : ndarray, shape (K, 3)
        Fractional k.
    work : callable
        Takes H(k), S(k), k and does without collective calls; an `InputError` of one rank is
        raised on all.
    """
    comm = pencil.comm
    whole = WholePencil(pencil)
    for start in range(0, len(kpoints_kc), comm.size):
        part = kpoints_kc[start : start + comm.size]
        own: T | None = None
        with agreed(comm):
            if comm.rank < len(part):
                own = work(*whole.at(part[comm.rank]), part[comm.rank])
        yield from comm.allgather(own)[: len(part)]
