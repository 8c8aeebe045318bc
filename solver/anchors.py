"""Solved k-points whose states, carried to other k, span what the bands there are made of.

States vary slowly with k in the gauge exp(2 pi i k.tau) of the atoms' places tau. A state c of the
anchor k' carried to k is exp(2 pi i (k - k').tau) c, and since k' + G has the same c for every
reciprocal vector G, an anchor stands at all its images: Gamma and the middles of the zone's edges
surround every k of the zone. All of them are real points, solved in real arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hamgnn_solve.solver.eigenpairs import Eigenpairs
from hamgnn_solve.solver.pencil import Pencil, is_real_point

__all__ = ["Anchors", "Image", "are_equivalent", "real_points"]

# Images within this many reciprocal vectors of a k-point.
REACH = 2
# Images on a line along which states are followed count as if they were so much nearer: they
# interpolate along it.
ALONG = 0.55


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

    def is_at(self, k_c: NDArray[np.float64]) -> bool:
        """Tell whether it stands at a k."""
        return bool(np.abs(self.k_c - k_c).max() < 1e-9)


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
        self.fractional_ic = fractional_ic
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
            if are_equivalent(k_c, states.k_c):
                self.states[number] = states
                return
        self.states[len(self.kpoints)] = states
        self.kpoints.append(states.k_c)

    def next_images(
        self,
        k_c: NDArray[np.float64],
        known: list[Image],
        line_c: NDArray[np.float64] | None = None,
        *,
        solved: bool = False,
    ) -> list[Image]:
        """Return the nearest images around a k-point that are not known, equal distances whole.

        None where all within reach are known.

        Parameters
        ----------
        k_c : ndarray, shape (3,)
            Fractional k.
        known : list of Image
        line_c : ndarray, shape (3,), optional
            Direction in which the states are to be followed: images along it are preferred.
        solved : bool
            Whether anchors that have not been solved are left out.
        """
        shifts, images = self._shifts, []
        for place, anchor_c in enumerate(self.kpoints):
            if solved and place not in self.states:
                continue
            twins = [(anchor_c, False)]
            if not is_real_point(anchor_c):
                twins.append((-anchor_c, True))
            for twin_c, conjugate in twins:
                images_kc = twin_c - np.rint(twin_c - k_c) + shifts
                distance_k = self._distances(images_kc - k_c, line_c)
                images += [
                    Image(place, *image)
                    for image in zip(
                        images_kc, [conjugate] * len(shifts), distance_k.tolist(), strict=True
                    )
                ]
        images = [image for image in images if not any(image.is_at(x.k_c) for x in known)]
        nearest = min((image.distance for image in images), default=0.0)
        return [image for image in images if image.distance <= nearest * (1.0 + 1e-6) + 1e-12]

    def _distances(
        self, step_kc: NDArray[np.float64], line_c: NDArray[np.float64] | None
    ) -> NDArray[np.float64]:
        steps = step_kc @ self.reciprocal_cc
        distance_k = np.asarray(np.linalg.norm(steps, axis=1))
        if line_c is None:
            return distance_k
        line = line_c @ self.reciprocal_cc
        aside_k = np.linalg.norm(steps - np.outer(steps @ line, line) / (line @ line), axis=1)
        return np.where(aside_k < 1e-9, ALONG, 1.0) * distance_k

    def states_of(self, image: Image) -> Eigenpairs:
        """Return the states of an anchor, solving it where that has not been done. Collective."""
        if image.number not in self.states:
            self.states[image.number] = self._solve(self.kpoints[image.number])
        return self.states[image.number]

    def carried(self, k_c: NDArray[np.float64], image: Image) -> NDArray[np.complex128]:
        """Return the states of an image carried to k, shape (rows of this rank, n). Collective."""
        return np.asarray(self.phase(k_c - image.k_c)[:, None] * self.vectors(image))

    def vectors(self, image: Image) -> NDArray[Any]:
        """Return the states of an image, shape (rows of this rank, n). Collective."""
        states = self.states_of(image)
        vectors_mn = np.hstack([states.vectors_mn, states.beyond_mn])
        return vectors_mn.conj() if image.conjugate else vectors_mn

    def phase_of_atoms(self, q_c: NDArray[np.float64]) -> NDArray[np.complex128]:
        """Return exp(2 pi i q.tau) for all atoms."""
        return np.asarray(np.exp(2j * np.pi * (self.fractional_ic @ q_c)))

    def phase(self, q_c: NDArray[np.float64]) -> NDArray[np.complex128]:
        """Return exp(2 pi i q.tau) for the orbitals of this rank."""
        return np.exp(2j * np.pi * (self.place_mc @ q_c))


def are_equivalent(k_c: NDArray[np.float64], other_c: NDArray[np.float64]) -> bool:
    """Tell whether two fractional k differ by a reciprocal vector."""
    difference_c = k_c - other_c
    return bool(np.abs(difference_c - np.rint(difference_c)).max() < 1e-9)
