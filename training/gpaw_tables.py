"""Two-centre integrals for GPAW's LCAO mode without the losses of its tables.

GPAW keeps integrals I_L(R) as splines of I_L / R^L. Two things cost more than its Fourier-Bessel
transforms do, which come within 2e-8 of a direct quadrature:

- The splines have 256 intervals on [0, 2 r], r the longest cutoff of the elements at hand,
  whatever the number of radial points. With zinc (r = 12.4 Bohr) knots lie 0.1 Bohr apart, and
  <p|phi> of zinc's d projector is off by 5e-6. Here all 2048 distances are knots.
- Values of I_L / R^L below 1e-10 are left out: 3e-7 between d shells 11 to 13 Bohr apart. Here
  they are kept 2^40 times larger.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["fine_tables"]

SCALE = 2.0**40


@contextmanager
def fine_tables() -> Iterator[None]:
    """Let calculations of GPAW that begin inside use fine two-centre tables.

    They keep their tables, so that the self-consistent field, its eigenvalues and the blocks taken
    from them all have the same integrals.
    """
    tci: Any = import_module("gpaw.lcao.tci")
    coarse = tci.FourierTransformer
    tci.FourierTransformer = _fine_transformer(coarse)
    try:
        yield
    finally:
        tci.FourierTransformer = coarse


def _fine_transformer(coarse: Any) -> Any:
    """Return GPAW's transformer `coarse` with other tables."""
    from gpaw.lcao.overlap import OverlapExpansion
    from gpaw.spline import Spline

    class FineExpansion(OverlapExpansion):
        """An integral with splines `SCALE` times too large.

        The last argument of both methods is an array of zeros that they add to.
        """

        def evaluate(self, *arguments: Any) -> None:
            super().evaluate(*arguments)
            arguments[-1][:] /= SCALE

        def derivative(self, *arguments: Any) -> None:
            super().derivative(*arguments)
            arguments[-1][:] /= SCALE

    class FineTransformer(coarse):
        def calculate_overlap_expansion(
            self, product_q: NDArray[np.float64], l1: int, l2: int
        ) -> Any:
            """Return the integral of two functions, L = |l1 - l2|, ..., l1 + l2 in steps of two."""
            splines = [
                Spline.from_data(
                    big_l, 2 * self.rcut, SCALE * _values(self, product_q, l1, l2, big_l)
                )
                for big_l in range((l1 + l2) % 2, l1 + l2 + 1, 2)
            ]
            return FineExpansion(l1, l2, splines)

    return FineTransformer


def _values(
    transformer: Any, product_q: NDArray[np.float64], l1: int, l2: int, big_l: int
) -> NDArray[np.float64]:
    """Return I_L / R^L at all distances of `transformer`, and the zero at their end.

    Parameters
    ----------
    transformer : FourierTransformer
        GPAW's momenta and distances.
    product_q : ndarray, shape (Q,)
        k^(l1 + l2 + 2) f1(k) f2(k) from GPAW's transforms of the two functions.
    l1, l2, big_l : int
        Angular momenta of the functions and of the integral.

    Returns
    -------
    ndarray, shape (Q + 1,)
    """
    from gpaw.ffbt import ffbt

    distance_g = np.arange(transformer.Q) * transformer.dr
    momentum_q = transformer.k_q.copy()
    momentum_q[0] = 1.0  # where the product vanishes
    scaled_q = product_q * momentum_q ** (-2 - l1 - l2 - big_l)
    values_g = np.zeros(transformer.Q + 1)
    integral_g = ffbt(big_l, scaled_q, transformer.k_q, distance_g)
    values_g[1:-1] = 8 * integral_g[1:] / distance_g[1:] ** (2 * big_l + 1)
    # At R = 0, L = 0 alone counts; I_L / R^L with L > 0 is flat there.
    values_g[0] = values_g[1]
    if big_l == 0:
        values_g[0] = 8 * np.sum(product_q * momentum_q ** (-l1 - l2)) * transformer.dk
    return (-1) ** ((l1 - l2 - big_l) // 2) * values_g
