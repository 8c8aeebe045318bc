"""H and S of a crystal that are given, with what is needed to solve them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hamgnn_solve.core.basis.openmx_table import OpenMXSpecies
from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.operator import BlockOperator
from hamgnn_solve.core.pairs import PairList
from hamgnn_solve.core.structure import Structure
from hamgnn_solve.core.units import ANGSTROM_PER_BOHR

__all__ = [
    "CrystalHamiltonian",
    "KMesh",
    "OrbitalOrder",
    "OrbitalSystem",
    "check_not_h0",
    "check_same_structure",
    "doubled",
    "gamma_centred_mesh",
    "half_reach",
    "on_pairs",
    "owned_rows",
    "reordered",
    "transposed",
]

# Hartree. H and H0 of a self-consistent run differ by tenths of a Hartree.
SMALLEST_CHANGE = 1e-8
# Angstrom. Positions in files of two programs agree to what their decimals and constants allow.
SAME_PLACE = 2e-3


@dataclass(frozen=True)
class KMesh:
    """The k mesh of a self-consistent run.

    Parameters
    ----------
    kpoints_kc : ndarray, shape (K, 3)
        Fractional k.
    weights_k : ndarray, shape (K,)
        They sum to one.
    """

    kpoints_kc: NDArray[np.float64]
    weights_k: NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.kpoints_kc.shape != (len(self.weights_k), 3):
            raise ValueError(f"{len(self.weights_k)} weights, k of shape {self.kpoints_kc.shape}")


def gamma_centred_mesh(divisions: tuple[int, int, int]) -> KMesh:
    """Return a regular mesh that holds Gamma; of k and -k one, with the weight of both.

    Parameters
    ----------
    divisions : tuple of int
        k-points along the three reciprocal vectors.
    """
    index_kc = np.indices(divisions).reshape(3, -1).T
    opposite_kc = -index_kc % np.array(divisions)
    stride_c = np.array([divisions[1] * divisions[2], divisions[2], 1])
    place_k, opposite_k = index_kc @ stride_c, opposite_kc @ stride_c
    kept = place_k <= opposite_k
    kpoints_kc = index_kc[kept] / np.array(divisions)
    weights_k = np.where(place_k == opposite_k, 1.0, 2.0)[kept] / len(index_kc)
    return KMesh(np.where(kpoints_kc > 0.5, kpoints_kc - 1.0, kpoints_kc), weights_k)


@dataclass(frozen=True)
class OrbitalSystem:
    """Atoms, orbitals and electrons of given operators: all of a file but the blocks.

    Parameters
    ----------
    structure : Structure
    shells_i : tuple of tuple of int
        For each atom the l of its shells in the order of rows; a shell has m = -l..l.
    electrons : float or None
        Electrons in the cell; None where the file does not tell.
    spinors : bool
        Blocks of H hold every orbital with spin up, then every orbital with spin down (columns
        alike), and a band takes one electron.
    mesh : KMesh, optional
        The k mesh of the run that made H.
    temperature : float, optional
        Electronic temperature of that run in kelvin.
    chemical_potential : float, optional
        Where that run put the Fermi level, in Hartree.
    openmx_species : mapping of str to OpenMXSpecies
        OpenMX's orbitals of each element; empty where the file does not tell them.
    """

    structure: Structure
    shells_i: tuple[tuple[int, ...], ...]
    electrons: float | None
    spinors: bool = False
    mesh: KMesh | None = None
    temperature: float = 0.0
    chemical_potential: float | None = None
    openmx_species: Mapping[str, OpenMXSpecies] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.shells_i) != self.structure.natoms:
            raise ValueError(f"shells of {len(self.shells_i)} of {self.structure.natoms} atoms")

    @cached_property
    def norb_i(self) -> NDArray[np.int64]:
        """Number of orbitals of each atom without spin, shape (N,)."""
        return np.array([sum(2 * x + 1 for x in shells) for shells in self.shells_i], np.int64)

    @cached_property
    def kind_i(self) -> NDArray[np.int64]:
        """Number of each atom's kind, which is its element and its shells, shape (N,)."""
        kinds = list(zip(self.structure.symbols, self.shells_i, strict=True))
        number = {kind: n for n, kind in enumerate(dict.fromkeys(kinds))}
        return np.array([number[kind] for kind in kinds], np.int64)

    @property
    def electrons_per_band(self) -> int:
        """How many electrons a band takes."""
        return 1 if self.spinors else 2


