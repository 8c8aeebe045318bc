"""Occupations as sums over simple poles off the real axis."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import AAA
from scipy.special import ellipj, ellipkm1, expit

from hamgnn_solve.core.errors import InputError

__all__ = ["PoleExpansion", "fermi_poles", "step_poles"]

LARGEST_COUNT = 40
# Poles closer to the real axis than this share of k_B T are spurious.
SPURIOUS = 1e-3


@dataclass(frozen=True)
class PoleExpansion:
    """f(e) = 2 Re sum_z w_z / (e - z), so that f(H, S) = sum_z w_z (H - z S)^-1 + adjoint.

    Parameters
    ----------
    poles_z : ndarray of complex128, shape (npoles,)
        Poles in the upper half plane in Hartree; their conjugates are implied.
    weights_z : ndarray of complex128, shape (npoles,)
        In Hartree.
    error : float
        Largest |f(e) - exact| over the energies where it is meant to hold.
    """

    poles_z: NDArray[np.complex128]
    weights_z: NDArray[np.complex128]
    error: float

    def __post_init__(self) -> None:
        if self.poles_z.shape != self.weights_z.shape or self.poles_z.ndim != 1:
            raise ValueError(
                f"poles of shape {self.poles_z.shape}, weights of shape {self.weights_z.shape}"
            )
        if not (self.poles_z.imag > 0.0).all():
            raise ValueError("poles must lie in the upper half plane")

    def __len__(self) -> int:
        return len(self.poles_z)

    def __call__(self, energies: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return f at energies in Hartree, shape as given."""
        return 2.0 * (self.weights_z / (energies[..., None] - self.poles_z)).sum(axis=-1).real


def step_poles(
    lowest: float,
    valence_band_maximum: float,
    conduction_band_minimum: float,
    tolerance: float = 1e-9,
) -> PoleExpansion:
    """Expand the occupation of an insulator at zero temperature.

    The best rational approximation of the sign on [-1, -l] and [l, 1] (Zolotarev; Nakatsukasa and
    Freund, SIAM Review 58, 461 (2016), here of type (2r - 1, 2r)),

        Z(t) = M t prod_j (t^2 + c_2j) / prod_j (t^2 + c_2j-1),
        c_j = l^2 sn^2(j K' / 2r) / cn^2(j K' / 2r), K' = K(sqrt(1 - l^2)),

    in t = (e - a) / (e - d), which maps the occupied energies to [-1, -l] and all energies from
    the lowest empty one to infinity to [l, 1]; then f = (1 - Z) / 2. It is the contour with
    elliptic functions of Hale, Higham and Trefethen (SIAM J. Numer. Anal. 46, 2505 (2008)) with
    poles placed best, and it asks for no upper end of the spectrum. The constant f(infinity), not
    above the error, is left out.

    Parameters
    ----------
    lowest : float
        In Hartree; no state lies below.
    valence_band_maximum, conduction_band_minimum : float
        In Hartree.
    tolerance : float
        Largest error of an occupation between 0 and 1.

    Raises
    ------
    InputError
        When the energies are not in ascending order or 40 poles do not reach the tolerance.
    """
    if not lowest < valence_band_maximum < conduction_band_minimum:
        raise InputError(
            f"The lowest energy {lowest:g}, the valence band maximum {valence_band_maximum:g} and "
            f"the conduction band minimum {conduction_band_minimum:g} Hartree must ascend."
        )
    ends = lowest, valence_band_maximum, conduction_band_minimum
    for count in range(1, LARGEST_COUNT + 1):
        expansion = _zolotarev(*ends, count)
        if expansion.error <= tolerance:
            return expansion
    raise _too_many(tolerance)


def fermi_poles(
    lowest: float, level: float, temperature: float, tolerance: float = 1e-9
) -> PoleExpansion:
    """Expand the Fermi-Dirac occupation 1 / (1 + exp((e - level) / k_B T)) from `lowest` upwards.

    Nearly best rational approximation by the AAA algorithm (Nakatsukasa, Sete and Trefethen, SIAM
    J. Sci. Comput. 40, A1494 (2018)) in a variable that maps [lowest, infinity] to an interval;
    then the weights are fitted anew without a constant. As on the contour of Lin, Lu, Ying and E
    (Commun. Math. Sci. 7, 755 (2009)), the count grows with the logarithm of (level - lowest) /
    k_B T.

    Parameters
    ----------
    lowest : float
        In Hartree; no state lies below.
    level : float
        Chemical potential in Hartree.
    temperature : float
        k_B T in Hartree.
    tolerance : float
        Largest error of an occupation between 0 and 1.

    Raises
    ------
    InputError
        When `lowest` is not below the level, the temperature is not positive or 40 poles do not
        reach the tolerance.
    """
    if not (lowest < level and temperature > 0.0):
        raise InputError(
            f"The lowest energy {lowest:g} must lie below the Fermi level {level:g} Hartree, and "
            f"k_B T = {temperature:g} Hartree must be positive."
        )
    depth = level - lowest
    energies = _sample(depth, temperature, 400)
    between = _sample(depth, temperature, 5001)
    for count in range(2, LARGEST_COUNT + 1):
        poles = _aaa_poles(energies, depth, temperature, count)
        if poles is None:
            continue
        weights = _fitted_weights(energies, temperature, poles)
        relative = PoleExpansion(poles, weights, 0.0)
        error = float(np.abs(relative(between) - expit(-between / temperature)).max())
        if error <= tolerance:
            return PoleExpansion(poles + level, weights, error)
    raise _too_many(tolerance)


