"""The main job with a model for OpenMX's orbitals: S and H0 computed, the rest predicted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conftest import shared_path
from mpi4py import MPI

from hamgnn_solve.cli.main import main
from hamgnn_solve.core.basis.openmx_table import published_species
from hamgnn_solve.core.io.scfout import read_scfout
from hamgnn_solve.core.model import Model, save_model
from hamgnn_solve.core.network.build import build_network
from hamgnn_solve.core.network.config import NetworkConfig
from hamgnn_solve.core.structure import Structure
from hamgnn_solve.core.units import ANGSTROM_PER_BOHR, EV_PER_HARTREE
from hamgnn_solve.solver.dense import dense_eigenpairs

pytestmark = pytest.mark.parallel
COMM = MPI.COMM_WORLD
KPOINT = (0.2, 0.1, -0.3)


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One empty folder with a model that predicts nothing, so that H is H0; known to all ranks."""
    made = tmp_path_factory.mktemp("run") if COMM.rank == 0 else None
    path = Path(COMM.bcast(made))
    if COMM.rank == 0:
        network = build_network(
            NetworkConfig(
                irreps="4x0e+2x0o+3x1o+3x1e+3x2e+3x2o+2x3o+2x3e+2x4e+2x4o+2x5o+2x5e+1x6e",
                shells=(3, 2, 2, 1),
                layers=1,
                cutoff=26.0,
                num_radial=8,
                invariant_layers=1,
                invariant_neurons=8,
                num_types=96,
                lmax=6,
                add_h0=True,
                sign_flips=True,
            )
        )
        with torch.no_grad():
            network.output_module.onsitenet_linear.weight.zero_()
            network.output_module.offsitenet_linear.weight.zero_()
        save_model(Model("nothing", published_species(26), network), path / "model")
    COMM.Barrier()
    yield path
    COMM.Barrier()


def write_poscar(structure: Structure, file: Path) -> None:
    """Write a structure with all its digits; atoms of one element follow one another."""
    lines = ["cell", "1.0"]
    scale = ANGSTROM_PER_BOHR
    lines += [" ".join(f"{x * scale:.15f}" for x in row) for row in structure.cell_cc]
    lines += [" ".join(structure.elements)]
    lines += [" ".join(str(structure.symbols.count(symbol)) for symbol in structure.elements)]
    lines += ["Cartesian"]
    for element in structure.elements:
        chosen = [i for i, symbol in enumerate(structure.symbols) if symbol == element]
        lines += [" ".join(f"{x * scale:.15f}" for x in structure.pos_ic[i]) for i in chosen]
    file.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("name", ["si2", "gaas2", "mos2_k5"])
def test_spectrum_of_h0(folder: Path, name: str) -> None:
    file = shared_path(f"oracle/openmx/{name}/overlap.scfout.xz")
    data_folder = shared_path("dft_data19")
    data = read_scfout(file)
    if data.structure.natoms < COMM.size:
        pytest.skip("more ranks than atoms")
    if COMM.rank == 0:
        write_poscar(data.structure, folder / "POSCAR")
    COMM.Barrier()
    code = main(
        [
            *(str(folder / "POSCAR"), "--model", str(folder / "model"), "--bands", "8"),
            *("--dft-data", str(data_folder), "--out", str(folder / "run"), "--quiet"),
            *("--kpoints", " ".join(map(str, KPOINT))),
        ]
    )
    COMM.Barrier()
    assert code == 0
    with h5py.File(folder / "run" / "results.h5") as h5:
        bands, numbers = h5["eigenvalues_eV"][0], h5["band_index"][0]
    expected, _ = dense_eigenpairs(data.hamiltonians[0], data.overlap, KPOINT)
    difference = bands / EV_PER_HARTREE - expected[numbers - 1]
    # OpenMX's own S and H0; reached 5e-7 Ha.
    assert np.abs(difference).max() < 2e-6


def test_data_of_openmx_are_asked_for(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENMX_DFT_DATA", raising=False)
    if COMM.rank == 0:
        structure = Structure(("Si", "Si"), np.array([[0.0] * 3, [2.6] * 3]), 10.2 * np.eye(3))
        write_poscar(structure, folder / "POSCAR")
    COMM.Barrier()
    assert main([str(folder / "POSCAR"), "--model", str(folder / "model")]) == 2
    if COMM.rank == 0:
        assert "as --dft-data or OPENMX_DFT_DATA" in capsys.readouterr().err
