"""Make structures: twisted bilayers, supercells, displaced atoms."""
