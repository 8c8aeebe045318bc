from typing import Any

import numpy as np
from numpy.typing import NDArray

def coupled_pairs(
    rows: NDArray[np.int64],
    by_row: NDArray[np.int64],
    row_start: NDArray[np.int64],
    centre: NDArray[np.int64],
    orbital_atom: NDArray[np.int64],
    shift: NDArray[np.int64],
    weight: NDArray[np.float64],
    centre_start: NDArray[np.int64],
    natoms: int,
    reach: int,
    threshold: float,
    /,
) -> NDArray[np.int64]: ...
def add_separable(
    rows: NDArray[np.int64],
    by_row: NDArray[np.int64],
    row_start: NDArray[np.int64],
    centre: NDArray[np.int64],
    orbital_atom: NDArray[np.int64],
    shift: NDArray[np.int64],
    weight: NDArray[np.float64],
    centre_start: NDArray[np.int64],
    natoms: int,
    reach: int,
    threshold: float,
    blocks: NDArray[np.float64],
    block_offset: NDArray[np.int64],
    couplings: NDArray[np.float64],
    coupling_offset: NDArray[np.int64],
    element: NDArray[np.int64],
    nproj: NDArray[np.int64],
    norb: NDArray[np.int64],
    target_key: NDArray[np.int64],
    target_offset: NDArray[np.int64],
    target: NDArray[np.float64],
    /,
) -> None: ...
def add_messages(
    entries: NDArray[np.int64],
    couplings: NDArray[np.int64],
    coefficients: NDArray[Any],
    sources: NDArray[Any],
    rotations: NDArray[Any],
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    weights: NDArray[Any],
    sums: list[NDArray[Any]],
    /,
) -> None: ...
def turn_sums(
    entries: NDArray[np.int64],
    one: NDArray[Any],
    one_atom: NDArray[np.int64],
    other: NDArray[Any],
    other_atom: NDArray[np.int64],
    rotations: NDArray[Any],
    out: NDArray[Any],
    /,
) -> None: ...
def axis_components(
    couplings: NDArray[np.int64],
    features: NDArray[Any],
    weights: NDArray[Any],
    m: int,
    out: NDArray[Any],
    /,
) -> None: ...
def spline_values(
    coefficients: NDArray[Any],
    first: NDArray[np.int64],
    place: NDArray[np.float64],
    out: NDArray[Any],
    /,
) -> None: ...
