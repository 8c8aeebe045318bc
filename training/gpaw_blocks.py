"""H(R) and S(R) of a converged GPAW calculation in LCAO mode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

__all__ = ["bloch_sum", "cut_into_pairs", "extract_blocks"]

SMALLEST_ELEMENT = 1e-10


def bloch_sum(
    shift_xc: NDArray[np.int32], o_xmm: NDArray[np.float64], kpoint_c: NDArray[np.float64]
) -> NDArray[np.complex128]:
    """Return O(k) = sum_R exp(2 pi i k.R) O(R), shape (M, M), for one fractional k-point.

    Parameters
    ----------
    shift_xc : ndarray, shape (X, 3)
        Lattice vectors R.
    o_xmm : ndarray, shape (X, M, M)
        <phi_m in the home cell | O | phi_m' in cell R>.
    kpoint_c : ndarray, shape (3,)
        Fractional k-point.
    """
    phase_x = np.exp(2j * np.pi * shift_xc @ np.asarray(kpoint_c))
    return np.einsum("x,xmn->mn", phase_x, o_xmm)


def extract_blocks(
    dft: Any, positions_ic: NDArray[np.float64]
) -> tuple[NDArray[np.int32], NDArray[np.float64], NDArray[np.float64]]:
    """Collect H(R) and S(R) of a converged calculation.

    The Hamiltonian of the projector augmented-wave method in a local basis is
    H = V + T + P dH P^T, the overlap S = O + P dO P^T (Larsen et al., Phys. Rev. B 80, 195112):
    V from the effective potential on the grid, the others from the calculation's two-centre tables.

    Returns
    -------
    shift_xc : ndarray of int32, shape (X, 3)
        Lattice vectors R, a box symmetric about zero.
    h_xmm, s_xmm : ndarray, shape (X, M, M)
        <phi_m in cell 0 | H or S | phi_m' in cell R>, Hartree.
    """
    states = next(iter(dft.ibzwfs))
    basis = states.basis
    expansions = states.tci_derivatives.manytci.tci.tciexpansions
    grid = dft.density.nt_sR.desc
    orbital_cut_i = np.array([expansions.phit_rcmax_I[s] for s in expansions.I_a])
    projector_cut_i = np.array([expansions.pt_rcmax_I[s] for s in expansions.I_a])
    norb_i = np.array([setup.nao for setup in dft.setups])
    nproj_i = np.array([setup.ni for setup in dft.setups])

    projections = _two_centre(
        [expansions.P_expansions],
        positions_ic,
        grid,
        projector_cut_i,
        orbital_cut_i,
        nproj_i,
        norb_i,
    )
    orbitals = _two_centre(
        [expansions.O_expansions, expansions.T_expansions],
        positions_ic,
        grid,
        orbital_cut_i,
        orbital_cut_i,
        norb_i,
        norb_i,
    )
    reach_c = np.max(
        [2 * projections.reach_c, orbitals.reach_c, np.abs(basis.sdisp_xc).max(axis=0)], axis=0
    )
    sizes_c = 2 * reach_c + 1
    shift_xc = (np.indices(tuple(sizes_c)).reshape(3, -1).T - reach_c).astype(np.int32)

    def place(shifts_xc: NDArray[np.int32]) -> NDArray[np.int64]:
        return np.ravel_multi_index(tuple((shifts_xc + reach_c).T), tuple(sizes_c))

    s_xmm = np.zeros((len(shift_xc), norb_i.sum(), norb_i.sum()))
    h_xmm = np.zeros_like(s_xmm)
    s_xmm[place(orbitals.shift_xc)] = orbitals.values_oxmn[0]
    h_xmm[place(orbitals.shift_xc)] = orbitals.values_oxmn[1]
    _add_potential(h_xmm, basis, dft.potential, place)
    # The correction of one atom is seen by every two orbitals that overlap its projectors.
    dh_ii = scipy.linalg.block_diag(*[dft.potential.dH_asii[a][0] for a in range(len(norb_i))])
    ds_ii = scipy.linalg.block_diag(*[setup.dO_ii for setup in dft.setups])
    p_xim = projections.values_oxmn[0]
    dhp_xim, dsp_xim = dh_ii @ p_xim, ds_ii @ p_xim
    for shift_c, p_im in zip(projections.shift_xc, p_xim, strict=True):
        places = place(projections.shift_xc - shift_c)
        h_xmm[places] += p_im.T @ dhp_xim
        s_xmm[places] += p_im.T @ dsp_xim
    return shift_xc, h_xmm, s_xmm


def _add_potential(h_xmm: NDArray[np.float64], basis: Any, potential: Any, place: Any) -> None:
    """Add the grid potential; GPAW holds half of the displacements d as <phi, 0|v|phi, -d>."""
    v_xmm = basis.calculate_potential_matrices(potential.vt_sR[0].data)
    displacement_xc = np.asarray(basis.sdisp_xc)
    h_xmm[place(-displacement_xc)] += v_xmm
    h_xmm[place(displacement_xc[1:])] += v_xmm[1:].transpose(0, 2, 1)


@dataclass(frozen=True)
class _TwoCentre:
    """Matrices <a in cell 0 | b in cell R> of some two-centre operators, over shifts R."""

    shift_xc: NDArray[np.int32]
    values_oxmn: NDArray[np.float64]
    reach_c: NDArray[np.int64]


def _two_centre(
    tables: list[Any],
    positions_ic: NDArray[np.float64],
    grid: Any,
    first_cut_i: NDArray[np.float64],
    second_cut_i: NDArray[np.float64],
    first_size_i: NDArray[np.int64],
    second_size_i: NDArray[np.int64],
) -> _TwoCentre:
    """Evaluate GPAW's two-centre tables for all pairs of atoms nearer than the sum of cutoffs."""
    from gpaw.lcao.overlap import LazySphericalHarmonics

    cell_cv = grid.cell_cv
    reach = first_cut_i.max() + second_cut_i.max()
    heights_c = 1 / np.linalg.norm(np.linalg.inv(cell_cv), axis=0)
    # One cell more, since two wrapped atoms lie up to one cell apart.
    reach_c = np.where(grid.pbc_c, np.ceil(reach / heights_c).astype(int) + 1, 0)
    shift_xc = (np.indices(tuple(2 * reach_c + 1)).reshape(3, -1).T - reach_c).astype(np.int32)
    vector_xijv = (
        (shift_xc @ cell_cv)[:, None, None] + positions_ic[None, None] - positions_ic[None, :, None]
    )
    distance_xij = np.linalg.norm(vector_xijv, axis=-1)
    near_xij = distance_xij < first_cut_i[:, None] + second_cut_i[None, :]
    used_x = near_xij.any(axis=(1, 2))
    shift_xc, near_xij, distance_xij = shift_xc[used_x], near_xij[used_x], distance_xij[used_x]
    vector_xijv = vector_xijv[used_x]
    rows = np.concatenate([[0], np.cumsum(first_size_i)])
    columns = np.concatenate([[0], np.cumsum(second_size_i)])
    values_oxmn = np.zeros((len(tables), len(shift_xc), rows[-1], columns[-1]))
    # GPAW evaluates one pair a call, so this loop cannot be batched.
    for x, i, j in np.argwhere(near_xij):
        harmonics = LazySphericalHarmonics(vector_xijv[x, i, j])
        for o, table in enumerate(tables):
            values_oxmn[o, x, rows[i] : rows[i + 1], columns[j] : columns[j + 1]] = table.get(
                i, j
            ).evaluate(distance_xij[x, i, j], harmonics)
    return _TwoCentre(shift_xc, values_oxmn, np.abs(shift_xc).max(axis=0))


