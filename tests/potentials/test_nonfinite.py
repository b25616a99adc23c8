"""NaN and infinity stop a simulation at once, naming the atoms, in steps and in the minimiser."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import openmm
import pytest

import mlip
from mlip.potentials import create_force, create_system
from mlip.simulation.quickstart import acetylacetone

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_positions(mace, methanol, omm, bad) -> None:
    system = create_system(omm.topology(methanol.numbers), mace)
    positions = methanol.positions.copy()
    positions[4, 1] = bad
    context = omm.context(system, positions)
    with pytest.raises(openmm.OpenMMException, match=r"NonFiniteError.*first \[4\]"):
        context.getIntegrator().step(1)


def test_positions_of_a_subset_are_named_as_in_the_system(mace, methanol, omm) -> None:
    force = create_force(methanol.numbers, mace, [5, 2, 0])
    positions = methanol.positions.copy()
    positions[[2, 3]] = np.nan  # 3 is none of ours
    with pytest.raises(openmm.OpenMMException, match=r"first \[1\].*particles of the System: \[2\]"):
        omm.results(omm.context(omm.system(len(methanol), force), positions))


def test_blown_up_velocities_stop_within_a_step(mace, methanol, omm) -> None:
    system = create_system(omm.topology(methanol.numbers), mace)
    context = omm.context(system, methanol.positions)
    velocities = np.zeros((len(methanol), 3))
    velocities[2, 0] = np.inf
    context.setVelocities(velocities)
    with pytest.raises(openmm.OpenMMException, match="NonFiniteError"):
        context.getIntegrator().step(2)


def test_results_of_the_model(methanol, omm) -> None:
    spoilt = mlip.create("mace", elements=["H", "C", "O"], seed=9, channels=4, edge_lmax=1, correlation=1)
    system = create_system(omm.topology(methanol.numbers), spoilt)
    context = omm.context(system, methanol.positions)
    omm.results(context)
    for weight in spoilt.model.parameters():
        weight.fill_(np.nan)
    with pytest.raises(openmm.OpenMMException, match=r"NonFiniteError.*6 atom"):
        context.getIntegrator().step(2)  # the first is taken with what is known already


def test_atoms_in_one_place(mace, methanol, omm) -> None:
    positions = methanol.positions.copy()
    positions[3] = positions[1]
    force = create_force(methanol.numbers, mace, [0, 1, 3])
    with pytest.raises(openmm.OpenMMException, match=r"CloseContactError.*particles of the System: \[1, 3\]"):
        omm.results(omm.context(omm.system(len(methanol), force), positions))


MINIMISE = """
import sys, time, numpy as np, openmm, torch
import mlip
from mlip.potentials import create_force
torch.set_num_threads(1)
potential = mlip.create("mace", elements=["H", "O"], channels=4, edge_lmax=1, correlation=1, cutoff=3.0,
                        dtype="float64")
system = openmm.System()
for mass in (16, 1, 1): system.addParticle(mass)
system.addForce(create_force([8, 1, 1], potential))
platform = openmm.Platform.getPlatformByName(sys.argv[1])
context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
positions = np.array([[0, 0, 0], [0.1, 0, 0], [0, 0.1, 0]])
context.setPositions(positions)
context.getState(energy=True)
if sys.argv[2] == "positions":
    context.setPositions(positions * [1, np.nan, 1])
else:
    for weight in potential.model.parameters(): weight.fill_(np.nan)
start = time.perf_counter()
try:
    openmm.LocalEnergyMinimizer.minimize(context)
    print("no error")
except openmm.OpenMMException as error:
    print(round(time.perf_counter() - start, 3), error)
"""


@pytest.mark.parametrize(("platform", "what"), [("Reference", "positions"), ("CPU", "results")])
def test_the_minimiser_returns(platform, what) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", MINIMISE, platform, what], capture_output=True, text=True,
                          timeout=100, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    seconds, text = done.stdout.split(maxsplit=1)
    assert text.startswith("NonFiniteError")
    assert "[0, 1, 2]" in text
    assert float(seconds) < 1.0


def test_a_minimiser_may_try_long_steps(omm) -> None:
    """Its first steps go far beyond what any molecule is; it takes them back."""
    atoms = acetylacetone()
    system = create_system(omm.topology(atoms.numbers), "mace-acac", dtype="float64")
    context = omm.context(system, atoms.positions)
    before = omm.results(context)[0]
    openmm.LocalEnergyMinimizer.minimize(context, 5.0, 50)
    assert omm.results(context)[0] < before
