"""The density matrix on the pairs of the overlap."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray
from scipy.special import expit

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.operator import BlockOperator, phases
from hamgnn_solve.parallel.faults import agreed
from hamgnn_solve.parallel.gather import gather_operator, sum_to_owners
from hamgnn_solve.parallel.memory import memory_per_rank
from hamgnn_solve.parallel.rows import OrbitalRows
from hamgnn_solve.solver.dense import dense_eigenpairs
from hamgnn_solve.solver.fermi import FermiLevel, normalised_weights
from hamgnn_solve.solver.lower_blocks import LowerBlocks
from hamgnn_solve.solver.multifrontal import FrontTree, dissect
from hamgnn_solve.solver.pencil import is_real_point
from hamgnn_solve.solver.pole_expansion import PoleExpansion, fermi_poles, step_poles
from hamgnn_solve.solver.selected_inversion import selected_inverse

__all__ = [
    "BandStates",
    "DensityMatrix",
    "Filling",
    "density_from_states",
    "density_matrix",
    "fronts_of",
]

Method = Literal["auto", "dense", "poles"]

# Multiply-adds that all eigenvectors of a dense n x n pencil and the product of the occupied ones
# cost, over n^3, in units of what a selected inversion does in the same time (measured, real).
DENSE_WORK = 5.0
# Dense matrices of this many orbitals are solved without weighing the routes.
SMALL = 300
# Matrices of n x n numbers that the dense route holds.
DENSE_COPIES = 6
# Largest part of the electrons by which Tr(PS) may differ from what the level promised.
LARGEST_LOSS = 1e-4
# Numbers that are gathered together, so that copies of blocks stay small.
BATCH = 1 << 22


@dataclass(frozen=True)
class Filling:
    """Which states are occupied.

    Parameters
    ----------
    level : FermiLevel
        From `solver.fermi.fermi_level`; with a temperature its energy is the chemical potential.
    lowest : float
        Energy in Hartree below which there is no state at any k. A bound that is too low costs
        a pole or two, one that is too high spoils the lowest states.
    electrons : float
        Electrons in the cell, against which Tr(PS) is checked.
    temperature : float
        k_B T of the Fermi-Dirac occupation in Hartree; 0 fills up to the gap.
    electrons_per_band : int
        2 for orbitals without spin, 1 for spinors.

    Raises
    ------
    InputError
        When there is no gap and no temperature, or `lowest` is not below the occupied bands.
    """

    level: FermiLevel
    lowest: float
    electrons: float
    temperature: float = 0.0
    electrons_per_band: int = 2

    def __post_init__(self) -> None:
        if self.temperature < 0.0:
            raise InputError(f"k_B T is {self.temperature:g} Hartree; it cannot be negative.")
        if self.temperature == 0.0 and not 0.0 < self.level.gap < np.inf:
            raise InputError(
                "The density matrix at zero temperature needs a gap with a band above it; give a "
                "temperature for a metal."
            )
        top = self.level.valence_band_maximum if self.temperature == 0.0 else self.level.energy
        if top is None or self.lowest >= top:
            raise InputError(
                f"The lowest energy {self.lowest:g} Hartree does not lie below the occupied bands."
            )

    def occupations(self, energies_n: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the occupation between 0 and 1 of states at energies in Hartree."""
        above = energies_n - self.level.energy
        if self.temperature == 0.0:
            return (above < 0.0).astype(np.float64)
        return np.asarray(expit(-above / self.temperature))

    def poles(self, tolerance: float) -> PoleExpansion:
        """Return the pole expansion of the occupations with errors up to `tolerance`."""
        top, bottom = self.level.valence_band_maximum, self.level.conduction_band_minimum
        if self.temperature == 0.0 and top is not None and bottom is not None:
            return step_poles(self.lowest, top, bottom, tolerance)
        return fermi_poles(self.lowest, self.level.energy, self.temperature, tolerance)


