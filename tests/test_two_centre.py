"""Harmonics, Gaunt coefficients and two-centre integrals."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from hamgnn_solve.core.basis.gpaw_data import read_species
from hamgnn_solve.core.basis.species import RadialFunction
from hamgnn_solve.core.integrals.gaunt import gaunt
from hamgnn_solve.core.integrals.harmonics import real_harmonics, rotation_of_shells, unit_vectors
from hamgnn_solve.core.integrals.two_centre import two_centre_blocks

RANDOM = np.random.default_rng(11)


def random_units(count: int) -> NDArray[np.float64]:
    return unit_vectors(RANDOM.normal(size=(count, 3)))


def gaussian(exponent: float, angular: int) -> RadialFunction:
    radius_g = np.linspace(0.0, 9.0, 1200)
    return RadialFunction(angular, radius_g, np.exp(-exponent * radius_g**2))


def test_harmonics_are_orthonormal() -> None:
    cosine, weight = np.polynomial.legendre.leggauss(8)
    phi = 2 * np.pi * np.arange(14) / 14
    sine = np.sqrt(1 - cosine**2)
    unit_gc = np.stack(
        [np.outer(sine, np.cos(phi)), np.outer(sine, np.sin(phi)), np.outer(cosine, phi**0)], -1
    ).reshape(-1, 3)
    values = np.concatenate(real_harmonics(6, unit_gc), axis=1)
    product = values.T @ (np.repeat(weight * 2 * np.pi / 14, 14)[:, None] * values)
    np.testing.assert_allclose(product, np.eye(49), atol=1e-13)  # reached: 2e-15


def test_harmonics_follow_the_convention() -> None:
    unit_pc = random_units(20)
    x, y, z = unit_pc.T
    _, p, d, f = real_harmonics(3, unit_pc)
    np.testing.assert_allclose(p, np.sqrt(3 / (4 * np.pi)) * np.stack([y, z, x], 1), atol=1e-14)
    t = np.sqrt(3.0)
    expected = np.stack([t * x * y, t * y * z, 1.5 * z**2 - 0.5, t * x * z, t / 2 * (x**2 - y**2)])
    np.testing.assert_allclose(d, np.sqrt(5 / (4 * np.pi)) * expected.T, atol=1e-14)
    first = np.sqrt(35 / (32 * np.pi)) * y * (3 * x**2 - y**2)
    np.testing.assert_allclose(f[:, 0], first, atol=1e-14)
    middle = np.sqrt(21 / (32 * np.pi)) * y * (5 * z**2 - 1)
    np.testing.assert_allclose(f[:, 2], middle, atol=1e-14)


@pytest.mark.parametrize(("l1", "l2"), [(0, 2), (1, 1), (2, 1), (2, 2), (3, 2), (3, 3)])
def test_gaunt_expands_a_product(l1: int, l2: int) -> None:
    unit_pc = random_units(30)
    values = real_harmonics(6, unit_pc)
    product = np.einsum("pa,pb->pab", values[l1], values[l2])
    expanded = sum(
        np.einsum("pc,abc->pab", values[l3], gaunt(l1, l2, l3))
        for l3 in range(abs(l1 - l2), l1 + l2 + 1, 2)
    )
    np.testing.assert_allclose(expanded, product, atol=1e-13)  # reached: 2e-15
    assert not gaunt(l1, l2, l1 + l2 + 1).any()


def test_gaussians_overlap_as_the_formula_says() -> None:
    a, b = 0.9, 0.6
    vector_pc = np.concatenate([np.zeros((1, 3)), RANDOM.normal(size=(30, 3)) * 2])
    blocks = two_centre_blocks(
        (gaussian(a, 0), gaussian(a, 1)), (gaussian(b, 1), gaussian(b, 0)), vector_pc
    )
    mu, r2 = a * b / (a + b), (vector_pc**2).sum(axis=1)
    bare = (np.pi / (a + b)) ** 1.5 * np.exp(-mu * r2)
    yzx = vector_pc[:, [1, 2, 0]]
    # x g_a = -(1/2a) d/dA g_a and so on: differentiate the s-s overlap.
    ss = bare / (4 * np.pi)
    sp = -np.sqrt(3) / (4 * np.pi) * (mu / b * bare)[:, None] * yzx
    ps = np.sqrt(3) / (4 * np.pi) * (mu / a * bare)[:, None] * yzx
    pp = 2 * mu * np.eye(3) - 4 * mu**2 * yzx[:, :, None] * yzx[:, None, :]
    pp *= (3 / (4 * np.pi) * bare / (4 * a * b))[:, None, None]
    expected = np.zeros((len(vector_pc), 4, 4))
    expected[:, 0, 3] = ss
    expected[:, 0, :3] = sp
    expected[:, 1:, 3] = ps
    expected[:, 1:, :3] = pp
    np.testing.assert_allclose(blocks, expected, atol=1e-8)  # reached: 2.4e-9


def test_kinetic_energy_of_gaussians() -> None:
    a, b = 0.9, 0.6
    vector_pc = np.concatenate([np.zeros((1, 3)), RANDOM.normal(size=(30, 3)) * 2])
    blocks = two_centre_blocks((gaussian(a, 0),), (gaussian(b, 0),), vector_pc, "kinetic")
    mu, r2 = a * b / (a + b), (vector_pc**2).sum(axis=1)
    bare = (np.pi / (a + b)) ** 1.5 * np.exp(-mu * r2) / (4 * np.pi)
    expected = mu * (3 - 2 * mu * r2) * bare
    np.testing.assert_allclose(blocks[:, 0, 0], expected, atol=1e-8)  # reached: 1.5e-9


def test_blocks_turn_with_the_vector() -> None:
    first, second = read_species("Mo.6"), read_species("S")
    matrix = np.linalg.qr(RANDOM.normal(size=(3, 3)))[0]
    matrix *= -np.linalg.det(matrix)  # an improper rotation
    vector_pc = random_units(25) * np.linspace(1.5, 17.0, 25)[:, None]
    straight = two_centre_blocks(first.shells, second.shells, vector_pc)
    turned = two_centre_blocks(first.shells, second.shells, vector_pc @ matrix.T)
    left = rotation_of_shells(first.shell_l, matrix)
    right = rotation_of_shells(second.shell_l, matrix)
    np.testing.assert_allclose(turned, left @ straight @ right.T, atol=1e-14)  # reached: 6e-16


def test_reverse_vector_gives_the_transpose() -> None:
    first, second = read_species("W.6").shells, read_species("S").shells
    vector_pc = random_units(25) * np.linspace(1.5, 17.0, 25)[:, None]
    there = two_centre_blocks(first, second, vector_pc)
    back = two_centre_blocks(second, first, -vector_pc)
    np.testing.assert_allclose(back, there.transpose(0, 2, 1), atol=1e-15)  # reached: 1e-16


def test_blocks_vanish_beyond_the_reach() -> None:
    first, second = read_species("H").shells, read_species("S").shells
    reach = 6.421875 + 6.9375
    blocks = two_centre_blocks(first, second, np.array([[0, 0, reach], [40.0, 0, 0]]))
    assert not blocks.any()


def pieces(knots: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return points and weights of Gauss-Legendre integration between every two knots."""
    node, weight = np.polynomial.legendre.leggauss(6)
    half = np.diff(knots)[:, None] / 2
    return (knots[:-1, None] + half * (node + 1)).ravel(), (half * weight).ravel()


