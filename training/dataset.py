"""Label files as tensors for training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray

from hamgnn_solve.core.model import Model
from hamgnn_solve.core.network.graph import PairGraph
from hamgnn_solve.core.operator import BlockOperator
from hamgnn_solve.core.pairs import PairList, find_pairs, onsite_pairs
from hamgnn_solve.training.label_file import (
    Label,
    label_operators,
    label_structure_of,
    read_label,
    restrict_label,
)

__all__ = [
    "BandStates",
    "TrainingStructure",
    "bloch_matrix",
    "read_labels",
    "training_structure",
]

# False states in a nearly dependent basis come down first at the zone's corners and edges.
SPECIAL_KPOINTS = np.array(
    [
        [0, 0, 0],
        [1 / 2, 0, 0],
        [0, 1 / 2, 0],
        [1 / 2, 1 / 2, 0],
        [1 / 3, 1 / 3, 0],
        [1 / 3, -1 / 3, 0],
    ]
)
LABEL_KPOINTS = 4
RANDOM_KPOINTS = 6


@dataclass(frozen=True)
class BandStates:
    """States of the label at one k-point.

    Parameters
    ----------
    kpoint_c : Tensor, shape (3,)
        Fractional k-point.
    energies_n : Tensor, shape (M,)
        Energies in Hartree relative to the Fermi level.
    states_mn : Tensor of complex64, shape (M, M)
        States as columns, orthonormal with the overlap.
    """

    kpoint_c: torch.Tensor
    energies_n: torch.Tensor
    states_mn: torch.Tensor


@dataclass(frozen=True)
class TrainingStructure:
    """One labelled structure: input, target blocks and states between the network's orbitals.

    Blocks are padded to the table of shells, n = orbitals of the table; `present` marks the
    elements of orbitals that exist. Q = N + P counts on-site blocks, then pairs.

    Parameters
    ----------
    name : str
        Name of the label.
    types : Tensor of int64, shape (N,)
        Element types.
    pairs : PairGraph
        Pairs within orbital range.
    reverse : Tensor of int64, shape (P,)
        Index of each pair's reverse.
    target, overlap : Tensor, shape (Q, n, n)
        Hamiltonian in Hartree, and overlap.
    present : Tensor of bool, shape (Q, n, n)
        Elements between orbitals that exist.
    element : Tensor of int64, shape (number of present elements,)
        Place of each present element in the flattened M x M matrix of the structure.
    shift_qc : Tensor, shape (Q, 3)
        Cell shift of each block.
    bands : list of BandStates
        States at several k-points.
    """

    name: str
    types: torch.Tensor
    pairs: PairGraph
    reverse: torch.Tensor
    target: torch.Tensor
    overlap: torch.Tensor
    present: torch.Tensor
    element: torch.Tensor
    shift_qc: torch.Tensor
    bands: list[BandStates]

    @property
    def natoms(self) -> int:
        """Number of atoms."""
        return len(self.types)

    @property
    def distance_q(self) -> torch.Tensor:
        """Distance of each block's atoms in Bohr, zero on site."""
        return torch.cat([self.pairs.distance.new_zeros(self.natoms), self.pairs.distance])


def bloch_matrix(operator: BlockOperator, kpoint_c: NDArray[np.float64]) -> NDArray[np.complex128]:
    """Return O(k) = sum_R exp(2 pi i k.R) O(R) as a dense matrix, shape (M, M)."""
    start_i = np.concatenate([[0], np.cumsum(operator.norb_i)])
    size = int(start_i[-1])
    matrix = np.zeros(size * size, dtype=np.complex128)
    phase_p = np.exp(2j * np.pi * (operator.pairs.shift_pc @ kpoint_c))
    for chosen_p, rows, columns in operator.groups():
        row = start_i[operator.pairs.first_p[chosen_p]][:, None, None] + np.arange(rows)[:, None]
        column = start_i[operator.pairs.second_p[chosen_p]][:, None, None] + np.arange(columns)
        values = operator.blocks(chosen_p, rows, columns) * phase_p[chosen_p][:, None, None]
        np.add.at(matrix, (row * size + column).ravel(), values.ravel())
    return matrix.reshape(size, size)