@dataclass(frozen=True)
class BandStates:
    """Eigenvectors at one k and how they are filled.

    Parameters
    ----------
    k_c : ndarray, shape (3,)
        Fractional k.
    weight : float
        Weight of this k; the weights of all k sum to one.
    vectors_mn : ndarray, shape (rows of this rank, nbands)
        S-orthonormal, in the row order of `parallel.rows.OrbitalRows`.
    occupations_n : ndarray, shape (nbands,)
        Electrons in each band, 0 to 2 (or to 1 for spinors).
    """

    k_c: NDArray[np.float64]
    weight: float
    vectors_mn: NDArray[Any]
    occupations_n: NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.vectors_mn.shape[1:] != self.occupations_n.shape:
            raise ValueError(
                f"vectors of shape {self.vectors_mn.shape} for {len(self.occupations_n)} "
                "occupations"
            )


@dataclass(frozen=True)
class DensityMatrix:
    """P(R) = sum_k w_k exp(-2 pi i k.R) P(k), its real part, on the pairs of the overlap.

    Parameters
    ----------
    operator : BlockOperator
        P_ij(R) in electrons, on the pairs whose first atom this rank owns.
    electrons : float
        Tr(PS).
    method : str
        "dense", "poles" or "states".
    npoles : int
        Poles at each k in the upper half plane; 0 for other methods.
    occupation_error : float
        Largest error of an occupation between 0 and 1 by the pole expansion; 0 otherwise.
    neglected : float
        Largest |H_ij(R)| (Hartree) or |S_ij(R)| of the blocks that the factorisation left out.
    seconds : float
        Wall time.
    """

    operator: BlockOperator
    electrons: float
    method: str
    npoles: int = 0
    occupation_error: float = 0.0
    neglected: float = 0.0
    seconds: float = 0.0


def density_matrix(
    hamiltonian: BlockOperator,
    overlap: BlockOperator,
    comm: MPI.Intracomm,
    kpoints_kc: NDArray[np.float64],
    weights_k: NDArray[np.float64] | None,
    filling: Filling,
    *,
    method: Method = "auto",
    drop_tolerance: float = 1e-8,
    pole_tolerance: float = 1e-11,
    largest_bytes: float | None = None,
    notify: Callable[[], None] | None = None,
) -> DensityMatrix:
    """Compute P = sum_n f(e_n) c_n c_n^dagger on the pairs of the overlap. Collective.

    Two routes. "dense": all eigenvectors by LAPACK, k by k. "poles": f as a sum over poles
    z, and for each the selected inverse of H(k) - z S(k) (Lin, Lu, Car and E, Phys. Rev. B 79,
    115133 (2009)); pairs of k and pole are divided over the ranks. "auto" takes the one with
    less work for a rank, and poles where dense matrices do not fit. Every rank holds all blocks
    of H and S meanwhile. H and S must be real, so that k and -k contribute the conjugate of each
    other.

    Blocks with all of |H| and |S| up to `drop_tolerance` do not enter the pattern that is
    factorised, but are taken along where elimination fills their place anyway. On the pairs that
    remain outside P is zero; in Tr(PS) this omits at most `drop_tolerance` times the sum of |P|
    over them. P itself is that of the pencil without these blocks. In a bilayer of 222 atoms whose
    S has an eigenvalue of 2e-4 the default moved the charge of an atom by 7e-8 electrons; P was as
    large as 0.17 on pairs outside, whose orbitals do not overlap.

    Parameters
    ----------
    hamiltonian, overlap : BlockOperator
        Blocks whose first atom this rank owns; the pairs of H are among those of S or not.
    comm : mpi4py communicator
        Its ranks share the blocks and the work.
    kpoints_kc : ndarray, shape (K, 3)
        Fractional k; one of k and -k is enough.
    weights_k : ndarray, shape (K,), optional
        Equal ones by default.
    filling : Filling
        Which states are occupied.
    method : {"auto", "dense", "poles"}
        The route.
    drop_tolerance : float
        For the route by poles; 0 keeps all blocks.
    pole_tolerance : float
        Largest error of an occupation between 0 and 1.
    largest_bytes : float, optional
        Memory a rank may use; its share of the free memory by default.
    notify : callable, optional
        Called after each pole, or each k of the dense route, of this rank.

    Raises
    ------
    InputError
        When the work needs more memory than allowed, a block lacks its reverse, S is not positive
        definite, or Tr(PS) misses the electrons by more than 1e-4 of them, so that level or lowest
        energy do not belong to this H and S. Raised on every rank.
    """
    started = time.perf_counter()
    weights = normalised_weights(kpoints_kc, weights_k)
    bound = memory_per_rank(comm) if largest_bytes is None else float(largest_bytes)
    bound = comm.allreduce(bound, op=MPI.MIN)
    h = gather_operator(hamiltonian, comm, bound / 4)
    s = gather_operator(overlap, comm, bound / 4)
    for name, operator in (("H", h), ("S", s)):
        if (operator.pairs.position_of(operator.pairs.reversed()) < 0).any():
            raise InputError(
                f"{name} holds blocks (i, j, R) without (j, i, -R), so it is not Hermitian."
            )
    crystal = _Crystal(h, s, kpoints_kc, weights, comm)
    bound -= sum(x.values.nbytes for x in (h, s, s))
    if method == "dense" or (method == "auto" and crystal.norbitals <= SMALL):
        found = crystal.by_diagonalisation(filling, bound, notify)
    else:
        tree, neglected = fronts_of(h, s, drop_tolerance)
        expansion = comm.bcast(filling.poles(pole_tolerance))
        if method == "auto" and crystal.dense_is_faster(tree, len(expansion), bound):
            found = crystal.by_diagonalisation(filling, bound, notify)
        else:
            found = crystal.by_poles(tree, expansion, bound, notify)
            found = replace(found, neglected=neglected)
    values = filling.electrons_per_band * sum_to_owners(
        found.operator.values, len(overlap.values), comm
    )
    electrons = comm.allreduce(float(values @ overlap.values))
    if abs(electrons - filling.electrons) > LARGEST_LOSS * filling.electrons:
        raise InputError(
            f"The density matrix holds {electrons:.6f} electrons instead of "
            f"{filling.electrons:g}: the Fermi level, the edges of the gap or the lowest energy "
            f"({filling.lowest:g} Hartree) are not those of this Hamiltonian at these k-points."
        )
    return replace(
        found,
        operator=BlockOperator(overlap.pairs, overlap.norb_i, values),
        electrons=electrons,
        seconds=time.perf_counter() - started,
    )


