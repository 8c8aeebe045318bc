"""The overlap matrix in the built-in basis."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from hamgnn_solve.core.basis.gpaw_data import built_in_basis
from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.integrals import separable
from hamgnn_solve.core.integrals.harmonics import rotation_of_shells
from hamgnn_solve.core.integrals.overlap import overlap
from hamgnn_solve.core.operator import BlockOperator
from hamgnn_solve.core.pairs import PairList
from hamgnn_solve.core.structure import Structure
from hamgnn_solve.core.units import ANGSTROM_PER_BOHR

NAMES = {"Mo": "Mo.6", "W": "W.6", "S": "S"}
BASIS = built_in_basis(NAMES)


def monolayer() -> Structure:
    """MoS2, with lattice constant 3.18 and sulphur 1.56 Angstrom off the plane."""
    a = 3.18
    cell = np.array([[a, 0, 0], [-a / 2, a * np.sqrt(3) / 2, 0], [0, 0, 20.0]])
    fractional = np.array([[0, 0, 0.5], [1 / 3, 2 / 3, 0.578], [1 / 3, 2 / 3, 0.422]])
    return Structure(
        ("Mo", "S", "S"), fractional @ cell / ANGSTROM_PER_BOHR, cell / ANGSTROM_PER_BOHR
    )


def bilayer() -> Structure:
    """MoS2 on WS2, every atom out of its place."""
    layer = monolayer()
    lift = np.array([0, 0, 6.2 / ANGSTROM_PER_BOHR])
    noise = np.random.default_rng(5).normal(size=(6, 3)) * 0.1
    return Structure(
        ("Mo", "S", "S", "W", "S", "S"),
        np.concatenate([layer.pos_ic, layer.pos_ic + lift]) + noise,
        layer.cell_cc + np.diag([0, 0, lift[2]]),
    )


def all_rows(structure: Structure) -> NDArray[np.int64]:
    return np.arange(structure.natoms)


def largest_difference(one: BlockOperator, other: BlockOperator, shift: PairList) -> float:
    """Compare blocks of `one` with those of `other` at the places of `shift`, absent ones zero."""
    place = other.pairs.position_of(shift)
    return max(
        float(np.abs(one.block(p) - (other.block(q) if q >= 0 else 0.0)).max())
        for p, q in enumerate(place)
    )


def tail(operator: BlockOperator, structure: Structure) -> NDArray[np.bool_]:
    cutoff_i = BASIS.cutoff_i(structure)
    pairs = operator.pairs
    return pairs.distance_p > cutoff_i[pairs.first_p] + cutoff_i[pairs.second_p]


def test_bilayer_has_the_overlap_of_gpaw() -> None:
    from gpaw_oracle import gpaw_overlap

    structure = bilayer()
    ours = overlap(structure, BASIS, all_rows(structure))
    beyond = tail(ours, structure)
    chosen = np.concatenate(
        [
            np.flatnonzero(ours.pairs.distance_p < 5.5)[::2],
            np.flatnonzero(~beyond)[::25],
            np.flatnonzero(beyond)[::25],
        ]
    )
    oracle = gpaw_overlap(structure, NAMES, ours.pairs.select(chosen))
    error = np.array(
        [np.abs(ours.block(p) - block).max() for p, block in zip(chosen, oracle, strict=True)]
    )
    size = max(np.abs(block).max() for block in oracle[-int(beyond[chosen].sum()) :])
    assert 1e-8 < size < 1e-5  # the tail is there
    assert error[~beyond[chosen]].max() < 3e-7  # reached: 1.3e-7
    assert error[beyond[chosen]].max() < 1e-9  # reached: 3e-10 of elements up to 1e-7


def test_molecular_elements_have_the_overlap_of_gpaw() -> None:
    from gpaw_oracle import gpaw_overlap

    symbols = ("C", "H", "N", "O", "Zn", "Se")
    pos_ic = np.array(
        [[0, 0, 0], [1.1, 0.1, 0], [0.2, 1.3, 0.3], [2.4, 1.1, 0.4], [0.5, 0.4, 2], [2.6, 2.5, 2.5]]
    )
    structure = Structure(
        symbols, pos_ic / ANGSTROM_PER_BOHR, np.diag([14.0, 15.0, 16.0]) / ANGSTROM_PER_BOHR
    )
    names = {symbol: symbol for symbol in symbols}
    ours = overlap(structure, built_in_basis(names), all_rows(structure))
    near = np.flatnonzero(ours.pairs.distance_p < 12.0)
    oracle = gpaw_overlap(structure, names, ours.pairs.select(near))
    error = max(np.abs(ours.block(p) - block).max() for p, block in zip(near, oracle, strict=True))
    assert error < 1e-6  # reached: 4.8e-7


def test_reverse_pair_holds_the_transpose() -> None:
    structure = bilayer()
    ours = overlap(structure, BASIS, all_rows(structure))
    # Another process computes the reverse pair, from other centres in another order.
    halves = [overlap(structure, BASIS, rows) for rows in (np.arange(3), np.arange(3, 6))]
    values = np.concatenate([half.values for half in halves])
    back = ours.pairs.position_of(ours.pairs.reversed())
    assert (back >= 0).all()
    whole = BlockOperator(ours.pairs, ours.norb_i, values)
    error = max(np.abs(whole.block(p) - whole.block(q).T).max() for p, q in enumerate(back))
    assert error < 1e-15  # reached: 2e-16


def test_rows_of_some_atoms_are_those_of_all() -> None:
    structure = bilayer()
    every = overlap(structure, BASIS, all_rows(structure))
    some = overlap(structure, BASIS, np.array([4, 1]))
    chosen = np.isin(every.pairs.first_p, [1, 4])
    assert (every.pairs.select(chosen).position_of(some.pairs) == np.arange(len(some.pairs))).all()
    assert len(some.pairs) == chosen.sum()
    assert largest_difference(some, every, some.pairs) < 1e-15  # reached: 0


def test_no_rows_give_no_blocks() -> None:
    structure = monolayer()
    empty = overlap(structure, BASIS, np.zeros(0, dtype=np.int64))
    assert len(empty.pairs) == 0
    assert empty.values.shape == (0,)


def test_translation_changes_nothing() -> None:
    structure = bilayer()
    moved = Structure(
        structure.symbols, structure.pos_ic + np.array([0.7, -3.1, 11.0]), structure.cell_cc
    )
    one, other = (overlap(x, BASIS, all_rows(structure)) for x in (structure, moved))
    assert largest_difference(one, other, one.pairs) < 2e-15  # reached: 4e-16


def test_moving_an_atom_by_a_lattice_vector_relabels_pairs() -> None:
    structure = bilayer()
    pos_ic = structure.pos_ic.copy()
    pos_ic[2] += structure.cell_cc[0]
    moved = overlap(Structure(structure.symbols, pos_ic, structure.cell_cc), BASIS, np.arange(6))
    ours = overlap(structure, BASIS, np.arange(6))
    step = np.zeros((6, 3), dtype=np.int64)
    step[2, 0] = 1
    pairs = ours.pairs
    shift = pairs.shift_pc + step[pairs.first_p] - step[pairs.second_p]
    relabelled = PairList(pairs.first_p, pairs.second_p, shift, pairs.vector_pc)
    assert largest_difference(ours, moved, relabelled) < 1e-15  # reached: 1e-16


def test_supercell_holds_the_blocks_of_the_cell() -> None:
    cell = monolayer()
    double = Structure(
        cell.symbols * 2,
        np.concatenate([cell.pos_ic, cell.pos_ic + cell.cell_cc[0]]),
        cell.cell_cc * np.array([[2], [1], [1]]),
    )
    one, two = overlap(cell, BASIS, np.arange(3)), overlap(double, BASIS, np.arange(6))
    pairs = one.pairs
    shift = pairs.shift_pc.copy()
    shift[:, 0], copy = np.divmod(shift[:, 0], 2)
    folded = PairList(pairs.first_p, pairs.second_p + 3 * copy, shift, pairs.vector_pc)
    assert 2 * len(one.pairs) == len(two.pairs)
    assert largest_difference(one, two, folded) < 2e-15  # reached: 7e-16


def test_overlap_turns_with_the_structure() -> None:

    structure = bilayer()
    matrix = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0]
    turned = Structure(structure.symbols, structure.pos_ic @ matrix.T, structure.cell_cc @ matrix.T)
    rows = np.array([0])
    one, other = overlap(structure, BASIS, rows), overlap(turned, BASIS, rows)
    place = other.pairs.position_of(one.pairs)
    turn = [rotation_of_shells(BASIS.species[s].shell_l, matrix) for s in structure.symbols]
    error = max(
        np.abs(turn[0] @ one.block(p) @ turn[one.pairs.second_p[p]].T - other.block(q)).max()
        for p, q in enumerate(place)
    )
    assert error < 1e-14  # reached: 2e-15


@pytest.mark.parametrize(
    ("k_c", "expected"),
    [((0.0, 0.0, 0.0), 1.350e-3), ((1 / 3, 1 / 3, 0.0), 3.12e-4), ((0.5, 0.0, 0.0), 3.27e-4)],
)
def test_overlap_is_positive_definite(k_c: tuple[float, float, float], expected: float) -> None:
    structure = monolayer()
    ours = overlap(structure, BASIS, all_rows(structure))
    start = np.concatenate([[0], np.cumsum(ours.norb_i)])
    matrix = np.zeros((start[-1], start[-1]), dtype=complex)
    for p in range(len(ours.pairs)):
        i, j = ours.pairs.first_p[p], ours.pairs.second_p[p]
        phase = np.exp(2j * np.pi * ours.pairs.shift_pc[p] @ k_c)
        matrix[start[i] : start[i + 1], start[j] : start[j + 1]] += phase * ours.block(p)
    np.testing.assert_allclose(matrix, matrix.conj().T, atol=1e-13)
    smallest = np.linalg.eigvalsh(matrix)[0]
    # The values of this code; S is nearly singular, so lost tails or wrong signs show here first.
    assert smallest == pytest.approx(expected, rel=0.01)


def test_tail_couples_through_third_atoms() -> None:
    structure = monolayer()
    ours = overlap(structure, BASIS, all_rows(structure))
    beyond = np.flatnonzero(tail(ours, structure))
    size = np.array([np.abs(ours.block(p)).max() for p in beyond])
    assert size.min() >= 1e-12
    assert 1e-8 < size.max() < 1e-6  # 3e-7


def test_native_and_numpy_sums_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    if separable._native is None:
        pytest.skip("the compiled module is not built")
    structure = bilayer()
    compiled = overlap(structure, BASIS, np.array([0, 4, 5]))
    monkeypatch.setattr(separable, "_native", None)
    plain = overlap(structure, BASIS, np.array([0, 4, 5]))
    assert (plain.pairs.position_of(compiled.pairs) == np.arange(len(plain.pairs))).all()
    np.testing.assert_allclose(compiled.values, plain.values, atol=3e-15)  # reached: 7e-16


def test_element_without_orbitals_is_refused() -> None:
    structure = monolayer()
    with pytest.raises(InputError, match="knows Mo but not S"):
        overlap(structure, built_in_basis({"Mo": "Mo.6"}), all_rows(structure))
