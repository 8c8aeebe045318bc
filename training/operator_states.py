"""Labels for a network that predicts the operators of atoms, and its loss.

Everything is between the label's own states C at a k-point, with H C = S C e and C^T S C = 1:

    M_nm = (C^T T C)_nm - e_n delta_nm + sum_a (B_a^T D_a B_a)_nm,   B_a = <g_a|C>,

the error of the Hamiltonian between states. k-points are those that are their own reverse (0 or
1/2 along each axis), where all of this is real.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray

from hamgnn_solve.core.atom_operators import add_kinetic, atom_functions, function_overlaps
from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.integrals.separable import ProjectorOverlaps
from hamgnn_solve.core.model import Model
from hamgnn_solve.core.network.graph import PairGraph
from hamgnn_solve.core.operator import BlockOperator, dense_matrix
from hamgnn_solve.core.pairs import find_pairs, join_pairs, onsite_pairs
from hamgnn_solve.training.label_file import Label, distinct_labels, label_operators, restrict_label
from hamgnn_solve.training.loss import MEV_PER_HARTREE
from hamgnn_solve.training.same_orbitals import check_same_orbitals, labelled_structure

__all__ = [
    "OperatorStructure",
    "ProjectedStates",
    "StateLoss",
    "fit_operators",
    "operator_structure",
    "read_operator_labels",
]

# k-points of one structure.
KPOINTS = 3
# Relative to the mean diagonal element of the normal equations of the constant operators.
OPERATOR_RIDGE = 1e-6


@dataclass(frozen=True)
class ProjectedStates:
    """States of a label at one k-point, as the functions of atoms see them.

    Parameters
    ----------
    energies_n : Tensor, shape (M,)
        Energies e in Hartree relative to the Fermi level.
    rest_nn : Tensor, shape (M, M)
        C^T T C - e, in Hartree; e here as the label has it.
    projections_agn : Tensor, shape (N, n, M)
        B, padded to the network's table of n functions.
    """

    energies_n: torch.Tensor
    rest_nn: torch.Tensor
    projections_agn: torch.Tensor


@dataclass(frozen=True)
class OperatorStructure:
    """One labelled structure for a network that predicts operators of atoms.

    Parameters
    ----------
    name : str
    types : Tensor of int64, shape (N,)
        Element types.
    pairs : PairGraph
        Pairs that send messages.
    reverse : Tensor of int64, shape (P,)
        Index of each pair's reverse.
    states : tuple of ProjectedStates
        At several k-points.
    periodic_c : ndarray of bool, shape (3,)
        Which axes are periodic.
    """

    name: str
    types: torch.Tensor
    pairs: PairGraph
    reverse: torch.Tensor
    states: tuple[ProjectedStates, ...]
    periodic_c: NDArray[np.bool_]

    def to(self, device: torch.device) -> OperatorStructure:
        """Return the structure with its tensors on a device."""
        if self.types.device == device:
            return self
        states = tuple(
            ProjectedStates(
                one.energies_n.to(device), one.rest_nn.to(device), one.projections_agn.to(device)
            )
            for one in self.states
        )
        return replace(
            self,
            types=self.types.to(device),
            pairs=self.pairs.to(device),
            reverse=self.reverse.to(device),
            states=states,
        )


@dataclass(frozen=True)
class StateLoss:
    """Error of the Hamiltonian between the label's states, free of the energy zero, in meV.

    With w_n = 1 / (1 + |e_n| / width), e relative to the Fermi level, the constant c that makes
    sum_n w_n^2 (M_nn + c) vanish is added first; the loss is the sum of

        sum_n w_n (sum_m w_m^2 M_nm^2)^(1/2) / sum_n w_n   and
        form_weight (mean_n (sum_m w_n w_m M_nm^2)^2)^(1/4).

    The first is about states near the Fermi level. In the second a row reaches the width where a
    high state may fall to the Fermi level.

    Parameters
    ----------
    width : float
        In Hartree.
    form_weight : float
        Weight of the second part.

    Raises
    ------
    InputError
        When the width is not positive or the weight negative.
    """

    width: float = 0.1
    form_weight: float = 0.2

    def __post_init__(self) -> None:
        if not self.width > 0 or self.form_weight < 0:
            raise InputError("states: width must be positive, form_weight not negative.")

    def __call__(self, operators: torch.Tensor, states: ProjectedStates) -> dict[str, torch.Tensor]:
        """Return the loss and its parts in meV.

        Parameters
        ----------
        operators : Tensor, shape (N, n, n)
            Predicted D in Hartree.
        states : ProjectedStates

        Returns
        -------
        dict of str to Tensor
            loss; near and form, its parts; shift, the constant c; levels, the mean of |M_nn|
            weighted by w_n; edges, the same for the two states next to the Fermi level.
        """
        weight_n = self.weights(states)
        error_nn, shift = aligned(between(operators, states), weight_n)
        # Smooth at zero; 1e-6 Hartree is far below any error reached.
        squares = error_nn.square() + 1e-12
        near = (weight_n * (squares @ weight_n.square()).sqrt()).sum() / weight_n.sum()
        form = (weight_n * (squares @ weight_n)).square().mean() ** 0.25
        diagonal = error_nn.diagonal().detach().abs()
        occupied = int((states.energies_n < 0).sum())
        report = {
            "loss": near + self.form_weight * form,
            "near": near,
            "form": form,
            "shift": shift,
            "levels": (weight_n * diagonal).sum() / weight_n.sum(),
            "edges": diagonal[max(occupied - 1, 0) : occupied + 1].mean(),
        }
        return {key: MEV_PER_HARTREE * value for key, value in report.items()}

    def weights(self, states: ProjectedStates) -> torch.Tensor:
        """Return w of each state, shape (M,)."""
        return 1.0 / (1.0 + states.energies_n.abs() / self.width)


def between(operators: torch.Tensor, states: ProjectedStates) -> torch.Tensor:
    """Return the error M of the Hamiltonian between states, shape (M, M), in Hartree."""
    projections = states.projections_agn
    applied = torch.bmm(operators, projections)
    return states.rest_nn + projections.flatten(0, 1).t() @ applied.flatten(0, 1)


def aligned(error_nn: torch.Tensor, weight_n: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return M + c and c, the constant that takes the weighted mean of the diagonal off."""
    squares = weight_n.square()
    shift = -(squares * error_nn.diagonal()).sum() / squares.sum()
    return error_nn + shift * torch.eye(len(weight_n), device=error_nn.device), shift


