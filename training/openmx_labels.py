"""Training labels from finished OpenMX runs: H, S, and H0 computed natively."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from hamgnn_solve.core.basis.openmx_data import openmx_basis
from hamgnn_solve.core.basis.species import Basis
from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.hamiltonian import on_pairs, reordered
from hamgnn_solve.core.integrals.hamiltonian_zero import hamiltonian_zero
from hamgnn_solve.core.integrals.overlap import overlap
from hamgnn_solve.core.io.openmx_input import OPENMX_ORBITALS, OpenMXText, openmx_mesh
from hamgnn_solve.core.io.openmx_output import OpenMXOutput, read_openmx_output
from hamgnn_solve.core.io.scfout import ScfoutData, read_scfout
from hamgnn_solve.core.model import OPENMX
from hamgnn_solve.core.operator import BlockOperator
from hamgnn_solve.core.pairs import join_pairs
from hamgnn_solve.core.units import EV_PER_HARTREE
from hamgnn_solve.training.label_file import Label, pencil_energies, write_label

__all__ = ["Collected", "collect_labels", "openmx_label"]

# Our S follows OpenMX's quadrature to 1e-10; another orbital differs in the first digits.
LARGEST_OVERLAP_DEVIATION = 1e-6
# Hartree. Our H0 follows OpenMX's to 1.2e-6; H differs from it by tenths.
SMALLEST_CHANGE = 1e-4
# Hartree. What a converged run prints, its blocks reproduce to 3e-7.
LARGEST_EIGENVALUE_ERROR = 1e-5
# k is printed with five decimals.
SAME_KPOINT = 6e-6
# OpenMX's default of scf.criterion in Hartree.
DEFAULT_CRITERION = 1e-6
SCFOUT = (".scfout", ".scfout.xz")


@dataclass(frozen=True)
class Collected:
    """What became of the files of a folder.

    Parameters
    ----------
    added, present : list of str
        Names of the labels that were written now, and of those that were there before.
    refused : dict of str to str
        Why a file became no label, by its path below the folder.
    """

    added: list[str] = field(default_factory=list)
    present: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)


def collect_labels(
    folder: Path, dft_data: Path, out: Path, report: Callable[[str], None] = print
) -> Collected:
    """Turn every `.scfout` file below a folder into a label; what `out` holds is not done again.

    Parameters
    ----------
    folder : Path
        Searched with all folders in it. The label of `a/b/b.scfout` is called `a-b`.
    dft_data : Path
        OpenMX's `DFT_DATA19` folder.
    out : Path
        HDF5 file, appended to after every label. Files that were refused are listed beside it in
        `NAME.refused.txt`, with the reasons.
    report : callable
        Is given a line for every file.

    Raises
    ------
    InputError
        When there is no `.scfout` file, two would have one name, or `out` cannot be written.
    """
    files = _named_files(folder)
    done = _names_in(out)
    result = Collected(present=[name for name in files if name in done])
    for name, path in files.items():
        if name in done:
            continue
        place = str(path.relative_to(folder))
        try:
            label = openmx_label(path, dft_data)
        except InputError as error:
            result.refused[place] = str(error)
            report(f"{name}: refused. {error}")
            continue
        # Opened for this write only, so that a run that is stopped leaves a whole file.
        with h5py.File(out, "a") as file:
            write_label(file, name, label, {"file": place})
        result.added.append(name)
        report(f"{name}: {_line(label)}")
    listing = out.with_suffix(".refused.txt")
    listing.unlink(missing_ok=True)
    if result.refused:
        listing.write_text("".join(f"{name}: {why}\n" for name, why in result.refused.items()))
    return result


def openmx_label(path: Path, dft_data: Path) -> Label:
    """Return the label of a finished OpenMX run.

    Parameters
    ----------
    path : Path
        `NAME.scfout` or `NAME.scfout.xz`, written with `HS.fileout on`; `NAME.out` beside it.
    dft_data : Path
        OpenMX's `DFT_DATA19` folder with the orbitals and pseudopotentials of the run.

    Raises
    ------
    InputError
        For a file that cannot be read, with spin, with H0 instead of H, of other orbitals than
        those of `dft_data` (their S differs by more than 1e-6), of a charged cell, of a run that
        did not converge, or whose H does not give the eigenvalues that OpenMX printed to 1e-5
        Hartree.
    """
    start = time.perf_counter()
    data = read_scfout(path)
    if len(data.hamiltonians) > 1:
        raise InputError(
            f"{path} has spin, and labels have none; run OpenMX with scf.SpinPolarization off."
        )
    species = data.text.species()
    basis = openmx_basis(dft_data, species.values())
    hamiltonian, given_overlap = _in_our_order(data, basis, path)
    rows = np.arange(data.structure.natoms, dtype=np.int64)
    deviation = _deviation(data, given_overlap, overlap(data.structure, basis, rows))
    if deviation > LARGEST_OVERLAP_DEVIATION:
        raise InputError(
            f"S in {path} differs by {deviation:.1e} from that of the orbitals in {dft_data}, more "
            f"than {LARGEST_OVERLAP_DEVIATION:g}; point --dft-data at the files of the run."
        )
    zero = on_pairs(hamiltonian_zero(data.structure, basis, rows), hamiltonian.pairs)
    if np.abs(hamiltonian.values - zero.values).max() < SMALLEST_CHANGE:
        raise InputError(f"{path}: this file holds H0, not a converged H; give the run's .scfout.")
    _check_electrons(data, basis, path)
    output = read_openmx_output(_output_of(path))
    criterion = _criterion(data.text)
    if not output.last_change < criterion:
        raise InputError(
            f"The run of {path} did not converge (Uele still changed by {output.last_change:.1e} "
            f"Hartree after {len(output.band_energies_t)} steps, scf.criterion is {criterion:g}); "
            "continue it."
        )
    kpoints_kc = openmx_mesh(data.text.kgrid(), time_reversal=True).kpoints_kc
    energies_kn = pencil_energies(hamiltonian, given_overlap, kpoints_kc)
    error = _eigenvalue_error(output, kpoints_kc, energies_kn, path)
    filled = round(data.electrons / 2)
    pairs = hamiltonian.pairs
    return Label(
        symbols=data.structure.symbols,
        positions_ic=data.structure.pos_ic,
        cell_cc=data.structure.cell_cc,
        # OpenMX repeats every cell; what no orbital reaches is not periodic.
        periodic_c=(pairs.shift_pc != 0).any(axis=0),
        norb_i=hamiltonian.norb_i.astype(np.int32),
        first_p=pairs.first_p.astype(np.int32),
        second_p=pairs.second_p.astype(np.int32),
        shift_pc=pairs.shift_pc.astype(np.int32),
        h_values=hamiltonian.values,
        s_values=given_overlap.values,
        kpoints_kc=kpoints_kc,
        eigenvalues_kn=energies_kn,
        details={
            "electrons": data.electrons,
            "fermi_level": data.chemical_potential,
            "energy": output.total_energy,
            "gap": float(energies_kn[:, filled].min() - energies_kn[:, filled - 1].max()),
            "scf_steps": len(output.band_energies_t),
            "kpts": data.text.kgrid(),
            "energy_cutoff_Ry": " ".join(data.text.words("scf.energycutoff")[:1]),
            "overlap_deviation": deviation,
            "eigenvalue_error_eV": error * EV_PER_HARTREE,
            "seconds": time.perf_counter() - start,
        },
        basis=OPENMX,
        species={symbol: one.name for symbol, one in species.items()},
        h0_values=zero.values,
    )


def _names_in(out: Path) -> set[str]:
    """Return the labels that a file holds; the file is made where there is none."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(out, "a") as file:
            return set(file)
    except OSError as error:
        raise InputError(
            f"The label file {out} cannot be written ({error}); choose another, or wait until no "
            "other program uses it."
        ) from error


