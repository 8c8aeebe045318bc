"""OpenMX's orbitals (`.pao`) and pseudopotentials (`.vps`), read from the user's own copy.

The files are text: the log of the program that made them, with keywords ("valence.electron 6.0")
and blocks between `<name` and `name>`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray
from pymatgen.core.periodic_table import Element
from scipy.interpolate import CubicHermiteSpline

from hamgnn_solve.core.basis.openmx_table import OpenMXSpecies
from hamgnn_solve.core.basis.species import Basis
from hamgnn_solve.core.errors import InputError

__all__ = [
    "MeshFunction",
    "Orbitals",
    "PseudoSpecies",
    "Pseudopotential",
    "interpolate",
    "openmx_basis",
    "read_pao",
    "read_vps",
]

# Values of a projector below this, beside its largest, count as zero.
PROJECTOR_TAIL = 1e-10


def interpolate(
    radius_g: NDArray[np.float64], values_g: NDArray[np.float64], radius: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Interpolate functions on an increasing mesh the way OpenMX does.

    Parameters
    ----------
    radius_g : ndarray, shape (G,)
        The mesh.
    values_g : ndarray, shape (..., G)
        Functions on the mesh.
    radius : ndarray, shape (R,)
        Where they are wanted; the functions are constant before the mesh and zero beyond it.

    Returns
    -------
    ndarray, shape (..., R)

    Notes
    -----
    Cubic Hermite polynomials whose slope at each point is that of the parabola through it and its
    two neighbours. Integrals over such functions are OpenMX's to nine digits; with a global spline
    they would differ in the sixth.
    """
    slopes_g = np.gradient(values_g, radius_g, axis=-1, edge_order=2)
    spline = CubicHermiteSpline(radius_g, values_g, slopes_g, axis=-1)
    return np.where(radius <= radius_g[-1], spline(np.maximum(radius, radius_g[0])), 0.0)


@dataclass(frozen=True, eq=False)
class MeshFunction:
    """Radial part of f(r) = R(r) Y_lm on OpenMX's logarithmic mesh, compared by identity.

    Parameters
    ----------
    l : int
        Angular momentum.
    radius_g : ndarray, shape (G,)
        The mesh in Bohr; it may go on beyond the cutoff.
    values_g : ndarray, shape (G,)
        R(r), tabulated.
    cutoff : float
        Distance in Bohr from which on integrals with the function are taken to be zero.
    name : str
        What the function is, for messages.
    """

    l: int  # noqa: E741
    radius_g: NDArray[np.float64]
    values_g: NDArray[np.float64]
    cutoff: float
    name: str = ""

    def __post_init__(self) -> None:
        if self.radius_g.shape != self.values_g.shape:
            raise ValueError(f"radial function {self.name}: mesh and values do not fit")

    def __call__(self, radius: NDArray[np.float64]) -> NDArray[np.float64]:
        """Evaluate R(r) at radii in Bohr, any shape."""
        return interpolate(self.radius_g, self.values_g, radius)


@dataclass(frozen=True, eq=False)
class Orbitals:
    """What a `.pao` file holds.

    Parameters
    ----------
    atomic_number : int
        Number of the element.
    valence : float
        Number of valence electrons.
    cutoff : float
        Confinement radius rc in Bohr.
    radius_g : ndarray, shape (G,)
        Logarithmic mesh in Bohr.
    density_g : ndarray, shape (G,)
        Valence density of the free atom in electrons per cubic Bohr, its integral `valence`.
    radial : tuple of ndarray
        R(r) in Bohr^(-3/2) for every l, shape (functions, G) each: not normalised, not orthogonal.
    """

    atomic_number: int
    valence: float
    cutoff: float
    radius_g: NDArray[np.float64]
    density_g: NDArray[np.float64]
    radial: tuple[NDArray[np.float64], ...]


