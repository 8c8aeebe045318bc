"""States at one k from those at another one that a symmetry of the crystal turns into it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from mpi4py import MPI
from numpy.typing import NDArray

from hamgnn_solve.core.crystal_symmetry import SymmetryOperation
from hamgnn_solve.core.hamiltonian import OrbitalSystem
from hamgnn_solve.core.integrals.harmonics import rotation_of_shells
from hamgnn_solve.parallel.halo import halo_exchange
from hamgnn_solve.parallel.rows import OrbitalRows
from hamgnn_solve.solver.eigenpairs import Eigenpairs
from hamgnn_solve.solver.reduced_products import ReducedProducts

__all__ = ["largest_residual", "symmetric_states"]


def symmetric_states(
    states: Eigenpairs,
    operation: SymmetryOperation,
    system: OrbitalSystem,
    rows: OrbitalRows,
    comm: MPI.Intracomm,
) -> Eigenpairs:
    """Return what an operation makes of the states at a real k-point. Collective.

    A function of atom i goes to its image j and is turned there: coefficients c at k become
    c'_j = exp(-2 pi i k'.L_i) D c_i at k' = k W^-1, but for a phase of the whole, where L_i is the
    lattice vector by which atom i misses j and D turns the real harmonics of the shells. At points
    with 2k a reciprocal vector all of this is real. States of H are states again as far as H has
    the symmetry.

    Parameters
    ----------
    states : Eigenpairs
        At a real k-point.
    operation : SymmetryOperation
    system : OrbitalSystem
        The crystal, without spinors.
    rows : OrbitalRows
    comm : mpi4py.MPI.Intracomm

    Returns
    -------
    Eigenpairs
        At k' as it is turned, which may lie in another cell of the reciprocal lattice.
    """
    k_c = operation.rotated(states.k_c)
    sign_i = np.rint(np.cos(2.0 * np.pi * (operation.shift_ic @ k_c)))
    cartesian_cc = operation.cartesian(system.structure.cell_cc)
    source_j = np.argsort(operation.image_i)[rows.owned]
    number = states.vectors_mn.shape[1]
    x_mn = np.hstack([states.vectors_mn, states.beyond_mn])
    x_mn = _rows_of_atoms(x_mn, source_j, rows, comm)
    turned_mn = np.empty_like(x_mn)
    start_j = rows.first_row_i[rows.owned] - rows.start
    kind_j = system.kind_i[rows.owned]
    for kind in np.unique(kind_j):
        alike = np.flatnonzero(kind_j == kind)
        turn = rotation_of_shells(system.shells_i[rows.owned[alike[0]]], cartesian_cc)
        rows_jm = start_j[alike][:, None] + np.arange(len(turn))
        turned_mn[rows_jm] = sign_i[source_j[alike]][:, None, None] * (turn @ x_mn[rows_jm])
    return replace(
        states, k_c=k_c, vectors_mn=turned_mn[:, :number], beyond_mn=turned_mn[:, number:]
    )


def largest_residual(states: Eigenpairs, products: ReducedProducts) -> float:
    """Return the largest ||H x - e S x|| / ||S x|| of states at a real k-point, in Hartree.

    Collective.
    """
    h_mn, s_mn = products.times(states.k_c, states.vectors_mn)
    residual_mn = h_mn - s_mn * states.energies_n
    squares = [(np.abs(x) ** 2).sum(axis=0).astype(np.float64) for x in (residual_mn, s_mn)]
    residual_n, norm_n = products.comm.allreduce(np.stack(squares))
    return float(products.comm.bcast(np.sqrt(residual_n / norm_n).max()))


def _rows_of_atoms(
    x_mn: NDArray[Any], atoms: NDArray[np.int64], rows: OrbitalRows, comm: MPI.Intracomm
) -> NDArray[Any]:
    """Return the rows of some atoms, one atom after the other, from their owners. Collective."""
    wanted, own = rows.rows_of(atoms), np.arange(rows.start, rows.stop)
    ghosts = np.setdiff1d(wanted, own)
    if comm.size > 1:
        exchange = halo_exchange(comm, rows.owner_m, own, ghosts)
        x_mn = exchange(torch.from_numpy(np.ascontiguousarray(x_mn))).numpy()
    return np.asarray(x_mn[_places(np.concatenate([own, ghosts]), wanted)])


def _places(numbers: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where each wanted number stands among others."""
    order = np.argsort(numbers)
    return np.asarray(order[np.searchsorted(numbers, wanted, sorter=order)])
