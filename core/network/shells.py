"""Table of orbital shells and the blocks that a network's output irreps stand for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from e3nn.o3 import Irrep, Irreps, wigner_3j
from numpy.typing import NDArray
from torch import nn

from hamgnn_solve.core.network.irreps import Features, natural_parity

__all__ = ["OPENMX_ORDER", "V1_SIGN_FLIPS", "BlockCoupling", "BlockLinear", "ShellTable"]

# Place of each OpenMX orbital of a shell among m = -l..l (3z2-r2, x2-y2, xy, xz, yz and so on).
OPENMX_ORDER = {0: (0,), 1: (2, 0, 1), 2: (2, 4, 0, 3, 1), 3: (3, 4, 2, 5, 1, 6, 0)}

# Triples (l_row, l_column, L) whose Clebsch-Gordan table in published V1 weights is minus e3nn's.
V1_SIGN_FLIPS = frozenset(
    {
        (1, 1, 1),
        (1, 2, 2),
        (1, 3, 3),
        (2, 2, 1),
        (2, 3, 2),
        (3, 2, 4),
        (3, 3, 1),
        (3, 3, 3),
        (3, 3, 5),
    }
)


@dataclass(frozen=True)
class ShellTable:
    """Shells that a block has room for; an element fills the first of each l.

    Parameters
    ----------
    counts : tuple of int
        Number of shells for l = 0, 1, 2, ...; (2, 2, 2) is s2p2d2 with 18 orbitals.
    """

    counts: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.counts or min(self.counts) < 0 or sum(self.counts) == 0:
            raise ValueError(f"shell counts {self.counts} must be a list of numbers, one an l")

    @cached_property
    def shell_l(self) -> tuple[int, ...]:
        """Degree of each shell, ascending."""
        return tuple(degree for degree, count in enumerate(self.counts) for _ in range(count))

    @cached_property
    def norbitals(self) -> int:
        """Number of orbitals of the table."""
        return sum(2 * degree + 1 for degree in self.shell_l)

    @cached_property
    def irreps(self) -> Irreps:
        """Irreps of a block: for row shell a and column shell b each L = |la-lb|..la+lb."""
        return Irreps(
            [
                (1, (total, natural_parity(la + lb)))
                for la in self.shell_l
                for lb in self.shell_l
                for total in range(abs(la - lb), la + lb + 1)
            ]
        )

    def slots(self, shell_l: tuple[int, ...]) -> NDArray[np.int64]:
        """Place in the table of each orbital of an element with shells `shell_l`, m = -l..l.

        Raises
        ------
        ValueError
            When the element has more shells of one l than the table.
        """
        used = [0] * len(self.counts)
        places: list[int] = []
        for degree in shell_l:
            if degree >= len(self.counts) or used[degree] == self.counts[degree]:
                raise ValueError(f"shells {shell_l} do not fit a table of {self.counts}")
            before = sum((2 * k + 1) * count for k, count in enumerate(self.counts[:degree]))
            low = before + used[degree] * (2 * degree + 1)
            places += range(low, low + 2 * degree + 1)
            used[degree] += 1
        return np.array(places, dtype=np.int64)

    def rotate_back(self, blocks: torch.Tensor, rotations: list[torch.Tensor]) -> torch.Tensor:
        """Turn blocks (P, norbitals, norbitals) out of the frames of their pairs.

        Parameters
        ----------
        blocks : Tensor
            Blocks between orbitals whose polar axis is the pair.
        rotations : list of Tensor, shape (P, 2l + 1, 2l + 1)
            Rotations into the frames (`pair_rotations`).
        """
        # Rows, then columns: each pass leaves the block transposed.
        for _ in range(2):
            pieces = []
            widths = [(2 * degree + 1) * count for degree, count in enumerate(self.counts)]
            for degree, piece in enumerate(torch.split(blocks, widths, dim=1)):
                shape = piece.shape
                shells = piece.reshape(shape[0], self.counts[degree], 2 * degree + 1, shape[2])
                turned = rotations[degree].transpose(1, 2)[:, None] @ shells
                pieces.append(turned.reshape(shape) if degree else piece)
            blocks = torch.cat(pieces, dim=1).transpose(1, 2)
        return blocks

    @cached_property
    def openmx_slots(self) -> NDArray[np.int64]:
        """Place in the table of each orbital in OpenMX's order, shape (norbitals,)."""
        places: list[int] = []
        low = 0
        for degree in self.shell_l:
            places += [low + m for m in OPENMX_ORDER[degree]]
            low += 2 * degree + 1
        return np.array(places, dtype=np.int64)


