"""Errors of a model against labels.

Hamiltonian errors are over the elements within orbital range, after the best constant c (times S)
is removed. Energies come from the prediction with the label's own overlap; as the zero of energy of
a cell is no observable, those near the Fermi level are compared from each one's own Fermi level.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, floor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.hamiltonian import on_pairs
from hamgnn_solve.core.model import Model
from hamgnn_solve.core.observables.density_of_states import (
    dos_overlap,
    energy_grid,
    gaussian_dos,
)
from hamgnn_solve.core.operator import BlockOperator
from hamgnn_solve.core.units import EV_PER_HARTREE
from hamgnn_solve.training.comparison import Comparison, compare
from hamgnn_solve.training.label_file import Label

__all__ = ["EnergyRanges", "Errors", "error_table", "errors_of", "evaluate", "summary"]

DISTANCE_EDGES = (5.0, 8.0, 12.0)
# Energies of a density of states a width of its Gaussians.
STEPS_PER_WIDTH = 5


@dataclass(frozen=True)
class EnergyRanges:
    """Which energies are compared, in eV.

    Parameters
    ----------
    window : float
        Energies count up to this far from the Fermi level. Of a molecule they count from this
        far below the highest occupied to this far above the lowest empty level.
    dos_window : float
        The same for densities of states.
    broadening : float
        Standard deviation of the Gaussians that broaden them.

    Raises
    ------
    InputError
        For a number that is not positive.
    """

    window: float = 1.0
    dos_window: float = 6.0
    broadening: float = 0.1

    def __post_init__(self) -> None:
        if not min(self.window, self.dos_window, self.broadening) > 0:
            raise InputError("Windows and broadening must be positive numbers of eV.")


@dataclass(frozen=True)
class Errors:
    """Errors of one structure, Hamiltonian in meV, energies in eV.

    Parameters
    ----------
    name : str
        Name of the label.
    sums : dict of str to (float, int)
        Sum of |error| (meV) and number of elements, by class: "all", "onsite", "offsite",
        "onsite Mo", "Mo-S", "5<=r<8 Bohr", ...
    shift : float
        Best constant c in eV; prediction + c S matches the label.
    gap, label_gap : float
        Lowest energy of the first empty band less the highest of the last filled one over the
        label's k-points: negative or zero for a metal, not a number where an odd number of
        electrons leaves a band half filled.
    valence_edge, conduction_edge : float
        Errors of the band edges with the model's own energy shift; not a number for a metal.
    window : float
        Mean absolute error of the energies near the Fermi level, those of prediction and label
        each from their own Fermi level (the middle of the gap); not a number where there is none.
    dos_overlap : float
        Overlap of the densities of states (`dos_overlap`), the prediction moved so that the mean
        error of these energies is zero; every k-point of the label counts the same.
    lowest : float
        Error of the lowest energy with the best c; large and negative where the basis is near to
        dependent and the prediction too rough.
    """

    name: str
    sums: dict[str, tuple[float, int]]
    shift: float
    gap: float
    label_gap: float
    valence_edge: float
    conduction_edge: float
    window: float
    dos_overlap: float
    lowest: float

    @property
    def gap_error(self) -> float:
        """Error of the gap in eV."""
        return self.gap - self.label_gap


def evaluate(model: Model, name: str, label: Label, ranges: EnergyRanges | None = None) -> Errors:
    """Compare the model's prediction for one labelled structure with the label.

    Parameters
    ----------
    model : Model
        Model under test.
    name : str
        Name for the report.
    label : Label
        Blocks and energies.
    ranges : EnergyRanges, optional

    Raises
    ------
    InputError
        As `compare`.
    """
    return errors_of(compare(model, name, label), ranges or EnergyRanges())


def errors_of(comparison: Comparison, ranges: EnergyRanges) -> Errors:
    """Return the errors of a prediction."""
    label = comparison.label
    error, shift = comparison.error, comparison.best_shift
    remaining = error.values + shift * on_pairs(comparison.overlap, error.pairs).values
    energies_kn = comparison.predicted_energies(label.kpoints_kc)
    label_kn = label.eigenvalues_kn[:, : energies_kn.shape[1]]
    filled = comparison.filled_bands
    low, high = _range(comparison, ranges.window)
    inside = (label_kn > low) & (label_kn < high)
    difference_kn = energies_kn - label_kn
    fermi_difference = _fermi_level(energies_kn, filled) - _fermi_level(label_kn, filled)
    centred_kn = energies_kn - (_mean(difference_kn[inside]) if inside.any() else -shift)
    edges = _edges(energies_kn + comparison.model_shift, filled)
    label_edges = _edges(label_kn, filled)
    edge_errors = edges - label_edges if label_edges[1] > label_edges[0] else np.full(2, np.nan)
    return Errors(
        name=comparison.name,
        sums=_sums(error, label.symbols, np.abs(remaining)),
        shift=EV_PER_HARTREE * shift,
        gap=EV_PER_HARTREE * float(edges[1] - edges[0]),
        label_gap=EV_PER_HARTREE * float(label_edges[1] - label_edges[0]),
        valence_edge=EV_PER_HARTREE * float(edge_errors[0]),
        conduction_edge=EV_PER_HARTREE * float(edge_errors[1]),
        window=EV_PER_HARTREE * _mean(np.abs(difference_kn - fermi_difference)[inside]),
        dos_overlap=_dos_overlap(comparison, centred_kn, ranges),
        lowest=EV_PER_HARTREE * float(difference_kn[:, 0].min() + shift),
    )


def summary(errors: list[Errors], ranges: EnergyRanges | None = None) -> dict[str, Any]:
    """Return the averages over structures that go into model.yaml (H in meV, energies in eV).

    Structures without a figure are left out of its average; None where all are.
    """
    window = (ranges or EnergyRanges()).window
    keys = sorted({key for one in errors for key in one.sums})
    totals = {
        key: (
            sum(one.sums.get(key, (0.0, 0))[0] for one in errors),
            sum(one.sums.get(key, (0.0, 0))[1] for one in errors),
        )
        for key in keys
    }
    edges = [abs(edge) for x in errors for edge in (x.valence_edge, x.conduction_edge)]
    return {
        "structures": [one.name for one in errors],
        "hamiltonian_mae_meV": {
            key: round(total / count, 3) for key, (total, count) in totals.items() if count
        },
        "gap_mae_eV": _rounded(abs(one.gap_error) for one in errors),
        "band_edge_mae_eV": _rounded(edges),
        f"energies_within_{window:g}eV_of_fermi_mae_eV": _rounded(x.window for x in errors),
        "dos_overlap": _rounded(x.dos_overlap for x in errors),
        "lowest_energy_error_eV": round(min(x.lowest for x in errors), 4),
    }


def error_table(errors: list[Errors], ranges: EnergyRanges | None = None) -> str:
    """Return one line a structure; a figure that does not exist is a dash."""
    window = f"+-{(ranges or EnergyRanges()).window:g}eV"
    lines = [
        f"{'structure':24s} {'H meV':>7s} {'on':>7s} {'off':>7s} {'c':>8s} {'gap':>7s} "
        f"{'d gap':>7s} {'d VBM':>7s} {'d CBM':>7s} {window:>7s} {'DOS':>6s} {'low':>8s}"
    ]
    for x in errors:
        figures = [x.sums[key][0] / max(x.sums[key][1], 1) for key in ("all", "onsite", "offsite")]
        cells = [f"{figures[0]:7.3f}", f"{figures[1]:7.2f}", f"{figures[2]:7.3f}"]
        cells += [f"{x.shift:8.4f}"]
        numbers = (x.gap, x.gap_error, x.valence_edge, x.conduction_edge)
        cells += [_cell(number, 7, 3) for number in numbers]
        cells += [_cell(x.window, 7, 4), _cell(x.dos_overlap, 6, 3), _cell(x.lowest, 8, 3)]
        lines.append(f"{x.name:24s} {' '.join(cells)}")
    return "\n".join(lines)


def _cell(number: float, width: int, digits: int) -> str:
    return "-".rjust(width) if np.isnan(number) else f"{number:{width}.{digits}f}"


def _mean(numbers: NDArray[np.float64]) -> float:
    return float(numbers.mean()) if len(numbers) else np.nan


def _rounded(numbers: Iterable[float]) -> float | None:
    """Return the mean of the numbers that exist to four digits."""
    present = [number for number in numbers if not np.isnan(number)]
    return round(float(np.mean(present)), 4) if present else None


def _edges(energies_kn: NDArray[np.float64], filled_bands: float) -> NDArray[np.float64]:
    """Return the top of the last filled and the bottom of the first empty band."""
    filled = round(filled_bands)
    if abs(filled_bands - filled) > 1e-6:
        return np.full(2, np.nan)
    return np.array([energies_kn[:, filled - 1].max(), energies_kn[:, filled].min()])


def _fermi_level(energies_kn: NDArray[np.float64], filled_bands: float) -> float:
    """Return the middle between the last filled and the first empty of all energies.

    It is the middle of the gap, if there is one. Every k-point counts the same; a level that is
    half filled by an odd number of electrons is the Fermi level itself.
    """
    energies_n = np.sort(energies_kn, axis=None)
    filled = filled_bands * len(energies_kn)
    return float(energies_n[ceil(filled - 1e-6) - 1] + energies_n[floor(filled + 1e-6)]) / 2


def _range(comparison: Comparison, reach: float) -> tuple[float, float]:
    """Return the energies in Hartree up to `reach` eV from the Fermi level or a molecule's gap."""
    low = high = comparison.fermi_level
    if not comparison.label.periodic_c.any():
        levels = _edges(comparison.label.eigenvalues_kn, comparison.filled_bands)
        low, high = np.fmin(low, levels[0]), np.fmax(high, levels[1])
    return float(low) - reach / EV_PER_HARTREE, float(high) + reach / EV_PER_HARTREE


