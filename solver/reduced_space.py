"""States near an energy in the span of a few trial vectors, without the spurious ones.

In the middle of a spectrum a Rayleigh-Ritz step in a small space gives, beside the states, values
without meaning: mixtures of what lies far above and far below. The folded operator
T^+ M T, with T = H - sigma S and M nearly S^-1, tells them apart, since it is the squared
distance of a vector from being a state at sigma (Wang and Zunger, J. Chem. Phys. 100, 2394 (1994)):
its lowest vectors in the space span the states, and a Rayleigh-Ritz step among these alone is safe.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from hamgnn_solve.solver.pencil import Pencil
from hamgnn_solve.solver.shifted_inverse import ShiftedInverse

__all__ = [
    "ReducedStates",
    "Trial",
    "Window",
    "assessed",
    "choose_states",
    "multiplied",
    "reduced_states",
]

# Directions of the trial vectors with a smaller share of the overlap are left out.
INDEPENDENT = 1e-7
# Ritz values this far outside the window, relative to its half width, still belong to the space
# that is folded, and folded values this far outside still count as states.
RITZ_MARGIN, FOLDED_MARGIN = 1.2, 1.15
# Hartree. Added to both.
MARGIN = 4e-4
# Hartree (10 eV). Energy above the window at which the missing part of a state is taken to lie;
# decision 14 compares estimates with errors.
MISSING_PART = 0.3675
# Vectors multiplied at once.
COLUMNS = 128


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
class Trial:
    """Vectors at one k with their products.

    Parameters
    ----------
    vectors_mn, h_mn, s_mn : ndarray of complex128, shape (rows of this rank, n)
        X, H(k) X and S(k) X.
    """

    vectors_mn: NDArray[np.complex128]
    h_mn: NDArray[np.complex128]
    s_mn: NDArray[np.complex128]

    def with_more(self, other: Trial) -> Trial:
        """Return these vectors and others."""
        return Trial(
            np.hstack([self.vectors_mn, other.vectors_mn]),
            np.hstack([self.h_mn, other.h_mn]),
            np.hstack([self.s_mn, other.s_mn]),
        )


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
    vectors_mn : ndarray of complex128, shape (rows of this rank, n)
        S-orthonormal.
    """

    energies_n: NDArray[np.float64]
    errors_n: NDArray[np.float64]
    residuals_n: NDArray[np.float64]
    vectors_mn: NDArray[np.complex128]


def reduced_states(
    k_c: NDArray[np.float64],
    trial: Trial,
    window: Window,
    inverse: ShiftedInverse,
    steps: int,
) -> ReducedStates:
    """Find the states of a window at k in the span of trial vectors. Collective.

    Parameters
    ----------
    k_c : ndarray, shape (3,)
        Fractional k.
    trial : Trial
    window : Window
    inverse : ShiftedInverse
    steps : int
        Of its conjugate gradients.

    Returns
    -------
    ReducedStates
        All vectors that come near to a state in the window; `errors_n` tells how near.
    """
    comm, h_mn, s_mn = inverse.pencil.comm, trial.h_mn, trial.s_mn
    h, s = (comm.allreduce(trial.vectors_mn.conj().T @ x) for x in (h_mn, s_mn))

    def folded(chosen: NDArray[Any]) -> NDArray[Any]:
        # One rank decides, so that rounding cannot make two ranks keep different states.
        t_mn = (h_mn - window.centre * s_mn) @ comm.bcast(chosen)
        return np.asarray(comm.allreduce(t_mn.conj().T @ inverse.times(k_c, t_mn, steps)))

    energies_n, turn = comm.bcast(choose_states(h, s, window, inverse.shift, folded))
    found = Trial(trial.vectors_mn @ turn, h_mn @ turn, s_mn @ turn)
    return assessed(energies_n, found, lambda x: inverse.times(k_c, x, steps), inverse)