def _zolotarev(lowest: float, top: float, bottom: float, count: int) -> PoleExpansion:
    # The cross ratio of the four ends is (1 + l)^2 / 4 l.
    ratio = (bottom - lowest) / (bottom - top)
    inner = 1.0 / (2.0 * ratio - 1.0 + 2.0 * np.sqrt(ratio * (ratio - 1.0)))
    zero = (bottom * (1.0 - inner) + 2.0 * inner * lowest) / (1.0 + inner)
    infinity = 2.0 * lowest - zero
    odd, even = _zolotarev_points(inner, count)
    # Partial fractions t sum_j a_j / (t^2 + c_2j-1).
    a = np.array([np.prod(even - x) / np.prod(np.delete(odd, j) - x) for j, x in enumerate(odd)])
    t = np.geomspace(inner, 1.0, 20001)
    sign = t * (a / (t[:, None] ** 2 + odd)).sum(axis=1)
    scale = 2.0 / (sign.max() + sign.min())
    # 1 / (t - t0) = (1 + (z0 - d) / (e - z0)) / (1 - t0)
    t0 = 1j * np.sqrt(odd)
    poles = (zero - t0 * infinity) / (1.0 - t0)
    weights = -0.25 * scale * a * (poles - infinity) / (1.0 - t0)
    below = poles.imag < 0.0
    poles = np.where(below, poles.conj(), poles)
    weights = np.where(below, weights.conj(), weights)
    # t = -1..-l are the occupied energies, l..1 the empty ones up to infinity, which is left out.
    energies = (zero - np.append(-t, t[:-1]) * infinity) / (1.0 - np.append(-t, t[:-1]))
    exact = (energies < zero).astype(np.float64)
    error = float(np.abs(PoleExpansion(poles, weights, 0.0)(energies) - exact).max())
    return PoleExpansion(poles, weights, error)


def _zolotarev_points(inner: float, count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return c_j for odd j and for even j below 2 count."""
    # For small gaps sn / cn loses its digits beyond K' / 2, where c_j = l^2 / c_(2r - j).
    arguments = np.arange(1, count + 1) * ellipkm1(inner**2) / (2 * count)
    sn, cn, _, _ = ellipj(arguments, 1.0 - inner**2)
    lower = (inner * sn / cn) ** 2
    c = np.concatenate([lower, inner**2 / lower[-2::-1]])
    return c[0::2], c[1::2]


def _sample(depth: float, temperature: float, count: int) -> NDArray[np.float64]:
    """Return energies from -depth to far above zero, dense where the occupation changes."""
    fine = 1e-2 * min(temperature, depth)
    above = np.geomspace(fine, 1e4 * max(temperature, depth), count + count // 2)
    return np.concatenate([-np.geomspace(depth, fine, count), [0.0], above])


def _aaa_poles(
    energies: NDArray[np.float64], depth: float, temperature: float, count: int
) -> NDArray[np.complex128] | None:
    """Return `count` poles in the upper half plane relative to the level, None where real."""
    # t = e / (e + 2 depth) maps -depth, 0 and infinity to -1, 0 and 1.
    t = np.append(energies / (energies + 2.0 * depth), 1.0)
    values = np.append(expit(-energies / temperature), 0.0)
    with warnings.catch_warnings():
        # It is told to stop at this count, converged or not; the error is measured later.
        warnings.filterwarnings("ignore", "AAA failed to converge")
        rational: Any = AAA(t, values, rtol=0.0, max_terms=2 * count + 1, clean_up=False)
    found = rational.poles()
    poles = 2.0 * depth * found / (1.0 - found)
    upper = poles[poles.imag > SPURIOUS * temperature]
    return upper if len(upper) == count else None


def _fitted_weights(
    energies: NDArray[np.float64], temperature: float, poles: NDArray[np.complex128]
) -> NDArray[np.complex128]:
    """Return the weights that fit the occupation best in the sense of least squares."""
    terms = 2.0 / (energies[:, None] - poles)
    matrix = np.concatenate([terms.real, -terms.imag], axis=1)
    fitted = np.linalg.lstsq(matrix, expit(-energies / temperature), rcond=None)[0]
    return np.asarray(fitted[: len(poles)] + 1j * fitted[len(poles) :])


def _too_many(tolerance: float) -> InputError:
    return InputError(
        f"{LARGEST_COUNT} poles do not describe the occupations to {tolerance:g}: the gap or "
        "k_B T is too small against the width of the occupied bands, or the tolerance too small."
    )
