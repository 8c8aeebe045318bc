"""Bands along a path from a few real k-points, beside direct solves at some of its points.

python bench/path.py FILE.h5 [--points N] [--bands N] [--error EV] [--gamma] [--direct PLACE ...]

FILE.h5 is what `hamgnn-solve --write-matrices` leaves. The path is M-Gamma-K of a hexagonal cell.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
from numpy.typing import NDArray

from hamgnn_solve.core.io.operator_file import read_operator_file
from hamgnn_solve.core.units import EV_PER_HARTREE
from hamgnn_solve.solver.bands import BandOptions, solve_bands
from hamgnn_solve.solver.eigenpairs import states_around
from hamgnn_solve.solver.reduced_bands import ReducedSpaceOptions
from solver import pencil_of

CORNERS = np.array([[0.5, 0.0, 0.0], [0.0, 0.0, 0.0], [1 / 3, 1 / 3, 0.0]])
# Length of M-Gamma over that of M-Gamma-K.
FIRST_PART = 0.464


def hexagonal_path(points: int) -> NDArray[np.float64]:
    """Return k-points along M-Gamma-K, Gamma once."""
    number = round(points * FIRST_PART)
    parts = (np.linspace(0, 1, number), np.linspace(0, 1, points - number + 1)[1:])
    return np.vstack(
        [a + t[:, None] * (b - a) for a, b, t in zip(CORNERS, CORNERS[1:], parts, strict=False)]
    )


def main() -> None:
    """Print CPU seconds, memory and errors."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file")
    parser.add_argument("--points", type=int, default=60)
    parser.add_argument("--bands", type=int, default=40)
    parser.add_argument("--error", type=float, default=1e-3)
    parser.add_argument("--gamma", action="store_true", help="time Gamma alone beside the path")
    parser.add_argument("--direct", type=int, nargs="*", default=[])
    options = parser.parse_args()
    given = read_operator_file(options.file)
    kpoints_kc = hexagonal_path(options.points)
    reduced = ReducedSpaceOptions(given.system, options.error / EV_PER_HARTREE)
    pencil, started = pencil_of(given), time.process_time()

    def announce(text: str) -> None:
        print(f"{time.process_time() - started:8.1f} CPU s  {text}", flush=True)

    band_options = BandOptions(
        largest_dense=0,
        reduced=reduced,
        announce=announce,
        store=lambda place, bands: announce(
            f"point {place}: error {1e3 * EV_PER_HARTREE * bands.error:.2g} meV"
        ),
    )
    electrons = given.system.electrons or 0.0
    gamma = np.inf
    if options.gamma:
        alone = pencil_of(given)
        solve_bands(
            alone,
            np.zeros((1, 3)),
            electrons,
            options.bands,
            options=BandOptions(largest_dense=0, announce=announce),
        )
        alone.free_factors()
        gamma = time.process_time() - started
        announce("Gamma alone")
        started = time.process_time()
    found = solve_bands(pencil, kpoints_kc, electrons, options.bands, options=band_options)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    announce(f"path of {len(kpoints_kc)} points, {peak:.0f} MB")
    if options.gamma:
        announce(f"{(time.process_time() - started) / gamma:.2f} times Gamma alone")
    side, filled = options.bands // 2, round(electrons / pencil.electrons_per_band)
    for place in options.direct:
        started = time.process_time()
        states = states_around(pencil, kpoints_kc[place], found.fermi_level, side, side)
        if states.band_index_n[side - 1] != filled:
            raise SystemExit(f"point {place}: the Fermi level does not lie in the gap")
        error_n = 1e3 * EV_PER_HARTREE * np.abs(states.energies_n - found.eigenvalues_kn[place])
        announce(
            f"point {place} solved directly: errors {np.median(error_n):.2g} meV, "
            f"largest {error_n.max():.2g}"
        )


if __name__ == "__main__":
    main()
