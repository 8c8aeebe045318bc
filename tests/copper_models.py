"""Copper from GPAW with orbitals that describe its Fermi surface."""

from __future__ import annotations

from pathlib import Path

import gpaw_data
import numpy as np

from hamgnn_solve.core.hamiltonian import CrystalHamiltonian, OrbitalSystem
from hamgnn_solve.core.operator import BlockOperator
from hamgnn_solve.core.pairs import PairList
from hamgnn_solve.core.structure import Structure

LATTICE_CONSTANT = 3.61  # Angstrom


def copper() -> CrystalHamiltonian:
    """Return H(R) and S(R) of fcc copper in two zetas of 4s, 4p and 3d each (PBE).

    In the dzp orbitals of gpaw-data the only p shell is a polarisation function: the state L2',
    of p kind, lies 0.05 eV below the Fermi level there, 1.03 eV in these, 1.02 eV in plane waves.
    """
    from ase.build import bulk
    from gpaw.atom.all_electron import ValenceData
    from gpaw.atom.basis import BasisMaker
    from gpaw.atom.basisfromfile import read_setupdata
    from gpaw.new.ase_interface import GPAW

    from hamgnn_solve.training.gpaw_blocks import cut_into_pairs, extract_blocks
    from hamgnn_solve.training.grid_sums import GridSums

    setup = read_setupdata(Path(gpaw_data.__file__).parent / "setups" / "Cu.PBE.gz")
    maker = BasisMaker(ValenceData.from_setupdata_onthefly_potentials(setup))
    basis = maker.generate(2, 0, energysplit=0.2, rcutmax=7.0, jvalues=[0, 1, 2], txt=None)
    calculator = GPAW(
        mode={"name": "lcao", "force_complex_dtype": True},
        basis={"Cu": basis},
        xc="PBE",
        gpts=(12, 12, 12),
        kpts={"size": (6, 6, 6), "gamma": True},
        nbands="nao",
        occupations={"name": "fermi-dirac", "width": 0.2},
        convergence={"density": 1e-4},
        txt=None,
    )
    calculator.create_new_calculation(bulk("Cu", "fcc", a=LATTICE_CONSTANT))
    dft = calculator.dft
    sums = GridSums(dft)
    sums.take_over()
    dft.converge()
    sums.give_back()
    cell_cc = dft.density.nt_sR.desc.cell_cv
    positions_ic = dft.relpos_ac @ cell_cc
    shift_xc, h_xmm, s_xmm = extract_blocks(dft, positions_ic)
    shells = tuple(function.l for function in basis.bf_j)
    norb_i = np.array([sum(2 * degree + 1 for degree in shells)])
    first_p, second_p, shift_pc, h_values, s_values = cut_into_pairs(shift_xc, h_xmm, s_xmm, norb_i)
    pairs = PairList(first_p, second_p, shift_pc, shift_pc @ cell_cc)
    system = OrbitalSystem(Structure(("Cu",), positions_ic, cell_cc), (shells,), 11.0)
    operators = [BlockOperator(pairs, norb_i, values) for values in (h_values, s_values)]
    return CrystalHamiltonian(system, *operators)