def assessed(
    energies_n: NDArray[np.float64],
    found: Trial,
    divide: Callable[[NDArray[Any]], NDArray[Any]],
    inverse: ShiftedInverse,
) -> ReducedStates:
    """Return states with their residuals and estimated errors. Collective.

    Second-order perturbation theory has r^+ (H - e S)^-1 r for the error; here r is taken along
    states at `MISSING_PART` above or below.

    Parameters
    ----------
    energies_n : ndarray, shape (n,)
    found : Trial
        The states.
    divide : callable
        Applies (H(k) + c S(k))^-1, or what stands for it.
    inverse : ShiftedInverse
        Whose c that is.
    """
    residual_mn = found.h_mn - found.s_mn * energies_n
    pairs = (
        (residual_mn, residual_mn),
        (found.s_mn, found.s_mn),
        (residual_mn, divide(residual_mn)),
    )
    sums = np.stack([np.einsum("mn,mn->n", x.conj(), y).real for x, y in pairs])
    comm = inverse.pencil.comm
    residual_n, norm_n, weighted_n = comm.bcast(comm.allreduce(sums))
    scale_n = (energies_n + inverse.shift + MISSING_PART) / MISSING_PART
    return ReducedStates(
        energies_n,
        np.maximum(weighted_n, 0.0) * scale_n,
        np.sqrt(residual_n / norm_n),
        found.vectors_mn,
    )


def choose_states(
    h: NDArray[Any],
    s: NDArray[Any],
    window: Window,
    shift: float,
    folded: Callable[[NDArray[Any]], NDArray[Any]],
) -> tuple[NDArray[np.float64], NDArray[Any]]:
    """Return energies and coefficients of the states of a window in a projected pencil.

    Parameters
    ----------
    h, s : ndarray, shape (m, m)
        H(k) and S(k) between trial vectors, which may depend on each other.
    window : Window
    shift : float
        c of the folded operator, in Hartree.
    folded : callable
        Takes coefficients C, shape (m, r), and returns C^+ T^+ (H + c S)^-1 T C, with
        T = H - sigma S at the centre of the window.
    """
    size_n, directions = scipy.linalg.eigh(0.5 * (s + s.conj().T))
    kept = size_n > INDEPENDENT * size_n[-1]
    orthonormal = directions[:, kept] / np.sqrt(size_n[kept])
    values_n, turn = _hermitian(orthonormal.conj().T @ h @ orthonormal)
    near = np.abs(values_n - window.centre) < RITZ_MARGIN * window.half_width + MARGIN
    ritz = orthonormal @ turn[:, near]
    # Near the window (H + c S)^-1 is 1 / (e + c) in the basis of the states.
    squares_n, turn = _hermitian(folded(ritz) * (window.centre + shift))
    distance_n = np.sqrt(np.maximum(squares_n, 0.0))
    chosen = ritz @ turn[:, distance_n < FOLDED_MARGIN * window.half_width + MARGIN]
    energies_n, turn = _hermitian(chosen.conj().T @ h @ chosen)
    inside = (energies_n > window.low) & (energies_n < window.high)
    return energies_n[inside], chosen @ turn[:, inside]


def multiplied(
    pencil: Pencil, k_c: NDArray[np.float64], vectors_mn: NDArray[np.complex128]
) -> Trial:
    """Return vectors with H(k) X and S(k) X, some at a time to bound the memory. Collective."""
    h_mn, s_mn = np.empty_like(vectors_mn), np.empty_like(vectors_mn)
    for start in range(0, vectors_mn.shape[1], COLUMNS):
        part = slice(start, start + COLUMNS)
        h_mn[:, part] = pencil.hamiltonian_times(k_c, vectors_mn[:, part])
        s_mn[:, part] = pencil.overlap_times(k_c, vectors_mn[:, part])
    return Trial(vectors_mn, h_mn, s_mn)


def _hermitian(matrix: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[Any]]:
    values_n, vectors = scipy.linalg.eigh(0.5 * (matrix + matrix.conj().T))
    return values_n, vectors
