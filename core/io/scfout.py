"""Hamiltonian, overlap and density matrix from OpenMX's `.scfout` files."""

from __future__ import annotations

import lzma
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hamgnn_solve.core.basis.openmx_table import OpenMXSpecies
from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.hamiltonian import (
    CrystalHamiltonian,
    OrbitalSystem,
    doubled,
    reordered,
    transposed,
)
from hamgnn_solve.core.io.openmx_input import OPENMX_ORBITALS, OpenMXText, openmx_mesh
from hamgnn_solve.core.operator import BlockOperator
from hamgnn_solve.core.pairs import PairList
from hamgnn_solve.core.structure import Structure

__all__ = ["ScfoutData", "read_scfout", "scfout_hamiltonian", "scfout_zero"]

# Format numbers in the header: OpenMX 3.9, and 3.8 or older.
VERSION = 3
OLD_VERSION = 0
NON_COLLINEAR = 3
INPUT_LINE = 256
# Electrons. A self-consistent density matrix holds them to about 1e-9.
LARGEST_MISSING_CHARGE = 1e-3


@dataclass(frozen=True)
class ScfoutData:
    """What an OpenMX 3.9 `.scfout` file holds.

    Orbitals stay in OpenMX's order on every atom (l, then zeta, then px py pz;
    3z2-r2, x2-y2, xy, xz, yz; ...), the same in all operators.

    Parameters
    ----------
    structure : Structure
        Atoms and cell.
    hamiltonians : tuple of BlockOperator
        H of every collinear spin, in Hartree: one, or two for a spin-polarised run. Of a
        non-collinear run four: Re H(up, up), Re H(down, down), Re H(up, down), and what H(up,
        down) has of an imaginary part without spin-orbit coupling.
    imaginary : tuple of BlockOperator
        Of a non-collinear run three: Im H(up, up), Im H(down, down), and what spin-orbit coupling
        adds to Im H(up, down). Otherwise empty.
    overlap : BlockOperator
        S.
    density_matrices : tuple of BlockOperator
        As many as Hamiltonians; zero in a file of `openmx_postprocess`, which makes no density.
    electrons : float
        Number of valence electrons in the cell.
    chemical_potential : float
        In Hartree.
    electronic_temperature : float
        In kelvin.
    text : OpenMXText
        The input file of the run.
    """

    structure: Structure
    hamiltonians: tuple[BlockOperator, ...]
    imaginary: tuple[BlockOperator, ...]
    overlap: BlockOperator
    density_matrices: tuple[BlockOperator, ...]
    electrons: float
    chemical_potential: float
    electronic_temperature: float
    text: OpenMXText

    @property
    def is_self_consistent(self) -> bool:
        """Whether the density matrix holds the electrons; in HamGNN's `overlap.scfout` it is 0."""
        spins = self.density_matrices[:2]
        electrons = sum(float(x.values @ self.overlap.values) for x in spins) * 2 / len(spins)
        return abs(electrons - self.electrons) < LARGEST_MISSING_CHARGE


