"""One element in one set of numerical atomic orbitals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.structure import Structure

__all__ = ["AnyRadialFunction", "AnySpecies", "Basis", "RadialFunction", "Species"]


# eq=False: compared and hashed by identity, so that integral tables can be cached by function.
@dataclass(frozen=True, eq=False)
class RadialFunction:
    """Radial part of f(r) = R(r) Y_lm, zero at and beyond its cutoff.

    Parameters
    ----------
    l : int
        Angular momentum.
    radius_g : ndarray, shape (G,)
        Increasing mesh from 0 to the cutoff, in Bohr.
    reduced_g : ndarray, shape (G,)
        R(r) / r^l on the mesh; between the points a cubic spline with zero slope at both ends.
    name : str
        What the function is, for messages ("5s-sz", say).
    """

    l: int  # noqa: E741
    radius_g: NDArray[np.float64]
    reduced_g: NDArray[np.float64]
    name: str = ""

    def __post_init__(self) -> None:
        if self.radius_g.shape != self.reduced_g.shape or self.radius_g[0] != 0.0:
            raise ValueError(f"radial function {self.name}: mesh and values do not fit")

    @property
    def cutoff(self) -> float:
        """Radius in Bohr from which on the function is zero."""
        return float(self.radius_g[-1])

    @cached_property
    def _spline(self) -> CubicSpline:
        return CubicSpline(self.radius_g, self.reduced_g, bc_type="clamped")

    def __call__(self, radius: NDArray[np.float64]) -> NDArray[np.float64]:
        """Evaluate R(r) at radii in Bohr, any shape."""
        inside = radius < self.cutoff
        return np.where(inside, radius**self.l * self._spline(np.where(inside, radius, 0.0)), 0.0)


@dataclass(frozen=True, eq=False)
class Species:
    """One element in one basis: orbitals, projectors, valence charge.

    Parameters
    ----------
    symbol : str
        Chemical symbol.
    name : str
        Name of the data set ("Mo.6.dzp", say).
    valence : float
        Number of valence electrons of the neutral atom.
    shells : tuple of RadialFunction
        Orbital shells in the order of the rows of every block; each has m = -l..l.
    projectors : tuple of RadialFunction
        Projector shells p_a of the separable terms, m = -l..l each; may be empty.
    projector_overlap : ndarray, shape (number of projector shells, same)
        Radial part of dS in S = <i|j> + sum_a <i|p_a> dS_a <p_a|j>; shells of different l do not
        couple.
    """

    symbol: str
    name: str
    valence: float
    shells: tuple[RadialFunction, ...]
    projectors: tuple[RadialFunction, ...]
    projector_overlap: NDArray[np.float64]

    def __post_init__(self) -> None:
        shape = (len(self.projectors), len(self.projectors))
        if self.projector_overlap.shape != shape:
            raise ValueError(f"{self.name}: projector_overlap must have shape {shape}")

    @property
    def shell_l(self) -> tuple[int, ...]:
        """Angular momentum of each orbital shell."""
        return tuple(shell.l for shell in self.shells)

    def without(self, names: tuple[str, ...]) -> Species:
        """Return the species without the shells of some names ("5s-sz").

        Raises
        ------
        InputError
            When there is no such shell.
        """
        for name in names:
            if name not in [shell.name for shell in self.shells]:
                raise InputError(
                    f"{self.name} has no shell {name} to leave out; its shells are "
                    f"{', '.join(shell.name for shell in self.shells)}."
                )
        kept = tuple(shell for shell in self.shells if shell.name not in names)
        return replace(self, shells=kept) if names else self

    @property
    def norbitals(self) -> int:
        """Number of orbitals, the sum of 2l + 1."""
        return sum(2 * l + 1 for l in self.shell_l)  # noqa: E741

    @property
    def cutoff(self) -> float:
        """Largest orbital cutoff in Bohr."""
        return max(shell.cutoff for shell in self.shells)

    @property
    def projector_cutoff(self) -> float:
        """Largest projector cutoff in Bohr (0 without projectors)."""
        return max((projector.cutoff for projector in self.projectors), default=0.0)


class AnyRadialFunction(Protocol):
    """Radial part R(r) of R(r) Y_lm: a `RadialFunction` or one with an interpolation of its own."""

    @property
    def l(self) -> int: ...  # noqa: D102, E743
    @property
    def cutoff(self) -> float: ...  # noqa: D102
    def __call__(self, radius: NDArray[np.float64], /) -> NDArray[np.float64]: ...  # noqa: D102
    def __hash__(self) -> int: ...


class AnySpecies(Protocol):
    """What a basis knows of an element: a `Species`, or one without radial functions.

    A species without radial functions raises `InputError` for those of the second group.
    """

    @property
    def symbol(self) -> str: ...  # noqa: D102
    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def valence(self) -> float: ...  # noqa: D102
    @property
    def shell_l(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def norbitals(self) -> int: ...  # noqa: D102
    @property
    def cutoff(self) -> float: ...  # noqa: D102

    @property
    def shells(self) -> tuple[AnyRadialFunction, ...]: ...  # noqa: D102
    @property
    def projectors(self) -> tuple[AnyRadialFunction, ...]: ...  # noqa: D102
    @property
    def projector_overlap(self) -> NDArray[np.float64]: ...  # noqa: D102
    @property
    def projector_cutoff(self) -> float: ...  # noqa: D102
    def __hash__(self) -> int: ...


@dataclass(frozen=True)
class Basis:
    """The species that describe a structure, by chemical symbol."""

    species: Mapping[str, AnySpecies]

    def _per_atom(self, structure: Structure, values: dict[str, float]) -> NDArray[np.float64]:
        return np.array([values[symbol] for symbol in structure.symbols], dtype=np.float64)

    def check_covers(self, structure: Structure, name: str = "The basis") -> None:
        """Raise `InputError`, speaking of `name`, when an element has no species here."""
        missing = [symbol for symbol in structure.elements if symbol not in self.species]
        if missing:
            raise InputError(
                f"{name} knows {', '.join(sorted(self.species))} but not {', '.join(missing)}; "
                "choose a model that covers every element."
            )

    def norb_i(self, structure: Structure) -> NDArray[np.int64]:
        """Number of orbitals of each atom, shape (N,)."""
        counts = {symbol: float(species.norbitals) for symbol, species in self.species.items()}
        return self._per_atom(structure, counts).astype(np.int64)

    def cutoff_i(self, structure: Structure) -> NDArray[np.float64]:
        """Largest orbital cutoff of each atom in Bohr, shape (N,)."""
        return self._per_atom(structure, {s: x.cutoff for s, x in self.species.items()})

    def electrons(self, structure: Structure) -> float:
        """Number of valence electrons of the neutral structure."""
        valence = {symbol: species.valence for symbol, species in self.species.items()}
        return float(self._per_atom(structure, valence).sum())