def read_operator_labels(
    paths: Sequence[Path], model: Model, left_out: Sequence[str] = ()
) -> dict[str, OperatorStructure]:
    """Read the labels of some files, but for those of `left_out`.

    Raises
    ------
    InputError
        As `operator_structure`; when a file cannot be read or two have a label of one name.
    """
    return {
        name: operator_structure(name, label, model)
        for name, label in distinct_labels(paths, left_out)
    }


def operator_structure(name: str, label: Label, model: Model) -> OperatorStructure:
    """Return the tensors of one label for a model whose network predicts operators.

    Parameters
    ----------
    name : str
        Name of the label; it decides which k-points are taken.
    label : Label
    model : Model

    Raises
    ------
    InputError
        When label and model do not speak of the same orbitals, or functions of an element reach
        farther than its orbitals.
    """
    assert model.operator_widths is not None
    check_same_orbitals(model, name, label)
    for symbol in model.elements:
        # Ranks know the atoms whose orbitals they reach.
        species = model.basis.species[symbol]
        reach = atom_functions(species, model.operator_widths).cutoff
        if reach > species.cutoff:
            raise InputError(
                f"Functions of {symbol} reach {reach:.2f} Bohr, farther than its orbitals "
                f"({species.cutoff:.2f}); make operator_widths smaller."
            )
    structure = labelled_structure(label, model)
    label = restrict_label(label, model.kept)
    rows = np.arange(structure.natoms, dtype=np.int64)
    pairs = find_pairs(structure, model.basis.cutoff_i(structure))
    kinetic = BlockOperator.zeros(
        join_pairs(structure, onsite_pairs(rows), pairs), model.basis.norb_i(structure)
    )
    add_kinetic(kinetic, structure, model.basis)
    overlaps = function_overlaps(structure, model.basis, model.operator_widths, rows)
    near = pairs.select(pairs.distance_p < model.network.config.message_radius)
    types_i = model.types_i(structure)
    states = tuple(
        _projected_states(label, model, types_i, kinetic, overlaps, kpoint_c)
        for kpoint_c in _kpoints(name, label)
    )
    return OperatorStructure(
        name,
        torch.from_numpy(types_i),
        PairGraph(
            torch.from_numpy(near.first_p),
            torch.from_numpy(near.second_p),
            torch.from_numpy(near.vector_pc).float(),
        ),
        torch.from_numpy(near.position_of(near.reversed())),
        states,
        label.periodic_c,
    )


def fit_operators(
    model: Model, structures: Sequence[OperatorStructure], loss: StateLoss
) -> torch.Tensor:
    """Return the operators that fit the labels best when every element has one.

    Least squares over (w_n w_m)^(1/2) M_nm, aligned, for matrices diagonal in l and m.

    Parameters
    ----------
    model : Model
    structures : sequence of OperatorStructure
    loss : StateLoss
        Its weights.

    Returns
    -------
    Tensor, shape (number of types, n, n)
        In Hartree.
    """
    places = _free_elements(model)
    gram = torch.zeros(len(places) + 1, len(places) + 1, dtype=torch.float64)
    for one in structures:
        for states in one.states:
            columns = _columns(one, states, places, loss.weights(states).sqrt())
            gram += columns @ columns.t()
    matrix, target = gram[:-1, :-1], -gram[:-1, -1]
    # Elements that no label has leave zeros; their operators become zero.
    floor = OPERATOR_RIDGE * matrix.diagonal().mean()
    values = torch.linalg.solve(matrix + floor * torch.eye(len(matrix)), target)
    n = model.network.table.norbitals
    operators = torch.zeros(model.network.config.num_types, n, n)
    for (t, rows, columns), value in zip(places, values, strict=True):
        operators[t, rows, columns] += value / 2
        operators[t, columns, rows] += value / 2
    return operators


