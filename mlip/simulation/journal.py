"""`Journal`: what all engines do around their steps: files, checkpoints, errors, a bar."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from ase import Atoms
from numpy.typing import NDArray
from tqdm import tqdm

from mlip.errors import CheckpointError, NonFiniteError, StructureError, TemperatureError
from mlip.simulation.plan import Plan
from mlip.simulation.record import Record, Recorder, outputs_of
from mlip.simulation.restart import Checkpoint, Restart
from mlip.simulation.safety import stopped
from mlip.simulation.stop_rule import StopRule


class Run(Protocol):
    """The state of a run in some engine."""

    @property
    def atoms(self) -> Atoms:
        """Atoms that move, where they are now."""

    @property
    def step(self) -> int:
        """Steps that are done."""

    def save(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Return arrays and JSON-compatible values from which `load` goes on."""

    def load(self, step: int, arrays: Mapping[str, NDArray[Any]], state: Mapping[str, Any]) -> None:
        """Go on from what `save` returned."""


class Bar:
    """A progress bar that tells ns/day."""

    def __init__(self, bar: Any, plan: Plan) -> None:
        self._bar, self._plan = bar, plan

    def show(self, step: int) -> None:
        """Move to a step."""
        self._bar.update(step - self._bar.n)
        rate = self._bar.format_dict["rate"]
        if rate and step % self._plan.every == 0:
            self._bar.set_postfix_str(f"{rate * self._plan.timestep * 0.0864:.3g} ns/day", refresh=False)


class Journal:
    """Keeps the files of a run: frames and log as they come, a checkpoint, the last structure.

    Attributes:
        recorder: of the frames.
        begun: steps that were done when this process began.
    """

    def __init__(self, start: Atoms, degrees_of_freedom: int, plan: Plan, trajectory: str | Path | None,
                 identity: Mapping[str, Any], rule: StopRule | None) -> None:
        """Prepare; nothing is written.

        Args:
            start: atoms, with the constraints they came with.
            degrees_of_freedom: that the temperature is reckoned with.
            plan: what is done.
            trajectory: file for the frames, if any.
            identity: of the run, for its checkpoint.
            rule: of a committee.

        Raises:
            OptionError: the trajectory cannot be written.
            MissingDependencyError: its format needs mdtraj, which is not installed.
        """
        self._files = None if trajectory is None else outputs_of(trajectory)
        self.recorder = Recorder(start, degrees_of_freedom, plan, self._files)
        self._restart = Restart(None if self._files is None else self._files.checkpoint, identity)
        self._start, self._plan, self._rule = start, plan, rule
        self.begun, self._since = 0, time.perf_counter()

    def begin(self, run: Run, resume: bool) -> Record | None:
        """Begin a run, or go on with it; return the record of one that is finished.

        Raises:
            CheckpointError: the checkpoint is damaged or of another run, or files of the run are gone or shorter.
        """
        last = self._restart.read() if resume else None
        if last is None:
            self.recorder.begin()
            return None
        try:
            self.recorder.resume(last.sizes, last.finished)
            if self._rule is not None:
                self._rule.restore(last.state["rule"])
        except OSError as error:
            raise CheckpointError(f"{self._restart.path} cannot be gone on from, a file of its run is not as it was: "
                                  f"{error}; delete the checkpoint to begin anew") from None
        self.begun = last.step
        if not last.finished:
            run.load(last.step, last.arrays, last.state)
            return None
        self.recorder.tidy()
        final = self._start.copy()
        place(final, **last.arrays)
        return self.recorder.record(final, self.begun, 0.0)

    @contextmanager
    def running(self, run: Run, engine: str, progress: bool) -> Iterator[Bar]:
        """Show a bar; when the run stops, for whatever reason, leave a checkpoint, and say when and why."""
        self._since = time.perf_counter()
        try:
            with tqdm(total=self._plan.steps, initial=self.begun, desc=engine, unit="step",
                      disable=not progress) as bar:
                yield Bar(bar, self._plan)
        except (NonFiniteError, StructureError, TemperatureError) as error:
            self._restart.write()
            when = f"{engine} stopped after step {run.step} ({run.step * self._plan.timestep:g} fs)"
            raise stopped(error, when, self.recorder.fail(run.atoms.copy())) from error
        finally:
            self._restart.write()

    def keep(self, run: Run) -> None:
        """Take a checkpoint at a frame; at the first one there is nothing yet to go on from but the start."""
        if self._files is not None and run.step:
            arrays, state = run.save()
            state["rule"] = None if self._rule is None else self._rule.state()
            self._restart.keep(Checkpoint(run.step, arrays, state, self.recorder.sizes()))

    def finish(self, final: Atoms, potential: float) -> Record:
        """Write the last structure, with momenta, of this energy in eV, and return the record."""
        seconds = time.perf_counter() - self._since
        self.recorder.finish(final, potential)
        if self._files is not None:
            arrays = {"positions": final.positions, "momenta": final.get_momenta(), "cell": final.cell.array}
            state = {"rule": None if self._rule is None else self._rule.state()}
            self._restart.keep(Checkpoint(self._plan.steps, arrays, state, self.recorder.sizes(), finished=True))
        self.recorder.tidy()
        return self.recorder.record(final, self.begun, seconds)


def place(atoms: Atoms, positions: NDArray[np.float64], momenta: NDArray[np.float64],
          cell: NDArray[np.float64]) -> None:
    """Set positions, momenta and cell as they are, whatever constraints say."""
    atoms.set_cell(cell)
    atoms.set_positions(positions, apply_constraint=False)
    atoms.set_momenta(momenta, apply_constraint=False)
