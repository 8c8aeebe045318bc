"""Structures to label, listed in a YAML recipe.

A recipe is a few lines of text a structure, so that anyone can make the same list again. Every
entry has a name and one source:

=================  ==============================================================================
``layers``         slab of 2H layers with the parameters of `slabs.SlabEntry`
``twist``          twisted bilayer: [lower layer, upper layer, m, n], with ``lattice`` and
                   ``distance`` (Angstrom) and ``stacking`` (R or H)
``smiles``         molecule, embedded by RDKit
``carboxylate``    cluster Zn4O(O2CR)6: formate, acetate, propiolate, benzoate
``core_mof``       cell of the CoRE MOF database: [data set, name]
``file``           structure file, relative to the recipe; ``kind`` tells what it holds (slab,
                   molecule, crystal), ``frame`` which of several structures
=================  ==============================================================================

A recipe may also have ``settings``: values of `labels.LabelSettings` that its labels are made with.
Frameworks and files take ``supercell`` (three numbers) and ``strain`` (along x, y and z).
All but ``layers`` take ``rattle`` (standard deviation of random displacements along each axis,
Angstrom), ``seed`` and, where an axis is open, ``vacuum`` (Angstrom beyond the outermost atom).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from ase import Atoms
from ase.io import read

from hamgnn_solve.core.building.hexagonal_layers import find_layer
from hamgnn_solve.core.building.twisted_bilayer import (
    CommensurateTwist,
    TwistedBilayer,
    build_twisted_bilayer,
    mean_lattice,
    usual_distance,
)
from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.units import ANGSTROM_PER_BOHR
from hamgnn_solve.training.frameworks import framework
from hamgnn_solve.training.molecules import center_molecule, molecule_from_smiles, zinc_carboxylate
from hamgnn_solve.training.slabs import SlabEntry, build_slab, center_slab

__all__ = [
    "RECIPE_ENDINGS",
    "RecipeStructure",
    "read_recipe",
    "read_structures",
    "recipe_settings",
]

RECIPE_ENDINGS = (".yaml", ".yml")
KINDS = ("slab", "molecule", "crystal")
DEFAULT_VACUUM = 5.5


@dataclass(frozen=True)
class RecipeStructure:
    """A structure to label, made when it is asked for (the CoRE MOF database is slow to open).

    Parameters
    ----------
    name : str
        Name of the label.
    entry : dict
        What it is made from: an entry of a recipe.
    folder : Path
        Where files of the entry are.

    Raises
    ------
    InputError
        When the entry has not one source, or an unknown key.
    """

    name: str
    entry: dict[str, Any]
    folder: Path

    def __post_init__(self) -> None:
        sources = [key for key in SOURCES if key in self.entry]
        if len(sources) != 1:
            raise InputError(f"Entry {self.name} needs one of {', '.join(SOURCES)}.")
        known = {"name", sources[0], *SOURCES[sources[0]].keys}
        unknown = set(self.entry) - known
        if unknown:
            raise InputError(
                f"Entry {self.name} has an unknown key {min(unknown)}; known are "
                f"{', '.join(sorted(known))}."
            )

    def build(self) -> Atoms:
        """Return the structure; `pbc` tells which axes are periodic.

        Raises
        ------
        InputError
            When it cannot be made.
        """
        source = next(SOURCES[key] for key in SOURCES if key in self.entry)
        try:
            return source.make(self.entry, self.folder)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise InputError(
                f"Entry {self.name} cannot be read: {self.entry} ({error}); mend the recipe."
            ) from error


def read_recipe(path: Path) -> list[RecipeStructure]:
    """Return the structures of a recipe, in order.

    Raises
    ------
    InputError
        If the file is no YAML file with a list ``structures``, an entry has no source or an
        unknown key, or a name occurs twice.
    """
    entries = _content(path)["structures"]
    for item in entries:
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            raise InputError(f"{path} has an entry without a name: {item}.")
    _refuse_repeated([item["name"] for item in entries], path)
    return [RecipeStructure(item["name"], item, path.parent) for item in entries]


def recipe_settings(path: Path) -> dict[str, Any]:
    """Return the entry ``settings`` of a recipe; empty without one. Raises as `read_recipe`."""
    settings = _content(path).get("settings", {})
    if not isinstance(settings, dict):
        raise InputError(f"{path}: 'settings' must be a table of names and values.")
    return settings


def read_structures(
    paths: list[Path], kind: str | None = None, vacuum: float | None = None
) -> list[RecipeStructure]:
    """Return the structures of recipes and structure files (all frames of a file), in order.

    Parameters
    ----------
    paths : list of Path
        Recipes (.yaml, .yml) and structure files that ASE reads.
    kind : str, optional
        What structure files hold: "slab" (third vector along z, open), "molecule" or "crystal".
        By default the periodic axes that the file states decide.
    vacuum : float, optional
        Vacuum in Angstrom beyond the outermost atoms of slabs and molecules of structure files.

    Raises
    ------
    InputError
        As `read_recipe`; when a file cannot be read, or two structures have one name.
    """
    structures: list[RecipeStructure] = []
    for path in paths:
        if path.suffix in RECIPE_ENDINGS:
            structures += read_recipe(path)
            continue
        count = len(_frames(path))
        for frame in range(count):
            name = path.stem if count == 1 else f"{path.stem}-{frame}"
            entry: dict[str, Any] = {"name": name, "file": path.name, "frame": frame}
            entry |= {} if kind is None else {"kind": kind}
            entry |= {} if vacuum is None else {"vacuum": vacuum}
            structures.append(RecipeStructure(name, entry, path.parent))
    _refuse_repeated([one.name for one in structures], "the list")
    return structures


def _content(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path} cannot be read as YAML ({error}); mend the recipe.") from error
    if not isinstance(content, dict) or not isinstance(content.get("structures"), list):
        raise InputError(f"{path} has no list 'structures'; see the recipes of the project.")
    return content


def _slab(entry: dict[str, Any], _: Path) -> Atoms:
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()
    }
    return build_slab(SlabEntry(**values))


def _twist(entry: dict[str, Any], _: Path) -> Atoms:
    lower, upper, m, n = entry["twist"]
    below, above = find_layer(str(lower)), find_layer(str(upper))
    made = build_twisted_bilayer(
        TwistedBilayer(
            below,
            above,
            CommensurateTwist(m, n),
            lattice=_length(entry, "lattice") or mean_lattice(below, above),
            distance=_length(entry, "distance") or usual_distance(below, above),
            stacking=str(entry.get("stacking", "R")),
        )
    )
    atoms = Atoms(
        made.symbols,
        positions=made.pos_ic * ANGSTROM_PER_BOHR,
        cell=made.cell_cc * ANGSTROM_PER_BOHR,
        pbc=(True, True, False),
    )
    return _finished(atoms, "slab", entry)


def _length(entry: dict[str, Any], key: str) -> float | None:
    """Return a length of an entry, given in Angstrom, in Bohr."""
    return float(entry[key]) / ANGSTROM_PER_BOHR if key in entry else None


def _molecule(entry: dict[str, Any], _: Path) -> Atoms:
    seed = int(entry.get("seed", 0))
    return _finished(molecule_from_smiles(str(entry["smiles"]), seed), "molecule", entry)


def _cluster(entry: dict[str, Any], _: Path) -> Atoms:
    return _finished(zinc_carboxylate(str(entry["carboxylate"])), "molecule", entry)


def _framework(entry: dict[str, Any], _: Path) -> Atoms:
    data_set, name = map(str, entry["core_mof"])
    return _finished(framework(data_set, name), "crystal", entry)


def _file(entry: dict[str, Any], folder: Path) -> Atoms:
    path = folder / str(entry["file"])
    atoms = _frames(path)[int(entry.get("frame", 0))]
    return _finished(atoms, str(entry.get("kind") or _kind(atoms, path)), entry)


def _finished(atoms: Atoms, kind: str, entry: dict[str, Any]) -> Atoms:
    """Return `atoms` rattled, and placed in a cell that suits their kind."""
    if kind not in KINDS:
        raise InputError(f"{kind} is no kind of structure; take one of {', '.join(KINDS)}.")
    rattle = float(entry.get("rattle", 0.0))
    if rattle < 0:
        raise InputError(f"Entry {entry['name']} has a negative rattle; mend it.")
    atoms = atoms.repeat([int(n) for n in entry.get("supercell", (1, 1, 1))])
    stretch_c = 1.0 + np.array(entry.get("strain", (0.0, 0.0, 0.0)), dtype=float)
    atoms.set_cell(atoms.cell[:] * stretch_c, scale_atoms=False)
    atoms.positions *= stretch_c
    random = np.random.default_rng(int(entry.get("seed", 0)))
    if rattle > 0:
        atoms.positions += random.normal(scale=rattle, size=atoms.positions.shape)
    vacuum = float(entry.get("vacuum", DEFAULT_VACUUM))
    if kind == "slab":
        return center_slab(atoms, vacuum)
    if kind == "molecule":
        return center_molecule(atoms, vacuum)
    atoms.pbc = True
    atoms.wrap()
    return atoms


def _kind(atoms: Atoms, path: Path) -> str:
    periodic = tuple(bool(x) for x in atoms.pbc)
    kinds = {
        (True, True, False): "slab",
        (True, True, True): "crystal",
        (False, False, False): "molecule",
    }
    if periodic not in kinds:
        raise InputError(
            f"{path} is periodic along {periodic}; only slabs (open along z), molecules and "
            "crystals can be labelled."
        )
    return kinds[periodic]


def _frames(path: Path) -> list[Atoms]:
    if not path.is_file():
        raise InputError(f"There is no file {path}; check the name.")
    try:
        frames = read(path, index=":")
    except Exception as error:  # ASE's readers raise many kinds for a malformed file
        raise InputError(f"{path} cannot be read as a structure ({error}).") from error
    if not frames:
        raise InputError(f"{path} holds no structure.")
    return list(frames)


def _refuse_repeated(names: list[str], where: Path | str) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InputError(f"{where} names {repeated[0]} twice; give every structure its own name.")


@dataclass(frozen=True)
class _Source:
    """How entries with one kind of source are made, and the keys they may have."""

    make: Callable[[dict[str, Any], Path], Atoms]
    keys: tuple[str, ...]


SOURCES = {
    "layers": _Source(_slab, tuple(field.name for field in fields(SlabEntry))),
    "twist": _Source(_twist, ("lattice", "distance", "stacking", "rattle", "seed", "vacuum")),
    "smiles": _Source(_molecule, ("rattle", "seed", "vacuum")),
    "carboxylate": _Source(_cluster, ("rattle", "seed", "vacuum")),
    "core_mof": _Source(_framework, ("supercell", "strain", "rattle", "seed")),
    "file": _Source(_file, ("frame", "kind", "supercell", "strain", "rattle", "seed", "vacuum")),
}
