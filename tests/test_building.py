"""Twisted bilayers, supercells and random displacements."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import shared_path
from numpy.typing import NDArray

from hamgnn_solve.cli.tools import main
from hamgnn_solve.core.building.displacements import displace_atoms
from hamgnn_solve.core.building.hexagonal_layers import (
    HEXAGONAL_AXES,
    HEXAGONAL_LAYERS,
    HexagonalLayer,
    find_layer,
    layer_of_structure,
)
from hamgnn_solve.core.building.supercell import make_supercell
from hamgnn_solve.core.building.twisted_bilayer import (
    CommensurateTwist,
    TwistedBilayer,
    build_twisted_bilayer,
    mean_lattice,
    usual_distance,
)
from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.io.structure import read_structure, write_structure
from hamgnn_solve.core.pairs import find_pairs
from hamgnn_solve.core.structure import Structure
from hamgnn_solve.core.units import ANGSTROM_PER_BOHR

TURNED = ("1", "1", "0", "-1", "1", "0", "0", "0", "1")
HALF_TURN = np.diag([-1.0, -1.0, 1.0])
MIRROR = np.diag([1.0, -1.0, 1.0])


def bilayer_of(
    lower: str | HexagonalLayer = "MoS2",
    upper: str | HexagonalLayer = "WS2",
    indices: tuple[int, int] = (1, 2),
    **settings: object,
) -> TwistedBilayer:
    below = find_layer(lower) if isinstance(lower, str) else lower
    above = find_layer(upper) if isinstance(upper, str) else upper
    lengths = {
        "lattice": mean_lattice(below, above),
        "distance": usual_distance(below, above),
    }
    return TwistedBilayer(below, above, CommensurateTwist(*indices), **(lengths | settings))


def deviation(
    structure: Structure, other: Structure, turn_cc: NDArray[np.float64] | None = None
) -> float:
    """Return how far (Angstrom) an atom, turned, lies at most from one of the other crystal.

    Every atom of the other crystal has to be met equally often, modulo its lattice.
    """
    turned_ic = structure.pos_ic @ (np.eye(3) if turn_cc is None else turn_cc).T
    mine, others = np.array(structure.symbols), np.array(other.symbols)
    largest = 0.0
    for symbol in structure.elements:
        difference_ijc = turned_ic[mine == symbol, None] - other.pos_ic[None, others == symbol]
        fraction_ijc = difference_ijc @ np.linalg.inv(other.cell_cc)
        fraction_ijc -= np.round(fraction_ijc)
        distance_ij = np.linalg.norm(fraction_ijc @ other.cell_cc, axis=2)
        largest = max(largest, float(distance_ij.min(axis=1).max()))
        met_j = np.bincount(distance_ij.argmin(axis=1), minlength=distance_ij.shape[1])
        if len(set(met_j.tolist())) > 1:
            return np.inf
    return largest * ANGSTROM_PER_BOHR


def rotation(angle: float) -> NDArray[np.float64]:
    """Return the matrix of a counter-clockwise turn about z."""
    turn_cc = np.eye(3)
    turn_cc[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return turn_cc


def shells(
    structure: Structure, atoms: NDArray[np.int64] | None = None, count: int = 12
) -> NDArray[np.float64]:
    """Return the shortest `count` distances (Angstrom) of each of `atoms` to others of them."""
    atoms = np.arange(structure.natoms) if atoms is None else atoms
    part = Structure(
        tuple(structure.symbols[i] for i in atoms), structure.pos_ic[atoms], structure.cell_cc
    )
    pairs = find_pairs(part, np.full(part.natoms, 4.0 / ANGSTROM_PER_BOHR))
    rows = [np.sort(pairs.distance_p[pairs.first_p == i])[:count] for i in range(part.natoms)]
    return np.array(rows) * ANGSTROM_PER_BOHR


def monolayer(layer: HexagonalLayer, vacuum: float = 10.0) -> Structure:
    cell_cc = np.zeros((3, 3))
    cell_cc[:2, :2] = layer.lattice * HEXAGONAL_AXES
    cell_cc[2, 2] = 2 * (layer.half_thickness + vacuum / ANGSTROM_PER_BOHR)
    pos_ic = np.column_stack([layer.fractional_ic @ cell_cc[:2, :2], layer.height_i])
    return Structure(layer.symbols, pos_ic, cell_cc)


@pytest.mark.parametrize(
    ("indices", "natoms", "degrees"),
    [((1, 2), 42, 21.787), ((2, 3), 114, 13.174), ((3, 4), 222, 9.430), ((9, 10), 1626, 3.481)],
)
def test_angles_and_numbers_of_atoms(indices: tuple[int, int], natoms: int, degrees: float) -> None:
    m, n = indices
    bilayer = bilayer_of(indices=indices)
    angle = bilayer.twist.angle
    cosine = (m**2 + 4 * m * n + n**2) / (2 * (m**2 + m * n + n**2))
    assert np.cos(angle) == pytest.approx(cosine, abs=1e-14)
    assert np.degrees(angle) == pytest.approx(degrees, abs=5e-4)
    assert CommensurateTwist(n, m).angle == -angle
    structure = build_twisted_bilayer(bilayer)
    assert structure.natoms == natoms
    # The angle again from the atoms: between nearest neighbours of each metal's lattice.
    directions = []
    for symbol in ("Mo", "W"):
        atoms = np.flatnonzero(np.array(structure.symbols) == symbol)
        layer = Structure((symbol,) * len(atoms), structure.pos_ic[atoms], structure.cell_cc)
        pairs = find_pairs(layer, np.full(len(atoms), 0.55 * bilayer.lattice))
        assert len(pairs) == 6 * len(atoms)
        angles = np.degrees(np.arctan2(pairs.vector_pc[:, 1], pairs.vector_pc[:, 0])) % 60
        assert np.ptp(angles) < 1e-9
        directions.append(angles[0])
    assert (directions[1] - directions[0]) % 60 == pytest.approx(np.degrees(angle), abs=1e-9)


def published_cell(indices: tuple[int, int], **settings: object) -> Structure:
    lengths = {"lattice": 3.17 / ANGSTROM_PER_BOHR, "distance": 6.17 / ANGSTROM_PER_BOHR}
    return build_twisted_bilayer(bilayer_of(indices=indices, **lengths, **settings))


def test_the_example_is_made_again(bilayer_file: Path) -> None:
    structure, example = published_cell((1, 2)), read_structure(bilayer_file)
    assert np.abs(structure.cell_cc - example.cell_cc).max() < 1e-12
    assert structure.symbols == example.symbols
    # The same crystal, looked at from the other side of the y axis. Reached 5e-15 Angstrom.
    assert deviation(structure, example, HALF_TURN) < 1e-12
    # No other stacking, sense of the twist or axis will do.
    for other in (
        published_cell((2, 1)),
        published_cell((1, 2), stacking="H"),
        published_cell((1, 2), shift=(1 / 3, 2 / 3)),
    ):
        assert min(deviation(other, example, turn) for turn in (np.eye(3), HALF_TURN)) > 0.1


@pytest.mark.parametrize("indices", [(1, 2), (2, 3), (3, 4), (9, 10)])
def test_reference_cells_are_made_again(indices: tuple[int, int]) -> None:
    file = shared_path(f"structures/twisted_mos2_ws2_{indices[0]}_{indices[1]}.cif")
    structure, reference = published_cell(indices), read_structure(file)
    assert np.abs(structure.cell_cc - reference.cell_cc).max() < 1e-12
    # Reached 4e-14 Angstrom.
    assert deviation(structure, reference, HALF_TURN) < 1e-12


@pytest.mark.parametrize("name", ["MoS2", "WSe2", "graphene", "hBN"])
@pytest.mark.parametrize("stacking", ["R", "H"])
def test_layers_stay_as_they_are_without_strain(name: str, stacking: str) -> None:
    layer = HEXAGONAL_LAYERS[name]
    structure = build_twisted_bilayer(bilayer_of(name, name, (2, 3), stacking=stacking))
    half = structure.natoms // 2
    for atoms in (np.arange(half), np.arange(half, 2 * half)):
        # The same neighbours at the same distances as in the layer alone. Reached 5e-14 Angstrom.
        found = shells(structure, atoms)
        alone = shells(monolayer(layer))
        assert np.abs(found - np.repeat(alone, half // layer.natoms, axis=0)).max() < 1e-12
    distance = structure.pos_ic[half, 2] - structure.pos_ic[0, 2]
    assert distance == pytest.approx(layer.spacing, abs=1e-12)


def test_bonds_of_the_table() -> None:
    # Measured or PBE bond lengths as textbooks give them, to the hundredth of an Angstrom.
    bonds = {"MoS2": 2.41, "WS2": 2.42, "MoSe2": 2.54, "WSe2": 2.55, "graphene": 1.42, "hBN": 1.44}
    for name, layer in HEXAGONAL_LAYERS.items():
        shortest = shells(monolayer(layer))[0]
        assert shortest[0] == pytest.approx(bonds[name], abs=0.01), name
        assert np.ptp(shortest[: 6 if layer.natoms == 3 else 3]) < 1e-12


@pytest.mark.parametrize("lower", list(HEXAGONAL_LAYERS))
@pytest.mark.parametrize("upper", list(HEXAGONAL_LAYERS))
def test_every_pair_of_the_table(lower: str, upper: str) -> None:
    bilayer = bilayer_of(lower, upper, (2, 1), strain_limit=np.inf)
    assert bilayer.lower_strain * bilayer.lower.lattice == pytest.approx(
        -bilayer.upper_strain * bilayer.upper.lattice, abs=1e-12
    )
    structure = build_twisted_bilayer(bilayer)
    half = 7 * bilayer.lower.natoms
    for layer, part in (
        (bilayer.lower, structure.symbols[:half]),
        (bilayer.upper, structure.symbols[half:]),
    ):
        assert sorted(part) == sorted(7 * layer.symbols)
    # Atoms of different layers are farther apart than any bond of either.
    nearest = shells(structure)[:, 0]
    strained = [replace(layer, lattice=bilayer.lattice) for layer in (bilayer.lower, bilayer.upper)]
    bonds = [shells(monolayer(x))[:, 0] for x in strained]
    assert np.abs(nearest - np.repeat(np.concatenate(bonds), 7)).max() < 1e-12
    heights = structure.pos_ic[:, 2] * ANGSTROM_PER_BOHR
    height = structure.cell_cc[2, 2] * ANGSTROM_PER_BOHR
    assert heights.min() == pytest.approx(10.0)
    assert height - heights.max() == pytest.approx(10.0)


@pytest.mark.parametrize("stacking", ["R", "H"])
def test_exchanged_indices_make_the_mirror_image(stacking: str) -> None:
    right = build_twisted_bilayer(bilayer_of(indices=(2, 3), stacking=stacking))
    left = build_twisted_bilayer(bilayer_of(indices=(3, 2), stacking=stacking))
    assert deviation(right, left, MIRROR) < 1e-12
    # A twisted bilayer is chiral: no turn does what the mirror does.
    turns = [rotation(np.radians(degrees)) for degrees in range(0, 360, 60)]
    assert min(deviation(right, left, turn) for turn in turns) > 0.1


@pytest.mark.parametrize("indices", [(1, 4), (4, 1), (2, 5)])
def test_differences_of_three_have_a_smaller_cell(indices: tuple[int, int]) -> None:
    large, twist = bilayer_of(indices=indices), CommensurateTwist(*indices)
    assert twist.smaller is not None
    assert 3 * twist.smaller.cells == twist.cells
    small = replace(large, twist=twist.smaller, stacking="H")
    first, second = (np.arctan2(x.n * np.sqrt(0.75), x.m + x.n / 2) for x in (twist, twist.smaller))
    turn_cc = rotation(first - second)
    crystal, other = build_twisted_bilayer(large), build_twisted_bilayer(small)
    assert deviation(crystal, other, turn_cc) < 1e-12
    assert CommensurateTwist(2, 3).smaller is None


def test_shifts_are_those_of_the_upper_layer() -> None:
    plain = build_twisted_bilayer(bilayer_of("graphene", "graphene"))
    # Whole lattice vectors of a layer change nothing.
    whole = build_twisted_bilayer(bilayer_of("graphene", "graphene", shift=(1.0, -2.0)))
    assert deviation(whole, plain) < 1e-12
    # Carbon over carbon on the axis has no sixfold axis, hollow over hollow has one.
    hollow = build_twisted_bilayer(bilayer_of("graphene", "graphene", shift=(2 / 3, 1 / 3)))

    def sixfold(structure: Structure) -> float:
        corners = np.array([[0, 0, 0], [1, 2, 0], [2, 1, 0]]) / 3 @ structure.cell_cc
        centred = [replace(structure, pos_ic=structure.pos_ic - corner) for corner in corners]
        return min(deviation(x, x, rotation(np.pi / 3)) for x in centred)

    assert sixfold(plain) > 0.1
    assert sixfold(hollow) < 1e-12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"indices": (2, 2)}, "leave the layers untwisted"),
        ({"indices": (0, 1)}, "two positive integers"),
        ({"indices": (4, 6)}, "common divisor 2; give 2 3"),
        ({"lattice": 3.3 / ANGSTROM_PER_BOHR}, r"MoS2.* strained by \+3\.77%"),
        ({"upper": "WSe2"}, r"strained by \+2\.20%, beyond the limit of 2%"),
        ({"distance": 3.0 / ANGSTROM_PER_BOHR}, r"run into each other; .* more than 3\.135"),
        ({"distance": np.nan}, "run into each other"),
        ({"lattice": -1.0}, "lattice constant is not positive"),
        ({"vacuum": -1.0}, "vacuum or the shift"),
        ({"shift": (np.inf, 0.0)}, "vacuum or the shift"),
        ({"stacking": "X"}, "give R or H"),
        ({"indices": (1000, 1001)}, "would hold 18018006 atoms"),
    ],
)
def test_refused_bilayers(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        bilayer_of(**change)  # type: ignore[arg-type]


JANUS = HexagonalLayer(
    "MoSSe",
    3.25 / ANGSTROM_PER_BOHR,
    ("Mo", "S", "Se"),
    np.array([[1, 2], [2, 1], [2, 1]]) / 3,
    np.array([-0.085, 1.615, -1.615]) / ANGSTROM_PER_BOHR,
)


@pytest.mark.parametrize("second", ["b", "a + b", "-a - b", "-b"])
def test_layers_of_files(tmp_path: Path, second: str) -> None:
    """A layer without a mirror plane, in cells at 60 and 120 degrees of both hands."""
    flat = monolayer(JANUS)
    a, b, c = flat.cell_cc
    vector = {"b": b, "a + b": a + b, "-a - b": -a - b, "-b": -b}[second]
    # At right angles or not; the third vector points up, whichever hand the cell has.
    for tilt in (0.0, 0.4):
        cell_cc = np.array([a, vector, c + tilt * a])
        # Somewhere in space, and cut by the boundary of the cell.
        turn_cc = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
        turn_cc *= np.sign(np.linalg.det(turn_cc))
        inside_ic = np.linalg.solve(cell_cc.T, flat.pos_ic.T).T % 1.0
        crystal = Structure(flat.symbols, inside_ic @ cell_cc @ turn_cc.T, cell_cc @ turn_cc.T)
        layer = layer_of_structure(crystal, "MoSSe")
        assert layer.lattice == pytest.approx(JANUS.lattice, abs=1e-12)
        np.testing.assert_allclose(layer.height_i, JANUS.height_i, atol=1e-12)
        moved_ic = layer.fractional_ic - layer.fractional_ic[0]
        moved_ic -= JANUS.fractional_ic - JANUS.fractional_ic[0]
        # The first lattice vector is kept, so that the orientation is too.
        assert np.abs(moved_ic - np.round(moved_ic)).max() < 1e-12
    write_structure(tmp_path / "janus.vasp", crystal)
    read = find_layer(str(tmp_path / "janus.vasp"))
    with pytest.raises(InputError, match=r"No distance .*janus\.vasp; give .*--distance"):
        usual_distance(HEXAGONAL_LAYERS["MoS2"], read)
    bilayer = bilayer_of(upper=replace(JANUS, spacing=12.0), strain_limit=np.inf)
    expected = build_twisted_bilayer(bilayer)
    assert deviation(build_twisted_bilayer(replace(bilayer, upper=read)), expected) < 1e-9


def test_files_that_hold_no_single_layer(bilayer_file: Path) -> None:
    with pytest.raises(InputError, match="are 2 parts that no bond connects"):
        find_layer(str(bilayer_file))
    square = Structure(("C",), np.zeros((1, 3)), np.diag([5.0, 5.0, 20.0]))
    with pytest.raises(InputError, match=r"at 90\.00 degrees; give a hexagonal layer"):
        layer_of_structure(square, "square")
    stacked = replace(monolayer(HEXAGONAL_LAYERS["graphene"], 0.75), symbols=("C", "C"))
    with pytest.raises(InputError, match="bonded across the third lattice vector"):
        layer_of_structure(stacked, "stacked")
    # One layer of a bulk crystal, without further vacuum, is a layer.
    assert layer_of_structure(monolayer(HEXAGONAL_LAYERS["MoS2"], 1.5), "bulk").natoms == 3
    with pytest.raises(InputError, match="neither one of MoS2, WS2"):
        find_layer("MoTe2")
    assert find_layer("mos2") is HEXAGONAL_LAYERS["MoS2"]


@pytest.mark.parametrize(
    "repeat", [np.diag([2, 3, 1]), np.array([[1, 0, 0], [1, 2, 0], [0, -1, 3]])]
)
def test_supercells_are_the_same_crystal(bilayer_file: Path, repeat: NDArray[np.int64]) -> None:
    small = read_structure(bilayer_file)
    large = make_supercell(small, repeat)
    assert large.natoms == 6 * small.natoms
    assert large.volume == pytest.approx(6 * small.volume, rel=1e-12)
    assert large.symbols == tuple(np.repeat(small.symbols, 6))
    assert deviation(large, small) < 1e-12
    # No two copies coincide, and every atom keeps its neighbours.
    for i in (0, 25):
        found, alone = shells(large)[6 * i : 6 * i + 6], shells(small)[i]
        assert np.abs(found - alone).max() < 1e-12


def test_displacements_follow_the_normal_distribution(bilayer_file: Path) -> None:
    structure = make_supercell(read_structure(bilayer_file), np.diag([6, 6, 1]))
    deviation_bohr = 0.05 / ANGSTROM_PER_BOHR
    moved = displace_atoms(structure, deviation_bohr, 1)
    displacement = (moved.pos_ic - structure.pos_ic) * ANGSTROM_PER_BOHR
    # 4536 numbers: the deviation is known to 1 %, the kurtosis 3 to 0.07, the means to 0.0013.
    assert displacement.std() == pytest.approx(0.05, rel=0.03)
    assert np.mean((displacement / displacement.std()) ** 4) == pytest.approx(3, abs=0.22)
    assert np.abs(displacement.mean(axis=0)).max() < 0.004
    assert np.abs(np.corrcoef(displacement.T) - np.eye(3)).max() < 0.08
    assert (displace_atoms(structure, deviation_bohr, 1).pos_ic == moved.pos_ic).all()
    assert np.abs(displace_atoms(structure, deviation_bohr, 2).pos_ic - moved.pos_ic).max() > 0.1
    for wrong, seed, message in (
        (0.0, 1, "amplitude"),
        (np.nan, 1, "amplitude"),
        (0.1, -1, "seed"),
        (3.0, 1, r"bring atoms too close \(Atoms .*; give a smaller amplitude"),
    ):
        with pytest.raises(InputError, match=message):
            displace_atoms(structure, wrong, seed)


def run(*arguments: str | Path) -> int:
    return main(["structure", *(str(x) for x in arguments)])


def test_commands(
    tmp_path: Path,
    bilayer_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    lengths = ("--lattice", "3.17", "--distance", "6.17")
    assert run("twist", "mos2", "WS2", "1", "2", *lengths) == 0
    printed = capsys.readouterr().out
    for told in ("21.7868 degrees counter", "-0.314% in MoS2", "-0.627% in WS2", "atoms     42 "):
        assert told in printed
    assert "wrote     twisted-mos2-WS2-1-2.cif" in printed
    assert (
        deviation(
            read_structure("twisted-mos2-WS2-1-2.cif"), read_structure(bilayer_file), HALF_TURN
        )
        < 1e-9
    )
    assert run("twist", "mos2", "WS2", "1", "2") == 2
    assert "twisted-mos2-WS2-1-2.cif exists" in capsys.readouterr().err
    assert run("twist", "mos2", "WS2", "1", "2", "--overwrite") == 0
    assert run("twist", "graphene", "graphene", "1", "4", "--shift", "1/3", "0.5") == 0
    assert "a third of this cell: 2 1 --stacking H" in capsys.readouterr().out
    assert run("twist", "MoS2", "WSe2", "1", "2", "--allow-strain", "-o", "POSCAR") == 0
    assert read_structure("POSCAR").elements == ("Mo", "S", "Se", "W")
    assert run("supercell", "POSCAR", "2", "1", "1") == 0
    assert read_structure("POSCAR-2x1x1").natoms == 84
    assert run("supercell", bilayer_file, *TURNED, "-o", "new.vasp") == 0
    assert read_structure("new.vasp").natoms == 84
    capsys.readouterr()
    assert run("rattle", bilayer_file, "--amplitude", "0.05", "--seed", "7") == 0
    printed = capsys.readouterr().out
    assert "seed 7" in printed
    assert "wrote     twisted-mos2-ws2-42-rattled-7.cif" in printed
    expected = displace_atoms(read_structure(bilayer_file), 0.05 / ANGSTROM_PER_BOHR, 7)
    assert deviation(read_structure("twisted-mos2-ws2-42-rattled-7.cif"), expected) < 1e-9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("supercell", "{file}", "2", "2"), "2 were given"),
        (("supercell", "{file}", "2", "2", "0"), "three positive integers"),
        (("supercell", "{file}", *"010100001"), "has the determinant -1"),
        (("supercell", "{file}", *"110110001"), "has the determinant 0"),
        (("supercell", "{file}", "1000", "1000", "1000"), "at most 10000000 atoms"),
        (("supercell", "{file}", "1", "1", "1", "-o", "new.xsf"), "tells no format"),
        (("supercell", "{file}", "1", "1", "1", "-o", "none/new.cif"), "no folder none"),
        (("supercell", "nothing.cif", "1", "1", "1"), "no file nothing.cif"),
        (("rattle", "{file}", "--amplitude", "-1"), "amplitude of displacements is -1"),
    ],
)
def test_commands_refuse(
    tmp_path: Path,
    bilayer_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*(x.format(file=bilayer_file) for x in arguments)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())
