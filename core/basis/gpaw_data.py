"""The built-in basis: numerical orbitals and PAW setups of the `gpaw-data` package."""

from __future__ import annotations

import gzip
import importlib.util
import re
import xml.etree.ElementTree as ElementTree
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hamgnn_solve.core.basis.partial_waves import PartialWaves
from hamgnn_solve.core.basis.species import Basis, RadialFunction, Species
from hamgnn_solve.core.errors import InputError

__all__ = ["built_in_basis", "built_in_species", "read_partial_waves", "read_species"]

PROJECTOR_POINTS = 26


def built_in_species(names: dict[str, str]) -> dict[str, Species]:
    """Read the data sets of several elements.

    Parameters
    ----------
    names : dict of str to str
        Data name ("Mo.6", "S") by chemical symbol.

    Raises
    ------
    InputError
        As `read_species`, and when a data set describes another element than it is given for.
    """
    species = {symbol: read_species(name) for symbol, name in names.items()}
    for symbol, one in species.items():
        if one.symbol != symbol:
            raise InputError(
                f"The data set {names[symbol]} describes {one.symbol} but is asked for as "
                f"{symbol}; name a set of {symbol}."
            )
    return species


def built_in_basis(names: dict[str, str]) -> Basis:
    """Return the basis of whole data sets; parameters and errors as `built_in_species`."""
    return Basis(built_in_species(names))


@cache
def read_species(name: str) -> Species:
    """Read the dzp orbitals and the PBE setup of one element from the `gpaw-data` package.

    The same object is returned for the same name, so integral tables are shared.

    Parameters
    ----------
    name : str
        Chemical symbol, with the setup after a dot where it is not the default: "S", "Mo.6".

    Returns
    -------
    Species
        Shells in the order of the file (first zetas, second zetas, polarisation); projectors on
        the 26-point mesh that GPAW takes them to, which its overlap depends on by up to 1e-3.

    Raises
    ------
    InputError
        When `gpaw-data` is not installed, has no such set, or a file of it is damaged.
    """
    setup, basis = (_parse(file) for file in _files(name))
    try:
        projectors, coupling = _projectors(setup)
        atom = setup.find("atom")
        if atom is None:
            raise ValueError("no atom")
        return Species(
            symbol=atom.attrib["symbol"],
            name=f"{name}.dzp",
            valence=float(atom.attrib["valence"]),
            shells=_shells(basis),
            projectors=projectors,
            projector_overlap=coupling,
        )
    except (ValueError, KeyError, IndexError) as error:
        raise InputError(
            f"The data set {name} of gpaw-data is damaged ({error}); install gpaw-data again."
        ) from error


@cache
def read_partial_waves(name: str) -> PartialWaves:
    """Read the partial waves of the PBE setup of one element from the `gpaw-data` package.

    Parameters and errors are those of `read_species`, which returns the projectors in the same
    order.

    Notes
    -----
    Blöchl, Phys. Rev. B 50, 17953 (1994). The free atom's density is that of its bound states,
    f phi^2 / 4 pi, scaled to hold the valence electrons exactly (a scalar-relativistic function
    lacks its small component).
    """
    setup = _parse(_files(name)[0])
    try:
        states = setup.findall("valence_states/state")
        scale, count = _rational_grid(setup)
        index_g = np.arange(count)
        radius_g = scale * index_g / (count - index_g)
        waves = {
            kind: [_state_function(setup, kind, state, count) for state in states]
            for kind in ("ae_partial_wave", "pseudo_partial_wave")
        }
        radius = max(float(state.attrib["rc"]) for state in states)
        inside = slice(int(np.ceil(count * 2 * radius / (scale + 2 * radius))))

        def functions(kind: str) -> tuple[RadialFunction, ...]:
            return tuple(
                RadialFunction(
                    angular,
                    radius_g[inside],
                    _divide_by_power(values_g, radius_g, angular)[inside],
                    f"{kind} {state.attrib['id']}",
                )
                for state, values_g in zip(states, waves[kind], strict=True)
                for angular in [int(state.attrib["l"])]
            )

        bound = tuple(float(state.attrib.get("f", 0.0)) for state in states)
        density_g = np.array(bound) @ np.square(waves["ae_partial_wave"]) / (4.0 * np.pi)
        weight_g = radius_g**2 * scale * count / (count - index_g) ** 2
        held = 4.0 * np.pi * float(weight_g @ density_g)
        return PartialWaves(
            functions("ae_partial_wave"),
            functions("pseudo_partial_wave"),
            radius,
            bound,
            radius_g,
            density_g * (sum(bound) / held),
        )
    except (ValueError, KeyError, IndexError) as error:
        raise InputError(
            f"The data set {name} of gpaw-data is damaged ({error}); install gpaw-data again."
        ) from error


