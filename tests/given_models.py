"""Small crystals with random H and S, and files of OpenMX that hold them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from hamgnn_solve.core.hamiltonian import (
    CrystalHamiltonian,
    KMesh,
    OrbitalSystem,
    doubled,
    reordered,
    transposed,
)
from hamgnn_solve.core.io.openmx_input import OPENMX_ORBITALS
from hamgnn_solve.core.operator import BlockOperator, dense_matrix
from hamgnn_solve.core.pairs import PairList, find_pairs, join_pairs, onsite_pairs
from hamgnn_solve.core.structure import Structure

CELL = np.array([[5.0, 0.0, 0.0], [0.5, 6.0, 0.0], [0.0, -0.4, 7.0]])
STRUCTURE = Structure(
    ("Mo", "S", "H", "S"),
    np.array([[0.1, 0.0, 0.2], [2.4, 1.1, 0.9], [0.3, 3.2, 3.6], [3.1, 4.0, 5.2]]),
    CELL,
)
SHELLS = ((0, 1, 2), (0, 0, 1), (0,), (0, 0, 1))
INPUT = """\
scf.SpinPolarization {spin}
scf.ElectronicTemperature 1000.0
scf.Kgrid 3 1 2
<Definition.of.Atomic.Species
 Mo Mo7.0-s1p1d1 Mo_PBE19
 S S7.0-s2p1 S_PBE19
 H1 H6.0-s1 H_PBE19
Definition.of.Atomic.Species>
Atoms.Number 4
<Atoms.SpeciesAndCoordinates
 1 Mo 0 0 0 7 7
 2 S 0 0 0 3 3
 3 H1 0 0 0 0.5 0.5
 4 S 0 0 0 3 3
Atoms.SpeciesAndCoordinates>
"""


def pairs_within(reach: float) -> PairList:
    """Return the pairs within twice `reach` Bohr, the atoms themselves included."""
    near = find_pairs(STRUCTURE, np.full(4, reach))
    return join_pairs(STRUCTURE, near, onsite_pairs(np.arange(4)))


def symmetric(pairs: PairList, norb_i: NDArray[np.int64], seed: int) -> BlockOperator:
    """Return random blocks with (i, j, R) the transpose of (j, i, -R)."""
    shape = BlockOperator.zeros(pairs, norb_i).values.shape
    raw = BlockOperator(pairs, norb_i, np.random.default_rng(seed).standard_normal(shape))
    return BlockOperator(pairs, norb_i, 0.15 * (raw.values + transposed(raw).values))


def antisymmetric(pairs: PairList, norb_i: NDArray[np.int64], seed: int) -> BlockOperator:
    """Return random blocks with (i, j, R) minus the transpose of (j, i, -R)."""
    shape = BlockOperator.zeros(pairs, norb_i).values.shape
    raw = BlockOperator(pairs, norb_i, np.random.default_rng(seed).standard_normal(shape))
    return BlockOperator(pairs, norb_i, 0.15 * (raw.values - transposed(raw).values))


def random_overlap(pairs: PairList, norb_i: NDArray[np.int64], seed: int) -> BlockOperator:
    """Return the unit matrix with a small symmetric addition."""
    small = symmetric(pairs, norb_i, seed)
    result = BlockOperator(pairs, norb_i, 0.02 * small.values)
    for p in np.flatnonzero(pairs.distance_p == 0.0):
        result.block(int(p))[...] += np.eye(norb_i[pairs.first_p[p]])
    return result


def crystal(spin: str = "off", electrons: float | None = 14.0) -> CrystalHamiltonian:
    """Return a random crystal without spin ("off"), collinear ("on") or non-collinear ("nc").

    S has pairs that H lacks.
    """
    norb_i = np.array([sum(2 * x + 1 for x in shells) for shells in SHELLS])
    pairs = pairs_within(2.6)
    mesh = KMesh(np.array([[0.1, 0.2, 0.3], [0.0, 0.0, 0.0]]), np.array([0.75, 0.25]))
    system = OrbitalSystem(STRUCTURE, SHELLS, electrons, spin != "off", mesh, 300.0, -0.1)
    overlap = random_overlap(pairs_within(3.0), norb_i, 1)
    if spin == "off":
        return CrystalHamiltonian(
            system, symmetric(pairs, norb_i, 2), overlap, zero=symmetric(pairs, norb_i, 7)
        )
    if spin == "on":
        up, down = symmetric(pairs, norb_i, 2), symmetric(pairs, norb_i, 3)
        return CrystalHamiltonian(system, doubled(up, down), overlap)
    return CrystalHamiltonian(
        system,
        symmetric(pairs, 2 * norb_i, 2),
        overlap,
        antisymmetric(pairs, 2 * norb_i, 3),
    )


def dense_energies(given: CrystalHamiltonian, k_c: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return all bands at k by LAPACK, in Hartree."""
    h = dense_matrix(given.hamiltonian, k_c)
    if given.imaginary is not None:
        h = h + 1j * dense_matrix(given.imaginary, k_c)
    return np.asarray(scipy.linalg.eigh(h, dense_matrix(given.overlap_of_bands, k_c))[0])