@dataclass(frozen=True)
class _Crystal:
    """All blocks of H and S with the k-points.

    The methods return the share of this rank in P of one spin, on all pairs of S.
    """

    hamiltonian: BlockOperator
    overlap: BlockOperator
    kpoints_kc: NDArray[np.float64]
    weights_k: NDArray[np.float64]
    comm: MPI.Intracomm

    @property
    def norbitals(self) -> int:
        return int(self.overlap.norb_i.sum())

    @property
    def all_real(self) -> bool:
        return all(is_real_point(k_c) for k_c in self.kpoints_kc)

    def dense_is_faster(self, tree: FrontTree, npoles: int, bound: float) -> bool:
        """Tell whether all eigenvectors cost a rank less work than its poles."""
        if self._dense_bytes() > bound:
            return False
        tasks_dense = -(-len(self.kpoints_kc) // self.comm.size)
        tasks_poles = -(-len(self.kpoints_kc) * npoles // self.comm.size)
        # Complex numbers: four multiplications for one.
        dense = DENSE_WORK * self.norbitals**3 * (1.0 if self.all_real else 4.0)
        return tasks_dense * dense < tasks_poles * 4.0 * tree.multiplications(self.all_real)

    def _dense_bytes(self) -> float:
        return DENSE_COPIES * (8.0 if self.all_real else 16.0) * self.norbitals**2

    def by_diagonalisation(
        self, filling: Filling, bound: float, notify: Callable[[], None] | None
    ) -> DensityMatrix:
        """Sum over all eigenvectors at the k-points of this rank."""
        if self._dense_bytes() > bound:
            raise InputError(
                f"All eigenvectors of {self.norbitals} orbitals need "
                f"{self._dense_bytes() / 1e9:.3g} GB and {bound / 1e9:.3g} GB are allowed; choose "
                "the method 'poles'."
            )
        result = BlockOperator.zeros(self.overlap.pairs, self.overlap.norb_i)
        with agreed(self.comm):
            for k in range(self.comm.rank, len(self.kpoints_kc), self.comm.size):
                density = _dense_density(
                    self.hamiltonian, self.overlap, self.kpoints_kc[k], filling
                )
                _add_dense(result, density, self.kpoints_kc[k], float(self.weights_k[k]))
                if notify is not None:
                    notify()
        return DensityMatrix(result, 0.0, "dense")

    def by_poles(
        self,
        tree: FrontTree,
        expansion: PoleExpansion,
        bound: float,
        notify: Callable[[], None] | None,
    ) -> DensityMatrix:
        """Sum over the pairs of k and pole of this rank."""
        blocks = LowerBlocks(tree, self.hamiltonian, self.overlap)
        # Beside the fronts: H, S, P and places of numbers, and the inverse on both triangles.
        needed = 16.0 * tree.peak_numbers(self.all_real) + 104.0 * blocks.size
        if needed > bound:
            raise InputError(
                f"The factors of H - z S need {needed / 1e9:.3g} GB on a rank and "
                f"{bound / 1e9:.3g} GB are allowed; start fewer ranks on each machine."
            )
        result = BlockOperator.zeros(self.overlap.pairs, self.overlap.norb_i)
        nk, npoles = len(self.kpoints_kc), len(expansion)
        mine = np.array_split(np.arange(nk * npoles), self.comm.size)[self.comm.rank]
        with agreed(self.comm):
            for k in np.unique(mine // npoles):
                k_c = self.kpoints_kc[k]
                real = is_real_point(k_c)
                h = blocks.fold(self.hamiltonian, k_c, real)
                s = blocks.fold(self.overlap, k_c, real)
                density = np.zeros_like(h)
                for z in mine[mine // npoles == k] % npoles:
                    inverse = selected_inverse(tree, blocks, h, s, complex(expansion.poles_z[z]))
                    weight = expansion.weights_z[z]
                    if real:
                        density += 2.0 * (weight * inverse.lower).real
                    else:
                        density += weight * inverse.lower + (weight * inverse.upper).conj()
                    del inverse
                    if notify is not None:
                        notify()
                blocks.unfold_into(result, density, k_c, float(self.weights_k[k]))
        return DensityMatrix(result, 0.0, "poles", npoles=npoles, occupation_error=expansion.error)


def density_from_states(
    states: Sequence[BandStates],
    overlap: BlockOperator,
    rows: OrbitalRows,
    comm: MPI.Intracomm,
) -> DensityMatrix:
    """Compute P from eigenvectors that are known, all occupied ones at every k. Collective.

    A batch of bands at a time is given to all ranks, so that no rank holds n x n numbers.

    Parameters
    ----------
    states : sequence of BandStates
        One for each k, the same k on every rank.
    overlap : BlockOperator
        Blocks whose first atom this rank owns; P is worked out on its pairs.
    rows : OrbitalRows
        Numbering of the rows of the vectors.
    comm : mpi4py communicator
        The one `rows` was made for.

    Raises
    ------
    ValueError
        When vectors do not have the rows of this rank.
    """
    started = time.perf_counter()
    result = BlockOperator.zeros(overlap.pairs, overlap.norb_i)
    for state in states:
        if len(state.vectors_mn) != rows.nlocal:
            raise ValueError(f"{len(state.vectors_mn)} rows of vectors, {rows.nlocal} owned")
        occupied = np.flatnonzero(state.occupations_n)
        step = max(BATCH // rows.nrows, 1)
        for start in range(0, len(occupied), step):
            chosen = occupied[start : start + step]
            parts = comm.allgather(np.ascontiguousarray(state.vectors_mn[:, chosen]))
            filled = state.weight * state.occupations_n[chosen]
            _add_outer(result, np.concatenate(parts), filled, state.k_c, rows)
    electrons = comm.allreduce(float(result.values @ overlap.values))
    return DensityMatrix(result, electrons, "states", seconds=time.perf_counter() - started)


def _add_outer(
    result: BlockOperator,
    vectors_mn: NDArray[Any],
    filled_n: NDArray[np.float64],
    k_c: NDArray[np.float64],
    rows: OrbitalRows,
) -> None:
    """Add Re exp(-2 pi i k.R) sum_n f_n c_n c_n^dagger, blocks of one shape together."""
    phase_p = phases(result, k_c).conj()
    for group, nrows, ncolumns in result.groups():
        step = max(BATCH // (max(nrows, ncolumns) * len(filled_n)), 1)
        for start in range(0, len(group), step):
            p = group[start : start + step]
            first = rows.first_row_i[result.pairs.first_p[p]][:, None] + np.arange(nrows)
            second = rows.first_row_i[result.pairs.second_p[p]][:, None] + np.arange(ncolumns)
            left = vectors_mn[first] * filled_n
            blocks = left @ vectors_mn[second].conj().transpose(0, 2, 1)
            blocks = (blocks * phase_p[p][:, None, None]).real
            result.values[result.places(p, nrows * ncolumns)] += blocks.reshape(len(p), -1)


def fronts_of(
    hamiltonian: BlockOperator, overlap: BlockOperator, drop_tolerance: float
) -> tuple[FrontTree, float]:
    """Return the fronts of a pencil and the largest number of the blocks outside them.

    Parameters
    ----------
    hamiltonian, overlap : BlockOperator
        All blocks.
    drop_tolerance : float
        Blocks with all numbers up to this (Hartree or, of S, without unit) do not ask for a place.
    """
    h, s = hamiltonian, overlap
    largest = [_largest(operator) for operator in (h, s)]
    kept = [np.flatnonzero(x > drop_tolerance) for x in largest]
    first = np.concatenate([x.pairs.first_p[p] for x, p in zip((h, s), kept, strict=True)])
    second = np.concatenate([x.pairs.second_p[p] for x, p in zip((h, s), kept, strict=True)])
    both = np.concatenate([first, second]), np.concatenate([second, first])
    tree = dissect(*both, s.norb_i)
    neglected = 0.0
    for operator, size_p in zip((h, s), largest, strict=True):
        outside = ~tree.holds(operator.pairs.first_p, operator.pairs.second_p)
        neglected = max(neglected, float(size_p[outside].max(initial=0.0)))
    return tree, neglected


def _largest(operator: BlockOperator) -> NDArray[np.float64]:
    """Return the largest magnitude in each block, shape (P,)."""
    if len(operator.pairs) == 0:
        return np.zeros(0)
    return np.asarray(np.maximum.reduceat(np.abs(operator.values), operator.offset_p[:-1]))


def _dense_density(
    hamiltonian: BlockOperator,
    overlap: BlockOperator,
    k_c: NDArray[np.float64],
    filling: Filling,
) -> NDArray[Any]:
    """Return P(k) of one spin by all eigenvectors, orbitals in the order of the atoms."""
    energies_n, vectors_mn = dense_eigenpairs(hamiltonian, overlap, k_c)
    filled_n = filling.occupations(energies_n)
    occupied = vectors_mn[:, filled_n > 0.0]
    return (occupied * filled_n[filled_n > 0.0]) @ occupied.conj().T


def _add_dense(
    result: BlockOperator, density: NDArray[Any], k_c: NDArray[np.float64], weight: float
) -> None:
    """Add weight Re exp(-2 pi i k.R) P_ij(k)."""
    norb_i, pairs = result.norb_i, result.pairs
    start_i = np.cumsum(norb_i) - norb_i
    phase_p = weight * phases(result, k_c).conj()
    for group, rows, columns in result.groups():
        step = max(BATCH // (rows * columns), 1)
        for start in range(0, len(group), step):
            p = group[start : start + step]
            row = start_i[pairs.first_p[p]][:, None, None] + np.arange(rows)[:, None]
            column = start_i[pairs.second_p[p]][:, None, None] + np.arange(columns)
            blocks = (density[row, column] * phase_p[p][:, None, None]).real
            result.values[result.places(p, rows * columns)] += blocks.reshape(len(p), -1)
