"""Cells of real metal-organic frameworks."""

from __future__ import annotations

import warnings

from ase import Atoms

from hamgnn_solve.core.errors import InputError

__all__ = ["framework"]


def framework(data_set: str, name: str) -> Atoms:
    """Return a cell of the CoRE MOF database (CC BY 4.0) as the package `CoRE-MOF` holds it.

    Parameters
    ----------
    data_set : str
        "2014", "2019-ASR" or "2019-FSR".
    name : str
        Name of the structure there.

    Raises
    ------
    InputError
        When the package is missing or knows no such structure.
    """
    try:
        import CoRE_MOF
    except ImportError as error:
        raise InputError(
            "Frameworks need the CoRE MOF database; install it with pip install CoRE-MOF."
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            crystal = CoRE_MOF.get_structure(data_set, name)
        except KeyError as error:
            raise InputError(f"CoRE MOF {data_set} has no structure {name}.") from error
    return Atoms(
        [site.specie.symbol for site in crystal],
        positions=crystal.cart_coords,
        cell=crystal.lattice.matrix,
        pbc=True,
    )