@dataclass(frozen=True, eq=False)
class Pseudopotential:
    """What a `.vps` file holds, averaged over the total angular momenta j = l +- 1/2.

    Parameters
    ----------
    atomic_number : int
        Number of the element.
    valence : float
        Number of valence electrons.
    radius_g : ndarray, shape (G,)
        Logarithmic mesh in Bohr.
    local_g : ndarray, shape (G,)
        Local potential in Hartree.
    projector_l : ndarray of int64, shape (P,)
        Angular momentum of each projector.
    energy_p : ndarray, shape (P,)
        Projector energies (their unit makes E p p an energy in Hartree).
    projector_pg : ndarray, shape (P, G)
        Radial parts p(r).
    core_density_g : ndarray, shape (G,), or None
        Density of the partial core correction in electrons per cubic Bohr; None without one.
    """

    atomic_number: int
    valence: float
    radius_g: NDArray[np.float64]
    local_g: NDArray[np.float64]
    projector_l: NDArray[np.int64]
    energy_p: NDArray[np.float64]
    projector_pg: NDArray[np.float64]
    core_density_g: NDArray[np.float64] | None


@dataclass(frozen=True, eq=False)
class PseudoSpecies:
    """One element in OpenMX's orbitals with its pseudopotential.

    Parameters
    ----------
    symbol : str
        Chemical symbol.
    name : str
        Label of the orbitals, "Mo7.0-s3p2d2".
    shells : tuple of MeshFunction
        Orbital shells in the order of the label: ascending l, then the columns of the file.
    orbitals : Orbitals
        The whole `.pao` file.
    pseudopotential : Pseudopotential
        The `.vps` file.
    """

    symbol: str
    name: str
    shells: tuple[MeshFunction, ...]
    orbitals: Orbitals
    pseudopotential: Pseudopotential

    @property
    def valence(self) -> float:
        """Number of valence electrons of the neutral atom."""
        return self.pseudopotential.valence

    @property
    def shell_l(self) -> tuple[int, ...]:
        """Angular momentum of each orbital shell."""
        return tuple(shell.l for shell in self.shells)

    @property
    def norbitals(self) -> int:
        """Number of orbitals, the sum of 2l + 1."""
        return sum(2 * degree + 1 for degree in self.shell_l)

    @property
    def cutoff(self) -> float:
        """Cutoff of every orbital in Bohr."""
        return self.orbitals.cutoff

    @property
    def projectors(self) -> tuple[MeshFunction, ...]:
        """None: the overlap of norm-conserving orbitals has no projectors."""
        return ()

    @property
    def projector_overlap(self) -> NDArray[np.float64]:
        """Empty, as `projectors`."""
        return np.zeros((0, 0))

    @property
    def projector_cutoff(self) -> float:
        """Zero, as there are no `projectors`."""
        return 0.0

    @cached_property
    def nonlocal_projectors(self) -> tuple[MeshFunction, ...]:
        """Projectors of the non-local pseudopotential, each cut where it has died away."""
        potential = self.pseudopotential
        return tuple(
            MeshFunction(
                int(degree),
                potential.radius_g,
                values_g,
                min(self.cutoff, _extent(potential.radius_g, values_g)),
                f"projector {number + 1} of {self.name}",
            )
            for number, (degree, values_g) in enumerate(
                zip(potential.projector_l, potential.projector_pg, strict=True)
            )
        )


def openmx_basis(folder: str | Path, species: Iterable[OpenMXSpecies]) -> Basis:
    """Read the orbitals and pseudopotentials of several elements.

    Parameters
    ----------
    folder : str or Path
        OpenMX's database (`DFT_DATA19`), with the folders `PAO` and `VPS`.
    species : iterable of OpenMXSpecies
        Labels of orbitals and names of pseudopotentials.

    Raises
    ------
    InputError
        For a missing or damaged file, one of another element, fewer shells than the label asks
        for, or orbitals and pseudopotential of different valence.
    """
    return Basis({one.symbol: _read_species(Path(folder), one) for one in species})


def read_pao(path: str | Path) -> Orbitals:
    """Read an OpenMX `.pao` file.

    Raises
    ------
    InputError
        For a file that cannot be read or is damaged; it names the block and the line.
    """
    text = _TextFile(Path(path))
    points = text.integer("grid.num.output")
    functions = text.integer("PAO.Mul")
    density = text.table("valence.charge.density", points, 3)
    radius_g = density[:, 1]
    radial = []
    for degree in range(text.integer("PAO.Lmax") + 1):
        block = f"pseudo.atomic.orbitals.L={degree}"
        table = text.table(block, points, 2 + functions)
        if not np.array_equal(table[:, 1], radius_g):
            text.refuse(block, "has another mesh than the valence density")
        radial.append(np.ascontiguousarray(table[:, 2:].T))
    valence = text.number("valence.electron")
    charge = _charge(radius_g, density[:, 2])
    if charge <= 0:
        text.refuse("valence.charge.density", "holds no charge")
    return Orbitals(
        atomic_number=text.integer("AtomSpecies"),
        valence=valence,
        cutoff=text.number("radial.cutoff.pao"),
        radius_g=radius_g,
        density_g=density[:, 2] * valence / charge,
        radial=tuple(radial),
    )


