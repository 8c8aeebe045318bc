"""Partial waves of an atom: what a PAW basis stands for inside the augmentation spheres."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hamgnn_solve.core.basis.species import RadialFunction

__all__ = ["PartialWaves"]


@dataclass(frozen=True, eq=False)
class PartialWaves:
    """All-electron and smooth partial waves of the projectors of an element.

    Parameters
    ----------
    full, smooth : tuple of RadialFunction
        phi_a and pseudo phi_a of each projector shell in its order; they agree beyond `radius`.
        Their meshes go on further, and at the end of those they mean nothing.
    radius : float
        Radius of the augmentation sphere in Bohr.
    bound : tuple of float
        Electrons of the free atom in each partial wave; 0 for those that are no bound states.
    radius_g, density_g : ndarray, shape (G,)
        Density of the free atom's valence electrons in electrons per cubic Bohr, on a mesh that
        reaches as far as it does.
    """

    full: tuple[RadialFunction, ...]
    smooth: tuple[RadialFunction, ...]
    radius: float
    bound: tuple[float, ...]
    radius_g: NDArray[np.float64]
    density_g: NDArray[np.float64]

    def __post_init__(self) -> None:
        if not len(self.full) == len(self.smooth) == len(self.bound):
            raise ValueError("there must be as many smooth partial waves as full ones")
