"""Splines in the distance for the weights of a tensor product, for inference.

The perceptron's last hidden layer is a smooth function of the distance alone; it is interpolated
by quintic splines on a uniform mesh, and the last layer, which is linear, is applied to their
coefficients once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import solve_banded

from hamgnn_solve.core.network.radial import RadialPerceptron

try:
    from hamgnn_solve import _native
except ImportError:  # a checkout that was not built; the network then runs uncompiled
    _native = None  # type: ignore[assignment]

__all__ = ["RadialTable", "exact_weights", "tabulate"]

# Values of the quintic B-spline at its knots, and half way between them.
KNOT_VALUES = np.array([1.0, 26.0, 66.0, 26.0, 1.0]) / 120.0
MIDDLE_VALUES = np.array([1.0, 237.0, 1682.0, 1682.0, 237.0, 1.0]) / 3840.0
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
    _scratch: NDArray[np.floating] = field(
        init=False, repr=False, default_factory=lambda: np.empty(0)
    )

    def weights(
        self, distance_p: NDArray[np.float64], kind_p: NDArray[np.int64] | None
    ) -> NDArray[np.floating]:
        """Return the weights of pairs, shape (P, weights), valid until the next call.

        Parameters
        ----------
        distance_p : ndarray, shape (P,)
            Distances in Bohr.
        kind_p : ndarray of int64, shape (P,), or None
            Kind of each pair; None when there is one kind.
        """
        size = len(distance_p) * self.coefficients.shape[1]
        if len(self._scratch) < size:
            # Kept from call to call: fresh memory costs as much as the splines.
            object.__setattr__(self, "_scratch", np.empty(size, self.coefficients.dtype))
        values = self._scratch[:size].reshape(len(distance_p), -1)
        if kind_p is None:
            kind_p = np.zeros(len(distance_p), dtype=np.int64)
        place_p = (distance_p - self.start) / self.step
        _native.spline_values(self.coefficients, self.rows_q[kind_p], place_p, values)
        return values


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
                for n, share in enumerate(MIDDLE_VALUES)
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


def exact_weights(
    perceptron: RadialPerceptron,
    columns: torch.Tensor,
    radial: Callable[[torch.Tensor], torch.Tensor],
    distance_p: NDArray[np.float64],
    kind_p: NDArray[np.int64] | None,
) -> NDArray[np.floating]:
    """Return the weights of pairs without interpolation, shape (P, weights).

    Parameters
    ----------
    perceptron, columns, radial
        As for `tabulate`.
    distance_p, kind_p
        As for `RadialTable.weights`.
    """
    kind = None if kind_p is None else torch.from_numpy(kind_p)
    basis = radial(torch.from_numpy(distance_p)).to(perceptron.layer(0).dtype)
    values: NDArray[np.floating] = perceptron(basis, kind, columns).numpy()
    return values


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
