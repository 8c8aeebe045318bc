"""The phase of a state, which the eigenvalue problem leaves open."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["fixed_phase"]

# Weights of orbitals that differ by less than this part of the largest count as equal.
SAME = 1e-3


def fixed_phase(vectors_mn: NDArray, images_mn: NDArray) -> NDArray:
    """Return states with a phase that does not depend on how they were found.

    The coefficient of the orbital with the largest Mulliken weight becomes real and positive;
    where several are equal, the first of them in the order of the atoms.

    Parameters
    ----------
    vectors_mn : ndarray, shape (M, states)
        S-orthonormal coefficients of all orbitals, in the order of the atoms.
    images_mn : ndarray, shape (M, states)
        S times them.
    """
    weight_mn = (vectors_mn.conj() * images_mn).real
    heavy_mn = weight_mn >= (1.0 - SAME) * weight_mn.max(axis=0)
    chosen_n = vectors_mn[np.argmax(heavy_mn, axis=0), np.arange(vectors_mn.shape[1])]
    return np.asarray(vectors_mn * (chosen_n.conj() / np.abs(chosen_n)))
