"""The run behind `hamgnn-solve`: from the file to the run folder."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch
from mpi4py import MPI
from numpy.typing import NDArray

from hamgnn_solve import __version__
from hamgnn_solve.cli.density_of_states import make_dos, mesh_of, write_dos_files
from hamgnn_solve.cli.fermi_surface import check_fermi_surface, make_fermi_surface
from hamgnn_solve.cli.matrices import write_in_turn
from hamgnn_solve.cli.options import SolveOptions
from hamgnn_solve.cli.real_space import RealSpace, check_real_space, make_real_space
from hamgnn_solve.cli.spectrum import factor_options, solve_spectrum
from hamgnn_solve.cli.stages import Stages
from hamgnn_solve.core.basis.openmx_data import openmx_basis
from hamgnn_solve.core.basis.species import Basis
from hamgnn_solve.core.domain import Domain
from hamgnn_solve.core.environments import unfamiliar_atoms, unfamiliar_text
from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.hamiltonian import CrystalHamiltonian, OrbitalSystem
from hamgnn_solve.core.integrals.hamiltonian_zero import hamiltonian_zero
from hamgnn_solve.core.integrals.overlap import overlap
from hamgnn_solve.core.io.results import (
    digest,
    summarise,
    write_charges,
    write_environment_distances,
    write_results,
    write_summary,
)
from hamgnn_solve.core.io.structure import read_structure
from hamgnn_solve.core.model import Model
from hamgnn_solve.core.model_selection import find_model, measured_errors
from hamgnn_solve.core.network.predict import fitting_chunk, predict_all
from hamgnn_solve.core.observables.band_path import BandPath, band_path, listed_kpoints
from hamgnn_solve.core.observables.figures import Content, draw_figure
from hamgnn_solve.core.observables.plot_style import FigureStyle, figure_title
from hamgnn_solve.core.operator import linear_combination
from hamgnn_solve.core.spectrum import Spectrum
from hamgnn_solve.core.structure import Structure
from hamgnn_solve.parallel.domain import distributed_domain
from hamgnn_solve.parallel.faults import agreed
from hamgnn_solve.parallel.gather import gather_atoms
from hamgnn_solve.parallel.memory import memory_per_rank
from hamgnn_solve.parallel.partition import partition_atoms
from hamgnn_solve.parallel.rows import OrbitalRows
from hamgnn_solve.solver.pencil import Pencil
from hamgnn_solve.solver.petsc import library_versions, set_options

__all__ = [
    "describe_run",
    "finish_run",
    "inputs_digest",
    "prepare_folder",
    "requested_path",
    "solve",
]


def solve(options: SolveOptions, comm: MPI.Intracomm) -> dict[str, Any]:
    """Solve a structure near the Fermi level and leave a run folder. Collective.

    Parameters
    ----------
    options : SolveOptions
    comm : mpi4py communicator
        Its ranks share the work.

    Returns
    -------
    dict
        What `summary.json` holds.

    Raises
    ------
    InputError
        On every rank, when the input cannot be used; nothing is computed before the structure,
        the model, the k-points and the run folder have been checked.
    """
    stages = Stages(comm, options.quiet)
    with stages.stage("read"):
        read: Structure | None = None
        with agreed(comm):
            set_options(options.petsc)
            # By one rank: the reader takes a gigabyte for thousands of atoms.
            read = read_structure(options.structure) if comm.rank == 0 else None
        structure: Structure = comm.bcast(read)
        with agreed(comm):
            model = find_model(options.model, structure)
            basis = _basis(model, options, structure)
            device = _device(options.device, comm)
            path = requested_path(options, structure)
            if options.dos is not None:
                mesh_of(options, int(basis.norb_i(structure).sum()))
            norb_i, electrons = basis.norb_i(structure), basis.electrons(structure)
            shells_i = tuple(basis.species[symbol].shell_l for symbol in structure.symbols)
            system = OrbitalSystem(structure, shells_i, electrons)
            check_real_space(options, system, basis)
            check_fermi_surface(options, int(basis.norb_i(structure).sum()))
            if comm.rank == 0:
                prepare_folder(options.run_folder)
    stages.say(
        f"{options.structure}: {structure.natoms} atoms, {norb_i.sum()} orbitals, "
        f"{electrons:g} electrons; {comm.size} rank(s)"
    )
    quality = measured_errors(model.errors)
    stages.say(f"model {model.name}: {quality}")
    with stages.stage("partition"):
        owner_i = partition_atoms(structure, basis.cutoff_i(structure), comm)
        domain = distributed_domain(structure, basis, owner_i, comm)
    stages.say(_pairs_line(len(domain.pairs), comm))
    with stages.stage("overlap"):
        s_operator = overlap(structure, basis, domain.owned)
    h0_operator = None
    if model.network.config.add_h0:
        with stages.stage("H0"):
            h0_operator = hamiltonian_zero(structure, basis, domain.owned)
    stages.say(f"overlap: {_largest(len(s_operator.pairs), comm)} blocks on the fullest rank")
    memory = memory_per_rank(comm) if options.memory_bytes is None else options.memory_bytes
    with stages.stage("network"):
        model.network.to(device)
        with agreed(comm), torch.inference_mode():
            chunk_size = fitting_chunk(model, domain, memory, device)
        prediction = predict_all(model, domain, chunk_size, device)
        h_operator = prediction.hamiltonian
        relative_i = _relative_distances(model, domain, prediction.invariants_if, comm)
        del prediction
        model.network.cpu()
        if h0_operator is not None:
            h_operator = h_operator.plus(h0_operator)
            h0_operator = h0_operator if options.write_matrices else None
    stages.say("Hamiltonian predicted")
    stages.say(f"environments: {unfamiliar_text(structure.symbols, relative_i)}")
    with stages.stage("pencil"):
        rows = OrbitalRows(owner_i, norb_i, comm.size, comm.rank)
        pencil = Pencil(
            h_operator, s_operator, rows, comm, factor_options=factor_options(options, stages)
        )
    if options.write_matrices:
        with stages.stage("matrices"):
            # H + energy_shift S, whose levels are those of H moved.
            moved = linear_combination((1.0, model.energy_shift), (h_operator, s_operator))
            matrices = CrystalHamiltonian(system, moved, s_operator, zero=h0_operator)
            write_in_turn(options.run_folder / "matrices.h5", matrices, comm)
    weights = [x.detach().numpy() for x in model.network.state_dict().values()]
    inputs = inputs_digest(
        options, structure, path, model.name, str(options.dft_data_folder), *weights
    )
    fermi = make_fermi_surface(options, pencil, structure, electrons, stages, model.energy_shift)
    spectrum = solve_spectrum(
        options,
        pencil,
        system,
        path,
        electrons,
        inputs,
        stages,
        energy_shift=model.energy_shift,
        fermi=fermi,
    )
    summary = describe_run(options, structure, model.name, norb_i, spectrum, comm)
    summary |= {
        "model_errors": quality,
        "environments": unfamiliar_text(structure.symbols, relative_i),
        "unfamiliar_atoms": None
        if relative_i is None
        else unfamiliar_atoms(structure.symbols, relative_i),
    }
    real_space = make_real_space(
        options,
        pencil,
        system,
        basis,
        h_operator,
        s_operator,
        spectrum,
        model.energy_shift,
        stages,
    )
    finish_run(
        options,
        stages,
        pencil,
        system,
        spectrum,
        path,
        summary,
        inputs,
        model.energy_shift,
        real_space,
    )
    if relative_i is not None and comm.rank == 0:
        write_environment_distances(options.run_folder / "results.h5", relative_i)
    return summary


def _relative_distances(
    model: Model, domain: Domain, invariants_if: NDArray[np.float32], comm: MPI.Intracomm
) -> NDArray[np.float64] | None:
    """Return how far each atom is from the training set, on every rank; None: not recorded."""
    if model.environments is None:
        return None
    symbols = [domain.structure.symbols[i] for i in domain.owned]
    own = model.environments.relative_distances(symbols, invariants_if)
    return gather_atoms(domain.owned, own, domain.structure.natoms, comm)


def finish_run(
    options: SolveOptions,
    stages: Stages,
    pencil: Pencil,
    system: OrbitalSystem,
    spectrum: Spectrum,
    path: BandPath,
    summary: dict[str, Any],
    inputs: str,
    energy_shift: float,
    real_space: RealSpace,
) -> None:
    """Make the density of states that was asked for; write pictures, results and summary.

    The stages go into the summary. Collective.
    """
    comm = stages.comm
    dos = None if options.dos is None else make_dos(options, pencil, system, stages)
    with stages.stage("results"):
        if comm.rank == 0:
            style = FigureStyle(title=figure_title(options.run_folder, summary["natoms"]))
            draw_figure(
                spectrum, path, None, Content("bands"), style, options.run_folder / "bands.png"
            )
    summary["stages"] = stages.done
    summary |= real_space.figures
    if comm.rank == 0:
        text = _summary_text(summary, real_space.lines, stages.table())
        write_results(options.run_folder / "results.h5", spectrum, path, summary, inputs)
        write_charges(options.run_folder / "results.h5", real_space.charges)
        write_summary(options.run_folder, summary, text)
        if dos is not None:
            write_dos_files(options, dos, spectrum, path, energy_shift)
        print(text, end="")


def _basis(model: Model, options: SolveOptions, structure: Structure) -> Basis:
    """Return the model's orbitals; those of OpenMX are read from the user's files."""
    if not model.openmx_species:
        return model.basis
    folder = options.dft_data_folder
    if folder is None:
        raise InputError(
            f"Model {model.name} is for OpenMX's orbitals; give the folder of OpenMX's data "
            "(DFT_DATA19, with PAO and VPS in it) as --dft-data or OPENMX_DFT_DATA."
        )
    return openmx_basis(folder, [model.openmx_species[symbol] for symbol in structure.elements])


def requested_path(options: SolveOptions, structure: Structure) -> BandPath:
    """Return the k-points that the user listed, or the path asked for."""
    if options.kpoints is not None:
        return listed_kpoints(options.kpoints)
    return band_path(structure, options.kpath, options.path_spacing)


def _device(name: str, comm: MPI.Intracomm) -> torch.device:
    """Return where a rank runs the network; the ranks take the GPUs of their machine in turn."""
    if name == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        raise InputError(
            "--device cuda: this machine, or this build of torch, has no CUDA device; "
            "leave the option out."
        )
    return torch.device("cuda", comm.rank % count)


def prepare_folder(folder: Path) -> None:
    """Make the run folder; raises `InputError` where it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write-test-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"The run folder {folder} cannot be written ({error.strerror}); "
            "choose another with --out."
        ) from error


