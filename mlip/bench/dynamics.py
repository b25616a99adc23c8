"""Dynamics for a fixed number of steps, with a clock on the neighbour list."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from ase import Atoms, units
from numpy.typing import ArrayLike

from mlip.checkpoints import Evaluator, Potential
from mlip.graph import Structure
from mlip.neighbors import NeighborList, VerletSkin
from mlip.simulation.ase_engine import with_velocities

TEMPERATURE, TIMESTEP = 300.0, 0.5  # K, fs


class TimedSkin(VerletSkin):
    """A skin that adds up the seconds of its calls."""

    seconds = 0.0

    def update(self, positions: ArrayLike, cell: ArrayLike | None = None,
               pbc: bool | ArrayLike = False) -> NeighborList:
        """Return the edges as `VerletSkin.update` does."""
        start = time.perf_counter()
        edges = super().update(positions, cell, pbc)
        self.seconds += time.perf_counter() - start
        return edges


def run_nve(potential: Potential, structure: Structure, steps: int, skin: float, threads: int) -> dict[str, Any]:
    """Run velocity Verlet at constant energy from 300 K with steps of 0.5 fs.

    Args:
        potential: the model.
        structure: start.
        steps: of dynamics; evaluations before them, to warm up, are not timed.
        skin: A.
        threads: of the neighbour list.

    Returns:
        seconds (all steps), list_seconds (of them, in `VerletSkin.update`), rebuilds, temperature (K, at the end).
    """
    atoms = with_velocities(Atoms(structure.numbers, structure.positions), TEMPERATURE, seed=0)
    r, momenta, mass = structure.positions.copy(), atoms.get_momenta(), atoms.get_masses()[:, None]
    evaluator, dt = Evaluator(potential, skin), TIMESTEP * units.fs
    evaluator.skin = timed = TimedSkin(potential.cutoff, skin, threads=threads)

    def forces() -> Any:
        moved = Structure.create(structure.numbers, r, structure.cell, structure.pbc)
        return evaluator(moved, stress=False).forces

    for _ in range(3):  # reusing a list is code of its own, which numba compiles when it is first used
        f = forces()
    timed.seconds, before = 0.0, timed.rebuilds
    start = time.perf_counter()
    for _ in range(steps):
        momenta += 0.5 * dt * f
        r += dt * momenta / mass
        f = forces()
        momenta += 0.5 * dt * f
    seconds = time.perf_counter() - start
    kinetic = float(np.sum(momenta**2 / mass)) / 2
    return {"seconds": seconds, "list_seconds": timed.seconds, "rebuilds": timed.rebuilds - before,
            "temperature": 2 * kinetic / (3 * len(r) * units.kB)}
