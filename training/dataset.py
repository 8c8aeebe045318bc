"""Label files as tensors for training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.model import Model
from hamgnn_solve.core.network.graph import PairGraph
from hamgnn_solve.core.operator import BlockOperator, dense_matrix
from hamgnn_solve.core.pairs import PairList, find_pairs, onsite_pairs
from hamgnn_solve.training.label_file import (
    Label,
    distinct_labels,
    label_operators,
    restrict_label,
)
from hamgnn_solve.training.same_orbitals import check_same_orbitals, labelled_structure

__all__ = [
    "BandStates",
    "TrainingStructure",
    "bloch_sum",
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
# From so many orbitals on fewer k-points do: their number times the cube is what states cost.
MANY_ORBITALS = 200
# Mean |H - H0| in Hartree below which H is taken for H0.
LEAST_DIFFERENCE = 1e-6


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
        What the network is to predict in Hartree, and the overlap.
    present : Tensor of bool, shape (Q, n, n)
        Elements between orbitals that exist.
    element : Tensor of int64, shape (number of present elements,)
        Place of each present element in the flattened M x M matrix of the structure.
    shift_qc : Tensor, shape (Q, 3)
        Cell shift of each block.
    bands : list of BandStates
        States at several k-points; may be empty.
    norbitals : int
        Orbitals M of the structure.
    filled_bands : int
        Bands that the electrons fill.
    periodic_c : ndarray of bool, shape (3,)
        Which axes are periodic.
    zero : Tensor, shape (Q, n, n), optional
        H0 in Hartree, where the target is H - H0.
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
    norbitals: int
    filled_bands: int
    periodic_c: NDArray[np.bool_]
    zero: torch.Tensor | None = None

    @property
    def hamiltonian(self) -> torch.Tensor:
        """H in Hartree, shape (Q, n, n)."""
        return self.with_zero(self.target)

    def with_zero(self, blocks: torch.Tensor) -> torch.Tensor:
        """Return what the network predicts plus H0, if there is one."""
        return blocks if self.zero is None else blocks + self.zero

    def to(self, device: torch.device) -> TrainingStructure:
        """Return the structure with its tensors on a device."""
        if self.target.device == device:
            return self
        moved: dict[str, Any] = {
            one.name: value.to(device)
            for one in fields(self)
            if isinstance(value := getattr(self, one.name), torch.Tensor | PairGraph)
        }
        bands = [
            BandStates(*(x.to(device) for x in (b.kpoint_c, b.energies_n, b.states_mn)))
            for b in self.bands
        ]
        return replace(self, bands=bands, **moved)

    @property
    def natoms(self) -> int:
        """Number of atoms."""
        return len(self.types)

    @property
    def distance_q(self) -> torch.Tensor:
        """Distance of each block's atoms in Bohr, zero on site."""
        return torch.cat([self.pairs.distance.new_zeros(self.natoms), self.pairs.distance])


def bloch_sum(
    blocks: torch.Tensor, structure: TrainingStructure, kpoint_c: NDArray[np.float64] | torch.Tensor
) -> torch.Tensor:
    """Return O(k) = sum_R exp(2 pi i k.R) O(R) of blocks of a structure, differentiable.

    Parameters
    ----------
    blocks : Tensor, shape (Q, n, n)
        Padded blocks, on-site first.
    structure : TrainingStructure
    kpoint_c : array_like, shape (3,)
        Fractional k.

    Returns
    -------
    Tensor of complex, shape (M, M)
        Double precision for an ndarray of k, else that of the k-point.
    """
    k_c = torch.as_tensor(kpoint_c, device=blocks.device)
    size = structure.norbitals
    counts = structure.present.flatten(1).sum(dim=1)
    angle = 2.0 * math.pi * (structure.shift_qc.to(k_c.dtype) @ k_c)
    angle = torch.repeat_interleave(angle, counts)
    values = blocks[structure.present].to(k_c.dtype)
    zeros = values.new_zeros(size * size)
    real = zeros.index_add(0, structure.element, values * torch.cos(angle))
    imaginary = zeros.index_add(0, structure.element, values * torch.sin(angle))
    return torch.complex(real, imaginary).view(size, size)