@dataclass(frozen=True)
class CrystalHamiltonian:
    """H and S on blocks of pairs of atoms; under MPI the blocks whose first atom a rank owns.

    Parameters
    ----------
    system : OrbitalSystem
    hamiltonian : BlockOperator
        H in Hartree, its real part; of spinors with twice the orbitals.
    overlap : BlockOperator
        S of the orbitals without spin.
    imaginary : BlockOperator, optional
        Imaginary part of H(R), on the same pairs as H.
    zero : BlockOperator, optional
        H0, the part of H that no density enters, without spin.
    """

    system: OrbitalSystem
    hamiltonian: BlockOperator
    overlap: BlockOperator
    imaginary: BlockOperator | None = None
    zero: BlockOperator | None = None

    def __post_init__(self) -> None:
        scalar_i = self.system.norb_i
        spinor_i = scalar_i * (2 if self.system.spinors else 1)
        for operator, norb_i in (
            (self.hamiltonian, spinor_i),
            (self.imaginary, spinor_i),
            (self.overlap, scalar_i),
            (self.zero, scalar_i),
        ):
            if operator is not None and not np.array_equal(operator.norb_i, norb_i):
                raise ValueError("an operator has other numbers of orbitals than the shells")

    def rows_of(self, atoms: NDArray[np.int64]) -> CrystalHamiltonian:
        """Return the blocks whose first atom is among `atoms` (global indices)."""

        def part(operator: BlockOperator | None) -> BlockOperator | None:
            return None if operator is None else owned_rows(operator, atoms)

        return CrystalHamiltonian(
            self.system,
            owned_rows(self.hamiltonian, atoms),
            owned_rows(self.overlap, atoms),
            part(self.imaginary),
            part(self.zero),
        )

    @property
    def overlap_of_bands(self) -> BlockOperator:
        """S with as many orbitals as H: of spinors with both spins."""
        return doubled(self.overlap, self.overlap) if self.system.spinors else self.overlap


def check_not_h0(given: CrystalHamiltonian, name: str) -> None:
    """Raise `InputError` when the H of a file is its H0: its program stopped before the density."""
    if given.zero is not None and _equal(given.hamiltonian, given.zero):
        raise InputError(
            f"In {name} H equals H0, so it holds no self-consistent potential; take H from the "
            ".scfout of the OpenMX run itself, not from overlap.scfout."
        )


def _equal(left: BlockOperator, right: BlockOperator) -> bool:
    if len(left.values) != len(right.values) or len(left.values) == 0:
        return False
    return bool(np.abs(left.values - right.values).max() < SMALLEST_CHANGE)


@dataclass(frozen=True)
class OrbitalOrder:
    """Order of the orbitals of a shell in another program.

    Parameters
    ----------
    place_l : dict of int to tuple of int
        For each l the place of the program's orbitals among m = -l..l.
    """

    place_l: dict[int, tuple[int, ...]]

    def from_program(self, shells: tuple[int, ...]) -> NDArray[np.int64]:
        """Return for each orbital in our order its place in the program's, shape (norb,)."""
        return np.argsort(self.to_program(shells))

    def to_program(self, shells: tuple[int, ...]) -> NDArray[np.int64]:
        """Return for each orbital in the program's order its place in ours, shape (norb,).

        Raises
        ------
        InputError
            For a shell whose order is not known.
        """
        if max(shells) not in self.place_l:
            raise InputError(
                f"A shell with l = {max(shells)} has no known order of orbitals; "
                f"the file may have shells up to l = {max(self.place_l)}."
            )
        start, places = 0, []
        for degree in shells:
            places += [start + place for place in self.place_l[degree]]
            start += 2 * degree + 1
        return np.array(places, dtype=np.int64)


def reordered(operator: BlockOperator, source_i: list[NDArray[np.int64]]) -> BlockOperator:
    """Return an operator with the orbitals of every atom in another order.

    Parameters
    ----------
    operator : BlockOperator
    source_i : list of ndarray of int64
        For each atom and each new orbital its old place.
    """
    widest = max(len(source) for source in source_i)
    table = np.zeros((len(source_i), widest), dtype=np.int64)
    for i, source in enumerate(source_i):
        table[i, : len(source)] = source
    result = BlockOperator.zeros(operator.pairs, operator.norb_i)
    for chosen, rows, columns in operator.groups():
        row = table[operator.pairs.first_p[chosen], :rows, None]
        column = table[operator.pairs.second_p[chosen], None, :columns]
        blocks = operator.blocks(chosen, rows, columns)
        result.set_blocks(chosen, blocks[np.arange(len(chosen))[:, None, None], row, column])
    return result


