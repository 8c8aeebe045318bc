"""Losses on Hamiltonian blocks, free of the energy zero."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.units import EV_PER_HARTREE
from hamgnn_solve.training.dataset import BandStates, TrainingStructure, bloch_sum

__all__ = [
    "MEV_PER_HARTREE",
    "HamiltonianLoss",
    "aligned_error",
    "padded_error",
    "state_error",
]

MEV_PER_HARTREE = 1000.0 * EV_PER_HARTREE


def aligned_error(
    error: torch.Tensor, overlap: torch.Tensor, present: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Remove the energy zero from an error of a Hamiltonian.

    A constant c in the potential adds c S to H, so no error along S means anything; the best c in
    the least-squares sense is projected out exactly.

    Parameters
    ----------
    error : Tensor, shape (Q, n, n)
        Predicted minus true blocks, in Hartree.
    overlap : Tensor, shape (Q, n, n)
        Overlap blocks.
    present : Tensor of bool, shape (Q, n, n)
        Elements that exist.

    Returns
    -------
    error : Tensor, shape (Q, n, n)
        Error plus c S, zero where no element is present.
    shift : Tensor, shape ()
        c in Hartree, to be added (times S) to the prediction.
    """
    masked = torch.where(present, error, torch.zeros_like(error))
    shift = -(overlap * masked).sum() / (overlap * overlap).sum()
    return masked + shift * overlap, shift


def state_error(
    error: torch.Tensor, structure: TrainingStructure, band: BandStates
) -> torch.Tensor:
    """Return the error of H(k) between the label's states, shape (M, M), in Hartree.

    Its diagonal is the first-order error of the energies: C^H dH(k) C with H C = S C e and
    C^H S C = 1.
    """
    matrix = bloch_sum(error, structure, band.kpoint_c)
    result: torch.Tensor = band.states_mn.conj().t() @ matrix @ band.states_mn
    return result


def padded_error(error: torch.Tensor) -> torch.Tensor:
    """Return HamGNN's published loss: the mean of |error| over all entries of padded blocks.

    Parameters
    ----------
    error : Tensor, shape (Q, n, n)
        Predicted minus true blocks, zero between orbitals that do not exist.
    """
    return error.abs().mean()


