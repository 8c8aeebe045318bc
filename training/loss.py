"""Losses on Hamiltonian blocks, free of the energy zero."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from hamgnn_solve.core.units import EV_PER_HARTREE
from hamgnn_solve.training.dataset import BandStates, TrainingStructure

__all__ = ["MEV_PER_HARTREE", "HamiltonianLoss", "aligned_error", "state_error"]

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
    size = len(band.energies_n)
    phase = 2.0 * math.pi * (structure.shift_qc @ band.kpoint_c)
    values = error[structure.present]
    counts = structure.present.flatten(1).sum(dim=1)
    phase = torch.repeat_interleave(phase, counts)
    zeros = values.new_zeros(size * size)
    real = zeros.index_add(0, structure.element, values * torch.cos(phase))
    imaginary = zeros.index_add(0, structure.element, values * torch.sin(phase))
    matrix = torch.complex(real, imaginary).view(size, size)
    result: torch.Tensor = band.states_mn.conj().t() @ matrix @ band.states_mn
    return result


@dataclass(frozen=True)
class HamiltonianLoss:
    """Weighted mean absolute error of blocks and of states near the Fermi level, in meV.

    Parameters
    ----------
    edges : tuple of float
        Distances in Bohr that part the off-site blocks into classes.
    class_weights : tuple of float
        Weight of the mean absolute error of on-site blocks and of each off-site class.
    band_weight : float
        Weight of the error M = C^H dH(k) C between the label's states at a k-point. With
        D_n = 1 + |e_n| / w, e relative to the Fermi level, it counts twice: as mean of |M_nm|
        weighted by 1 / (D_n D_m), which is about the states near the Fermi level, and as 4-norm
        mean of the rows' lengths of M_nm / sqrt(D_n D_m): where a row of it reaches w, a high
        state may fall to the Fermi level (in a nearly dependent basis high states are that
        sensitive).
    band_width : float
        w in Hartree.
    band_scale : float
        In the first mean errors x above this (Hartree) count by their logarithm, t ln(1 + x / t):
        basis states of nearly vanishing norm would drown all others.
    shift_weight : float
        Weight of |c|, the constant between prediction and label.
    """

    edges: tuple[float, ...] = (7.0, 12.0)
    class_weights: tuple[float, ...] = (1.0, 1.0, 0.7, 0.4)
    band_weight: float = 1.0
    band_width: float = 0.1
    band_scale: float = 0.02
    shift_weight: float = 0.0

    def __post_init__(self) -> None:
        if len(self.class_weights) != len(self.edges) + 2:
            raise ValueError("one class weight for the on-site blocks and one a distance class")

    def __call__(
        self, predicted: torch.Tensor, structure: TrainingStructure, bands: list[BandStates]
    ) -> dict[str, torch.Tensor]:
        """Return the total loss and its parts in meV.

        Parameters
        ----------
        predicted : Tensor, shape (Q, n, n)
            Predicted blocks, on-site first.
        structure : TrainingStructure
            Labels.
        bands : list of BandStates
            States that the band part averages over, one or more k-points.
        """
        error, shift = aligned_error(
            predicted - structure.target, structure.overlap, structure.present
        )
        magnitude = error.abs()
        bounds = torch.tensor(self.edges, dtype=structure.distance_q.dtype)
        kind = 1 + torch.bucketize(structure.distance_q, bounds)
        kind[: structure.natoms] = 0
        sums = magnitude.flatten(1).sum(dim=1)
        counts = structure.present.flatten(1).sum(dim=1).to(sums.dtype)
        classes = sums.new_zeros(2, len(self.class_weights))
        classes = classes.index_add(1, kind, torch.stack([sums, counts]))
        means = classes[0] / classes[1].clamp(min=1.0)
        blocks = (means * means.new_tensor(self.class_weights)).sum()
        parts = [self._band_errors(error, structure, band) for band in bands]
        states, form, levels = (torch.stack(x).mean() for x in zip(*parts, strict=True))
        total = blocks + self.band_weight * (10.0 * states + form)
        total = total + self.shift_weight * shift.abs()
        report = {
            "loss": total,
            "mae": magnitude.sum() / counts.sum(),
            "onsite": means[0],
            "near": means[1],
            "states": states,
            "form": form,
            "levels": levels,
            "shift": shift,
        }
        return {key: MEV_PER_HARTREE * value for key, value in report.items()}

    def _band_errors(
        self, error: torch.Tensor, structure: TrainingStructure, band: BandStates
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        scale = 1.0 / (1.0 + band.energies_n.abs() / self.band_width)
        weight = scale[:, None] * scale[None, :]
        between = state_error(error, structure, band)
        # Smooth at zero; 1e-6 Hartree is far below any error reached.
        square = between.real**2 + between.imag**2 + 1e-12
        states = (weight * self._compressed(torch.sqrt(square))).sum() / weight.sum()
        form = (weight * square).sum(dim=1).square().mean() ** 0.25
        levels = (weight * between.detach().abs()).diagonal().sum() / weight.diagonal().sum()
        return states, form, levels

    def _compressed(self, size: torch.Tensor) -> torch.Tensor:
        return self.band_scale * torch.log1p(size / self.band_scale)
