"""Our side of `mlip bench openmm` and `mlip bench md`: a model in OpenMM, and what a step of it costs."""

from __future__ import annotations

import copy
import time
from pathlib import Path
from typing import Any

import numpy as np
import openmm
import torch
from numpy.typing import NDArray

from mlip.bench.stepping import Stepping, topology_of
from mlip.checkpoints import Evaluator, Potential
from mlip.graph import Structure
from mlip.potentials import Computation, create_system
from mlip.potentials.registry import register
from mlip.potentials.settings import Settings

BLOCK = 50  # steps before it starts again: nothing holds atoms apart that random weights move


class TimedEvaluator(Evaluator):
    """An evaluator that adds up the processor time of its calls."""

    seconds = 0.0

    def tensors(self, structure: Structure, positions: torch.Tensor | None = None) -> tuple[float, torch.Tensor]:
        """Return what `Evaluator.tensors` does."""
        start = time.process_time()
        found = super().tensors(structure, positions)
        self.seconds += time.process_time() - start
        return found


class Nothing:
    """The function of a `PythonForce` that does nothing."""

    def __init__(self, particles: int) -> None:
        self._forces = np.zeros((particles, 3))

    def __call__(self, state: Any) -> tuple[float, NDArray[np.float64]]:
        """Return no energy and no forces."""
        return 0.0, self._forces


class Engine:
    """A System that a model describes alone, made by `create_system`."""

    def __init__(self, potential: Potential, path: str | Path) -> None:
        """Make it for a structure of a file that `save_structure` wrote."""
        self._potential, self._path = potential, str(path)
        self._topology = topology_of(self._path)
        self.system = create_system(self._topology, potential, energy="interaction")
        self.stepping = self._stepping(self.system)

    def run(self, steps: int) -> None:
        """Run from the start."""
        self.stepping.restart()
        self.stepping.step(steps)

    def run_blocks(self, steps: int) -> None:
        """Run many steps, from the start again and again."""
        for done in range(0, steps, BLOCK):
            self.run(min(BLOCK, steps - done))

    def overhead(self, steps: int) -> dict[str, float]:
        """Return the medians of what one step takes, by its parts.

        The neighbour list and the model are timed within the step. It is processor time, which other programs on the
        machine disturb least.

        Args:
            steps: how many to take; as many of a force that does nothing, in turn.

        Returns:
            Seconds: step, model (with its neighbour list), overhead (their difference), nothing (a step with a
            `PythonForce` that does nothing).
        """
        potential, reference = register(self._potential)
        numbers = np.array([atom.element.atomic_number for atom in self._topology.atoms()])
        periodic = self._topology.getPeriodicBoxVectors() is not None
        computation = Computation(reference, Settings(numbers, None, periodic), potential)
        computation.evaluator = timed = TimedEvaluator(potential, refuse_contacts=True)
        ours, nothing = (self._stepping(self._with(f, periodic)) for f in (computation, Nothing(len(numbers))))
        rows = []
        for i in range(-5, steps):  # the first ones warm up
            if i % BLOCK == 0:
                ours.restart()
                nothing.restart()
            timed.seconds = 0.0
            marks = [time.process_time()]
            for each in (ours, nothing):
                each.step(1)
                marks.append(time.process_time())
            step, idle = np.diff(marks)
            rows.append((step, timed.seconds, step - timed.seconds, idle))
        names = ("step", "model", "overhead", "nothing")
        return dict(zip(names, np.median(rows[5:], axis=0).tolist(), strict=True))

    def copies(self, count: int = 5) -> dict[str, float]:
        """Return the bytes of the System as XML, and the least seconds of a deep copy of it."""
        seconds = []
        for _ in range(count):
            start = time.perf_counter()
            copy.deepcopy(self.system)
            seconds.append(time.perf_counter() - start)
        return {"xml": len(openmm.XmlSerializer.serialize(self.system).encode()), "copy": min(seconds)}

    def _with(self, function: Any, periodic: bool) -> openmm.System:
        """Return the System with another force in the place of the model's."""
        system = create_system(self._topology, self._potential)
        force = openmm.PythonForce(function)
        force.setUsesPeriodicBoundaryConditions(periodic)
        system.removeForce(0)
        system.addForce(force)
        return system

    def _stepping(self, system: openmm.System) -> Stepping:
        return Stepping(system, self._path, torch.get_num_threads())
