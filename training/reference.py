"""Least-squares fit of a network's two-centre reference to labels."""

from __future__ import annotations

import numpy as np
import torch

from hamgnn_solve.core.model import Model
from hamgnn_solve.core.network.frame import harmonics
from hamgnn_solve.core.network.hamgnn import HamiltonianNetwork
from hamgnn_solve.core.network.radial import radial_functions
from hamgnn_solve.core.network.reference import TwoCentreReference
from hamgnn_solve.training.dataset import TrainingStructure

__all__ = ["fit_reference"]

OFFSITE_RIDGE = 1e-10
ONSITE_RIDGE = 1e-8


def fit_reference(model: Model, structures: list[TrainingStructure]) -> None:
    """Set constants and coefficients of the network's reference blocks.

    The on-site reference of each element is one number for every two shells of equal l, the mean
    isotropic part; the two-centre coefficients follow by ridge regression.
    """
    network = model.network
    if not isinstance(network, HamiltonianNetwork):
        raise ValueError("only networks of version 1 have reference blocks")
    _set_orbital_cutoffs(model, network)
    _set_onsite_constants(network, structures)
    if network.config.reference_radial:
        _fit_offsite(network, structures)
        _fit_onsite(network, structures)


def _set_orbital_cutoffs(model: Model, network: HamiltonianNetwork) -> None:
    for t, symbol in enumerate(model.elements):
        shells = model.basis.species[symbol].shells
        cutoffs = [shell.cutoff for shell in shells for _ in range(2 * shell.l + 1)]
        slots = torch.from_numpy(model.slots[t])
        network.orbital_cutoff[t, slots] = torch.tensor(cutoffs)


def _set_onsite_constants(network: HamiltonianNetwork, structures: list[TrainingStructure]) -> None:
    table = network.table
    starts = np.concatenate([[0], np.cumsum([2 * degree + 1 for degree in table.shell_l])])
    for t in range(network.config.num_types):
        blocks = torch.cat([s.target[: s.natoms][s.types == t] for s in structures])
        if len(blocks) == 0:
            continue
        mean = blocks.double().mean(dim=0)
        for a, la in enumerate(table.shell_l):
            for b, lb in enumerate(table.shell_l):
                if la == lb:
                    width = 2 * la + 1
                    rows = slice(int(starts[a]), int(starts[a]) + width)
                    columns = slice(int(starts[b]), int(starts[b]) + width)
                    value = mean[rows, columns].diagonal().mean().float()
                    network.onsite_reference[t, rows, columns] = value * torch.eye(width)


def _fit_offsite(network: HamiltonianNetwork, structures: list[TrainingStructure]) -> None:
    config, reference = network.config, network.offsite_pairs
    radial, kind, directions, targets, envelopes = [], [], [], [], []
    for s in structures:
        distance = s.pairs.distance.double()
        radial.append(radial_functions(distance, config.reference_radius, _count(network)))
        kind.append(s.types[s.pairs.first] * config.num_types + s.types[s.pairs.second])
        directions.append(harmonics(s.pairs.vector, 2 * len(config.shells) - 2).double())
        targets.append(s.target[s.natoms :].double())
        if config.envelope:
            envelopes.append(network.envelope(s.types, s.pairs).double())
    design_pr, kind_p, y_p = torch.cat(radial), torch.cat(kind), torch.cat(directions)
    target_p = torch.cat(targets)
    envelope_p = torch.cat(envelopes) if envelopes else torch.ones_like(target_p)
    # The first orbital of a shell stands for its envelope.
    pieces = reference.coupling.inverse(target_p)
    scales = reference.coupling.inverse_shells(envelope_p)
    for q in torch.unique(kind_p):
        chosen = kind_p == q
        scale = float(design_pr[chosen].square().mean().sqrt())
        for column, (shells, total, where) in enumerate(_entries(reference)):
            y = y_p[chosen, total * total : (total + 1) ** 2]
            g = pieces[shells][chosen][:, where[0], where[1]]
            # sum_M Y^2 = 2L + 1, so this is the component along Y.
            amplitude = (g * y).sum(dim=1) / (2 * total + 1)
            matrix = design_pr[chosen] * scales[shells][chosen][:, where[1], None]
            reference.coefficients[q, :, column] = _ridge(
                matrix, amplitude, OFFSITE_RIDGE, scale, _count(network)
            )


def _fit_onsite(network: HamiltonianNetwork, structures: list[TrainingStructure]) -> None:
    config, reference = network.config, network.onsite_neighbours
    lmax = 2 * len(config.shells) - 2
    size = config.num_types * _count(network)
    designs, targets, types = [], [], []
    for s in structures:
        pairs = s.pairs.select(s.pairs.distance < config.message_radius)
        radial = radial_functions(pairs.distance.double(), config.message_radius, _count(network))
        choice = torch.nn.functional.one_hot(s.types[pairs.second], config.num_types).double()
        spread = (choice[:, :, None] * radial[:, None, :]).flatten(1)
        terms = harmonics(pairs.vector, lmax).double()[:, :, None] * spread[:, None, :]
        sums = terms.new_zeros(s.natoms, (lmax + 1) ** 2, size)
        designs.append(sums.index_add(0, pairs.first, terms))
        constant = network.onsite_reference[s.types].double()
        targets.append(s.target[: s.natoms].double() - constant)
        types.append(s.types)
    design_i, types_i = torch.cat(designs), torch.cat(types)
    pieces = reference.coupling.inverse(torch.cat(targets))
    scale = float(design_i[:, 0].square().mean().sqrt())
    for t in torch.unique(types_i):
        chosen = types_i == t
        for column, (shells, total, where) in enumerate(_entries(reference)):
            matrix = design_i[chosen, total * total : (total + 1) ** 2].flatten(0, 1)
            g = pieces[shells][chosen][:, where[0], where[1]].flatten()
            solution = _ridge(matrix, g, ONSITE_RIDGE, scale, _count(network)).view(
                config.num_types, -1
            )
            low = int(t) * config.num_types
            reference.coefficients[low : low + config.num_types, :, column] = solution


def _count(network: HamiltonianNetwork) -> int:
    return network.config.reference_radial


def _entries(
    reference: TwoCentreReference,
) -> list[tuple[tuple[int, int], int, tuple[slice, int]]]:
    """Return (la, lb), L and the place in the pieces of each coefficient column."""
    result = []
    for (la, lb), size in reference.sizes.items():
        for total in reference.natural((la, lb)):
            low = total * total - (la - lb) ** 2
            result += [
                ((la, lb), total, (slice(low, low + 2 * total + 1), shell)) for shell in range(size)
            ]
    return result


def _ridge(
    matrix: torch.Tensor, target: torch.Tensor, ridge: float, scale: float, number: int
) -> torch.Tensor:
    """Return the ridge solution as float32.

    Parameters
    ----------
    matrix : Tensor, shape (rows, columns)
        Columns are radial functions n = 1..number, one group after another.
    target : Tensor, shape (rows,)
        What is fitted.
    ridge : float
        Strength of the penalty on coefficients in units of 1 / scale; it grows as n^4, so that
        the radial parts are smooth where no pair tells otherwise.
    scale : float
        Size of the radial functions.
    number : int
        Radial functions a group.
    """
    scaled = matrix / scale
    order = torch.arange(matrix.shape[1], dtype=matrix.dtype) % number + 1.0
    gram = scaled.t() @ scaled / len(matrix) + ridge * torch.diag(order**4)
    solution: torch.Tensor = torch.linalg.solve(gram, scaled.t() @ target / len(matrix))
    return (solution / scale).float()
