"""Elements of OpenMX bases as published HamGNN models use them.

Which orbitals and pseudopotential an element has follows from the size of a model's block table
(14, 19 or 26 orbitals); `openmx_table.csv` lists them. They are names of the files of OpenMX's
2019 database and counts of its shells, without the functions themselves.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray
from pymatgen.core.periodic_table import Element

from hamgnn_solve.core.basis.species import RadialFunction
from hamgnn_solve.core.errors import InputError

__all__ = ["TABLE_SHELLS", "OpenMXSpecies", "published_species"]

# Number of shells for l = 0, 1, ... of the block tables, by their number of orbitals.
TABLE_SHELLS = {14: (3, 2, 1), 19: (3, 2, 2), 26: (3, 2, 2, 1)}

LETTERS = "spdf"
LABEL = re.compile(r"([A-Z][a-z]?)(\d+\.\d+)[HS]?-((?:[spdf][1-9])+)")


@dataclass(frozen=True)
class OpenMXSpecies:
    """One element in OpenMX's orbitals, known by name alone.

    It tells the size of blocks and the range of pairs. Whoever asks for radial functions gets an
    `InputError`.

    Parameters
    ----------
    symbol : str
        Chemical symbol.
    name : str
        Label of the orbitals, "Mo7.0-s3p2d2": file, cutoff in Bohr, shells.
    pseudopotential : str
        Name of the pseudopotential file, "Mo_PBE19".
    valence : float
        Number of valence electrons of the neutral atom.

    Raises
    ------
    ValueError
        For a label of another form or another element.
    """

    symbol: str
    name: str
    pseudopotential: str
    valence: float

    def __post_init__(self) -> None:
        match = LABEL.fullmatch(self.name)
        if match is None or match[1] != self.symbol or not Element.is_valid_symbol(self.symbol):
            raise ValueError(f"{self.name!r} is not the label of OpenMX orbitals of {self.symbol}")
        if not self.valence > 0:
            raise ValueError(f"{self.symbol} needs a positive number of valence electrons")

    @property
    def atomic_number(self) -> int:
        """Number of the element."""
        return int(Element(self.symbol).Z)

    @property
    def cutoff(self) -> float:
        """Cutoff of every orbital in Bohr."""
        return float(self._label[2])

    @property
    def shells_text(self) -> str:
        """Numbers of shells as in the label, "s3p2d2"."""
        return self._label[3]

    @cached_property
    def shell_l(self) -> tuple[int, ...]:
        """Angular momentum of each orbital shell, ascending."""
        counts = re.findall(r"([spdf])(\d)", self.shells_text)
        return tuple(
            sorted(LETTERS.index(letter) for letter, count in counts for _ in range(int(count)))
        )

    @property
    def norbitals(self) -> int:
        """Number of orbitals, the sum of 2l + 1."""
        return sum(2 * degree + 1 for degree in self.shell_l)

    @property
    def shells(self) -> tuple[RadialFunction, ...]:
        """Refused: there are no radial functions."""
        self._refuse()

    @property
    def projectors(self) -> tuple[RadialFunction, ...]:
        """Refused: there are no radial functions."""
        self._refuse()

    @property
    def projector_overlap(self) -> NDArray[np.float64]:
        """Refused: there are no radial functions."""
        self._refuse()

    @property
    def projector_cutoff(self) -> float:
        """Refused: there are no radial functions."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise InputError(
            f"The functions of OpenMX's orbitals {self.name} are not part of a model; give the "
            "folder of OpenMX's data (DFT_DATA19) as --dft-data or OPENMX_DFT_DATA."
        )

    @property
    def _label(self) -> re.Match[str]:
        match = LABEL.fullmatch(self.name)
        if match is None:
            raise AssertionError("the label was checked when the species was made")
        return match


@cache
def published_species(norbitals: int) -> dict[str, OpenMXSpecies]:
    """Return the elements of a block table, by symbol in the order of their atomic numbers.

    Parameters
    ----------
    norbitals : {14, 19, 26}
        Orbitals of the table (`nao_max`). An element may have fewer orbitals in a smaller table.
    """
    column = f"shells_{norbitals}"
    file = resources.files("hamgnn_solve.core.basis") / "openmx_table.csv"
    rows = csv.DictReader(file.read_text(encoding="ascii").splitlines())
    return {
        row["symbol"]: OpenMXSpecies(
            row["symbol"],
            f"{row['orbitals']}-{row[column]}",
            row["pseudopotential"],
            float(row["valence"]),
        )
        for row in rows
        if row[column]
    }
