"""How many electrons belong to which atom."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hamgnn_solve.core.operator import BlockOperator
from hamgnn_solve.core.real_space.free_atoms import FreeAtoms
from hamgnn_solve.core.real_space.grid import GridFunction

__all__ = ["hirshfeld_electrons", "mulliken_electrons"]


def mulliken_electrons(
    density_matrix: BlockOperator, overlap: BlockOperator
) -> NDArray[np.float64]:
    """Return sum_j,R P_ij(R) S_ij(R), the Mulliken population of each first atom, shape (N,).

    Mulliken, J. Chem. Phys. 23, 1833 (1955). The populations of all atoms sum to Tr(PS).

    Parameters
    ----------
    density_matrix, overlap : BlockOperator
        P and S on the same pairs; atoms without a pair here get zero.
    """
    products = density_matrix.values * overlap.values
    sizes = np.diff(overlap.offset_p)
    atom = np.repeat(overlap.pairs.first_p, sizes)
    populations: NDArray[np.float64] = np.zeros(len(overlap.norb_i))
    np.add.at(populations, atom, products)
    return populations


def hirshfeld_electrons(
    difference: GridFunction, superposition: GridFunction, atoms: FreeAtoms
) -> NDArray[np.float64]:
    """Return the electrons that each atom has gained over the free one, shape (N,).

    The difference density is shared out as the free atoms share their superposition, by
    rho_i(r) / sum_j rho_j(r): Hirshfeld, Theor. Chim. Acta 44, 129 (1977).

    Parameters
    ----------
    difference : GridFunction
        Density minus superposition.
    superposition : GridFunction
        Of the free atoms, on the same planes.
    atoms : FreeAtoms
        On these planes.
    """
    total = superposition.values
    share = np.divide(difference.values, total, out=np.zeros_like(total), where=total > 1e-30)
    return atoms.projections(difference.like(share))
