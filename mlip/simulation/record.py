"""`Record`: what a molecular-dynamics run leaves behind, whichever engine made it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io import write
from numpy.typing import NDArray

from mlip.errors import OptionError
from mlip.io.files import check_target

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
        seed: of velocities and thermostat.
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
            if type(value) is not int or not smallest <= value < 2**31 - 1:
                raise OptionError(f"{name} must be a whole number from {smallest}; {value!r} was given")
        for name in ("timestep", "temperature", "friction"):
            value = getattr(self, name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool) and np.isfinite(value)
            if not number or value < 0 or (name == "timestep" and value == 0):
                allowed = "a positive number" if name == "timestep" else "a number and not negative"
                raise OptionError(f"{name} must be {allowed}; {value!r} was given")
        if self.ensemble not in ENSEMBLES:
            raise OptionError(f"ensemble {self.ensemble!r} is unknown; allowed: {', '.join(ENSEMBLES)}")


@dataclass(frozen=True)
class Record:
    """A finished run.

    Attributes:
        time: [F] fs.
        potential: [F] eV.
        kinetic: [F] eV.
        temperature: [F] K.
        frames: F structures, positions and cell only.
        steps_per_second: integration speed, recording included.
        final: last structure, with momenta.
    """

    time: NDArray[np.float64]
    potential: NDArray[np.float64]
    kinetic: NDArray[np.float64]
    temperature: NDArray[np.float64]
    frames: list[Atoms]
    steps_per_second: float
    final: Atoms

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

    def write(self, path: str | Path) -> Path:
        """Write the frames as extended XYZ (`.xyz`), which ASE and mdtraj read, and a PDB topology beside it.

        Returns:
            The path of the trajectory; the topology has the same name with `.pdb`.

        Raises:
            OptionError: the name does not end in `.xyz` or `.extxyz`, or its folder does not exist.
        """
        target = check_target(path, ENDINGS)
        write(target, self.frames, format="extxyz", columns=["symbols", "positions"])
        write(target.with_suffix(".pdb"), self.frames[0], format="proteindatabank")
        return target


class Recorder:
    """Collects frames while an engine runs."""

    def __init__(self, atoms: Atoms) -> None:
        self.atoms = atoms
        self.rows: list[tuple[float, float, float]] = []
        self.frames: list[Atoms] = []

    def add(self, time: float, potential: float, kinetic: float, positions: NDArray[np.float64],
            cell: NDArray[np.float64]) -> None:
        """Add a frame: fs, eV, eV, [N, 3] A, [3, 3] A."""
        self.rows.append((time, potential, kinetic))
        self.frames.append(Atoms(numbers=self.atoms.numbers, positions=positions, cell=cell, pbc=self.atoms.pbc))

    def finish(self, final: Atoms, degrees_of_freedom: int, seconds: float, steps: int) -> Record:
        """Return the record."""
        from mlip.units import KB_EV

        time, potential, kinetic = np.array(self.rows).reshape(-1, 3).T
        temperature = 2 * kinetic / (max(degrees_of_freedom, 1) * KB_EV)
        return Record(time, potential, kinetic, temperature, self.frames, steps / max(seconds, 1e-9), final)
