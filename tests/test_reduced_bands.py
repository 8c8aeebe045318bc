"""Bands of a supercell from the states of a few real k-points, against its primitive cell."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from mpi4py import MPI
from numpy.typing import NDArray
from pencil_models import chain, folded_kpoints, pencil_of, supercell

from hamgnn_solve.core.domain import serial_domain
from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.integrals.overlap import overlap
from hamgnn_solve.core.model_selection import built_in_model
from hamgnn_solve.core.network.predict import predict
from hamgnn_solve.core.operator import BlockOperator, dense_matrix
from hamgnn_solve.core.spectrum import Spectrum
from hamgnn_solve.core.structure import Structure
from hamgnn_solve.core.units import ANGSTROM_PER_BOHR, EV_PER_HARTREE
from hamgnn_solve.solver import reduced_bands as reduced_module
from hamgnn_solve.solver import shifted_inverse
from hamgnn_solve.solver.anchors import Anchors, real_points
from hamgnn_solve.solver.bands import BandOptions, solve_bands
from hamgnn_solve.solver.dense import dense_eigenpairs
from hamgnn_solve.solver.path_interpolation import straight_pieces
from hamgnn_solve.solver.reduced_bands import ReducedSpaceOptions
from hamgnn_solve.solver.reduced_space import Window, choose_states
from hamgnn_solve.solver.shifted_inverse import ShiftedInverse

pytestmark = pytest.mark.parallel
COMM = MPI.COMM_WORLD
REPEATS = (5, 5, 1)
ELECTRONS = 18 * 25
MEV = 1e-3 / EV_PER_HARTREE


@cache
def monolayer() -> tuple[Structure, BlockOperator, BlockOperator]:
    """Return MoS2, its predicted H and its S."""
    a, half_thickness = 3.18 / ANGSTROM_PER_BOHR, 1.56 / ANGSTROM_PER_BOHR
    height = 20.0 / ANGSTROM_PER_BOHR
    cell_cc = np.array([[a, 0, 0], [-a / 2, a * np.sqrt(0.75), 0], [0, 0, height]])
    fractional_ic = np.array([[0.0, 0.0, 0.5], [1 / 3, 2 / 3, 0.5], [1 / 3, 2 / 3, 0.5]])
    pos_ic = fractional_ic @ cell_cc
    pos_ic[1:, 2] += [half_thickness, -half_thickness]
    structure = Structure(("Mo", "S", "S"), pos_ic, cell_cc)
    model = built_in_model("tmd")
    domain = serial_domain(structure, model.basis)
    return structure, predict(model, domain), overlap(structure, model.basis, domain.owned)


def reference(k_c: NDArray[np.float64], nbands: int) -> NDArray[np.float64]:
    """Return bands of the supercell around the gap from those of the monolayer, by LAPACK."""
    _, hamiltonian, s = monolayer()
    folded = [dense_eigenpairs(hamiltonian, s, q)[0] for q in folded_kpoints(tuple(k_c), REPEATS)]
    middle = ELECTRONS // 2
    return np.sort(np.concatenate(folded))[middle - nbands // 2 : middle + nbands // 2]


def places_of_supercell() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return fractional places and the cell of the supercell, atoms in its order."""
    structure = monolayer()[0]
    cells = np.stack(np.meshgrid(*map(np.arange, REPEATS), indexing="ij"), -1).reshape(-1, 1, 3)
    fractional_ic = ((cells + structure.fractional_ic) / np.array(REPEATS)).reshape(-1, 3)
    return fractional_ic, structure.cell_cc * np.array(REPEATS)[:, None]


def solved(
    kpoints_kc: NDArray[np.float64], nbands: int, largest_error: float
) -> tuple[Spectrum, list[str]]:
    """Solve the supercell; returns the bands and what was announced."""
    _, hamiltonian, s = monolayer()
    fractional_ic, cell_cc = places_of_supercell()
    owner_i = np.arange(len(fractional_ic)) % COMM.size
    pencil = pencil_of(supercell(hamiltonian, REPEATS), supercell(s, REPEATS), COMM, owner_i)
    said: list[str] = []
    options = BandOptions(
        largest_dense=0,
        announce=said.append,
        reduced=ReducedSpaceOptions(fractional_ic, cell_cc, largest_error),
    )
    return solve_bands(pencil, kpoints_kc, ELECTRONS, nbands, options=options), said