def cut_into_pairs(
    shift_xc: NDArray[np.int32],
    h_xmm: NDArray[np.float64],
    s_xmm: NDArray[np.float64],
    norb_i: NDArray[np.int32],
) -> tuple[
    NDArray[np.int32],
    NDArray[np.int32],
    NDArray[np.int32],
    NDArray[np.float64],
    NDArray[np.float64],
]:
    """Cut the matrices into atom-pair blocks, keep those with an element above 1e-10.

    Returns
    -------
    first_p, second_p : ndarray of int32, shape (P,)
        Atoms of each ordered pair, sorted by (first, second, shift).
    shift_pc : ndarray of int32, shape (P, 3)
        Cell of the second atom.
    h_values, s_values : ndarray
        Row-major blocks, concatenated.
    """
    starts_i = np.concatenate([[0], np.cumsum(norb_i)[:-1]])
    largest_xmm = np.maximum(np.abs(h_xmm), np.abs(s_xmm))
    largest_xij = np.maximum.reduceat(
        np.maximum.reduceat(largest_xmm, starts_i, axis=1), starts_i, axis=2
    )
    # Both directions are kept or dropped together, whatever the last digit says.
    reverse_x = np.arange(len(shift_xc))[::-1]
    kept_xij = np.maximum(largest_xij, largest_xij[reverse_x].swapaxes(1, 2)) > SMALLEST_ELEMENT
    x_p, first_p, second_p = np.nonzero(kept_xij)
    order = np.lexsort((*shift_xc[x_p].T[::-1], second_p, first_p))
    x_p, first_p, second_p = x_p[order], first_p[order], second_p[order]
    h_values, s_values = (
        np.concatenate(
            [
                o_xmm[
                    x, starts_i[i] : starts_i[i] + norb_i[i], starts_i[j] : starts_i[j] + norb_i[j]
                ].ravel()
                for x, i, j in zip(x_p, first_p, second_p, strict=True)
            ]
        )
        for o_xmm in (h_xmm, s_xmm)
    )
    return (
        first_p.astype(np.int32),
        second_p.astype(np.int32),
        shift_xc[x_p],
        h_values,
        s_values,
    )