def read_vps(path: str | Path) -> Pseudopotential:
    """Read an OpenMX `.vps` file.

    The projectors and the energies of j = l + 1/2 and l - 1/2 are averaged separately, with
    weights l + 1 and l, as OpenMX does in a calculation without spin-orbit coupling.

    Raises
    ------
    InputError
        For a file that cannot be read or is damaged; it names the block and the line.
    """
    text = _TextFile(Path(path))
    points = text.integer("grid.num.output")
    columns = 2 if text.switch("j.dependent.pseudo.potentials") else 1
    rows = text.rows("project.energies")
    count = int(text.numbers("project.energies", *rows[0], 1)[0])
    if len(rows) != count + 1:
        text.refuse("project.energies", f"announces {count} projectors but lists {len(rows) - 1}")
    energies = np.array([text.numbers("project.energies", *row, 1 + columns) for row in rows[1:]])
    degree_p = energies[:, 0].astype(np.int64)
    table = text.table("Pseudo.Potentials", points, 3 + columns * count)
    projector_pjg = table[:, 3:].T.reshape(count, columns, points)
    core_density_g = None
    if text.switch("charge.pcc.calc"):
        core_density_g = text.table("density.PCC", points, 3)[:, 2]
    return Pseudopotential(
        atomic_number=text.integer("AtomSpecies"),
        valence=text.number("valence.electron"),
        radius_g=table[:, 1],
        local_g=table[:, 2],
        projector_l=degree_p,
        energy_p=_average(degree_p, energies[:, 1:]),
        projector_pg=_average(degree_p, projector_pjg),
        core_density_g=core_density_g,
    )


def _read_species(folder: Path, species: OpenMXSpecies) -> PseudoSpecies:
    stem, _ = species.name.split("-")
    pao, vps = folder / "PAO" / f"{stem}.pao", folder / "VPS" / f"{species.pseudopotential}.vps"
    orbitals, potential = read_pao(pao), read_vps(vps)
    for path, number in ((pao, orbitals.atomic_number), (vps, potential.atomic_number)):
        if number != species.atomic_number:
            raise InputError(
                f"{path} describes {_symbol(number)} but is named for {species.symbol}; put the "
                f"file of {species.symbol} in its place."
            )
    if orbitals.valence != potential.valence:
        raise InputError(
            f"{pao} has {orbitals.valence:g} valence electrons but {vps} has "
            f"{potential.valence:g}; use orbitals and a pseudopotential made for each other."
        )
    shells = []
    for degree in sorted(set(species.shell_l)):
        wanted = species.shell_l.count(degree)
        held = len(orbitals.radial[degree]) if degree < len(orbitals.radial) else 0
        if held < wanted:
            raise InputError(
                f"{pao} holds {held} {'spdf'[degree]} shells but {species.name} asks for {wanted}; "
                "use OpenMX's own file of these orbitals."
            )
        shells += [
            MeshFunction(
                degree,
                orbitals.radius_g,
                orbitals.radial[degree][number],
                orbitals.cutoff,
                f"{'spdf'[degree]}{number + 1} of {species.name}",
            )
            for number in range(wanted)
        ]
    return PseudoSpecies(species.symbol, species.name, tuple(shells), orbitals, potential)


def _symbol(number: int) -> str:
    return str(Element.from_Z(number).symbol) if 0 < number < 119 else f"element {number}"


