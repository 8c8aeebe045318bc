"""Copies of a pencil on groups of ranks, which work on different energies or k-points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from mpi4py import MPI

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.parallel.gather import gather_operator
from hamgnn_solve.parallel.rows import OrbitalRows
from hamgnn_solve.solver.pencil import Pencil

__all__ = ["PencilGroup", "pencil_groups"]


@dataclass(frozen=True)
class PencilGroup:
    """The pencil of this rank's group.

    Parameters
    ----------
    pencil : Pencil
        The whole pencil, distributed over the ranks of the group.
    number, count : int
        Number of this group, and of all groups.
    world : mpi4py.MPI.Intracomm
        The ranks of all groups.
    """

    pencil: Pencil
    number: int
    count: int
    world: MPI.Intracomm


def pencil_groups(pencil: Pencil, groups: int) -> PencilGroup:
    """Give every group of ranks the whole pencil. Collective.

    One factorisation gains little from more ranks, several at once gain all; the price is that
    every group holds H and S, and its own factors. The ranks of a group are neighbours.

    Parameters
    ----------
    pencil : Pencil
        Distributed over all ranks.
    groups : int
        A divisor of the number of ranks.

    Raises
    ------
    InputError
        When the ranks do not divide, on every rank.
    """
    comm = pencil.comm
    if groups == 1:
        return PencilGroup(pencil, 0, 1, comm)
    if groups < 1 or comm.size % groups:
        raise InputError(
            f"{comm.size} ranks do not divide into {groups} groups; give --groups a divisor."
        )
    size = comm.size // groups
    number, place = divmod(comm.rank, size)
    inside = comm.Split(number, place)
    # Ranks at the same place of all groups hold the same rows there, all that they hold together.
    across = comm.Split(place, number)
    rows = OrbitalRows(pencil.rows.owner_i % size, pencil.rows.norb_i, size, place)
    whole = {
        name: gather_operator(x, MPI.Intracomm(across), np.inf)
        for name, x in pencil.operators.items()
    }
    across.Free()
    copy = Pencil(
        whole["H"],
        whole["S"],
        rows,
        MPI.Intracomm(inside),
        imaginary=whole.get("Im H"),
        electrons_per_band=pencil.electrons_per_band,
        factor_options=pencil.factor_options,
    )
    return PencilGroup(copy, number, groups, comm)
