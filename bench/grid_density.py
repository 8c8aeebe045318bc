"""Cost of a density on a grid, beside GPAW's for the same density matrix, on one core.

python bench/grid_density.py FILE [--spacing 0.2] [--setups Mo=6 W=6]

FILE is a crystal whose elements GPAW's dzp data cover. Both programs add up the smooth density of
one random symmetric density matrix at Gamma on the same grid; their largest difference is printed.
"""

from __future__ import annotations

import argparse
import time

import ase.io
import numpy as np
from gpaw.new.ase_interface import GPAW

from hamgnn_solve.core.basis.gpaw_data import built_in_basis
from hamgnn_solve.core.integrals.overlap import overlap
from hamgnn_solve.core.operator import BlockOperator
from hamgnn_solve.core.real_space.grid import Grid
from hamgnn_solve.core.real_space.orbital_grid import OrbitalGrid
from hamgnn_solve.core.structure import Structure
from hamgnn_solve.core.units import ANGSTROM_PER_BOHR


def main() -> None:
    """Time both programs; print seconds, microseconds a point and how far they agree."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file")
    parser.add_argument("--spacing", type=float, default=0.2, help="Angstrom")
    parser.add_argument("--setups", nargs="*", default=["Mo=6", "W=6"])
    options = parser.parse_args()
    atoms = ase.io.read(options.file)
    atoms.pbc = True
    setups = dict(entry.split("=") for entry in options.setups)
    setups = {k: v for k, v in setups.items() if k in atoms.get_chemical_symbols()}
    grid = Grid.of_spacing(np.array(atoms.cell) / ANGSTROM_PER_BOHR, options.spacing / 0.529177)
    # GPAW asks for multiples of four.
    shape = tuple(4 * -(-n // 4) for n in grid.shape)
    calculator = GPAW(
        mode={"name": "lcao", "force_complex_dtype": True},
        basis="dzp",
        setups=setups,
        gpts=shape,
        kpts=(1, 1, 1),
        symmetry="off",
        txt=None,
    )
    calculator.create_new_calculation(atoms)
    dft = calculator.dft
    functions = next(iter(dft.ibzwfs)).basis
    cell_cc = dft.density.nt_sR.desc.cell_cv.copy()
    structure = Structure(tuple(atoms.get_chemical_symbols()), dft.relpos_ac @ cell_cc, cell_cc)
    names = {s: f"{s}.{setups[s]}" if s in setups else s for s in structure.elements}
    basis = built_in_basis(names)
    norb_i = basis.norb_i(structure)
    random = np.random.default_rng(1).normal(size=(int(norb_i.sum()),) * 2)
    matrix = random @ random.T / len(random)

    theirs = np.zeros(shape)
    started = time.process_time()
    functions.construct_density(matrix.astype(complex), theirs, 0)
    their_seconds = time.process_time() - started

    pairs = overlap(structure, basis, np.arange(structure.natoms)).pairs
    density_matrix = BlockOperator.zeros(pairs, norb_i)
    start_i = np.cumsum(norb_i) - norb_i
    for p, (i, j) in enumerate(zip(pairs.first_p, pairs.second_p, strict=True)):
        rows, columns = (slice(start_i[x], start_i[x] + norb_i[x]) for x in (i, j))
        density_matrix.block(p)[:] = matrix[rows, columns]
    started = time.process_time()
    on_grid = OrbitalGrid(structure, basis, Grid(cell_cc, shape), np.arange(structure.natoms))
    tiles = on_grid.density(density_matrix)
    ours = np.zeros((1, *shape))
    tiles.add_to(ours, 0)
    our_seconds = time.process_time() - started

    npoints = np.prod(shape)
    print(f"{structure.natoms} atoms, {norb_i.sum()} orbitals, {npoints} points {shape}")
    for name, seconds in (("GPAW", their_seconds), ("ours", our_seconds)):
        print(f"{name}: {seconds:.2f} CPU s, {1e6 * seconds / npoints:.3f} us a point")
    difference = np.abs(ours[0] - theirs).max() / np.abs(theirs).max()
    print(
        f"ratio {their_seconds / our_seconds:.1f}, largest difference {difference:.1e} of largest"
    )


if __name__ == "__main__":
    main()
