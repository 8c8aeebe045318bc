"""Memory of sparse factors, and what is said when they do not fit."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import shared_path
from mpi4py import MPI
from pencil_models import owned_part, pencil_of, random_pencil, supercell

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
    repeats = (5, 4, 4)
    hamiltonian, overlap = (supercell(x, repeats) for x in (data.hamiltonians[0], data.overlap))
    owner_i = np.zeros(len(overlap.norb_i), dtype=np.int64)
    rows = OrbitalRows(owner_i, overlap.norb_i)
    parts = [owned_part(x, owner_i, 0) for x in (hamiltonian, overlap)]
    return Pencil(parts[0], parts[1], rows, MPI.COMM_SELF, factor_options=options)


def test_factors_beyond_the_memory_go_to_disk() -> None:
    said: list[str] = []
    exact = silicon(FactorOptions())
    expected = exact.factorise(GAMMA, -0.1)
    right = np.random.default_rng(1).standard_normal((exact.norbitals, 3))
    solution = exact.solve(expected[0], right, real=True)
    told = expected[0].statistics
    assert told["estimated_on_disk_mb"] < told["estimated_mb"] - 1
    bound = 0.5e6 * (told["estimated_on_disk_mb"] + told["estimated_mb"])
    tight = silicon(FactorOptions(memory=bound, announce=said.append))
    factorisation, count = tight.factorise(GAMMA, -0.1)
    assert count == expected[1]
    assert len(said) == 1
    assert "kept on disk" in said[0]
    difference = tight.solve(factorisation, right, real=True) - solution
    # Reached 1e-13.
    assert np.abs(difference).max() < 1e-9 * np.abs(solution).max()


def test_factors_that_fit_nowhere_are_refused() -> None:
    with pytest.raises(InputError, match="cannot be factorised: MUMPS needs about"):
        silicon(FactorOptions(memory=1e6)).factorise(GAMMA, -0.1)


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