def _files(name: str) -> tuple[Path, Path]:
    """Return the files of the setup and of the orbitals of a data set."""
    folder = _setups_folder()
    files = folder / f"{name}.PBE.gz", folder / f"{name}.dzp.basis.gz"
    # The pattern keeps a name out of a model file from reaching outside the folder.
    known = re.fullmatch(r"[A-Z][a-z]?(\.\w+)*", name) is not None
    if not (known and all(file.is_file() for file in files)):
        raise InputError(
            f"The package gpaw-data has no dzp orbitals with a PBE setup called {name}; use an "
            "element it covers, named like Mo.6 or S."
        )
    return files


def _setups_folder() -> Path:
    spec = importlib.util.find_spec("gpaw_data")
    if spec is None or spec.origin is None:
        raise InputError(
            "The package gpaw-data with the built-in orbitals is not installed; "
            "run 'pip install gpaw-data'."
        )
    return Path(spec.origin).parent / "setups"


def _parse(path: Path) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(gzip.decompress(path.read_bytes()))
    except (OSError, EOFError, ElementTree.ParseError) as error:
        raise InputError(
            f"The file {path.name} of gpaw-data is damaged ({error}); install gpaw-data again."
        ) from error


def _shells(basis: ElementTree.Element) -> tuple[RadialFunction, ...]:
    grid = basis.find("radial_grid")
    if grid is None or grid.attrib["eq"] != "r=d*i":
        raise ValueError("the orbitals are not on a grid r=d*i")
    step = float(grid.attrib["d"])
    shells = []
    for function in basis.findall("basis_function"):
        angular = int(function.attrib["l"])
        radius_g = step * np.arange(int(function.attrib["ng"]))
        values_g = _numbers(function, len(radius_g))
        name = function.attrib["type"].split()[0]
        shells.append(
            RadialFunction(angular, radius_g, _divide_by_power(values_g, radius_g, angular), name)
        )
    if not shells:
        raise ValueError("no orbitals")
    return tuple(shells)


