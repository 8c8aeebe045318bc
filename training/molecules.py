"""Molecules and clusters for training sets of organic matter and frameworks."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from hamgnn_solve.core.errors import InputError

__all__ = ["ACID_RESIDUES", "center_molecule", "molecule_from_smiles", "zinc_carboxylate"]

# The open axes are multiples of this length (4 grid points of 0.15 Angstrom), so that every
# molecule has the same grid spacing.
OPEN_STEP = 0.6
# Basic zinc carboxylate Zn4O(O2CR)6, point group T_d (Angstrom): component of the zinc atoms along
# each axis (Zn-O 1.94), oxygen atoms beside and along the axis, carboxylate carbon along the axis.
ZINC, OXYGEN_BESIDE, OXYGEN_ALONG, CARBON_ALONG = 1.12, 1.11, 3.00, 3.60
SINGLE_BOND, AROMATIC_BOND, TRIPLE_BOND, CH_BOND = 1.50, 1.39, 1.21, 1.09
ACID_RESIDUES = ("formate", "acetate", "propiolate", "benzoate")


def molecule_from_smiles(smiles: str, seed: int) -> Atoms:
    """Return one conformer of a molecule, hydrogen atoms included.

    RDKit embeds it (distance geometry with experimental torsions) and relaxes it with the MMFF94
    force field.

    Parameters
    ----------
    smiles : str
        The molecule.
    seed : int
        Seed of the embedding.

    Raises
    ------
    InputError
        When RDKit is missing, does not understand the string, or finds no conformer.
    """
    try:
        from rdkit import Chem
        from rdkit.Chem import rdDistGeom, rdForceFieldHelpers
        from rdkit.rdBase import BlockLogs
    except ImportError as error:
        raise InputError(
            "Molecules from SMILES need RDKit; install it with pip install rdkit."
        ) from error
    with BlockLogs():
        molecule = Chem.MolFromSmiles(smiles)
    if molecule is None:
        raise InputError(f"{smiles} is not a SMILES string that RDKit understands; mend the entry.")
    molecule = Chem.AddHs(molecule)
    if rdDistGeom.EmbedMolecule(molecule, randomSeed=seed + 1) != 0:
        raise InputError(f"RDKit finds no conformer of {smiles}; take another molecule.")
    rdForceFieldHelpers.MMFFOptimizeMolecule(molecule, maxIters=2000)
    symbols = [atom.GetSymbol() for atom in molecule.GetAtoms()]
    return Atoms(symbols, positions=molecule.GetConformer().GetPositions())


def zinc_carboxylate(residue: str) -> Atoms:
    """Return the cluster Zn4O(O2C-R)6, the node of MOF-5 and its relatives.

    Parameters
    ----------
    residue : str
        One of `ACID_RESIDUES`: formate (R = H), acetate (CH3), propiolate (C2H), benzoate (C6H5).

    Raises
    ------
    InputError
        For another residue.
    """
    if residue not in ACID_RESIDUES:
        raise InputError(
            f"There is no zinc carboxylate of {residue}; take one of {', '.join(ACID_RESIDUES)}."
        )
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=float)
    symbols, positions = ["O"] + ["Zn"] * 4, [np.zeros(3), *(ZINC * corners)]
    tail = _residue(residue)
    for axis in np.concatenate([np.eye(3), -np.eye(3)]):
        two = corners[corners @ axis > 0]
        across = (two[0] - two[1]) / np.linalg.norm(two[0] - two[1])
        symbols += ["O", "O", "C", *(symbol for symbol, _, _ in tail)]
        positions += [
            OXYGEN_ALONG * axis + OXYGEN_BESIDE * across,
            OXYGEN_ALONG * axis - OXYGEN_BESIDE * across,
            CARBON_ALONG * axis,
        ]
        side = np.cross(axis, across)
        for _, along, beside in tail:
            place = np.array([beside[0], beside[1], CARBON_ALONG + along])
            positions.append(place @ np.array([across, side, axis]))
    return Atoms(symbols, positions=np.array(positions))


def center_molecule(atoms: Atoms, vacuum: float) -> Atoms:
    """Return `atoms` in the middle of an open box.

    Parameters
    ----------
    atoms : Atoms
        The molecule.
    vacuum : float
        Least distance in Angstrom between an atom and the faces of the box.
    """
    result = atoms.copy()
    lengths = np.ptp(result.positions, axis=0) + 2 * vacuum
    result.cell = np.diag(OPEN_STEP * np.ceil(lengths / OPEN_STEP - 1e-9))
    result.pbc = False
    middle = (result.positions.min(axis=0) + result.positions.max(axis=0)) / 2
    result.positions += result.cell.diagonal() / 2 - middle
    return result


def _residue(name: str) -> list[tuple[str, float, NDArray[np.float64]]]:
    """Return (symbol, distance from the carboxylate carbon along the axis, offset) of R's atoms."""
    none = np.zeros(2)
    if name == "formate":
        return [("H", CH_BOND, none)]
    if name == "acetate":
        turns = 2 * np.pi * np.arange(3) / 3
        circle = np.column_stack([np.cos(turns), np.sin(turns)])
        height = SINGLE_BOND + CH_BOND / 3
        return [("C", SINGLE_BOND, none)] + [
            ("H", height, CH_BOND * np.sqrt(8) / 3 * offset) for offset in circle
        ]
    if name == "propiolate":
        first, second = SINGLE_BOND - 0.04, SINGLE_BOND - 0.04 + TRIPLE_BOND
        return [("C", first, none), ("C", second, none), ("H", second + 1.07, none)]
    turns = np.pi + np.pi * np.arange(6) / 3
    middle = SINGLE_BOND + AROMATIC_BOND
    ring = [
        ("C", middle + AROMATIC_BOND * np.cos(t), np.array([AROMATIC_BOND * np.sin(t), 0.0]))
        for t in turns
    ]
    outer = AROMATIC_BOND + CH_BOND
    return ring + [
        ("H", middle + outer * np.cos(t), np.array([outer * np.sin(t), 0.0])) for t in turns[1:]
    ]
