"""Densities and orbitals on a regular grid of the cell."""
