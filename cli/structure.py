"""`hamgnn-tools structure`: make twisted bilayers, supercells and displaced atoms."""

from __future__ import annotations

import argparse
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hamgnn_solve.core.building.twisted_bilayer import TwistedBilayer
    from hamgnn_solve.core.structure import Structure

__all__ = ["add_structure"]

EXIT_CODES = """\
exit codes: 0 done, 2 the input cannot be used (one sentence says why), 1 anything else"""

TWIST_EXAMPLES = """\
  hamgnn-tools structure twist MoS2 WS2 9 10
  hamgnn-tools structure twist graphene graphene 1 2 --shift 2/3 1/3 -o tbg.vasp
  hamgnn-tools structure twist MoS2 janus.cif 2 3 --distance 6.3 --stacking H"""

SUPERCELL_EXAMPLES = """\
  hamgnn-tools structure supercell mos2.cif 3 3 1
  hamgnn-tools structure supercell mos2.cif 1 0 0 1 2 0 0 0 1 -o rectangular.cif"""

RATTLE_EXAMPLES = """\
  hamgnn-tools structure rattle mos2.cif --amplitude 0.05 --seed 1"""

TWIST_DESCRIPTION = """\
Stack two hexagonal layers, twisted by an angle at which both share a cell.

The lattice vector (m, n) of the lower layer is (n, m) of the upper one, both counted in lattice
vectors at 60 degrees: m^2 + mn + n^2 cells of each layer, and
cos(angle) = (m^2 + 4mn + n^2) / 2(m^2 + mn + n^2). The upper layer is turned counter-clockwise for
m < n, clockwise for m > n, about an axis through the first atom of each layer: the metal in
dichalcogenides. Atoms are not relaxed, and strained layers keep their thickness."""


