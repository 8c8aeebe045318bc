"""GPAW's own two-centre integrals and overlap, for tests; skips where GPAW is not installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hamgnn_solve.core.pairs import PairList
from hamgnn_solve.core.structure import Structure


def expansions(names: tuple[str, ...]) -> tuple[Any, Callable[..., NDArray], Any]:
    """Return GPAW's expansions for one atom of each data set, how to evaluate them, the setups."""
    tci_module = pytest.importorskip("gpaw.lcao.tci")
    from ase.data import atomic_numbers
    from gpaw.lcao.overlap import LazySphericalHarmonics
    from gpaw.setup import Setups
    from gpaw.xc import XC

    parts = [name.partition(".") for name in names]
    setups = Setups(
        [atomic_numbers[symbol] for symbol, _, _ in parts],
        {"default": "paw", **{symbol: kind for symbol, _, kind in parts if kind}},
        {"default": "dzp"},
        XC("PBE"),
    )

    def evaluate(expansion: Any, a: int, b: int, vector: NDArray) -> NDArray:
        distance = float(np.linalg.norm(vector))
        return expansion.get(a, b).evaluate(distance, LazySphericalHarmonics(vector))

    return tci_module.TCIExpansions.new_from_setups(setups), evaluate, setups


def gpaw_overlap(
    structure: Structure, names: dict[str, str], pairs: PairList
) -> list[NDArray[np.float64]]:
    """Compute blocks of S by GPAW: its overlaps plus the sum over all projector centres."""
    tci, evaluate, setups = expansions(tuple(names[symbol] for symbol in structure.symbols))
    orbital_reach = [tci.phit_rcmax_I[kind] for kind in tci.I_a]
    projector_reach = [tci.pt_rcmax_I[kind] for kind in tci.I_a]
    reach = np.abs(pairs.shift_pc).max(axis=0) + 1
    images = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in reach)), -1).reshape(-1, 3)
    blocks = []
    for i, j, vector in zip(pairs.first_p, pairs.second_p, pairs.vector_pc, strict=True):
        block = np.zeros((setups[i].nao, setups[j].nao))
        if np.linalg.norm(vector) < orbital_reach[i] + orbital_reach[j]:
            block += evaluate(tci.O_expansions, i, j, vector)
        for a in range(structure.natoms):
            from_i = structure.pos_ic[i] - structure.pos_ic[a] - images @ structure.cell_cc
            from_j = from_i + vector
            near = np.linalg.norm(from_i, axis=1) < projector_reach[a] + orbital_reach[i]
            near &= np.linalg.norm(from_j, axis=1) < projector_reach[a] + orbital_reach[j]
            for to_i, to_j in zip(from_i[near], from_j[near], strict=True):
                left = evaluate(tci.P_expansions, a, i, to_i)
                right = evaluate(tci.P_expansions, a, j, to_j)
                block += left.T @ setups[a].dO_ii @ right
        blocks.append(block)
    return blocks