def direct_integral(first: RadialFunction, second: RadialFunction, distance: float) -> float:
    """Integrate the product of the m = 0 functions of two atoms, one above the other, in space.

    With r and s the distances from both atoms: (2 pi / R) times the integral of r s dr ds, from
    knot to knot of both splines.
    """

    def harmonic(angular: int, cosine: NDArray[np.float64]) -> NDArray[np.float64]:
        up_pc = np.stack([np.sqrt(1 - cosine**2), 0 * cosine, cosine], 1)
        return real_harmonics(angular, up_pc)[angular][:, angular]

    # Points of the first sphere that touch a knot of the second are knots in r, too.
    knots = np.concatenate([first.radius_g, np.abs(distance - second.radius_g), [distance]])
    result = 0.0
    for r, weight in zip(*pieces(np.unique(knots[knots <= first.cutoff])), strict=True):
        ends = np.clip([abs(r - distance), r + distance], 0.0, second.cutoff)
        inside = (second.radius_g > ends[0]) & (second.radius_g < ends[1])
        s, weight_s = pieces(np.concatenate([ends[:1], second.radius_g[inside], ends[1:]]))
        height = np.clip((r**2 + distance**2 - s**2) / (2 * r * distance), -1, 1) * r
        angles = harmonic(first.l, height / r) * harmonic(
            second.l, np.clip((height - distance) / s, -1, 1)
        )
        result += weight * r * float(first(r) * np.sum(weight_s * s * second(s) * angles))
    return 2 * np.pi / distance * result


