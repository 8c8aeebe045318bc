"""Rotation of features into the frame of a pair, whose polar axis points at the neighbour.

There only Y_l0 of the direction is left, so a tensor product with the harmonics couples m with m
or -m alone (S. Passaro and C. L. Zitnick, arXiv:2302.03655, for the idea). The rotation is
R_y(-theta) R_z(-phi). A rotation about z mixes m and -m; one about y is a rotation about z between
two swaps of the axes y and z.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from e3nn.o3 import spherical_harmonics

__all__ = ["harmonics", "joined", "pair_rotations", "parted", "rotate", "rotate_back"]


def harmonics(direction: torch.Tensor, lmax: int) -> torch.Tensor:
    """Return Y_lm of directions, l = 0..lmax, sum_m Y^2 = 2l + 1, (P, 3) to (P, (lmax+1)^2)."""
    # e3nn's polar axis is its second: fed (y, z, x), its m = -l..l are those of polar z.
    values: torch.Tensor = spherical_harmonics(
        list(range(lmax + 1)),
        direction[:, [1, 2, 0]],
        normalize=True,
        normalization="component",
    )
    return values


def pair_rotations(
    vector: torch.Tensor, lmax: int, dtype: torch.dtype | None = None
) -> list[torch.Tensor]:
    """Return the rotations D_l of harmonics that take each vector to the polar axis.

    Parameters
    ----------
    vector : Tensor, shape (P, 3)
        None of zero length.
    lmax : int
        Highest degree.
    dtype : torch.dtype, optional
        Precision of the result; the work is done in double precision.

    Returns
    -------
    list of Tensor, shape (P, 2l + 1, 2l + 1)
        D_l Y_l(vector) = sqrt(2l + 1) at m = 0 and zero elsewhere; D_l is orthogonal.
    """
    unit = vector.double() / torch.linalg.vector_norm(vector.double(), dim=1, keepdim=True)
    x, y, z = unit.unbind(1)
    rho = torch.hypot(x, y)
    safe = torch.where(rho > 0, rho, torch.ones_like(rho))
    cos_theta, sin_theta = _multiples(z, rho, lmax)
    cos_phi, sin_phi = _multiples(
        torch.where(rho > 0, x / safe, torch.ones_like(x)), y / safe, lmax
    )
    result = []
    for degree in range(lmax + 1):
        # sin(l theta) .. sin(theta), 1, cos(theta) .. cos(l theta)
        waves = torch.cat([sin_theta[:, 1 : degree + 1].flip(1), cos_theta[:, : degree + 1]], dim=1)
        size = 2 * degree + 1
        polar = (waves @ _polar_waves(degree).to(unit.device)).view(-1, size, size)
        cosines = torch.cat([cos_phi[:, 1 : degree + 1].flip(1), cos_phi[:, : degree + 1]], dim=1)
        sines = torch.cat([sin_phi[:, 1 : degree + 1].flip(1), -sin_phi[:, : degree + 1]], dim=1)
        rotation = polar * cosines[:, None, :] + polar.flip(2) * sines[:, None, :]
        result.append(rotation.to(dtype or vector.dtype))
    return result


def joined(rotations: list[torch.Tensor]) -> torch.Tensor:
    """Store the rotations of pairs, l = 0, 1, ..., in one tensor (P, sum of (2l + 1)^2)."""
    return torch.cat([x.flatten(1) for x in rotations], dim=1)


def parted(flat: torch.Tensor) -> list[torch.Tensor]:
    """Undo `joined`, without a copy."""
    rotations: list[torch.Tensor] = []
    start = 0
    while start < flat.shape[1]:
        size = 2 * len(rotations) + 1
        rotations.append(flat[:, start : start + size * size].view(-1, size, size))
        start += size * size
    return rotations


def rotate(rotation: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """Turn features of one degree, (P, 2l + 1, channels), into the frame of their pairs."""
    return features if features.shape[1] == 1 else torch.bmm(rotation, features)


def rotate_back(rotation: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """Undo `rotate`."""
    return features if features.shape[1] == 1 else torch.bmm(rotation.transpose(1, 2), features)


def _multiples(
    cosine: torch.Tensor, sine: torch.Tensor, number: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cos(n x) and sin(n x) for n = 0..number, (P, number + 1) each."""
    cosines, sines = [torch.ones_like(cosine)], [torch.zeros_like(sine)]
    for _ in range(number):
        cosines.append(cosines[-1] * cosine - sines[-1] * sine)
        sines.append(sines[-1] * cosine + cosines[-2] * sine)
    return torch.stack(cosines, dim=1), torch.stack(sines, dim=1)


@cache
def _swap(degree: int) -> torch.Tensor:
    """Return J with Y(x, z, y) = J Y(x, y, z), symmetric and its own inverse."""
    # Directions spread over the sphere (golden angle); the fit is exact to rounding.
    count = 8 * (2 * degree + 1)
    height = (torch.arange(count, dtype=torch.float64) + 0.5) / count * 2.0 - 1.0
    angle = torch.arange(count, dtype=torch.float64) * (math.pi * (3.0 - math.sqrt(5.0)))
    ring = torch.sqrt(1.0 - height**2)
    points = torch.stack([ring * torch.cos(angle), ring * torch.sin(angle), height], dim=1)
    before = harmonics(points, degree)[:, degree**2 :]
    after = harmonics(points[:, [0, 2, 1]], degree)[:, degree**2 :]
    return torch.linalg.lstsq(before, after).solution.t().contiguous()


@cache
def _polar_waves(degree: int) -> torch.Tensor:
    """Return R_y(-theta) as (2l + 1, (2l + 1)^2): its parts by sin(m theta) and cos(m theta)."""
    size = 2 * degree + 1
    swap = _swap(degree)
    parts = torch.zeros(size, size, size, dtype=torch.float64)
    parts[degree] += torch.outer(swap[:, degree], swap[degree])
    for m in range(1, degree + 1):
        plus, minus = degree + m, degree - m
        parts[plus] += torch.outer(swap[:, plus], swap[plus])
        parts[plus] += torch.outer(swap[:, minus], swap[minus])
        parts[minus] += torch.outer(swap[:, minus], swap[plus])
        parts[minus] -= torch.outer(swap[:, plus], swap[minus])
    return parts.flatten(1)
