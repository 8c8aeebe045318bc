"""Random displacements of atoms."""

from __future__ import annotations

import numpy as np

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.structure import Structure
from hamgnn_solve.core.units import ANGSTROM_PER_BOHR

__all__ = ["displace_atoms"]


def displace_atoms(structure: Structure, deviation: float, seed: int) -> Structure:
    """Return the structure with every atom displaced at random.

    Parameters
    ----------
    structure : Structure
        The atoms.
    deviation : float
        Standard deviation in Bohr of the normal distribution that each Cartesian component of
        each displacement is drawn from, independently.
    seed : int
        Seed of NumPy's default generator: the same seed gives the same displacements.

    Raises
    ------
    InputError
        If the deviation is not positive, the seed is negative, or two atoms come closer than
        0.4 Angstrom.
    """
    if not 0 < deviation < np.inf:
        raise InputError(
            f"The amplitude of displacements is {deviation * ANGSTROM_PER_BOHR:g} Angstrom; give a "
            "positive number."
        )
    if seed < 0:
        raise InputError(f"The seed of displacements is {seed}; give 0 or a positive integer.")
    random = np.random.default_rng(seed)
    displacement_ic = random.normal(scale=deviation, size=structure.pos_ic.shape)
    try:
        return Structure(structure.symbols, structure.pos_ic + displacement_ic, structure.cell_cc)
    except InputError as error:
        raise InputError(
            f"Displacements of {deviation * ANGSTROM_PER_BOHR:g} Angstrom with seed {seed} bring "
            f"atoms too close ({str(error).split(';')[0]}); give a smaller amplitude."
        ) from error
