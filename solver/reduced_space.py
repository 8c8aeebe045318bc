"""States of a window of energies in a space of trial vectors.

The problem is interior: among the Ritz values of a pencil in a space that holds the states of a
window nearly, there are as many others: mixtures of what lies far above and far below. The folded
operator T^+ M T, with T = H - sigma S and M nearly S^-1, tells them apart, since it is the squared
distance of a vector from being a state at sigma (Wang and Zunger, J. Chem. Phys. 100, 2394 (1994)):
its lowest vectors in the space span the states, and a Rayleigh-Ritz step among these alone is safe.
Here M is (H + c S)^-1, S^-1 / (e + c) in the basis of the states, which is better conditioned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from hamgnn_solve.solver.reduced_products import ReducedProducts

__all__ = ["NotReducibleError", "Projected", "ReducedStates", "Window", "assessed", "choose_states"]

# Directions of the trial vectors with a smaller share of the overlap are left out.
INDEPENDENT = 1e-5
# Ritz values this far outside the window, relative to its half width, still belong to the space
# that is folded, and folded values this far outside still count as states.
RITZ_MARGIN, FOLDED_MARGIN = 1.4, 1.15
# Hartree. Added to both.
MARGIN = 4e-4
# Hartree (19 eV). Energy above the window at which the missing part of a state is taken to lie;
# decision 14 compares estimates with errors.
MISSING_PART = 0.7
# Hartree (30 meV). What has a larger error is no state.
SPURIOUS = 1.1e-3


class NotReducibleError(Exception):
    """Bands cannot be found from those of other k-points; the message says why."""


@dataclass(frozen=True)
class Window:
    """Energies in which states are wanted, in Hartree."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"no window between {self.low} and {self.high}")

    @property
    def centre(self) -> float:
        """Middle of the window."""
        return 0.5 * (self.low + self.high)

    @property
    def half_width(self) -> float:
        """Half of its width."""
        return 0.5 * (self.high - self.low)


@dataclass(frozen=True)
class Projected:
    """A pencil between trial vectors at one k.

    Parameters
    ----------
    h, s, folded : ndarray, complex, shape (m, m)
        X^+ H(k) X, X^+ S(k) X and X^+ T^+ (H + c S)^-1 T X.
    """

    h: NDArray[Any]
    s: NDArray[Any]
    folded: NDArray[Any]

    def between(self, turn: NDArray[Any]) -> Projected:
        """Return the same between combinations of the vectors, shape (m, combinations)."""
        return Projected(*(turn.conj().T @ x @ turn for x in (self.h, self.s, self.folded)))


@dataclass(frozen=True)
class ReducedStates:
    """States found in a space of trial vectors at one k.

    Parameters
    ----------
    energies_n : ndarray, shape (n,)
        In Hartree, ascending.
    errors_n : ndarray, shape (n,)
        Estimated errors of the energies in Hartree.
    residuals_n : ndarray, shape (n,)
        ||H x - e S x|| / ||S x|| in Hartree.
    vectors_mn : ndarray, complex, shape (rows of this rank, n)
        S-orthonormal.
    """

    energies_n: NDArray[np.float64]
    errors_n: NDArray[np.float64]
    residuals_n: NDArray[np.float64]
    vectors_mn: NDArray[Any]


def choose_states(
    projected: Projected, window: Window, shift: float
) -> tuple[NDArray[np.float64], NDArray[Any]]:
    """Return energies and coefficients of the states of a window in a projected pencil.

    Parameters
    ----------
    projected : Projected
        Between trial vectors, which may depend on each other; folded at the window's centre.
    window : Window
    shift : float
        c of the folded operator, in Hartree.
    """
    ritz = _ritz_vectors(projected, window.centre, RITZ_MARGIN * window.half_width + MARGIN)
    # Near the window (H + c S)^-1 is 1 / (e + c) in the basis of the states.
    scale = window.centre + shift
    squares_n, turn = scipy.linalg.eigh(
        _symmetric(scale * (ritz.conj().T @ projected.folded @ ritz))
    )
    distance_n = np.sqrt(np.maximum(squares_n, 0.0))
    chosen = ritz @ turn[:, distance_n < FOLDED_MARGIN * window.half_width + MARGIN]
    energies_n, turn = scipy.linalg.eigh(_symmetric(chosen.conj().T @ projected.h @ chosen))
    inside = (energies_n > window.low) & (energies_n < window.high)
    return energies_n[inside], chosen @ turn[:, inside]