@dataclass(frozen=True)
class HamiltonianLoss:
    """Weighted mean absolute error of blocks and of states near the Fermi level, in meV.

    Parameters
    ----------
    published : bool
        HamGNN's own loss instead: `padded_error`, and nothing of what follows.
    free_zero : bool
        The energy zero of labels is arbitrary: the best c S is taken off the error first.
    edges : tuple of float
        Distances in Bohr that part the off-site blocks into classes.
    class_weights : tuple of float
        Weight of the mean absolute error of on-site blocks and of each off-site class.
    state_weight : float
        Weight of the error M = C^H dH(k) C between the label's states at a k-point. With
        D_n = 1 + |e_n| / w, e relative to the Fermi level, it counts twice: as mean of |M_nm|
        weighted by 1 / (D_n D_m), which is about the states near the Fermi level, and as 4-norm
        mean of the rows' lengths of M_nm / sqrt(D_n D_m): where a row of it reaches w, a high
        state may fall to the Fermi level (in a nearly dependent basis high states are that
        sensitive).
    state_width : float
        w in Hartree.
    state_scale : float
        In the first mean errors x above this (Hartree) count by their logarithm, t ln(1 + x / t):
        basis states of nearly vanishing norm would drown all others.
    state_kpoints : int
        k-points a structure and update.
    shift_weight : float
        Weight of |c|, the constant between prediction and label.

    Raises
    ------
    InputError
        When there is not one weight for the on-site blocks and one for each class.
    """

    published: bool = False
    free_zero: bool = True
    edges: tuple[float, ...] = (7.0, 12.0)
    class_weights: tuple[float, ...] = (1.0, 1.0, 0.7, 0.4)
    state_weight: float = 0.0
    state_width: float = 0.1
    state_scale: float = 0.02
    state_kpoints: int = 2
    shift_weight: float = 0.0

    def __post_init__(self) -> None:
        if len(self.class_weights) != len(self.edges) + 2:
            raise InputError(
                f"loss: {len(self.edges)} edges need {len(self.edges) + 2} class_weights (on-site, "
                "then one a distance class)."
            )

    @property
    def needs_states(self) -> bool:
        """Whether the label's states are looked at."""
        return self.state_weight > 0 and not self.published

    def __call__(
        self, predicted: torch.Tensor, structure: TrainingStructure, states: list[BandStates]
    ) -> dict[str, torch.Tensor]:
        """Return the total loss and its parts in meV.

        Parameters
        ----------
        predicted : Tensor, shape (Q, n, n)
            Predicted blocks, on-site first.
        structure : TrainingStructure
            Labels.
        states : list of BandStates
            States that the part about them averages over, one or more k-points.
        """
        error = predicted - structure.target
        shift = error.new_zeros(())
        if self.free_zero and not self.published:
            error, shift = aligned_error(error, structure.overlap, structure.present)
        else:
            error = torch.where(structure.present, error, torch.zeros_like(error))
        magnitude = error.abs()
        sums = magnitude.flatten(1).sum(dim=1)
        counts = structure.present.flatten(1).sum(dim=1).to(sums.dtype)
        report = {"mae": sums.sum() / counts.sum(), "shift": shift}
        if self.published:
            report["loss"] = padded_error(error)
        else:
            self._add_parts(report, structure, sums, counts)
            if self.needs_states and states:
                self._add_states(report, error, structure, states)
        return {key: MEV_PER_HARTREE * value for key, value in report.items()}

    def _add_parts(
        self,
        report: dict[str, torch.Tensor],
        structure: TrainingStructure,
        sums: torch.Tensor,
        counts: torch.Tensor,
    ) -> None:
        """Add the mean errors of the classes of blocks, and their weighted sum as the loss."""
        bounds = torch.tensor(self.edges, dtype=sums.dtype, device=sums.device)
        kind = 1 + torch.bucketize(structure.distance_q.to(sums.dtype), bounds)
        kind[: structure.natoms] = 0
        classes = sums.new_zeros(2, len(self.class_weights))
        classes = classes.index_add(1, kind, torch.stack([sums, counts]))
        means = classes[0] / classes[1].clamp(min=1.0)
        report |= {"onsite": means[0], "near": means[1]}
        report["loss"] = (means * means.new_tensor(self.class_weights)).sum()
        report["loss"] = report["loss"] + self.shift_weight * report["shift"].abs()

    def _add_states(
        self,
        report: dict[str, torch.Tensor],
        error: torch.Tensor,
        structure: TrainingStructure,
        states: list[BandStates],
    ) -> None:
        parts = [self._state_errors(error, structure, band) for band in states]
        near, form, levels = (torch.stack(x).mean() for x in zip(*parts, strict=True))
        report |= {"states": near, "form": form, "levels": levels}
        report["loss"] = report["loss"] + self.state_weight * (10.0 * near + form)

    def _state_errors(
        self, error: torch.Tensor, structure: TrainingStructure, band: BandStates
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        scale = 1.0 / (1.0 + band.energies_n.abs() / self.state_width)
        weight = scale[:, None] * scale[None, :]
        between = state_error(error, structure, band)
        # Smooth at zero; 1e-6 Hartree is far below any error reached.
        square = between.real**2 + between.imag**2 + 1e-12
        states = (weight * self._compressed(torch.sqrt(square))).sum() / weight.sum()
        form = (weight * square).sum(dim=1).square().mean() ** 0.25
        levels = (weight * between.detach().abs()).diagonal().sum() / weight.diagonal().sum()
        return states, form, levels

    def _compressed(self, size: torch.Tensor) -> torch.Tensor:
        return self.state_scale * torch.log1p(size / self.state_scale)
