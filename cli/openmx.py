"""`hamgnn-tools openmx`: inputs for OpenMX, and labels from its finished runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

__all__ = ["add_openmx"]

EXIT_CODES = """\
exit codes: 0 done, 2 the input cannot be used (one sentence says why), 1 anything else"""

WRITE_DESCRIPTION = """\
Write an input of OpenMX for each structure: OUT/NAME/NAME.dat, without spin, with PBE and with
the orbitals and pseudopotentials of HamGNN's table. Run them with OpenMX 3.9, each in its folder
(openmx NAME.dat), then collect."""

WRITE_EPILOG = f"""\
examples:
  hamgnn-tools openmx write mos2.cif ws2/POSCAR -o runs --dft-data DFT_DATA19
  hamgnn-tools openmx write frames.extxyz -o runs --kspacing 0.2 --energy-cutoff 400

{EXIT_CODES}"""

COLLECT_DESCRIPTION = """\
Turn the .scfout files of finished OpenMX runs into labels. H0 is computed from the PAO and VPS
files. A run is refused when S differs from that of these files by more than 1e-6, when it did not
converge, when its H does not give the eigenvalues in NAME.out, when it has spin or holds H0. The
others are written all the same; what the label file holds already is not done again."""

COLLECT_EPILOG = """\
examples:
  hamgnn-tools openmx collect runs -o labels.h5 --dft-data DFT_DATA19

exit codes: 0 done, 2 a file gave no label or the input cannot be used (a sentence says why),
1 anything else"""


def add_openmx(subjects: Any) -> None:
    """Add the parser of the command to the subparsers of `hamgnn-tools`."""
    parser = _parser(
        subjects,
        name="openmx",
        help="inputs for OpenMX, labels from its runs",
        description="Write inputs for OpenMX, and collect labels from finished runs.",
        epilog=EXIT_CODES,
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    _add_write(actions)
    _add_collect(actions)


def _parser(actions: Any, **settings: Any) -> argparse.ArgumentParser:
    result: argparse.ArgumentParser = actions.add_parser(
        formatter_class=argparse.RawDescriptionHelpFormatter, **settings
    )
    return result


def _add_write(actions: Any) -> None:
    parser = _parser(
        actions,
        name="write",
        help="write inputs for a list of structures",
        description=WRITE_DESCRIPTION,
        epilog=WRITE_EPILOG,
    )
    parser.add_argument(
        "structures",
        metavar="FILE",
        nargs="+",
        help="CIF, POSCAR, XSF, CSSR, pymatgen JSON, or extended XYZ with any number of frames",
    )
    parser.add_argument("-o", "--out", metavar="DIR", required=True, help="folder of the inputs")
    parser.add_argument(
        "--dft-data",
        metavar="DIR",
        help="OpenMX's DFT_DATA19 folder: checked, and named in the inputs "
        "(default: $OPENMX_DFT_DATA, else OpenMX finds its own)",
    )
    parser.add_argument(
        "--table",
        type=int,
        choices=(14, 19, 26),
        default=26,
        help="orbitals of HamGNN's block table (nao_max); it decides the shells of an element "
        "(default: %(default)s)",
    )
    for name, kind, default, what in (
        ("energy-cutoff", float, 300.0, "cutoff of the real-space grid in Ry"),
        ("kspacing", float, 0.3, "largest distance of k-points in 1/Angstrom, 2 pi included"),
        ("temperature", float, 300.0, "electronic temperature in K"),
        ("criterion", float, 1e-7, "largest change of the band energy in Hartree"),
        ("max-steps", int, 300, "steps of the self-consistency"),
    ):
        parser.add_argument(
            f"--{name}", type=kind, default=default, help=f"{what} (default: %(default)s)"
        )
    parser.add_argument("--overwrite", action="store_true", help="replace other inputs")
    parser.set_defaults(action=_write)


def _add_collect(actions: Any) -> None:
    parser = _parser(
        actions,
        name="collect",
        help="labels from finished runs",
        description=COLLECT_DESCRIPTION,
        epilog=COLLECT_EPILOG,
    )
    parser.add_argument("folder", metavar="DIR", help="searched for .scfout and .scfout.xz files")
    parser.add_argument(
        "-o", "--out", metavar="LABELS.h5", required=True, help="label file to append to"
    )
    parser.add_argument(
        "--dft-data",
        metavar="DIR",
        help="OpenMX's DFT_DATA19 folder that the runs used (default: $OPENMX_DFT_DATA)",
    )
    parser.set_defaults(action=_collect)


def _write(parsed: argparse.Namespace) -> None:
    from hamgnn_solve.cli.options import openmx_data_folder
    from hamgnn_solve.core.basis.openmx_table import published_species
    from hamgnn_solve.core.io.openmx_writer import OpenMXSettings, write_openmx_inputs

    paths = write_openmx_inputs(
        parsed.structures,
        Path(parsed.out),
        published_species(parsed.table),
        OpenMXSettings(
            parsed.energy_cutoff,
            parsed.kspacing,
            parsed.temperature,
            parsed.criterion,
            parsed.max_steps,
        ),
        openmx_data_folder(parsed.dft_data),
        overwrite=parsed.overwrite,
    )
    for path in paths:
        print(f"wrote {path}")


def _collect(parsed: argparse.Namespace) -> None:
    from hamgnn_solve.cli.options import openmx_data_folder
    from hamgnn_solve.core.errors import InputError
    from hamgnn_solve.training.openmx_labels import collect_labels

    dft_data = openmx_data_folder(parsed.dft_data)
    if dft_data is None:
        raise InputError(
            "H0 needs the orbitals and pseudopotentials of the runs; give the DFT_DATA19 folder as "
            "--dft-data or OPENMX_DFT_DATA."
        )
    result = collect_labels(Path(parsed.folder), dft_data, Path(parsed.out))
    print(
        f"{parsed.out}: {len(result.added)} labels added, {len(result.present)} were there, "
        f"{len(result.refused)} files refused"
    )
    if result.refused:
        raise InputError(
            f"{len(result.refused)} of the .scfout files gave no label; "
            f"{Path(parsed.out).with_suffix('.refused.txt')} says why."
        )
