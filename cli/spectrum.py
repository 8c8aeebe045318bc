"""The stage of a run that solves the bands, whatever H and S come from."""

from __future__ import annotations

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hamgnn_solve.cli.options import SolveOptions
from hamgnn_solve.cli.stages import Stages
from hamgnn_solve.core.hamiltonian import OrbitalSystem
from hamgnn_solve.core.io.results import BandStore
from hamgnn_solve.core.observables.band_path import BandPath
from hamgnn_solve.core.observables.projections import projections_of
from hamgnn_solve.core.spectrum import KBands, Spectrum
from hamgnn_solve.core.units import EV_PER_HARTREE
from hamgnn_solve.parallel.faults import agreed
from hamgnn_solve.parallel.memory import memory_per_rank
from hamgnn_solve.solver.bands import BandOptions, solve_bands
from hamgnn_solve.solver.factorisation import DOUBLE, FactorOptions
from hamgnn_solve.solver.fermi import FermiLevel
from hamgnn_solve.solver.krylov import KrylovOptions
from hamgnn_solve.solver.pencil import Pencil
from hamgnn_solve.solver.reduced_bands import ReducedSpaceOptions

__all__ = ["factor_options", "solve_spectrum"]


def factor_options(options: SolveOptions, stages: Stages) -> FactorOptions:
    """Return how sparse factors may be made: within the memory asked for, or free now. Collective.

    Where factors do not fit, they are kept on disk and the log says so. SLEPc solves for one vector
    at a time, where corrections of coarse solutions cost more than precise factors.
    """
    free = memory_per_rank(stages.comm)
    slepc = options.eigensolver == "slepc"
    return FactorOptions(
        precisions=(DOUBLE,) if slepc else FactorOptions.precisions,
        memory=free if options.memory_bytes is None else options.memory_bytes,
        out_of_core=options.out_of_core,
        compression=options.compression,
        announce=stages.say,
    )


def solve_spectrum(
    options: SolveOptions,
    pencil: Pencil,
    system: OrbitalSystem,
    path: BandPath,
    electrons: float,
    inputs: str,
    stages: Stages,
    *,
    energy_shift: float = 0.0,
    weights_k: NDArray[np.float64] | None = None,
    temperature: float = 0.0,
    fermi: FermiLevel | None = None,
) -> Spectrum:
    """Solve the bands at all k-points, keeping each in the run folder. Collective.

    Parameters
    ----------
    options : SolveOptions
    pencil : Pencil
    system : OrbitalSystem
    path : BandPath
    electrons : float
    inputs : str
        Digest of what the bands depend on beside k-points and their number.
    stages : Stages
    energy_shift : float
        Added to all energies, in Hartree.
    weights_k : ndarray, shape (K,), optional
    temperature : float
        k_B T in Hartree.
    fermi : FermiLevel, optional
        Of a k mesh, without `energy_shift`.
    """
    comm: MPI.Intracomm = stages.comm
    file = options.run_folder / "results.h5"
    projections = projections_of(system) if options.fat_bands else None
    groups = () if projections is None else projections.names
    store = BandStore(file, path.kpoints_kc, options.bands, inputs, energy_shift, groups)
    known: dict[int, KBands] = {}
    with agreed(comm):
        if comm.rank == 0 and options.restart:
            known = store.read()
    known = comm.bcast(known)
    if known:
        stages.say(f"{len(known)} of {len(path.kpoints_kc)} k-points are in {file} already")

    def keep(place: int, bands: KBands) -> None:
        if comm.rank == 0:
            store.store(place, bands)

    band_options = BandOptions(
        krylov=KrylovOptions(largest=options.subspace, slepc=options.eigensolver == "slepc"),
        known=known,
        store=keep,
        announce=stages.say,
        groups=options.groups,
        reduced=ReducedSpaceOptions(system, options.band_error / EV_PER_HARTREE)
        if options.band_error
        else None,
        projections=projections,
    )
    with stages.steps("spectrum", len(path.kpoints_kc)) as advance:
        spectrum = solve_bands(
            pencil,
            path.kpoints_kc,
            electrons,
            options.bands,
            advance,
            fermi=fermi,
            weights_k=weights_k,
            temperature=temperature,
            options=band_options,
        )
    pencil.free_factors()
    return spectrum.shifted(energy_shift)
