"""Errors of a model against labels.

    python -m hamgnn_solve.training.evaluate MODEL LABELS.h5 [--names A B] [--record TITLE]

Hamiltonian errors are over the elements within orbital range, after the best constant c (times S)
is removed. Energies come from the prediction with the label's own overlap.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.linalg
import yaml
from numpy.typing import NDArray

from hamgnn_solve.core.domain import serial_domain
from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.model import Model, load_model, save_model
from hamgnn_solve.core.network.predict import predict
from hamgnn_solve.core.operator import BlockOperator
from hamgnn_solve.core.units import EV_PER_HARTREE
from hamgnn_solve.training.dataset import bloch_matrix
from hamgnn_solve.training.label_file import (
    Label,
    label_operators,
    label_structure_of,
    read_label,
    restrict_label,
)

__all__ = ["Errors", "evaluate", "summary"]

WINDOW = 1.0 / EV_PER_HARTREE
DISTANCE_EDGES = (5.0, 8.0, 12.0)


@dataclass(frozen=True)
class Errors:
    """Errors of one structure, Hamiltonian in meV, energies in eV.

    Parameters
    ----------
    name : str
        Name of the label.
    sums : dict of str to (float, int)
        Sum of |error| (meV) and number of elements, by class: "all", "onsite", "offsite",
        "Mo-S", "r<5", ...
    shift : float
        Best constant c in eV; prediction + c S matches the label.
    gap, label_gap : float
        Gap over the label's k-points.
    valence_edge, conduction_edge : float
        Errors of the band edges with the model's own energy shift.
    window, aligned_window : float
        Mean absolute error of energies within 1 eV of the Fermi level: with the model's own
        energy shift, and with the best c; not a number where there is none.
    lowest : float
        Error of the lowest energy; large and negative where the basis is near to dependent and
        the prediction too rough.
    """

    name: str
    sums: dict[str, tuple[float, int]]
    shift: float
    gap: float
    label_gap: float
    valence_edge: float
    conduction_edge: float
    window: float
    aligned_window: float
    lowest: float

    @property
    def gap_error(self) -> float:
        """Error of the gap in eV."""
        return self.gap - self.label_gap


def evaluate(model: Model, name: str, label: Label) -> Errors:
    """Compare the model's prediction for one labelled structure with the label.

    Parameters
    ----------
    model : Model
        Model under test.
    name : str
        Name for the report.
    label : Label
        GPAW's blocks and energies.
    """
    if not model.openmx_species:
        label = restrict_label(label, model.kept)
    structure = label_structure_of(label)
    predicted = predict(model, serial_domain(structure, model.basis))
    hamiltonian, overlap = (_restricted(operator, predicted) for operator in label_operators(label))
    error = predicted.values - hamiltonian.values
    shift = -float(overlap.values @ error) / float(overlap.values @ overlap.values)
    full_s = label_operators(label)[1]
    start = round(float(label.details["electrons"]) / 2)
    energies_kn = np.array(
        [
            scipy.linalg.eigvalsh(bloch_matrix(predicted, k_c), bloch_matrix(full_s, k_c))
            for k_c in label.kpoints_kc
        ]
    )
    label_kn = label.eigenvalues_kn[:, : energies_kn.shape[1]]
    inside = np.abs(label_kn - float(label.details["fermi_level"])) < WINDOW
    absolute = EV_PER_HARTREE * (energies_kn + model.energy_shift - label_kn)
    aligned = EV_PER_HARTREE * (energies_kn + shift - label_kn)
    edges = [
        EV_PER_HARTREE * np.array([x[:, start - 1].max(), x[:, start].min()])
        for x in (energies_kn + model.energy_shift, label_kn)
    ]
    return Errors(
        name,
        _sums(predicted, structure.symbols, np.abs(error + shift * overlap.values)),
        EV_PER_HARTREE * shift,
        float(edges[0][1] - edges[0][0]),
        float(edges[1][1] - edges[1][0]),
        float(edges[0][0] - edges[1][0]),
        float(edges[0][1] - edges[1][1]),
        float(np.abs(absolute[inside]).mean()) if inside.any() else np.nan,
        float(np.abs(aligned[inside]).mean()) if inside.any() else np.nan,
        float(aligned[:, 0].min()),
    )


def summary(errors: list[Errors]) -> dict[str, Any]:
    """Return the averages over structures that go into model.yaml (H in meV, energies in eV)."""
    keys = sorted({key for one in errors for key in one.sums})
    totals = {
        key: (
            sum(one.sums.get(key, (0.0, 0))[0] for one in errors),
            sum(one.sums.get(key, (0.0, 0))[1] for one in errors),
        )
        for key in keys
    }
    return {
        "structures": [one.name for one in errors],
        "hamiltonian_mae_meV": {
            key: round(total / count, 3) for key, (total, count) in totals.items() if count
        },
        "gap_mae_eV": round(float(np.mean([abs(one.gap_error) for one in errors])), 4),
        "band_edge_mae_eV": round(
            float(np.mean([[abs(x.valence_edge), abs(x.conduction_edge)] for x in errors])), 4
        ),
        "energies_within_1eV_mae_eV": round(float(np.mean([x.window for x in errors])), 4),
        "energies_within_1eV_aligned_mae_eV": round(
            float(np.mean([x.aligned_window for x in errors])), 4
        ),
        "lowest_energy_error_eV": round(float(min(x.lowest for x in errors)), 4),
    }


def _restricted(operator: BlockOperator, like: BlockOperator) -> BlockOperator:
    """Return the blocks of `operator` on the pairs of `like`, zero where it has none."""
    result = BlockOperator.zeros(like.pairs, like.norb_i)
    place_q = operator.pairs.position_of(like.pairs)
    for chosen, rows, columns in result.groups():
        stored = chosen[place_q[chosen] >= 0]
        result.set_blocks(stored, operator.blocks(place_q[stored], rows, columns))
    return result


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


def _table(errors: list[Errors]) -> str:
    lines = [
        f"{'structure':24s} {'H meV':>7s} {'on':>7s} {'off':>7s} {'c':>8s} {'gap':>7s} "
        f"{'d gap':>7s} {'d VBM':>7s} {'d CBM':>7s} {'+-1eV':>7s} {'algnd':>7s} {'low':>8s}"
    ]
    for x in errors:
        h = [x.sums[key][0] / max(x.sums[key][1], 1) for key in ("all", "onsite", "offsite")]
        numbers = (x.gap, x.gap_error, x.valence_edge, x.conduction_edge)
        lines.append(
            f"{x.name:24s} {h[0]:7.3f} {h[1]:7.2f} {h[2]:7.3f} {x.shift:8.4f} "
            + " ".join(f"{n:7.3f}" for n in numbers)
            + f" {x.window:7.4f} {x.aligned_window:7.4f} {x.lowest:8.3f}"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Errors of a model against labels.")
    parser.add_argument("model", type=Path, help="model folder")
    parser.add_argument("labels", type=Path, help="label file (HDF5)")
    parser.add_argument("--names", nargs="+", help="labels to use (default: all)")
    parser.add_argument(
        "--record", metavar="TITLE", help="write the averages into model.yaml under this title"
    )
    options = parser.parse_args(arguments)
    try:
        model = load_model(options.model)
        with h5py.File(options.labels, "r", locking=False) as file:
            names = [name for name in options.names or file if name in file]
            if not names:
                raise InputError(f"{options.labels} holds none of the labels asked for.")
            errors = [evaluate(model, name, read_label(file[name])) for name in names]
    except InputError as error:
        parser.exit(2, f"{error}\n")
    print(_table(errors))
    print(yaml.safe_dump(summary(errors), sort_keys=False))
    if options.record is not None:
        record = {**model.errors, options.record: summary(errors)}
        save_model(replace(model, errors=record), options.model)


if __name__ == "__main__":
    main()
