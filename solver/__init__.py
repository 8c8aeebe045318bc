"""Sparse pencils and their spectra with PETSc and SLEPc; the only room that imports them."""
