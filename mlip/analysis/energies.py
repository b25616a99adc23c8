"""`Energies`: what a run logged, from its log or from its frames."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlip.analysis.statistics import Mean, Slope
from mlip.analysis.trajectory import Motion
from mlip.errors import DataError
from mlip.units import AVOGADRO, KB_EV

F8 = NDArray[np.float64]

NEEDED = ("time_ps", "potential_ev", "kinetic_ev", "temperature_k")


@dataclass(frozen=True)
class Energies:
    """Energies of a run over its time.

    Attributes:
        time: [R] ps, or numbers of frames where these do not tell.
        potential: [R] eV.
        kinetic: [R] eV.
        temperature: [R] K.
        source: the name of the log, or `"frames"`.
        timed: whether the times are known.
    """

    time: F8
    potential: F8
    kinetic: F8
    temperature: F8
    source: str
    timed: bool = True

    @property
    def total(self) -> F8:
        """[R] eV."""
        return self.potential + self.kinetic

    def drift(self, atoms: int) -> Slope | None:
        """Return the slope of the total energy, meV/atom/ps, and its value at the start, meV/atom above the mean."""
        if len(self.time) < 2 or not self.timed:
            return None
        return Slope.of(self.time, (self.total - self.total.mean()) * 1e3 / atoms)

    def freedom(self) -> int:
        """Return the degrees of freedom that kinetic energy and temperature share: 2 K / (k T)."""
        moving = self.temperature > 0
        ratio = 2.0 * self.kinetic[moving] / (KB_EV * self.temperature[moving])
        return round(float(np.median(ratio))) if moving.any() else 0

    def canonical_deviation(self, temperature: float | None) -> float | None:
        """Return the standard deviation, K, of the temperature in the canonical ensemble: T sqrt(2 / freedom).

        Args:
            temperature: K, of the thermostat; None: the mean.
        """
        freedom, mean = self.freedom(), float(self.temperature.mean())
        return (mean if temperature is None else temperature) * float(np.sqrt(2.0 / freedom)) if freedom else None

    def numbers(self, atoms: int, temperature: float | None) -> dict[str, Any]:
        """Return means, drift and fluctuations, JSON-compatible."""
        drift = self.drift(atoms)
        return {
            "source": self.source,
            "total_ev": vars(Mean.of(self.total)), "potential_ev": vars(Mean.of(self.potential)),
            "kinetic_ev": vars(Mean.of(self.kinetic)), "temperature_k": vars(Mean.of(self.temperature)),
            "drift_mev_per_atom_per_ps": None if drift is None else {"slope": drift.slope, "error": drift.error},
            "degrees_of_freedom": self.freedom(), "target_temperature_k": temperature,
            "canonical_deviation_k": self.canonical_deviation(temperature),
        }


@dataclass(frozen=True)
class Box:
    """The volume of a periodic run.

    Attributes:
        time: [R] ps.
        volume: [R] A^3.
        density: [R] g/cm^3.
    """

    time: F8
    volume: F8
    density: F8

    @property
    def changes(self) -> bool:
        """Whether the volume is not the same throughout; DCD and XTC hold boxes in float32."""
        return bool(np.ptp(self.volume) > 1e-5 * self.volume.mean())

    def numbers(self) -> dict[str, Any]:
        """Return means, JSON-compatible."""
        return {"volume_a3": vars(Mean.of(self.volume)), "density_g_cm3": vars(Mean.of(self.density)),
                "changes": self.changes}


Log = dict[str, F8]


def read_log(path: Path) -> Log:
    """Read the columns of numbers of a `.log.csv`; a last line without an end, of a run that was killed, is left out.

    Raises:
        DataError: columns are missing, no rows, or a row with words, with too few columns or with NaN.
    """
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()[: None if text.endswith("\n") else -1]
    rows = list(csv.reader(lines))
    missing = [name for name in NEEDED if name not in (rows[0] if rows else ())]
    if missing:
        raise DataError(f"the log {path} has no column {', '.join(missing)}; those of `mlip md` begin with "
                        "step,time_ps,potential_ev")
    if len(rows) < 2:
        raise DataError(f"the log {path} has no rows")
    found: Log = {}
    for k, name in enumerate(rows[0]):
        try:
            values = np.array([float(row[k] or "nan") for row in rows[1:]])
        except (ValueError, IndexError):
            raise DataError(f"the column {name} of the log {path} is not made of numbers") from None
        if name in NEEDED and not np.isfinite(values).all():
            raise DataError(f"{name} of the log {path} is no number in row {int(np.argmin(np.isfinite(values))) + 1}")
        found[name] = values
    return found


def energies_of(motion: Motion, log: Log | None, name: str) -> Energies | None:
    """Return the energies of a log, or else of the frames; None where neither holds them."""
    if log is not None:
        return Energies(log["time_ps"], log["potential_ev"], log["kinetic_ev"], log["temperature_k"], name)
    rows, time = motion.rows, motion.time
    if not {"energy", "kinetic", "temperature"} <= set(rows):
        return None
    interval = (time[1] - time[0]) / motion.stride if len(time) > 1 else 0.0
    every = rows.get("time", time[0] + interval * np.arange(motion.count))
    return Energies(every, rows["energy"], rows["kinetic"], rows["temperature"], "frames", motion.timed)


def box_of(motion: Motion, log: Log | None) -> Box | None:
    """Return volume and density of a run that is periodic in all directions, from the log or else from the frames."""
    if not all(motion.periodic):
        return None
    names = ("time_ps", "volume_a3", "density_g_cm3")
    if log is not None and all(name in log and np.isfinite(log[name]).all() for name in names):
        return Box(*(log[name] for name in names))
    volume = np.asarray(1e3 * motion.frames.unitcell_volumes, dtype=np.float64)
    return Box(motion.time, volume, 1e24 / AVOGADRO * float(motion.masses.sum()) / volume)

