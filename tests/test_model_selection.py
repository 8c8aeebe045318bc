"""Which built-in model a structure gets, and what is said of it."""

from __future__ import annotations

import numpy as np
import pytest

from hamgnn_solve.cli.tools import main
from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.model_selection import (
    BuiltInModel,
    built_in_models,
    covering_model,
    find_model,
    measured_errors,
)
from hamgnn_solve.core.structure import Structure


def molecule(*symbols: str) -> Structure:
    positions = np.array([[4.0 * i, 0.5 * i, 0.0] for i in range(len(symbols))])
    return Structure(symbols, positions, 40.0 * np.eye(3))


def known(name: str, elements: str, *errors: float) -> BuiltInModel:
    records = {f"set {n}": {"hamiltonian_mae_meV": {"all": x}} for n, x in enumerate(errors)}
    return BuiltInModel(name, tuple(elements.split()), records)


TMD = known("tmd", "Mo S W", 0.9)
ORGANIC = known("organic", "H C N O Zn", 2.0)
WIDE = known("a-wide", "H C N O S Mo W", 0.1)


@pytest.mark.parametrize(
    ("symbols", "models", "name"),
    [
        (("Mo", "S"), (ORGANIC, TMD, WIDE), "tmd"),  # the fewest elements, not the smallest error
        (("C", "H"), (ORGANIC, TMD, WIDE), "organic"),
        (("C", "S"), (ORGANIC, TMD, WIDE), "a-wide"),
        # Of equally many the smaller error; the worst of a model's records counts.
        (("C",), (known("a", "C H", 0.1, 3.0), known("b", "C N", 2.0)), "b"),
        (("C",), (known("a", "C H"), known("b", "C N", 2.0)), "b"),
        (("C",), (known("y", "C N", 2.0), known("x", "C H", 2.0)), "x"),
    ],
)
def test_choice(symbols: tuple[str, ...], models: tuple[BuiltInModel, ...], name: str) -> None:
    structure = molecule(*symbols)
    assert covering_model(structure, models).name == name
    assert covering_model(structure, models[::-1]).name == name


def test_nothing_covers() -> None:
    with pytest.raises(InputError) as refused:
        covering_model(molecule("C", "Mo", "S"), (ORGANIC, TMD))
    said = str(refused.value)
    assert "No built-in model covers C, Mo, S" in said
    assert "organic knows C, H, N, O, Zn; tmd knows Mo, S, W" in said
    for way in ("hamgnn-tools model import", "--model DIR", "import-weights.md", "own-model.md"):
        assert way in said


def test_models_of_the_package() -> None:
    by_name = {model.name: model for model in built_in_models()}
    assert by_name["tmd"].elements == ("Mo", "S", "W")
    assert 0.1 < by_name["tmd"].hamiltonian_error < 10.0
    assert find_model("auto", molecule("W", "S")).name == "tmd"


def test_a_named_model_must_cover() -> None:
    with pytest.raises(InputError, match="tmd knows Mo, S, W but not Si"):
        find_model("tmd", molecule("Si", "S"))


def test_errors_in_one_line() -> None:
    errors = {
        "a bilayer": {"hamiltonian_mae_meV": {"all": 0.53, "onsite": 1.7}, "gap_mae_eV": 0.0028},
        "spectra alone": {"gap_mae_eV": 0.1},
        "molecules": {"hamiltonian_mae_meV": {"all": 2}},
    }
    assert measured_errors(errors) == (
        "Hamiltonian MAE 0.53 meV, gap error 3 meV on a bilayer; "
        "Hamiltonian MAE 2.00 meV on molecules"
    )
    assert measured_errors({}) == "no measured errors on record"


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "list"]) == 0
    printed = capsys.readouterr().out
    assert "tmd         Mo S W\n            Hamiltonian MAE" in printed
