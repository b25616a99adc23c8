"""Dynamics in OpenMM for processes of any environment that has it; imports nothing of mlip.

Ours import it; `processes/peer_mace.py` runs the file.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import openmm
from openmm import app

TIMESTEP, TEMPERATURE = 0.0005, 300.0  # ps, K
KJ_PER_MOL = 96.48533212331  # of an eV


def topology_of(path: str) -> app.Topology:
    """Return the topology of a structure that `save_structure` of `mlip/bench/sides.py` wrote, without bonds."""
    topology = app.Topology()
    residue = topology.addResidue("ALL", topology.addChain())
    with np.load(path) as z:
        for number in z["numbers"]:
            topology.addAtom("X", app.Element.getByAtomicNumber(int(number)), residue)
        if bool(z["pbc"]):
            topology.setPeriodicBoxVectors((0.1 * z["cell"]).tolist())
    return topology


class Stepping:
    """A System that can be stepped, always from the same start.

    Attributes:
        context: of the System, on the platform CPU.
    """

    def __init__(self, system: openmm.System, path: str, threads: int) -> None:
        """Make a context, and let it stand at the start."""
        with np.load(path) as z:
            self._start = 0.1 * z["positions"]
        self._integrator = openmm.VerletIntegrator(TIMESTEP)
        platform = openmm.Platform.getPlatformByName("CPU")
        self.context = openmm.Context(system, self._integrator, platform, {"Threads": str(threads)})
        self.restart()

    def restart(self) -> None:
        """Go back to the start: positions, and velocities of 300 K that are always the same."""
        self.context.setPositions(self._start)
        self.context.setVelocitiesToTemperature(TEMPERATURE, 1)

    def step(self, steps: int) -> None:
        """Move on."""
        self._integrator.step(steps)

    def write(self, path: str) -> None:
        """Write energy and forces at the start, eV and eV/A."""
        self.restart()
        state: Any = self.context.getState(energy=True, forces=True)
        np.savez(path, energy=state.getPotentialEnergy()._value / KJ_PER_MOL,
                 forces=state.getForces(asNumpy=True)._value / (10.0 * KJ_PER_MOL))
