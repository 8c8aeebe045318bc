"""OpenMX's input files: atoms, orbitals, k mesh and electronic temperature."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pymatgen.core.periodic_table import Element

from hamgnn_solve.core.basis.openmx_table import OpenMXSpecies
from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.hamiltonian import KMesh, OrbitalOrder
from hamgnn_solve.core.structure import Structure

__all__ = [
    "ANGSTROM_PER_OPENMX_BOHR",
    "OPENMX_ORBITALS",
    "OpenMXInput",
    "OpenMXText",
    "OrbitalLabel",
    "openmx_mesh",
    "read_openmx_input",
]

# Orbitals of a shell: px py pz; 3z2-r2, x2-y2, xy, xz, yz; 5z3-3zr2, x(5z2-r2), y(5z2-r2),
# z(x2-y2), xyz, x(x2-3y2), y(3x2-y2).
OPENMX_ORBITALS = OrbitalOrder(
    {0: (0,), 1: (2, 0, 1), 2: (2, 4, 0, 3, 1), 3: (3, 4, 2, 5, 1, 6, 0)}
)

# OpenMX's own Bohr radius (openmx_common.h).
ANGSTROM_PER_OPENMX_BOHR = 0.529177249
DEFAULT_TEMPERATURE = 300.0
# OpenMX moves its mesh by these along every axis with more than one division.
MESH_SHIFT = np.array([1e-6, -1e-6, 2e-6])
LETTERS = "spdfg"
SHELLS = re.compile(r"(?:[spdfg][1-9](?:>[1-9])?)+")


@dataclass(frozen=True)
class OrbitalLabel:
    """Orbitals and pseudopotential of a species, as a line of Definition.of.Atomic.Species.

    Parameters
    ----------
    symbol : str
        Chemical symbol, told from the name of the orbitals' file.
    orbitals : str
        "Mo7.0-s3p2d2": file and shells.
    pseudopotential : str
        Name of the pseudopotential's file.
    """

    symbol: str
    orbitals: str
    pseudopotential: str

    @property
    def shell_l(self) -> tuple[int, ...]:
        """Angular momentum of each shell in the order of rows."""
        shells = self.orbitals.rsplit("-", 1)[1]
        # After optimisation "s3>2" keeps two of three: the last number counts.
        counts = re.findall(r"([spdfg])(?:[1-9]>)?([1-9])", shells)
        return tuple(LETTERS.index(letter) for letter, count in counts for _ in range(int(count)))


class OpenMXText:
    """The lines of an input file, looked up by keyword. Comments start with #.

    Parameters
    ----------
    lines : list of str
    name : str
        Of the file, for messages.
    """

    def __init__(self, lines: list[str], name: str) -> None:
        self.name = name
        self._lines = [line.split("#")[0].split() for line in lines]

    def words(self, keyword: str) -> list[str]:
        """Return what follows a keyword on its line; empty where the keyword is absent."""
        for words in self._lines:
            if words and words[0].lower() == keyword.lower():
                return words[1:]
        return []

    def has_block(self, keyword: str) -> bool:
        """Tell whether a block <keyword ... keyword> begins."""
        return any(words and words[0].lower() == f"<{keyword.lower()}" for words in self._lines)

    def block(self, keyword: str) -> list[tuple[int, list[str]]]:
        """Return number (from 1) and words of the lines between <keyword and keyword>.

        Raises
        ------
        InputError
            When the block is missing or does not end.
        """
        found: list[tuple[int, list[str]]] | None = None
        for number, words in enumerate(self._lines, start=1):
            if not words:
                continue
            if words[0].lower() == f"<{keyword.lower()}":
                found = []
            elif found is not None and words[0].lower() == f"{keyword.lower()}>":
                return found
            elif found is not None:
                found.append((number, words))
        problem = "is missing" if found is None else "does not end"
        raise InputError(f"The block <{keyword} of {self.name} {problem}; mend the input file.")

    def orbital_labels(self) -> dict[str, OrbitalLabel]:
        """Return the orbitals of every species by its name in this file.

        Raises
        ------
        InputError
            For a line that does not name an element with shells.
        """
        labels = {}
        for number, words in self.block("Definition.of.Atomic.Species"):
            element = re.match(r"[A-Z][a-z]?(?=[\d_.-])", words[1]) if len(words) > 2 else None
            shells = words[1].rsplit("-", 1)[-1] if len(words) > 2 else ""
            if (
                element is None
                or not Element.is_valid_symbol(element[0])
                or SHELLS.fullmatch(shells) is None
                or "-" not in words[1]
            ):
                raise InputError(
                    f"Line {number} of {self.name} must name a species, its orbitals and its "
                    "pseudopotential, as in 'Mo Mo7.0-s3p2d2 Mo_PBE19'."
                )
            labels[words[0]] = OrbitalLabel(element[0], words[1], words[2])
        return labels

    def atom_labels(self) -> tuple[OrbitalLabel, ...]:
        """Return the orbitals of every atom, in the order of Atoms.SpeciesAndCoordinates.

        Raises
        ------
        InputError
            For an atom of a species that is not defined.
        """
        labels = self.orbital_labels()
        result = []
        for number, words in self.block("Atoms.SpeciesAndCoordinates"):
            if len(words) < 2 or words[1] not in labels:
                raise InputError(
                    f"Line {number} of {self.name} has an atom whose species is not among "
                    f"{', '.join(sorted(labels))} of Definition.of.Atomic.Species."
                )
            result.append(labels[words[1]])
        return tuple(result)

    def species(self) -> dict[str, OpenMXSpecies]:
        """Return the orbitals of each element of a run; the valence is that of the first such atom.

        Raises
        ------
        InputError
            For orbitals that are not OpenMX's own, or two kinds of them for one element.
        """
        result: dict[str, OpenMXSpecies] = {}
        rows = self.block("Atoms.SpeciesAndCoordinates")
        for label, (number, words) in zip(self.atom_labels(), rows, strict=True):
            try:
                valence = float(words[5]) + float(words[6])
                one = OpenMXSpecies(label.symbol, label.orbitals, label.pseudopotential, valence)
            except (IndexError, ValueError) as error:
                raise InputError(
                    f"Line {number} of {self.name} names the orbitals {label.orbitals} or "
                    "electrons in a way that cannot be followed; use OpenMX's own orbitals, not "
                    "optimised ones."
                ) from error
            first = result.setdefault(label.symbol, one)
            if (first.name, first.pseudopotential) != (one.name, one.pseudopotential):
                raise InputError(
                    f"{self.name} has two kinds of {label.symbol}, and one an element is "
                    "understood; run it again with the same orbitals for all."
                )
        return result

    def kgrid(self) -> tuple[int, int, int]:
        """Return the divisions of scf.Kgrid; 1 1 1 where it is absent, as in OpenMX."""
        words = self.words("scf.Kgrid") or ["1", "1", "1"]
        try:
            first, second, third = (int(word) for word in words[:3])
        except ValueError:
            first = second = third = 0
        if min(first, second, third) < 1:
            raise InputError(
                f"scf.Kgrid of {self.name} must be three positive whole numbers, "
                f"not '{' '.join(words)}'."
            )
        return first, second, third

    def temperature(self) -> float:
        """Return scf.ElectronicTemperature in kelvin; 300 where it is absent, as in OpenMX."""
        words = self.words("scf.ElectronicTemperature") or [str(DEFAULT_TEMPERATURE)]
        value = self._numbers(words[:1], "scf.ElectronicTemperature")[0]
        if value < 0.0:
            raise InputError(f"scf.ElectronicTemperature of {self.name} is below zero.")
        return value

    def spin(self) -> str:
        """Return scf.SpinPolarization in lower case: off, on or nc."""
        word = (self.words("scf.SpinPolarization") or ["off"])[0].lower()
        if word not in ("off", "on", "nc"):
            raise InputError(
                f"scf.SpinPolarization of {self.name} is '{word}'; it must be off, on or nc."
            )
        return word

    def structure(self) -> Structure:
        """Return atoms and cell.

        Raises
        ------
        InputError
            For a missing block or unit, a line without three numbers, and what `Structure`
            refuses.
        """
        if not self.has_block("Atoms.UnitVectors"):
            raise InputError(
                f"{self.name} has no block <Atoms.UnitVectors; give the cell that OpenMX would "
                "otherwise choose itself."
            )
        rows = [self._coordinates(number, words) for number, words in
                self.block("Atoms.UnitVectors")]  # fmt: skip
        if len(rows) != 3:
            raise InputError(f"Atoms.UnitVectors of {self.name} has {len(rows)} lines, not three.")
        cell_cc = np.array(rows) / self._length("Atoms.UnitVectors.Unit")
        labels = self.atom_labels()
        atoms = self.block("Atoms.SpeciesAndCoordinates")
        stated = self.words("Atoms.Number")
        if stated and stated[0] != str(len(atoms)):
            raise InputError(
                f"{self.name} states Atoms.Number {stated[0]} but lists {len(atoms)} atoms."
            )
        pos_ic = np.array([self._coordinates(number, words[2:]) for number, words in atoms])
        if self._unit("Atoms.SpeciesAndCoordinates.Unit") == "frac":
            pos_ic = pos_ic @ cell_cc
        else:
            pos_ic = pos_ic / self._length("Atoms.SpeciesAndCoordinates.Unit")
        return Structure(tuple(label.symbol for label in labels), pos_ic, cell_cc)

    def _unit(self, keyword: str) -> str:
        return (self.words(keyword) or ["Ang"])[0].lower()

    def _length(self, keyword: str) -> float:
        """Return how many of the file's units make a Bohr."""
        unit = self._unit(keyword)
        if unit == "ang":
            return ANGSTROM_PER_OPENMX_BOHR
        if unit == "au":
            return 1.0
        raise InputError(f"{keyword} of {self.name} is '{unit}'; it must be Ang or AU.")

    def _coordinates(self, number: int, words: list[str]) -> list[float]:
        if len(words) < 3:
            raise InputError(f"Line {number} of {self.name} must hold three coordinates.")
        return self._numbers(words[:3], f"Line {number}")

    def _numbers(self, words: list[str], what: str) -> list[float]:
        try:
            numbers = [float(word.lower().replace("d", "e")) for word in words]
        except ValueError:
            numbers = []
        if not numbers or not np.isfinite(numbers).all():
            raise InputError(f"{what} of {self.name} is not a number: '{' '.join(words)}'.")
        return numbers