def _columns(
    structure: OperatorStructure,
    states: ProjectedStates,
    places: list[tuple[int, torch.Tensor, torch.Tensor]],
    weight_n: torch.Tensor,
) -> torch.Tensor:
    """Return weighted M_nm of every free element and of the rest, aligned, (elements + 1, M M)."""
    window = len(weight_n)
    scale = (weight_n[:, None] * weight_n[None, :]).double()
    columns = torch.zeros(len(places) + 1, window * window, dtype=torch.float64)
    for number, (t, rows, shells) in enumerate(places):
        own = states.projections_agn[structure.types == t]
        left, right = own[:, rows].flatten(0, 1), own[:, shells].flatten(0, 1)
        product = left.t() @ right
        error, _ = aligned(0.5 * (product + product.t()), weight_n)
        columns[number] = (scale * error).flatten()
    columns[-1] = (scale * aligned(states.rest_nn, weight_n)[0]).flatten()
    return columns


def _free_elements(model: Model) -> list[tuple[int, torch.Tensor, torch.Tensor]]:
    """Return type, rows and columns (over m) of each free element of the constant operators."""
    result = []
    for t, symbol in enumerate(model.elements):
        functions = atom_functions(model.basis.species[symbol], model.operator_widths or ())
        starts = np.cumsum([0] + [2 * degree + 1 for degree in functions.shell_l])
        slots = model.operator_slots[t]
        of_shell = [torch.from_numpy(slots[low:high]) for low, high in itertools.pairwise(starts)]
        result += [
            (t, of_shell[a], of_shell[b])
            for a, degree in enumerate(functions.shell_l)
            for b in range(a, len(functions.shell_l))
            if functions.shell_l[b] == degree
        ]
    return result


def _kpoints(name: str, label: Label) -> NDArray[np.float64]:
    """Return Gamma and some of the other k-points that are their own reverse, (K, 3)."""
    corners = np.array(list(itertools.product((0.0, 0.5), repeat=3)))
    corners = corners[((corners == 0) | label.periodic_c).all(axis=1)]
    random = np.random.default_rng([*name.encode()])
    others = 1 + random.permutation(len(corners) - 1)[: KPOINTS - 1]
    return corners[[0, *others]]


def _projected_states(
    label: Label,
    model: Model,
    types_i: NDArray[np.int64],
    kinetic: BlockOperator,
    overlaps: ProjectorOverlaps,
    kpoint_c: NDArray[np.float64],
) -> ProjectedStates:
    hamiltonian, overlap = label_operators(label)
    h, s, t = (dense_matrix(x, kpoint_c).real for x in (hamiltonian, overlap, kinetic))
    energies_n, states_mn = scipy.linalg.eigh(h, s)
    fermi = float(label.details["fermi_level"])
    shape = len(types_i), model.network.table.norbitals, len(energies_n)
    projections = np.zeros(shape, dtype=np.float32)
    for i, block in enumerate(_function_rows(overlaps, kpoint_c)):
        projections[i, model.operator_slots[types_i[i]]] = block @ states_mn
    rest_nn = states_mn.T @ t @ states_mn - np.diag(energies_n)
    return ProjectedStates(
        torch.from_numpy(energies_n - fermi).float(),
        torch.from_numpy(rest_nn).float(),
        torch.from_numpy(projections),
    )


def _function_rows(
    overlaps: ProjectorOverlaps, kpoint_c: NDArray[np.float64]
) -> list[NDArray[np.float64]]:
    """Return sum_R exp(2 pi i k.R) <g_a|phi(R)> of each atom, (functions, M), real."""
    start_i = np.concatenate([[0], np.cumsum(overlaps.norb_i)])
    phase_p = np.cos(2.0 * np.pi * (overlaps.pairs.shift_pc @ kpoint_c))
    rows = [np.zeros((nproj, int(start_i[-1]))) for nproj in overlaps.nproj_i]
    for p, (a, j) in enumerate(zip(overlaps.pairs.first_p, overlaps.pairs.second_p, strict=True)):
        block = overlaps.blocks(np.array([p]))[0]
        rows[a][:, start_i[j] : start_i[j + 1]] += phase_p[p] * block
    return rows
