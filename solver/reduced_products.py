"""Products of H(k), S(k) and H(k) + c S(k) with many vectors, no more exact than bands need be."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.linalg
from mpi4py import MPI
from numpy.typing import NDArray

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.operator import BlockOperator, linear_combination, phases
from hamgnn_solve.parallel.block_product import BlockProduct
from hamgnn_solve.solver.pencil import Pencil

__all__ = ["ReducedProducts"]

# Hartree. Bonds lower the lowest band below the lowest level of a single atom by less than this.
BONDING = 1.0
# Blocks of H or S without an entry as large as this part of the error allowed are left out;
# decision 14 has what that does to energies.
NEGLIGIBLE = 0.027
# Hartree (0.05 meV). Rounding to single precision moves energies by less than a tenth of it.
SINGLE = 2e-6
# Vectors multiplied at once.
COLUMNS = 192


class ReducedProducts:
    """Multiplies vectors by a pencil without what is negligible in it.

    In single precision where errors as large as that of rounding are allowed, which takes half the
    time; blocks below the tails of orbitals are left out, which halves it again.

    Parameters
    ----------
    pencil : Pencil
        Collective. Without an imaginary part of H.
    largest_error : float
        Allowed in energies, in Hartree.

    Attributes
    ----------
    real, complex : type
        What vectors and products are made of.
    shift : float
        c in Hartree, which makes H(k) + c S(k) positive definite.

    Raises
    ------
    InputError
        When an atom lacks its own block.
    """

    def __init__(self, pencil: Pencil, largest_error: float) -> None:
        if "Im H" in pencil.operators:
            raise ValueError("states of a pencil with an imaginary part are complex everywhere")
        self.comm, self.rows = pencil.comm, pencil.rows
        single = largest_error > SINGLE
        self.real: type[np.floating[Any]] = np.float32 if single else np.float64
        self.complex: type[np.complexfloating[Any, Any]] = np.complex64 if single else np.complex128
        own = {name: _own_blocks(pencil.operators[name]) for name in ("H", "S")}
        self.shift = self._positive_shift(own["H"], own["S"])
        operators = {
            name: pencil.operators[name].select(
                np.flatnonzero(pencil.operators[name].larger_than(NEGLIGIBLE * largest_error))
            )
            for name in ("H", "S")
        }
        operators["H + c S"] = linear_combination((1.0, self.shift), list(operators.values()))
        self._products = {
            name: BlockProduct(operator, pencil.rows, pencil.comm, self.real)
            for name, operator in operators.items()
        }
        # The last k of each operator, and the phases of its blocks there.
        self._phases: dict[str, tuple[NDArray[np.float64], NDArray[np.complex128]]] = {}
        by_size: dict[int, list[int]] = {}
        for i in own["H"]:
            by_size.setdefault(int(self.rows.norb_i[i]), []).append(i)
        # Rows and inverses of all atoms with the same number of orbitals.
        self._atoms = [
            (
                (self.rows.first_row_i[atoms] - self.rows.start)[:, None] + np.arange(size),
                np.linalg.inv(
                    np.stack([own["H"][i] + self.shift * own["S"][i] for i in atoms])
                ).astype(self.real),
            )
            for size, atoms in by_size.items()
        ]

    def _positive_shift(
        self, h_i: dict[int, NDArray[np.float64]], s_i: dict[int, NDArray[np.float64]]
    ) -> float:
        lowest, complete = np.inf, h_i.keys() == s_i.keys() == set(self.rows.owned.tolist())
        if complete:
            for i, h in h_i.items():
                lowest = min(lowest, float(scipy.linalg.eigh(h, s_i[i], eigvals_only=True)[0]))
        if not self.comm.allreduce(complete, op=MPI.LAND):
            raise InputError("An atom has no block of its own in H or S; the matrices are damaged.")
        return BONDING - float(self.comm.allreduce(lowest, op=MPI.MIN))

    def times(
        self, k_c: NDArray[np.float64], x_mn: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return H(k) X and S(k) X, shape of X, (rows of this rank, vectors). Collective."""
        return self._times("H", k_c, x_mn), self._times("S", k_c, x_mn)

    def shifted(self, k_c: NDArray[np.float64], x_mn: NDArray[Any]) -> NDArray[Any]:
        """Return (H(k) + c S(k)) X. Collective."""
        return self._times("H + c S", k_c, x_mn)

    def carried(
        self,
        k_c: NDArray[np.float64],
        phase_i: NDArray[np.complex128],
        x_mn: NDArray[np.float64],
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return H(k) and S(k) times real vectors that phases of the atoms multiply. Collective.

        The phases go to the blocks, so that the vectors stay real, at half the cost.

        Parameters
        ----------
        k_c : ndarray, shape (3,)
            Fractional k.
        phase_i : ndarray of complex128, shape (N,)
            Of length one.
        x_mn : ndarray, shape (rows of this rank, vectors)
        """
        rows = self.rows
        own_m = np.repeat(phase_i[rows.owned], rows.norb_i[rows.owned])[:, None]
        products = [self._times(name, k_c, x_mn, phase_i) for name in ("H", "S")]
        for product in products:
            product *= own_m.astype(self.complex)
        return products[0], products[1]

    def by_atoms(self, x_mn: NDArray[Any]) -> NDArray[Any]:
        """Return the inverses of the atoms' own blocks of H + c S times vectors, shape of X."""
        result = np.empty_like(x_mn)
        for rows_im, inverse_imn in self._atoms:
            result[rows_im] = inverse_imn @ x_mn[rows_im]
        return result

    def _times(
        self,
        name: str,
        k_c: NDArray[np.float64],
        x_mn: NDArray[Any],
        phase_i: NDArray[np.complex128] | None = None,
    ) -> NDArray[Any]:
        product = self._products[name]
        if name not in self._phases or not np.array_equal(self._phases[name][0], k_c):
            self._phases[name] = (np.array(k_c), phases(product.operator, k_c))
        phase_p = self._phases[name][1]
        if phase_i is not None:
            pairs = product.operator.pairs
            phase_p = phase_p * phase_i[pairs.second_p] * phase_i[pairs.first_p].conj()
        result = np.empty(x_mn.shape, dtype=self.complex)
        for start in range(0, x_mn.shape[1], COLUMNS):
            part = slice(start, start + COLUMNS)
            result[:, part] = product.complex(phase_p, x_mn[:, part])
        return result


def _own_blocks(operator: BlockOperator) -> dict[int, NDArray[np.float64]]:
    """Return the block of every atom with itself, by atom."""
    pairs = operator.pairs
    own_p = np.flatnonzero((pairs.first_p == pairs.second_p) & ~pairs.shift_pc.any(axis=1))
    return {int(pairs.first_p[p]): operator.block(int(p)) for p in own_p}