def owned_rows(operator: BlockOperator, atoms: NDArray[np.int64]) -> BlockOperator:
    """Return the blocks whose first atom is among `atoms` (global indices)."""
    return operator.select(np.flatnonzero(np.isin(operator.pairs.first_p, atoms)))


def on_pairs(operator: BlockOperator, pairs: PairList) -> BlockOperator:
    """Return an operator on other pairs: zero where it has no block, without those not listed."""
    result = BlockOperator.zeros(pairs, operator.norb_i)
    place_q = operator.pairs.position_of(pairs)
    for chosen, rows, columns in result.groups():
        stored = chosen[place_q[chosen] >= 0]
        result.set_blocks(stored, operator.blocks(place_q[stored], rows, columns))
    return result


def half_reach(operator: BlockOperator) -> NDArray[np.float64]:
    """Return half the length of each atom's longest pair in Bohr, shape (N,).

    Spheres of these radii overlap about where the operator has blocks; 0 where an atom has none
    here.
    """
    reach_i = np.zeros(len(operator.norb_i))
    np.maximum.at(reach_i, operator.pairs.first_p, 0.5 * operator.pairs.distance_p)
    return reach_i


def doubled(
    up: BlockOperator, down: BlockOperator, up_down: BlockOperator | None = None,
    down_up: BlockOperator | None = None,
) -> BlockOperator:  # fmt: skip
    """Return the operator of spinors whose blocks are ((up, up_down), (down_up, down)).

    Parameters
    ----------
    up, down : BlockOperator
        Diagonal in spin, on the same pairs.
    up_down, down_up : BlockOperator, optional
        Off-diagonal in spin, on the same pairs; zero by default.
    """
    result = BlockOperator.zeros(up.pairs, 2 * up.norb_i)
    for chosen, rows, columns in up.groups():
        blocks = np.zeros((len(chosen), 2, rows, 2, columns))
        parts = ((0, 0, up), (1, 1, down), (0, 1, up_down), (1, 0, down_up))
        for row, column, part in parts:
            if part is not None:
                blocks[:, row, :, column, :] = part.blocks(chosen, rows, columns)
        result.set_blocks(chosen, blocks)
    return result


def transposed(operator: BlockOperator) -> BlockOperator:
    """Return the operator whose block (i, j, R) is the transpose of block (j, i, -R).

    Raises
    ------
    InputError
        When a pair is there in one direction alone.
    """
    pairs = operator.pairs
    place_p = pairs.position_of(pairs.reversed())
    if (place_p < 0).any():
        p = int(np.argmin(place_p))
        raise InputError(
            f"The block of atoms {pairs.first_p[p] + 1} and {pairs.second_p[p] + 1} with R = "
            f"{pairs.shift_pc[p].tolist()} has no partner in the other direction; the file is "
            "damaged."
        )
    result = BlockOperator.zeros(pairs, operator.norb_i)
    for chosen, rows, columns in operator.groups():
        blocks = operator.blocks(place_p[chosen], columns, rows)
        result.set_blocks(chosen, blocks.transpose(0, 2, 1))
    return result


def check_same_structure(given: Structure, read: Structure, name: str) -> None:
    """Raise `InputError` unless a structure file shows the atoms that operators belong to.

    Parameters
    ----------
    given : Structure
        Of the operators.
    read : Structure
        Of the file `name`; the same atoms in the same order, up to lattice vectors.
    """
    problem = None
    if given.symbols != read.symbols:
        problem = "lists other elements, or the same in another order"
    elif np.abs(given.cell_cc - read.cell_cc).max() * ANGSTROM_PER_BOHR > SAME_PLACE:
        problem = "has another cell"
    else:
        difference = given.fractional_ic - read.fractional_ic
        away_ic = (difference - np.rint(difference)) @ given.cell_cc
        away_i = np.linalg.norm(away_ic, axis=1) * ANGSTROM_PER_BOHR
        i = int(np.argmax(away_i))
        if away_i[i] > SAME_PLACE:
            problem = f"has atom {i + 1} ({given.symbols[i]}) {away_i[i]:.3f} Angstrom elsewhere"
    if problem:
        raise InputError(
            f"The structure {name} {problem} than the file of --hamiltonian; leave it out, "
            "since the atoms come with the Hamiltonian."
        )
