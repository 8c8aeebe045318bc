"""Reading OpenMX's H, S and density matrix."""

from __future__ import annotations

import lzma
from pathlib import Path

import numpy as np
import pytest
from conftest import shared_path
from pencil_models import printed_bands

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.io.scfout import read_scfout
from hamgnn_solve.core.operator import BlockOperator
from hamgnn_solve.solver.dense import dense_eigenpairs

SYSTEMS = ["h2o", "c2h4", "si2", "gaas2", "mos2_k5"]


def reversed_blocks(operator: BlockOperator) -> float:
    """Return the largest difference between H(i, j, R) and the transpose of H(j, i, -R)."""
    place_p = operator.pairs.position_of(operator.pairs.reversed())
    assert (place_p >= 0).all()
    return max(
        float(np.abs(operator.block(p) - operator.block(int(place_p[p])).T).max())
        for p in range(len(place_p))
    )


@pytest.mark.parametrize("name", SYSTEMS)
def test_operators_reproduce_the_printed_eigenvalues(name: str) -> None:
    folder = shared_path("oracle/openmx") / name
    data = read_scfout(folder / f"{name}.scfout.xz")
    for k_c, printed_n in printed_bands(folder / f"{name}.out")[::7]:
        energies_n, _ = dense_eigenpairs(data.hamiltonians[0], data.overlap, k_c)
        # Reached: 2.1e-7 Hartree (Si); OpenMX diagonalises on its own grid of k.
        assert np.abs(energies_n[: len(printed_n)] - printed_n).max() < 5e-7


@pytest.mark.parametrize("name", SYSTEMS)
def test_density_matrix_holds_the_electrons(name: str) -> None:
    data = read_scfout(shared_path("oracle/openmx") / name / f"{name}.scfout.xz")
    # One matrix of a run without spin counts each electron pair once. Reached: 1.3e-10.
    electrons = 2.0 * (data.density_matrices[0].values * data.overlap.values).sum()
    assert abs(electrons - data.electrons) < 1e-9


def test_structure_orbitals_and_symmetry_of_mos2() -> None:
    data = read_scfout(shared_path("oracle/openmx/mos2_k5/mos2_k5.scfout.xz"))
    assert data.structure.symbols == ("Mo", "S", "S")
    assert data.overlap.norb_i.tolist() == [19, 13, 13]
    assert data.electrons == pytest.approx(26.0)
    # The input's 3.18 Angstrom in OpenMX's Bohr of 0.529177249 Angstrom.
    assert data.structure.cell_cc[0, 0] == pytest.approx(3.18 / 0.529177249, rel=1e-9)
    # OpenMX evaluates both blocks of a pair on their own. Reached 1.5e-10 and 3e-10.
    assert reversed_blocks(data.overlap) < 1e-9
    assert reversed_blocks(data.hamiltonians[0]) < 2e-9


def test_overlap_file_without_position_matrices_is_read() -> None:
    folder = shared_path("oracle/openmx/si2")
    short = read_scfout(folder / "overlap.scfout.xz")
    whole = read_scfout(folder / "si2.scfout.xz")
    assert np.array_equal(short.overlap.values, whole.overlap.values)
    assert np.abs(short.hamiltonians[0].values - whole.hamiltonians[0].values).max() > 0.1


def test_non_collinear_file_is_refused() -> None:
    with pytest.raises(InputError, match="non-collinear"):
        read_scfout(shared_path("oracle/openmx/h2o_nc/h2o_nc.scfout.xz"))


@pytest.mark.parametrize(
    ("stop", "what"), [(10, "header"), (400, "cell translations"), (400_000, "inside its S")]
)
def test_cut_file_names_file_and_block(tmp_path: Path, stop: int, what: str) -> None:
    whole = lzma.decompress(shared_path("oracle/openmx/si2/si2.scfout.xz").read_bytes())
    path = tmp_path / "cut.scfout"
    path.write_bytes(whole[:stop])
    with pytest.raises(InputError, match=what) as error:
        read_scfout(path)
    assert "cut.scfout" in str(error.value)


def test_missing_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_scfout(tmp_path / "absent.scfout")
    (tmp_path / "text.scfout").write_text("this is not a binary file of OpenMX at all\n")
    with pytest.raises(InputError, match=r"not an \.scfout"):
        read_scfout(tmp_path / "text.scfout")
    (tmp_path / "broken.scfout.xz").write_text("not compressed")
    with pytest.raises(InputError, match="xz"):
        read_scfout(tmp_path / "broken.scfout.xz")
