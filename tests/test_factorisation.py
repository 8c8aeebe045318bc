"""Memory of sparse factors, and what is said when they do not fit."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import shared_path
from mpi4py import MPI
from pencil_models import pencil_of, random_pencil, supercell

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.io.scfout import read_scfout
from hamgnn_solve.core.operator import BlockOperator
from hamgnn_solve.parallel.rows import OrbitalRows
from hamgnn_solve.solver.dense import dense_eigenpairs
from hamgnn_solve.solver.eigenpairs import eigenpairs_near
from hamgnn_solve.solver.factorisation import FactorOptions
from hamgnn_solve.solver.pencil import Pencil
from hamgnn_solve.solver.petsc import PETSc, offer_scotch, set_options

GAMMA = (0.0, 0.0, 0.0)


def silicon(options: FactorOptions) -> Pencil:
    """Return the pencil of 160 silicon atoms."""
    data = read_scfout(shared_path("oracle/openmx/si2/si2.scfout.xz"))
    hamiltonian, overlap = (supercell(x, (5, 4, 4)) for x in (data.hamiltonians[0], data.overlap))
    rows = OrbitalRows(np.zeros(len(overlap.norb_i), dtype=np.int64), overlap.norb_i)
    return Pencil(hamiltonian, overlap, rows, MPI.COMM_SELF, factor_options=options)


def test_factors_on_disk_are_the_same() -> None:
    solutions, counts = [], []
    for options in (FactorOptions(), FactorOptions(out_of_core=True)):
        pencil = silicon(options)
        factorisation, count = pencil.factorise(GAMMA, -0.1)
        right = np.random.default_rng(1).standard_normal((pencil.norbitals, 3))
        solutions.append(pencil.solve(factorisation, right, real=True))
        counts.append(count)
    assert counts[0] == counts[1]
    # Reached 1e-13 of the largest.
    assert np.abs(solutions[1] - solutions[0]).max() < 1e-10 * np.abs(solutions[0]).max()


def test_factors_that_do_not_fit_go_to_disk_or_are_refused() -> None:
    said: list[str] = []
    with pytest.raises(InputError, match="cannot be factorised: MUMPS needs about"):
        silicon(FactorOptions(memory=1e6, announce=said.append)).factorise(GAMMA, -0.1)
    assert len(said) == 1
    assert "they are kept on disk" in said[0]


def test_negligible_blocks_do_not_move_energies() -> None:
    hamiltonian, overlap = random_pencil([3, 4, 5] * 4, seed=41)
    small = overlap.values.copy()
    for p in range(len(overlap.pairs)):
        if overlap.pairs.first_p[p] != overlap.pairs.second_p[p]:
            small[overlap.offset_p[p] : overlap.offset_p[p + 1]] *= 1e-7
    tail = BlockOperator(overlap.pairs, overlap.norb_i, small)
    pencil = pencil_of(hamiltonian, tail)
    for k_c in (GAMMA, (0.13, -0.21, 0.37)):
        energies_n, _ = dense_eigenpairs(hamiltonian, tail, k_c)
        found = eigenpairs_near(pencil, k_c, 0.05, 6, 6)
        # Blocks of 1e-9 are not factorised; reached 1e-14 Hartree, residuals 3e-9.
        assert np.abs(found.energies_n - energies_n[found.band_index_n - 1]).max() < 1e-12
        assert found.residuals_n.max() < 1e-7


def test_scotch_is_offered_to_debians_petsc_alone() -> None:
    assert not offer_scotch("/opt/petsc")
    assert not offer_scotch("/usr/lib/petscdir/petsc3.99/x86_64-linux-gnu-real")


def test_compression_is_an_option_of_ours() -> None:
    with pytest.raises(InputError, match="--compression"):
        set_options("-mat_mumps_icntl_35 2")
    assert not PETSc.Options().hasName("mat_mumps_icntl_35")
