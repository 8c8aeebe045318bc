"""Conversion between atomic units and the units of the surface (CODATA 2018)."""

__all__ = ["ANGSTROM_PER_BOHR", "EV_PER_HARTREE"]

ANGSTROM_PER_BOHR = 0.529177210903
EV_PER_HARTREE = 27.211386245988