class _Reader:
    """Numbers of a file one after the other, with the name of what is being read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            raw = path.read_bytes()
            self.data = lzma.decompress(raw) if path.suffix == ".xz" else raw
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}.") from error
        except lzma.LZMAError as error:
            raise InputError(f"{path} is not a whole .xz file ({error}).") from error
        self.position = 0

    def array(self, dtype: str, count: int, what: str) -> NDArray[Any]:
        kind = np.dtype(dtype)
        stop = self.position + count * kind.itemsize
        if count < 0 or stop > len(self.data):
            raise InputError(
                f"{self.path} ends inside its {what}: {stop - len(self.data)} bytes are missing; "
                "the file is cut short or not an .scfout of OpenMX."
            )
        values = np.frombuffer(self.data, kind, count, self.position)
        self.position = stop
        return values

    def integers(self, count: int, what: str) -> NDArray[np.int64]:
        return self.array("<i4", count, what).astype(np.int64)

    def doubles(self, count: int, what: str) -> NDArray[np.float64]:
        values = self.array("<f8", count, what).astype(np.float64)
        if not np.isfinite(values).all():
            raise InputError(f"{self.path} holds numbers that are not finite in its {what}.")
        return values


def read_scfout(path: str | Path) -> ScfoutData:
    """Read an `.scfout` file of OpenMX 3.7 to 3.9, or the one compressed as `.scfout.xz`.

    Parameters
    ----------
    path : str or Path
        Written with `HS.fileout on`, or HamGNN's `overlap.scfout`.

    Raises
    ------
    InputError
        For a file that cannot be read, is cut short or has another version.

    Notes
    -----
    Layout after OpenMX 3.9 (`Output_HKS`): raw little-endian, Hartree and Bohr. Versions before
    3.9 have no momentum matrices and may have no imaginary density.
    """
    reader = _Reader(Path(path))
    natoms, spin, cells, order_max = _header(reader)
    reader.doubles(cells * 4, "cell translations")
    shift_rc = reader.integers(cells * 4, "cell indices").reshape(cells, 4)[:, 1:]
    norb_i = reader.integers(natoms, "numbers of orbitals")
    neighbours_i = reader.integers(natoms, "numbers of neighbours") + 1
    if norb_i.min() < 1 or neighbours_i.min() < 1:
        raise InputError(f"{reader.path} lists an atom without orbitals; it is damaged.")
    npairs = int(neighbours_i.sum())
    second_p = reader.integers(npairs, "neighbour list") - 1
    cell_p = reader.integers(npairs, "neighbour cells")
    if second_p.min() < 0 or second_p.max() >= natoms or cell_p.min() < 0 or cell_p.max() >= cells:
        raise InputError(f"{reader.path} lists a neighbour that is not an atom; it is damaged.")
    cell_cc = reader.doubles(12, "lattice vectors").reshape(3, 4)[:, 1:].copy()
    reader.doubles(12, "reciprocal vectors")
    pos_ic = reader.doubles(natoms * 4, "positions").reshape(natoms, 4)[:, 1:].copy()
    first_p = np.repeat(np.arange(natoms, dtype=np.int64), neighbours_i)
    shift_pc = shift_rc[cell_p]
    vector_pc = pos_ic[second_p] + shift_pc @ cell_cc - pos_ic[first_p]
    pairs = PairList(first_p, second_p, shift_pc, vector_pc)

    nvalues = int((norb_i[first_p] * norb_i[second_p]).sum())
    hamiltonians = [reader.doubles(nvalues, f"H of spin {s + 1}") for s in range(spin + 1)]
    parts = 3 if spin == NON_COLLINEAR else 0
    imaginary = [reader.doubles(nvalues, f"imaginary H, part {s + 1}") for s in range(parts)]
    overlap = reader.doubles(nvalues, "S")
    skipped = _skip_position_and_momentum(reader, nvalues, spin, order_max)
    densities = [reader.doubles(nvalues, f"density of spin {s + 1}") for s in range(spin + 1)]
    reader.doubles(skipped * nvalues, "imaginary density")
    reader.integers(1, "solver")
    numbers = reader.doubles(10, "chemical potential and electrons")
    nlines = int(reader.integers(1, "number of input lines")[0])
    raw = reader.array(f"S{INPUT_LINE}", nlines, "input text")
    # Lines are C strings: what follows the first null byte is left over from before.
    lines = [line.split(b"\0")[0].decode("latin-1") for line in raw]
    text = OpenMXText(lines, f"the input text in {reader.path}")

    order = np.lexsort((*shift_pc.T[::-1], second_p, first_p))

    def operator(values: NDArray[np.float64]) -> BlockOperator:
        return _sorted(BlockOperator(pairs, norb_i, values), order)

    return ScfoutData(
        structure=Structure(_symbols(text, natoms), pos_ic, cell_cc),
        hamiltonians=tuple(operator(values) for values in hamiltonians),
        imaginary=tuple(operator(values) for values in imaginary),
        overlap=operator(overlap),
        density_matrices=tuple(operator(values) for values in densities),
        electrons=float(numbers[8]),
        chemical_potential=float(numbers[0]),
        electronic_temperature=float(numbers[1]),
        text=text,
    )


def scfout_hamiltonian(path: str | Path) -> CrystalHamiltonian:
    """Read H and S of a self-consistent run, orbitals in the order m = -l..l of each shell.

    A collinear run with two spins becomes spinors whose blocks (up, down) are zero, so that one
    Fermi level fills both.

    Parameters
    ----------
    path : str or Path
        `.scfout` or `.scfout.xz`.

    Raises
    ------
    InputError
        As `read_scfout`; for a file that holds H0 instead of H, or whose orbitals cannot be told.
    """
    data = read_scfout(path)
    if not data.is_self_consistent:
        raise InputError(
            f"The density matrix in {path} does not hold the {data.electrons:g} electrons, so its "
            "H is not self-consistent (overlap.scfout holds H0); give the .scfout of the OpenMX "
            "run itself."
        )
    shells_i = _shells(data, path)
    order = [OPENMX_ORBITALS.from_program(shells) for shells in shells_i]
    parts = [reordered(x, order) for x in data.hamiltonians]
    imaginary = [reordered(x, order) for x in data.imaginary]
    system = OrbitalSystem(
        data.structure,
        shells_i,
        data.electrons,
        spinors=len(parts) > 1,
        mesh=openmx_mesh(data.text.kgrid(), time_reversal=not imaginary),
        temperature=data.electronic_temperature,
        chemical_potential=data.chemical_potential,
        openmx_species=_species(data),
    )
    return CrystalHamiltonian(
        system,
        _real_part(parts),
        reordered(data.overlap, order),
        _imaginary_part(parts, imaginary) if imaginary else None,
    )


def scfout_zero(path: str | Path) -> BlockOperator:
    """Read H0 of HamGNN's `overlap.scfout`, orbitals in the order m = -l..l of each shell.

    Raises
    ------
    InputError
        As `read_scfout`; for a file with spin, or of a self-consistent run, whose H is not H0.
    """
    data = read_scfout(path)
    if len(data.hamiltonians) > 1:
        raise InputError(f"{path} holds an H0 with spin, which has no place in other formats.")
    if data.is_self_consistent:
        raise InputError(
            f"{path} comes from a self-consistent run, so it holds H and not H0; give the "
            "overlap.scfout of openmx_postprocess."
        )
    order = [OPENMX_ORBITALS.from_program(shells) for shells in _shells(data, path)]
    return reordered(data.hamiltonians[0], order)


def _species(data: ScfoutData) -> dict[str, OpenMXSpecies]:
    """Return OpenMX's orbitals; none where a file has other ones, which bands can do without."""
    try:
        return data.text.species()
    except InputError:
        return {}


