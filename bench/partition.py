"""Load imbalance and communication volume of the solver's partition, without mpirun.

python bench/partition.py FILE --cutoffs openmx [--domains 2,4,8,16,32,64]
python bench/partition.py FILE --cutoffs tmd
python bench/partition.py FILE --radii C=6.0,H=6.0,O=6.0,Zn=6.0
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hamgnn_solve.core.basis.openmx_table import published_species
from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.io.structure import read_structure
from hamgnn_solve.core.model_selection import find_model
from hamgnn_solve.core.pairs import PairList, find_pairs
from hamgnn_solve.core.structure import Structure
from hamgnn_solve.parallel.partition import partition_atoms

UNIVERSAL_WIDTH = 3152  # components of a node's features in the published universal network
UNIVERSAL_ORBITALS = 26  # size of its block table
MEGABYTES_A_GHOST = UNIVERSAL_WIDTH * np.dtype(np.float32).itemsize / 1e6

HEADER = """\
| domains | atoms, min / mean / max | pairs, max / mean | ghosts per atom, mean / max \
| MB received by a rank, mean / max | MB in all | pairs across, % | neighbours, max |
|---|---|---|---|---|---|---|---|"""


@dataclass(frozen=True)
class Traffic:
    """What each domain owns, computes and receives in one layer.

    Parameters
    ----------
    owned_d, pairs_d : ndarray of int64, shape (D,)
        Atoms of each domain, and pairs whose first atom it owns.
    across_d : ndarray of int64, shape (D,)
        Those of its pairs whose second atom another domain owns. Their blocks are computed twice.
    ghosts_d : ndarray of int64, shape (D,)
        Atoms it must receive.
    neighbours_d : ndarray of int64, shape (D,)
        Domains it receives them from.
    """

    owned_d: NDArray[np.int64]
    pairs_d: NDArray[np.int64]
    across_d: NDArray[np.int64]
    ghosts_d: NDArray[np.int64]
    neighbours_d: NDArray[np.int64]

    def __post_init__(self) -> None:
        lengths = {
            len(column)
            for column in (
                self.owned_d,
                self.pairs_d,
                self.across_d,
                self.ghosts_d,
                self.neighbours_d,
            )
        }
        if len(lengths) != 1:
            raise ValueError(f"columns of different numbers of domains: {sorted(lengths)}")

    def row(self) -> str:
        """Return the line of the table."""
        ghosts_per_atom_d = self.ghosts_d / self.owned_d
        megabytes_d = MEGABYTES_A_GHOST * self.ghosts_d
        return (
            f"| {len(self.owned_d)} "
            f"| {self.owned_d.min()} / {self.owned_d.mean():.1f} / {self.owned_d.max()} "
            f"| {self.pairs_d.max() / self.pairs_d.mean():.3f} "
            f"| {self.ghosts_d.sum() / self.owned_d.sum():.2f} / {ghosts_per_atom_d.max():.2f} "
            f"| {megabytes_d.mean():.2f} / {megabytes_d.max():.2f} "
            f"| {megabytes_d.sum():.0f} "
            f"| {100 * self.across_d.sum() / self.pairs_d.sum():.0f} "
            f"| {self.neighbours_d.max()} |"
        )


def traffic(pairs: PairList, owner_i: NDArray[np.int64], ndomains: int) -> Traffic:
    """Count what the domains of a partition own, compute and receive.

    Parameters
    ----------
    pairs : PairList
        All pairs of the structure within orbital range.
    owner_i : ndarray of int64, shape (N,)
        Domain of each atom, from `partition_atoms`.
    ndomains : int
        Number of domains.
    """
    natoms = len(owner_i)
    first_domain_p, second_domain_p = owner_i[pairs.first_p], owner_i[pairs.second_p]
    across = first_domain_p != second_domain_p
    # A ghost is fetched once, however many pairs of the domain end on it.
    fetched = np.unique(first_domain_p[across] * natoms + pairs.second_p[across])
    receiver, ghost = np.divmod(fetched, natoms)
    links = np.unique(receiver * ndomains + owner_i[ghost])
    return Traffic(
        owned_d=np.bincount(owner_i, minlength=ndomains),
        pairs_d=np.bincount(first_domain_p, minlength=ndomains),
        across_d=np.bincount(first_domain_p[across], minlength=ndomains),
        ghosts_d=np.bincount(receiver, minlength=ndomains),
        neighbours_d=np.bincount(links // ndomains, minlength=ndomains),
    )


def orbital_reach(options: argparse.Namespace, structure: Structure) -> NDArray[np.float64]:
    """Return the orbital cutoff of each atom in Bohr, shape (N,).

    Raises
    ------
    InputError
        When an element has no cutoff, or `--radii` is not of the form C=6.0,H=6.0.
    """
    if options.radii is not None:
        cutoffs = _radii(options.radii)
    elif options.cutoffs == "openmx":
        cutoffs = {s: x.cutoff for s, x in published_species(UNIVERSAL_ORBITALS).items()}
    else:
        cutoffs = {s: x.cutoff for s, x in find_model(options.cutoffs).basis.species.items()}
    missing = [symbol for symbol in structure.elements if symbol not in cutoffs]
    if missing:
        raise InputError(
            f"No orbital cutoff is known for {', '.join(missing)}; give all of them by --radii "
            f"{missing[0]}=6.0,... (Bohr)."
        )
    return np.array([cutoffs[symbol] for symbol in structure.symbols])


def _radii(text: str) -> dict[str, float]:
    try:
        return {
            symbol.strip(): float(radius)
            for symbol, radius in (entry.split("=") for entry in text.split(","))
        }
    except ValueError:
        raise InputError(f"--radii {text} cannot be read; write C=6.0,H=6.0 (Bohr).") from None


def _numbers_of_domains(text: str) -> list[int]:
    numbers = text.split(",")
    if not all(number.isdecimal() and int(number) > 0 for number in numbers):
        raise argparse.ArgumentTypeError(f"{text} is not a list like 2,4,8")
    return [int(number) for number in numbers]


def main() -> None:
    """Print one line for each number of domains."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("structure", metavar="FILE")
    reach = parser.add_mutually_exclusive_group(required=True)
    reach.add_argument("--cutoffs", metavar="NAME", help="openmx, or a model's name (tmd)")
    reach.add_argument("--radii", metavar="C=6.0,...", help="orbital cutoffs in Bohr")
    parser.add_argument(
        "--domains",
        type=_numbers_of_domains,
        default=[2, 4, 8, 16, 32, 64],
        metavar="N,...",
    )
    options = parser.parse_args()
    try:
        structure = read_structure(options.structure)
        reach_i = orbital_reach(options, structure)
        pairs = find_pairs(structure, reach_i)
        print(f"{structure.natoms} atoms, {len(pairs)} directed pairs\n\n{HEADER}")
        for ndomains in options.domains:
            owner_i = partition_atoms(structure, reach_i, MPI.COMM_SELF, ndomains)
            print(traffic(pairs, owner_i, ndomains).row(), flush=True)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