def test_bands_along_a_path_are_those_of_the_primitive_cell() -> None:
    """Gamma, eight k-points towards K between nodes, and one aside."""
    along = np.linspace(0.0, 1.0, 9)[:, None] * np.array([0.16, 0.16, 0.0])
    kpoints_kc = np.vstack([along, [[0.3, 0.1, 0.0]]])
    spectrum, said = solved(kpoints_kc, 20, 2.0 * MEV)
    expected = np.array([reference(k_c, 20) for k_c in kpoints_kc])
    error_k = np.abs(spectrum.eigenvalues_kn - expected).max(axis=1)
    assert error_k[0] < 1e-10
    # Reached 2.5 meV in the topmost band; the estimates, 0.01 to 1.9 meV, are 0.4 to 6 times the
    # errors.
    assert error_k.max() < 3.0 * MEV
    assert spectrum.errors_k is not None
    assert spectrum.errors_k[0] == 0.0
    assert (spectrum.errors_k[1:] > 0.4 * error_k[1:]).all()
    assert spectrum.errors_k.max() < 2.0 * MEV
    assert spectrum.certified_k is not None
    assert spectrum.certified_k.tolist() == [True] + 9 * [False]
    assert "from the states of 5" in said[-1]


def test_what_the_anchors_do_not_reach_is_solved_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reduced_module, "MOST_IMAGES", 3)
    kpoints_kc = np.array([[0.0, 0.0, 0.0], [0.31, 0.12, 0.0], [0.31, 0.121, 0.0]])
    spectrum, said = solved(kpoints_kc, 6, 0.05 * MEV)
    expected = np.array([reference(k_c, 6) for k_c in kpoints_kc])
    error_k = np.abs(spectrum.eigenvalues_kn - expected).max(axis=1)
    assert spectrum.certified_k is not None
    # The second k-point becomes an anchor, beside which the third needs no factors.
    assert spectrum.certified_k.tolist() == [True, True, False]
    assert error_k[:2].max() < 1e-10
    assert error_k[2] < 0.05 * MEV
    assert "1 had to be solved" in said[-1]


def test_a_metal_is_solved_point_by_point() -> None:
    hamiltonian, s = chain([-0.3] * 12)
    kpoints_kc = np.array([[0.0, 0, 0], [0.1, 0, 0], [0.23, 0, 0], [0.5, 0, 0]])
    pencil = pencil_of(hamiltonian, s, COMM, np.arange(12) % COMM.size)
    said: list[str] = []
    places_ic = np.arange(12)[:, None] / 12 * np.array([1.0, 0, 0])
    options = BandOptions(
        largest_dense=0,
        announce=said.append,
        reduced=ReducedSpaceOptions(places_ic, 20.0 * np.eye(3), MEV),
    )
    found = solve_bands(pencil, kpoints_kc, 12.0, 4, options=options)
    for k_c, energies_n in zip(kpoints_kc, found.eigenvalues_kn, strict=True):
        expected, _ = dense_eigenpairs(hamiltonian, s, k_c)
        assert np.abs(energies_n - expected[4:8]).max() < 1e-10
    assert any("no gap in common" in line for line in said)


def test_mixtures_of_far_states_are_no_states() -> None:
    """Vectors between far levels whose mean energy lies in the window."""
    levels_m = np.array([-2.0, -1.5, -0.02, -0.01, 0.015, 1.4, 1.8])
    mixed = np.zeros((7, 2))
    mixed[[0, 6], 0] = np.sqrt([0.475, 0.525])
    mixed[[1, 5], 1] = np.sqrt([0.48, 0.52])
    trial = np.hstack([np.eye(7)[:, 2:5], mixed])
    # A mixture of everything, and one vector twice.
    turned = trial @ np.random.default_rng(1).standard_normal((5, 6))
    h = turned.T @ (levels_m[:, None] * turned)
    plain = np.linalg.eigvalsh(trial.T @ (levels_m[:, None] * trial))
    window = Window(-0.03, 0.03)
    assert ((plain > window.low) & (plain < window.high)).sum() == 5
    shift = 3.0
    square = (turned.T * (levels_m**2 / (levels_m + shift))) @ turned
    energies_n, _ = choose_states(h, turned.T @ turned, window, shift, lambda c: c.T @ square @ c)
    assert np.abs(energies_n - levels_m[2:5]).max() < 1e-12


