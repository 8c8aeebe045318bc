"""Bands near an energy, with their global index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.solver.factorisation import Factorisation
from hamgnn_solve.solver.inertia import count_below, factorise_near
from hamgnn_solve.solver.krylov import nearest_eigenvectors
from hamgnn_solve.solver.pencil import Pencil
from hamgnn_solve.solver.petsc import PETSc

__all__ = ["Eigenpairs", "eigenpairs_near", "eigenpairs_of_bands"]

# Hartree. An edge for counting lies this far outside the last band, beyond its error.
MARGIN = 1e-6
# Vectors whose part outside the span of the others is smaller (squared) are copies.
INDEPENDENT = 1e-8
ATTEMPTS = 10
# The nearest states need not be as many on either side as wanted; a few more save a second search.
SPARE = 6


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
    """

    k_c: NDArray[np.float64]
    energies_n: NDArray[np.float64]
    band_index_n: NDArray[np.int64]
    residuals_n: NDArray[np.float64]
    vectors_mn: NDArray[Any]
    count: int
    sigma: float


def eigenpairs_near(
    pencil: Pencil,
    k_c: Sequence[float] | NDArray[np.float64],
    sigma: float,
    nbands_below: int,
    nbands_above: int,
    *,
    tolerance: float = 1e-9,
) -> Eigenpairs:
    """Compute the nearest bands below and above an energy at k.

    Shift-invert Krylov-Schur (SLEPc) on the LDL^T factors (MUMPS) whose inertia gives the band
    index. Collective.

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
    tolerance : float
        Relative tolerance of the transformed eigenproblem; energies converge as its square.

    Raises
    ------
    InputError
        When the bands cannot be certified, S is not positive definite, or memory runs out.
    """
    factorisation, sigma, count = factorise_near(pencil, k_c, sigma)
    first, last = count - nbands_below + 1, count + nbands_above
    search = _Search(pencil, k_c, sigma, count, factorisation, tolerance)
    return search.bands(max(first, 1), min(last, pencil.norbitals))


def eigenpairs_of_bands(
    pencil: Pencil,
    k_c: Sequence[float] | NDArray[np.float64],
    sigma: float,
    first_band: int,
    last_band: int,
    *,
    tolerance: float = 1e-9,
) -> Eigenpairs:
    """Compute the bands of given global indices at k, searched from an energy near them.

    Parameters
    ----------
    first_band, last_band : int
        Bands counted from 1, both included; sigma (Hartree) should lie among them.

    Other parameters, results and errors are those of `eigenpairs_near`.
    """
    if not 1 <= first_band <= last_band <= pencil.norbitals:
        raise ValueError(f"no bands {first_band}..{last_band} among {pencil.norbitals}")
    factorisation, sigma, count = factorise_near(pencil, k_c, sigma)
    search = _Search(pencil, k_c, sigma, count, factorisation, tolerance)
    return search.bands(first_band, last_band)