def write_scfout(
    path: Path,
    spin: str,
    parts: list[BlockOperator],
    imaginary: list[BlockOperator],
    overlap: BlockOperator,
    densities: list[BlockOperator],
    electrons: float,
    *,
    version: int = 3,
    moments: bool = True,
    imaginary_density: bool = True,
) -> None:
    """Write operators, given in our order of orbitals, as OpenMX 3.9 does (3.8 for version 0).

    All operators must have the pairs of `overlap`. Without `moments` the file is one of
    HamGNN's `openmx_postprocess`.
    """
    pairs, norb_i, natoms = overlap.pairs, overlap.norb_i, STRUCTURE.natoms
    switch = {"off": 0, "on": 1, "nc": 3}[spin]
    shifts, cell_p = np.unique(
        np.concatenate([np.zeros((1, 3), dtype=int), pairs.shift_pc]), axis=0, return_inverse=True
    )
    cell_p = cell_p.ravel()[1:]
    # Neighbours are not sorted in OpenMX, and an atom is its own first neighbour.
    scramble = np.lexsort((-pairs.second_p, pairs.distance_p > 0.0, pairs.first_p))
    order = [OPENMX_ORBITALS.to_program(shells) for shells in SHELLS]

    def padded(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.column_stack([np.zeros(len(vectors)), vectors])

    def blocks(operator: BlockOperator) -> bytes:
        theirs = reordered(operator, order)
        return b"".join(theirs.block(int(p)).astype("<f8").tobytes() for p in scramble)

    count_i = np.bincount(pairs.first_p, minlength=natoms)
    nothing = bytes(8 * len(overlap.values))
    pieces = [
        np.array(
            [natoms, switch + 4 * version, 0, 0, 0, len(shifts) - 1, *[1] * (version > 0)], "<i4"
        ),
        padded(shifts @ CELL).astype("<f8"),
        padded(shifts).astype("<i4"),
        norb_i.astype("<i4"),
        (count_i - 1).astype("<i4"),
        (pairs.second_p[scramble] + 1).astype("<i4"),
        cell_p[scramble].astype("<i4"),
        padded(CELL).astype("<f8"),
        padded(2 * np.pi * np.linalg.inv(CELL).T).astype("<f8"),
        padded(STRUCTURE.pos_ic).astype("<f8"),
    ]
    data = b"".join(piece.tobytes() for piece in pieces)
    data += b"".join(map(blocks, [*parts, *imaginary, overlap]))
    data += nothing * ((6 if version else 3) if moments else 0) + b"".join(map(blocks, densities))
    data += nothing * (2 if imaginary_density else 0)
    lines = INPUT.format(spin=spin).splitlines()
    numbers = np.array([-0.125, 1000.0, 0, 0, 0, 0, 0, 0, electrons, 0.0], "<f8")
    data += np.array([3], "<i4").tobytes() + numbers.tobytes()
    data += np.array([len(lines)], "<i4").tobytes()
    data += b"".join(line.encode().ljust(256, b"\0") for line in lines)
    path.write_bytes(data)


def density_of(overlap: BlockOperator, electrons: float) -> BlockOperator:
    """Return blocks D with sum(D * S) = electrons."""
    norm = float(overlap.values @ overlap.values)
    return BlockOperator(overlap.pairs, overlap.norb_i, electrons / norm * overlap.values)
