"""Training labels: H(R) and S(R) of one structure from a converged GPAW calculation.

GPAW (LCAO mode, PBE, the pseudo-atomic ``dzp`` basis) is run as an independent program, with finer
two-centre tables (`gpaw_tables`). Its potential, atomic corrections and integrals are
collected into real-space blocks, which are accepted only when they reproduce its eigenvalues at
every k-point and their overlap is the one that `core.integrals.overlap` computes.

Each structure becomes a group of an HDF5 file, and a run that was stopped goes on where it ended.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.linalg
from ase import Atoms
from numpy.typing import NDArray

from hamgnn_solve.core.basis.gpaw_data import built_in_basis
from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.integrals.overlap import overlap
from hamgnn_solve.core.pairs import find_pairs
from hamgnn_solve.core.structure import Structure
from hamgnn_solve.core.units import ANGSTROM_PER_BOHR, EV_PER_HARTREE
from hamgnn_solve.training.csv_rows import append_row, read_rows
from hamgnn_solve.training.gpaw_blocks import bloch_sum, cut_into_pairs, extract_blocks
from hamgnn_solve.training.gpaw_tables import fine_tables
from hamgnn_solve.training.grid_sums import GridSums
from hamgnn_solve.training.label_file import Label, label_operators, label_structure_of, write_label
from hamgnn_solve.training.recipe import RECIPE_ENDINGS, RecipeStructure, recipe_settings

__all__ = ["LabelSettings", "label_all", "label_structure", "read_settings"]

LARGEST_EIGENVALUE_ERROR_EV = 1e-5
LONGEST_WAIT = 600.0
# Reached: 5e-7 for the p shell of hydrogen with itself, as our momenta end at 20 per Bohr; 3e-8 for
# all else. With GPAW's own two-centre tables it was up to 8e-6 with zinc (`gpaw_tables`).
LARGEST_OVERLAP_ERROR = 1e-6


@dataclass(frozen=True)
class LabelSettings:
    """How densely GPAW samples real space, k-space and the occupations.

    Grids are as near to one density as each cell allows, so that the labels of different cells
    share one numerical error.

    Parameters
    ----------
    grid_spacing, open_spacing : float
        Distance of grid points in Angstrom along axes that are periodic, and that are not; the
        number of points is rounded to a multiple of 4.
    kpoint_length : float
        Number of k-points along a periodic axis times its length in Angstrom.
    fermi_width : float
        Width of the Fermi-Dirac occupations in eV.
    density_convergence : float
        Largest change of the density per valence electron in the last step.
    least_gap : float, optional
        Refuse structures whose gap in eV is smaller: frameworks that lack hydrogen atoms come out
        as metals.
    setups : dict
        GPAW setup of the elements that do not use the default one.
    """

    grid_spacing: float = 0.1585
    open_spacing: float = 0.15
    kpoint_length: float = 19.02
    fermi_width: float = 0.05
    density_convergence: float = 1e-6
    least_gap: float | None = None
    setups: dict[str, str] = field(default_factory=lambda: {"Mo": "6", "W": "6"})

    def __post_init__(self) -> None:
        numbers = (
            self.grid_spacing,
            self.open_spacing,
            self.kpoint_length,
            self.fermi_width,
            self.density_convergence,
        )
        if min(numbers) <= 0:
            raise InputError(f"Every number of the label settings must be positive: {self}.")

    def species(self, atoms: Atoms) -> dict[str, str]:
        """Return the data set in the built-in basis of each element of `atoms`."""
        return {
            symbol: f"{symbol}.{self.setups[symbol]}" if symbol in self.setups else symbol
            for symbol in sorted(set(atoms.get_chemical_symbols()))
        }

    def grid_points(self, atoms: Atoms) -> tuple[int, int, int]:
        """Return the number of grid points along the three axes of `atoms`."""
        return _per_axis(
            4 * max(1, round(length / (4 * (self.grid_spacing if periodic else self.open_spacing))))
            for length, periodic in zip(atoms.cell.lengths(), atoms.pbc, strict=True)
        )

    def kpoint_mesh(self, atoms: Atoms) -> tuple[int, int, int]:
        """Return the size of the Gamma-centred mesh along the three axes of `atoms`."""
        return _per_axis(
            max(1, round(self.kpoint_length / length)) if periodic else 1
            for length, periodic in zip(atoms.cell.lengths(), atoms.pbc, strict=True)
        )


def read_settings(paths: list[Path], given: dict[str, Any]) -> LabelSettings:
    """Return the settings of the recipes among `paths`, with those `given` in their place.

    Raises
    ------
    InputError
        When two recipes disagree, or name an unknown setting or an impossible value.
    """
    stated: dict[str, Any] = {}
    for path in paths:
        if path.suffix not in RECIPE_ENDINGS:
            continue
        for name, value in recipe_settings(path).items():
            if stated.setdefault(name, value) != value and name not in given:
                raise InputError(f"Two recipes set {name} differently; label them one by one.")
    try:
        return LabelSettings(**{**stated, **given})
    except TypeError as error:
        raise InputError(f"The settings {stated} of a recipe cannot be used ({error}).") from error


def label_structure(atoms: Atoms, settings: LabelSettings | None = None) -> Label:
    """Converge `atoms` with GPAW and return its H(R), S(R) blocks.

    Parameters
    ----------
    atoms : Atoms
        The structure; `atoms.pbc` says which axes are periodic. With exactly one open axis z the
        Poisson equation gets a dipole layer, so that both faces of a polar slab are at rest.
    settings : LabelSettings, optional
        Sampling; the default is that of the built-in weights.

    Raises
    ------
    InputError
        If GPAW is missing, an open axis has too little vacuum, the calculation does not converge,
        or its gap is smaller than the settings allow.
    RuntimeError
        If the blocks do not reproduce GPAW's eigenvalues to 1e-5 eV, or their overlap differs from
        ours by more than 1e-6.
    """
    try:
        from gpaw import KohnShamConvergenceError
    except ImportError as error:
        raise InputError(
            "Labels come from GPAW, which is not installed; see docs/models.md for how."
        ) from error

    settings = settings or LabelSettings()
    _check_vacuum(atoms, settings)
    start = time.perf_counter()
    calculator = _calculator(atoms, settings)
    with fine_tables():
        calculator.create_new_calculation(atoms)
    dft = calculator.dft
    sums = GridSums(dft)
    sums.take_over()
    try:
        dft.converge()
    except KohnShamConvergenceError as error:
        raise InputError(
            f"GPAW did not converge {atoms.get_chemical_formula()}; check its distances ({error})."
        ) from error
    # The blocks are made with GPAW's own sums, so the eigenvalues check ours as well.
    sums.give_back()
    dft.calculate_energy()
    positions_ic = dft.relpos_ac @ dft.density.nt_sR.desc.cell_cv
    shift_xc, h_xmm, s_xmm = extract_blocks(dft, positions_ic)
    kpoints_kc, eigenvalues_kn = _spectrum(dft)
    miss = _eigenvalue_error(shift_xc, h_xmm, s_xmm, kpoints_kc, eigenvalues_kn) * EV_PER_HARTREE
    if miss > LARGEST_EIGENVALUE_ERROR_EV:
        raise RuntimeError(
            f"the blocks of {atoms.get_chemical_formula()} miss GPAW's eigenvalues by {miss:.2e} "
            f"eV, more than {LARGEST_EIGENVALUE_ERROR_EV:g}"
        )
    norb_i = np.array([setup.nao for setup in dft.setups], dtype=np.int32)
    first_p, second_p, shift_pc, h_values, s_values = cut_into_pairs(shift_xc, h_xmm, s_xmm, norb_i)
    electrons = float(sum(setup.Nv for setup in dft.setups))
    occupied = round(electrons / 2)
    details: dict[str, Any] = {
        "electrons": electrons,
        "fermi_level": float(dft.ibzwfs.fermi_level),
        "energy": float(dft.results["energy"]),
        "gap": float(eigenvalues_kn[:, occupied].min() - eigenvalues_kn[:, occupied - 1].max()),
        "scf_steps": int(dft.scf_loop.niter),
        "gpts": settings.grid_points(atoms),
        "kpts": settings.kpoint_mesh(atoms),
        "eigenvalue_error_eV": miss,
        "seconds": time.perf_counter() - start,
    }
    gap = details["gap"] * EV_PER_HARTREE
    if settings.least_gap is not None and gap < settings.least_gap:
        raise InputError(f"its gap of {gap:.2f} eV is below {settings.least_gap:g} eV")
    label = Label(
        symbols=tuple(atoms.get_chemical_symbols()),
        positions_ic=positions_ic,
        cell_cc=dft.density.nt_sR.desc.cell_cv.copy(),
        periodic_c=np.array(atoms.pbc),
        norb_i=norb_i,
        first_p=first_p,
        second_p=second_p,
        shift_pc=shift_pc,
        h_values=h_values,
        s_values=s_values,
        kpoints_kc=kpoints_kc,
        eigenvalues_kn=eigenvalues_kn,
        details=details,
        species=settings.species(atoms),
    )
    difference = overlap_error(label)
    if difference > LARGEST_OVERLAP_ERROR:
        raise RuntimeError(
            f"the overlap of {atoms.get_chemical_formula()} differs from ours by {difference:.1e}"
        )
    return replace(label, details={**details, "overlap_error": difference})


def overlap_error(label: Label) -> float:
    """Return the largest deviation of a label's overlap from that of `core.integrals.overlap`."""
    structure = label_structure_of(label)
    basis = built_in_basis(label.species)
    ours = overlap(structure, basis, np.arange(structure.natoms, dtype=np.int64))
    theirs = label_operators(label)[1]
    place_p = theirs.pairs.position_of(ours.pairs)
    largest = 0.0
    for chosen, rows, columns in ours.groups():
        blocks = ours.blocks(chosen, rows, columns)
        stored = place_p[chosen] >= 0
        blocks[stored] -= theirs.blocks(place_p[chosen[stored]], rows, columns)
        largest = max(largest, float(np.abs(blocks).max()))
    return largest


