"""One zero of energy for labels of different cells.

The potential of a cell without vacuum is known but for a constant, which labels of crystals set as
their program pleases (the cell average of the Hartree potential is zero, say). A network learns H
of all cells at once, so they have to agree.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from hamgnn_solve.training.dataset import TrainingStructure

__all__ = ["moved", "onsite_shifts"]


def onsite_shifts(structures: list[TrainingStructure]) -> NDArray[np.float64]:
    """Return the constants c in Hartree with which on-site energies agree best, one a structure.

    Least squares over h_im + c_s s_im = e_tm for the diagonal elements h_im of H and s_im of S of
    every atom i of type t in structure s. Structures with an axis that is not periodic
    have their zero in the vacuum, and c = 0; where there is none, the mean of c is zero.

    Parameters
    ----------
    structures : list of TrainingStructure
        Labels between the same orbitals.
    """
    types = int(max(int(one.types.max()) for one in structures)) + 1
    n = structures[0].target.shape[-1]
    free = [s for s, one in enumerate(structures) if one.periodic_c.all()]
    unknowns = types * n + len(free)
    matrix, right = np.zeros((unknowns, unknowns)), np.zeros(unknowns)
    for s, one in enumerate(structures):
        blocks = one.target[: one.natoms].double()
        energies_im = blocks.diagonal(dim1=1, dim2=2).numpy()
        present_im = one.present[: one.natoms].diagonal(dim1=1, dim2=2).numpy()
        place_im = one.types.numpy()[:, None] * n + np.arange(n)
        metric_im = one.overlap[: one.natoms].double().diagonal(dim1=1, dim2=2).numpy()
        own, energies, metric = place_im[present_im], energies_im[present_im], metric_im[present_im]
        np.add.at(matrix, (own, own), 1.0)
        np.add.at(right, own, energies)
        if s in free:
            c = types * n + free.index(s)
            matrix[c, c] += metric @ metric
            right[c] -= metric @ energies
            np.add.at(matrix, (own, np.full(len(own), c)), -metric)
            np.add.at(matrix, (np.full(len(own), c), own), -metric)
    solution = np.linalg.lstsq(matrix, right, rcond=1e-10)[0]
    shifts = np.zeros(len(structures))
    shifts[free] = solution[types * n :]
    if len(free) == len(structures):
        shifts -= shifts.mean()
    return shifts


def moved(structure: TrainingStructure, shift: float) -> TrainingStructure:
    """Return a structure whose target is H + c S, with c in Hartree."""
    if shift == 0.0:
        return structure
    return replace(structure, target=structure.target + shift * structure.overlap)