def _named_files(folder: Path) -> dict[str, Path]:
    """Return the `.scfout` files below a folder by the names of their labels."""
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*.scfout*")):
        if not path.name.endswith(SCFOUT):
            continue
        parts = path.relative_to(folder).with_name(_stem(path)).parts
        kept = [part for n, part in enumerate(parts) if n == 0 or part != parts[n - 1]]
        name = "-".join(kept)
        if name in files:
            raise InputError(
                f"{files[name]} and {path} would both be the label {name}; move one away."
            )
        files[name] = path
    if not files:
        raise InputError(
            f"There is no .scfout file below {folder}; run OpenMX there with HS.fileout on."
        )
    return files


def _stem(path: Path) -> str:
    return path.name.removesuffix(".xz").removesuffix(".scfout")


def _output_of(path: Path) -> Path:
    output = path.with_name(f"{_stem(path)}.out")
    if not output.is_file():
        raise InputError(
            f"{output} is missing, so nothing tells whether the run of {path.name} converged; put "
            "OpenMX's .out file beside it."
        )
    return output


def _in_our_order(
    data: ScfoutData, basis: Basis, path: Path
) -> tuple[BlockOperator, BlockOperator]:
    if not np.array_equal(basis.norb_i(data.structure), data.overlap.norb_i):
        raise InputError(
            f"The shells named in the input text of {path} do not add up to its numbers of "
            "orbitals; the file is damaged or put together from two runs."
        )
    shells_i = [basis.species[symbol].shell_l for symbol in data.structure.symbols]
    order = [OPENMX_ORBITALS.from_program(shells) for shells in shells_i]
    return reordered(data.hamiltonians[0], order), reordered(data.overlap, order)


