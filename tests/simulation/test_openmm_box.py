"""Any cell becomes a box OpenMM accepts, and the energy stays the same."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import read

from mlip.errors import StructureError
from mlip.simulation import Plan, run_openmm, with_velocities
from mlip.simulation.openmm_engine import openmm_box, topology_of

pytest.importorskip("openmm")


def sheared() -> Atoms:
    atoms = bulk("Cu", "fcc", a=3.4)
    atoms.set_cell([[1, 0, 0], [3, 1, 0], [-2, 5, 1]] @ atoms.cell.array)
    return atoms


def crystal(cell: list[float]) -> Atoms:
    return Atoms("CuO", cell=cell, pbc=True, scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5]])


CELLS = {
    "fcc": lambda: bulk("Cu", "fcc", a=3.4), "bcc": lambda: bulk("Cu", "bcc", a=2.9), "sheared": sheared,
    "hexagonal": lambda: bulk("Cu", "hcp", a=2.6, c=4.2),
    "rhombohedral": lambda: crystal([3.1, 3.1, 3.1, 75, 75, 75]),
    "obtuse": lambda: crystal([3.4, 3.0, 3.8, 110, 118, 95]),
}


def check(atoms: Atoms, potential) -> None:
    box = openmm_box(atoms)
    cell = box.cell.array
    assert np.allclose(cell, np.tril(cell), atol=0)
    assert (np.diag(cell) > 0).all()
    assert box.get_volume() == pytest.approx(atoms.get_volume())
    assert topology_of(box).getNumAtoms() == len(atoms)  # OpenMM checks the box here
    exact, turned = potential.predict(atoms), potential.predict(box)
    assert turned.energy == pytest.approx(exact.energy, abs=1e-8)
    np.testing.assert_allclose(np.linalg.norm(turned.forces, axis=1), np.linalg.norm(exact.forces, axis=1), atol=1e-8)


@pytest.mark.parametrize("name", list(CELLS))
def test_energy_is_invariant(binding, name) -> None:
    atoms = CELLS[name]()
    atoms.positions += np.random.default_rng(0).normal(0, 0.1, atoms.positions.shape)
    check(atoms, binding)


@pytest.mark.parametrize("name", ["cubic", "triclinic", "left_handed", "small_cell"])
def test_shared_structures(binding, structures, name) -> None:
    check(structures[name], binding)


def test_rounding_does_not_break_the_reduced_form() -> None:
    """Hexagonal and cubic primitive cells sit exactly at half a vector, where the last digit decides."""
    rng = np.random.default_rng(0)
    for a in np.linspace(2.5, 4.5, 100):
        for atoms in (bulk("Cu", "fcc", a=a), bulk("Cu", "bcc", a=a), bulk("Cu", "hcp", a=a, c=1.6 * a)):
            atoms.set_cell(atoms.cell.array @ np.linalg.qr(rng.normal(size=(3, 3)))[0])
            box = openmm_box(atoms)
            assert topology_of(box).getPeriodicBoxVectors() is not None
            assert box.get_volume() == pytest.approx(atoms.get_volume(), rel=1e-11)


def test_random_cells(binding) -> None:
    rng = np.random.default_rng(4)
    for _ in range(20):
        cell = rng.normal(0, 3, (3, 3))
        if abs(np.linalg.det(cell)) > 15:
            check(Atoms("CuO", cell=cell, pbc=True, scaled_positions=[[0.1, 0.2, 0.3], [0.6, 0.6, 0.9]]), binding)


@pytest.mark.parametrize("name", ["fcc", "hexagonal", "left_handed"])
def test_dynamics_start_right(binding, structures, name, tmp_path) -> None:
    atoms = with_velocities(CELLS[name]() if name in CELLS else structures[name], 300, seed=1)
    path = tmp_path / "run.xyz"
    record = run_openmm(atoms, binding, Plan(steps=2, every=1), platform="Reference", trajectory=path)
    assert record.potential[0] == pytest.approx(binding.predict(atoms).energy, abs=1e-8)
    assert record.kinetic[0] == pytest.approx(atoms.get_kinetic_energy(), rel=1e-6)
    assert binding.predict(read(path)).energy == pytest.approx(record.potential[-1], abs=1e-6)


def test_molecules_stay_as_they_are(structures) -> None:
    atoms = structures["boxed"]
    assert openmm_box(atoms) == atoms
    assert topology_of(atoms).getPeriodicBoxVectors() is None


def test_momenta_turn_with_the_atoms(structures) -> None:
    atoms = with_velocities(structures["left_handed"], 300, seed=0)
    box = openmm_box(atoms)
    first, second = atoms.get_momenta(), box.get_momenta()
    np.testing.assert_allclose(first @ first.T, second @ second.T, atol=1e-12)
    distances = atoms.positions - atoms.positions[0], box.positions - box.positions[0]
    np.testing.assert_allclose(distances[0] @ first.T, distances[1] @ second.T, atol=1e-10)


def test_slabs_are_refused(structures) -> None:
    with pytest.raises(StructureError, match="all directions or none"):
        openmm_box(structures["slab"])
    with pytest.raises(StructureError, match="all directions or none"):
        topology_of(structures["slab"])


@pytest.mark.parametrize("name", ["fcc", "sheared", "left_handed"])
def test_cells_that_openmm_refuses(structures, name) -> None:
    atoms = CELLS[name]() if name in CELLS else structures[name]
    with pytest.raises(StructureError, match=r"mlip\.simulation\.openmm_engine\.openmm_box"):
        topology_of(atoms)
    assert topology_of(openmm_box(atoms)).getPeriodicBoxVectors() is not None