class _Search:
    """States found so far around one shift at one k."""

    def __init__(
        self,
        pencil: Pencil,
        k_c: Sequence[float] | NDArray[np.float64],
        sigma: float,
        count: int,
        factorisation: Factorisation,
        tolerance: float,
    ) -> None:
        self.pencil, self.sigma, self.count = pencil, sigma, count
        self.k_c = np.asarray(k_c, dtype=np.float64)
        self.real = pencil.is_real_at(k_c)
        self.factorisation, self.shift, self.tolerance = factorisation, sigma, tolerance
        self.overlap = pencil.overlap_at(k_c)
        self.energies_n = np.zeros(0)
        dtype = np.float64 if self.real else np.complex128
        self.vectors_mn: NDArray[Any] = np.zeros((pencil.rows.nlocal, 0), dtype=dtype)
        self.residuals_n = np.zeros(0)

    def bands(self, first: int, last: int) -> Eigenpairs:
        """Search until the bands first..last are found and certified."""
        below, above = max(self.count - first + 1, 0), max(last - self.count, 0)
        wanted, missing = last - first + 1, 0
        for attempt in range(ATTEMPTS):
            self._extend(wanted + SPARE, seed=attempt)
            short_below, short_above = self._short_of(below, above)
            wanted = short_below + short_above
            if wanted > 0:
                self._move_shift(short_below, short_above)
                continue
            missing = self._missed(below, above)
            if missing == 0:
                return self._result(first, last)
            if missing < 0:
                break
            self._factorise(self.sigma)
            wanted = missing
        raise InputError(
            f"Bands {first} to {last} at k = {self.k_c} cannot be certified: the count of states "
            f"between their ends exceeds the number found by {missing}; ask for fewer bands."
        )

    def _move_shift(self, short_below: int, short_above: int) -> None:
        """Shift to the outermost known state of the side that lacks some.

        The nearest unknown states are then those that follow on that side.
        """
        if short_below and short_above:
            return
        edge = self.energies_n[0] - MARGIN if short_below else self.energies_n[-1] + MARGIN
        self._factorise(float(edge))

    def _factorise(self, shift: float) -> None:
        self.factorisation, self.shift, _ = factorise_near(self.pencil, self.k_c, shift)

    def _extend(self, wanted: int, seed: int) -> None:
        """Find more states, the nearest unknown ones, and join them to those known."""
        copies = 1 if self.real else 2
        known = self._embedded(self.vectors_mn)
        try:
            found = nearest_eigenvectors(
                self.factorisation, self.overlap, known, copies * wanted, self.tolerance, seed
            )
        except PETSc.Error:
            # SLEPc stops at a negative x^T S x.
            self.pencil.check_overlap(self.k_c)
            raise
        new_mn = self._complexified(found)
        # The factors' matrix is H - shift S, so Ritz values are relative to the shift.
        basis_mn = np.concatenate([self.vectors_mn, new_mn], axis=1)
        shifted_mn = self._times(self.factorisation.matrix, basis_mn)
        overlap_mn = self._times(self.overlap, basis_mn)
        comm = self.pencil.comm
        gram = comm.allreduce(basis_mn.conj().T @ overlap_mn)
        small = comm.allreduce(basis_mn.conj().T @ shifted_mn)
        # One rank decides, so that rounding cannot make two ranks keep different states.
        offset_n, turn = comm.bcast(_rayleigh_ritz(gram, small) if comm.rank == 0 else None)
        self.energies_n, self.vectors_mn = self.shift + offset_n, basis_mn @ turn
        residual_mn = shifted_mn @ turn - (overlap_mn @ turn) * offset_n
        scale_mn = overlap_mn @ turn
        norms = comm.allreduce(
            np.stack([(np.abs(x) ** 2).sum(axis=0) for x in (residual_mn, scale_mn)])
        )
        self.residuals_n = np.sqrt(norms[0] / norms[1])

    def _short_of(self, below: int, above: int) -> tuple[int, int]:
        """Return how many states more must be found on each side of sigma."""
        split = int((self.energies_n < self.sigma).sum())
        return max(below - split, 0), max(above - (len(self.energies_n) - split), 0)

    def _missed(self, below: int, above: int) -> int:
        """Return how many states between the ends of the wanted bands are not known."""
        energies, count = self.energies_n, self.count
        split = int((energies < self.sigma).sum())
        missing = 0
        if below > 0 and split < count:
            edge = energies[split - below] - MARGIN
            known = int(((energies > edge) & (energies < self.sigma)).sum())
            missing += count - count_below(self.pencil, self.k_c, edge) - known
        if above > 0 and len(energies) - split < self.pencil.norbitals - count:
            edge = energies[split + above - 1] + MARGIN
            known = int(((energies > self.sigma) & (energies < edge)).sum())
            missing += count_below(self.pencil, self.k_c, edge) - count - known
        return missing

    def _result(self, first: int, last: int) -> Eigenpairs:
        split = int((self.energies_n < self.sigma).sum())
        index_n = np.arange(len(self.energies_n)) - split + self.count + 1
        kept = (index_n >= first) & (index_n <= last)
        return Eigenpairs(
            self.k_c,
            self.energies_n[kept],
            index_n[kept],
            self.residuals_n[kept],
            self.vectors_mn[:, kept],
            self.count,
            self.sigma,
        )

    def _complexified(self, vectors: list[PETSc.Vec]) -> NDArray[Any]:
        """Return this rank's rows of vectors as columns, complex ones out of the embedding."""
        arrays = [vector.getArray(readonly=True) for vector in vectors]
        if not arrays:
            return self.vectors_mn[:, :0]
        columns = np.stack(arrays, axis=1)
        return columns if self.real else columns[0::2] + 1j * columns[1::2]

    def _embedded(self, vectors_mn: NDArray[Any]) -> list[PETSc.Vec]:
        """Return vectors for PETSc; of a complex one both real vectors of its embedding."""
        turned_mn = vectors_mn if self.real else np.hstack([vectors_mn, 1j * vectors_mn])
        return [self._vector(vector_m) for vector_m in turned_mn.T]

    def _vector(self, values_m: NDArray[Any]) -> PETSc.Vec:
        vector = self.overlap.createVecRight()
        vector.setArray(np.ascontiguousarray(values_m).view(np.float64))
        return vector

    def _times(self, matrix: PETSc.Mat, vectors_mn: NDArray[Any]) -> NDArray[Any]:
        products = []
        for n in range(vectors_mn.shape[1]):
            product = self.overlap.createVecLeft()
            matrix.mult(self._vector(vectors_mn[:, n]), product)
            products.append(product)
        return self._complexified(products)


def _rayleigh_ritz(
    gram: NDArray[Any], small: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[Any]]:
    """Return Ritz values and the coefficients of S-orthonormal Ritz vectors.

    A state found twice, once known and once new or as both copies of the embedding, is one
    direction of the Gram matrix and counts once.
    """
    size_n, directions = scipy.linalg.eigh(0.5 * (gram + gram.conj().T))
    kept = size_n > INDEPENDENT * size_n.max(initial=0.0)
    orthonormal = directions[:, kept] / np.sqrt(size_n[kept])
    projected = orthonormal.conj().T @ small @ orthonormal
    values_n, turn = scipy.linalg.eigh(0.5 * (projected + projected.conj().T))
    return values_n, orthonormal @ turn
