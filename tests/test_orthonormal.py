"""Orbitals orthonormalised on each atom."""

from __future__ import annotations

import numpy as np
import pytest

from hamgnn_solve.core.basis.gpaw_data import read_species
from hamgnn_solve.core.basis.orthonormal import free_atom_overlap, orthonormal_orbitals


@pytest.mark.parametrize("name", ["Mo.6", "W.6", "S"])
def test_new_orbitals_are_orthonormal(name: str) -> None:
    species = read_species(name)
    mixing = orthonormal_orbitals(species)
    shell_m = np.repeat(np.arange(len(species.shells)), [2 * s.l + 1 for s in species.shells])
    m_m = np.concatenate([np.arange(-s.l, s.l + 1) for s in species.shells])
    overlap = np.where(
        m_m[:, None] == m_m, free_atom_overlap(species)[np.ix_(shell_m, shell_m)], 0.0
    )
    assert np.linalg.eigvalsh(overlap)[0] < 0.05
    assert np.abs(mixing @ overlap @ mixing.T - np.eye(species.norbitals)).max() < 1e-12


@pytest.mark.parametrize("name", ["Mo.6", "S"])
def test_norm_of_the_first_zetas_is_one(name: str) -> None:
    # A first zeta is an eigenfunction of the confined atom; GPAW's tables give 1.00 for it.
    species = read_species(name)
    assert np.diag(free_atom_overlap(species))[:2] == pytest.approx(1.0, abs=2e-3)


def test_only_shells_of_equal_l_and_equal_m_mix() -> None:
    species = read_species("Mo.6")
    mixing = orthonormal_orbitals(species)
    l_m = np.concatenate([np.full(2 * s.l + 1, s.l) for s in species.shells])
    m_m = np.concatenate([np.arange(-s.l, s.l + 1) for s in species.shells])
    apart = (l_m[:, None] != l_m) | (m_m[:, None] != m_m)
    assert (mixing[apart] == 0.0).all()
    # Gram-Schmidt from the compact shell outwards: the compact one takes nothing of the other.
    assert abs(mixing[6, 0]) < 1e-12
    assert abs(mixing[0, 6]) > 0.1
