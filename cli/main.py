"""The command `hamgnn-solve`."""

from __future__ import annotations

import argparse
import os
import sys

from hamgnn_solve import __version__
from hamgnn_solve.cli.options import SolveOptions

__all__ = ["main"]

DESCRIPTION = """\
Electronic structure of a crystal file from a predicted Hamiltonian.

Reads the structure, computes the overlap S, predicts the Hamiltonian H with an equivariant graph
network, and solves the sparse problem H x = E S x around the Fermi level. The gap, the bands, a
picture and a summary are left in a run folder. Start it under mpirun to use several cores or
machines; no rank ever holds the whole matrix."""

EPILOG = """\
examples:
  hamgnn-solve crystal.cif
  mpirun -n 16 hamgnn-solve bilayer.cif --kpath M-G-K --out bilayer-run
  hamgnn-solve POSCAR --kpoints "0 0 0; 0.5 0 0" --bands 80
  hamgnn-solve --hamiltonian mos2.scfout --kpoints mesh

exit codes: 0 done, 2 the input cannot be used (one sentence says why), 1 anything else"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="hamgnn-solve",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "structure",
        metavar="FILE",
        nargs="?",
        default="",
        help="CIF, POSCAR, XSF, CSSR or JSON file; with --hamiltonian it is only compared",
    )
    parser.add_argument(
        "--hamiltonian",
        metavar="FILE|DIR",
        help="solve this H and S instead of predicting: .scfout (or .scfout.xz) of OpenMX, .h5 of "
        "hamgnn-tools convert or --write-matrices, or a folder of DeepH",
    )
    parser.add_argument(
        "--electrons",
        metavar="N",
        type=float,
        help="electrons in the cell, with --hamiltonian (default: what its file tells)",
    )
    parser.add_argument(
        "--out", metavar="DIR", help="run folder to write (default: <name of FILE>.hamgnn)"
    )
    parser.add_argument(
        "--model",
        metavar="NAME|DIR",
        default=SolveOptions.model,
        help="built-in model or a model folder (default: %(default)s, the built-in model that "
        "covers the elements)",
    )
    parser.add_argument(
        "--dft-data",
        metavar="DIR",
        help="OpenMX's DFT_DATA19 folder with PAO and VPS, for models of its orbitals "
        "(default: $OPENMX_DFT_DATA)",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--kpath",
        metavar="auto|none|M-G-K",
        default=SolveOptions.kpath,
        help="path for the bands: found from the lattice (default), Gamma alone, or special points",
    )
    where.add_argument(
        "--kpoints",
        metavar='"X Y Z; ..."|mesh',
        help="solve at these k-points (fractional) instead; mesh: those of the run that made "
        "--hamiltonian",
    )
    parser.add_argument(
        "--path-spacing",
        metavar="K",
        type=float,
        default=SolveOptions.path_spacing,
        help="largest step along the path in 1/Angstrom (default: %(default)s)",
    )
    parser.add_argument(
        "--bands",
        metavar="N",
        type=int,
        default=SolveOptions.bands,
        help="bands to solve at each k-point, half below the Fermi level (default: %(default)s)",
    )
    parser.add_argument(
        "--band-error",
        metavar="EV",
        type=float,
        default=SolveOptions.band_error,
        help="largest estimated error of bands of large cells that are found from the states of a "
        "few k-points; 0: every k-point is solved by itself (default: %(default)s)",
    )
    parser.add_argument(
        "--dos",
        metavar="MESH",
        help="density of states of the whole spectrum with elements and shells, on a k mesh such "
        "as 6x6x1; large cells at Gamma alone, 1x1x1 (default: none)",
    )
    parser.add_argument(
        "--dos-moments",
        metavar="N",
        type=int,
        default=SolveOptions.dos_moments,
        help="Chebyshev moments for large cells: the more, the sharper (default: %(default)s)",
    )
    _add_real_space(parser)
    parser.add_argument(
        "--fat-bands",
        action="store_true",
        help="weights of elements and their shells in every state, in results.h5 and the picture",
    )
    parser.add_argument(
        "--fermi-surface",
        metavar="MESH",
        help="Fermi surface of a metal from a k mesh such as 24x24x24: a .bxsf for XCrySDen and "
        "FermiSurfer, and a picture (default: none)",
    )
    parser.add_argument(
        "--memory-per-rank",
        metavar="SIZE",
        help="memory a rank may use for the network, and then for sparse factors, 4GB say "
        "(default: its share of what is free)",
    )
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default=SolveOptions.device,
        help="where the network runs (default: %(default)s)",
    )
    parser.add_argument(
        "--write-matrices",
        action="store_true",
        help="leave H and S in the run folder too (matrices.h5; hamgnn-tools convert reads it)",
    )
    parser.add_argument(
        "--restart",
        action="store_true",
        help="go on with the run folder of a run that was stopped; its k-points are kept",
    )
    parser.add_argument(
        "--out-of-core",
        action="store_true",
        help="keep sparse factors on disk (done by itself where they exceed the memory)",
    )
    parser.add_argument(
        "--compression",
        metavar="EPS",
        type=float,
        default=SolveOptions.compression,
        help="block low-rank factors with this dropping tolerance, 1e-8 say (default: exact)",
    )
    parser.add_argument(
        "--subspace",
        metavar="N",
        type=int,
        default=SolveOptions.subspace,
        help="vectors of the Krylov space before a restart (default: six times the bands, and at "
        "least 1024)",
    )
    parser.add_argument(
        "--groups",
        metavar="N",
        type=int,
        default=SolveOptions.groups,
        help="groups of ranks that solve different k-points or slices at the same time, each with "
        "a copy of H and S (default: %(default)s)",
    )
    parser.add_argument(
        "--eigensolver",
        choices=("block", "slepc"),
        default=SolveOptions.eigensolver,
        help="block Krylov-Schur of our own, or SLEPc's solvers with all their options, which take "
        "several times longer (default: %(default)s)",
    )
    parser.add_argument(
        "--petsc", metavar="OPTIONS", default="", help="options handed to PETSc and SLEPc"
    )
    parser.add_argument("--quiet", action="store_true", help="print only the final summary")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def _add_real_space(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("densities and orbitals on a grid")
    group.add_argument(
        "--density",
        metavar="FILE",
        help="write the valence charge density: .cube, .xsf or .h5",
    )
    group.add_argument(
        "--difference-density",
        metavar="FILE",
        help="write the density minus that of free atoms: .cube, .xsf or .h5",
    )
    group.add_argument(
        "--charges",
        action="store_true",
        help="Mulliken charges of all atoms; with a density Hirshfeld charges come too",
    )
    group.add_argument(
        "--density-mesh",
        metavar="MESH",
        help="k mesh of density, charges and --ldos, 6x6x1 say (default: one point along an axis "
        "for every 19 Angstrom that it is shorter)",
    )
    group.add_argument(
        "--temperature",
        metavar="KELVIN",
        type=float,
        help="electronic temperature of the density (default: 0 with a gap; in a metal that of "
        "the run that made --hamiltonian, or 580)",
    )
    group.add_argument(
        "--orbitals",
        metavar="LIST",
        help="write these orbitals: homo, lumo, homo-1, a number of a band; homo-4:homo writes "
        "the density of a set",
    )
    group.add_argument(
        "--orbital-k",
        metavar='"X Y Z"',
        default=SolveOptions.orbital_k,
        help="fractional k of the orbitals (default: Gamma)",
    )
    group.add_argument(
        "--ldos",
        metavar="LOW:HIGH",
        help="write the density of the states in a window, eV around the Fermi level, and a "
        "picture of a plane of it (--ldos=-0.5:0.2)",
    )
    group.add_argument(
        "--ldos-height",
        metavar="ANGSTROM",
        type=float,
        help="height of that plane above the cell's bottom face (default: 2 above the topmost "
        "atom)",
    )
    group.add_argument(
        "--grid-spacing",
        metavar="ANGSTROM",
        type=float,
        default=SolveOptions.grid_spacing,
        help="largest distance of grid points (default: %(default)s)",
    )
    group.add_argument(
        "--grid-points", metavar="NxNxN", help="numbers of grid points instead, 48x48x120 say"
    )
    group.add_argument(
        "--grid-format",
        choices=("cube", "xsf", "h5"),
        default=SolveOptions.grid_format,
        help="format of orbitals and local densities of states (default: %(default)s)",
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code.

    Under MPI all ranks leave together: a refused input is known to all of them, and an unexpected
    fault on one rank aborts the others after its traceback.
    """
    parsed = build_parser().parse_args(arguments)
    # One thread a rank unless asked otherwise, before the numerical libraries load.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    # Imported here so that --help answers at once.
    from mpi4py import MPI

    from hamgnn_solve.parallel.faults import exit_code_of

    comm = MPI.COMM_WORLD

    def work() -> None:
        # Here, because it refuses a PETSc that cannot be used.
        from hamgnn_solve.cli.given import solve_given
        from hamgnn_solve.cli.solve import solve

        options = SolveOptions(
            structure=parsed.structure,
            hamiltonian=parsed.hamiltonian,
            electrons=parsed.electrons,
            out=parsed.out,
            model=parsed.model,
            dft_data=parsed.dft_data,
            kpath=parsed.kpath,
            kpoints=parsed.kpoints,
            path_spacing=parsed.path_spacing,
            bands=parsed.bands,
            band_error=parsed.band_error,
            memory_per_rank=parsed.memory_per_rank,
            device=parsed.device,
            write_matrices=parsed.write_matrices,
            out_of_core=parsed.out_of_core,
            compression=parsed.compression,
            subspace=parsed.subspace,
            restart=parsed.restart,
            dos=parsed.dos,
            dos_moments=parsed.dos_moments,
            density=parsed.density,
            difference_density=parsed.difference_density,
            charges=parsed.charges,
            density_mesh=parsed.density_mesh,
            temperature=parsed.temperature,
            orbitals=parsed.orbitals,
            orbital_k=parsed.orbital_k,
            ldos=parsed.ldos,
            ldos_height=parsed.ldos_height,
            grid_spacing=parsed.grid_spacing,
            grid_points=parsed.grid_points,
            grid_format=parsed.grid_format,
            fat_bands=parsed.fat_bands,
            fermi_surface=parsed.fermi_surface,
            groups=parsed.groups,
            eigensolver=parsed.eigensolver,
            petsc=parsed.petsc,
            quiet=parsed.quiet,
            command=" ".join(["hamgnn-solve", *(arguments or sys.argv[1:])]),
        )
        run = solve if options.hamiltonian is None else solve_given
        run(options, comm)

    return exit_code_of("hamgnn-solve", comm, work)


if __name__ == "__main__":
    sys.exit(main())
