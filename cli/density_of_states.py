"""The stage of a run that makes the density of states."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hamgnn_solve.cli.options import SolveOptions, k_mesh
from hamgnn_solve.cli.stages import Stages
from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.hamiltonian import OrbitalSystem
from hamgnn_solve.core.io.results import write_dos
from hamgnn_solve.core.observables.band_path import BandPath
from hamgnn_solve.core.observables.density_of_states import (
    DensityOfStates,
    energy_grid,
    gaussian_dos,
    tetrahedron_dos,
)
from hamgnn_solve.core.observables.figures import Content, draw_figure
from hamgnn_solve.core.observables.plot_style import FigureStyle
from hamgnn_solve.core.observables.projections import Projections, projections_of
from hamgnn_solve.core.spectrum import Spectrum
from hamgnn_solve.core.units import EV_PER_HARTREE
from hamgnn_solve.solver.bands import DENSE
from hamgnn_solve.solver.dense import dense_bands
from hamgnn_solve.solver.dense_kpoints import over_kpoints
from hamgnn_solve.solver.k_mesh import regular_mesh
from hamgnn_solve.solver.kernel_polynomial import (
    KernelOptions,
    chebyshev_moments,
    kernel_dos,
    spectral_bounds,
)
from hamgnn_solve.solver.mulliken import dense_band_weights
from hamgnn_solve.solver.pencil import Pencil

__all__ = ["make_dos", "mesh_of", "write_dos_files"]

GAMMA = (0.0, 0.0, 0.0)
# eV. Steps of the energies, and broadening of a lone k-point.
STEP, WIDTH = 0.02, 0.1


def mesh_of(options: SolveOptions, norbitals: int) -> tuple[int, int, int]:
    """Return the k mesh of `--dos`.

    Raises
    ------
    InputError
        When it is no mesh, or the cell is too large for any but Gamma.
    """
    mesh = k_mesh(options.dos or "", "--dos")
    if norbitals > DENSE and mesh != (1, 1, 1):
        raise InputError(
            f"A cell of {norbitals} orbitals has its density of states at Gamma alone; give --dos "
            "1x1x1."
        )
    return mesh


def make_dos(
    options: SolveOptions, pencil: Pencil, system: OrbitalSystem, stages: Stages
) -> DensityOfStates:
    """Return the density of states of the whole spectrum with its projections. Collective.

    Up to 2000 orbitals from all bands by LAPACK, with tetrahedra on a mesh and Gaussians at Gamma
    alone; beyond that at Gamma by the kernel polynomial method.
    """
    mesh = mesh_of(options, pencil.norbitals)
    projections = projections_of(system)
    per_band = pencil.electrons_per_band
    if pencil.norbitals > DENSE:
        kernel = KernelOptions(moments=options.dos_moments)
        with stages.stage("dos"):
            kernel = replace(kernel, bounds=spectral_bounds(pencil, GAMMA))
            moments = chebyshev_moments(pencil, GAMMA, projections, kernel)
            low, high = moments.bounds
            return kernel_dos(moments, energy_grid(low, high, STEP / EV_PER_HARTREE))
    mesh_kc = regular_mesh(mesh)
    with stages.steps("dos", len(mesh_kc)) as advance:
        energies_kn, weights_gkn = _all_bands(pencil, mesh_kc, projections, advance)
        low, high = float(energies_kn.min()) - 0.05, float(energies_kn.max()) + 0.05
        grid = energy_grid(low, high, STEP / EV_PER_HARTREE)
        if len(mesh_kc) == 1:
            return gaussian_dos(
                energies_kn,
                np.ones(1),
                grid,
                WIDTH / EV_PER_HARTREE,
                names=projections.names,
                projections_gkn=weights_gkn,
                electrons_per_band=per_band,
            )
        return tetrahedron_dos(
            energies_kn,
            mesh,
            grid,
            names=projections.names,
            projections_gkn=weights_gkn,
            electrons_per_band=per_band,
        )


def write_dos_files(
    options: SolveOptions,
    dos: DensityOfStates,
    spectrum: Spectrum,
    path: BandPath,
    energy_shift: float,
) -> None:
    """Add the group `dos` to `results.h5` and draw `dos.png`, on one rank.

    Parameters
    ----------
    options : SolveOptions
    dos : DensityOfStates
        Without `energy_shift` (Hartree).
    spectrum : Spectrum
        With it.
    path : BandPath
    energy_shift : float
    """
    moved = replace(dos, energies_e=dos.energies_e + energy_shift)
    write_dos(options.run_folder / "results.h5", moved, spectrum.fermi_level)
    style = FigureStyle(title=options.run_folder.stem)
    draw_figure(spectrum, path, moved, Content("dos"), style, options.run_folder / "dos.png")


def _all_bands(
    pencil: Pencil,
    mesh_kc: NDArray[np.float64],
    projections: Projections,
    advance: Callable[[], None],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return all energies and Mulliken weights by LAPACK, one k-point on each rank at a time."""

    def work(
        h: NDArray[Any], s: NDArray[Any], k_c: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        energies_n, vectors_mn = dense_bands(h, s, 1, len(h), k_c)
        return energies_n, dense_band_weights(s, vectors_mn, projections)

    found = []
    for bands in over_kpoints(pencil, mesh_kc, work):
        found.append(bands)
        advance()
    number = min(len(energies_n) for energies_n, _ in found)
    energies_kn = np.stack([energies_n[:number] for energies_n, _ in found])
    return energies_kn, np.stack([weights_gn[:, :number] for _, weights_gn in found], axis=1)
