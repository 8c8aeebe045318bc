"""The built-in basis read from gpaw-data."""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from hamgnn_solve.core.basis import gpaw_data
from hamgnn_solve.core.basis.gpaw_data import built_in_basis, read_species
from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.integrals.separable import expand_by_m

# Valence, orbitals, projectors with m, and the largest orbital cutoff of s, p, d in Bohr.
TABLE = {
    "H": (1, 5, 5, (6.42, 6.42)),
    "C": (4, 13, 13, (5.55, 6.67, 6.67)),
    "O": (6, 13, 13, (4.34, 5.39, 5.39)),
    "S": (6, 13, 13, (5.52, 6.94, 6.94)),
    "Zn": (12, 21, 18, (8.16, 12.41, 4.36)),
    "Mo": (14, 29, 18, (10.05, 14.09, 7.20)),
    "Mo.6": (6, 15, 18, (10.31, 10.31, 7.30)),
    "W.6": (6, 15, 18, (9.03, 9.03, 7.13)),
}


@pytest.mark.parametrize("name", TABLE)
def test_species_has_the_known_shells(name: str) -> None:
    valence, orbitals, projectors, cutoffs = TABLE[name]
    species = read_species(name)
    assert species.symbol == name.split(".")[0]
    assert species.name == f"{name}.dzp"
    assert species.valence == valence
    assert species.norbitals == orbitals
    assert sum(2 * projector.l + 1 for projector in species.projectors) == projectors
    reached = [
        max(shell.cutoff for shell in species.shells if shell.l == angular)
        for angular in range(len(cutoffs))
    ]
    assert reached == pytest.approx(cutoffs, abs=0.006)


def test_shells_stand_in_file_order() -> None:
    assert read_species("Mo.6").shell_l == (0, 2, 0, 2, 1)
    assert [shell.name for shell in read_species("S").shells[:2]] == ["3s-sz", "3p-sz"]


def test_polarisation_shell_is_normalised() -> None:
    shell = read_species("S").shells[-1]
    node, weight = np.polynomial.legendre.leggauss(400)
    radius = 0.5 * shell.cutoff * (node + 1)
    norm = 0.5 * shell.cutoff * weight @ (radius * shell(radius)) ** 2
    assert norm == pytest.approx(1.0, abs=1e-7)  # reached: 3.6e-8


def test_same_name_gives_the_same_object() -> None:
    assert read_species("W.6") is read_species("W.6")


@pytest.mark.parametrize("name", ["H", "O", "Zn", "Mo", "Mo.6", "W.6"])
def test_augmentation_is_that_of_gpaw(name: str) -> None:
    setup_module = pytest.importorskip("gpaw.setup")
    functionals = pytest.importorskip("gpaw.xc")
    from ase.data import atomic_numbers

    symbol, _, kind = name.partition(".")
    setup = setup_module.Setups(
        [atomic_numbers[symbol]],
        {"default": kind or "paw"},
        {"default": "dzp"},
        functionals.XC("PBE"),
    )[0]
    species = read_species(name)
    ours = expand_by_m(species.projectors, species.projector_overlap)
    # Reached: 3e-12 for W.6, 1e-13 for the others, of elements up to 40.
    np.testing.assert_allclose(ours, setup.dO_ii, atol=1e-11)


@pytest.mark.parametrize("name", ["Xx", "Mo.7", "../S", ""])
def test_unknown_set_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="gpaw-data has no dzp"):
        read_species(name)


def test_set_of_another_element_is_refused() -> None:
    with pytest.raises(InputError, match="describes S but is asked for as Se"):
        built_in_basis({"Se": "S"})


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(InputError, match="pip install gpaw-data"):
        read_species.__wrapped__("H")


def test_damaged_files_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = gpaw_data._setups_folder()
    for file in ("H.PBE.gz", "H.dzp.basis.gz"):
        (tmp_path / file).write_bytes((folder / file).read_bytes())
    monkeypatch.setattr(gpaw_data, "_setups_folder", lambda: tmp_path)
    assert read_species.__wrapped__("H").norbitals == 5

    text = gzip.decompress((folder / "H.PBE.gz").read_bytes())
    damages = [
        (folder / "H.PBE.gz").read_bytes()[:500],
        gzip.compress(text[:2000]),
        gzip.compress(text.replace(b"projector_function", b"something")),
        gzip.compress(text.replace(b'valence="1"', b'valence="one"')),
    ]
    for damaged in damages:
        (tmp_path / "H.PBE.gz").write_bytes(damaged)
        with pytest.raises(InputError, match="damaged"):
            read_species.__wrapped__("H")
