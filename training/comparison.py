"""A model's prediction for one labelled structure beside the label."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hamgnn_solve.core.domain import serial_domain
from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.hamiltonian import on_pairs
from hamgnn_solve.core.model import Model
from hamgnn_solve.core.network.predict import predict
from hamgnn_solve.core.observables.band_path import BandPath, band_path
from hamgnn_solve.core.observables.figures import draw_comparison_figure
from hamgnn_solve.core.operator import BlockOperator
from hamgnn_solve.core.spectrum import Spectrum
from hamgnn_solve.core.structure import Structure
from hamgnn_solve.core.units import EV_PER_HARTREE
from hamgnn_solve.training.label_file import (
    Label,
    band_energies,
    label_operators,
    pencil_energies,
    restrict_label,
)
from hamgnn_solve.training.same_orbitals import check_same_orbitals, labelled_structure

__all__ = ["Comparison", "compare", "draw_comparison"]

# Largest step along a drawn path in 1/Angstrom.
PATH_SPACING = 0.05


@dataclass(frozen=True)
class Comparison:
    """A predicted Hamiltonian beside the labelled one, both with the label's overlap.

    Parameters
    ----------
    name : str
        Name of the label.
    label : Label
        The label as it was made.
    structure : Structure
        Axes that are not periodic hold so much vacuum that no image is in orbital range.
    predicted : BlockOperator
        Prediction in Hartree, H0 included, without the model's energy shift.
    hamiltonian, overlap : BlockOperator
        The label's H in Hartree and S between the model's orbitals, with all their blocks.
    model_shift : float
        The model's energy shift in Hartree.
    """

    name: str
    label: Label
    structure: Structure
    predicted: BlockOperator
    hamiltonian: BlockOperator
    overlap: BlockOperator
    model_shift: float

    @property
    def error(self) -> BlockOperator:
        """Prediction - label in Hartree on the pairs within orbital range."""
        label = on_pairs(self.hamiltonian, self.predicted.pairs)
        return replace(self.predicted, values=self.predicted.values - label.values)

    @property
    def best_shift(self) -> float:
        """Constant c in Hartree with which prediction + c S is nearest to the label."""
        overlap = on_pairs(self.overlap, self.predicted.pairs).values
        return -float(overlap @ self.error.values) / float(overlap @ overlap)

    @property
    def filled_bands(self) -> float:
        """Number of bands that the electrons fill."""
        return float(self.label.details["electrons"]) / 2

    @property
    def fermi_level(self) -> float:
        """The label's Fermi level in Hartree."""
        return float(self.label.details["fermi_level"])

    def predicted_energies(self, kpoints_kc: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return all energies of the prediction without any shift, (K, M), Hartree."""
        return pencil_energies(self.predicted, self.overlap, kpoints_kc)

    def label_energies(self, kpoints_kc: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return all energies of the label's blocks, (K, M), Hartree.

        They are those of all orbitals of the label, which a model may have fewer of.
        """
        return band_energies(self.label, kpoints_kc)

    def path(self) -> BandPath:
        """Return the path that bands of this structure are drawn along; Gamma for a molecule."""
        request = "auto" if self.label.periodic_c.any() else "none"
        return band_path(self.structure, request, PATH_SPACING)

    def spectra(self, path: BandPath) -> tuple[Spectrum, Spectrum]:
        """Return the bands of the label and of prediction + c S along a path."""
        predicted_kn = self.predicted_energies(path.kpoints_kc) + self.best_shift
        label_kn = self.label_energies(path.kpoints_kc)[:, : predicted_kn.shape[1]]
        band_kn = np.tile(np.arange(1, label_kn.shape[1] + 1), (len(label_kn), 1))
        label = Spectrum(
            path.kpoints_kc, label_kn, band_kn, np.zeros(label_kn.shape), self.fermi_level,
            2 * self.filled_bands,
        )  # fmt: skip
        return label, replace(label, eigenvalues_kn=predicted_kn)


def compare(model: Model, name: str, label: Label) -> Comparison:
    """Predict the Hamiltonian of a labelled structure.

    Parameters
    ----------
    model : Model
        Model under test. One that predicts H - H0 is given the label's H0.
    name : str
        Name of the label, for messages too.
    label : Label

    Raises
    ------
    InputError
        When the model does not know an element, or label and model do not speak of the same
        orbitals.
    """
    structure = labelled_structure(label, model)
    check_same_orbitals(model, name, label)
    predicted = predict(model, serial_domain(structure, model.basis))
    own = label if model.openmx_species else restrict_label(label, model.kept)
    hamiltonian, overlap = label_operators(own)
    if model.network.config.add_h0:
        if own.h0_values is None:
            raise InputError(
                f"Model {model.name} predicts H - H0, but the label {name} holds no H0; make it "
                "again with hamgnn-tools openmx collect."
            )
        zero = on_pairs(replace(hamiltonian, values=own.h0_values), predicted.pairs)
        predicted = predicted.plus(zero)
    return Comparison(name, label, structure, predicted, hamiltonian, overlap, model.energy_shift)


def draw_comparison(comparison: Comparison, folder: Path) -> None:
    """Draw the bands of label and prediction as NAME.png and NAME.svg in a folder.

    Raises
    ------
    InputError
        When the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"The folder {folder} cannot be made ({error.strerror}); choose another."
        ) from error
    path = comparison.path()
    label, predicted = comparison.spectra(path)
    title = (
        f"{comparison.name}\nprediction moved by {comparison.best_shift * EV_PER_HARTREE:+.3f} eV"
    )
    files = [folder / f"{comparison.name}.{ending}" for ending in ("png", "svg")]
    draw_comparison_figure(label, predicted, path, title, *files)