def _projectors(
    setup: ElementTree.Element,
) -> tuple[tuple[RadialFunction, ...], NDArray[np.float64]]:
    """Read the projector shells and the radial part of dS.

    dS_ij = integral of (phi_i phi_j - pseudo_i pseudo_j) r^2 for equal l (Blöchl, Phys. Rev. B
    50, 17953 (1994)), taken, as GPAW does, up to twice the largest augmentation radius.
    """
    states = setup.findall("valence_states/state")
    state_l = np.array([int(state.attrib["l"]) for state in states])
    scale, count = _rational_grid(setup)
    index_g = np.arange(count)
    radius_g = scale * index_g / (count - index_g)
    weight_g = radius_g**2 * scale * count / (count - index_g) ** 2

    functions = {
        kind: np.array([_state_function(setup, kind, state, count) for state in states])
        for kind in ("ae_partial_wave", "pseudo_partial_wave", "projector_function")
    }
    reach = 2 * max(float(state.attrib["rc"]) for state in states)
    inside = slice(int(np.ceil(count * reach / (scale + reach))))
    full, pseudo = (
        functions[kind][:, inside] for kind in ("ae_partial_wave", "pseudo_partial_wave")
    )
    same_l = state_l[:, None] == state_l[None, :]
    coupling = same_l * (
        (full * weight_g[inside]) @ full.T - (pseudo * weight_g[inside]) @ pseudo.T
    )

    values_sg = functions["projector_function"]
    zero_potential = setup.find("zero_potential")
    if zero_potential is None:
        raise ValueError("no zero_potential")
    last = max(_last_nonzero(values_sg[0]), _last_nonzero(_numbers(zero_potential, count)))
    mesh_g = np.linspace(0.0, radius_g[last + 1], PROJECTOR_POINTS)
    centre_g = np.floor(count * mesh_g / (scale + mesh_g) + 0.5).astype(np.int64)
    projectors = []
    for state, angular, values_g in zip(states, state_l, values_sg, strict=True):
        reduced_g = _divide_by_power(values_g, radius_g, int(angular))
        resampled_g = _lagrange(mesh_g, radius_g, reduced_g, np.clip(centre_g, 1, count - 2))
        resampled_g[-1] = 0.0
        projectors.append(RadialFunction(int(angular), mesh_g, resampled_g, state.attrib["id"]))
    return tuple(projectors), coupling


def _rational_grid(setup: ElementTree.Element) -> tuple[float, int]:
    grid = setup.find("radial_grid")
    if grid is None or grid.attrib["eq"] != "r=a*i/(n-i)":
        raise ValueError("the setup is not on a grid r=a*i/(n-i)")
    return float(grid.attrib["a"]), int(grid.attrib["n"])


def _state_function(
    setup: ElementTree.Element, kind: str, state: ElementTree.Element, count: int
) -> NDArray[np.float64]:
    function = setup.find(f"{kind}[@state='{state.attrib['id']}']")
    if function is None:
        raise ValueError(f"no {kind} of {state.attrib['id']}")
    return _numbers(function, count)


def _numbers(element: ElementTree.Element, count: int) -> NDArray[np.float64]:
    values = np.array((element.text or "").split(), dtype=np.float64)
    if len(values) != count or not np.isfinite(values).all():
        raise ValueError(f"{element.tag} has not {count} finite values")
    return values


def _last_nonzero(values_g: NDArray[np.float64]) -> int:
    return int(np.flatnonzero(values_g)[-1])


def _divide_by_power(
    values_g: NDArray[np.float64], radius_g: NDArray[np.float64], angular: int
) -> NDArray[np.float64]:
    """Return R / r^l; at r = 0, as GPAW does, the line in r^2 through the next two points."""
    if angular == 0:
        return values_g.copy()
    reduced_g = np.empty_like(values_g)
    reduced_g[1:] = values_g[1:] / radius_g[1:] ** angular
    x1, x2 = radius_g[1:3] ** 2
    y1, y2 = reduced_g[1:3]
    reduced_g[0] = (y1 * x2 - y2 * x1) / (x2 - x1)
    return reduced_g


def _lagrange(
    where_g: NDArray[np.float64],
    radius_g: NDArray[np.float64],
    values_g: NDArray[np.float64],
    centre_g: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Interpolate with the parabola through the centre point and its two neighbours."""
    x1, x2, x3 = (radius_g[centre_g + n] for n in (-1, 0, 1))
    y1, y2, y3 = (values_g[centre_g + n] for n in (-1, 0, 1))
    return (
        y1 * (where_g - x2) * (where_g - x3) / ((x1 - x2) * (x1 - x3))
        + y2 * (where_g - x1) * (where_g - x3) / ((x2 - x1) * (x2 - x3))
        + y3 * (where_g - x1) * (where_g - x2) / ((x3 - x1) * (x3 - x2))
    )
