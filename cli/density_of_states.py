"""The stage of a run that makes the density of states."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hamgnn_solve.cli.options import SolveOptions
from hamgnn_solve.cli.stages import Stages
from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.hamiltonian import OrbitalSystem
from hamgnn_solve.core.io.results import write_dos
from hamgnn_solve.core.observables.density_of_states import (
    DensityOfStates,
    energy_grid,
    gaussian_dos,
    tetrahedron_dos,
)
from hamgnn_solve.core.observables.dos_plot import plot_dos
from hamgnn_solve.core.observables.projections import Projections, projections_of
from hamgnn_solve.core.units import EV_PER_HARTREE
from hamgnn_solve.solver.bands import DENSE
from hamgnn_solve.solver.dense import dense_bands
from hamgnn_solve.solver.dense_kpoints import over_kpoints
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
# eV. Steps of the energies, broadening of a lone k-point, and what is shown above the Fermi level.
STEP, WIDTH, ABOVE = 0.02, 0.1, 10.0


def mesh_of(options: SolveOptions, norbitals: int) -> tuple[int, int, int]:
    """Return the k mesh of `--dos`.

    Raises
    ------
    InputError
        When it is no mesh, or the cell is too large for any but Gamma.
    """
    match = re.fullmatch(r"(\d+)x(\d+)x(\d+)", (options.dos or "").strip().lower())
    if match is None or "0" in match.groups():
        raise InputError(f"--dos {options.dos} is not a k mesh; write 6x6x1, or 1x1x1 for Gamma.")
    mesh = (int(match[1]), int(match[2]), int(match[3]))
    if norbitals > DENSE and mesh != (1, 1, 1):
        raise InputError(
            f"A cell of {norbitals} orbitals has its density of states at Gamma alone; give --dos "
            "1x1x1."
        )
    return mesh


def make_dos(
    options: SolveOptions, pencil: Pencil, system: OrbitalSystem, stages: Stages
) -> tuple[DensityOfStates, Projections]:
    """Return the density of states of the whole spectrum and its projections. Collective.

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
            dos = kernel_dos(moments, energy_grid(low, high, STEP / EV_PER_HARTREE))
        return dos, projections
    axes = [np.arange(n) / n for n in mesh]
    mesh_kc = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    with stages.steps("dos", len(mesh_kc)) as advance:
        energies_kn, weights_gkn = _all_bands(pencil, mesh_kc, projections, advance)
    grid = energy_grid(
        float(energies_kn.min()) - 0.05, float(energies_kn.max()) + 0.05, STEP / EV_PER_HARTREE
    )
    if len(mesh_kc) == 1:
        width = WIDTH / EV_PER_HARTREE
        dos = gaussian_dos(
            energies_kn,
            np.ones(1),
            grid,
            width,
            names=projections.names,
            projections_gkn=weights_gkn,
            electrons_per_band=per_band,
        )
    else:
        dos = tetrahedron_dos(
            energies_kn,
            mesh,
            grid,
            names=projections.names,
            projections_gkn=weights_gkn,
            electrons_per_band=per_band,
        )
    return dos, projections


def write_dos_files(
    options: SolveOptions,
    dos: DensityOfStates,
    projections: Projections,
    fermi_level: float,
    energy_shift: float,
) -> None:
    """Add the group `dos` to `results.h5` and draw `dos.png`, on one rank.

    Parameters
    ----------
    fermi_level : float
        In Hartree, `energy_shift` (Hartree) included.
    """
    moved = replace(dos, energies_e=dos.energies_e + energy_shift)
    write_dos(options.run_folder / "results.h5", moved, fermi_level)
    lowest = float(moved.energies_e[0] - fermi_level) * EV_PER_HARTREE
    highest = float(moved.energies_e[-1] - fermi_level) * EV_PER_HARTREE
    plot_dos(
        moved,
        fermi_level,
        projections.elements,
        options.run_folder.stem,
        options.run_folder / "dos.png",
        window=(lowest, min(highest, ABOVE)),
    )


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
