"""Signs of the coupling constants that a published checkpoint carries."""

from __future__ import annotations

import re

import torch
from e3nn.o3 import wigner_3j

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.io.checkpoint import Checkpoint
from hamgnn_solve.core.network.shells import V1_SIGN_FLIPS

__all__ = ["check_product_constants", "has_sign_flips"]

COUPLINGS = re.compile(r"\.cg_(?:cal|calculator)\.cg_(\d+)_(\d+)_(\d+)$")
PRODUCT_CONSTANTS = re.compile(r"\._w3j_(\d+)_(\d+)_(\d+)$")


def check_product_constants(checkpoint: Checkpoint) -> None:
    """Raise `InputError` unless the constants of the products are those of the installed e3nn.

    Weights that were trained with constants of another sign would give another Hamiltonian.
    """
    for key, tensor in checkpoint.tensors.items():
        match = PRODUCT_CONSTANTS.search(key)
        if match and _relative_sign(checkpoint, key, tensor, match) < 0:
            raise InputError(
                f"The constants {key} of {checkpoint.path} have the other sign than those of the "
                "installed e3nn; weights made with that release of e3nn are not supported."
            )


def has_sign_flips(checkpoint: Checkpoint, version: int, lmax: int) -> bool:
    """Tell whether the blocks are coupled with the signs of published V1 weights.

    Parameters
    ----------
    checkpoint : Checkpoint
    version : {1, 2}
        Version of the network; 2 has no tables of its own and no flips.
    lmax : int
        Highest degree of the orbitals.

    Raises
    ------
    InputError
        When tables are missing, or their signs are neither e3nn's nor those of V1.
    """
    found: dict[tuple[int, ...], int] = {}
    for key, tensor in checkpoint.tensors.items():
        match = COUPLINGS.search(key)
        degrees = tuple(int(n) for n in match.groups()) if match else ()
        if match and max(degrees[:2]) <= lmax:
            found[degrees] = _relative_sign(checkpoint, key, tensor, match)
    if version == 2 and not found:
        return False
    wanted = {
        (la, lb, total)
        for la in range(lmax + 1)
        for lb in range(lmax + 1)
        for total in range(abs(la - lb), la + lb + 1)
    }
    if not wanted <= found.keys():
        raise InputError(
            f"The checkpoint {checkpoint.path} lacks the coupling tables output_module.cg_cal.*, "
            "without which the signs of its blocks are unknown; give the whole state dict."
        )
    flips = {degrees for degrees in wanted if found[degrees] < 0}
    known = {degrees for degrees in V1_SIGN_FLIPS if degrees in wanted}
    if flips and (flips != known or version == 2):
        raise InputError(
            f"The coupling tables of {checkpoint.path} have unknown signs (at "
            f"{', '.join(map(str, sorted(flips ^ known)))}); this checkpoint is not supported."
        )
    return bool(flips)


def _relative_sign(
    checkpoint: Checkpoint, key: str, tensor: torch.Tensor, match: re.Match[str]
) -> int:
    """Return +1 or -1 where a stored table of coupling constants is that times e3nn's."""
    l1, l2, l3 = (int(n) for n in match.groups())
    ours = wigner_3j(l1, l2, l3, dtype=torch.float64)
    if tensor.shape == ours.shape:
        for sign in (1, -1):
            # Constants are stored in single precision.
            if torch.allclose(tensor.double(), sign * ours, rtol=0, atol=1e-5):
                return sign
    raise InputError(
        f"The constants {key} of {checkpoint.path} are not Clebsch-Gordan coefficients of this "
        "kind; the file is damaged or from another program."
    )
