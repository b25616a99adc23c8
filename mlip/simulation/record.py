"""`Record`: what a molecular-dynamics run leaves behind, in memory and in files, whichever engine made it."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io import write
from numpy.typing import NDArray

from mlip.errors import OptionError
from mlip.io.ase import INFO_KEYS
from mlip.io.files import check_target
from mlip.units import KB_EV

ENSEMBLES = ("nve", "nvt")
ENDINGS = (".xyz", ".extxyz")  # of trajectories


@dataclass(frozen=True)
class Plan:
    """What to simulate.

    Attributes:
        steps: number of time steps.
        timestep: fs.
        temperature: K; of the initial velocities and, for NVT, of the thermostat.
        ensemble: `"nve"` (velocity Verlet) or `"nvt"` (Langevin).
        friction: 1/ps, of the thermostat.
        every: steps between recorded frames.
        seed: of velocities and, together with the start, of the thermostat.
    """

    steps: int = 1000
    timestep: float = 0.5
    temperature: float = 300.0
    ensemble: str = "nve"
    friction: float = 1.0
    every: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        for name, smallest in (("steps", 1), ("every", 1), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not smallest <= value < 2**31 - 1:
                raise OptionError(f"{name} must be a whole number from {smallest}; {value!r} was given")
        for name in ("timestep", "temperature", "friction"):
            value = getattr(self, name)
            number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and np.isfinite(value)
            if not number or value < 0 or (name == "timestep" and value == 0):
                allowed = "a positive number" if name == "timestep" else "a number and not negative"
                raise OptionError(f"{name} must be {allowed}; {value!r} was given")
        if self.ensemble not in ENSEMBLES:
            raise OptionError(f"ensemble {self.ensemble!r} is unknown; allowed: {', '.join(ENSEMBLES)}")

    def thermostat_seed(self, start: Atoms) -> int:
        """Return the seed of the thermostat, from 1 to 2^31 - 1: it depends on `seed` and on the start.

        So a run that goes on from the end of another does not repeat its noise, and the noise is not that of the
        initial velocities.
        """
        state = np.stack([start.positions, start.get_momenta()]).tobytes()
        return zlib.crc32(state, self.seed) % (2**31 - 1) + 1


@dataclass(frozen=True)
class Record:
    """A finished run.

    Attributes:
        time: [F] fs.
        potential: [F] eV.
        kinetic: [F] eV.
        temperature: [F] K.
        steps_per_second: integration speed, recording included.
        final: last structure, with momenta.
        spread: [F] eV/A, spread of the force on the worst atom over the members of a committee; None for one model.
    """

    time: NDArray[np.float64]
    potential: NDArray[np.float64]
    kinetic: NDArray[np.float64]
    temperature: NDArray[np.float64]
    steps_per_second: float
    final: Atoms
    spread: NDArray[np.float64] | None = None

    @property
    def total(self) -> NDArray[np.float64]:
        """Total energy, [F] eV."""
        return self.potential + self.kinetic

    def drift(self) -> float:
        """Return the slope of the total energy, meV/atom/ps."""
        if len(self.time) < 2:
            return 0.0
        slope = float(np.polyfit(self.time, self.total - self.total[0], 1)[0])
        return slope * 1e6 / max(len(self.final), 1)

    def fluctuation(self) -> float:
        """Return the standard deviation of the total energy, meV/atom."""
        return float(self.total.std()) * 1e3 / max(len(self.final), 1)


def outputs_of(trajectory: str | Path, inputs: Sequence[Path] = ()) -> tuple[Path, Path, Path]:
    """Return the files of a run, once it is known that they can be written.

    Args:
        trajectory: file for the frames, extended XYZ.
        inputs: files that must not be overwritten.

    Returns:
        The trajectory; `<stem>.topology.pdb`, for programs such as mdtraj; and `<stem>.final.xyz`, the last
        structure with its momenta, from which a run goes on; of constraints it holds only those on single atoms.

    Raises:
        OptionError: the name does not end in `.xyz` or `.extxyz`, its folder does not exist, or a file is an input.
    """
    target = check_target(trajectory, ENDINGS, inputs)
    topology, final = (check_target(target.with_suffix(s), inputs=inputs) for s in (".topology.pdb", ".final.xyz"))
    return target, topology, final


class Recorder:
    """Keeps the energies of a run and appends its frames to a file, if one is given, as they come.

    Files of an earlier run with the same name are removed at the start.
    """

    def __init__(self, atoms: Atoms, degrees_of_freedom: int, trajectory: str | Path | None = None) -> None:
        self.periodic = bool(atoms.pbc.all())
        self._rows: list[dict[str, float]] = []
        self._freedom = max(degrees_of_freedom, 1)
        self._files = None if trajectory is None else outputs_of(trajectory)
        self._info = {k: v for k, v in atoms.info.items() if k in INFO_KEYS}
        self._frame = Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        if self._files is not None:
            for path in self._files:
                path.unlink(missing_ok=True)
            write(self._files[1], self._frame, format="proteindatabank")

    def add(self, time: float, potential: float, kinetic: float, positions: NDArray[np.float64],
            cell: NDArray[np.float64], spread: float | None = None) -> None:
        """Add a frame: fs, eV, eV, [N, 3] A, [3, 3] A, and the spread of a committee, eV/A."""
        row = self._row(time, potential, kinetic)
        self._rows.append(row if spread is None else {**row, "forces_std_max": spread})
        if self._files is not None:
            self._frame.positions, self._frame.cell = positions, cell
            self._frame.info = self._info | self._rows[-1]
            write(self._files[0], self._frame, format="extxyz", columns=["symbols", "positions"], append=True)

    def finish(self, final: Atoms, plan: Plan, potential: float, seconds: float) -> Record:
        """Write the last structure and return the record.

        Args:
            final: the last structure, with momenta.
            plan: what was done.
            potential: energy of the last structure, eV.
            seconds: it took.
        """
        if self._files is not None:
            last = final.copy()
            last.info = self._info | self._row(plan.steps * plan.timestep, potential, final.get_kinetic_energy())
            write(self._files[2], last, format="extxyz")
        time, energy, kinetic, temperature, *spread = np.array([list(row.values()) for row in self._rows]).T
        return Record(time, energy, kinetic, temperature, plan.steps / max(seconds, 1e-9), final, *spread)

    def _row(self, time: float, potential: float, kinetic: float) -> dict[str, float]:
        return {"time": time, "energy": potential, "kinetic": kinetic,
                "temperature": 2 * kinetic / (self._freedom * KB_EV)}
