"""Commensurate twisted bilayers of hexagonal layers.

Two hexagonal lattices of one lattice constant, turned against each other, share a lattice when a
vector m a1 + n a2 of the lower one falls on the vector n b1 + m b2 of the upper one (a1 and a2, and
b1 and b2, at 60 degrees). The shared cell holds m² + mn + n² cells of each layer, and

    cos θ = (m² + 4mn + n²) / 2(m² + mn + n²).

Formula: J. M. B. Lopes dos Santos, N. M. R. Peres, A. H. Castro Neto, Phys. Rev. Lett. 99, 256802
(2007), there for m and m + 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

import numpy as np
from numpy.typing import NDArray

from hamgnn_solve.core.building.hexagonal_layers import HEXAGONAL_AXES, HexagonalLayer
from hamgnn_solve.core.building.supercell import lattice_points, refuse_too_many_atoms
from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.structure import Structure
from hamgnn_solve.core.units import ANGSTROM_PER_BOHR

__all__ = [
    "STRAIN_LIMIT",
    "CommensurateTwist",
    "TwistedBilayer",
    "build_twisted_bilayer",
    "mean_lattice",
    "usual_distance",
]

# Layers that differ by more keep their own lattices in nature, and one common lattice is no model
# of them.
STRAIN_LIMIT = 0.02


@dataclass(frozen=True)
class CommensurateTwist:
    """The twist (m, n): lattice vector (m, n) of the lower layer is (n, m) of the upper one.

    Parameters
    ----------
    m, n : int
        Positive, different and without a common divisor. The upper layer is turned
        counter-clockwise for m < n, and clockwise by the same angle for m > n.

    Raises
    ------
    InputError
        For other numbers.
    """

    m: int
    n: int

    def __post_init__(self) -> None:
        if self.m < 1 or self.n < 1:
            raise InputError(f"The indices are {self.m} {self.n}; give two positive integers.")
        if self.m == self.n:
            raise InputError(
                f"The indices {self.m} {self.n} are equal and leave the layers untwisted; give two "
                "different ones, such as 1 2 for 21.79 degrees."
            )
        divisor = gcd(self.m, self.n)
        if divisor > 1:
            raise InputError(
                f"The indices {self.m} {self.n} have the common divisor {divisor}; give "
                f"{self.m // divisor} {self.n // divisor}, and make a supercell of it if a larger "
                "cell is wanted."
            )

    @property
    def cells(self) -> int:
        """Number of cells of each layer in the shared cell, m² + mn + n²."""
        return self.m**2 + self.m * self.n + self.n**2

    @property
    def angle(self) -> float:
        """Angle in radians that the upper layer is turned by, counter-clockwise."""
        m, n = self.m, self.n
        return float(np.arctan2(np.sqrt(3) * (n**2 - m**2), m**2 + 4 * m * n + n**2))

    @property
    def lower_repeat_cc(self) -> NDArray[np.int64]:
        """Shared lattice vectors in units of the lower ones at 120 degrees, shape (2, 2)."""
        return _repeat(self.m, self.n)

    @property
    def upper_repeat_cc(self) -> NDArray[np.int64]:
        """Shared lattice vectors in units of the upper ones at 120 degrees, shape (2, 2)."""
        return _repeat(self.n, self.m)

    @property
    def smaller(self) -> CommensurateTwist | None:
        """The twist whose cell is a third of this one, if m - n is divisible by three.

        Its angle differs from this one by 60 degrees. Layers with a threefold axis therefore make
        the same crystal with it, the upper layer turned by another 180 degrees.
        """
        m, n = self.m, self.n
        if (m - n) % 3:
            return None
        # Division of m + n exp(iπ/3), or of its mirror image, by the number of square 3.
        if m < n:
            return CommensurateTwist((2 * m + n) // 3, (n - m) // 3)
        return CommensurateTwist((m - n) // 3, (2 * n + m) // 3)


@dataclass(frozen=True)
class TwistedBilayer:
    """Two layers on one lattice, twisted against each other; lengths in Bohr.

    Parameters
    ----------
    lower, upper : HexagonalLayer
        The layers; both are strained to the common lattice constant, their heights are kept.
    twist : CommensurateTwist
        The twist, about an axis through the first atom of each layer.
    lattice : float
        Common lattice constant.
    distance : float
        Distance between the mid-planes of the layers: of the metal planes in dichalcogenides.
    stacking : str
        "R", or "H": the upper layer is turned by another 180 degrees about the same axis.
    shift : tuple of two floats
        Shift of the upper layer in units of its own lattice vectors at 120 degrees.
    vacuum : float
        Empty height below the lowest and above the highest atom, each.
    strain_limit : float
        Largest relative strain of either layer.

    Raises
    ------
    InputError
        For numbers that make no bilayer, layers that run into each other, a larger strain,
        and more than ten million atoms.
    """

    lower: HexagonalLayer
    upper: HexagonalLayer
    twist: CommensurateTwist
    lattice: float
    distance: float
    stacking: str = "R"
    shift: tuple[float, float] = (0.0, 0.0)
    vacuum: float = 10.0 / ANGSTROM_PER_BOHR
    strain_limit: float = STRAIN_LIMIT

    def __post_init__(self) -> None:
        if self.stacking not in ("R", "H"):
            raise InputError(f"The stacking is {self.stacking}; give R or H.")
        if not 0 < self.lattice < np.inf:
            raise InputError("The common lattice constant is not positive; give its length.")
        if not 0 <= self.vacuum < np.inf or not np.isfinite(self.shift).all():
            raise InputError("The vacuum or the shift is not a length; give finite numbers.")
        refuse_too_many_atoms(self.twist.cells * (self.lower.natoms + self.upper.natoms))
        thickness = self.lower.half_thickness + self.upper.half_thickness
        if not thickness < self.distance < np.inf:
            raise InputError(
                f"Layers {_angstrom(self.distance)} Angstrom apart run into each other; give a "
                f"distance between their mid-planes of more than {_angstrom(thickness)}."
            )
        for layer, strain in ((self.lower, self.lower_strain), (self.upper, self.upper_strain)):
            if abs(strain) > self.strain_limit:
                raise InputError(
                    f"On the common lattice of {_angstrom(self.lattice)} Angstrom {layer.name}, "
                    f"whose own is {_angstrom(layer.lattice)}, is strained by {strain:+.2%}, "
                    f"beyond the limit of {self.strain_limit:.0%}; choose layers or a lattice "
                    "constant that fit better, or allow the strain (--allow-strain)."
                )

    @property
    def lower_strain(self) -> float:
        """Relative strain of the lower layer."""
        return self.lattice / self.lower.lattice - 1

    @property
    def upper_strain(self) -> float:
        """Relative strain of the upper layer."""
        return self.lattice / self.upper.lattice - 1


def mean_lattice(lower: HexagonalLayer, upper: HexagonalLayer) -> float:
    """Return the mean of both lattice constants in Bohr: each layer is strained by half."""
    return (lower.lattice + upper.lattice) / 2


def usual_distance(lower: HexagonalLayer, upper: HexagonalLayer) -> float:
    """Return the mean of both layers' spacings in Bohr, a distance between mid-planes.

    Raises
    ------
    InputError
        If the spacing of a layer is not known, as of one that comes from a file.
    """
    if lower.spacing is None or upper.spacing is None:
        unknown = lower.name if lower.spacing is None else upper.name
        raise InputError(
            f"No distance to other layers is known for {unknown}; give the distance between the "
            "mid-planes of the layers (--distance)."
        )
    return (lower.spacing + upper.spacing) / 2


def build_twisted_bilayer(bilayer: TwistedBilayer) -> Structure:
    """Return the atoms of a twisted bilayer.

    Parameters
    ----------
    bilayer : TwistedBilayer
        The layers, their twist and their distances.

    Returns
    -------
    Structure
        A hexagonal cell with its first lattice vector along x and its third along z, the second at
        120 degrees. The lower layer comes first; in each layer all copies of the first atom, then
        of the second, and so on. The axis of the twist passes through the origin.
    """
    twist = bilayer.twist
    lower_ic = _layer_places(bilayer.lower, twist.lower_repeat_cc, 1, (0.0, 0.0))
    turn = -1 if bilayer.stacking == "H" else 1
    upper_ic = _layer_places(bilayer.upper, twist.upper_repeat_cc, turn, bilayer.shift)
    middle = bilayer.vacuum + bilayer.lower.half_thickness
    height_i = np.concatenate(
        [
            np.repeat(middle + bilayer.lower.height_i, twist.cells),
            np.repeat(middle + bilayer.distance + bilayer.upper.height_i, twist.cells),
        ]
    )
    cell_cc = np.zeros((3, 3))
    cell_cc[:2, :2] = bilayer.lattice * np.sqrt(twist.cells) * HEXAGONAL_AXES
    cell_cc[2, 2] = height_i.max() + bilayer.vacuum
    places_ic = np.concatenate([lower_ic, upper_ic])
    pos_ic = np.column_stack([places_ic @ cell_cc[:2, :2], height_i])
    symbols = np.repeat(bilayer.lower.symbols + bilayer.upper.symbols, twist.cells)
    return Structure(tuple(symbols.tolist()), pos_ic, cell_cc)


def _layer_places(
    layer: HexagonalLayer,
    repeat_cc: NDArray[np.int64],
    turn: int,
    shift: tuple[float, float],
) -> NDArray[np.float64]:
    """Return the atoms' places in units of the shared lattice vectors, between 0 and 1."""
    basis_ic = turn * (layer.fractional_ic - layer.fractional_ic[0]) + np.array(shift)
    whole_cc = np.eye(3, dtype=np.int64)
    whole_cc[:2, :2] = repeat_cc
    points_xc = lattice_points(whole_cc)[:, :2]
    places_ic = (basis_ic[:, None] + points_xc[None]).reshape(-1, 2) @ np.linalg.inv(repeat_cc)
    # Rounding must not throw an atom on the boundary to the other side.
    return places_ic - np.floor(places_ic + 1e-9)


def _repeat(m: int, n: int) -> NDArray[np.int64]:
    """Return m a1 + n a2 (at 60 degrees) and that vector turned by 120, in units at 120 degrees."""
    return np.array([[m + n, n], [-n, m]], dtype=np.int64)


def _angstrom(length: float) -> str:
    return f"{length * ANGSTROM_PER_BOHR:.4g}"
