"""Hamiltonian, overlap and density matrix from OpenMX's `.scfout` files."""

from __future__ import annotations

import lzma
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.operator import BlockOperator
from hamgnn_solve.core.pairs import PairList
from hamgnn_solve.core.structure import Structure

__all__ = ["ScfoutData", "read_scfout"]

VERSION = 3
NON_COLLINEAR = 3
INPUT_LINE = 256


@dataclass(frozen=True)
class ScfoutData:
    """What an OpenMX 3.9 `.scfout` file holds.

    Orbitals stay in OpenMX's order on every atom (l, then zeta, then px py pz;
    3z2-r2, x2-y2, xy, xz, yz; ...), the same in all operators.

    Parameters
    ----------
    structure : Structure
        Atoms and cell; the symbol is "X" where the trailing input names none.
    hamiltonians : tuple of BlockOperator
        H of every collinear spin, in Hartree: one, or two for a spin-polarised run.
    overlap : BlockOperator
        S.
    density_matrices : tuple of BlockOperator
        One a spin; meaningless in a file of `openmx_postprocess`, which makes no density.
    electrons : float
        Number of valence electrons in the cell.
    chemical_potential : float
        In Hartree.
    electronic_temperature : float
        In kelvin.
    """

    structure: Structure
    hamiltonians: tuple[BlockOperator, ...]
    overlap: BlockOperator
    density_matrices: tuple[BlockOperator, ...]
    electrons: float
    chemical_potential: float
    electronic_temperature: float


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
                "the file is cut short or not an .scfout of OpenMX 3.9."
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
    """Read an `.scfout` file of OpenMX 3.9, or the one compressed as `.scfout.xz`.

    Parameters
    ----------
    path : str or Path
        Written with `HS.fileout on`, or HamGNN's `overlap.scfout`.

    Raises
    ------
    InputError
        For a file that cannot be read, is cut short, has another version, or is non-collinear.

    Notes
    -----
    Layout after OpenMX 3.9 (`Output_HKS`): raw little-endian, Hartree and Bohr.
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
    overlap = reader.doubles(nvalues, "S")
    _skip_position_and_momentum(reader, nvalues, spin, order_max)
    densities = [reader.doubles(nvalues, f"density of spin {s + 1}") for s in range(spin + 1)]
    reader.doubles(2 * nvalues, "imaginary density")
    reader.integers(1, "solver")
    numbers = reader.doubles(10, "chemical potential and electrons")
    nlines = int(reader.integers(1, "number of input lines")[0])
    text = reader.array(f"S{INPUT_LINE}", nlines, "input text")
    # Lines are C strings: what follows the first null byte is left over from before.
    lines = [line.split(b"\0")[0].decode("latin-1") for line in text]
    symbols = _symbols(lines, natoms)

    order = np.lexsort((*shift_pc.T[::-1], second_p, first_p))

    def operator(values: NDArray[np.float64]) -> BlockOperator:
        return _sorted(BlockOperator(pairs, norb_i, values), order)

    return ScfoutData(
        structure=Structure(symbols, pos_ic, cell_cc),
        hamiltonians=tuple(operator(values) for values in hamiltonians),
        overlap=operator(overlap),
        density_matrices=tuple(operator(values) for values in densities),
        electrons=float(numbers[8]),
        chemical_potential=float(numbers[0]),
        electronic_temperature=float(numbers[1]),
    )


def _header(reader: _Reader) -> tuple[int, int, int, int]:
    head = reader.integers(6, "header")
    spin, version = int(head[1]) % 4, int(head[1]) // 4
    if version != VERSION or head[0] < 1 or head[5] < 0:
        raise InputError(
            f"{reader.path} is not an .scfout of OpenMX 3.9 (its header says version {version}, "
            f"{head[0]} atoms); write it with OpenMX 3.9 and HS.fileout on."
        )
    if spin == NON_COLLINEAR:
        raise InputError(
            f"{reader.path} comes from a non-collinear run, which is not supported; "
            "run OpenMX with scf.SpinPolarization off or on."
        )
    order_max = int(reader.integers(1, "order of the position matrices")[0])
    return int(head[0]), spin, int(head[5]) + 1, order_max


def _skip_position_and_momentum(reader: _Reader, nvalues: int, spin: int, order_max: int) -> None:
    """Pass over matrices that HamGNN's `overlap.scfout` may leave out: the file's size tells."""
    matrices = 3 * order_max + 3
    after = (spin + 3) * nvalues * 8
    skipped = reader.position + matrices * nvalues * 8
    for start in (skipped, reader.position):
        place = start + after + 4 + 10 * 8
        if place + 4 <= len(reader.data):
            nlines = int(np.frombuffer(reader.data, "<i4", 1, place)[0])
            if nlines >= 0 and place + 4 + nlines * INPUT_LINE == len(reader.data):
                reader.position = start
                return
    raise InputError(
        f"{reader.path} does not end where its overlap says it should; it is cut short or not "
        "an .scfout of OpenMX 3.9."
    )


def _sorted(operator: BlockOperator, order: NDArray[np.int64]) -> BlockOperator:
    result = BlockOperator.zeros(operator.pairs.select(order), operator.norb_i)
    place_p = np.empty(len(order), dtype=np.int64)
    place_p[order] = np.arange(len(order))
    for chosen, rows, columns in operator.groups():
        result.set_blocks(place_p[chosen], operator.blocks(chosen, rows, columns))
    return result


def _symbols(lines: list[str], natoms: int) -> tuple[str, ...]:
    elements = {}
    for words in _section(lines, "Definition.of.Atomic.Species"):
        element = re.match(r"[A-Z][a-z]?", words[1]) if len(words) > 1 else None
        if element:
            elements[words[0]] = element.group()
    atoms = _section(lines, "Atoms.SpeciesAndCoordinates")
    if len(atoms) != natoms:
        return ("X",) * natoms
    return tuple(elements.get(words[1], "X") if len(words) > 1 else "X" for words in atoms)


def _section(lines: list[str], name: str) -> list[list[str]]:
    lowered = [line.strip().lower() for line in lines]
    try:
        start = lowered.index(f"<{name.lower()}")
        stop = lowered.index(f"{name.lower()}>", start)
    except ValueError:
        return []
    return [line.split() for line in lines[start + 1 : stop] if line.split()]
