"""Counting the states below an energy without computing them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.solver.factorisation import Factorisation, SingularMatrixError
from hamgnn_solve.solver.pencil import Pencil

__all__ = ["count_below", "factorise_near"]

# Hartree. A shift closer than this to a state cannot be told from it.
NUDGE = 1e-7
NUDGES = 6


def factorise_near(
    pencil: Pencil,
    k_c: Sequence[float] | NDArray[np.float64],
    sigma: float,
    *,
    counting: bool = False,
) -> tuple[Factorisation, float, int]:
    """Factorise H(k) - sigma S(k), moving sigma by some 1e-7 Hartree off a state it hits.

    With `counting` the count is what is wanted, and the factors may be coarser.

    Returns
    -------
    factorisation : Factorisation
        Lives until the next factorisation for the same kind of k.
    sigma : float
        The shift that was used.
    count : int
        Number of states below it.

    Raises
    ------
    InputError
        When no shift nearby can be factorised.
    """
    for attempt in range(NUDGES):
        moved = sigma + attempt * NUDGE
        try:
            factorisation, count = pencil.factorise(k_c, moved, counting=counting)
        except SingularMatrixError:
            continue
        return factorisation, moved, count
    raise InputError(
        f"H - sigma S at k = {np.asarray(k_c)} and sigma = {sigma:.8f} Hartree is singular over "
        f"{NUDGES * NUDGE:.0e} Hartree: the overlap is close to singular, so two atoms are too "
        "close for the basis or the basis is too large."
    )


def count_below(pencil: Pencil, k_c: Sequence[float] | NDArray[np.float64], sigma: float) -> int:
    """Return how many states at k lie below an energy.

    The number of negative eigenvalues of H - sigma S (Sylvester's law of inertia; Parlett, The
    Symmetric Eigenvalue Problem, section 3.3), halved in the embedding. Collective.

    Parameters
    ----------
    pencil : Pencil
        H and S.
    k_c : array_like, shape (3,)
        Fractional k.
    sigma : float
        Energy in Hartree; sharp to about 1e-7 Hartree.
    """
    return factorise_near(pencil, k_c, sigma, counting=True)[2]
