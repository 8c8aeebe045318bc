"""Blocks of the inverse of a sparse pencil, where its factors are filled."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.solver.lower_blocks import LowerBlocks
from hamgnn_solve.solver.multifrontal import Front, FrontTree

__all__ = ["FrontFactor", "SelectedInverse", "factorise", "inverse_of_factors", "selected_inverse"]

# Matrices up to this size are inverted by LAPACK, larger ones by halves: LAPACK's inversion runs
# at half the speed of a matrix product.
LEAF = 256
# Rows of a symmetric product that are computed together; columns beyond the last are left out.
STRIP = 256

Matrix = NDArray[Any]


@dataclass(frozen=True)
class SelectedInverse:
    """Blocks of G = (H - z S)^-1 on the pairs of a `LowerBlocks`.

    Parameters
    ----------
    lower : ndarray, shape (sum of block sizes,)
        G_ji for the later atom j and the earlier atom i, in 1/Hartree.
    upper : ndarray, same shape
        The transpose of G_ij, so that it lies like `lower`; the same array for symmetric pencils.
    """

    lower: Matrix
    upper: Matrix


@dataclass(frozen=True)
class FrontFactor:
    """What elimination leaves of a front with pivots J and updates U.

    Parameters
    ----------
    inverse : ndarray, shape (npivots, npivots)
        A_JJ^-1 of what is left of H - z S, in 1/Hartree.
    left, right : ndarray, shape (nupdates, npivots)
        -A_UJ A_JJ^-1 and the transpose of -A_JJ^-1 A_JU; one array for symmetric pencils.
    """

    inverse: Matrix
    left: Matrix
    right: Matrix


def selected_inverse(
    tree: FrontTree,
    blocks: LowerBlocks,
    hamiltonian: Matrix,
    overlap: Matrix,
    shift: complex,
) -> SelectedInverse:
    """Invert H - z S on the filled pattern of its factors.

    A block L D U factorisation by fronts, then G from the last front to the first:

        G_UJ = -G_UU L_UJ,  G_JU = -U_JU G_UU,  G_JJ = A_JJ^-1 - U_JU G_UJ

    with J the orbitals of a front and U those that they couple to (Takahashi, Fagan and Chin,
    Proc. 8th PICA Conf., 63 (1973); Lin, Yang, Meza, Lu, Ying and E, ACM Trans. Math. Softw. 37,
    40 (2011)). Real H and S make all matrices symmetric, and one triangle is worked
    out. Pivots are exchanged only within the diagonal blocks that LAPACK inverts. For Im z != 0
    this is safe: what is left of a diagonal block is inverse to a block of the inverse of a
    leading part of H - z S, and as that part is itself a pencil of Hermitian H and positive S,
    no norm exceeds 1 / (|Im z| times the lowest eigenvalue of S).

    Parameters
    ----------
    tree : FrontTree
        Fronts of the pattern.
    blocks : LowerBlocks
        Where the numbers of H and S lie.
    hamiltonian, overlap : ndarray
        H and S as folded by `blocks`, both real or both complex.
    shift : complex
        z in Hartree; a real number keeps real matrices real.

    Raises
    ------
    InputError
        When a diagonal block is singular: z is an eigenvalue.
    """
    factors = factorise(tree, blocks, hamiltonian, overlap, shift)
    return inverse_of_factors(tree, blocks, factors)


def factorise(
    tree: FrontTree,
    blocks: LowerBlocks,
    hamiltonian: Matrix,
    overlap: Matrix,
    shift: complex,
) -> list[FrontFactor]:
    """Return the factors of H - z S front by front; the first half of `selected_inverse`."""
    symmetric = not np.iscomplexobj(hamiltonian)
    return _Elimination(tree, blocks, hamiltonian, overlap, shift, symmetric).factors()


@dataclass
class _Elimination:
    """The factorisation under way; only update matrices that wait for their parent are kept."""

    tree: FrontTree
    blocks: LowerBlocks
    hamiltonian: Matrix
    overlap: Matrix
    shift: complex
    symmetric: bool
    waiting: dict[int, Matrix] = field(default_factory=dict)

    def factors(self) -> list[FrontFactor]:
        """Eliminate front after front."""
        try:
            return [self._eliminate(f, front) for f, front in enumerate(self.tree.fronts)]
        except np.linalg.LinAlgError as error:
            raise InputError(
                f"H - z S is singular at z = {self.shift} Hartree; move the shift off the "
                "eigenvalues."
            ) from error

    def _eliminate(self, f: int, front: Front) -> FrontFactor:
        panel, transposed = self._assemble(f, front)
        children = [(self.tree.fronts[c], self.waiting.pop(c)) for c in front.children]
        for child, update in children:
            self._add_to_panel(child, update, front.npivots, panel, transposed)
        inverse = _inverse(panel[: front.npivots], self.symmetric)
        below, beside = panel[front.npivots :], transposed[front.npivots :]
        left = _negative_product(below, inverse)
        right = left if self.symmetric else _negative_product(beside, inverse.T)
        if front.nupdates:
            update = _product(left, beside, self.symmetric)
            for child, given in children:
                self._add_to_update(child, given, front.npivots, update)
            self.waiting[f] = update
        return FrontFactor(inverse, left, right)

    def _assemble(self, f: int, front: Front) -> tuple[Matrix, Matrix]:
        """Return A_{JU,J} and the transpose of A_{J,JU}, shape (rows, pivots)."""
        chosen = self.blocks.entries_of(f)
        h, s, place = self.hamiltonian[chosen], self.overlap[chosen], self.blocks.place[chosen]
        values = h - self.shift * s
        panel = np.zeros((front.nrows, front.npivots), dtype=values.dtype)
        panel.ravel()[place] = values
        if self.symmetric:
            return panel, panel
        # Hermitian H and S: the transpose of the other side is the complex conjugate.
        transposed = np.zeros_like(panel)
        transposed.ravel()[place] = h.conj() - self.shift * s.conj()
        n = front.npivots
        panel[:n] = np.tril(panel[:n]) + np.triu(transposed[:n].T, 1)
        return panel, transposed

    def _add_to_panel(
        self, child: Front, update: Matrix, npivots: int, panel: Matrix, transposed: Matrix
    ) -> None:
        for row in child.runs:
            for column in child.runs:
                if column.target >= npivots or (self.symmetric and column.start > row.start):
                    break
                size = column.stop - column.start
                rows = slice(row.target, row.target + row.stop - row.start)
                columns = slice(column.target, column.target + size)
                inside = slice(column.start, column.stop)
                panel[rows, columns] += update[row.start : row.stop, inside]
                if not self.symmetric and row.target >= npivots:
                    transposed[rows, columns] += update[inside, row.start : row.stop].T

    def _add_to_update(self, child: Front, given: Matrix, npivots: int, update: Matrix) -> None:
        runs = [run for run in child.runs if run.target >= npivots]
        for row in runs:
            begin = row.target - npivots
            rows = slice(begin, begin + row.stop - row.start)
            for column in runs:
                if self.symmetric and column.start > row.start:
                    break
                begin = column.target - npivots
                columns = slice(begin, begin + column.stop - column.start)
                update[rows, columns] += given[row.start : row.stop, column.start : column.stop]


def inverse_of_factors(
    tree: FrontTree, blocks: LowerBlocks, factors: list[FrontFactor]
) -> SelectedInverse:
    """Return G from its factors, the last front first; the second half of `selected_inverse`.

    `factors` is emptied on the way, so that memory is free as soon as it can be.
    """
    symmetric = all(factor.left is factor.right for factor in factors)
    dtype = factors[0].inverse.dtype
    lower = np.empty(blocks.size, dtype=dtype)
    upper = lower if symmetric else np.empty(blocks.size, dtype=dtype)
    waiting: dict[int, Matrix] = {}
    for f in reversed(range(len(tree.fronts))):
        front, factor = tree.fronts[f], factors.pop()
        npivots = front.npivots
        panel = np.empty((front.nrows, npivots), dtype=dtype)
        transposed = panel if symmetric else np.empty_like(panel)
        known = waiting.pop(f) if front.nupdates else np.empty((0, 0), dtype=dtype)
        if front.nupdates:
            np.matmul(known, factor.left, out=panel[npivots:])
            if not symmetric:
                np.matmul(known.T, factor.right, out=transposed[npivots:])
            corner = _product(factor.right.T, panel[npivots:].T, symmetric)
            corner += factor.inverse
        else:
            corner = factor.inverse
        panel[:npivots] = _mirrored(corner) if symmetric else corner
        transposed[:npivots] = panel[:npivots].T
        chosen = blocks.entries_of(f)
        lower[chosen] = panel.ravel()[blocks.place[chosen]]
        if not symmetric:
            upper[chosen] = transposed.ravel()[blocks.place[chosen]]
        for c in front.children:
            waiting[c] = _part_of(tree.fronts[c], npivots, panel, transposed, known)
    return SelectedInverse(lower, upper)


def _part_of(
    child: Front, npivots: int, panel: Matrix, transposed: Matrix, known: Matrix
) -> Matrix:
    """Return G on the update rows of a child, all of which are rows of its parent."""
    part = np.empty((child.nupdates, child.nupdates), dtype=panel.dtype)
    for row in child.runs:
        rows = slice(row.target, row.target + row.stop - row.start)
        for column in child.runs:
            columns = slice(column.target, column.target + column.stop - column.start)
            if column.target < npivots:
                source = panel[rows, columns]
            elif row.target < npivots:
                source = transposed[columns, rows].T
            else:
                begin, first = row.target - npivots, column.target - npivots
                source = known[
                    begin : begin + row.stop - row.start,
                    first : first + column.stop - column.start,
                ]
            part[row.start : row.stop, column.start : column.stop] = source
    return part


def _negative_product(a: Matrix, b: Matrix) -> Matrix:
    product = a @ b
    return np.negative(product, out=product)


def _product(a: Matrix, b: Matrix, symmetric: bool) -> Matrix:
    """Return a b^T; of a symmetric product, only the lower triangle is meaningful."""
    if not symmetric:
        return np.matmul(a, b.T)
    size = len(a)
    product = np.empty((size, size), dtype=a.dtype)
    for start in range(0, size, STRIP):
        stop = min(start + STRIP, size)
        np.matmul(a[start:stop], b[:stop].T, out=product[start:stop, :stop])
    return product


def _mirrored(matrix: Matrix) -> Matrix:
    """Return the symmetric matrix that has this lower triangle."""
    return np.tril(matrix) + np.tril(matrix, -1).T


def _inverse(matrix: Matrix, symmetric: bool) -> Matrix:
    """Invert a matrix, by halves when it is large; of a symmetric one the lower triangle is read.

    For a symmetric matrix the inverse is whole.
    """
    size = len(matrix)
    if size <= LEAF:
        return np.linalg.inv(_mirrored(matrix) if symmetric else matrix)
    half = size // 2
    inverse = np.empty_like(matrix)
    below = matrix[half:, :half]
    beside = below if symmetric else matrix[:half, half:].T
    corner = _inverse(matrix[:half, :half], symmetric)
    left = _negative_product(below, corner)
    right = left if symmetric else _negative_product(beside, corner.T)
    rest = _product(left, beside, symmetric)
    rest += matrix[half:, half:]
    inverse[half:, half:] = _inverse(rest, symmetric)
    np.matmul(inverse[half:, half:], left, out=inverse[half:, :half])
    if symmetric:
        inverse[:half, half:] = inverse[half:, :half].T
    else:
        inverse[:half, half:] = (inverse[half:, half:].T @ right).T
    added = _product(right.T, inverse[half:, :half].T, symmetric)
    inverse[:half, :half] = corner + (_mirrored(added) if symmetric else added)
    return inverse
