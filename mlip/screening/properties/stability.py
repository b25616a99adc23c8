"""Does a crystal survive a while at a temperature?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms

from mlip.checkpoints import Potential
from mlip.errors import CloseContactError, NonFiniteError, TemperatureError
from mlip.neighbors import neighbor_list
from mlip.screening.properties.common import check_numbers, repeats, require_crystal
from mlip.simulation.ase_engine import run_ase
from mlip.simulation.plan import Plan

UNITS = {"intact": "", "reason": "", "supercell": "repeats", "time": "ps", "final_temperature": "K",
         "mean_temperature": "K", "largest_displacement": "A", "rms_displacement": "A", "nearest_distance": "A"}
DYNAMICS = ("final_temperature", "mean_temperature", "largest_displacement", "rms_displacement")


@dataclass(frozen=True)
class Settings:
    """The dynamics.

    Attributes:
        temperature: K, of a Langevin thermostat; initial velocities too.
        steps: number of time steps.
        timestep: fs.
        friction: 1/ps; so strong that a short run gets to its temperature.
        supercell: A, least distance between opposite faces of the supercell.
    """

    temperature: float = 300.0
    steps: int = 2000
    timestep: float = 1.0
    friction: float = 10.0
    supercell: float = 8.0

    def __post_init__(self) -> None:
        check_numbers(self)


def compute(atoms: Atoms, potential: Potential, settings: Settings) -> dict[str, Any]:
    """Run dynamics at constant temperature and volume, and see how far atoms have gone.

    The crystal is intact when no atom is farther from its start than half of the shortest distance between atoms. One
    whose dynamics end in NaN, in heat or in atoms on top of each other is not, for the reason that is given.

    Args:
        atoms: a relaxed crystal.
        potential: the model.
        settings: how.

    Returns:
        The values of `UNITS`. The mean temperature is that of the second half.

    Raises:
        StructureError: no crystal.
    """
    require_crystal(atoms, "dynamics for stability")
    size = repeats(atoms, settings.supercell)
    start = atoms.repeat(size)
    start.set_constraint()
    start.set_momenta(np.zeros((len(start), 3)))
    j, i, shifts = neighbor_list(start.positions, potential.cutoff, start.cell.array, start.pbc)
    bonds = start.positions[j] - start.positions[i] + shifts @ start.cell.array
    nearest = float(np.linalg.norm(bonds, axis=1).min(initial=potential.cutoff))
    plan = Plan(steps=settings.steps, timestep=settings.timestep, temperature=settings.temperature, ensemble="nvt",
                friction=settings.friction)
    found: dict[str, Any] = {"supercell": list(size), "time": settings.steps * settings.timestep / 1000,
                             "nearest_distance": nearest, **dict.fromkeys(DYNAMICS)}
    try:
        record = run_ase(start, potential, plan)
    except (CloseContactError, NonFiniteError, TemperatureError) as error:
        return found | {"intact": False, "reason": f"{type(error).__name__}: {error}"}
    moved = np.linalg.norm(record.final.positions - start.positions, axis=1)
    intact = bool(moved.max() < nearest / 2)
    reason = "" if intact else f"atom {int(moved.argmax())} has moved by {moved.max():.2f} A"
    return found | {"intact": intact, "reason": reason, "final_temperature": float(record.temperature[-1]),
                    "mean_temperature": float(record.temperature[len(record.temperature) // 2:].mean()),
                    "largest_displacement": float(moved.max()),
                    "rms_displacement": float(np.sqrt(np.mean(moved**2)))}
