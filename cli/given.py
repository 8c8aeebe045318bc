"""The run behind `hamgnn-solve --hamiltonian`: given H and S, without a network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hamgnn_solve.cli.density_of_states import mesh_of
from hamgnn_solve.cli.fermi_surface import check_fermi_surface, make_fermi_surface
from hamgnn_solve.cli.options import SolveOptions
from hamgnn_solve.cli.real_space import (
    RealSpace,
    check_real_space,
    make_real_space,
    wants_grid,
)
from hamgnn_solve.cli.solve import (
    describe_run,
    finish_run,
    inputs_digest,
    prepare_folder,
    requested_path,
)
from hamgnn_solve.cli.spectrum import factor_options, solve_spectrum
from hamgnn_solve.cli.stages import Stages
from hamgnn_solve.core.basis.openmx_data import openmx_basis
from hamgnn_solve.core.basis.species import Basis
from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.hamiltonian import (
    CrystalHamiltonian,
    OrbitalSystem,
    check_same_structure,
    half_reach,
)
from hamgnn_solve.core.io.deeph import read_deeph
from hamgnn_solve.core.io.deepx import is_deepx, read_deepx
from hamgnn_solve.core.io.operator_file import (
    read_half_reach,
    read_operator_file,
    read_operator_system,
)
from hamgnn_solve.core.io.scfout import scfout_hamiltonian
from hamgnn_solve.core.io.structure import read_structure
from hamgnn_solve.core.observables.band_path import BandPath
from hamgnn_solve.core.units import EV_PER_HARTREE, HARTREE_PER_KELVIN
from hamgnn_solve.parallel.faults import agreed
from hamgnn_solve.parallel.partition import partition_atoms
from hamgnn_solve.parallel.rows import OrbitalRows
from hamgnn_solve.solver.pencil import Pencil
from hamgnn_solve.solver.petsc import set_options

__all__ = ["read_hamiltonian", "solve_given"]

OWN_MESH = "mesh"
HDF5_ENDINGS = (".h5", ".hdf5")


def read_hamiltonian(path: str | Path) -> CrystalHamiltonian:
    """Read H and S whole, the format told from the name.

    Parameters
    ----------
    path : str or Path
        `.scfout` or `.scfout.xz` of OpenMX, `.h5` or `.hdf5` of our own, or a folder of DeepH.

    Raises
    ------
    InputError
        For a missing file, another name, and what the reader of the format refuses.
    """
    path = Path(path)
    if path.is_dir():
        return read_deepx(path) if is_deepx(path) else read_deeph(path)
    if not path.is_file():
        raise InputError(f"There is no file {path}; check the name given with --hamiltonian.")
    if path.suffix in HDF5_ENDINGS:
        return read_operator_file(path)
    if path.name.removesuffix(".xz").endswith(".scfout"):
        return scfout_hamiltonian(path)
    raise InputError(
        f"The format of {path} cannot be told from its name; give an .scfout or .scfout.xz of "
        "OpenMX, an .h5 of hamgnn-tools convert, or a folder of DeepH."
    )


def solve_given(options: SolveOptions, comm: MPI.Intracomm) -> dict[str, Any]:
    """Solve the given H and S near the Fermi level and leave a run folder. Collective.

    Parameters
    ----------
    options : SolveOptions
        `hamiltonian` names the file.
    comm : mpi4py communicator
        Its ranks share the work. Of our HDF5 each rank reads its own rows; other files are read by
        the first rank, which hands out the rows.

    Returns
    -------
    dict
        What `summary.json` holds.

    Raises
    ------
    InputError
        On every rank, when the input cannot be used.
    """
    if options.hamiltonian is None:
        raise ValueError("no Hamiltonian was given")
    stages = Stages(comm, options.quiet)
    file = Path(options.hamiltonian)
    own_rows = file.suffix in HDF5_ENDINGS
    whole: CrystalHamiltonian | None = None
    with stages.stage("read"):
        with agreed(comm):
            set_options(options.petsc)
            if comm.rank == 0 and not own_rows:
                whole = read_hamiltonian(file)
            system = read_operator_system(file) if own_rows else None
        system = comm.bcast(whole.system if whole is not None else system)
        with agreed(comm):
            if options.structure:
                check_same_structure(
                    system.structure, read_structure(options.structure), options.structure
                )
            electrons = _electrons(options, system)
            path, weights_k = _kpoints(options, system)
            if options.dos is not None:
                if system.spinors:
                    raise InputError("--dos is not there for spinors yet; leave it out.")
                mesh_of(options, int(system.norb_i.sum()))
            basis = _basis(options, system)
            check_real_space(options, replace(system, electrons=electrons), basis)
            check_fermi_surface(options, int(system.norb_i.sum()) * (2 if system.spinors else 1))
            if comm.rank == 0:
                prepare_folder(options.run_folder)
    structure = system.structure
    norb_i = system.norb_i * (2 if system.spinors else 1)
    stages.say(
        f"{options.hamiltonian}: {structure.natoms} atoms, {norb_i.sum()} "
        f"{'spin ' if system.spinors else ''}orbitals, {electrons:g} electrons; "
        f"{comm.size} rank(s)"
    )
    with stages.stage("partition"):
        owner_i = partition_atoms(structure, _reach_i(file, whole, comm), comm)
        given = _own_part(file, whole, owner_i, comm)
    with stages.stage("pencil"):
        rows = OrbitalRows(owner_i, norb_i, comm.size, comm.rank)
        pencil = Pencil(
            given.hamiltonian,
            given.overlap_of_bands,
            rows,
            comm,
            imaginary=given.imaginary,
            electrons_per_band=system.electrons_per_band,
            factor_options=factor_options(options, stages),
        )
    state = file.stat() if file.exists() else None
    identity = (str(file.resolve()), state and state.st_size, state and state.st_mtime_ns)
    inputs = inputs_digest(options, structure, path, *identity, electrons)
    fermi = make_fermi_surface(options, pencil, structure, electrons, stages)
    spectrum = solve_spectrum(
        options,
        pencil,
        system,
        path,
        electrons,
        inputs,
        stages,
        weights_k=weights_k,
        temperature=system.temperature * HARTREE_PER_KELVIN,
        fermi=fermi,
    )
    summary = describe_run(options, structure, "none: H and S given", norb_i, spectrum, comm)
    if system.chemical_potential is not None:
        summary["file_fermi_level_eV"] = system.chemical_potential * EV_PER_HARTREE
    system = replace(system, electrons=electrons)
    real_space = RealSpace()
    if basis is not None:
        real_space = make_real_space(
            options,
            pencil,
            system,
            basis,
            given.hamiltonian,
            given.overlap,
            spectrum,
            0.0,
            stages,
        )
    finish_run(options, stages, pencil, system, spectrum, path, summary, inputs, 0.0, real_space)
    return summary


def _basis(options: SolveOptions, system: OrbitalSystem) -> Basis | None:
    """Return the orbitals of given matrices where they are needed and can be told."""
    folder = options.dft_data_folder
    if not wants_grid(options) or folder is None or not system.openmx_species:
        return None
    return openmx_basis(folder, system.openmx_species.values())


def _electrons(options: SolveOptions, system: OrbitalSystem) -> float:
    electrons = system.electrons if options.electrons is None else options.electrons
    if electrons is None:
        raise InputError(
            f"{options.hamiltonian} does not tell the number of electrons; give it with "
            "--electrons N."
        )
    return electrons


def _kpoints(
    options: SolveOptions, system: OrbitalSystem
) -> tuple[BandPath, NDArray[np.float64] | None]:
    """Return the k-points asked for and, of a mesh, their weights."""
    if options.kpoints is None or options.kpoints.strip().lower() != OWN_MESH:
        return requested_path(options, system.structure), None
    if system.mesh is None:
        raise InputError(
            f"{options.hamiltonian} does not tell the k mesh of its run; list k-points as in "
            '--kpoints "0 0 0; 0.5 0 0".'
        )
    kpoints_kc = system.mesh.kpoints_kc
    return BandPath(kpoints_kc, np.arange(len(kpoints_kc), dtype=float), ()), system.mesh.weights_k


def _reach_i(
    file: Path, whole: CrystalHamiltonian | None, comm: MPI.Intracomm
) -> NDArray[np.float64]:
    """Return half of each atom's longest pair in Bohr, from which its work is estimated."""
    reach_i = None
    if comm.rank == 0:
        reach_i = read_half_reach(file) if whole is None else half_reach(whole.overlap)
    return np.asarray(comm.bcast(reach_i))


def _own_part(
    file: Path,
    whole: CrystalHamiltonian | None,
    owner_i: NDArray[np.int64],
    comm: MPI.Intracomm,
) -> CrystalHamiltonian:
    """Return the rows of this rank's atoms."""
    if file.suffix in HDF5_ENDINGS:
        with agreed(comm):
            return read_operator_file(file, np.flatnonzero(owner_i == comm.rank))
    parts = None
    if whole is not None:
        parts = [whole.rows_of(np.flatnonzero(owner_i == rank)) for rank in range(comm.size)]
    return comm.scatter(parts)
