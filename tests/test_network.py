"""The network against the published program's own numbers, and its symmetries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from network_models import crystal, largest_block_change, small_model, small_operator_model
from numpy.typing import NDArray

from hamgnn_solve.core.domain import Domain, serial_domain
from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.integrals.harmonics import rotation_of_shells
from hamgnn_solve.core.model import Model
from hamgnn_solve.core.network.frame import harmonics
from hamgnn_solve.core.network.hamgnn import HamiltonianNetwork
from hamgnn_solve.core.network.predict import fitting_chunk, predict
from hamgnn_solve.core.network.shells import ShellTable
from hamgnn_solve.core.operator import BlockOperator
from hamgnn_solve.core.pairs import PairList
from hamgnn_solve.core.structure import Structure

MODELS = pytest.mark.parametrize("build", [small_model, small_operator_model])


@pytest.fixture
def double() -> Iterator[None]:
    """Build networks in double precision."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def test_harmonics_follow_the_projects_order() -> None:
    vector = torch.tensor([[0.3, -0.5, 0.7]], dtype=torch.float64)
    y = harmonics(vector, 2)[0]
    x, yy, z = (vector / vector.norm())[0]
    expected_p = np.sqrt(3.0) * np.array([yy, z, x])
    expected_d = np.sqrt(15.0) * np.array(
        [x * yy, yy * z, (3 * z * z - 1) / np.sqrt(12.0), z * x, (x * x - yy * yy) / 2]
    )
    assert np.allclose(y[1:4], expected_p, atol=1e-12)
    assert np.allclose(y[4:9], expected_d, atol=1e-12)


@MODELS
@pytest.mark.usefixtures("double")
def test_rotation(build: Callable[[], Model]) -> None:
    model = build()
    structure = crystal()
    rotation = np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))[0]
    rotation *= np.linalg.det(rotation)
    turned = Structure(
        structure.symbols, structure.pos_ic @ rotation.T, structure.cell_cc @ rotation.T
    )
    before = predict(model, serial_domain(structure, model.basis))
    after = predict(model, serial_domain(turned, model.basis))
    size_i = before.norb_i
    shells = [model.basis.species[symbol].shell_l for symbol in structure.symbols]
    matrices = [rotation_of_shells(shell_l, rotation) for shell_l in shells]
    expected = BlockOperator.zeros(before.pairs, size_i)
    for p in range(len(before.pairs)):
        i, j = int(before.pairs.first_p[p]), int(before.pairs.second_p[p])
        expected.block(p)[...] = matrices[i] @ before.block(p) @ matrices[j].T
    place = after.pairs.position_of(before.pairs)
    scale = np.abs(before.values).max()
    assert np.abs(before.values - expected.values).max() > 0.01 * scale
    # Reached 3e-15 of the largest element.
    assert largest_block_change(expected, after, place) < 1e-13 * scale


@MODELS
@pytest.mark.usefixtures("double")
def test_translation_and_wrapping(build: Callable[[], Model]) -> None:
    model = build()
    structure = crystal()
    moved = Structure(
        structure.symbols, structure.pos_ic + np.array([0.3, -1.0, 2.0]), structure.cell_cc
    )
    before = predict(model, serial_domain(structure, model.basis))
    after = predict(model, serial_domain(moved, model.basis))
    place = after.pairs.position_of(before.pairs)
    assert largest_block_change(before, after, place) < 1e-13 * np.abs(before.values).max()


@MODELS
@pytest.mark.usefixtures("double")
def test_permutation_of_atoms(build: Callable[[], Model]) -> None:
    model = build()
    structure = crystal()
    order = np.array([2, 0, 3, 1])
    shuffled = Structure(
        tuple(structure.symbols[i] for i in order), structure.pos_ic[order], structure.cell_cc
    )
    before = predict(model, serial_domain(structure, model.basis))
    after = predict(model, serial_domain(shuffled, model.basis))
    new = np.argsort(order)
    pairs = before.pairs
    renamed = PairList(new[pairs.first_p], new[pairs.second_p], pairs.shift_pc, pairs.vector_pc)
    place = after.pairs.position_of(renamed)
    assert largest_block_change(before, after, place) < 1e-13 * np.abs(before.values).max()


