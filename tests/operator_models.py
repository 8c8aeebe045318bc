"""Made-up labels of Hamiltonians that operators of atoms make, and small trainings on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from training_models import CONFIG, SPECIES, structure

from hamgnn_solve.core.atom_operators import atom_functions, operator_hamiltonian
from hamgnn_solve.core.basis.gpaw_data import built_in_basis, read_species
from hamgnn_solve.core.integrals.overlap import overlap
from hamgnn_solve.core.operator import BlockOperator, dense_matrix
from hamgnn_solve.core.pairs import PairList, find_pairs, join_pairs, onsite_pairs
from hamgnn_solve.core.structure import Structure
from hamgnn_solve.training.label_file import Label, write_label

WIDTHS = (0.6, 1.1)
NETWORK: dict[str, Any] = dict(CONFIG["network"])  # type: ignore[call-overload]
OPERATOR_CONFIG: dict[str, Any] = {
    **{k: v for k, v in CONFIG.items() if k != "orthonormal"},
    "orthonormal": False,
    "operator_widths": list(WIDTHS),
    "network": {
        **{
            k: v
            for k, v in NETWORK.items()
            if k not in ("envelope", "reference_radial", "reference_cutoff", "message_cutoff")
        },
        "cutoff": 8.0,
        "shells": [4, 4, 4],
        "onsite_only": True,
    },
}


def random_operators(one: Structure, seed: int = 2) -> dict[int, NDArray[np.float64]]:
    """Return an isotropic random operator of each element, for every atom."""
    random = np.random.default_rng(seed)
    by_symbol = {}
    for symbol in one.elements:
        degrees = np.array(atom_functions(read_species(SPECIES[symbol]), WIDTHS).shell_l)
        radial = random.normal(size=(len(degrees), len(degrees)))
        radial = np.where(degrees[:, None] == degrees, 0.3 * (radial + radial.T), 0.0)
        index = np.repeat(np.arange(len(degrees)), 2 * degrees + 1)
        order = np.concatenate([np.arange(-l, l + 1) for l in degrees])  # noqa: E741
        by_symbol[symbol] = np.where(order[:, None] == order, radial[np.ix_(index, index)], 0.0)
    return {i: by_symbol[symbol] for i, symbol in enumerate(one.symbols)}


def all_pairs(one: Structure) -> PairList:
    basis = built_in_basis(SPECIES)
    onsite = onsite_pairs(np.arange(one.natoms, dtype=np.int64))
    return join_pairs(one, onsite, find_pairs(one, basis.cutoff_i(one)))


def operator_label(bond: float) -> Label:
    """Return a label whose H is that of `random_operators`, with the basis's own S."""
    one, basis = structure(bond), built_in_basis(SPECIES)
    rows = np.arange(one.natoms)
    h = operator_hamiltonian(one, basis, WIDTHS, all_pairs(one), random_operators(one), rows)
    s = overlap(one, basis, rows)
    pairs = join_pairs(one, h.pairs, s.pairs)
    values = []
    for operator in (h, s):
        wide = BlockOperator.zeros(pairs, operator.norb_i)
        place = pairs.position_of(operator.pairs)
        for p in range(len(operator.pairs)):
            wide.block(int(place[p]))[...] = operator.block(p)
        values.append(wide.values)
    kpoints = np.array([[0.0, 0.0, 0.0], [0.5, 0.0, 0.0]])
    energies = np.array(
        [scipy.linalg.eigvalsh(dense_matrix(h, k), dense_matrix(s, k)) for k in kpoints]
    )
    return Label(
        symbols=one.symbols,
        positions_ic=one.pos_ic,
        cell_cc=one.cell_cc,
        periodic_c=np.array([True, True, False]),
        norb_i=h.norb_i.astype(np.int32),
        first_p=pairs.first_p.astype(np.int32),
        second_p=pairs.second_p.astype(np.int32),
        shift_pc=pairs.shift_pc.astype(np.int32),
        h_values=values[0],
        s_values=values[1],
        kpoints_kc=kpoints,
        eigenvalues_kn=energies,
        details={"electrons": 12.0, "fermi_level": float(energies[:, 5:7].mean())},
    )


def operator_folder(path: Path) -> Path:
    """Write labels.h5 with three labels into a folder, and return it."""
    with h5py.File(path / "labels.h5", "w") as file:
        for name, bond in (("one", 4.0), ("two", 4.3), ("held-out", 4.15)):
            write_label(file, name, operator_label(bond), {})
    return path
