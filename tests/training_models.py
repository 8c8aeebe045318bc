"""Made-up labels and small trainings on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.linalg
import yaml

from hamgnn_solve.core.basis.gpaw_data import built_in_basis
from hamgnn_solve.core.operator import BlockOperator, dense_matrix
from hamgnn_solve.core.pairs import PairList, find_pairs, onsite_pairs
from hamgnn_solve.core.structure import Structure
from hamgnn_solve.training.config import TrainingConfig, read_training_config
from hamgnn_solve.training.label_file import Label, write_label

SPECIES = {"Mo": "Mo.6", "S": "S"}
STEP = {
    "updates": 6,
    "learning_rate": 0.01,
    "final_fraction": 0.1,
    "warmup_updates": 1,
    "ema_decay": 0.5,
    "validate_every": 3,
}
CONFIG = {
    "name": "tiny",
    "species": SPECIES,
    "orthonormal": True,
    "network": {
        "irreps": "4x0e+2x1o+1x1e+2x2e+1x2o+1x3o+1x3e+1x4e",
        "shells": [2, 2, 2],
        "layers": 1,
        "cutoff": 13.0,
        "message_cutoff": 8.0,
        "num_radial": 4,
        "invariant_layers": 1,
        "invariant_neurons": 8,
        "lmax": 4,
        "nonlinearity": "gate",
        "pair_radial": True,
        "envelope": True,
        "reference_radial": 8,
        "reference_cutoff": 24.0,
    },
    "labels": ["labels.h5"],
    "steps": [STEP],
    "seed": 1,
    "validation": ["held-out"],
}


def structure(bond: float) -> Structure:
    cell = np.diag([16.0, 16.0, 30.0])
    return Structure(("Mo", "S"), np.array([[1.0, 1.0, 9.0], [1.0 + bond, 2.0, 10.5]]), cell)


def made_up_label(bond: float) -> Label:
    """Return a label with a Hermitian, positive definite pencil that no program computed."""
    basis = built_in_basis(SPECIES)
    one = structure(bond)
    offsite = find_pairs(one, basis.cutoff_i(one))
    onsite = onsite_pairs(np.arange(2, dtype=np.int64))
    order_keys = [
        np.concatenate([getattr(onsite, key), getattr(offsite, key)])
        for key in ("first_p", "second_p", "shift_pc", "vector_pc")
    ]
    order = np.lexsort((*order_keys[2].T[::-1], order_keys[1], order_keys[0]))
    pairs = PairList(*(x[order] for x in order_keys))
    norb_i = basis.norb_i(one)
    hamiltonian, overlap = (BlockOperator.zeros(pairs, norb_i) for _ in range(2))
    reverse = pairs.position_of(pairs.reversed())
    random = np.random.default_rng(7)
    for p in range(len(pairs)):
        decay = np.exp(-0.5 * pairs.distance_p[p])
        hamiltonian.block(p)[...] = 0.1 * decay * random.normal(size=hamiltonian.block(p).shape)
        overlap.block(p)[...] = 0.05 * decay * random.normal(size=overlap.block(p).shape)
    symmetric = []
    for operator in (hamiltonian, overlap):
        result = BlockOperator.zeros(pairs, norb_i)
        for p in range(len(pairs)):
            result.block(p)[...] = operator.block(p) + operator.block(int(reverse[p])).T
            if operator is overlap and pairs.distance_p[p] == 0:
                result.block(p)[...] += np.eye(len(result.block(p)))
        symmetric.append(result)
    kpoints = np.array([[0.0, 0.0, 0.0], [0.3, 0.1, 0.0]])
    energies = np.array(
        [
            scipy.linalg.eigvalsh(dense_matrix(symmetric[0], k), dense_matrix(symmetric[1], k))
            for k in kpoints
        ]
    )
    return Label(
        symbols=one.symbols,
        positions_ic=one.pos_ic,
        cell_cc=one.cell_cc,
        periodic_c=np.array([True, True, False]),
        norb_i=norb_i.astype(np.int32),
        first_p=pairs.first_p.astype(np.int32),
        second_p=pairs.second_p.astype(np.int32),
        shift_pc=pairs.shift_pc.astype(np.int32),
        h_values=symmetric[0].values,
        s_values=symmetric[1].values,
        kpoints_kc=kpoints,
        eigenvalues_kn=energies,
        details={"electrons": 12.0, "fermi_level": float(energies[:, 5:7].mean())},
    )


def label_folder(path: Path) -> Path:
    """Write labels.h5 with three labels into a folder, and return it."""
    with h5py.File(path / "labels.h5", "w") as file:
        for name, bond in (("one", 4.0), ("two", 4.3), ("held-out", 4.15)):
            write_label(file, name, made_up_label(bond), {})
    return path


def config_of(folder: Path, **changes: Any) -> TrainingConfig:
    """Write the file of a small training into a folder, and read it."""
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({**CONFIG, **changes}))
    return read_training_config(path)
