"""Splines in the distance for the weights of a tensor product, for inference.

The perceptron's last hidden layer is a smooth function of the distance alone; it is interpolated
by quintic splines on a uniform mesh, and the last layer, which is linear, is applied to their
coefficients once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import solve_banded

from hamgnn_solve.core.network.radial import RadialPerceptron

try:
    from hamgnn_solve import _native
except ImportError:  # a checkout that was not built; the network then runs uncompiled
    _native = None  # type: ignore[assignment]

__all__ = ["RadialTable", "tabulate"]

# Values of the quintic B-spline at its knots, over 120.
KNOT_VALUES = np.array([1.0, 26.0, 66.0, 26.0, 1.0]) / 120.0
# Mesh points beyond both ends; what is wrong at the ends decays by 0.43 a point.
MARGIN = 24
FIRST_STEP = 0.05
LARGEST_MESH = 20000
# Outputs that errors are measured on.
SAMPLE = 64


@dataclass(frozen=True)
class RadialTable:
    """Weights of pairs as splines in the distance.

    Parameters
    ----------
    start, step : float
        First mesh point and spacing in Bohr.
    coefficients : ndarray, shape (kinds * mesh points, weights)
        Spline coefficients; those of one kind of pair follow one another.
    rows_q : ndarray of int64
        First row of each kind; -1 for a kind that was not asked for.
    error : float
        Largest error found between the mesh points, relative to the largest weight.
    """

    start: float
    step: float
    coefficients: NDArray[np.floating]
    rows_q: NDArray[np.int64]
    error: float

    def weights(
        self, distance_p: NDArray[np.float64], kind_p: NDArray[np.int64] | None
    ) -> NDArray[np.floating]:
        """Return the weights of pairs, shape (P, weights).

        Parameters
        ----------
        distance_p : ndarray, shape (P,)
            Distances in Bohr.
        kind_p : ndarray of int64, shape (P,), or None
            Kind of each pair; None when there is one kind.
        """
        place_p = (distance_p - self.start) / self.step
        left_p = np.floor(place_p).astype(np.int64)
        shares = quintic_shares(place_p - left_p).astype(self.coefficients.dtype)
        first_p = self.rows_q[0] if kind_p is None else self.rows_q[kind_p]
        values = np.empty(
            (len(distance_p), self.coefficients.shape[1]), dtype=self.coefficients.dtype
        )
        _native.spline_values(self.coefficients, first_p + left_p - 2, shares, values)
        return values


def quintic_shares(fraction_p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the six B-splines that are not zero at t in [0, 1) of a unit mesh, shape (P, 6).

    They belong to the mesh points -2..3 (the cardinal B-spline of degree 5, e.g. C. de Boor,
    A Practical Guide to Splines).
    """
    result = np.empty((len(fraction_p), 6))
    for column, point in enumerate(range(-2, 4)):
        x = np.abs(fraction_p - point)
        inner = 66.0 - 60.0 * x**2 + 30.0 * x**4 - 10.0 * x**5
        middle = 51.0 + 75.0 * x - 210.0 * x**2 + 150.0 * x**3 - 45.0 * x**4 + 5.0 * x**5
        outer = (3.0 - x) ** 5
        result[:, column] = np.where(x < 1.0, inner, np.where(x < 2.0, middle, outer)) / 120.0
    return result


def tabulate(
    perceptron: RadialPerceptron,
    columns: torch.Tensor,
    radial: Callable[[torch.Tensor], torch.Tensor],
    reach: tuple[float, float],
    kinds: NDArray[np.int64] | None,
    tolerance: float,
) -> RadialTable:
    """Tabulate the weights of a perceptron.

    Mesh points are multiples of the spacing, and the spacing depends on the network and on the
    interval in whole Bohr, so that processes with other pairs interpolate alike.

    Parameters
    ----------
    perceptron : RadialPerceptron
    columns : Tensor of int64
        Which outputs are wanted, in which order.
    radial : callable
        Radial functions of distances (P,), smooth on the whole line.
    reach : (float, float)
        Shortest and longest distance that will be asked for, in Bohr.
    kinds : ndarray of int64 or None
        Kinds of pairs that occur; None when the perceptron has one kind.
    tolerance : float
        Bound on the error between mesh points relative to the largest weight; the mesh is
        refined until it holds.

    Returns
    -------
    RadialTable
        In the precision of the perceptron.

    Raises
    ------
    ValueError
        When no mesh of reasonable size is good enough.
    """
    last = perceptron.last(columns)
    matrix = last.double()
    sample = matrix[:, :: max(matrix.shape[1] // SAMPLE, 1)].contiguous().numpy()
    present = np.zeros(1, dtype=np.int64) if kinds is None else kinds

    def hidden(distance: NDArray[np.float64], kind: int) -> NDArray[np.float64]:
        basis = radial(torch.from_numpy(distance))
        values: NDArray[np.float64] = perceptron.hidden(basis, kind).numpy()
        return values

    shares = quintic_shares(np.full(1, 0.5))[0]
    step = FIRST_STEP
    while True:
        low, high = (
            int(np.floor(np.floor(reach[0]) / step)),
            int(np.ceil(np.ceil(reach[1]) / step)),
        )
        mesh = step * np.arange(low - MARGIN, high + MARGIN + 1)
        if len(mesh) > LARGEST_MESH:
            raise ValueError(f"the radial weights vary too fast to be tabulated to {tolerance:g}")
        between = step * (np.arange(low, high) + 0.5)
        splines, error, largest = [], 0.0, 0.0
        for kind in present:
            spline = _coefficients(hidden(mesh, int(kind)))
            found = sum(
                share * spline[MARGIN - 2 + n : MARGIN - 2 + n + len(between)]
                for n, share in enumerate(shares)
            )
            exact = hidden(between, int(kind))
            error = max(error, float(np.abs((found - exact) @ sample).max()))
            largest = max(largest, float(np.abs(exact @ sample).max()))
            splines.append(spline)
        if error <= tolerance * largest:
            break
        step /= 2.0
    kept = slice(MARGIN - 2, len(mesh) - MARGIN + 3)
    dtype = last.numpy().dtype
    coefficients = [
        (torch.from_numpy(spline[kept]) @ matrix).numpy().astype(dtype) for spline in splines
    ]
    rows_q = np.full(perceptron.kinds, -1, dtype=np.int64)
    rows_q[present] = len(coefficients[0]) * np.arange(len(present))
    return RadialTable(
        float(mesh[kept][0]),
        step,
        np.concatenate(coefficients),
        rows_q,
        error / largest if largest else 0.0,
    )


def _coefficients(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return B-spline coefficients of values on a uniform mesh, (G, F) to (G, F).

    The mesh is continued by reflection at its ends.
    """
    points = len(values)
    bands = np.tile(KNOT_VALUES[:, None], (1, points))
    # bands[2 + i - j, j] is the element (i, j); reflection folds the missing neighbours back.
    bands[1, 1] += KNOT_VALUES[1]
    bands[0, 2] += KNOT_VALUES[0]
    bands[2, 1] += KNOT_VALUES[0]
    bands[3, -2] += KNOT_VALUES[1]
    bands[4, -3] += KNOT_VALUES[0]
    bands[2, -2] += KNOT_VALUES[0]
    solution: NDArray[np.float64] = solve_banded((2, 2), bands, values)
    return solution
