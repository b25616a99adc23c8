"""Systems, topologies and one-line simulations shared by the OpenMM tests."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from numpy.typing import ArrayLike, NDArray

import mlip

openmm = pytest.importorskip("openmm")
app = pytest.importorskip("openmm.app")

KJ = 96.48533212331001  # kJ/mol per eV: e * N_A / 1000 of the 2019 SI, written out here on purpose

_SERIAL = itertools.count(1)


def topology_of(numbers: Iterable[int], box: ArrayLike | None = None) -> app.Topology:
    """Return a topology of one residue without bonds; `box` in A."""
    topology = app.Topology()
    residue = topology.addResidue("MOL", topology.addChain())
    for i, z in enumerate(numbers):
        topology.addAtom(f"A{i}", app.Element.getByAtomicNumber(int(z)), residue)
    if box is not None:
        topology.setPeriodicBoxVectors([openmm.Vec3(*row) for row in np.asarray(box) * 0.1])
    return topology


def system_of(masses: Iterable[float] | int, *forces: openmm.Force) -> openmm.System:
    """Return a System of particles with forces."""
    system = openmm.System()
    for mass in [12.0] * masses if isinstance(masses, int) else masses:
        system.addParticle(mass)
    for force in forces:
        system.addForce(force)
    return system


def context_of(system: openmm.System, positions: ArrayLike, platform: str = "Reference", step: float = 0.0005,
               box: ArrayLike | None = None) -> openmm.Context:
    """Return a Context with a Verlet integrator; positions and box in A, step in ps."""
    where = openmm.Platform.getPlatformByName(platform)
    context = openmm.Context(system, openmm.VerletIntegrator(step), where)
    if box is not None:
        context.setPeriodicBoxVectors(*(np.asarray(box) * 0.1))
    context.setPositions(np.asarray(positions) * 0.1)
    return context


def results(context: openmm.Context, groups: int = -1) -> tuple[float, NDArray[np.float64]]:
    """Return energy in eV and forces in eV/A."""
    state = context.getState(energy=True, forces=True, groups=groups)
    kj = openmm.unit.kilojoule_per_mole
    energy = state.getPotentialEnergy().value_in_unit(kj) / KJ
    forces = state.getForces(asNumpy=True).value_in_unit(kj / openmm.unit.nanometer)
    return energy, forces / (10 * KJ)


class Tools:
    """The functions above, for tests (test modules cannot import one another)."""

    topology = staticmethod(topology_of)
    system = staticmethod(system_of)
    context = staticmethod(context_of)
    results = staticmethod(results)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small systems: threads cost more than they bring, above all beside other work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def omm() -> type[Tools]:
    """Short ways to Systems and Contexts."""
    return Tools


@pytest.fixture
def unsaved(mace: mlip.Potential) -> mlip.Potential:
    """A potential like no other in this process and that no file knows, float64."""
    model = copy.deepcopy(mace.model)
    model.atomic_energies.add_(1e-3 * next(_SERIAL))
    return mlip.Potential(model, mace.info)


@pytest.fixture
def saved(unsaved: mlip.Potential, tmp_path: Path) -> mlip.Potential:
    """A potential with a file, float64."""
    unsaved.save(tmp_path / "small.mlip")
    return unsaved


@pytest.fixture
def methanol() -> Atoms:
    """CH3OH, not quite at rest."""
    from ase.build import molecule

    atoms = molecule("CH3OH")
    atoms.positions += np.random.default_rng(2).normal(0.0, 0.05, (len(atoms), 3))
    return atoms


@pytest.fixture
def crystal() -> Atoms:
    """A triclinic crystal in the reduced form OpenMM wants, its cell smaller than the cutoff."""
    return Atoms("CuOCCu", cell=[[4.1, 0, 0], [1.9, 4.4, 0], [-1.2, 0.9, 5.0]], pbc=True,
                 scaled_positions=[[0.1, 0.1, 0.1], [0.6, 0.4, 0.5], [0.2, 0.7, 0.8], [0.7, 0.9, 0.2]])