class BlockCoupling(nn.Module):
    """Orthogonal map between the irreps of blocks and their elements.

    H_ij = sum_L sqrt(2L + 1) sum_M C(la, lb, L)_ijM g_LM for row shell a and column shell b.

    Parameters
    ----------
    table : ShellTable
        Shells of rows and columns.
    sign_flips : frozenset of (int, int, int)
        Triples (la, lb, L) whose Clebsch-Gordan coefficients have the other sign than e3nn's.
    """

    def __init__(
        self, table: ShellTable, sign_flips: frozenset[tuple[int, int, int]] = frozenset()
    ) -> None:
        super().__init__()
        self.counts = table.counts
        self.kinds = sorted({(la, lb) for la in table.shell_l for lb in table.shell_l})
        self.degrees = sorted(set(table.shell_l))
        for la, lb in self.kinds:
            parts = [
                math.sqrt(2 * total + 1)
                * (-1 if (la, lb, total) in sign_flips else 1)
                * wigner_3j(la, lb, total, dtype=torch.float64).flatten(0, 1)
                for total in range(abs(la - lb), la + lb + 1)
            ]
            coupling = torch.cat(parts, dim=1).to(torch.get_default_dtype())
            self.register_buffer(f"coupling_{la}{lb}", coupling, persistent=False)

    def forward(self, pieces: dict[tuple[int, int], torch.Tensor]) -> torch.Tensor:
        """Return blocks (P, norbitals, norbitals) of irreps.

        Parameters
        ----------
        pieces : dict
            For each (la, lb) a tensor of shape (P, (2la + 1)(2lb + 1), shells a * shells b): all
            (L, M) with L ascending, for each pair of shells.
        """
        rows = []
        for la in self.degrees:
            columns = []
            for lb in self.degrees:
                na, nb = self.counts[la], self.counts[lb]
                block = getattr(self, f"coupling_{la}{lb}") @ pieces[la, lb]
                shape = (-1, 2 * la + 1, 2 * lb + 1, na, nb)
                ordered = block.reshape(shape).permute(0, 3, 1, 4, 2)
                columns.append(ordered.reshape(-1, na * (2 * la + 1), nb * (2 * lb + 1)))
            rows.append(torch.cat(columns, dim=2))
        return torch.cat(rows, dim=1)

    def inverse(self, blocks: torch.Tensor) -> dict[tuple[int, int], torch.Tensor]:
        """Return the irreps of blocks, the `pieces` of `forward`."""
        widths = [self.counts[degree] * (2 * degree + 1) for degree in self.degrees]
        pieces = {}
        for la, row in zip(self.degrees, torch.split(blocks, widths, dim=1), strict=True):
            for lb, part in zip(self.degrees, torch.split(row, widths, dim=2), strict=True):
                na, nb = self.counts[la], self.counts[lb]
                ordered = part.reshape(-1, na, 2 * la + 1, nb, 2 * lb + 1).permute(0, 2, 4, 1, 3)
                block = ordered.reshape(-1, (2 * la + 1) * (2 * lb + 1), na * nb)
                coupling = getattr(self, f"coupling_{la}{lb}").to(blocks.dtype)
                pieces[la, lb] = coupling.t() @ block
        return pieces

    def inverse_shells(self, blocks: torch.Tensor) -> dict[tuple[int, int], torch.Tensor]:
        """Return one element of each pair of shells, (P, shells a * shells b) for each (la, lb)."""
        firsts: dict[int, list[int]] = {}
        low = 0
        for degree in self.degrees:
            width = 2 * degree + 1
            firsts[degree] = [low + n * width for n in range(self.counts[degree])]
            low += self.counts[degree] * width
        return {
            (la, lb): blocks[:, firsts[la]][:, :, firsts[lb]].flatten(1) for la, lb in self.kinds
        }


class BlockLinear(nn.Module):
    """Linear map from features to Hamiltonian blocks.

    One irrep of multiplicity 1 for each (row shell, column shell, L), weights stored entry by
    entry.

    Parameters
    ----------
    irreps_in : Irreps
        Irreps of the features.
    table : ShellTable
        Shells of rows and columns.
    sign_flips : frozenset of (int, int, int)
        As for `BlockCoupling`.
    """

    def __init__(
        self, irreps_in: Irreps, table: ShellTable, sign_flips: frozenset[tuple[int, int, int]]
    ) -> None:
        super().__init__()
        self.irreps_in = irreps_in
        self.coupling = BlockCoupling(table, sign_flips)
        outputs: dict[Irrep, list[tuple[int, int]]] = {}
        for la_lb in [(la, lb) for la in table.shell_l for lb in table.shell_l]:
            for total in range(abs(la_lb[0] - la_lb[1]), sum(la_lb) + 1):
                outputs.setdefault(Irrep(total, natural_parity(sum(la_lb))), []).append(la_lb)
        self.outputs = outputs
        self.start: list[int] = []
        numel = 0
        for mul, irrep in irreps_in:
            self.start.append(numel)
            numel += mul * len(outputs.get(irrep, []))
        missing = set(outputs) - {irrep for _, irrep in irreps_in}
        if missing:
            raise ValueError(f"blocks need features {sorted(map(str, missing))}, not in the irreps")
        self.weight = nn.Parameter(torch.randn(numel))
        for irrep, pairs in outputs.items():
            # Outputs of one (la, lb) are brought together, in order of (row, column) shell.
            order = sorted(range(len(pairs)), key=lambda n, pairs=pairs: pairs[n])  # type: ignore
            self.register_buffer(f"order_{irrep}", torch.tensor(order), persistent=False)

    def forward(self, features: Features) -> torch.Tensor:
        """Return blocks of shape (rows, norbitals, norbitals) in the order of the table."""
        pieces: dict[tuple[int, int], list[torch.Tensor]] = {k: [] for k in self.coupling.kinds}
        by_irrep = {irrep: e for e, (_, irrep) in enumerate(self.irreps_in)}
        # Ascending L within one (la, lb), as the coupling has it.
        for irrep in sorted(self.outputs, key=lambda ir: ir.l):
            e = by_irrep[irrep]
            mul, nout = self.irreps_in[e].mul, len(self.outputs[irrep])
            flat = self.weight[self.start[e] : self.start[e] + mul * nout]
            matrix = flat.view(nout, mul) / math.sqrt(mul)
            matrix = matrix.index_select(0, getattr(self, f"order_{irrep}"))
            kinds = [k for k in self.coupling.kinds if k in set(self.outputs[irrep])]
            sizes = [self.outputs[irrep].count(kind) for kind in kinds]
            values = torch.split(features[e] @ matrix.t(), sizes, dim=2)
            for kind, value in zip(kinds, values, strict=True):
                pieces[kind].append(value)
        blocks: torch.Tensor = self.coupling(
            {kind: torch.cat(parts, dim=1) for kind, parts in pieces.items()}
        )
        return blocks