def _deviation(data: ScfoutData, given: BlockOperator, own: BlockOperator) -> float:
    pairs = join_pairs(data.structure, given.pairs, own.pairs)
    return float(np.abs(on_pairs(given, pairs).values - on_pairs(own, pairs).values).max())


def _check_electrons(data: ScfoutData, basis: Basis, path: Path) -> None:
    neutral = basis.electrons(data.structure)
    if abs(data.electrons - neutral) > 1e-6:
        raise InputError(
            f"The cell of {path} holds {data.electrons:g} electrons, {neutral:g} would be neutral; "
            "labels are of neutral cells."
        )
    if not data.is_self_consistent:
        raise InputError(
            f"The density matrix in {path} does not hold the {data.electrons:g} electrons, so its "
            "H is not self-consistent; give the .scfout of a finished run."
        )


def _criterion(text: OpenMXText) -> float:
    words = text.words("scf.criterion") or [str(DEFAULT_CRITERION)]
    try:
        return float(words[0].lower().replace("d", "e"))
    except ValueError as error:
        raise InputError(f"scf.criterion of {text.name} is not a number: {words[0]}.") from error


def _eigenvalue_error(
    output: OpenMXOutput,
    kpoints_kc: NDArray[np.float64],
    energies_kn: NDArray[np.float64],
    path: Path,
) -> float:
    """Return the largest deviation from printed eigenvalues in Hartree; nan where none are."""
    if len(output.kpoints_kc) == 0:
        return np.nan
    if (
        output.kpoints_kc.shape != kpoints_kc.shape
        or np.abs(output.kpoints_kc - kpoints_kc).max() > SAME_KPOINT
    ):
        raise InputError(
            f"The .out file beside {path} lists other k-points than scf.Kgrid of the run asks for; "
            "put the .out file of the same run there."
        )
    error = max(
        float(np.abs(energies_n[: len(printed_n)] - printed_n).max(initial=0.0))
        for energies_n, printed_n in zip(energies_kn, output.eigenvalues_k, strict=True)
    )
    if error > LARGEST_EIGENVALUE_ERROR:
        raise InputError(
            f"H in {path} misses the eigenvalues of the .out file by {error:.1e} Hartree, more "
            f"than {LARGEST_EIGENVALUE_ERROR:g}; the files are of two runs, or of one that was "
            "not converged."
        )
    return error


def _line(label: Label) -> str:
    details = label.details
    return (
        f"{len(label.symbols)} atoms, {details['scf_steps']} steps, S to "
        f"{details['overlap_deviation']:.1e}, eigenvalues to {details['eigenvalue_error_eV']:.1e} "
        f"eV, {details['seconds']:.0f} s"
    )
