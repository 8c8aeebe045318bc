"""The stage of a run that makes the Fermi surface."""

from __future__ import annotations

from hamgnn_solve.cli.options import SolveOptions, k_mesh
from hamgnn_solve.cli.stages import Stages
from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.io.bxsf import write_bxsf
from hamgnn_solve.core.observables.fermi_surface_plot import plot_fermi_surface
from hamgnn_solve.core.observables.plot_style import FigureStyle
from hamgnn_solve.core.structure import Structure
from hamgnn_solve.solver.bands import DENSE
from hamgnn_solve.solver.fermi import FermiLevel
from hamgnn_solve.solver.k_mesh import fermi_surface, inequivalent
from hamgnn_solve.solver.pencil import Pencil

__all__ = ["check_fermi_surface", "make_fermi_surface"]


def check_fermi_surface(options: SolveOptions, norbitals: int) -> None:
    """Raise `InputError` when `--fermi-surface` cannot be done, before anything is computed."""
    if options.fermi_surface is None:
        return
    mesh = k_mesh(options.fermi_surface, "--fermi-surface")
    if max(mesh) < 2:
        raise InputError("--fermi-surface 1x1x1 is one point; give a k mesh such as 24x24x24.")
    if norbitals > DENSE:
        raise InputError(
            f"A cell of {norbitals} orbitals is too large for --fermi-surface, which solves every "
            f"k-point by LAPACK; it takes up to {DENSE}."
        )


def make_fermi_surface(
    options: SolveOptions,
    pencil: Pencil,
    structure: Structure,
    electrons: float,
    stages: Stages,
    energy_shift: float = 0.0,
) -> FermiLevel | None:
    """Write `fermi-surface.bxsf` and `.png`; return the Fermi level of the mesh. Collective.

    Parameters
    ----------
    options : SolveOptions
        Without `fermi_surface` nothing is done.
    pencil : Pencil
    structure : Structure
    electrons : float
    stages : Stages
    energy_shift : float
        Added to energies in files, in Hartree; not to the level that is returned.
    """
    if options.fermi_surface is None:
        return None
    mesh = k_mesh(options.fermi_surface, "--fermi-surface")
    with stages.steps("fermi surface", len(inequivalent(pencil, mesh)[0])) as advance:
        surface = fermi_surface(pencil, structure.cell_cc, mesh, electrons, options.bands, advance)
    bands = " ".join(map(str, surface.bands))
    stages.say(f"{len(surface.bands)} band(s) cross the Fermi level: {bands}")
    with stages.stage("surface files"):
        if stages.comm.rank == 0:
            moved = surface.shifted(energy_shift)
            name = options.run_folder.stem
            comment = f"{name}, bands {bands} of {options.source}".encode("ascii", "replace")
            write_bxsf(options.run_folder / "fermi-surface.bxsf", moved, comment.decode())
            style = FigureStyle(title=name)
            plot_fermi_surface(moved, style, options.run_folder / "fermi-surface.png")
    return FermiLevel(surface.fermi_level)
