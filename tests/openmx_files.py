"""Small `.pao` and `.vps` files with known contents, for tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

from hamgnn_solve.core.basis.openmx_data import openmx_basis
from hamgnn_solve.core.basis.openmx_table import OpenMXSpecies
from hamgnn_solve.core.basis.species import Basis

CUTOFF = 7.0
POINTS = 500


@dataclass(frozen=True)
class Gaussians:
    """An atom of Gaussians: R = r^l exp(-a r^2), p = exp(-b r^2), charge densities exp(-c r^2).

    The potential V_loc is that of `valence` protons spread out with exponent `nucleus`, the
    valence density has exponent `cloud`.
    """

    symbol: str
    number: int
    valence: float
    orbitals: tuple[tuple[float, ...], ...]
    projectors: tuple[tuple[int, float, float], ...]
    nucleus: float
    cloud: float

    @property
    def label(self) -> str:
        """Name of the orbitals, as OpenMX writes it."""
        shells = "".join(f"{'spdf'[n]}{len(x)}" for n, x in enumerate(self.orbitals))
        return f"{self.symbol}{CUTOFF:.1f}-{shells}"

    def potential(self, radius: NDArray[np.float64]) -> NDArray[np.float64]:
        """V_loc + V_H of the atom, without the damping at the cutoff."""
        inner, outer = (erf(np.sqrt(x) * radius) for x in (self.cloud, self.nucleus))
        return self.valence * (inner - outer) / radius


CARBON = Gaussians("C", 6, 4.0, ((0.9, 0.55), (0.7,)), ((0, 1.3, 0.7), (1, 1.1, -0.4)), 1.6, 0.8)
HYDROGEN = Gaussians("H", 1, 1.0, ((0.8, 0.6), (0.75,)), ((0, 1.5, 0.3),), 2.0, 1.0)


def write_files(folder: Path, atom: Gaussians) -> OpenMXSpecies:
    """Write the `.pao` and `.vps` files of an atom below a folder; return what names them."""
    species = OpenMXSpecies(atom.symbol, atom.label, f"{atom.symbol}_PBE19", atom.valence)
    for name in ("PAO", "VPS"):
        (folder / name).mkdir(exist_ok=True)
    (folder / "PAO" / f"{atom.symbol}{CUTOFF:.1f}.pao").write_text(pao_text(atom))
    (folder / "VPS" / f"{atom.symbol}_PBE19.vps").write_text(vps_text(atom))
    return species


def gaussian_basis(folder: Path, *atoms: Gaussians) -> Basis:
    """Write the files of some atoms and read them."""
    return openmx_basis(folder, [write_files(folder, atom) for atom in atoms])


def pao_text(atom: Gaussians) -> str:
    """Return the text of a `.pao` file; the density has half the charge it should have."""
    mesh_x = np.linspace(-8.0, np.log(CUTOFF + 0.8), POINTS)
    radius_g = np.exp(mesh_x)
    density_g = 0.5 * atom.valence * (atom.cloud / np.pi) ** 1.5 * np.exp(-atom.cloud * radius_g**2)
    count = max(len(exponents) for exponents in atom.orbitals)
    blocks = [_block("valence.charge.density", mesh_x, [density_g])]
    for degree, exponents in enumerate(atom.orbitals):
        # Files hold equally many functions for every l.
        more = [exponents[-1] * 1.3**n for n in range(1, 1 + count - len(exponents))]
        columns = [radius_g**degree * np.exp(-a * radius_g**2) for a in (*exponents, *more)]
        blocks.append(_block(f"pseudo.atomic.orbitals.L={degree}", mesh_x, columns))
    return (
        f"AtomSpecies {atom.number}\nvalence.electron {atom.valence}\n"
        f"grid.num.output {POINTS}  # default=2000\nradial.cutoff.pao {CUTOFF}\n"
        f"PAO.Lmax {len(atom.orbitals) - 1}\nPAO.Mul {count}\n" + "\n".join(blocks)
    )


def vps_text(atom: Gaussians) -> str:
    """Return the text of a `.vps` file; of j = l -+ 1/2 the energies and projectors differ."""
    mesh_x = np.linspace(-8.0, 3.2, POINTS)
    radius_g = np.exp(mesh_x)
    columns = [-atom.valence * erf(np.sqrt(atom.nucleus) * radius_g) / radius_g]
    energies = [str(len(atom.projectors))]
    for degree, exponent, energy in atom.projectors:
        values = radius_g**degree * np.exp(-exponent * radius_g**2)
        # Weights (l + 1) / (2l + 1) and l / (2l + 1) give back the energy and the values.
        other = 0.0 if degree == 0 else 0.1 / degree
        columns += [values * (1 - 0.1 / (degree + 1)), values * (1 + other)]
        energies.append(f" {degree} {energy - 0.1 / (degree + 1)} {energy + other}")
        if degree == 0:
            columns[-2:] = [values, 7.0 * values]
            energies[-1] = f" 0 {energy} -3.0"
    core = _block("density.PCC", mesh_x, [0.3 * np.exp(-2.0 * radius_g**2)])
    return (
        f"AtomSpecies {atom.number}\nvalence.electron {atom.valence}\n"
        f"grid.num.output {POINTS}\ncharge.pcc.calc on  # ON|OFF\n"
        "j.dependent.pseudo.potentials   on\n<project.energies\n"
        + "\n".join(energies)
        + "\nproject.energies>\n"
        + _block("Pseudo.Potentials", mesh_x, columns)
        + core
    )


def _block(name: str, mesh_x: NDArray[np.float64], columns: list[NDArray[np.float64]]) -> str:
    rows = np.column_stack([mesh_x, np.exp(mesh_x), *columns])
    lines = "\n".join(" ".join(f"{value:.17e}" for value in row) for row in rows)
    return f"<{name}\n{lines}\n{name}>\n"