def _ritz_vectors(projected: Projected, centre: float, reach: float) -> NDArray[Any]:
    """Return the S-orthonormal Ritz vectors with values no further than `reach` from a centre."""
    size_n = np.diag(projected.s).real
    scale_n = 1.0 / np.sqrt(np.maximum(size_n, np.finfo(size_n.dtype).tiny))
    s = scale_n[:, None] * projected.s * scale_n
    turn = scale_n[:, None]
    try:
        # Vectors that nearly depend on each other leave a pivot of rounding only.
        root = scipy.linalg.cholesky(s, lower=True)
        if (np.diag(root).real ** 2).min() < INDEPENDENT:
            raise scipy.linalg.LinAlgError
        turn = (
            turn
            * scipy.linalg.solve_triangular(root, np.eye(len(s), dtype=s.dtype), lower=True)
            .conj()
            .T
        )
    except scipy.linalg.LinAlgError:
        size_n, directions = scipy.linalg.eigh(_symmetric(s))
        kept = size_n > INDEPENDENT * size_n[-1]
        turn = turn * (directions[:, kept] / np.sqrt(size_n[kept]))
    _, vectors = scipy.linalg.eigh(
        _symmetric(turn.conj().T @ projected.h @ turn),
        subset_by_value=(centre - reach, centre + reach),
    )
    return np.asarray(turn @ vectors)


def assessed(
    k_c: NDArray[np.float64], vectors_mn: NDArray[Any], products: ReducedProducts
) -> ReducedStates:
    """Return the states in the span of some vectors, with residuals and estimated errors.

    What is no state is left out: directions in which H leads far out of the span (Ritz vectors
    alone do not tell, where one of them mixes with a state of nearly the same energy). Second-order
    perturbation theory has r^+ (H - e S)^-1 r for the error of an energy; here r is taken along
    states at `MISSING_PART` above, and divided by the atoms' own blocks. Collective.

    Parameters
    ----------
    k_c : ndarray, shape (3,)
        Fractional k.
    vectors_mn : ndarray, shape (rows of this rank, n)
        Among them nearly states.
    products : ReducedProducts
    """
    comm = products.comm
    found = _Multiplied(vectors_mn, *products.times(k_c, vectors_mn))
    pairs = [(vectors_mn.conj().T @ x).astype(np.complex128) for x in (found.h_mn, found.s_mn)]
    h, s = comm.allreduce(np.stack(pairs))
    # One rank decides, so that rounding cannot make two ranks turn states differently.
    ritz = scipy.linalg.eigh(_symmetric(h), _symmetric(s)) if comm.rank == 0 else None
    energies_n, turn = comm.bcast(ritz)
    found = found.turned(turn)
    residual_mn = found.residual(energies_n)
    leading_out = comm.allreduce(
        (residual_mn.conj().T @ products.by_atoms(residual_mn)).astype(np.complex128)
    )
    states = None
    if comm.rank == 0:
        size_n, directions = scipy.linalg.eigh(_symmetric(leading_out))
        kept = directions[:, size_n * _per_energy(energies_n.mean(), products.shift) < SPURIOUS]
        energies_n, turn = scipy.linalg.eigh(_symmetric((kept.conj().T * energies_n) @ kept))
        states = energies_n, kept @ turn
    energies_n, turn = comm.bcast(states)
    found = found.turned(turn)
    residual_mn = found.residual(energies_n)
    divided_mn = products.by_atoms(residual_mn)
    pairs = [(residual_mn, residual_mn), (found.s_mn, found.s_mn), (residual_mn, divided_mn)]
    sums = np.stack([np.einsum("mn,mn->n", x.conj(), y).real.astype(float) for x, y in pairs])
    residual_n, norm_n, weighted_n = comm.bcast(comm.allreduce(sums))
    return ReducedStates(
        energies_n,
        np.maximum(weighted_n, 0.0) * _per_energy(energies_n, products.shift),
        np.sqrt(residual_n / norm_n),
        found.vectors_mn,
    )


@dataclass(frozen=True)
class _Multiplied:
    """Vectors X with H(k) X and S(k) X."""

    vectors_mn: NDArray[Any]
    h_mn: NDArray[Any]
    s_mn: NDArray[Any]

    def turned(self, turn: NDArray[Any]) -> _Multiplied:
        """Return combinations of the vectors."""
        number = self.vectors_mn.dtype
        return _Multiplied(
            *(x @ turn.astype(number) for x in (self.vectors_mn, self.h_mn, self.s_mn))
        )

    def residual(self, energies_n: NDArray[np.float64]) -> NDArray[Any]:
        """Return H X - S X e."""
        return self.h_mn - self.s_mn * energies_n.astype(self.s_mn.real.dtype)


def _per_energy(energy: Any, shift: float) -> Any:
    """Return 1 / (e' - e) over 1 / (e' + c) for e' at `MISSING_PART` above an energy e."""
    return (energy + shift + MISSING_PART) / MISSING_PART


def _symmetric(matrix: NDArray[Any]) -> NDArray[Any]:
    return 0.5 * (matrix + matrix.conj().T)
