"""Training labels: H(R) and S(R) of one structure from a converged GPAW calculation.

GPAW (LCAO mode, PBE, the pseudo-atomic ``dzp`` basis) is run as an independent program. Its
potential, atomic corrections and two-centre integrals are collected into real-space blocks, and
the blocks are accepted only when they reproduce GPAW's own eigenvalues at every k-point.

The command ``python -m hamgnn_solve.training.labels RECIPE --out FILE.h5`` labels a recipe (YAML,
see `recipe`) or one structure file. Each structure becomes a group of the HDF5 file, and a run
that was stopped goes on where it ended.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.linalg
from ase import Atoms
from ase.io import read
from numpy.typing import NDArray

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.units import EV_PER_HARTREE
from hamgnn_solve.training.gpaw_blocks import bloch_sum, cut_into_pairs, extract_blocks
from hamgnn_solve.training.grid_sums import GridSums
from hamgnn_solve.training.label_file import Label, read_label, write_label
from hamgnn_solve.training.recipe import center_slab, read_recipe

__all__ = ["Label", "LabelSettings", "label_all", "label_structure", "read_label"]

LARGEST_EIGENVALUE_ERROR_EV = 1e-5
LONGEST_WAIT = 600.0
CSV_COLUMNS = (
    "name",
    "natoms",
    "layers",
    "gpts",
    "kpts",
    "scf_steps",
    "seconds",
    "eigenvalue_error_eV",
    "gap_eV",
    "energy_eV",
)


@dataclass(frozen=True)
class LabelSettings:
    """How densely GPAW samples real space, k-space and the occupations.

    Densities are given for a lattice vector of `reference_length`; every other cell gets the
    nearest equal density, so that the labels of different cells share one numerical error.

    Parameters
    ----------
    reference_length : float
        Length in Angstrom that `gpts` and `kpts` refer to.
    gpts, kpts : int
        Grid points (rounded to a multiple of 4) and k-points along a periodic axis of that length.
    open_spacing : float
        Grid spacing in Angstrom along axes that are not periodic.
    fermi_width : float
        Width of the Fermi-Dirac occupations in eV.
    density_convergence : float
        Largest change of the density per valence electron in the last step.
    setups : dict
        GPAW setup of the elements that do not use the default one.
    """

    reference_length: float = 3.17
    gpts: int = 20
    kpts: int = 6
    open_spacing: float = 0.15
    fermi_width: float = 0.05
    density_convergence: float = 1e-6
    setups: dict[str, str] = field(default_factory=lambda: {"Mo": "6", "W": "6"})

    def __post_init__(self) -> None:
        numbers = (
            self.reference_length,
            self.gpts,
            self.kpts,
            self.open_spacing,
            self.fermi_width,
            self.density_convergence,
        )
        if min(numbers) <= 0:
            raise InputError(f"Every number of the label settings must be positive: {self}.")

    def data_set(self, symbol: str) -> str:
        """Return the name of an element's data set in the built-in basis."""
        return f"{symbol}.{self.setups[symbol]}" if symbol in self.setups else symbol

    def grid_points(self, atoms: Atoms) -> tuple[int, int, int]:
        """Return the number of grid points along the three axes of `atoms`."""
        spacing = self.reference_length / self.gpts
        return _per_axis(
            4 * max(1, round(length / (4 * (spacing if periodic else self.open_spacing))))
            for length, periodic in zip(atoms.cell.lengths(), atoms.pbc, strict=True)
        )

    def kpoint_mesh(self, atoms: Atoms) -> tuple[int, int, int]:
        """Return the size of the Gamma-centred mesh along the three axes of `atoms`."""
        return _per_axis(
            max(1, round(self.kpts * self.reference_length / length)) if periodic else 1
            for length, periodic in zip(atoms.cell.lengths(), atoms.pbc, strict=True)
        )


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
        If the calculation does not converge.
    RuntimeError
        If the blocks do not reproduce GPAW's eigenvalues to 1e-5 eV.
    """
    from gpaw import KohnShamConvergenceError

    settings = settings or LabelSettings()
    start = time.perf_counter()
    calculator = _calculator(atoms, settings)
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
    details = {
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
    return Label(
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
        species={symbol: settings.data_set(symbol) for symbol in sorted(set(atoms.symbols))},
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


def label_all(
    structures: list[tuple[str, Atoms, dict[str, Any]]],
    out: Path,
    settings: LabelSettings,
    table: Path | None = None,
    jobs: int = 1,
) -> int:
    """Label structures that `out` does not hold yet; return how many were added.

    Parameters
    ----------
    structures : list of (name, Atoms, entry)
        What to label, in order.
    out : Path
        HDF5 file, created or appended to after every structure.
    settings : LabelSettings
        Sampling.
    table : Path, optional
        CSV file that gets one row a label.
    jobs : int
        Number of structures calculated at the same time, each on one core.
    """
    with _open_when_free(out) as file:
        missing = [item for item in structures if item[0] not in file]
    if jobs == 1:
        labels = (label_structure(atoms, settings) for _, atoms, _ in missing)
        return _store(missing, labels, out, table)
    with ProcessPoolExecutor(jobs) as pool:
        return _store(
            missing,
            pool.map(label_structure, [item[1] for item in missing], [settings] * len(missing)),
            out,
            table,
        )


def _store(
    structures: list[tuple[str, Atoms, dict[str, Any]]],
    labels: Iterator[Label],
    out: Path,
    table: Path | None,
) -> int:
    for (name, _, entry), label in zip(structures, labels, strict=True):
        # Opened for this write only, so that a reader can use the file in between.
        with _open_when_free(out) as file:
            write_label(file, name, label, entry)
        if table is not None:
            _append_row(table, name, label, entry)
        details = label.details
        print(
            f"{name}: {len(label.symbols)} atoms, {details['scf_steps']} steps, "
            f"{details['seconds']:.0f} s, eigenvalue error {details['eigenvalue_error_eV']:.1e} eV",
            flush=True,
        )
    return len(structures)


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


def _append_row(table: Path, name: str, label: Label, entry: dict[str, Any]) -> None:
    details = label.details
    row = (
        name,
        len(label.symbols),
        "/".join(entry.get("layers", [])),
        "x".join(str(n) for n in details["gpts"]),
        "x".join(str(n) for n in details["kpts"]),
        details["scf_steps"],
        f"{details['seconds']:.1f}",
        f"{details['eigenvalue_error_eV']:.1e}",
        f"{details['gap'] * EV_PER_HARTREE:.4f}",
        f"{details['energy'] * EV_PER_HARTREE:.5f}",
    )
    new = not table.exists()
    with table.open("a", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        if new:
            writer.writerow(CSV_COLUMNS)
        writer.writerow(row)


def _read_structures(path: Path, vacuum: float) -> list[tuple[str, Atoms, dict[str, Any]]]:
    if path.suffix in (".yaml", ".yml"):
        return read_recipe(path)
    atoms = read(path)
    if not isinstance(atoms, Atoms):
        raise InputError(f"{path} holds no single structure; give a file with one structure.")
    return [(path.stem, center_slab(atoms, vacuum), {"file": path.name, "vacuum": vacuum})]


def main(arguments: list[str] | None = None) -> None:
    """Label the structures of a recipe or one structure file (a slab with open z axis)."""
    parser = argparse.ArgumentParser(prog="python -m hamgnn_solve.training.labels")
    parser.add_argument("source", type=Path, help="recipe (.yaml) or structure file of a slab")
    parser.add_argument("--out", type=Path, required=True, help="HDF5 file to append to")
    parser.add_argument("--csv", type=Path, help="table that gets one row per label")
    parser.add_argument("--jobs", type=int, default=1, help="structures at the same time")
    parser.add_argument("--only", help="label this structure of the recipe alone")
    parser.add_argument(
        "--gpts", type=int, default=20, help="grid points along a periodic axis of 3.17 Angstrom"
    )
    parser.add_argument(
        "--vacuum",
        type=float,
        default=5.5,
        help="vacuum beyond the outermost atom of a structure file, Angstrom",
    )
    options = parser.parse_args(arguments)
    try:
        structures = _read_structures(options.source, options.vacuum)
        if options.only is not None:
            structures = [item for item in structures if item[0] == options.only]
            if not structures:
                raise InputError(f"{options.source} has no {options.only}; check the name.")
        settings = LabelSettings(gpts=options.gpts)
        label_all(structures, options.out, settings, options.csv, options.jobs)
    except InputError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
