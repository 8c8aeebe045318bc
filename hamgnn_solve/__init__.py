"""Electronic structure of thousands of atoms from a predicted Hamiltonian.

`core` knows physics, `parallel` knows MPI, `solver` knows PETSc and SLEPc, `cli` reports.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("hamgnn-solve")
except PackageNotFoundError:
    __version__ = "0+uninstalled"

__all__ = ["__version__"]
