"""Rotations of crystals, and states turned by them, against LAPACK at the turned k-point."""

from __future__ import annotations

import numpy as np
import pytest
from mpi4py import MPI
from numpy.typing import NDArray
from test_reduced_bands import supercell_system

from hamgnn_solve.core.crystal_symmetry import SymmetryOperation, symmetry_operations
from hamgnn_solve.core.hamiltonian import OrbitalSystem
from hamgnn_solve.core.integrals.overlap import overlap
from hamgnn_solve.core.model_selection import built_in_model
from hamgnn_solve.core.operator import BlockOperator, dense_matrix
from hamgnn_solve.core.structure import Structure
from hamgnn_solve.core.units import ANGSTROM_PER_BOHR
from hamgnn_solve.parallel.rows import OrbitalRows
from hamgnn_solve.solver.eigenpairs import Eigenpairs
from hamgnn_solve.solver.symmetric_states import symmetric_states

pytestmark = pytest.mark.parallel
COMM = MPI.COMM_WORLD


def diamond() -> Structure:
    """Carbon, whose inversion does not keep the places of atoms without a shift."""
    a = 3.567 / ANGSTROM_PER_BOHR
    cell_cc = 0.5 * a * np.array([[0.0, 1, 1], [1, 0, 1], [1, 1, 0]])
    fractional_ic = np.array([[0.1, 0.2, 0.3], [1.35, 0.45, 0.55]])
    return Structure(("C", "C"), fractional_ic @ cell_cc, cell_cc)


@pytest.mark.parametrize(
    ("structure", "number"), [(diamond(), 48), (supercell_system().structure, 12)]
)
def test_every_atom_goes_to_its_image(structure: Structure, number: int) -> None:
    operations = symmetry_operations(structure, structure.element_index_i)
    assert len({x.rotation_cc.tobytes() for x in operations}) == len(operations) == number
    places_ic = structure.fractional_ic
    for operation in operations:
        image_ic = places_ic[operation.image_i] + operation.shift_ic
        turned_ic = (places_ic - places_ic[0]) @ operation.rotation_cc.T
        assert np.abs(image_ic - image_ic[0] - turned_ic).max() < 1e-10
        symbols = [structure.symbols[i] for i in operation.image_i]
        assert symbols == list(structure.symbols)
        cartesian_cc = operation.cartesian(structure.cell_cc)
        assert np.abs(cartesian_cc @ cartesian_cc.T - np.eye(3)).max() < 1e-12


def test_two_atoms_with_one_image_are_refused() -> None:
    with pytest.raises(ValueError, match="one image"):
        SymmetryOperation(np.eye(3, dtype=int), np.zeros(2, int), np.zeros((2, 3), int))


def carbon() -> tuple[OrbitalSystem, BlockOperator]:
    """Return diamond with s, p and d shells and its overlap, which has all of its symmetry."""
    structure, basis = diamond(), built_in_model("organic").basis
    system = OrbitalSystem(structure, (basis.species["C"].shell_l,) * 2, None)
    return system, overlap(structure, basis, np.arange(2))


def test_atoms_with_other_shells_are_of_another_kind() -> None:
    """As in OpenMX, where one element may have several species."""
    structure = diamond()
    alike = OrbitalSystem(structure, ((0, 1), (0, 1)), None)
    other = OrbitalSystem(structure, ((0, 1), (0, 1, 2)), None)
    assert alike.kind_i.tolist() == [0, 0]
    assert other.kind_i.tolist() == [0, 1]
    # Half of the rotations exchange the two atoms.
    assert len(symmetry_operations(structure, other.kind_i)) == 24


def states_of_overlap(s: BlockOperator, rows: OrbitalRows, k_c: NDArray[np.float64]) -> Eigenpairs:
    """Return eigenvectors of S(k) at a real k, the upper ones as neighbours."""
    energies_n, vectors_mn = np.linalg.eigh(dense_matrix(s, k_c).real)
    own_mn = vectors_mn[np.argsort(rows.row_of_orbital_m)][rows.start : rows.stop]
    number = np.arange(len(energies_n))
    return Eigenpairs(
        k_c, energies_n, number + 1, 0.0 * energies_n, own_mn[:, :9], 9, 0.5, own_mn[:, 9:]
    )


def test_turned_states_are_states_at_the_turned_k_point() -> None:
    """The four L and three X of diamond, from one of each by all 48 rotations."""
    system, s = carbon()
    assert 2 in system.shells_i[0]
    owner_i = np.array([1, 0]) % COMM.size
    rows = OrbitalRows(owner_i, system.norb_i, COMM.size, COMM.rank)
    reached = set()
    for k_c in (np.array([0.5, 0.0, 0.0]), np.array([0.5, 0.5, 0.0])):
        states = states_of_overlap(s, rows, k_c)
        for operation in symmetry_operations(system.structure, system.kind_i):
            found = symmetric_states(states, operation, system, rows, COMM)
            own_mn = np.hstack([found.vectors_mn, found.beyond_mn])
            vectors_mn = np.vstack(COMM.allgather(own_mn))[rows.row_of_orbital_m]
            s_k = dense_matrix(s, found.k_c).real
            error = np.abs(s_k @ vectors_mn - vectors_mn * states.energies_n).max()
            # Reached 2e-14.
            assert error < 1e-12
            reached.add(tuple((found.k_c % 1.0).tolist()))
    assert len(reached) == 7