@pytest.mark.parametrize(("negligible", "largest"), [(0.0, 1e-9), (1e-5, 1e-3)])
def test_shifted_inverse_converges_to_the_inverse(
    negligible: float, largest: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shifted_inverse, "NEGLIGIBLE", negligible)
    _, hamiltonian, s = monolayer()
    pencil = pencil_of(hamiltonian, s, COMM, np.arange(3) % COMM.size)
    inverse = ShiftedInverse(pencil)
    k_c = np.array([0.2, 0.1, 0.0])
    whole = dense_matrix(hamiltonian, k_c) + inverse.shift * dense_matrix(s, k_c)
    assert np.linalg.eigvalsh(whole)[0] > 0.0
    order = np.argsort(np.repeat(np.arange(3) % COMM.size, s.norb_i), kind="stable")
    whole = whole[np.ix_(order, order)]
    x = np.random.default_rng(2).standard_normal((len(whole), 3)) + 0j
    own = slice(pencil.rows.start, pencil.rows.stop)
    expected = np.linalg.solve(whole, x)
    error = np.abs(inverse.times(k_c, x[own], 200) - expected[own]).max(initial=0.0)
    # Reached 1e-11, and 5e-4 without the tail of S.
    assert error < largest * np.abs(expected).max()
    few = inverse.times(k_c, x[own], 4)
    reached = COMM.allreduce(np.einsum("mn,mn->n", x[own].conj(), few).real)
    exact = np.einsum("mn,mn->n", x.conj(), expected).real
    # Steps of conjugate gradients approach x^+ A^-1 x from below.
    assert (reached < exact).all()
    assert (reached > 0.4 * exact).all()


def test_an_atom_without_its_own_block_is_refused() -> None:
    hamiltonian, s = chain([-0.3] * 4)
    other = hamiltonian.select(
        np.flatnonzero(hamiltonian.pairs.first_p != hamiltonian.pairs.second_p)
    )
    with pytest.raises(InputError, match="block of its own"):
        ShiftedInverse(pencil_of(other, s, COMM, np.arange(4) % COMM.size))


def test_images_surround_a_k_point() -> None:
    """K of a hexagonal lattice lies between three M and, further away, three Gamma."""
    structure, hamiltonian, s = monolayer()
    kpoints_kc = np.array([[0.0, 0.0, 0.0], [1 / 3, 1 / 3, 0.0]])
    candidates_ac = real_points(kpoints_kc)
    assert candidates_ac.tolist() == [[0, 0, 0], [0, 0.5, 0], [0.5, 0, 0], [0.5, 0.5, 0]]
    anchors = Anchors(
        pencil_of(hamiltonian, s, COMM, np.arange(3) % COMM.size),
        structure.fractional_ic,
        np.linalg.inv(structure.cell_cc).T,
        candidates_ac,
        lambda _k: pytest.fail("nothing is to be solved"),
    )
    zone = [image.number for image in anchors.nearest(kpoints_kc[1], 1)]
    assert sorted(zone) == [1, 2, 3]
    zone = [image.number for image in anchors.nearest(kpoints_kc[1], 4)]
    assert sorted(zone) == [0, 0, 0, 1, 2, 3]


def test_pieces_of_a_path() -> None:
    cell_cc = 40.0 * np.eye(3)
    towards = np.linspace([0.5, 0, 0], [0, 0, 0], 11)
    aside = np.linspace([0, 0, 0], [0.4, 0.4, 0], 9)[1:]
    kpoints_kc = np.vstack([towards, aside])
    pieces = list(straight_pieces(kpoints_kc, [*range(1, 10), *range(11, 19)], cell_cc))
    assert [piece.places for piece in pieces] == [list(range(1, 10)), list(range(11, 19))]
    for piece, ends in zip(pieces, ((0, 10), (10, 18)), strict=True):
        assert piece.nodes_jc is not None
        assert np.allclose(piece.nodes_jc[[0, -1]], kpoints_kc[list(ends)])
        assert 4 <= len(piece.nodes_jc) < len(piece.places)
    # Two k-points are no piece worth nodes.
    (alone,) = straight_pieces(kpoints_kc[:2], [0, 1], cell_cc)
    assert alone.nodes_jc is None
