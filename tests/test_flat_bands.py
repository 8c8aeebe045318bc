"""Widths of bands against lattices whose bands are known in closed form."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from hamgnn_solve.core.observables.flat_bands import BandWidth, band_widths, near_gap


def kagome(kpoint_c: np.ndarray) -> np.ndarray:
    """Return energies of hopping -1 between nearest neighbours, from the 3 x 3 matrix."""
    a, b = np.pi * kpoint_c[0], np.pi * kpoint_c[1]
    cosines = np.array([[0, np.cos(a), np.cos(b)], [0, 0, np.cos(a - b)], [0, 0, 0]])
    return np.linalg.eigvalsh(-2.0 * (cosines + cosines.T))


def path(*corners: tuple[float, float]) -> np.ndarray:
    steps = np.linspace(0, 1, 41)[:, None]
    legs = [(1 - steps) * np.array(x) + steps * np.array(y) for x, y in pairwise(corners)]
    return np.concatenate(legs)


def test_kagome_has_one_flat_band() -> None:
    """E = 2 everywhere; the others, -1 +- sqrt(...), run from -4 to -1 and from -1 to 2."""
    kpoints = path((0, 0), (1 / 3, -1 / 3), (0.5, 0), (0, 0))
    energies_kn = np.array([kagome(k) for k in kpoints])
    index_kn = np.tile([7, 8, 9], (len(kpoints), 1))
    low, middle, flat = band_widths(energies_kn, index_kn)
    assert (low.index, middle.index, flat.index) == (7, 8, 9)
    assert flat.width < 1e-13
    assert flat.centre == pytest.approx(2.0)
    assert (low.width, middle.width) == pytest.approx((3.0, 3.0))
    assert low.lowest == pytest.approx(-4.0)


def test_flat_on_a_part_of_the_path_is_not_flat() -> None:
    """Of the Lieb lattice's edge the upper band varies only when the second leg is looked at."""
    kpoints = path((0.5, 0.0), (0.5, 0.5), (0.0, 0.5))
    upper_k = np.hypot(*(2 * np.cos(np.pi * kpoints)).T)
    first = np.tile([1], (len(kpoints), 1))
    half = np.where(np.arange(len(kpoints)) < 41, 0.0, upper_k)
    (whole,) = band_widths(half[:, None], first)
    assert whole.width == pytest.approx(2.0)


def test_bands_are_told_by_their_index_not_their_column() -> None:
    # The window of the second k-point begins one band higher; the last was not solved at the first.
    energies_kn = np.array([[-3.0, -1.0, 1.0, np.nan], [-1.1, 1.2, 4.0, 5.0]])
    index_kn = np.array([[1, 2, 3, 4], [2, 3, 4, 5]])
    found = band_widths(energies_kn, index_kn)
    assert [(band.index, round(band.width, 12)) for band in found] == [(2, 0.1), (3, 0.2)]


def test_one_kpoint_tells_no_width() -> None:
    assert band_widths(np.array([[0.0, 1.0]]), np.array([[1, 2]])) == []


def test_window_around_the_gap() -> None:
    bands = [
        BandWidth(1, -5.0, -4.99),
        BandWidth(2, -3.0, -1.5),
        BandWidth(3, -0.8, 0.0),
        BandWidth(4, 2.0, 2.3),
        BandWidth(5, 3.1, 3.2),
    ]
    assert [band.index for band in near_gap(bands, 0.0, 2.0, 1.0)] == [4, 3]
    assert [band.index for band in near_gap(bands, 0.0, 2.0, 1.5)] == [5, 4, 3, 2]