def _average(degree_p: NDArray[np.int64], values_pj: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average the values of j = l + 1/2 and j = l - 1/2 (second axis)."""
    if values_pj.shape[1] == 1:
        return values_pj[:, 0]
    upper = (degree_p + 1) / (2 * degree_p + 1)
    upper = upper.reshape(-1, *[1] * (values_pj.ndim - 2))
    return np.asarray(upper * values_pj[:, 0] + (1 - upper) * values_pj[:, 1])


def _charge(radius_g: NDArray[np.float64], density_g: NDArray[np.float64]) -> float:
    """Integrate 4 pi r^2 n(r), with a constant density inside the first point of the mesh."""
    shell = CubicHermiteSpline(
        radius_g,
        radius_g**2 * density_g,
        np.gradient(radius_g**2 * density_g, radius_g, edge_order=2),
    )
    inside = radius_g[0] ** 3 * density_g[0] / 3
    return float(4 * np.pi * (shell.integrate(radius_g[0], radius_g[-1]) + inside))


def _extent(radius_g: NDArray[np.float64], values_g: NDArray[np.float64]) -> float:
    size_g = np.abs(values_g)
    last = int(np.flatnonzero(size_g > PROJECTOR_TAIL * size_g.max(initial=1e-300))[-1])
    return float(radius_g[min(last + 1, len(radius_g) - 1)])


class _TextFile:
    """Lines of a file, with errors that say which file, block and line they speak of."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.lines = path.read_text(encoding="latin-1").splitlines()
        except OSError as error:
            raise InputError(
                f"{path} cannot be read ({error.strerror}); point --dft-data at a folder of "
                "OpenMX's database that has it."
            ) from error

    def refuse(self, block: str, why: str) -> NoReturn:
        raise InputError(f"{self.path}: {block} {why}; get a whole copy of the file.")

    def word(self, keyword: str) -> tuple[int, str]:
        """Find the first line that starts with a keyword: its number and its second word."""
        for place, line in enumerate(self.lines):
            words = line.split()
            if len(words) > 1 and words[0].lower() == keyword.lower():
                return place + 1, words[1]
        raise InputError(f"{self.path} has no line '{keyword}'; get a whole copy of the file.")

    def number(self, keyword: str) -> float:
        line, word = self.word(keyword)
        return self.numbers(keyword, line, [word], 1)[0]

    def integer(self, keyword: str) -> int:
        return int(self.number(keyword))

    def switch(self, keyword: str) -> bool:
        line, word = self.word(keyword)
        if word.lower() not in ("on", "off"):
            self.refuse(keyword, f"in line {line} is {word!r}, neither on nor off")
        return word.lower() == "on"

    def rows(self, block: str) -> list[tuple[int, list[str]]]:
        """Return the number and the words of every line of a block that is not empty."""
        names = [line.strip().lower() for line in self.lines]
        try:
            start = names.index(f"<{block.lower()}")
        except ValueError:
            self.refuse(f"the block <{block}", "is missing")
        try:
            stop = names.index(f"{block.lower()}>", start)
        except ValueError:
            self.refuse(f"the block <{block} of line {start + 1}", "has no end")
        rows = [(place + 1, self.lines[place].split()) for place in range(start + 1, stop)]
        rows = [row for row in rows if row[1]]
        if not rows:
            self.refuse(f"the block <{block} of line {start + 1}", "is empty")
        return rows

    def numbers(self, block: str, line: int, words: list[str], count: int) -> list[float]:
        """Convert the first words of a line to finite numbers."""
        if len(words) < count:
            self.refuse(block, f"has {len(words)} numbers in line {line} where {count} belong")
        try:
            values = [float(word) for word in words[:count]]
        except ValueError as error:
            bad = str(error).split(": ")[-1]
            self.refuse(block, f"has {bad} in line {line} where a number belongs")
        if not np.isfinite(values).all():
            self.refuse(block, f"has a number that is not finite in line {line}")
        return values

    def table(self, block: str, points: int, columns: int) -> NDArray[np.float64]:
        """Read a block of `points` lines, its second column an increasing mesh."""
        rows = self.rows(block)
        if len(rows) != points:
            self.refuse(
                block,
                f"has {len(rows)} lines from line {rows[0][0]} to {rows[-1][0]} where "
                f"{points} belong",
            )
        table = np.array([self.numbers(block, *row, columns) for row in rows])
        steps = np.diff(table[:, 1])
        if table[0, 1] <= 0 or (steps <= 0).any():
            line = rows[int(np.argmin(steps)) + 1][0]
            self.refuse(block, f"has radii that do not increase in line {line}")
        return table
