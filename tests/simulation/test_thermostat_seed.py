"""The noise of the thermostat: not that of the initial velocities, and new when a run goes on from another."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms

import mlip
from mlip.simulation import Plan, run_ase, run_openmm
from mlip.simulation.ase_engine import with_velocities

CO2 = Atoms("OCO", positions=[[-1.2, 0, 0], [0, 0, 0], [1.2, 0, 0.1]])


def test_it_depends_on_seed_and_start() -> None:
    start = with_velocities(CO2, 300, 0)
    plan = Plan(seed=3)
    assert plan.thermostat_seed(start) == plan.thermostat_seed(start.copy())
    moved = start.copy()
    moved.positions[0, 0] += 1e-9
    seeds = {plan.thermostat_seed(start), plan.thermostat_seed(moved), Plan(seed=4).thermostat_seed(start)}
    assert len(seeds) == 3
    assert all(0 < seed < 2**31 for seed in seeds)


@pytest.mark.parametrize("run", [run_ase, run_openmm])
def test_a_run_that_goes_on_has_new_noise(run: object, mace: mlip.Potential) -> None:
    """In a step far shorter than any motion the change of momenta is noise."""
    if run is run_openmm:
        pytest.importorskip("openmm")
    plan = Plan(steps=1, every=1, timestep=0.01, friction=500.0, ensemble="nvt", temperature=300.0)
    noises, atoms = [], with_velocities(CO2, 300, 0)
    for _ in range(2):
        end = run(atoms, mace, plan).final  # type: ignore[operator]
        noises.append((end.get_momenta() - atoms.get_momenta()).ravel())
        atoms = end
    assert abs(np.corrcoef(noises[0], noises[1])[0, 1]) < 0.9
    velocities = with_velocities(CO2, 300, 0).get_momenta().ravel()
    assert abs(np.corrcoef(noises[0], velocities)[0, 1]) < 0.9