@dataclass(frozen=True)
class OpenMXInput:
    """What an OpenMX input file asks for.

    Parameters
    ----------
    structure : Structure
    labels_i : tuple of OrbitalLabel
        Orbitals and pseudopotential of every atom.
    kgrid : tuple of int
        Divisions of the k mesh.
    temperature : float
        Electronic temperature in kelvin.
    spin : str
        "off", "on" (collinear) or "nc" (non-collinear).
    """

    structure: Structure
    labels_i: tuple[OrbitalLabel, ...]
    kgrid: tuple[int, int, int]
    temperature: float
    spin: str

    @property
    def mesh(self) -> KMesh:
        """The k-points at which OpenMX diagonalises."""
        return openmx_mesh(self.kgrid, time_reversal=self.spin != "nc")


def read_openmx_input(path: str | Path) -> OpenMXInput:
    """Read an input file (.dat) of OpenMX.

    Raises
    ------
    InputError
        For a file that cannot be read, a missing block, or an entry that is not what its keyword
        asks for; the message names file and line.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="latin-1").splitlines()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    text = OpenMXText(lines, str(path))
    return OpenMXInput(
        text.structure(), text.atom_labels(), text.kgrid(), text.temperature(), text.spin()
    )


def openmx_mesh(kgrid: tuple[int, int, int], *, time_reversal: bool) -> KMesh:
    """Return the k-points of OpenMX's mesh and their weights.

    Along an axis with N > 1 divisions k = -1/2 + (2 i + 1) / (2 N), moved by 1e-6, -1e-6 and 2e-6
    on the three axes; with N = 1 it is 0.

    Parameters
    ----------
    kgrid : tuple of int
        Divisions along the three axes.
    time_reversal : bool
        Of k and -k only the first is kept, with twice the weight.
    """
    axes = []
    for divisions, shift in zip(kgrid, MESH_SHIFT, strict=True):
        points = -0.5 + (2 * np.arange(divisions) + 1) / (2 * divisions)
        axes.append(points + shift if divisions > 1 else points)
    kpoints_kc = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    total = len(kpoints_kc)
    weights_k: NDArray[np.float64] = np.full(total, 1.0 / total)
    if time_reversal:
        # The points are counted so that k number t and k number total - 1 - t are opposite.
        kept = (total + 1) // 2
        opposite_k = np.arange(kept) != total - 1 - np.arange(kept)
        kpoints_kc, weights_k = kpoints_kc[:kept], weights_k[:kept] * (1 + opposite_k)
    return KMesh(kpoints_kc, weights_k)