def inputs_digest(options: SolveOptions, structure: Structure, path: BandPath, *others: Any) -> str:
    """Return what tells runs of other input apart, for `--restart`."""
    return digest(
        structure.symbols,
        structure.pos_ic,
        structure.cell_cc,
        path.kpoints_kc,
        options.bands,
        options.band_error,
        *others,
    )


def describe_run(
    options: SolveOptions,
    structure: Structure,
    model: str,
    norb_i: NDArray[np.int64],
    spectrum: Spectrum,
    comm: MPI.Intracomm,
) -> dict[str, Any]:
    """Return what `summary.json` holds, but for the stages."""
    versions = {
        "hamgnn-solve": __version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "scipy": scipy.__version__,
        "torch": torch.__version__,
        **library_versions(),
    }
    return {
        "structure": options.source,
        "natoms": structure.natoms,
        "norbitals": int(norb_i.sum()),
        **summarise(spectrum),
        "model": model,
        "ranks": comm.size,
        "command": options.command,
        "versions": " ".join(f"{name}={version}" for name, version in sorted(versions.items())),
    }


def _summary_text(summary: dict[str, Any], more: list[str], table: str) -> str:
    lines = [
        f"structure       {summary['structure']}",
        f"atoms           {summary['natoms']}",
        f"orbitals        {summary['norbitals']}",
        f"electrons       {summary['nelectrons']:g}",
        f"model           {_model_line(summary)}",
        *([f"environments    {summary['environments']}"] if "environments" in summary else []),
        f"Fermi level     {summary['fermi_level_eV']:.4f} eV",
        f"band indices    certified at {summary['certified_kpoints']} of "
        f"{summary['solved_kpoints']} k-points; largest residual "
        f"{summary['largest_residual_eV']:.0e} eV",
    ]
    if summary["largest_error_eV"] > 0.0:
        lines.append(
            f"estimated error {summary['largest_error_eV']:.0e} eV where bands come from other "
            "k-points"
        )
    if summary["gap_kind"] == "metal":
        lines.append("gap             none at the solved k-points: a band crosses the Fermi level")
    else:
        lines += [
            f"valence maximum {summary['vbm_eV']:.4f} eV",
            f"conduction min. {summary['cbm_eV']:.4f} eV",
            f"gap             {summary['gap_eV']:.4f} eV, {summary['gap_kind']}, "
            "at the solved k-points",
        ]
    return "\n".join(lines + more) + f"\n\n{table}\n"


def _model_line(summary: dict[str, Any]) -> str:
    """Return the model's name with its measured errors; given matrices have none."""
    name, errors = summary["model"], summary.get("model_errors")
    return f"{name}" if errors is None else f"{name}: {errors}"


def _largest(value: int, comm: MPI.Intracomm) -> int:
    return int(comm.allreduce(value, op=MPI.MAX))


def _pairs_line(npairs: int, comm: MPI.Intracomm) -> str:
    total = comm.allreduce(npairs)
    return (
        f"{total} pairs of atoms within orbital range, {_largest(npairs, comm)} on the fullest rank"
    )