def _dos_overlap(
    comparison: Comparison, predicted_kn: NDArray[np.float64], ranges: EnergyRanges
) -> float:
    width = ranges.broadening / EV_PER_HARTREE
    low, high = _range(comparison, ranges.dos_window)
    energies_e = energy_grid(low, high, width / STEPS_PER_WIDTH)
    weights_k = np.full(len(predicted_kn), 1.0 / len(predicted_kn))
    densities = [
        gaussian_dos(x, weights_k, energies_e, width)
        for x in (predicted_kn, comparison.label.eigenvalues_kn)
    ]
    return dos_overlap(*densities)


def _sums(
    operator: BlockOperator, symbols: tuple[str, ...], magnitude: NDArray[np.float64]
) -> dict[str, tuple[float, int]]:
    pairs = operator.pairs
    sizes_p = np.diff(operator.offset_p)
    sums_p = 1000.0 * EV_PER_HARTREE * np.add.reduceat(magnitude, operator.offset_p[:-1])
    onsite_p = pairs.distance_p == 0.0
    element_i = np.array(symbols)
    classes = {"all": np.ones(len(pairs), dtype=bool), "onsite": onsite_p, "offsite": ~onsite_p}
    first, second = element_i[pairs.first_p], element_i[pairs.second_p]
    for a in sorted(set(symbols)):
        classes[f"onsite {a}"] = onsite_p & (first == a)
        for b in sorted(set(symbols)):
            if a <= b:
                either = ((first == a) & (second == b)) | ((first == b) & (second == a))
                classes[f"{a}-{b}"] = either & ~onsite_p
    low = 0.0
    for high in (*DISTANCE_EDGES, np.inf):
        within = (pairs.distance_p >= low) & (pairs.distance_p < high) & ~onsite_p
        classes[f"{low:g}<=r<{high:g} Bohr"] = within
        low = high
    return {
        key: (float(sums_p[chosen].sum()), int(sizes_p[chosen].sum()))
        for key, chosen in classes.items()
    }
