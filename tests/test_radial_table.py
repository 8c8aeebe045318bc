"""Radial weights from splines against the perceptron itself."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from hamgnn_solve.core.network.radial import RadialPerceptron, radial_functions
from hamgnn_solve.core.network.radial_table import exact_weights, tabulate


@pytest.mark.parametrize("kinds", [1, 3])
def test_splines_are_the_perceptron(kinds: int) -> None:
    torch.manual_seed(1)
    perceptron = RadialPerceptron([16, 12, 12, 40], kinds).requires_grad_(False)
    columns = torch.randperm(40)
    radial = partial(radial_functions, cutoff=14.0, number=16, ends=False)
    rng = np.random.default_rng(2)
    distance_p = rng.uniform(2.3, 13.999, 500)
    present = None if kinds == 1 else np.array([0, 2])
    kind_p = None if present is None else rng.choice(present, 500)
    reach = (float(distance_p.min()), float(distance_p.max()))
    table = tabulate(perceptron, columns, radial, reach, present, 1e-7)
    assert table.error <= 1e-7
    double = perceptron.double()
    exact = exact_weights(double, columns, radial, distance_p, kind_p)
    found = table.weights(distance_p, kind_p)
    assert found.dtype == np.float32
    # Reached 1.2e-7 of the largest weight, which is rounding.
    assert np.abs(found - exact).max() < 5e-7 * np.abs(exact).max()


def test_weights_that_no_mesh_resolves_are_refused() -> None:
    perceptron = RadialPerceptron([16, 12, 40]).requires_grad_(False)
    radial = partial(radial_functions, cutoff=1e-3, number=16, ends=False)
    with pytest.raises(ValueError, match="too fast"):
        tabulate(perceptron, torch.arange(40), radial, (2.0, 12.0), None, 1e-7)
