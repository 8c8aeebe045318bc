"""Readers of OpenMX's orbitals and pseudopotentials."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import shared_path
from openmx_files import CARBON, CUTOFF, HYDROGEN, POINTS, gaussian_basis, write_files

from hamgnn_solve.core.basis.openmx_data import (
    PseudoSpecies,
    interpolate,
    openmx_basis,
    read_pao,
    read_vps,
)
from hamgnn_solve.core.basis.openmx_table import OpenMXSpecies
from hamgnn_solve.core.errors import InputError

PAO = "PAO/C7.0.pao"
VPS = "VPS/C_PBE19.vps"


def carbon(folder: Path) -> PseudoSpecies:
    species = gaussian_basis(folder, CARBON).species["C"]
    assert isinstance(species, PseudoSpecies)
    return species


def test_shells_follow_the_label(tmp_path: Path) -> None:
    species = carbon(tmp_path)
    assert species.name == "C7.0-s2p1"
    assert species.shell_l == (0, 0, 1)
    assert (species.norbitals, species.cutoff, species.valence) == (5, CUTOFF, 4.0)
    radius = np.linspace(0.01, 6.9, 40)
    for shell, (degree, exponent) in zip(
        species.shells, [(0, 0.9), (0, 0.55), (1, 0.7)], strict=True
    ):
        expected = radius**degree * np.exp(-exponent * radius**2)
        np.testing.assert_allclose(shell(radius), expected, atol=3e-6)  # reached: 1e-6


def test_density_is_scaled_to_the_valence(tmp_path: Path) -> None:
    write_files(tmp_path, CARBON)
    orbitals = read_pao(tmp_path / PAO)
    expected = 4.0 * (0.8 / np.pi) ** 1.5 * np.exp(-0.8 * orbitals.radius_g**2)
    # The file holds half of it. Reached: 3e-8.
    np.testing.assert_allclose(orbitals.density_g, expected, rtol=1e-7, atol=1e-12)


def test_projectors_are_averaged_over_j(tmp_path: Path) -> None:
    write_files(tmp_path, CARBON)
    potential = read_vps(tmp_path / VPS)
    assert potential.projector_l.tolist() == [0, 1]
    np.testing.assert_allclose(potential.energy_p, [0.7, -0.4], atol=1e-15)
    radius_g = potential.radius_g
    expected = [np.exp(-1.3 * radius_g**2), radius_g * np.exp(-1.1 * radius_g**2)]
    np.testing.assert_allclose(potential.projector_pg, expected, atol=1e-15)
    assert potential.core_density_g is not None
    np.testing.assert_allclose(potential.core_density_g, 0.3 * np.exp(-2.0 * radius_g**2))


def test_projectors_end_where_they_have_died_away(tmp_path: Path) -> None:
    first, second = carbon(tmp_path).nonlocal_projectors
    # exp(-1.3 r^2) reaches 1e-10 at 4.21 Bohr; the mesh there is 0.1 Bohr wide.
    assert 4.2 < first.cutoff < 4.35
    assert first.cutoff < second.cutoff < CUTOFF


def test_core_correction_may_be_off(tmp_path: Path) -> None:
    write_files(tmp_path, CARBON)
    path = tmp_path / VPS
    path.write_text(path.read_text().replace("charge.pcc.calc on", "charge.pcc.calc OFF"))
    assert read_vps(path).core_density_g is None


def test_interpolation_keeps_parabolas() -> None:
    radius_g = np.exp(np.linspace(-3, 1, 30))
    radius = np.linspace(radius_g[0], radius_g[-1], 200)
    values = interpolate(radius_g, 2 - radius_g + 3 * radius_g**2, radius)
    np.testing.assert_allclose(values, 2 - radius + 3 * radius**2, atol=1e-12)  # reached: 1e-14
    assert interpolate(radius_g, radius_g, np.array([radius_g[-1] + 0.1])) == 0.0


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (PAO, lambda t: t.replace("AtomSpecies 6", "AtomSpecies 7"), "describes N but is named"),
        (VPS, lambda t: t.replace("AtomSpecies 6", "AtomSpecies 7"), "describes N but is named"),
        (PAO, lambda t: t.replace("AtomSpecies", "Atom"), "no line 'AtomSpecies'"),
        (PAO, lambda t: t[: len(t) // 2], r"pseudo.atomic.orbitals.L=0 of line \d+ has no end"),
        (VPS, lambda t: t[: len(t) // 2], r"Pseudo.Potentials of line \d+ has no end"),
        (PAO, lambda t: t.replace("<pseudo.atomic.orbitals.L=1", "<x"), "L=1 is missing"),
        (PAO, lambda t: without_line(t, 300), "has 499 lines from line 8 to 506 where 500 belong"),
        (VPS, lambda t: without_line(t, 300), "Pseudo.Potentials has 499 lines"),
        (PAO, lambda t: with_word(t, 300, "1.2.3"), "has '1.2.3' in line 300 where a number"),
        (PAO, lambda t: with_word(t, 300, "nan"), "not finite|has 'nan' in line 300"),
        (VPS, lambda t: with_word(t, 300, "****"), "has '[*]{4}' in line 300 where a number"),
        (
            VPS,
            lambda t: t.replace("energies\n2", "energies\n3"),
            "announces 3 projectors but lists",
        ),
        (VPS, lambda t: t.replace("potentials   on", "potentials maybe"), "neither on nor off"),
        (VPS, lambda t: t.replace("electron 4.0", "electron 5.0"), "4 valence .* has 5"),
        (PAO, lambda t: t.replace("output 500", "output 400"), "500 lines .* 400 belong"),
        (PAO, lambda t: t.replace("cutoff.pao 7.0", "cutoff.pao wide"), "has 'wide' in line 4"),
    ],
)
def test_damaged_file_is_refused(
    tmp_path: Path, file: str, change: Callable[[str], str], message: str
) -> None:
    species = write_files(tmp_path, CARBON)
    path = tmp_path / file
    path.write_text(change(path.read_text()))
    with pytest.raises(InputError, match=message) as caught:
        openmx_basis(tmp_path, [species])
    assert path.name in str(caught.value)


def without_line(text: str, number: int) -> str:
    lines = text.splitlines(keepends=True)
    return "".join(lines[: number - 1] + lines[number:])


def with_word(text: str, number: int, word: str) -> str:
    """Replace the last word of a line."""
    lines = text.splitlines()
    lines[number - 1] = " ".join([*lines[number - 1].split()[:-1], word])
    return "\n".join(lines)


def test_missing_file_is_named(tmp_path: Path) -> None:
    species = write_files(tmp_path, CARBON)
    (tmp_path / VPS).unlink()
    with pytest.raises(InputError, match=r"C_PBE19.vps cannot be read"):
        openmx_basis(tmp_path, [species])


@pytest.mark.parametrize(("shells", "held"), [("s3p1", "2 s shells"), ("s2p1d1", "0 d shells")])
def test_too_few_shells_are_refused(tmp_path: Path, shells: str, held: str) -> None:
    species = replace(write_files(tmp_path, HYDROGEN), name=f"H7.0-{shells}")
    with pytest.raises(InputError, match=f"holds {held} but H7.0-{shells} asks for"):
        openmx_basis(tmp_path, [species])


def test_files_of_the_database_are_read() -> None:
    folder = shared_path("dft_data19")
    species = openmx_basis(folder, [OpenMXSpecies("Mo", "Mo7.0-s3p2d2", "Mo_PBE19", 14.0)]).species[
        "Mo"
    ]
    assert isinstance(species, PseudoSpecies)
    assert (species.norbitals, species.cutoff, species.valence) == (19, 7.0, 14.0)
    assert [len(columns) for columns in species.orbitals.radial] == [15] * 4
    assert len(species.orbitals.radius_g) == POINTS
    # Of j = l +- 1/2 the sixth and seventh projector have energies of different sign.
    np.testing.assert_allclose(
        species.pseudopotential.energy_p, [-1, 1, -1, 1, -1, 0.2, -0.2, -1, -1, -1], atol=1e-15
    )