def _shells(data: ScfoutData, path: str | Path) -> tuple[tuple[int, ...], ...]:
    """Return the l of the shells of every atom, checked against the numbers of orbitals."""
    shells_i = tuple(label.shell_l for label in data.text.atom_labels())
    counts = [sum(2 * degree + 1 for degree in shells) for shells in shells_i]
    if counts != data.overlap.norb_i.tolist():
        raise InputError(
            f"The shells named in the input text of {path} do not add up to its numbers of "
            "orbitals; the file is damaged or put together from two runs."
        )
    return shells_i


def _real_part(parts: list[BlockOperator]) -> BlockOperator:
    if len(parts) == 1:
        return parts[0]
    if len(parts) == 2:
        return doubled(parts[0], parts[1])
    up, down, up_down, _ = parts
    return doubled(up, down, up_down, transposed(up_down))


def _imaginary_part(parts: list[BlockOperator], imaginary: list[BlockOperator]) -> BlockOperator:
    up, down, added = imaginary
    up_down = BlockOperator(added.pairs, added.norb_i, parts[3].values + added.values)
    down_up = transposed(up_down)
    return doubled(up, down, up_down, BlockOperator(up.pairs, up.norb_i, -down_up.values))


def _header(reader: _Reader) -> tuple[int, int, int, int | None]:
    """Return atoms, spin, cells, and the order of the position matrices (None: before 3.9)."""
    head = reader.integers(6, "header")
    spin, version = int(head[1]) % 4, int(head[1]) // 4
    if version not in (VERSION, OLD_VERSION) or head[0] < 1 or head[5] < 0:
        raise InputError(
            f"{reader.path} is not an .scfout of OpenMX (its header says version {version}, "
            f"{head[0]} atoms); write it with OpenMX 3.9 and HS.fileout on."
        )
    if version == OLD_VERSION:
        return int(head[0]), spin, int(head[5]) + 1, None
    order_max = int(reader.integers(1, "order of the position matrices")[0])
    return int(head[0]), spin, int(head[5]) + 1, order_max


def _skip_position_and_momentum(
    reader: _Reader, nvalues: int, spin: int, order_max: int | None
) -> int:
    """Pass over matrices that some programs leave out: the file's size tells.

    Returns
    -------
    int
        Number of matrices of the imaginary density.
    """
    # Position and momentum matrices, then those of the imaginary density.
    layouts = [(3, 2), (3, 0)] if order_max is None else [(3 * order_max + 3, 2), (0, 2)]
    for matrices, imaginary in layouts:
        start = reader.position + matrices * nvalues * 8
        place = start + (spin + 1 + imaginary) * nvalues * 8 + 4 + 10 * 8
        if place + 4 <= len(reader.data):
            nlines = int(np.frombuffer(reader.data, "<i4", 1, place)[0])
            if nlines >= 0 and place + 4 + nlines * INPUT_LINE == len(reader.data):
                reader.position = start
                return imaginary
    raise InputError(
        f"{reader.path} does not end where its overlap says it should; it is cut short or not "
        "an .scfout of OpenMX."
    )


def _sorted(operator: BlockOperator, order: NDArray[np.int64]) -> BlockOperator:
    result = BlockOperator.zeros(operator.pairs.select(order), operator.norb_i)
    place_p = np.empty(len(order), dtype=np.int64)
    place_p[order] = np.arange(len(order))
    for chosen, rows, columns in operator.groups():
        result.set_blocks(place_p[chosen], operator.blocks(chosen, rows, columns))
    return result


def _symbols(text: OpenMXText, natoms: int) -> tuple[str, ...]:
    symbols = tuple(label.symbol for label in text.atom_labels())
    if len(symbols) != natoms:
        raise InputError(f"{text.name} lists {len(symbols)} atoms, but the file holds {natoms}.")
    return symbols
