"""Two-centre reference: the part of a Hamiltonian that one distance and direction decide.

For an off-site block g_LM = h_L(r) Y_LM(direction), the Slater-Koster form; for an on-site block
the sum of such terms over the neighbours (the potential of the neighbours in a one-body
expansion). The radial parts are linear in their coefficients, so a least-squares fit gives them;
the network then learns what is left.
"""

from __future__ import annotations

import torch
from torch import nn

from hamgnn_solve.core.network.shells import BlockCoupling, ShellTable

__all__ = ["TwoCentreReference"]


class TwoCentreReference(nn.Module):
    """Blocks that are linear in coefficients of radial functions.

    Parameters
    ----------
    table : ShellTable
        Shells of the blocks.
    num_types : int
        Number of element types T.
    num_radial : int
        Number of radial functions.

    Attributes
    ----------
    coefficients : Tensor, shape (T * T, num_radial, entries)
        Coefficients in Hartree for each ordered pair of types; an entry is a (row shell, column
        shell, L) with L of the parity of la + lb.
    """

    coefficients: torch.Tensor

    def __init__(self, table: ShellTable, num_types: int, num_radial: int) -> None:
        super().__init__()
        self.coupling = BlockCoupling(table)
        self.sizes = {kind: table.counts[kind[0]] * table.counts[kind[1]] for kind in self.kinds}
        self.entries = sum(len(self.natural(kind)) * size for kind, size in self.sizes.items())
        self.register_buffer("coefficients", torch.zeros(num_types**2, num_radial, self.entries))

    @property
    def kinds(self) -> list[tuple[int, int]]:
        """The (la, lb) of the table."""
        return self.coupling.kinds

    @staticmethod
    def natural(kind: tuple[int, int]) -> list[int]:
        """L from |la - lb| to la + lb with the parity of la + lb."""
        la, lb = kind
        return list(range(abs(la - lb), la + lb + 1, 2))

    def forward(
        self, radial: torch.Tensor, kind: torch.Tensor, harmonics: torch.Tensor
    ) -> torch.Tensor:
        """Return the two-centre blocks of pairs, shape (P, norbitals, norbitals).

        Parameters
        ----------
        radial : Tensor, shape (P, num_radial)
            Radial functions.
        kind : Tensor of int64, shape (P,)
            First type times T plus second type.
        harmonics : Tensor, shape (P, (lmax + 1)^2)
            Spherical harmonics of the directions.
        """
        choice = nn.functional.one_hot(kind, len(self.coefficients)).to(radial.dtype)
        spread = (choice[:, :, None] * radial[:, None, :]).flatten(1)
        values = spread @ self.coefficients.flatten(0, 1)
        pieces: dict[tuple[int, int], torch.Tensor] = {}
        start = 0
        for (la, lb), size in self.sizes.items():
            parts = []
            for total in range(abs(la - lb), la + lb + 1):
                if (la + lb - total) % 2:
                    parts.append(values.new_zeros(len(values), 2 * total + 1, size))
                    continue
                direction = harmonics[:, total * total : (total + 1) ** 2, None]
                parts.append(direction * values[:, None, start : start + size])
                start += size
            pieces[la, lb] = torch.cat(parts, dim=1)
        blocks: torch.Tensor = self.coupling(pieces)
        return blocks
