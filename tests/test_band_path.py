"""Band paths and lists of k-points."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.io.structure import read_structure
from hamgnn_solve.core.observables.band_path import band_path, listed_kpoints, vacuum_axes
from hamgnn_solve.core.structure import Structure


def crystal(cell: np.ndarray) -> Structure:
    return Structure(("Si",), np.zeros((1, 3)), cell)


def test_a_hexagonal_slab_is_drawn_m_gamma_k(bilayer_file: Path) -> None:
    structure = read_structure(bilayer_file)
    assert vacuum_axes(structure) == (False, False, True)
    path = band_path(structure, "auto", 0.04)
    assert [name for _, name in path.labels] == ["M", "Γ", "K"]
    corners = path.kpoints_kc[[index for index, _ in path.labels]]
    # This file's lattice vectors enclose 120 degrees.
    assert np.allclose(corners, [[0.5, 0, 0], [0, 0, 0], [1 / 3, 1 / 3, 0]], atol=1e-9)
    # |M| = 2 pi / (sqrt(3) a) and |K| = 4 pi / (3 a), a = 8.387 Angstrom.
    ends = path.distance_k[[index for index, _ in path.labels]]
    lengths = [2 * np.pi / (3**0.5 * 8.387031656), 4 * np.pi / (3 * 8.387031656)]
    assert np.allclose(np.diff(ends), lengths, atol=1e-8)
    assert np.diff(path.distance_k).max() <= 0.04


def test_a_cubic_crystal_gets_the_cubic_path() -> None:
    path = band_path(crystal(np.diag([8.0, 8.0, 8.0])), "auto", 0.2)
    assert [name for _, name in path.labels][:4] == ["Γ", "X", "M", "Γ"]
    # Where branches part, the path does not jump in length.
    assert (np.diff(path.distance_k) >= 0).all()


def test_a_square_slab_stays_in_its_plane() -> None:
    path = band_path(crystal(np.diag([8.0, 8.0, 60.0])), "auto", 0.2)
    assert np.abs(path.kpoints_kc[:, 2]).max() < 1e-12
    assert {name for _, name in path.labels} == {"Γ", "X", "M"}


def test_a_molecule_has_the_gamma_point_alone() -> None:
    path = band_path(crystal(np.diag([40.0, 42.0, 60.0])), "auto", 0.1)
    assert np.abs(path.kpoints_kc).max() == 0.0
    assert len(path.kpoints_kc) == 1


def test_named_points(bilayer_file: Path) -> None:
    structure = read_structure(bilayer_file)
    path = band_path(structure, "K-G", 10.0)
    assert np.allclose(path.kpoints_kc, [[1 / 3, 1 / 3, 0], [0, 0, 0]])
    with pytest.raises(InputError, match="no special point 'Q'; it has A, G, "):
        band_path(structure, "G-Q", 0.1)


def test_listed_points() -> None:
    assert listed_kpoints("0 0 0; 0.5,0,0 ;").kpoints_kc.tolist() == [[0, 0, 0], [0.5, 0, 0]]
    for text in ("0 0", "0 0 x", "0 0 nan", ";"):
        with pytest.raises(InputError, match="--kpoints"):
            listed_kpoints(text)