def _check_vacuum(atoms: Atoms, settings: LabelSettings) -> None:
    """Refuse cells whose images along open axes would be within orbital range."""
    structure = Structure(
        tuple(atoms.get_chemical_symbols()),
        atoms.positions / ANGSTROM_PER_BOHR,
        np.asarray(atoms.cell) / ANGSTROM_PER_BOHR,
    )
    basis = built_in_basis(settings.species(atoms))
    pairs = find_pairs(structure, basis.cutoff_i(structure))
    if (pairs.shift_pc[:, ~np.array(atoms.pbc)] != 0).any():
        raise InputError(
            f"{atoms.get_chemical_formula()} reaches its own images across the open axes; give it "
            "more vacuum."
        )


def _per_axis(numbers: Iterator[int]) -> tuple[int, int, int]:
    first, second, third = numbers
    return first, second, third


def _calculator(atoms: Atoms, settings: LabelSettings) -> Any:
    from gpaw.new.ase_interface import GPAW

    slab = list(atoms.pbc) == [True, True, False]
    present = set(atoms.get_chemical_symbols())
    return GPAW(
        # The complex type keeps the displacements apart that a real Gamma calculation sums up.
        mode={"name": "lcao", "force_complex_dtype": True},
        basis="dzp",
        xc="PBE",
        setups={symbol: name for symbol, name in settings.setups.items() if symbol in present},
        gpts=settings.grid_points(atoms),
        kpts={"size": settings.kpoint_mesh(atoms), "gamma": True},
        nbands="nao",
        occupations={"name": "fermi-dirac", "width": settings.fermi_width},
        convergence={"density": settings.density_convergence},
        poissonsolver={"dipolelayer": "xy"} if slab else {},
        txt=None,
    )