def add_structure(subjects: Any) -> None:
    """Add the parser of the command to the subparsers of `hamgnn-tools`."""
    parser = _parser(
        subjects,
        "structure",
        "make a twisted bilayer, a supercell, displaced atoms",
        "Make a twisted bilayer, a supercell, or displace atoms at random.",
        "\n".join((TWIST_EXAMPLES, SUPERCELL_EXAMPLES, RATTLE_EXAMPLES)),
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    _add_twist(actions)
    _add_supercell(actions)
    _add_rattle(actions)


def _parser(
    actions: Any, name: str, summary: str, description: str, examples: str
) -> argparse.ArgumentParser:
    result: argparse.ArgumentParser = actions.add_parser(
        name=name,
        help=summary,
        description=description,
        epilog=f"examples:\n{examples}\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return result


def _add_output(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        "-o",
        "--out",
        metavar="FILE",
        type=Path,
        help=f"file to write, .cif, or .vasp or *POSCAR* for a POSCAR (default: {default})",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")


def _add_twist(actions: Any) -> None:
    parser = _parser(
        actions,
        "twist",
        "stack two hexagonal layers with a twist",
        TWIST_DESCRIPTION,
        TWIST_EXAMPLES,
    )
    for place in ("lower", "upper"):
        parser.add_argument(
            place,
            metavar=place.upper(),
            help=f"{place} layer: MoS2, WS2, MoSe2, WSe2, graphene, hBN, or a structure file of "
            "one hexagonal layer",
        )
    parser.add_argument("m", metavar="M", type=int, help="first index of the twist")
    parser.add_argument("n", metavar="N", type=int, help="second index of the twist")
    parser.add_argument(
        "--distance",
        metavar="ANGSTROM",
        type=float,
        help="between the mid-planes of the layers, the metal planes in dichalcogenides (default: "
        "mean of both layers' spacings in their bulk crystals; required for layers from files)",
    )
    parser.add_argument(
        "--lattice",
        metavar="ANGSTROM",
        type=float,
        help="common lattice constant of both layers (default: the mean of their own)",
    )
    parser.add_argument(
        "--stacking",
        choices=("R", "H"),
        default="R",
        help="H: the upper layer turned by another 180 degrees (default: %(default)s)",
    )
    parser.add_argument(
        "--shift",
        metavar=("X", "Y"),
        nargs=2,
        type=_fraction,
        default=(0.0, 0.0),
        help="shift of the upper layer in units of its own lattice vectors at 120 degrees, decimal "
        "or as 1/3 (default: 0 0)",
    )
    parser.add_argument(
        "--vacuum",
        metavar="ANGSTROM",
        type=float,
        default=10.0,
        help="empty height below and above the bilayer, each (default: %(default)s)",
    )
    parser.add_argument(
        "--allow-strain", action="store_true", help="strain a layer by more than 2 %%"
    )
    _add_output(parser, "twisted-LOWER-UPPER-M-N.cif")
    parser.set_defaults(action=_twist)


def _add_supercell(actions: Any) -> None:
    parser = _parser(
        actions,
        "supercell",
        "repeat a cell",
        "Write the same crystal in a larger cell: all copies of the first atom, then of the\n"
        "second, and so on.",
        SUPERCELL_EXAMPLES,
    )
    parser.add_argument("structure", metavar="FILE", help="CIF, POSCAR, XSF, CSSR, pymatgen JSON")
    parser.add_argument(
        "repeat",
        metavar="N",
        nargs="+",
        type=int,
        help="three numbers of repetitions, or nine: the new lattice vectors, one after the other, "
        "in units of the old ones",
    )
    _add_output(parser, "<name of FILE>-N1xN2xN3 or <name of FILE>-supercell")
    parser.set_defaults(action=_supercell)


def _add_rattle(actions: Any) -> None:
    parser = _parser(
        actions,
        "rattle",
        "displace atoms at random",
        "Displace every atom at random, each Cartesian component by a normal distribution.",
        RATTLE_EXAMPLES,
    )
    parser.add_argument("structure", metavar="FILE", help="CIF, POSCAR, XSF, CSSR, pymatgen JSON")
    parser.add_argument(
        "--amplitude",
        metavar="ANGSTROM",
        type=float,
        required=True,
        help="standard deviation of each component",
    )
    parser.add_argument(
        "--seed",
        metavar="N",
        type=int,
        default=0,
        help="the same seed gives the same displacements (default: %(default)s)",
    )
    _add_output(parser, "<name of FILE>-rattled-SEED")
    parser.set_defaults(action=_rattle)


def _fraction(text: str) -> float:
    """Return the number of a text such as 0.25 or 1/3."""
    try:
        return float(Fraction(text))
    except ZeroDivisionError as error:
        raise ValueError(text) from error


def _twist(parsed: argparse.Namespace) -> None:
    from hamgnn_solve.core.building.hexagonal_layers import find_layer
    from hamgnn_solve.core.building.twisted_bilayer import (
        STRAIN_LIMIT,
        CommensurateTwist,
        TwistedBilayer,
        build_twisted_bilayer,
        mean_lattice,
        usual_distance,
    )
    from hamgnn_solve.core.io.structure import check_new_file
    from hamgnn_solve.core.units import ANGSTROM_PER_BOHR

    out = parsed.out or _twist_file(parsed)
    check_new_file(out, parsed.overwrite)
    lower, upper = find_layer(parsed.lower), find_layer(parsed.upper)
    bilayer = TwistedBilayer(
        lower,
        upper,
        CommensurateTwist(parsed.m, parsed.n),
        mean_lattice(lower, upper)
        if parsed.lattice is None
        else parsed.lattice / ANGSTROM_PER_BOHR,
        usual_distance(lower, upper)
        if parsed.distance is None
        else parsed.distance / ANGSTROM_PER_BOHR,
        parsed.stacking,
        tuple(parsed.shift),
        parsed.vacuum / ANGSTROM_PER_BOHR,
        float("inf") if parsed.allow_strain else STRAIN_LIMIT,
    )
    structure = build_twisted_bilayer(bilayer)
    _finish(parsed, out, structure, _twist_rows(bilayer))


def _twist_file(parsed: argparse.Namespace) -> Path:
    layers = [Path(name).stem for name in (parsed.lower, parsed.upper)]
    turned = ["H"] if parsed.stacking == "H" else []
    return Path("-".join(["twisted", *layers, str(parsed.m), str(parsed.n), *turned]) + ".cif")


def _twist_rows(bilayer: TwistedBilayer) -> dict[str, str]:
    from math import degrees

    from hamgnn_solve.core.units import ANGSTROM_PER_BOHR

    twist = bilayer.twist
    sense = "counter-clockwise" if twist.angle > 0 else "clockwise"
    rows = {
        "layers": f"{bilayer.lower.name} below, {bilayer.upper.name} above, stacking "
        f"{bilayer.stacking}",
        "twist": f"{twist.m} {twist.n}: upper layer turned by {abs(degrees(twist.angle)):.4f} "
        f"degrees {sense}",
        "lattice": f"{bilayer.lattice * ANGSTROM_PER_BOHR:.4f} Angstrom, {twist.cells} cells of "
        "each layer",
        "strain": f"{bilayer.lower_strain:+.3%} in {bilayer.lower.name} (below), "
        f"{bilayer.upper_strain:+.3%} in {bilayer.upper.name} (above)",
        "distance": f"{bilayer.distance * ANGSTROM_PER_BOHR:.4f} Angstrom between the mid-planes",
    }
    if twist.smaller is not None:
        other = "R" if bilayer.stacking == "H" else "H"
        rows["smaller"] = (
            f"layers with a threefold axis need a third of this cell: {twist.smaller.m} "
            f"{twist.smaller.n} --stacking {other}"
        )
    return rows


def _supercell(parsed: argparse.Namespace) -> None:
    import numpy as np

    from hamgnn_solve.core.building.supercell import make_supercell
    from hamgnn_solve.core.errors import InputError
    from hamgnn_solve.core.io.structure import check_new_file, read_structure

    numbers = parsed.repeat
    if len(numbers) not in (3, 9):
        raise InputError(
            f"A supercell takes three numbers of repetitions or the nine of three lattice vectors; "
            f"{len(numbers)} were given."
        )
    if len(numbers) == 3 and min(numbers) < 1:
        raise InputError(f"The repetitions are {numbers}; give three positive integers.")
    repeat_cc = np.diag(numbers) if len(numbers) == 3 else np.reshape(numbers, (3, 3))
    ending = "x".join(map(str, numbers)) if len(numbers) == 3 else "supercell"
    out = parsed.out or _derived_file(parsed.structure, ending)
    check_new_file(out, parsed.overwrite)
    structure = make_supercell(read_structure(parsed.structure), repeat_cc)
    vectors = ", ".join(" ".join(map(str, row)) for row in repeat_cc.tolist())
    _finish(parsed, out, structure, {"vectors": f"{vectors} in units of {parsed.structure}"})


def _rattle(parsed: argparse.Namespace) -> None:
    from hamgnn_solve.core.building.displacements import displace_atoms
    from hamgnn_solve.core.io.structure import check_new_file, read_structure
    from hamgnn_solve.core.units import ANGSTROM_PER_BOHR

    out = parsed.out or _derived_file(parsed.structure, f"rattled-{parsed.seed}")
    check_new_file(out, parsed.overwrite)
    structure = displace_atoms(
        read_structure(parsed.structure), parsed.amplitude / ANGSTROM_PER_BOHR, parsed.seed
    )
    told = f"standard deviation {parsed.amplitude:g} Angstrom along each axis, seed {parsed.seed}"
    _finish(parsed, out, structure, {"rattled": told})


def _derived_file(source: str, ending: str) -> Path:
    """Return the name of a file made from another one: the same format, or CIF."""
    path = Path(source)
    if "." not in path.name and ("POSCAR" in path.name or "CONTCAR" in path.name):
        return Path(f"{path.name}-{ending}")
    return Path(f"{path.stem}-{ending}{'.vasp' if path.suffix == '.vasp' else '.cif'}")


def _finish(
    parsed: argparse.Namespace, out: Path, structure: Structure, rows: dict[str, str]
) -> None:
    """Write the structure and print what was made."""
    import numpy as np

    from hamgnn_solve.core.io.structure import write_structure
    from hamgnn_solve.core.units import ANGSTROM_PER_BOHR

    write_structure(out, structure, parsed.overwrite)
    lengths = np.linalg.norm(structure.cell_cc, axis=1) * ANGSTROM_PER_BOHR
    counts = " ".join(f"{x} {structure.symbols.count(x)}" for x in structure.elements)
    rows = rows | {
        "atoms": f"{structure.natoms} ({counts})",
        "cell": " x ".join(f"{length:.4f}" for length in lengths) + " Angstrom",
        "wrote": str(out),
    }
    print("\n".join(f"{key:<10}{value}" for key, value in rows.items()))