def training_structure(
    name: str, label: Label, model: Model, seed: int = 0, with_states: bool = True
) -> TrainingStructure:
    """Return the tensors of one label for a model's network.

    Parameters
    ----------
    name : str
        Name of the label; with `seed` it decides the random k-points.
    label : Label
        Blocks of the labelling program; pairs beyond the orbitals' range are left out.
    model : Model
        It says between which orbitals the blocks are, their range and their order. Where its
        network predicts H - H0, that is the target.
    seed : int
        Seed of the random k-points of the states.
    with_states : bool
        Compute the label's states (a diagonalisation for each k-point).

    Raises
    ------
    InputError
        When label and model do not speak of the same orbitals, the label has no H0 that the model
        needs, or its H is H0: that of a program that never made the density consistent.
    """
    structure = labelled_structure(label, model)
    check_same_orbitals(model, name, label)
    if not model.openmx_species:
        label = restrict_label(label, model.kept)
    hamiltonian, overlap = label_operators(label)
    operators = {"target": hamiltonian, "overlap": overlap}
    if model.network.config.add_h0:
        operators["zero"] = _zero(name, label, hamiltonian)
        operators["target"] = replace(
            hamiltonian, values=hamiltonian.values - operators["zero"].values
        )
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
    padded = {key: np.zeros((len(blocks), n, n), dtype=np.float32) for key in operators}
    present = np.zeros((len(blocks), n, n), dtype=bool)
    element = np.zeros((len(blocks), n, n), dtype=np.int64)
    start_i = np.concatenate([[0], np.cumsum(hamiltonian.norb_i)])
    for a, b in np.unique(np.stack([types_i[blocks.first_p], types_i[blocks.second_p]], 1), axis=0):
        rows, columns = model.slots[a], model.slots[b]
        chosen = np.flatnonzero((types_i[blocks.first_p] == a) & (types_i[blocks.second_p] == b))
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
        for key, operator in operators.items():
            padded[key][where] = left @ operator.blocks(place_q[stored], *shape) @ right
    mask = torch.from_numpy(present)
    mixing = [model.mixing[t] for t in types_i]
    states = (
        _band_states(name, label, scipy.linalg.block_diag(*mixing), seed) if with_states else []
    )
    return TrainingStructure(
        name=name,
        types=torch.from_numpy(types_i),
        pairs=PairGraph(
            torch.from_numpy(pairs.first_p),
            torch.from_numpy(pairs.second_p),
            torch.from_numpy(pairs.vector_pc).float(),
        ),
        reverse=torch.from_numpy(pairs.position_of(pairs.reversed())),
        **{key: torch.from_numpy(values) for key, values in padded.items()},
        present=mask,
        element=torch.from_numpy(element)[mask],
        shift_qc=torch.from_numpy(blocks.shift_pc).float(),
        bands=states,
        norbitals=int(start_i[-1]),
        filled_bands=round(float(label.details["electrons"]) / 2),
        periodic_c=label.periodic_c,
    )


def read_labels(
    paths: Sequence[Path],
    model: Model,
    left_out: Sequence[str] = (),
    with_states: bool = True,
) -> dict[str, TrainingStructure]:
    """Read the labels of some files for training, but for those of `left_out`.

    Raises
    ------
    InputError
        As `training_structure`; when a file cannot be read or two have a label of one name.
    """
    return {
        name: training_structure(name, label, model, with_states=with_states)
        for name, label in distinct_labels(paths, left_out)
    }


def _zero(name: str, label: Label, hamiltonian: BlockOperator) -> BlockOperator:
    """Return H0 of a label, which its H has to differ from."""
    if label.h0_values is None:
        raise InputError(
            f"The label {name} holds no H0, which the model takes off; make it again with "
            "hamgnn-tools openmx collect."
        )
    if np.abs(label.h_values - label.h0_values).mean() < LEAST_DIFFERENCE:
        raise InputError(
            f"The H of label {name} is H0 itself; give an H of a converged calculation (the "
            ".scfout of OpenMX, not overlap.scfout)."
        )
    return replace(hamiltonian, values=label.h0_values)


def _band_states(
    name: str, label: Label, mixing_mm: NDArray[np.float64], seed: int
) -> list[BandStates]:
    """Return the label's states between the network's orbitals phi' = A phi: C' = A^-T C."""
    hamiltonian, overlap = label_operators(label)
    unmixing_mm = np.linalg.inv(mixing_mm).T
    random = np.random.default_rng([seed, *name.encode()])
    own = label.kpoints_kc[random.permutation(len(label.kpoints_kc))[:LABEL_KPOINTS]]
    free = random.uniform(-0.5, 0.5, (RANDOM_KPOINTS, 3)) * label.periodic_c
    special = SPECIAL_KPOINTS * label.periodic_c
    if len(mixing_mm) > MANY_ORBITALS:
        own, free, special = own[:1], free[:2], special[:2]
    bands = []
    # Axes that are not periodic leave fewer different points.
    for kpoint_c in np.unique(np.concatenate([special, own, free]) + 0.0, axis=0):
        energies_n, states_mn = scipy.linalg.eigh(
            dense_matrix(hamiltonian, kpoint_c), dense_matrix(overlap, kpoint_c)
        )
        bands.append(
            BandStates(
                torch.from_numpy(kpoint_c).float(),
                torch.from_numpy(energies_n - float(label.details["fermi_level"])).float(),
                torch.from_numpy(unmixing_mm @ states_mn).to(torch.complex64),
            )
        )
    return bands