@MODELS
@pytest.mark.usefixtures("double")
def test_hermitian(build: Callable[[], Model]) -> None:
    model = build()
    operator = predict(model, serial_domain(crystal(), model.basis))
    reverse = operator.pairs.position_of(operator.pairs.reversed())
    assert (reverse >= 0).all()
    for p in range(len(operator.pairs)):
        difference = operator.block(p) - operator.block(int(reverse[p])).T
        assert np.abs(difference).max() < 1e-14 * np.abs(operator.values).max()


@MODELS
@pytest.mark.usefixtures("double")
def test_supercell_folds_back(build: Callable[[], Model]) -> None:
    model = build()
    structure = crystal()
    doubled = Structure(
        structure.symbols * 2,
        np.concatenate([structure.pos_ic, structure.pos_ic + structure.cell_cc[0]]),
        structure.cell_cc * np.array([[2.0], [1.0], [1.0]]),
    )
    small = predict(model, serial_domain(structure, model.basis))
    large = predict(model, serial_domain(doubled, model.basis))
    natoms = structure.natoms
    pairs = large.pairs
    # Cell of an atom of the supercell in units of the small cell.
    cell_p = 2 * pairs.shift_pc[:, 0] + pairs.second_p // natoms - pairs.first_p // natoms
    shift_pc = np.column_stack([cell_p, pairs.shift_pc[:, 1:]])
    folded = PairList(pairs.first_p % natoms, pairs.second_p % natoms, shift_pc, pairs.vector_pc)
    place = small.pairs.position_of(folded)
    assert largest_block_change(large, small, place) < 1e-13 * np.abs(small.values).max()


@MODELS
def test_chunks_change_nothing(build: Callable[[], Model]) -> None:
    model = build()
    domain = serial_domain(crystal(), model.basis)
    whole = predict(model, domain, chunk_size=10**6)
    parts = predict(model, domain, chunk_size=37)
    # Single precision; reached 4e-7 of the largest element.
    assert np.abs(whole.values - parts.values).max() < 2e-6 * np.abs(whole.values).max()
    assert np.array_equal(parts.values, predict(model, domain, chunk_size=37).values)


@pytest.mark.usefixtures("double")
def test_message_cutoff_equal_to_cutoff_is_the_published_network() -> None:
    plain = small_model(message_cutoff=None)
    same = small_model(message_cutoff=22.0)
    domain = serial_domain(crystal(), plain.basis)
    assert np.array_equal(predict(plain, domain).values, predict(same, domain).values)


@pytest.mark.usefixtures("double")
def test_element_ends_where_its_orbitals_part() -> None:
    model = small_model()
    operator = predict(model, serial_domain(crystal(), model.basis))
    shells = model.basis.species["Mo"].shells
    cutoff_m = np.array([s.cutoff for s in shells for _ in range(2 * s.l + 1)])
    chosen = np.flatnonzero((operator.pairs.first_p == 0) & (operator.pairs.second_p == 0))
    apart = 0
    for p in chosen:
        distance = operator.pairs.distance_p[p]
        beyond = cutoff_m[:, None] + cutoff_m[None, :] <= distance
        apart += int(beyond.sum())
        assert (np.abs(operator.block(int(p))[beyond]) < 1e-15).all()  # 2e-20 by rounding
        assert np.abs(operator.block(int(p))[~beyond]).min() > 0.0 or distance == 0.0
    assert apart > 100


@MODELS
@pytest.mark.usefixtures("double")
def test_two_domains_agree_with_one(build: Callable[[], Model]) -> None:
    """Each half of the atoms, fed with the other half's features, gives its rows of the whole."""
    model = build()
    whole_domain = serial_domain(crystal(), model.basis)
    exchanged: list[torch.Tensor] = []

    def record(features: torch.Tensor) -> torch.Tensor:
        exchanged.append(features)
        return features

    whole = predict(model, replace(whole_domain, exchange=record))
    assert len(exchanged) == model.network.config.layers
    for owned in (np.array([0, 2]), np.array([1, 3])):
        ghosts = np.setdiff1d(np.arange(4), owned)
        layers = iter(exchanged)

        def exchange(
            features: torch.Tensor,
            owned: NDArray[np.int64] = owned,
            ghosts: NDArray[np.int64] = ghosts,
            layers: Iterator[torch.Tensor] = layers,
        ) -> torch.Tensor:
            everything = next(layers)
            assert torch.allclose(features, everything[owned], atol=1e-12)
            return torch.cat([features, everything[ghosts]])

        pairs = whole_domain.pairs
        mine = pairs.select(np.isin(pairs.first_p, owned))
        half = predict(
            model,
            Domain(whole_domain.structure, model.basis, owned, ghosts, mine, exchange),
        )
        place = whole.pairs.position_of(half.pairs)
        assert largest_block_change(half, whole, place) < 1e-13 * np.abs(whole.values).max()