def training_structure(name: str, label: Label, model: Model, seed: int = 0) -> TrainingStructure:
    """Return the tensors of one label for a model's network.

    Parameters
    ----------
    name : str
        Name of the label; with `seed` it decides the random k-points.
    label : Label
        Blocks from GPAW; pairs beyond the orbitals' range are left out.
    model : Model
        It says between which orbitals the blocks are, their range and their order.
    seed : int
        Seed of the random k-points.
    """
    if not model.openmx_species:
        label = restrict_label(label, model.kept)
    structure = label_structure_of(label)
    hamiltonian, overlap = label_operators(label)
    pairs = find_pairs(structure, model.basis.cutoff_i(structure))
    onsite = onsite_pairs(np.arange(structure.natoms, dtype=np.int64))
    blocks = PairList(
        *(
            np.concatenate([getattr(onsite, key), getattr(pairs, key)])
            for key in ("first_p", "second_p", "shift_pc", "vector_pc")
        )
    )
    place_q = hamiltonian.pairs.position_of(blocks)
    types_i = model.types_i(structure)
    n = model.network.table.norbitals
    target = np.zeros((len(blocks), n, n))
    metric = np.zeros((len(blocks), n, n))
    present = np.zeros((len(blocks), n, n), dtype=bool)
    element = np.zeros((len(blocks), n, n), dtype=np.int64)
    start_i = np.concatenate([[0], np.cumsum(hamiltonian.norb_i)])
    for a, rows in enumerate(model.slots):
        for b, columns in enumerate(model.slots):
            chosen = np.flatnonzero(
                (types_i[blocks.first_p] == a) & (types_i[blocks.second_p] == b)
            )
            where = np.ix_(chosen, rows, columns)
            present[where] = True
            row = start_i[blocks.first_p[chosen]][:, None, None] + np.arange(len(rows))[:, None]
            column = start_i[blocks.second_p[chosen]][:, None, None] + np.arange(len(columns))
            element[where] = row * int(start_i[-1]) + column
            # A pair whose label blocks are all below the file's threshold stays zero.
            stored = chosen[place_q[chosen] >= 0]
            where = np.ix_(stored, rows, columns)
            shape = len(rows), len(columns)
            left, right = model.mixing[a], model.mixing[b].T
            target[where] = left @ hamiltonian.blocks(place_q[stored], *shape) @ right
            metric[where] = left @ overlap.blocks(place_q[stored], *shape) @ right
    mask = torch.from_numpy(present)
    mixing = [model.mixing[t] for t in types_i]
    return TrainingStructure(
        name=name,
        types=torch.from_numpy(types_i),
        pairs=PairGraph(
            torch.from_numpy(pairs.first_p),
            torch.from_numpy(pairs.second_p),
            torch.from_numpy(pairs.vector_pc).float(),
        ),
        reverse=torch.from_numpy(pairs.position_of(pairs.reversed())),
        target=torch.from_numpy(target).float(),
        overlap=torch.from_numpy(metric).float(),
        present=mask,
        element=torch.from_numpy(element)[mask],
        shift_qc=torch.from_numpy(blocks.shift_pc).float(),
        bands=_band_states(name, label, scipy.linalg.block_diag(*mixing), seed),
    )


def read_labels(
    path: Path, model: Model, names: list[str] | None = None
) -> dict[str, TrainingStructure]:
    """Read the labels of a file (all, or those of `names` that it has) for training."""
    with h5py.File(path, "r", locking=False) as file:
        chosen = [name for name in file if names is None or name in names]
        return {name: training_structure(name, read_label(file[name]), model) for name in chosen}


def _band_states(
    name: str, label: Label, mixing_mm: NDArray[np.float64], seed: int
) -> list[BandStates]:
    """Return the label's states between the network's orbitals phi' = A phi: C' = A^-T C."""
    hamiltonian, overlap = label_operators(label)
    unmixing_mm = np.linalg.inv(mixing_mm).T
    random = np.random.default_rng([seed, *name.encode()])
    own = label.kpoints_kc[random.permutation(len(label.kpoints_kc))[:LABEL_KPOINTS]]
    free = random.uniform(-0.5, 0.5, (RANDOM_KPOINTS, 3)) * label.periodic_c
    bands = []
    special = SPECIAL_KPOINTS * label.periodic_c
    for kpoint_c in np.concatenate([special, own, free]):
        energies_n, states_mn = scipy.linalg.eigh(
            bloch_matrix(hamiltonian, kpoint_c), bloch_matrix(overlap, kpoint_c)
        )
        bands.append(
            BandStates(
                torch.from_numpy(kpoint_c).float(),
                torch.from_numpy(energies_n - float(label.details["fermi_level"])).float(),
                torch.from_numpy(unmixing_mm @ states_mn).to(torch.complex64),
            )
        )
    return bands
