"""Densities and orbitals of the main command; also under mpirun."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import ase.io
import h5py
import numpy as np
import pytest
from mpi4py import MPI
from numpy.typing import NDArray

from hamgnn_solve.cli.main import main
from hamgnn_solve.cli.options import SolveOptions
from hamgnn_solve.cli.solve import solve
from hamgnn_solve.core.real_space.phase import fixed_phase
from hamgnn_solve.core.units import ANGSTROM_PER_BOHR

pytestmark = pytest.mark.parallel
COMM = MPI.COMM_WORLD
SHEET = """MoS2
1.0
3.18 0 0
-1.59 2.754 0
0 0 {height}
Mo S
1 2
Direct
0.3333333 0.6666667 0.5
0.6666667 0.3333333 {upper}
0.6666667 0.3333333 {lower}
"""
HEIGHT = 16.0
RUNS = ("alone", "together")


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One empty folder, known to all ranks."""
    made = tmp_path_factory.mktemp("run") if COMM.rank == 0 else None
    yield Path(COMM.bcast(made))
    COMM.Barrier()


def sheet(folder: Path) -> str:
    """Write a sheet of MoS2 on rank 0; returns its name on all ranks."""
    file = folder / "MoS2.vasp"
    if COMM.rank == 0:
        spread = 1.565 / HEIGHT
        file.write_text(SHEET.format(height=HEIGHT, upper=0.5 + spread, lower=0.5 - spread))
    COMM.Barrier()
    return str(file)


def options(folder: Path, name: str, **more: object) -> SolveOptions:
    wanted: dict[str, object] = {
        "kpath": "none",
        "density": str(folder / f"{name}-density.h5"),
        "difference_density": str(folder / f"{name}-difference.h5"),
        "density_mesh": "4x4x1",
        "orbitals": "homo,lumo,homo-1:homo",
        "orbital_k": "0.3333333 0.3333333 0",
        "ldos": "-2:-0.3",
        "grid_format": "h5",
        "quiet": True,
        **more,
    }
    return SolveOptions(sheet(folder), out=str(folder / name), **wanted)  # type: ignore[arg-type]


def read(file: Path, name: str = "values") -> NDArray[np.float64]:
    with h5py.File(file) as h5:
        return np.asarray(h5[name][:])


def integral(file: Path, power: int = 1) -> float:
    with h5py.File(file) as h5:
        volume = abs(np.linalg.det(h5["cell_A"][:] / ANGSTROM_PER_BOHR))
        return float((h5["values"][:] ** power).mean() * volume)


def test_ranks_agree_with_one_rank(folder: Path) -> None:
    if COMM.size == 1:
        pytest.skip("compares several ranks with one")
    alone = None
    wanted = options(folder, "alone")
    if COMM.rank == 0:
        alone = solve(wanted, MPI.COMM_SELF)
    alone = COMM.bcast(alone)
    together = solve(options(folder, "together"), COMM)
    for key in ("density_electrons", "density_matrix_electrons"):
        assert together[key] == pytest.approx(alone[key], abs=1e-7)
    if COMM.rank > 0:
        return
    names = ["{}-density.h5", "{}-difference.h5", "{}/ldos.h5", "{}/states-homo-1_homo.h5"]
    names += [f"{{}}/orbital-{x}{part}.h5" for x in ("homo", "lumo") for part in ("", "-imaginary")]
    for name in names:
        values, others = (read(folder / name.format(run)) for run in RUNS)
        assert np.abs(values).max() > 1e-3
        # The network works in single precision.
        assert np.abs(values - others).max() < 1e-5, name
    for kind in ("mulliken", "hirshfeld"):
        charges = [read(folder / run / "results.h5", f"charges/{kind}") for run in RUNS]
        assert np.abs(charges[0] - charges[1]).max() < 1e-5


