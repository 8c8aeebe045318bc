"""Loss on band energies: values, gradients, degeneracy, gauge."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
import torch

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.network.graph import PairGraph
from hamgnn_solve.training.band_loss import BandLoss, energies_between, random_kpoints
from hamgnn_solve.training.dataset import TrainingStructure, bloch_sum

NORBITALS = 5
ALONG = np.array([1.0, 0.0, 0.0])


def chain(seed: int) -> TrainingStructure:
    """Return one atom with five orbitals in a chain, its neighbours and those after the next."""
    random = np.random.default_rng(seed)
    shift_qc = np.array([[0, 0, 0], [1, 0, 0], [-1, 0, 0], [2, 0, 0], [-2, 0, 0]])

    def blocks(decay: float) -> np.ndarray:
        values = np.zeros((5, NORBITALS, NORBITALS))
        onsite = random.normal(size=(NORBITALS, NORBITALS))
        values[0] = onsite + onsite.T
        for q in (1, 3):
            values[q] = decay**q * random.normal(size=(NORBITALS, NORBITALS))
            values[q + 1] = values[q].T
        return values

    overlap = 0.02 * blocks(0.5)
    overlap[0] += np.eye(NORBITALS)
    pairs = PairGraph(
        torch.zeros(4, dtype=torch.int64),
        torch.zeros(4, dtype=torch.int64),
        torch.from_numpy(3.0 * shift_qc[1:]),
    )
    element = torch.arange(NORBITALS**2).repeat(5)
    return TrainingStructure(
        name="chain",
        types=torch.zeros(1, dtype=torch.int64),
        pairs=pairs,
        reverse=torch.tensor([1, 0, 3, 2]),
        target=torch.from_numpy(blocks(0.5)),
        overlap=torch.from_numpy(overlap),
        present=torch.ones(5, NORBITALS, NORBITALS, dtype=torch.bool),
        element=element,
        shift_qc=torch.from_numpy(shift_qc.astype(float)),
        bands=[],
        norbitals=NORBITALS,
        filled_bands=2,
        periodic_c=np.array([True, False, False]),
    )


def test_energies_are_lapacks() -> None:
    one, k_c = chain(1), 0.17 * ALONG
    h, s = (bloch_sum(x, one, k_c) for x in (one.target, one.overlap))
    expected = sum(
        np.exp(2j * np.pi * r[0] * 0.17) * block
        for r, block in zip(one.shift_qc.numpy(), one.target.numpy(), strict=True)
    )
    np.testing.assert_allclose(h.numpy(), expected, atol=1e-14)
    found = energies_between(h, s.numpy(), 1, 4).numpy()
    # Reached 4e-16 Hartree.
    exact = scipy.linalg.eigvalsh(expected, s.numpy())[1:4]
    assert np.abs(found - exact).max() < 1e-13


def test_loss_is_the_mean_error_of_the_bands_at_the_gap() -> None:
    one, other = chain(1), chain(2)
    kpoints_kc = np.array([0.1 * ALONG, -0.37 * ALONG])
    errors = []
    for k_c in kpoints_kc:
        s = bloch_sum(one.overlap, one, k_c).numpy()
        energies = [
            scipy.linalg.eigvalsh(bloch_sum(x, one, k_c).numpy(), s)[1:3]
            for x in (other.target, one.target)
        ]
        errors.append(energies[0] - energies[1])
    plain = BandLoss(weight=1.0, states=1, aligned=False)(other.target, one, kpoints_kc)
    assert float(plain) == pytest.approx(np.abs(errors).mean(), abs=1e-13)
    moved = BandLoss(weight=1.0, states=1)(other.target, one, kpoints_kc)
    assert float(moved) == pytest.approx(np.abs(errors - np.mean(errors)).mean(), abs=1e-13)
    everything = BandLoss(weight=1.0, states=9)(one.target, one, kpoints_kc)
    assert float(everything) < 1e-14


def test_a_constant_potential_is_no_error() -> None:
    one = chain(3)
    moved = one.target + 0.4 * one.overlap
    kpoints_kc = np.array([0.21 * ALONG])
    assert float(BandLoss(weight=1.0, aligned=False)(moved, one, kpoints_kc)) == pytest.approx(0.4)
    assert float(BandLoss(weight=1.0)(moved, one, kpoints_kc)) < 1e-13


def test_gradient_is_that_of_finite_differences() -> None:
    one, other = chain(4), chain(5)
    kpoints_kc = np.array([0.31 * ALONG])
    loss = BandLoss(weight=1.0, states=2)
    predicted = other.target.clone().requires_grad_(True)
    loss(predicted, one, kpoints_kc).backward()
    torch.manual_seed(0)
    direction = torch.randn_like(predicted)
    # Hermitian: the reverse blocks move along.
    direction[0] += direction[0].clone().T
    direction[2], direction[4] = direction[1].T, direction[3].T
    step = 1e-5
    values = [float(loss(other.target + s * step * direction, one, kpoints_kc)) for s in (1, -1)]
    assert predicted.grad is not None
    found = float((predicted.grad * direction).sum())
    # Reached 1e-10 of 0.3.
    assert abs(found) > 0.05
    assert found == pytest.approx((values[0] - values[1]) / (2 * step), abs=1e-7)


def test_degenerate_bands_have_a_finite_gradient() -> None:
    """Of two equal energies only the sum has a derivative, that of perturbation theory."""
    random = np.random.default_rng(6)
    states, _ = np.linalg.qr(random.normal(size=(5, 5)) + 1j * random.normal(size=(5, 5)))
    matrix = torch.from_numpy(states @ np.diag([-2.0, -1.0, -1.0, 0.5, 2.0]) @ states.conj().T)
    matrix.requires_grad_(True)
    energies = energies_between(matrix, np.eye(5, dtype=complex), 1, 3)
    energies.sum().backward()
    assert matrix.grad is not None
    assert bool(torch.isfinite(torch.view_as_real(matrix.grad)).all())
    change = random.normal(size=(5, 5)) + 1j * random.normal(size=(5, 5))
    change += change.conj().T
    step = 1e-5
    sums = [
        scipy.linalg.eigvalsh(matrix.detach().numpy() + sign * step * change)[1:3].sum()
        for sign in (1, -1)
    ]
    found = float((matrix.grad.conj() * torch.from_numpy(change)).sum().real)
    # Reached 3e-10.
    assert found == pytest.approx((sums[0] - sums[1]) / (2 * step), abs=1e-7)


def test_kpoints_are_those_of_the_seeds() -> None:
    one = chain(7)
    first, same, other = (random_kpoints(one, 4, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, same)
    assert (first != other)[:, 0].all()
    assert (first[:, 1:] == 0).all()
    assert np.abs(first).max() <= 0.5
    molecule = replace(one, periodic_c=np.zeros(3, dtype=bool))
    assert random_kpoints(molecule, 4, np.random.default_rng(1)).tolist() == [[0.0, 0.0, 0.0]]


def test_impossible_settings() -> None:
    for settings in ({"weight": 0.0}, {"weight": 1.0, "states": 0}, {"weight": 1.0, "kpoints": 0}):
        with pytest.raises(InputError, match="bands"):
            BandLoss(**settings)
