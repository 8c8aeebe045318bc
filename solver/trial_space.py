"""States of anchors carried to one k, and the pencil between them."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from hamgnn_solve.solver.anchors import Anchors, Image
from hamgnn_solve.solver.reduced_products import ReducedProducts
from hamgnn_solve.solver.reduced_space import NotReducibleError, Projected

__all__ = ["TrialSpace"]

# Vectors that are smaller, squared and relative to the largest, are not scaled to length one.
NOTHING = 1e-12
# Added to the diagonal of H + c S between vectors of length one, which depend on each other up to
# rounding.
ROUNDING: dict[type, float] = {np.complex64: 1e-5, np.complex128: 1e-10}


class TrialSpace:
    """The span X of images of anchors at one k, with H, S and the folded operator between them.

    The folded operator T^+ (H + c S)^-1 T, T = H - sigma S, needs an inverse, which is sought in
    the span of X itself and of D T X, with D the inverse of the atoms' own blocks: X holds the
    states of low energy, where H + c S is nearly singular and few products with D would not
    suffice, and D what is far above.

    Parameters
    ----------
    k_c : ndarray, shape (3,)
        Fractional k.
    anchors : Anchors
    products : ReducedProducts
    sigma : float
        Energy about which the operator is folded, in Hartree.
    """

    def __init__(
        self,
        k_c: NDArray[np.float64],
        anchors: Anchors,
        products: ReducedProducts,
        sigma: float,
    ) -> None:
        self.k_c, self.sigma = k_c, sigma
        self.anchors, self.products = anchors, products
        self.images: list[Image] = []
        self._found: Projected | None = None
        # D T X, and H, S, X^+ A D T X, (D T X)^+ A D T X and T^+ D T, with A = H + c S.
        self._divided_mn: NDArray[Any] = np.zeros((products.rows.nlocal, 0), products.complex)
        self._h, self._s, self._mixed, self._divided, self._diagonal = (
            np.zeros((0, 0), np.complex128) for _ in range(5)
        )

    def extend(self, images: list[Image]) -> None:
        """Carry further images to k. Collective."""
        products, old, every = self.products, self.images, [*self.images, *images]
        pairs = [self._products(image) for image in images]
        ends = np.cumsum([0, *(x.shape[1] for x, _ in pairs)])
        h_mn, s_mn = (np.hstack(parts) for parts in zip(*pairs, strict=True))
        t_mn = h_mn - self.sigma * s_mn
        divided_mn = products.by_atoms(t_mn)
        image_mn = products.shifted(self.k_c, divided_mn)
        # Of Hermitian matrices what is right of the diagonal is enough.
        starts = [0] * len(old) + ends[:-1].tolist()
        h, s = (self._between_images(every, starts, x) for x in (h_mn, s_mn))
        mixed = self._between_images(every, [0] * len(every), image_mn)
        parts = [self._divided_mn, *np.split(divided_mn, ends[1:-1], axis=1)]
        starts = [0, *ends[:-1].tolist()]
        divided, diagonal = (_rows(parts, starts, x) for x in (image_mn, t_mn))
        # What A does to the new X, beside the old D T X.
        beside = (h_mn + products.shift * s_mn).conj().T @ self._divided_mn
        h, s, mixed, divided, diagonal, beside = (
            products.comm.allreduce(x.astype(np.complex128))
            for x in (h, s, mixed, divided, diagonal, beside)
        )
        self._h, self._s = _bordered(self._h, h), _bordered(self._s, s)
        self._divided = _bordered(self._divided, divided)
        self._diagonal = _bordered(self._diagonal, diagonal)
        self._mixed = np.hstack([np.vstack([self._mixed, beside]), mixed])
        self._divided_mn = np.hstack([self._divided_mn, divided_mn])
        self.images, self._found = every, None

    @property
    def vectors(self) -> NDArray[Any]:
        """X, shape (rows of this rank, m)."""
        return self._carried(self.images)

    @property
    def periodic(self) -> NDArray[Any]:
        """X without the phase exp(2 pi i k.tau), which is the same at every k."""
        return self.anchors.phase(-self.k_c)[:, None].astype(self.products.complex) * self.vectors

    def combined(self, turn: NDArray[Any]) -> NDArray[Any]:
        """Return combinations of the vectors, shape (rows of this rank, combinations)."""
        return np.asarray(self.vectors @ turn.astype(self.products.complex))

    def padded(self, turn: NDArray[Any]) -> NDArray[Any]:
        """Return coefficients in the vectors of an earlier state of the space in those of now."""
        return np.pad(turn, ((0, len(self._h) - len(turn)), (0, 0)))

    def projected(self) -> Projected:
        """Return H, S and the folded operator between the vectors.

        Raises
        ------
        NotReducibleError
            When H(k) + c S(k) is not positive definite.
        """
        if self._found is None:
            self._found = self._projected()
        return self._found

    def _projected(self) -> Projected:
        h, s, shift = self._h, self._s, self.products.shift
        inner = np.block([[h + shift * s, self._mixed], [self._mixed.conj().T, self._divided]])
        right = np.vstack([h - self.sigma * s, self._diagonal])
        size_n = np.diag(inner).real
        scale_n = 1.0 / np.sqrt(np.maximum(size_n, NOTHING * size_n.max()))
        inner = scale_n[:, None] * inner * scale_n
        inner[np.diag_indices_from(inner)] += ROUNDING[self.products.complex]
        number = self.products.complex
        try:
            root = scipy.linalg.cholesky(inner.astype(number), lower=True)
        except scipy.linalg.LinAlgError:
            raise NotReducibleError(
                f"some band at k = {self.k_c} lies far below the levels of single atoms"
            ) from None
        right = (scale_n[:, None] * right).astype(number)
        half = scipy.linalg.solve_triangular(root, right, lower=True)
        return Projected(h.astype(number), s.astype(number), half.conj().T @ half)

    def _carried(self, images: list[Image]) -> NDArray[Any]:
        number = self.products.complex
        empty: NDArray[Any] = np.zeros((self.products.rows.nlocal, 0), number)
        carried = [self.anchors.carried(self.k_c, image).astype(number) for image in images]
        return np.hstack([empty, *carried])

    def _products(self, image: Image) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return H(k) and S(k) times the states of an image carried to k."""
        vectors_mn = self.anchors.vectors(image)
        if np.iscomplexobj(vectors_mn):
            return self.products.times(self.k_c, self.anchors.carried(self.k_c, image))
        phase_i = self.anchors.phase_of_atoms(self.k_c - image.k_c)
        return self.products.carried(self.k_c, phase_i, vectors_mn)

    def _between_images(
        self, images: list[Image], starts: list[int], right_mn: NDArray[Any]
    ) -> NDArray[Any]:
        """Return X^+ Y of this rank's rows, for each image from some column of Y on.

        Real states of an anchor stay real: their phases go to Y.
        """
        rows = []
        for image, start in zip(images, starts, strict=True):
            vectors_mn = self.anchors.vectors(image)
            phase_m = self.anchors.phase(image.k_c - self.k_c)[:, None]
            turned_mn = phase_m.astype(self.products.complex) * right_mn[:, start:]
            if np.iscomplexobj(vectors_mn):
                product = vectors_mn.astype(self.products.complex).conj().T @ turned_mn
            else:
                real = self.products.real
                product = (vectors_mn.astype(real).T @ turned_mn.view(real)).view(turned_mn.dtype)
            rows.append(np.pad(product, ((0, 0), (start, 0))))
        return np.vstack(rows)


def _rows(parts: list[NDArray[Any]], starts: list[int], right_mn: NDArray[Any]) -> NDArray[Any]:
    """Return Z^+ Y of this rank's rows, for each part of Z from some column of Y on."""
    return np.vstack(
        [
            np.pad(part.conj().T @ right_mn[:, start:], ((0, 0), (start, 0)))
            for part, start in zip(parts, starts, strict=True)
        ]
    )


def _bordered(
    matrix: NDArray[np.complex128], columns: NDArray[np.complex128]
) -> NDArray[np.complex128]:
    """Return a Hermitian matrix with further columns, and the rows that belong to them.

    Of the new columns what is left of the diagonal is not looked at.
    """
    size, new = len(matrix), columns.shape[1]
    bordered = np.empty((size + new, size + new), np.complex128)
    bordered[:size, :size] = matrix
    bordered[:, size:] = columns
    bordered[size:, :size] = columns[:size].conj().T
    right = np.triu(columns[size:])
    bordered[size:, size:] = right + np.triu(right, 1).conj().T
    return bordered
