"""Helpers for tests of the density matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hamgnn_solve.core.operator import BlockOperator
from hamgnn_solve.parallel.rows import OrbitalRows
from hamgnn_solve.solver.dense import dense_eigenpairs
from hamgnn_solve.solver.density_matrix import DensityMatrix, Filling, density_matrix
from hamgnn_solve.solver.fermi import FermiLevel, fill_bands, thermal_level


def select_pairs(operator: BlockOperator, kept_p: NDArray[np.bool_]) -> BlockOperator:
    """Return the operator on some of its pairs."""
    kept = np.repeat(kept_p, np.diff(operator.offset_p))
    return BlockOperator(operator.pairs.select(kept_p), operator.norb_i, operator.values[kept])


def rows_of(operator: BlockOperator, owner: int = 0) -> OrbitalRows:
    """Return rows that are all owned by one rank, seen from rank 0."""
    owner_i = np.full(len(operator.norb_i), owner, dtype=np.int64)
    return OrbitalRows(owner_i, operator.norb_i, owner + 1)


def filling_of(
    hamiltonian: BlockOperator,
    overlap: BlockOperator,
    kpoints_kc: NDArray[np.float64],
    electrons: float,
    temperature: float = 0.0,
) -> Filling:
    """Return how the electrons fill LAPACK's bands, and a lower end of the spectrum."""
    energies_kn = np.array([dense_eigenpairs(hamiltonian, overlap, k)[0] for k in kpoints_kc])
    weights_k = np.full(len(kpoints_kc), 1.0 / len(kpoints_kc))
    nbands = energies_kn.shape[1]
    level = fill_bands(energies_kn, 1, nbands, weights_k, electrons)
    if temperature > 0.0:
        energy = thermal_level(energies_kn, 1, nbands, weights_k, electrons, temperature)
        assert energy is not None
        level = FermiLevel(energy)
    assert level is not None
    return Filling(level, float(energies_kn.min()) - 0.01, electrons, temperature)


def serial_density(
    hamiltonian: BlockOperator,
    overlap: BlockOperator,
    kpoints_kc: NDArray[np.float64],
    filling: Filling,
    weights_k: NDArray[np.float64] | None = None,
    **options: Any,
) -> DensityMatrix:
    """Return the density matrix by one process."""
    return density_matrix(
        hamiltonian, overlap, MPI.COMM_SELF, kpoints_kc, weights_k, filling, **options
    )


def whole_matrix(density: BlockOperator) -> NDArray[np.float64]:
    """Return P(k = 0) of a density matrix of one real k, where all images of a pair are equal."""
    start_i = np.cumsum(density.norb_i) - density.norb_i
    size = int(density.norb_i.sum())
    matrix = np.full((size, size), np.nan)
    for p, (i, j) in enumerate(zip(density.pairs.first_p, density.pairs.second_p, strict=True)):
        block = density.block(p)
        rows, columns = block.shape
        matrix[start_i[i] : start_i[i] + rows, start_i[j] : start_i[j] + columns] = block
    assert not np.isnan(matrix).any(), "a pair of atoms is out of reach"
    return matrix
