"""`hamgnn-tools convert`: H and S from one format to another."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hamgnn_solve.core.hamiltonian import CrystalHamiltonian

__all__ = ["add_convert"]

DESCRIPTION = """\
Write the H and S of a file in another format.

IN is what hamgnn-solve --hamiltonian takes: .scfout or .scfout.xz of OpenMX, .h5 of this command,
or a folder of DeepH. With --to petsc the matrices H(k) and S(k) are written at --kpoints."""

EPILOG = """\
examples:
  hamgnn-tools convert mos2.scfout mos2.h5 --to h5
  hamgnn-tools convert mos2.scfout mos2.h5 --to h5 --h0 overlap.scfout
  hamgnn-tools convert mos2.scfout mos2-deeph --to deeph
  hamgnn-tools convert mos2.scfout mos2-deepx --to deepx
  hamgnn-tools convert mos2.h5 matrices --to petsc --kpoints "0 0 0; 0.5 0 0"
  hamgnn-tools convert mos2.h5 mos2.TSHS --to tshs

exit codes: 0 done, 2 the input cannot be used (one sentence says why), 1 anything else"""


def add_convert(subjects: Any) -> None:
    """Add the parser of the command to the subparsers of `hamgnn-tools`."""
    parser: argparse.ArgumentParser = subjects.add_parser(
        name="convert",
        help="write H and S of a file in another format",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="IN", help="file or folder with H and S")
    parser.add_argument(
        "target", metavar="OUT", help="file (h5, tshs) or folder (deeph, deepx, petsc)"
    )
    parser.add_argument(
        "--to",
        choices=tuple(WRITERS),
        required=True,
        help="format of OUT (docs/formats.md describes each)",
    )
    parser.add_argument(
        "--kpoints",
        metavar='"X Y Z; ..."',
        default="0 0 0",
        help="k of the PETSc matrices, fractional (default: %(default)s)",
    )
    parser.add_argument(
        "--h0",
        metavar="SCFOUT",
        help="take H0 from this overlap.scfout; only h5 has a place for it",
    )
    parser.set_defaults(action=_convert)


def _convert(parsed: argparse.Namespace) -> None:
    from dataclasses import replace

    from hamgnn_solve.cli.given import read_hamiltonian
    from hamgnn_solve.core.errors import InputError
    from hamgnn_solve.core.hamiltonian import check_not_h0
    from hamgnn_solve.core.io.scfout import scfout_zero

    if parsed.h0 is not None and parsed.to != "h5":
        raise InputError(f"The format {parsed.to} has no place for H0; leave out --h0.")
    given = read_hamiltonian(parsed.source)
    if parsed.h0 is not None:
        given = replace(given, zero=scfout_zero(parsed.h0))
        check_not_h0(given, parsed.source)
    WRITERS[parsed.to](parsed, given)
    print(f"wrote {parsed.target}")


def _write_h5(parsed: argparse.Namespace, given: CrystalHamiltonian) -> None:
    from hamgnn_solve.core.io.operator_file import write_operator_file

    write_operator_file(parsed.target, given)


def _write_deeph(parsed: argparse.Namespace, given: CrystalHamiltonian) -> None:
    from hamgnn_solve.core.io.deeph import write_deeph

    write_deeph(parsed.target, given)


def _write_deepx(parsed: argparse.Namespace, given: CrystalHamiltonian) -> None:
    from hamgnn_solve.core.io.deepx import write_deepx

    write_deepx(parsed.target, given)


def _write_tshs(parsed: argparse.Namespace, given: CrystalHamiltonian) -> None:
    from hamgnn_solve.core.io.tshs import write_tshs

    write_tshs(parsed.target, given)


def _write_petsc(parsed: argparse.Namespace, given: CrystalHamiltonian) -> None:
    import numpy as np
    from mpi4py import MPI

    from hamgnn_solve.core.observables.band_path import listed_kpoints
    from hamgnn_solve.parallel.rows import OrbitalRows
    from hamgnn_solve.solver.binary import write_matrices
    from hamgnn_solve.solver.pencil import Pencil

    kpoints_kc = listed_kpoints(parsed.kpoints).kpoints_kc
    norb_i = given.hamiltonian.norb_i
    rows = OrbitalRows(np.zeros(len(norb_i), dtype=np.int64), norb_i)
    pencil = Pencil(
        given.hamiltonian,
        given.overlap_of_bands,
        rows,
        MPI.COMM_SELF,
        imaginary=given.imaginary,
        electrons_per_band=given.system.electrons_per_band,
    )
    write_matrices(Path(parsed.target), pencil, kpoints_kc)


WRITERS = {
    "h5": _write_h5,
    "deeph": _write_deeph,
    "deepx": _write_deepx,
    "tshs": _write_tshs,
    "petsc": _write_petsc,
}
