"""Reading OpenMX's H, S and density matrix."""

from __future__ import annotations

import lzma
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import shared_path
from given_models import (
    SHELLS,
    STRUCTURE,
    antisymmetric,
    crystal,
    density_of,
    pairs_within,
    random_overlap,
    symmetric,
    write_scfout,
)
from pencil_models import printed_bands

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.hamiltonian import check_not_h0
from hamgnn_solve.core.io.scfout import read_scfout, scfout_hamiltonian, scfout_zero
from hamgnn_solve.core.operator import BlockOperator, dense_matrix
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


def spin_parts(spin: str) -> tuple[list[BlockOperator], list[BlockOperator]]:
    """Return what OpenMX stores of H and of its imaginary part."""
    pairs, norb_i = pairs_within(2.6), crystal().overlap.norb_i
    hermitian = {"off": 1, "on": 2, "nc": 2}[spin]
    parts = [symmetric(pairs, norb_i, 20 + s) for s in range(hermitian)]
    if spin != "nc":
        return parts, []
    # Re and Im of H(up, down) have no symmetry of their own.
    parts += [_sum(symmetric(pairs, norb_i, s), antisymmetric(pairs, norb_i, s)) for s in (30, 31)]
    imaginary = [antisymmetric(pairs, norb_i, s) for s in (40, 41)]
    imaginary.append(_sum(symmetric(pairs, norb_i, 42), antisymmetric(pairs, norb_i, 43)))
    return parts, imaginary


def _sum(left: BlockOperator, right: BlockOperator) -> BlockOperator:
    return BlockOperator(left.pairs, left.norb_i, left.values + right.values)


@pytest.mark.parametrize("moments", [True, False])
@pytest.mark.parametrize("spin", ["off", "on", "nc"])
def test_written_operators_are_read_back(tmp_path: Path, spin: str, moments: bool) -> None:
    parts, imaginary = spin_parts(spin)
    overlap = random_overlap(parts[0].pairs, parts[0].norb_i, 5)
    densities = [density_of(overlap, 7.0)] * min(len(parts), 2) + parts[2:]
    path = tmp_path / "test.scfout"
    write_scfout(path, spin, parts, imaginary, overlap, densities, 14.0, moments=moments)
    given = scfout_hamiltonian(path)
    system = given.system
    assert system.structure.symbols == STRUCTURE.symbols
    assert np.array_equal(system.structure.pos_ic, STRUCTURE.pos_ic)
    assert system.shells_i == SHELLS
    assert (system.electrons, system.spinors, system.temperature) == (14.0, spin != "off", 1000.0)
    assert system.mesh is not None
    # Three by two points: time reversal leaves half of them, which magnetism of any direction
    # forbids.
    assert len(system.mesh.weights_k) == (6 if spin == "nc" else 3)
    assert np.array_equal(given.overlap.values, overlap.values)
    assert np.array_equal(given.overlap.pairs.shift_pc, overlap.pairs.shift_pc)
    for k_c in np.random.default_rng(6).uniform(-0.5, 0.5, (2, 3)):
        part = [dense_matrix(x, k_c) for x in parts]
        if spin == "off":
            expected = part[0]
        elif spin == "on":
            expected = atomwise(part[0], 0 * part[0], 0 * part[0], part[1])
        else:
            # H(up, up), H(up, down), H(down, down) as the format's description gives them.
            extra = [dense_matrix(x, k_c) for x in imaginary]
            upper = part[2] + 1j * (part[3] + extra[2])
            expected = atomwise(
                part[0] + 1j * extra[0], upper, upper.conj().T, part[1] + 1j * extra[1]
            )
        found = dense_matrix(given.hamiltonian, k_c)
        if given.imaginary is not None:
            found = found + 1j * dense_matrix(given.imaginary, k_c)
        # Reached 5e-16.
        assert np.abs(found - expected).max() < 1e-14
        assert np.abs(found - found.conj().T).max() < 1e-14


