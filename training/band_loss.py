"""Loss on band energies near the Fermi level, the second step of the training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.training.dataset import TrainingStructure, bloch_sum

__all__ = ["BandLoss", "random_kpoints"]


@dataclass(frozen=True)
class BandLoss:
    """Mean absolute error of energies at random k-points.

    L = lambda / (N_k N_orb) sum_nk |e_nk - e*_nk| (Zhong et al., Chin. Phys. Lett. 41, 077103
    (2024), Eq. 3), over the bands nearest to the Fermi level: the n last filled ones and the n
    first empty ones. Both sides are energies with the label's overlap.

    Parameters
    ----------
    weight : float
        lambda: weight of an error of energies against one of blocks.
    states : int
        n.
    kpoints : int
        Number N_k of k-points a structure and update.
    aligned : bool
        The mean error is taken off first: a constant in the potential moves all energies alike.

    Raises
    ------
    InputError
        For a weight that is not positive or no states or k-points.
    """

    weight: float
    states: int = 8
    kpoints: int = 2
    aligned: bool = True

    def __post_init__(self) -> None:
        if not self.weight > 0 or min(self.states, self.kpoints) < 1:
            raise InputError("bands: weight must be positive, states and kpoints at least 1.")

    def __call__(
        self,
        predicted: torch.Tensor,
        structure: TrainingStructure,
        kpoints_kc: NDArray[np.float64],
    ) -> torch.Tensor:
        """Return the mean absolute error of the energies in Hartree, without the weight.

        Parameters
        ----------
        predicted : Tensor, shape (Q, n, n)
            Predicted blocks, on-site first, in Hartree.
        structure : TrainingStructure
            Labels.
        kpoints_kc : ndarray, shape (K, 3)
            Fractional k-points.
        """
        errors = []
        for k_c in kpoints_kc:
            overlap = bloch_sum(structure.overlap, structure, k_c).cpu().numpy()
            low = max(structure.filled_bands - self.states, 0)
            high = min(structure.filled_bands + self.states, len(overlap))
            target = bloch_sum(structure.hamiltonian, structure, k_c).cpu().numpy()
            expected_n, _ = _states(target, overlap, low, high)
            energies_n = energies_between(
                bloch_sum(structure.with_zero(predicted), structure, k_c), overlap, low, high
            )
            errors.append(energies_n - torch.from_numpy(expected_n).to(energies_n.device))
        error = torch.cat(errors)
        if self.aligned:
            error = error - error.mean()
        return error.abs().mean()


def energies_between(
    hamiltonian: torch.Tensor, overlap: NDArray[np.complex128], low: int, high: int
) -> torch.Tensor:
    """Return the energies low..high-1 of H C = S C e, differentiable in H.

    The states C are taken as fixed: de_n = C_n^H dH C_n for a fixed overlap (Hellmann-Feynman),
    which is finite where energies coincide, unlike a derivative of states.

    Parameters
    ----------
    hamiltonian : Tensor of complex128, shape (M, M)
        H(k) in Hartree.
    overlap : ndarray of complex128, shape (M, M)
        S(k).
    low, high : int
        First band, and one after the last.

    Returns
    -------
    Tensor of float64, shape (high - low,)
        Ascending, in Hartree.
    """
    matrix = hamiltonian.detach().cpu().numpy()
    _, states_mn = _states((matrix + matrix.conj().T) / 2, overlap, low, high)
    states = torch.from_numpy(states_mn).to(hamiltonian.device)
    return torch.einsum("mn,mk,kn->n", states.conj(), hamiltonian, states).real


def random_kpoints(
    structure: TrainingStructure, number: int, random: np.random.Generator
) -> NDArray[np.float64]:
    """Return random fractional k-points, zero along axes that are not periodic, shape (K, 3).

    A structure without a periodic axis has Gamma alone.
    """
    if not structure.periodic_c.any():
        return np.zeros((1, 3))
    return random.uniform(-0.5, 0.5, (number, 3)) * structure.periodic_c


def _states(
    hamiltonian: NDArray[np.complex128], overlap: NDArray[np.complex128], low: int, high: int
) -> tuple[NDArray[np.float64], NDArray[np.complex128]]:
    energies_n, states_mn = scipy.linalg.eigh(hamiltonian, overlap, subset_by_index=[low, high - 1])
    return energies_n, states_mn
