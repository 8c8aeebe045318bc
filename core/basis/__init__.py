"""Orbital sets: a `Species` an element, and the readers that make them."""