@pytest.mark.parametrize(("projector", "shell"), [(2, 1), (5, 0), (5, 1), (5, 4)])
def test_projections_are_those_of_a_direct_quadrature(projector: int, shell: int) -> None:
    zinc, oxygen = read_species("Zn").projectors[projector], read_species("O").shells[shell]
    distance = 3.43  # between bonded zinc and oxygen
    block = two_centre_blocks((zinc,), (oxygen,), np.array([[0.0, 0.0, distance]]))[0]
    # Reached: 2.5e-8 of elements up to 0.45.
    assert block[zinc.l, oxygen.l] == pytest.approx(
        direct_integral(zinc, oxygen, distance), abs=7e-8
    )


@pytest.mark.parametrize(
    ("names", "tolerances"),
    [
        # Reached (overlap, kinetic in Hartree, projectors): 1.9e-9, 1.1e-8, 1.9e-8.
        (("Mo.6", "W.6", "S"), (6e-9, 4e-8, 6e-8)),
        # Reached: 1.8e-8, 3.6e-7, 8.2e-8; with GPAW's own tables 6e-6 in the projectors of zinc.
        (("H", "C", "O", "Zn"), (6e-8, 1e-6, 3e-7)),
    ],
)
def test_integrals_are_those_of_gpaw(
    names: tuple[str, ...], tolerances: tuple[float, float, float]
) -> None:
    pytest.importorskip("gpaw")
    from gpaw_oracle import expansions

    from hamgnn_solve.training.gpaw_tables import fine_tables

    with fine_tables():
        tci, evaluate, _ = expansions(names)
    species = [read_species(name) for name in names]
    errors = np.zeros(3)
    for a, first in enumerate(species):
        for b, second in enumerate(species):
            vector_pc = random_units(7) * np.array([[2.0, 2.8, 3.9, 5.2, 7.3, 9.1, 11.0]]).T
            vector_pc = vector_pc[: 7 if first.cutoff + second.cutoff > 11.0 else 5]
            triples = (
                (tci.O_expansions, two_centre_blocks(first.shells, second.shells, vector_pc)),
                (
                    tci.T_expansions,
                    two_centre_blocks(first.shells, second.shells, vector_pc, "kinetic"),
                ),
                (
                    tci.P_expansions,
                    two_centre_blocks(first.projectors, second.shells, vector_pc),
                ),
            )
            for n, (oracle, ours) in enumerate(triples):
                reach = (first.projector_cutoff if n == 2 else first.cutoff) + second.cutoff
                for vector, block in zip(vector_pc, ours, strict=True):
                    if np.linalg.norm(vector) < reach:
                        error = np.abs(block - evaluate(oracle, a, b, vector)).max()
                        errors[n] = max(errors[n], error)
    assert (errors < tolerances).all(), errors
