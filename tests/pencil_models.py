"""Operators for tests of the solver: chains, random pencils, supercells and what OpenMX prints."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hamgnn_solve.core.operator import BlockOperator, dense_matrix
from hamgnn_solve.core.pairs import PairList
from hamgnn_solve.parallel.rows import OrbitalRows
from hamgnn_solve.solver.factorisation import FactorOptions
from hamgnn_solve.solver.pencil import Pencil

# OpenMX moves its k mesh by these along every axis with more than one division.
MESH_SHIFT = np.array([1e-6, -1e-6, 2e-6])


def operator_of(
    first: list[int],
    second: list[int],
    shift: list[tuple[int, int, int]],
    norb: list[int],
    blocks: list[NDArray[np.float64]],
) -> BlockOperator:
    """Return the operator with these blocks and, for each, its transpose on (j, i, -R)."""
    shift_pc = np.array(shift, dtype=np.int64).reshape(-1, 3)
    first_p, second_p = np.array(first, dtype=np.int64), np.array(second, dtype=np.int64)
    twins = np.flatnonzero((first_p != second_p) | shift_pc.any(axis=1))
    every = list(blocks) + [blocks[p].T for p in twins]
    pairs = PairList(
        np.concatenate([first_p, second_p[twins]]),
        np.concatenate([second_p, first_p[twins]]),
        np.concatenate([shift_pc, -shift_pc[twins]]),
        np.zeros((len(every), 3)),
    )
    values = np.concatenate([np.asarray(block, dtype=np.float64).ravel() for block in every])
    return BlockOperator(pairs, np.array(norb, dtype=np.int64), values)


def chain(hoppings: list[float], overlap: float = 0.1) -> tuple[BlockOperator, BlockOperator]:
    """Return H and S of a periodic chain along x, one s orbital an atom, on-site energy zero."""
    natoms = len(hoppings)
    second = [(i + 1) % natoms for i in range(natoms)]
    shift = [(0, 0, 0)] * natoms + [((i + 1) // natoms, 0, 0) for i in range(natoms)]
    first = [*range(natoms), *range(natoms)]
    second = [*range(natoms), *second]
    norb = [1] * natoms

    def matrix(onsite: float, values: list[float]) -> BlockOperator:
        blocks = [np.array([[onsite]])] * natoms + [np.array([[x]]) for x in values]
        return operator_of(first, second, shift, norb, blocks)

    return matrix(0.0, hoppings), matrix(1.0, [overlap] * natoms)


def random_pencil(norb: list[int], seed: int) -> tuple[BlockOperator, BlockOperator]:
    """Return H and S with random blocks, several images of most pairs; S has more pairs than H."""
    numbers = np.random.default_rng(seed)
    natoms = len(norb)
    images = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (1, -1, 0), (0, 0, 1)]
    places = [
        (i, j, shift)
        for i in range(natoms)
        for j in range(i, natoms)
        for shift in images
        if (i, j, shift) == (i, i, (0, 0, 0)) or numbers.random() < 0.6
    ]

    def matrix(
        chosen: list[tuple[int, int, tuple[int, int, int]]], scale: float, diagonal: float
    ) -> BlockOperator:
        blocks = []
        for i, j, shift in chosen:
            block = scale * numbers.standard_normal((norb[i], norb[j]))
            if i == j and shift == (0, 0, 0):
                block = 0.5 * (block + block.T) + diagonal * np.eye(norb[i])
            blocks.append(block)
        first = [place[0] for place in chosen]
        second = [place[1] for place in chosen]
        return operator_of(first, second, [place[2] for place in chosen], norb, blocks)

    return matrix(places[: -len(places) // 4], 0.3, 0.0), matrix(places, 0.3 / sum(norb), 1.0)


def almost_dependent(
    seed: int, count: int, part: float = 1e-4
) -> tuple[BlockOperator, BlockOperator]:
    """Return a pencil in which some orbitals are those of other atoms but for a part."""
    hamiltonian, overlap = random_pencil([2, 2, 2] * 8, seed=seed)
    natoms = len(overlap.norb_i)
    size = int(overlap.norb_i.sum())
    turn = np.eye(size)
    for n in range(count):
        turn[2 * n, 2 * n], turn[2 * n, 2 * (n + count)] = part, 1.0
    whole = []
    for operator in (hamiltonian, overlap):
        dense = dense_matrix(operator, (0.0, 0.0, 0.0)).real
        dense = turn @ (0.5 * (dense + dense.T)) @ turn.T
        places = [(i, j) for i in range(natoms) for j in range(i, natoms)]
        blocks = [dense[2 * i : 2 * i + 2, 2 * j : 2 * j + 2] for i, j in places]
        whole.append(
            operator_of(
                [i for i, _ in places],
                [j for _, j in places],
                [(0, 0, 0)] * len(places),
                [2] * natoms,
                blocks,
            )
        )
    return whole[0], whole[1]


def supercell(operator: BlockOperator, repeats: tuple[int, int, int]) -> BlockOperator:
    """Return the operator of a supercell, its atoms cell by cell."""
    size = np.array(repeats)
    cells = np.stack(np.meshgrid(*map(np.arange, repeats), indexing="ij"), -1).reshape(-1, 3)
    pairs, natoms = operator.pairs, len(operator.norb_i)
    reached = cells[:, None, :] + pairs.shift_pc[None]
    inside = reached % size
    cell = (inside[..., 0] * size[1] + inside[..., 1]) * size[2] + inside[..., 2]
    new = PairList(
        (np.arange(len(cells))[:, None] * natoms + pairs.first_p).ravel(),
        (cell * natoms + pairs.second_p).ravel(),
        (reached // size).reshape(-1, 3),
        np.tile(pairs.vector_pc, (len(cells), 1)),
    )
    count = len(cells)
    return BlockOperator(new, np.tile(operator.norb_i, count), np.tile(operator.values, count))


def folded_kpoints(
    k_c: tuple[float, float, float], repeats: tuple[int, int, int]
) -> NDArray[np.float64]:
    """Return the k of the primitive cell that fold onto k of the supercell."""
    cells = np.stack(np.meshgrid(*map(np.arange, repeats), indexing="ij"), -1).reshape(-1, 3)
    return (cells + np.array(k_c)) / np.array(repeats)


def owned_part(operator: BlockOperator, owner_i: NDArray[np.int64], rank: int) -> BlockOperator:
    """Return the blocks whose first atom a rank owns."""
    kept = np.flatnonzero(owner_i[operator.pairs.first_p] == rank)
    blocks = [operator.block(int(p)).ravel() for p in kept]
    values = np.concatenate(blocks) if blocks else np.zeros(0)
    return BlockOperator(operator.pairs.select(kept), operator.norb_i, values)


def pencil_of(
    hamiltonian: BlockOperator,
    overlap: BlockOperator,
    comm: MPI.Comm = MPI.COMM_SELF,
    owner_i: NDArray[np.int64] | None = None,
    factor_options: FactorOptions | None = None,
) -> Pencil:
    """Return the pencil of whole operators, each rank keeping the blocks of its atoms."""
    if owner_i is None:
        owner_i = np.zeros(len(overlap.norb_i), dtype=np.int64)
    rows = OrbitalRows(owner_i, overlap.norb_i, comm.size, comm.rank)
    return Pencil(
        owned_part(hamiltonian, owner_i, comm.rank),
        owned_part(overlap, owner_i, comm.rank),
        rows,
        comm,
        factor_options=factor_options,
    )


def printed_bands(path: Path) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Return (k, eigenvalues in Hartree) of every k-point in an OpenMX `.out` file."""
    text = path.read_text(encoding="latin-1")
    text = text[text.index("Eigenvalues (Hartree)") :]
    mesh = re.search(r"scf.Kgrid\s+(\d+)\s+(\d+)\s+(\d+)", path.with_suffix(".dat").read_text())
    assert mesh is not None
    shift = MESH_SHIFT * (np.array(mesh.groups(), dtype=int) > 1)
    result: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
    for part in re.split(r"kloop=\d+", text)[1:] or [text]:
        k_c = re.search(r"k1=\s*(\S+)\s+k2=\s*(\S+)\s+k3=\s*(\S+)", part)
        rows = re.findall(r"^\s+\d+\s+(-?\d+\.\d{10,})\s+-?\d+\.\d{10,}\s*$", part, re.MULTILINE)
        point = np.zeros(3)
        if k_c is not None:
            point += np.array(k_c.groups(), dtype=float) + shift
        result.append((point, np.array(rows, dtype=np.float64)))
    return result
