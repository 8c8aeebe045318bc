"""`hamgnn-tools label`: Hamiltonians that a network is trained on, from GPAW."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

__all__ = ["add_label"]

DESCRIPTION = """\
Label structures with GPAW (LCAO mode, PBE, the built-in orbitals): one HDF5 file of H(R) and S(R).

SOURCE is a recipe (YAML: stackings, strains, rattles, molecules, frameworks, files) or a structure
file (CIF, POSCAR, extxyz with many frames, ...). A label is kept when it converged, its blocks give
GPAW's eigenvalues and its overlap is ours. Structures that are in the file are not done again, so a
run that was stopped goes on; what failed is listed with its reason in OUT.failed.csv."""

EPILOG = """\
examples:
  hamgnn-tools label training/recipes/tmd.yaml -o tmd.h5 --jobs 2
  hamgnn-tools label relaxed/*.cif -o mine.h5 --kind crystal
  hamgnn-tools label trajectory.extxyz -o md.h5 --kpoint-length 12

exit codes: 0 all labelled, 1 some failed, 2 the input cannot be used (one sentence says why)"""

# Options that stand for values of LabelSettings; a recipe may set them too.
SETTINGS = {
    "grid_spacing": "distance of grid points along periodic axes in Angstrom (default: 0.1585)",
    "open_spacing": "distance of grid points along open axes in Angstrom (default: 0.15)",
    "kpoint_length": "k-points along an axis times its length in Angstrom (default: 19.02)",
    "fermi_width": "width of the Fermi-Dirac occupations in eV (default: 0.05)",
    "least_gap": "refuse structures with a smaller gap in eV (default: none are)",
}


def add_label(subjects: Any) -> None:
    """Add the parser of the command to the subparsers of `hamgnn-tools`."""
    parser: argparse.ArgumentParser = subjects.add_parser(
        name="label",
        help="label structures with GPAW",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("sources", metavar="SOURCE", nargs="+", help="recipe or structure file")
    parser.add_argument(
        "-o", "--out", metavar="FILE.h5", required=True, help="label file to make or to add to"
    )
    parser.add_argument("--csv", metavar="FILE", help="table that gets one row a label")
    parser.add_argument(
        "--jobs", metavar="N", type=int, default=1, help="structures at a time, a core each"
    )
    parser.add_argument("--only", metavar="NAME", nargs="+", help="label these structures alone")
    parser.add_argument(
        "--kind",
        choices=("slab", "molecule", "crystal"),
        help="what structure files hold (default: as their periodic axes say)",
    )
    parser.add_argument(
        "--vacuum",
        metavar="ANGSTROM",
        type=float,
        help="vacuum around slabs and molecules of structure files (default: 5.5)",
    )
    for name, text in SETTINGS.items():
        option = "--" + name.replace("_", "-")
        parser.add_argument(option, metavar="X", type=float, default=None, help=text)
    parser.add_argument("--retry", action="store_true", help="try again what failed before")
    parser.set_defaults(action=_label)


def _label(parsed: argparse.Namespace) -> int:
    from hamgnn_solve.core.errors import InputError
    from hamgnn_solve.training.labels import label_all, read_settings
    from hamgnn_solve.training.recipe import read_structures

    if parsed.jobs < 1:
        raise InputError(f"--jobs {parsed.jobs} must be at least 1.")
    paths = [Path(source) for source in parsed.sources]
    given = {name: value for name in SETTINGS if (value := getattr(parsed, name)) is not None}
    settings = read_settings(paths, given)
    structures = read_structures(paths, parsed.kind, parsed.vacuum)
    if parsed.only is not None:
        unknown = set(parsed.only) - {one.name for one in structures}
        if unknown:
            raise InputError(f"There is no structure {min(unknown)} to label; check the name.")
        structures = [one for one in structures if one.name in parsed.only]
    table = None if parsed.csv is None else Path(parsed.csv)
    out = Path(parsed.out)
    added, failed = label_all(structures, out, settings, table, parsed.jobs, parsed.retry)
    print(f"{added} labels added to {out}, {failed} failed")
    return 1 if failed else 0