def atomwise(uu: np.ndarray, ud: np.ndarray, du: np.ndarray, dd: np.ndarray) -> np.ndarray:
    """Return the spinor matrix whose orbitals are, atom by atom, all up and then all down."""
    counts = [sum(2 * x + 1 for x in shells) for shells in SHELLS]
    start = np.cumsum(counts) - counts
    up = np.concatenate([2 * s + np.arange(n) for s, n in zip(start, counts, strict=True)])
    down = np.concatenate([2 * s + n + np.arange(n) for s, n in zip(start, counts, strict=True)])
    matrix = np.zeros((2 * sum(counts),) * 2, dtype=complex)
    for row, column, part in ((up, up, uu), (up, down, ud), (down, up, du), (down, down, dd)):
        matrix[np.ix_(row, column)] = part
    return matrix


@pytest.mark.parametrize("imaginary_density", [True, False])
def test_files_of_openmx_3_8_are_read(tmp_path: Path, imaginary_density: bool) -> None:
    parts, imaginary = spin_parts("nc")
    overlap = random_overlap(parts[0].pairs, parts[0].norb_i, 5)
    densities = [density_of(overlap, 7.0)] * 2 + parts[2:]
    old, new = tmp_path / "old.scfout", tmp_path / "new.scfout"
    settings = {"version": 0, "imaginary_density": imaginary_density}
    write_scfout(old, "nc", parts, imaginary, overlap, densities, 14.0, **settings)
    write_scfout(new, "nc", parts, imaginary, overlap, densities, 14.0)
    one, other = read_scfout(old), read_scfout(new)
    assert (one.electrons, one.electronic_temperature) == (14.0, 1000.0)
    assert np.array_equal(one.overlap.values, other.overlap.values)
    for name in ("hamiltonians", "imaginary", "density_matrices"):
        for x, y in zip(getattr(one, name), getattr(other, name), strict=True):
            assert np.array_equal(x.values, y.values)


def test_h0_is_told_from_h(tmp_path: Path) -> None:
    parts, _ = spin_parts("off")
    overlap = random_overlap(parts[0].pairs, parts[0].norb_i, 5)
    path = tmp_path / "overlap.scfout"
    write_scfout(path, "off", parts, [], overlap, [density_of(overlap, 0.0)], 14.0, moments=False)
    with pytest.raises(InputError, match="not self-consistent"):
        scfout_hamiltonian(path)
    assert np.array_equal(scfout_zero(path).values, parts[0].values)
    write_scfout(path, "off", parts, [], overlap, [density_of(overlap, 7.0)], 14.0)
    with pytest.raises(InputError, match="holds H and not H0"):
        scfout_zero(path)


@pytest.mark.parametrize("name", [*SYSTEMS, "sic8", "mos2_2x2"])
def test_h0_of_openmx_is_told_from_h(name: str) -> None:
    folder = shared_path("oracle/openmx") / name
    with pytest.raises(InputError, match="not self-consistent"):
        scfout_hamiltonian(folder / "overlap.scfout.xz")
    given = scfout_hamiltonian(folder / f"{name}.scfout.xz")
    zero = scfout_zero(folder / "overlap.scfout.xz")
    with pytest.raises(InputError, match="H equals H0"):
        check_not_h0(replace(given, hamiltonian=zero, zero=zero), name)
    check_not_h0(replace(given, zero=zero), name)
    # H0 has no exchange and correlation: H differs by a tenth of a Hartree and more.
    assert np.abs(replace(given, zero=zero).hamiltonian.values - zero.values).max() > 0.1


def test_other_version_is_refused(tmp_path: Path) -> None:
    parts, _ = spin_parts("off")
    path = tmp_path / "old.scfout"
    write_scfout(path, "off", parts, [], parts[0], parts, 14.0, version=2)
    with pytest.raises(InputError, match="version 2"):
        read_scfout(path)


def test_shells_that_do_not_add_up_are_refused(tmp_path: Path) -> None:
    parts, _ = spin_parts("off")
    overlap = random_overlap(parts[0].pairs, parts[0].norb_i, 5)
    path = tmp_path / "mixed.scfout"
    write_scfout(path, "off", parts, [], overlap, [density_of(overlap, 7.0)], 14.0)
    path.write_bytes(path.read_bytes().replace(b"S7.0-s2p1", b"S7.0-s3p1"))
    with pytest.raises(InputError, match="do not add up"):
        scfout_hamiltonian(path)


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
