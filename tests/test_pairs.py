"""Pair lists against a count by hand, and their symmetries."""

from __future__ import annotations

import numpy as np
import pytest

from hamgnn_solve.core.operator import BlockOperator, dense_matrix, linear_combination
from hamgnn_solve.core.pairs import find_pairs, onsite_pairs
from hamgnn_solve.core.structure import Structure


@pytest.fixture
def skewed() -> Structure:
    """Five atoms, one of them outside the cell, in a cell smaller than their reach."""
    generator = np.random.default_rng(3)
    cell = np.array([[5.0, 0.0, 0.0], [1.9, 4.6, 0.0], [-0.7, 1.1, 6.0]])
    fractions = generator.random((5, 3)) * 0.8 + np.arange(5)[:, None] * 0.2
    return Structure(("H", "O", "H", "C", "O"), fractions @ cell, cell)


REACH = np.array([2.0, 3.0, 2.0, 3.5, 3.0])


def all_images(structure: Structure) -> set[tuple[int, ...]]:
    """List pairs by testing every image within four cells."""
    found = set()
    shifts = np.stack(np.meshgrid(*[np.arange(-4, 5)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    for i in range(structure.natoms):
        for j in range(structure.natoms):
            d = structure.pos_ic[j] + shifts @ structure.cell_cc - structure.pos_ic[i]
            near = np.linalg.norm(d, axis=1) <= REACH[i] + REACH[j]
            for shift in shifts[near]:
                if i != j or shift.any():
                    found.add((i, j, *shift.tolist()))
    return found


def test_pairs_are_those_of_a_search_over_all_images(skewed: Structure) -> None:
    pairs = find_pairs(skewed, REACH)
    keys = np.column_stack([pairs.first_p, pairs.second_p, pairs.shift_pc])
    assert {tuple(key) for key in keys.tolist()} == all_images(skewed)
    assert len(pairs) == len(all_images(skewed)) > 100
    assert keys.tolist() == sorted(keys.tolist())


def test_every_pair_has_its_reverse(skewed: Structure) -> None:
    pairs = find_pairs(skewed, REACH)
    back = pairs.position_of(pairs.reversed())
    assert (back >= 0).all()
    assert np.array_equal(back[back], np.arange(len(pairs)))
    # Rounding of tau_j + R - tau_i alone: reached 9e-16.
    assert np.abs(pairs.vector_pc + pairs.vector_pc[back]).max() < 4e-15


def test_absent_pairs_are_not_found(skewed: Structure) -> None:
    pairs = find_pairs(skewed, REACH)
    assert (pairs.position_of(onsite_pairs(np.arange(5))) == -1).all()
    few = pairs.select(np.arange(0, len(pairs), 7))
    assert np.array_equal(pairs.position_of(few), np.arange(0, len(pairs), 7))


def test_rows_of_some_atoms_are_rows_of_all(skewed: Structure) -> None:
    everything = find_pairs(skewed, REACH)
    rows = find_pairs(skewed, REACH, np.array([1, 3]))
    expected = everything.select(np.isin(everything.first_p, [1, 3]))
    assert np.array_equal(rows.shift_pc, expected.shift_pc)
    assert np.array_equal(rows.vector_pc, expected.vector_pc)
    assert len(find_pairs(skewed, REACH, np.zeros(0, dtype=np.int64))) == 0


def test_blocks_are_written_where_they_are_read(skewed: Structure) -> None:
    norb_i = np.array([1, 4, 1, 4, 4])
    operator = BlockOperator.zeros(find_pairs(skewed, REACH), norb_i)
    generator = np.random.default_rng(0)
    written = {}
    for chosen, rows, columns in operator.groups():
        blocks = generator.random((len(chosen), rows, columns))
        operator.set_blocks(chosen, blocks)
        written.update(dict(zip(chosen.tolist(), blocks, strict=True)))
    assert sorted(written) == list(range(len(operator.pairs)))
    assert all(np.array_equal(operator.block(p), block) for p, block in written.items())
    assert (operator.values != 0).all()


def test_wrong_number_of_values_is_refused(skewed: Structure) -> None:
    with pytest.raises(ValueError, match="blocks of"):
        BlockOperator(find_pairs(skewed, REACH), np.array([1, 4, 1, 4, 4]), np.zeros(3))


def test_operators_on_different_pairs_are_added(skewed: Structure) -> None:
    generator = np.random.default_rng(3)
    norb_i = np.array([3, 1, 2, 1, 4])
    operators = []
    for reach, step in ((0.6, 1), (1.0, 3)):
        pairs = find_pairs(skewed, reach * REACH)
        pairs = pairs.select(np.arange(0, len(pairs), step))
        zeros = BlockOperator.zeros(pairs, norb_i)
        values = generator.standard_normal(zeros.values.shape)
        operators.append(BlockOperator(pairs, norb_i, values))
    total = linear_combination((1.0, -2.5), operators)
    assert len(total.pairs) > max(len(x.pairs) for x in operators)
    keys = np.column_stack([total.pairs.first_p, total.pairs.second_p, total.pairs.shift_pc])
    assert keys.tolist() == sorted(keys.tolist())
    for k_c in ((0.0, 0.0, 0.0), (0.1, -0.3, 0.45)):
        first, second = (dense_matrix(x, k_c) for x in operators)
        assert np.abs(dense_matrix(total, k_c) - (first - 2.5 * second)).max() < 1e-13
