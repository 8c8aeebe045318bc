"""Whether a network has seen the surroundings of an atom: distances to the training set's atoms.

The surroundings are described by what the network itself makes of them, the invariants of an atom's
features after the last convolution. For each element they are whitened by a principal component
analysis of the training set, and an atom is as far out as its nearest training atom is away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save
from scipy.spatial.distance import cdist

__all__ = [
    "ElementEnvironments",
    "Environments",
    "read_environments",
    "unfamiliar_atoms",
    "unfamiliar_text",
    "whitening",
    "write_environments",
]

# Directions with less than this part of the largest variance count as if they had this much: what
# does not vary in the training set may not vary elsewhere, but rounding may not count either.
VARIANCE_FLOOR = 1e-4
# Rounding of the network relative to the size of the invariants.
ROUNDING = 1e-5
ROWS = 256  # atoms compared at a time
NAMED = 8  # atoms named in a line
TENSORS = ("centre_f", "axes_fq", "deviation_q", "floor", "atoms_aq", "threshold")


@dataclass(frozen=True)
class ElementEnvironments:
    """Training atoms of one element.

    Parameters
    ----------
    centre_f : ndarray, shape (F,)
        Mean of the invariants.
    axes_fq : ndarray, shape (F, Q)
        Principal axes, orthonormal columns.
    deviation_q : ndarray, shape (Q,)
        Standard deviation along each axis.
    floor : float
        Standard deviation that all other directions are given.
    atoms_aq : ndarray, shape (A, Q)
        Whitened coordinates of the training atoms.
    threshold : float
        Distance beyond which an atom lies outside the training set.

    Raises
    ------
    ValueError
        When shapes disagree, or a deviation, the floor or the threshold is not positive.
    """

    centre_f: NDArray[np.floating]
    axes_fq: NDArray[np.floating]
    deviation_q: NDArray[np.floating]
    floor: float
    atoms_aq: NDArray[np.floating]
    threshold: float

    def __post_init__(self) -> None:
        number = len(self.deviation_q)
        if self.axes_fq.shape != (len(self.centre_f), number):
            raise ValueError(f"axes of shape {self.axes_fq.shape} for {number} deviations")
        if self.atoms_aq.ndim != 2 or self.atoms_aq.shape[1] != number or not len(self.atoms_aq):
            raise ValueError(f"training atoms of shape {self.atoms_aq.shape} for {number} axes")
        if not (self.floor > 0 and self.threshold > 0 and (self.deviation_q > 0).all()):
            raise ValueError("deviations, floor and threshold must be positive")

    def whitened(
        self, invariants_if: NDArray[np.floating]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return coordinates (N, Q) along the axes and the length (N,) of what they leave out."""
        centred = np.asarray(invariants_if, dtype=np.float64) - self.centre_f
        along = centred @ self.axes_fq
        beside = np.linalg.norm(centred - along @ self.axes_fq.T, axis=1)
        return along / self.deviation_q, beside / self.floor

    def distances(self, invariants_if: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the distance of each atom to the nearest training atom, shape (N,)."""
        along, beside = self.whitened(invariants_if)
        nearest: NDArray[np.float64] = nearest_distances(along, self.atoms_aq)
        distances: NDArray[np.float64] = np.hypot(nearest, beside)
        return distances


@dataclass(frozen=True)
class Environments:
    """Training atoms of all elements, by symbol."""

    elements: Mapping[str, ElementEnvironments]

    @property
    def ninvariants(self) -> int:
        """Number of invariants of an atom F.

        Raises
        ------
        ValueError
            When the elements differ in it, or there is none.
        """
        numbers = {len(one.centre_f) for one in self.elements.values()}
        if len(numbers) != 1:
            raise ValueError(f"the elements have {sorted(numbers)} invariants")
        return numbers.pop()

    def relative_distances(
        self, symbols: Sequence[str], invariants_if: NDArray[np.floating]
    ) -> NDArray[np.float64]:
        """Return the distance of each atom in units of its element's threshold, shape (N,).

        Above 1 an atom lies outside the training set; infinite where the element has no atoms in
        it.
        """
        symbol_i = np.array(symbols)
        relative_i = np.full(len(symbols), np.inf)
        for symbol, known in self.elements.items():
            chosen = symbol_i == symbol
            relative_i[chosen] = known.distances(invariants_if[chosen]) / known.threshold
        return relative_i


def whitening(
    invariants_af: NDArray[np.floating],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], float]:
    """Return centre, axes, deviations and floor of `ElementEnvironments` for training atoms."""
    centre_f = invariants_af.mean(axis=0, dtype=np.float64)
    covariance = (invariants_af - centre_f).T @ (invariants_af - centre_f) / len(invariants_af)
    variance_f, axes_ff = np.linalg.eigh(covariance)
    rounding = ROUNDING**2 * float((centre_f**2).sum())
    smallest = float(np.finfo(np.float32).tiny)
    least = max(VARIANCE_FLOOR * float(variance_f[-1]), rounding, smallest)
    kept = variance_f > least
    return centre_f, axes_ff[:, kept], np.sqrt(variance_f[kept]), float(np.sqrt(least))


def nearest_distances(
    points_iq: NDArray[np.floating], others_aq: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Return the distance of each point to the nearest of the others, a few rows at a time."""
    if points_iq.shape[1] == 0:
        return np.zeros(len(points_iq))
    parts = [
        cdist(points_iq[start : start + ROWS], others_aq).min(axis=1)
        for start in range(0, len(points_iq), ROWS)
    ]
    return np.concatenate([np.zeros(0), *parts])


def write_environments(environments: Environments) -> bytes:
    """Return the contents of `environments.safetensors`, in single precision."""
    tensors = {
        f"{symbol}.{name}": np.ascontiguousarray(getattr(one, name), dtype=np.float32)
        for symbol, one in environments.elements.items()
        for name in TENSORS
    }
    return save(tensors)


def read_environments(content: bytes) -> Environments:
    """Undo `write_environments`.

    Raises
    ------
    ValueError
        When the contents are damaged or not of this kind.
    """
    try:
        tensors = load(content)
    except SafetensorError as error:
        raise ValueError(f"no safetensors file ({error})") from error
    symbols = sorted({key.partition(".")[0] for key in tensors})
    try:
        return Environments(
            {
                symbol: ElementEnvironments(
                    tensors[f"{symbol}.centre_f"],
                    tensors[f"{symbol}.axes_fq"],
                    tensors[f"{symbol}.deviation_q"],
                    tensors[f"{symbol}.floor"].item(),
                    tensors[f"{symbol}.atoms_aq"],
                    tensors[f"{symbol}.threshold"].item(),
                )
                for symbol in symbols
            }
        )
    except KeyError as error:
        raise ValueError(f"there is no tensor {error}") from error


def unfamiliar_atoms(
    symbols: Sequence[str], relative_i: NDArray[np.floating]
) -> list[dict[str, Any]]:
    """Return the atoms outside the training set for `summary.json`, the farthest first.

    Each has `atom` (counted from 1), `element` and `distance` in units of the threshold, which is
    None where the element has no training atoms.
    """
    order = np.argsort(-relative_i, kind="stable")
    return [
        {
            "atom": int(i) + 1,
            "element": symbols[i],
            "distance": round(float(relative_i[i]), 3) if np.isfinite(relative_i[i]) else None,
        }
        for i in order[relative_i[order] > 1.0]
    ]


def unfamiliar_text(symbols: Sequence[str], relative_i: NDArray[np.floating] | None) -> str:
    """Return one line on the atoms outside the training set; None: the model does not know."""
    if relative_i is None:
        return "not recorded by this model"
    outside = unfamiliar_atoms(symbols, relative_i)
    if not outside:
        return "all known"
    named = ", ".join(f"{one['element']} {one['atom']}" for one in outside[:NAMED])
    more = ", ..." if len(outside) > NAMED else ""
    finite = relative_i[np.isfinite(relative_i)]
    largest = f"largest distance {finite.max():.1f} times the threshold" if finite.size else ""
    missing = sorted({one["element"] for one in outside if one["distance"] is None})
    untrained = f"no {' or '.join(missing)} in the training set" if missing else ""
    remarks = "; ".join(filter(None, (largest, untrained)))
    count = f"{len(outside)} of {len(symbols)} atoms"
    return f"{count} outside the training set: {named}{more} ({remarks})"