def test_shells_fill_the_table() -> None:
    table = ShellTable((2, 2, 2))
    assert table.norbitals == 18
    # Mo.6 has s d s d p: its d shells stand after both rows of p.
    slots = table.slots((0, 2, 0, 2, 1))
    assert slots.tolist() == [0, *range(8, 13), 1, *range(13, 18), 2, 3, 4]
    with pytest.raises(ValueError, match="do not fit"):
        table.slots((0, 0, 0))


def test_irreps_too_poor_for_the_blocks_are_refused() -> None:
    config = small_model().network.config
    with pytest.raises(ValueError, match="blocks need features"):
        HamiltonianNetwork(replace(config, irreps="4x0e+3x1o+3x2e"))


@pytest.mark.usefixtures("double")
def test_inversion() -> None:
    model = small_model()
    structure = crystal()
    inverted = Structure(structure.symbols, -structure.pos_ic, structure.cell_cc)
    before = predict(model, serial_domain(structure, model.basis))
    after = predict(model, serial_domain(inverted, model.basis))
    pairs = before.pairs
    place = after.pairs.position_of(
        PairList(pairs.first_p, pairs.second_p, -pairs.shift_pc, -pairs.vector_pc)
    )
    assert (place >= 0).all()
    species = model.basis.species
    largest = 0.0
    for p in range(len(pairs)):
        i, j = int(pairs.first_p[p]), int(pairs.second_p[p])
        rows, columns = (
            np.concatenate(
                [np.full(2 * l + 1, (-1.0) ** l) for l in species[structure.symbols[a]].shell_l]  # noqa: E741
            )
            for a in (i, j)
        )
        expected = rows[:, None] * before.block(p) * columns
        largest = max(largest, np.abs(after.block(int(place[p])) - expected).max())
    # Odd elements are there to be turned round.
    assert largest < 1e-13 * np.abs(before.values).max()


@pytest.mark.usefixtures("double")
def test_what_lies_beyond_the_receptive_field_does_not_matter() -> None:
    """Two layers of 9 Bohr and an orbital pair: 40 Bohr away the atoms may be cut off."""
    model = small_model(reference_radial=0)
    cell = np.diag([120.0, 14.0, 14.0])
    x = np.arange(16) * 7.0
    y = np.where(np.arange(16) % 2 == 0, 1.0, 2.5)
    positions = np.column_stack([x, y, np.full(16, 3.0)])
    symbols = ("Mo", "S", "W", "S") * 4
    whole = Structure(symbols, positions, cell)
    cut = Structure(symbols[:-3], positions[:-3], cell)
    large = predict(model, serial_domain(whole, model.basis))
    small = predict(model, serial_domain(cut, model.basis))
    scale = np.abs(large.values).max()
    place = small.pairs.position_of(large.pairs)
    pairs = large.pairs
    # The cut begins at x = 91; atoms 4 to 6 lie at 28 to 42, further than 40 Bohr, also across the
    # cell's boundary (a gap of 15 Bohr, then x = 0).
    far = np.isin(pairs.first_p, [4, 5, 6]) & np.isin(pairs.second_p, [4, 5, 6])
    near = np.isin(pairs.first_p, [11, 12]) & np.isin(pairs.second_p, [11, 12])
    assert far.sum() > 6
    changes = {
        name: max(
            float(np.abs(large.block(int(p)) - small.block(int(place[p]))).max())
            for p in np.flatnonzero(chosen)
        )
        for name, chosen in (("far", far), ("near", near))
    }
    assert changes["far"] < 1e-13 * scale
    assert changes["near"] > 1e-3 * scale


def test_too_little_memory_is_refused() -> None:
    model = small_model()
    domain = serial_domain(crystal(), model.basis)
    with pytest.raises(InputError, match="start more ranks or allow more"):
        fitting_chunk(model, domain, memory=1e6)
    assert fitting_chunk(model, domain, memory=1e12) == fitting_chunk(model, domain)
