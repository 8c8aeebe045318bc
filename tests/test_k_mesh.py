"""Bands on a k mesh, shared among ranks; also under mpirun with two and three ranks."""

from __future__ import annotations

import numpy as np
import pytest
from given_models import crystal, dense_energies
from mpi4py import MPI
from test_fat_bands import given_pencil

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.observables.density_of_states import tetrahedron_level
from hamgnn_solve.solver.k_mesh import fermi_surface, inequivalent, regular_mesh

pytestmark = pytest.mark.parallel
COMM = MPI.COMM_WORLD
DIVISIONS = (4, 3, 2)


@pytest.mark.parametrize(("spin", "solved"), [("off", 14), ("on", 14), ("nc", 24)])
def test_bands_of_a_mesh_are_lapacks_at_every_point(spin: str, solved: int) -> None:
    """Points stand for their opposites where H(R) is real: 4 of 24 are their own opposites."""
    given = crystal(spin)
    pencil = given_pencil(given)
    steps: list[int] = []
    cell_cc = given.system.structure.cell_cc
    surface = fermi_surface(pencil, cell_cc, DIVISIONS, 13.0, 12, lambda: steps.append(1))
    assert len(steps) == solved == len(inequivalent(pencil, DIVISIONS)[0])
    expected_kn = np.array([dense_energies(given, k_c) for k_c in regular_mesh(DIVISIONS)])
    filled = 13.0 / given.system.electrons_per_band
    # Reached 1e-10 and 1e-14.
    level = tetrahedron_level(expected_kn, DIVISIONS, filled)
    assert surface.fermi_level == pytest.approx(level, abs=1e-9)
    for band, energy_xyz in zip(surface.bands, surface.energies_bxyz, strict=True):
        assert np.abs(energy_xyz.ravel() - expected_kn[:, band - 1]).max() < 1e-11
    crossing = (expected_kn.min(axis=0) < level) & (expected_kn.max(axis=0) > level)
    assert surface.bands == tuple((np.flatnonzero(crossing) + 1).tolist())
    assert COMM.bcast(surface.fermi_level) == surface.fermi_level


def test_too_few_bands_are_noticed_on_every_rank() -> None:
    given = crystal()
    with pytest.raises(InputError, match="give --bands a larger number"):
        fermi_surface(
            given_pencil(given), given.system.structure.cell_cc, DIVISIONS, 13.0, 1, lambda: None
        )
