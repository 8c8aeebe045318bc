"""Solved k-points whose states, carried to other k, span what the bands there are made of.

States vary slowly with k in the gauge exp(2 pi i k.tau) of the atoms' places tau. A state c of the
anchor k' carried to k is exp(2 pi i (k - k').tau) c, and since k' + G has the same c for every
reciprocal vector G, an anchor stands at all its images: Gamma and the middles of the zone's edges
surround every k of the zone. All of them are real points, solved in real arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hamgnn_solve.solver.eigenpairs import Eigenpairs
from hamgnn_solve.solver.pencil import Pencil, is_real_point
from hamgnn_solve.solver.reduced_space import Trial, multiplied

__all__ = ["Anchors", "Image", "real_points"]

# Images within this many reciprocal vectors of a k-point.
REACH = 2


@dataclass(frozen=True)
class Image:
    """An anchor at one of its images.

    Parameters
    ----------
    number : int
        Which anchor.
    k_c : ndarray, shape (3,)
        Fractional k of the image.
    conjugate : bool
        Whether it stands at minus the anchor's k, where the vectors are the conjugates.
    distance : float
        From the k-point asked for, in units of the reciprocal lattice given.
    """

    number: int
    k_c: NDArray[np.float64]
    conjugate: bool
    distance: float


def real_points(kpoints_kc: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the k with 2k a reciprocal vector in the lattice directions along which k-points vary.

    Parameters
    ----------
    kpoints_kc : ndarray, shape (K, 3)

    Returns
    -------
    ndarray, shape (2 ** directions, 3)
        Gamma first; components 0 or 1/2.
    """
    varies_c = np.abs(kpoints_kc).max(axis=0) > 1e-9
    choices = [(0.0, 0.5) if varies else (0.0,) for varies in varies_c]
    return np.array(sorted(product(*choices), key=sum))


class Anchors:
    """Anchors of a pencil: real points, solved when they are first asked for, and others added.

    Parameters
    ----------
    pencil : Pencil
        Collective.
    fractional_ic : ndarray, shape (N, 3)
        Places of the atoms in units of the lattice vectors.
    reciprocal_cc : ndarray, shape (3, 3)
        Reciprocal lattice vectors as rows, in the unit of distances.
    candidates_ac : ndarray, shape (A, 3)
        Real points that may be solved.
    solve : callable
        Returns the states at a k-point.
    """

    def __init__(
        self,
        pencil: Pencil,
        fractional_ic: NDArray[np.float64],
        reciprocal_cc: NDArray[np.float64],
        candidates_ac: NDArray[np.float64],
        solve: Callable[[NDArray[np.float64]], Eigenpairs],
    ) -> None:
        rows = pencil.rows
        self.pencil, self.fractional_ic = pencil, fractional_ic
        self.place_mc = np.repeat(fractional_ic[rows.owned], rows.norb_i[rows.owned], axis=0)
        self.reciprocal_cc = reciprocal_cc
        self.kpoints: list[NDArray[np.float64]] = list(candidates_ac)
        # Along other directions, as across a slab, nothing repeats with k.
        repeats_c = np.abs(candidates_ac).max(axis=0) > 0.0
        ranges = [range(-REACH, REACH + 1) if repeats else range(1) for repeats in repeats_c]
        self._shifts = np.array(list(product(*ranges)), dtype=np.float64)
        self.states: dict[int, Eigenpairs] = {}
        self._solve = solve

    def add(self, states: Eigenpairs) -> None:
        """Add the states of a k-point, a candidate or any other."""
        for number, k_c in enumerate(self.kpoints):
            if _equivalent(k_c, states.k_c):
                self.states[number] = states
                return
        self.states[len(self.kpoints)] = states
        self.kpoints.append(states.k_c)

    def nearest(self, k_c: NDArray[np.float64], number: int) -> list[Image]:
        """Return the nearest images around a k-point, at least `number`, equal distances whole."""
        shifts, images = self._shifts, []
        for place, anchor_c in enumerate(self.kpoints):
            twins = [(anchor_c, False)]
            if not is_real_point(anchor_c):
                twins.append((-anchor_c, True))
            for twin_c, conjugate in twins:
                images_kc = twin_c - np.rint(twin_c - k_c) + shifts
                distance_k = np.linalg.norm((images_kc - k_c) @ self.reciprocal_cc, axis=1)
                images += [
                    Image(place, *image)
                    for image in zip(
                        images_kc, [conjugate] * len(shifts), distance_k.tolist(), strict=True
                    )
                ]
        images.sort(key=lambda image: image.distance)
        last = images[number - 1].distance * (1.0 + 1e-6)
        return [image for image in images if image.distance <= last]

    def states_of(self, image: Image) -> Eigenpairs:
        """Return the states of an anchor, solving it where that has not been done. Collective."""
        if image.number not in self.states:
            self.states[image.number] = self._solve(self.kpoints[image.number])
        return self.states[image.number]

    def carried(self, k_c: NDArray[np.float64], image: Image) -> NDArray[np.complex128]:
        """Return the states of an image carried to k, shape (rows of this rank, n). Collective."""
        vectors_mn = self._vectors(image)
        return np.asarray(self.phase(k_c - image.k_c)[:, None] * vectors_mn)

    def trial(self, k_c: NDArray[np.float64], images: list[Image]) -> Trial:
        """Return the states of some images carried to k, with their products. Collective."""
        parts = [self._trial(k_c, image) for image in images]
        return reduce(Trial.with_more, parts)

    def _trial(self, k_c: NDArray[np.float64], image: Image) -> Trial:
        vectors_mn, carried_mn = self._vectors(image), self.carried(k_c, image)
        if np.iscomplexobj(vectors_mn):
            return multiplied(self.pencil, k_c, carried_mn)
        phase_i = np.exp(2j * np.pi * (self.fractional_ic @ (k_c - image.k_c)))
        return Trial(carried_mn, *self.pencil.carried_times(k_c, phase_i, vectors_mn))

    def _vectors(self, image: Image) -> NDArray[Any]:
        states = self.states_of(image)
        vectors_mn = np.hstack([states.vectors_mn, states.beyond_mn])
        return vectors_mn.conj() if image.conjugate else vectors_mn

    def phase(self, q_c: NDArray[np.float64]) -> NDArray[np.complex128]:
        """Return exp(2 pi i q.tau) for the orbitals of this rank."""
        return np.exp(2j * np.pi * (self.place_mc @ q_c))


def _equivalent(k_c: NDArray[np.float64], other_c: NDArray[np.float64]) -> bool:
    difference_c = k_c - other_c
    return bool(np.abs(difference_c - np.rint(difference_c)).max() < 1e-9)