def _spectrum(dft: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    states = list(dft.ibzwfs)
    kpoints_kc = np.array([wfs.kpt_c for wfs in states])
    return kpoints_kc, np.array([wfs.eig_n for wfs in states])


def _eigenvalue_error(
    shift_xc: NDArray[np.int32],
    h_xmm: NDArray[np.float64],
    s_xmm: NDArray[np.float64],
    kpoints_kc: NDArray[np.float64],
    eigenvalues_kn: NDArray[np.float64],
) -> float:
    """Return the largest deviation of the blocks' eigenvalues from GPAW's, in Hartree."""
    errors = [
        np.abs(
            scipy.linalg.eigh(
                bloch_sum(shift_xc, h_xmm, kpoint_c),
                bloch_sum(shift_xc, s_xmm, kpoint_c),
                eigvals_only=True,
            )
            - eigenvalues_n
        ).max()
        for kpoint_c, eigenvalues_n in zip(kpoints_kc, eigenvalues_kn, strict=True)
    ]
    return float(max(errors))


@dataclass(frozen=True)
class Outcome:
    """What became of one structure: a label, or the reason why there is none."""

    name: str
    entry: dict[str, Any]
    label: Label | None
    reason: str = ""


def label_all(
    structures: list[RecipeStructure],
    out: Path,
    settings: LabelSettings,
    table: Path | None = None,
    jobs: int = 1,
    retry: bool = False,
) -> tuple[int, int]:
    """Label structures that `out` does not hold yet.

    Parameters
    ----------
    structures : list of RecipeStructure
        What to label, in order.
    out : Path
        HDF5 file, created or appended to after every structure. Beside it, ``OUT.failed.csv``
        gets the names and reasons of structures that could not be labelled.
    settings : LabelSettings
        Sampling.
    table : Path, optional
        CSV file that gets one row a label.
    jobs : int
        Number of structures calculated at the same time, each on one core.
    retry : bool
        Try structures again that failed before.

    Returns
    -------
    (int, int)
        How many were added and how many failed.
    """
    failures = out.with_name(f"{out.stem}.failed.csv")
    if retry:
        failures.unlink(missing_ok=True)
    failed = {row["name"] for row in read_rows(failures)}
    with _open_when_free(out) as file:
        missing = [one for one in structures if one.name not in file and one.name not in failed]
    counts = [0, 0]
    for outcome in _outcomes(missing, settings, jobs):
        if outcome.label is None:
            append_row(failures, {"name": outcome.name, "reason": outcome.reason})
            print(f"{outcome.name}: FAILED, {outcome.reason}", flush=True)
            counts[1] += 1
            continue
        # Opened for this write only, so that a reader can use the file in between.
        with _open_when_free(out) as file:
            write_label(file, outcome.name, outcome.label, outcome.entry)
        if table is not None:
            append_row(table, _table_row(outcome.name, outcome.label))
        counts[0] += 1
        details = outcome.label.details
        print(
            f"{outcome.name}: {len(outcome.label.symbols)} atoms, {details['scf_steps']} steps, "
            f"{details['seconds']:.0f} s, gap {details['gap'] * EV_PER_HARTREE:.2f} eV, eigenvalue "
            f"error {details['eigenvalue_error_eV']:.0e} eV, overlap error "
            f"{details['overlap_error']:.0e}  ({sum(counts)} of {len(missing)})",
            flush=True,
        )
    return counts[0], counts[1]


def _outcomes(
    structures: list[RecipeStructure], settings: LabelSettings, jobs: int
) -> Iterator[Outcome]:
    if jobs == 1:
        yield from (_outcome(one, settings) for one in structures)
        return
    # Processes that share nothing with this one: GPAW and MPI do not survive a fork.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        waiting = [pool.submit(_outcome, one, settings) for one in structures]
        for future in as_completed(waiting):
            yield future.result()


def _outcome(one: RecipeStructure, settings: LabelSettings) -> Outcome:
    try:
        return Outcome(one.name, one.entry, label_structure(one.build(), settings))
    except InputError as error:
        return Outcome(one.name, one.entry, None, str(error))
    except Exception as error:  # one structure must not end the others
        traceback.print_exc()
        return Outcome(one.name, one.entry, None, f"{type(error).__name__}: {error}")


def _open_when_free(path: Path) -> h5py.File:
    """Open a label file for appending, after waiting for a reader that holds its lock."""
    end = time.monotonic() + LONGEST_WAIT
    while True:
        try:
            return h5py.File(path, "a")
        except BlockingIOError:
            if time.monotonic() > end:
                raise
            time.sleep(1.0)
        except OSError as error:
            raise InputError(
                f"{path} cannot be opened as a label file ({error}); choose another name."
            ) from error


def _table_row(name: str, label: Label) -> dict[str, Any]:
    details = label.details
    return {
        "name": name,
        "natoms": len(label.symbols),
        "formula": Atoms(label.symbols).get_chemical_formula(),
        "gpts": "x".join(str(n) for n in details["gpts"]),
        "kpts": "x".join(str(n) for n in details["kpts"]),
        "scf_steps": details["scf_steps"],
        "seconds": f"{details['seconds']:.1f}",
        "eigenvalue_error_eV": f"{details['eigenvalue_error_eV']:.1e}",
        "overlap_error": f"{details['overlap_error']:.1e}",
        "gap_eV": f"{details['gap'] * EV_PER_HARTREE:.4f}",
        "energy_eV": f"{details['energy'] * EV_PER_HARTREE:.5f}",
    }
