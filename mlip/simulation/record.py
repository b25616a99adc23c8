"""`Record`: what a molecular-dynamics run leaves behind, in memory and in files, whichever engine made it."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.io import write
from numpy.typing import NDArray

from mlip.io.ase import INFO_KEYS
from mlip.io.files import check_target
from mlip.simulation.frames import FORMATS, shorten
from mlip.simulation.plan import Plan
from mlip.units import DALTON_PER_A3_IN_G_CM3, KB_EV

COLUMNS = ("step", "time_ps", "potential_ev", "kinetic_ev", "total_ev", "temperature_k", "volume_a3", "density_g_cm3")
SPREAD = "forces_std_max_ev_per_a"  # one more, of committees


@dataclass(frozen=True)
class Record:
    """A finished run.

    Attributes:
        time: [F] fs.
        potential: [F] eV.
        kinetic: [F] eV.
        temperature: [F] K.
        steps_per_second: integration speed, recording included, of the steps taken in this process.
        final: last structure, with momenta.
        spread: [F] eV/A, spread of the force on the worst atom over the members of a committee; None for one model.
        begun: step this process began at: 0, that of the checkpoint a run went on from, or all of a finished one.
    """

    time: NDArray[np.float64]
    potential: NDArray[np.float64]
    kinetic: NDArray[np.float64]
    temperature: NDArray[np.float64]
    steps_per_second: float
    final: Atoms
    spread: NDArray[np.float64] | None = None
    begun: int = 0

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


class Outputs(NamedTuple):
    """The files of a run.

    Attributes:
        trajectory: the frames.
        topology: `<stem>.topology.pdb`, the first frame, for programs such as mdtraj.
        final: `<stem>.final.xyz`, the last structure with its momenta, from which another run goes on; of constraints
            it holds only those on single atoms.
        log: `<stem>.log.csv`, a row for each frame.
        checkpoint: `<stem>.checkpoint.npz`, from which the same run goes on.
        failed: `<stem>.failed.xyz`, the structure at which a run stopped with an error.
    """

    trajectory: Path
    topology: Path
    final: Path
    log: Path
    checkpoint: Path
    failed: Path


def outputs_of(trajectory: str | Path, inputs: Sequence[Path] = ()) -> Outputs:
    """Return the files of a run, once it is known that they can be written.

    Args:
        trajectory: file for the frames: extended XYZ, DCD, XTC or HDF5, as its ending says.
        inputs: files that must not be overwritten.

    Raises:
        OptionError: the name does not end in `.xyz`, `.extxyz`, `.dcd`, `.xtc` or `.h5`, its folder does not exist, or
            a file is an input.
    """
    target = check_target(trajectory, tuple(FORMATS), inputs)
    endings = (".topology.pdb", ".final.xyz", ".log.csv", ".checkpoint.npz", ".failed.xyz")
    return Outputs(target, *(check_target(target.with_suffix(s), (Path(s).suffix,), inputs)
                             for s in endings))


class Recorder:
    """Keeps the energies of a run and appends its frames to files, if a name is given, as they come."""

    def __init__(self, atoms: Atoms, degrees_of_freedom: int, plan: Plan, files: Outputs | None = None) -> None:
        """Prepare; nothing is written.

        Args:
            atoms: the start.
            degrees_of_freedom: that the temperature is reckoned with.
            plan: what is done.
            files: to write.

        Raises:
            MissingDependencyError: the format needs mdtraj, which is not installed.
        """
        self.periodic = bool(atoms.pbc.all())
        self.degrees_of_freedom = max(degrees_of_freedom, 1)
        self._plan, self._files, self._start = plan, files, atoms
        self._rows: list[dict[str, float]] = []
        self._mass = float(atoms.get_masses().sum())
        self._info = {k: v for k, v in atoms.info.items() if k in INFO_KEYS}
        self._frames = None if files is None else FORMATS[files.trajectory.suffix](
            files.trajectory, atoms, plan.every * plan.timestep)

    def begin(self) -> None:
        """Remove the files of an earlier run with the same name, and write the topology."""
        if self._files is None or self._frames is None:
            return
        for path in (self._files.checkpoint, *self._files, self._frames.path):
            path.unlink(missing_ok=True)
        frame = Atoms(numbers=self._start.numbers, positions=self._start.positions, cell=self._start.cell,
                      pbc=self._start.pbc)
        write(self._files.topology, frame, format="proteindatabank")

    def sizes(self) -> dict[str, int]:
        """Return the bytes of the files that grow."""
        return {} if self._files is None or self._frames is None else {
            "frames": self._frames.path.stat().st_size, "log": self._files.log.stat().st_size}

    def resume(self, sizes: Mapping[str, int], finished: bool) -> None:
        """Go on after the frames that were there when `sizes` returned this; what came later is cut off.

        Raises:
            OSError: a file of the run is gone, or shorter than it was.
        """
        assert self._files is not None
        assert self._frames is not None
        if finished:
            self._files.trajectory.stat()
        else:
            self._frames.cut(sizes["frames"])
        shorten(self._files.log, sizes["log"])
        with self._files.log.open(newline="") as file:
            self._rows = [{k: float(v) if v else np.nan for k, v in row.items()} for row in csv.DictReader(file)]

    def temperature(self, kinetic: float) -> float:
        """Return the temperature in K of a kinetic energy in eV."""
        return 2 * kinetic / (self.degrees_of_freedom * KB_EV)

    def add(self, step: int, potential: float, kinetic: float, positions: NDArray[np.float64],
            cell: NDArray[np.float64], spread: float | None = None) -> None:
        """Add a frame: number of the step, eV, eV, [N, 3] A, [3, 3] A, and the spread of a committee, eV/A."""
        volume = abs(float(np.linalg.det(cell))) if self.periodic else np.nan
        values = (step, step * self._plan.timestep / 1000, potential, kinetic, potential + kinetic,
                  self.temperature(kinetic), volume, self._mass / volume * DALTON_PER_A3_IN_G_CM3)
        row = dict(zip(COLUMNS, map(float, values), strict=True)) | ({} if spread is None else {SPREAD: float(spread)})
        self._rows.append(row)
        if self._files is None or self._frames is None:
            return
        info = self._info | self._told(step, potential, kinetic)
        self._frames.append(positions, cell, step, step * self._plan.timestep,
                            info if spread is None else {**info, "forces_std_max": spread})
        text = [str(step), *("" if np.isnan(v) else repr(v) for v in list(row.values())[1:])]
        with self._files.log.open("a", newline="") as file:
            if len(self._rows) == 1:
                file.write(",".join(row) + "\n")
            file.write(",".join(text) + "\n")

    def finish(self, final: Atoms, potential: float) -> None:
        """Write the last structure and close the trajectory.

        Args:
            final: the last structure, with momenta.
            potential: its energy, eV.
        """
        if self._files is not None and self._frames is not None:
            last = final.copy()
            last.info = self._info | self._told(self._plan.steps, potential, final.get_kinetic_energy())
            write(self._files.final, last, format="extxyz")
            self._frames.finish(self._files.topology)

    def tidy(self) -> None:
        """Remove what a finished run does not need."""
        if self._files is not None and self._frames is not None:
            self._frames.tidy()
            self._files.failed.unlink(missing_ok=True)

    def fail(self, atoms: Atoms) -> str:
        """Write the structure at which the run stopped, and return where it is, for the error."""
        if self._files is None:
            return ""
        write(self._files.failed, atoms, format="extxyz")
        return f"; the structure is in {self._files.failed}, the frames before it in {self._files.trajectory}"

    def record(self, final: Atoms, begun: int, seconds: float) -> Record:
        """Return the record of a run that is done.

        Args:
            final: the last structure, with momenta.
            begun: step this process began at.
            seconds: since then.
        """
        rows = {name: np.array([row[name] for row in self._rows]) for name in self._rows[0]}
        return Record(rows["step"] * self._plan.timestep, rows["potential_ev"], rows["kinetic_ev"],
                      rows["temperature_k"], (self._plan.steps - begun) / max(seconds, 1e-9), final, rows.get(SPREAD),
                      begun)

    def _told(self, step: int, potential: float, kinetic: float) -> dict[str, float]:
        return {"time": step * self._plan.timestep, "energy": potential, "kinetic": kinetic,
                "temperature": self.temperature(kinetic)}
