"""Products of a distributed block operator with vectors, without making a matrix of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mpi4py import MPI
from numpy.typing import NDArray

from hamgnn_solve import _native
from hamgnn_solve.core.operator import BlockOperator
from hamgnn_solve.parallel.halo import halo_exchange
from hamgnn_solve.parallel.rows import OrbitalRows

__all__ = ["BlockProduct"]


class BlockProduct:
    """Multiplies sum_p w_p O_p with vectors, for weights w_p that change from call to call.

    Rows of the vectors that belong to atoms of other ranks are fetched for each product; the
    blocks stay where they are and are read once for all vectors.

    Parameters
    ----------
    operator : BlockOperator
        The blocks whose first atom this rank owns.
    rows : OrbitalRows
        Numbering and distribution of the orbitals.
    comm : mpi4py.MPI.Intracomm
        The processes that `rows` was made for. Collective.
    real : type
        What blocks, vectors and products are made of, float64 or float32.
    """

    def __init__(
        self,
        operator: BlockOperator,
        rows: OrbitalRows,
        comm: MPI.Intracomm,
        real: type[np.floating[Any]] = np.float64,
    ) -> None:
        self.operator, self.rows, self.real = operator, rows, real
        pairs, norb_i = operator.pairs, rows.norb_i
        order = np.argsort(rows.first_row_i[pairs.first_p], kind="stable")
        counts = np.bincount(pairs.first_p, minlength=len(norb_i))[rows.owned]
        row_of_atom = rows.first_row_i - rows.start
        self._exchange = None
        if comm.size > 1:
            ghosts = np.setdiff1d(pairs.second_p, rows.owned)
            # Ghost rows come in ascending order of global rows, behind the own ones.
            ghosts = ghosts[np.argsort(rows.first_row_i[ghosts], kind="stable")]
            row_of_atom[ghosts] = rows.nlocal + np.cumsum(norb_i[ghosts]) - norb_i[ghosts]
            own_rows = np.arange(rows.start, rows.stop)
            self._exchange = halo_exchange(comm, rows.owner_m, own_rows, rows.rows_of(ghosts))
        self._layout = (
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            order.astype(np.int64),
            rows.first_row_i[rows.owned] - rows.start,
            norb_i[rows.owned],
            row_of_atom[pairs.second_p],
            norb_i[pairs.second_p],
            operator.offset_p[:-1].copy(),
            operator.values.astype(real, copy=False),
        )

    def complex(self, phase_p: NDArray[np.complex128], vectors_mn: NDArray[Any]) -> NDArray[Any]:
        """Return sum_p phase_p O_p X for real or complex X, shape (own rows, vectors). Collective.

        Parameters
        ----------
        phase_p : ndarray of complex128, shape (P,)
            One factor for each pair of the operator.
        vectors_mn : ndarray, shape (own rows, vectors)
        """
        parts = np.stack([phase_p.real, phase_p.imag], axis=1)
        if not np.iscomplexobj(vectors_mn):
            both = self.weighted(parts, vectors_mn)
            return np.asarray(both[:, 0] + 1j * both[:, 1])
        numbers = np.ascontiguousarray(vectors_mn, dtype=np.result_type(self.real, np.complex64))
        both = self.weighted(parts, numbers.view(self.real))
        result = both[:, 1].copy().view(numbers.dtype)
        result *= 1j
        result += both[:, 0].copy().view(numbers.dtype)
        return result

    def weighted(
        self, weights_pq: NDArray[np.float64], vectors_mn: NDArray[np.floating[Any]]
    ) -> NDArray[Any]:
        """Return sum_p w_pq O_p X for several sets of weights at once. Collective.

        Parameters
        ----------
        weights_pq : ndarray, shape (P, Q)
        vectors_mn : ndarray, shape (own rows, vectors)

        Returns
        -------
        ndarray, shape (own rows, Q, vectors)
        """
        x = np.ascontiguousarray(vectors_mn, dtype=self.real)
        if x.shape[0] != self.rows.nlocal:
            raise ValueError(f"vectors of {x.shape[0]} rows for {self.rows.nlocal} orbitals")
        if self._exchange is not None:
            x = self._exchange(torch.from_numpy(x)).numpy()
        y = np.empty((self.rows.nlocal, weights_pq.shape[1], x.shape[1]), dtype=self.real)
        weights_pq = np.ascontiguousarray(weights_pq, dtype=self.real)
        _native.block_product(*self._layout, weights_pq, x, y)
        return y
