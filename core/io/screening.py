"""What a screening keeps of each structure, and the table and file made of it.

A record is the `results.h5` of a run with attributes of the screening added, or those alone where
there are no results. Figures that follow from the bands are made with the table, so that other
thresholds for flat bands need no new runs.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hamgnn_solve.core.observables.flat_bands import band_widths, near_gap

__all__ = [
    "DONE",
    "FAILED",
    "REFUSED",
    "ScreeningRow",
    "is_finished",
    "printed_table",
    "read_row",
    "write_record",
    "write_screening",
    "write_table",
]

DONE, REFUSED, FAILED = "done", "refused", "failed"
STATUS, REASON, SECONDS, INPUTS = (f"screening_{x}" for x in ("status", "reason", "s", "inputs"))


@dataclass(frozen=True)
class ScreeningRow:
    """One structure of a screening; energies in eV, None where a figure does not exist.

    Parameters
    ----------
    structure : str
        Name of the file.
    status : str
        "done", "refused" (the input cannot be used) or "failed" (crash, kill, time limit).
    atoms, model, gap_eV, gap_kind, vbm_eV, cbm_eV, fermi_level_eV
        As in `summary.json`.
    flat_bands : int
        Bands near the gap that are narrower than the threshold over the whole path.
    flattest_band, flattest_width_eV, flattest_energy_eV
        Index, width and central energy of the narrowest band near the gap.
    unfamiliar_atoms : int
        Atoms outside the model's training set.
    seconds : float
        Wall time of the run.
    reason : str
        Why there are no results.
    """

    structure: str
    status: str
    atoms: int | None = None
    model: str | None = None
    gap_eV: float | None = None  # noqa: N815  # the name in summary.json
    gap_kind: str | None = None
    vbm_eV: float | None = None  # noqa: N815
    cbm_eV: float | None = None  # noqa: N815
    fermi_level_eV: float | None = None  # noqa: N815
    flat_bands: int | None = None
    flattest_band: int | None = None
    flattest_width_eV: float | None = None  # noqa: N815
    flattest_energy_eV: float | None = None  # noqa: N815
    unfamiliar_atoms: int | None = None
    seconds: float | None = None
    reason: str = ""

    def __post_init__(self) -> None:
        if self.status not in (DONE, REFUSED, FAILED):
            raise ValueError(f"{self.structure} has the unknown status {self.status}")


def write_record(
    record: Path, inputs: str, status: str, seconds: float, reason: str, results: Path | None
) -> None:
    """Write the record of one structure; it is whole or not there.

    Parameters
    ----------
    record : Path
        File to write; one that is there is replaced.
    inputs : str
        Digest of the file and the options.
    status, reason : str
    seconds : float
        Wall time.
    results : Path, optional
        `results.h5` of a run that is done.
    """
    unfinished = record.with_name(record.name + ".new")
    unfinished.write_bytes(b"" if results is None else results.read_bytes())
    with h5py.File(unfinished, "w" if results is None else "r+") as h5:
        h5.attrs[STATUS], h5.attrs[REASON] = status, reason
        h5.attrs[SECONDS], h5.attrs[INPUTS] = round(seconds, 2), inputs
    unfinished.replace(record)


def is_finished(record: Path, inputs: str) -> bool:
    """Tell whether a record is of this input and needs no new run; failures are tried again."""
    try:
        with h5py.File(record) as h5:
            return h5.attrs[INPUTS] == inputs and h5.attrs[STATUS] != FAILED
    except (OSError, KeyError):
        return False


def read_row(name: str, record: Path, flat_width: float, flat_window: float) -> ScreeningRow:
    """Return the row of a structure.

    Parameters
    ----------
    name : str
        Name of the structure's file.
    record : Path
    flat_width : float
        Width in eV below which a band is flat.
    flat_window : float
        Distance in eV from the gap within which bands are looked at.
    """
    with h5py.File(record) as h5:
        told: dict[str, Any] = {
            "structure": name,
            "status": str(h5.attrs[STATUS]),
            "seconds": float(h5.attrs[SECONDS]),
            "reason": str(h5.attrs[REASON]),
        }
        if told["status"] != DONE:
            return ScreeningRow(**told)
        energies = ("gap_eV", "vbm_eV", "cbm_eV", "fermi_level_eV")
        told |= {key: _number(h5.attrs[key]) for key in energies}
        told["atoms"] = int(h5.attrs["natoms"])
        told["model"], told["gap_kind"] = str(h5.attrs["model"]), str(h5.attrs["gap_kind"])
        if "environment_distance" in h5:
            told["unfamiliar_atoms"] = int((h5["environment_distance"][:] > 1.0).sum())
        widths = band_widths(h5["eigenvalues_eV"][:], h5["band_index"][:])
    fermi_level = told["fermi_level_eV"]
    valence, conduction = (
        fermi_level if told[key] is None else told[key] for key in ("vbm_eV", "cbm_eV")
    )
    near = near_gap(widths, valence, conduction, flat_window)
    if near:
        told |= {
            "flat_bands": sum(band.width < flat_width for band in near),
            "flattest_band": near[0].index,
            "flattest_width_eV": near[0].width,
            "flattest_energy_eV": near[0].centre,
        }
    return ScreeningRow(**told)


def write_table(file: Path, rows: Sequence[ScreeningRow]) -> None:
    """Write the rows as CSV, energies to 0.1 meV; it is whole or not there."""
    unfinished = file.with_name(file.name + ".new")
    with unfinished.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [field.name for field in fields(ScreeningRow)])
        writer.writeheader()
        for row in rows:
            writer.writerow(
                {k: round(x, 4) if isinstance(x, float) else x for k, x in asdict(row).items()}
            )
    unfinished.replace(file)


def write_screening(
    file: Path, records: Sequence[tuple[ScreeningRow, Path]], flat_width: float, flat_window: float
) -> None:
    """Write all rows and all results into one HDF5 file (layout: docs/formats.md).

    One group a structure: its row as attributes, and what its `results.h5` holds.
    """
    unfinished = file.with_name(file.name + ".new")
    with h5py.File(unfinished, "w") as h5:
        h5.attrs["flat_width_eV"], h5.attrs["flat_window_eV"] = flat_width, flat_window
        for row, record in records:
            group = h5.create_group(row.structure)
            for name, value in asdict(row).items():
                if value is not None:
                    group.attrs[name] = value
            with h5py.File(record) as kept:
                for key in kept:
                    kept.copy(key, group)
    unfinished.replace(file)


def printed_table(rows: Sequence[ScreeningRow]) -> str:
    """Return the table for people: one line a structure, the reason where there is no result."""
    width = max([len(row.structure) for row in rows] + [len("structure")])
    head = f"{'structure':<{width}}  {'atoms':>6} {'gap eV':>8} {'kind':<8} "
    head += f"{'flat':>4} {'flattest eV':>11} {'unknown':>7} {'s':>7}  model"
    return "\n".join([head, *(_line(row, width) for row in rows)])


def _line(row: ScreeningRow, width: int) -> str:
    if row.status != DONE:
        return f"{row.structure:<{width}}  {row.status}: {row.reason}"
    flattest = "-" if row.flattest_width_eV is None else f"{row.flattest_width_eV:.3f}"
    return (
        f"{row.structure:<{width}}  {row.atoms:>6} {row.gap_eV:>8.3f} {row.gap_kind:<8} "
        f"{_or_dash(row.flat_bands):>4} {flattest:>11} {_or_dash(row.unfamiliar_atoms):>7} "
        f"{row.seconds:>7.1f}  {row.model}"
    )


def _or_dash(value: int | None) -> str:
    return "-" if value is None else str(value)


def _number(value: Any) -> float | None:
    """Return an attribute of `results.h5`, in which a figure that does not exist is NaN."""
    return None if np.isnan(value) else float(value)