def test_electrons_states_and_charges_add_up(folder: Path) -> None:
    summary = solve(options(folder, "run"), COMM)
    # 18 electrons; the grid of 0.2 Angstrom misses 2e-5 of them.
    assert summary["density_matrix_electrons"] == pytest.approx(18.0, abs=1e-6)
    assert summary["density_electrons"] == pytest.approx(18.0, abs=3e-4)
    if COMM.rank > 0:
        return
    assert integral(folder / "run-density.h5") == pytest.approx(summary["density_electrons"])
    # The free atoms hold exactly their valence electrons.
    assert integral(folder / "run-difference.h5") == pytest.approx(
        summary["density_electrons"] - 18.0, abs=1e-7
    )
    assert integral(folder / "run" / "states-homo-1_homo.h5") == pytest.approx(2.0, abs=2e-4)
    for name in ("homo", "lumo"):
        parts = [folder / "run" / f"orbital-{name}{x}.h5" for x in ("", "-imaginary")]
        # Cusps of the square near the nuclei are not resolved: 1 to 2 %.
        assert sum(integral(part, 2) for part in parts) == pytest.approx(1.0, abs=0.03)
    assert (folder / "run" / "ldos.png").stat().st_size > 5000
    with h5py.File(folder / "run" / "results.h5") as file:
        mulliken, hirshfeld = file["charges/mulliken"][:], file["charges/hirshfeld"][:]
    assert mulliken.sum() == pytest.approx(0.0, abs=1e-6)
    assert hirshfeld.sum() == pytest.approx(0.0, abs=2e-3)
    # Sulfur is negative, the two atoms alike.
    for charge in (mulliken, hirshfeld):
        assert charge[0] > 0.1
        assert charge[1] == pytest.approx(charge[2], abs=1e-3)


def test_density_does_not_move_with_the_choice_of_cell(folder: Path) -> None:
    # The same sheet twice along the first axis, with half the k-points.
    small = solve(options(folder, "small", grid_points="16x16x80", orbitals=None, ldos=None), COMM)
    doubled = folder / "doubled.vasp"
    if COMM.rank == 0:
        # ASE would make all ranks take part.
        once = ase.io.read(folder / "MoS2.vasp", parallel=False)
        ase.io.write(doubled, once.repeat((2, 1, 1)), sort=True, parallel=False)
    COMM.Barrier()
    wanted = {"grid_points": "32x16x80", "density_mesh": "2x4x1", "kpath": "none", "quiet": True}
    large = solve(
        SolveOptions(
            str(doubled),
            out=str(folder / "large"),
            density=str(folder / "large.h5"),
            **wanted,  # type: ignore[arg-type]
        ),
        COMM,
    )
    assert large["density_electrons"] == pytest.approx(2 * small["density_electrons"], abs=1e-5)
    if COMM.rank == 0:
        with h5py.File(folder / "small-density.h5") as one, h5py.File(folder / "large.h5") as two:
            values = np.tile(one["values"][:], (2, 1, 1))
            assert values.max() > 0.5
            assert np.abs(values - two["values"][:]).max() < 1e-4


def test_phase_makes_the_heaviest_coefficient_positive() -> None:
    random = np.random.default_rng(4)
    vectors_mn = random.normal(size=(6, 2)) + 1j * random.normal(size=(6, 2))
    vectors_mn[3] *= 10.0
    images_mn = vectors_mn.copy()
    turned = fixed_phase(vectors_mn, images_mn)
    again = fixed_phase(vectors_mn * np.exp(0.7j), images_mn * np.exp(0.7j))
    assert np.abs(turned - again).max() < 1e-14
    assert (turned[3].real > 0.0).all()
    assert np.abs(turned[3].imag).max() < 1e-14
    assert np.abs(turned) == pytest.approx(np.abs(vectors_mn))
    # Of equal weights the first orbital counts, whatever rounding does.
    equal = np.array([[0.1], [-1.0], [1.0 + 1e-9]])
    assert fixed_phase(equal, equal)[1, 0] > 0.0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--density", "rho.chg"], "let it end in .cube, .xsf or .h5"),
        (["--density", "nowhere/rho.cube"], "does not exist; make it first"),
        (["--orbitals", "homo,somo"], "somo is no band"),
        (["--orbitals", "homo+300"], "and there are 40 bands"),
        (["--orbitals", "homo:homo-2"], "is no set of bands"),
        (["--orbitals", "homo", "--orbital-k", "0 0"], "must be three numbers"),
        (["--ldos=0.2:-0.2"], "is no window of energies"),
        (["--charges", "--density-mesh", "3x3"], "is no number of grid points"),
        (["--density", "rho.cube", "--grid-points", "20x20"], "is no number of grid points"),
        (["--density", "rho.cube", "--grid-spacing", "9"], "is out of range"),
        (["--charges", "--temperature", "-5"], "must be a number of kelvins"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(
    arguments: list[str], sentence: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(folder / "run"), "--kpath", "none"]
    assert main([sheet(folder), *arguments, *out]) == 2
    if COMM.rank == 0:
        said = capsys.readouterr().err
        assert sentence in said
        assert "Traceback" not in said
    assert not (folder / "run").exists()
