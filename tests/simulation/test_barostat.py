"""Constant pressure: the right volume, molecules that stay whole, the same in both engines."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.constraints import FixAtoms
from ase.io import read
from torch import nn

import mlip
from mlip.checkpoints import ModelInfo
from mlip.errors import StructureError
from mlip.graph import AtomGraph
from mlip.models import EnergyModel, ModelConfig
from mlip.simulation import Barostat, Plan, molecules_of, run_ase, run_openmm
from mlip.simulation.openmm_engine import topology_of
from mlip.units import KB_EV

BAR = 1e5 * 1e-30 / 1.602176634e-19  # eV/A^3


class Nothing(EnergyModel):
    """A model without interactions."""

    def __init__(self) -> None:
        super().__init__()
        self.config = ModelConfig((6, 8), cutoff=1.5)
        self.nothing = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        self._register_elements(torch.zeros((1, 2), dtype=torch.float64))

    def forward(self, graph: AtomGraph) -> torch.Tensor:
        return self.nothing.expand(graph.num_atoms)


def water(count: int = 2) -> Atoms:
    """Molecules on a lattice, wrapped into a box whose faces cut some of them."""
    one = molecule("H2O")
    one.cell, one.pbc = [4.0, 4.2, 4.4], True
    box = one.repeat(count)
    box.wrap()
    return box


def test_an_ideal_gas() -> None:
    """<V> = (M + 1) kT / P for M molecules that know nothing of each other, however many atoms they have."""
    temperature, pressure, count = 300.0, 1.0, 20
    gas = Atoms(cell=[100.0] * 3, pbc=True)
    for place in np.random.default_rng(3).random((count, 3)):
        one = molecule("CO")
        one.positions += 100.0 * place
        gas += one
    expected = (count + 1) * KB_EV * temperature / (pressure * BAR)
    nothing = mlip.Potential(Nothing(), ModelInfo(family="nothing", name="nothing"))
    barostat = Barostat(gas, nothing, Plan(ensemble="npt", temperature=temperature, pressure=pressure, seed=4))
    assert barostat.molecules == count
    positions, cell, volumes = barostat.start.positions, gas.cell.array, []
    for _ in range(1500):
        positions, cell = barostat.attempt(positions, cell) or (positions, cell)
        volumes.append(np.linalg.det(cell))
    assert np.mean(volumes[300:]) == pytest.approx(expected, rel=0.04)  # atoms as molecules: twice as large
    assert np.std(volumes[300:]) == pytest.approx(expected / np.sqrt(count + 1), rel=0.2)
    assert barostat.start.get_distance(0, 1) == pytest.approx(np.linalg.norm(positions[1] - positions[0]), abs=1e-10)


def test_molecules_are_found() -> None:
    found = molecules_of(water())
    assert found.count == 8
    assert len(found.bonds) == 16
    for k in range(8):
        members = np.flatnonzero(found.label == k)
        assert sorted(water().numbers[members].tolist()) == [1, 1, 8]
        assert np.ptp(found.positions[members], axis=0).max() < 1.7
    shifts = np.linalg.solve(water().cell.array.T, (found.positions - water().positions).T).T
    np.testing.assert_allclose(shifts, np.round(shifts), atol=1e-12)
    assert np.abs(shifts).max() > 0.5  # some were cut


def test_what_has_no_end_is_no_molecule() -> None:
    crystal = bulk("Cu", cubic=True)
    assert molecules_of(crystal).count == 4
    assert molecules_of(bulk("Cu")).count == 1  # bonded to its own images
    assert len(molecules_of(crystal).bonds) == 0
    chain = Atoms("C2", [[0, 0, 0], [1.4, 0, 0]], cell=[2.8, 9, 9], pbc=True)
    assert molecules_of(chain).count == 2
    chain.pbc = False
    assert molecules_of(chain).count == 1
    slab = crystal.repeat(3)
    slab.cell[2, 2] = 50.0
    slab += Atoms(molecule("H2O").numbers, molecule("H2O").positions + np.array([2, 2, 30]))
    assert molecules_of(slab).count == 4 * 27 + 1


def test_a_topology_knows_molecules() -> None:
    pytest.importorskip("openmm")
    bonds = {frozenset((a.index, b.index)) for a, b in topology_of(water(), bonds=True).bonds()}
    assert bonds == {frozenset((3 * k, 3 * k + h)) for k in range(8) for h in (1, 2)}
    assert not list(topology_of(water()).bonds())


@pytest.mark.parametrize("kind", ["water", "crystal"])
def test_an_attempt(binding, copper, kind) -> None:
    """Molecules stay rigid; in a crystal all scaled positions stay."""
    start = water() if kind == "water" else copper
    barostat = Barostat(start, binding, Plan(ensemble="npt", temperature=1e6))
    before, cell = barostat.start.positions.copy(), start.cell.array.copy()
    done = next(filter(None, (barostat.attempt(before, cell) for _ in range(50))))
    factor = done[1][0, 0] / cell[0, 0]
    assert factor != 1
    np.testing.assert_allclose(done[1], factor * cell, rtol=1e-14)
    masses = start.get_masses()
    np.testing.assert_allclose(masses @ done[0], masses @ before, atol=1e-9)
    label = molecules_of(start).label
    for k in range(label.max() + 1):
        here = label == k
        centres = [masses[here] @ r[here] / masses[here].sum() for r in (before, done[0])]
        np.testing.assert_allclose(done[0][here] - centres[1], before[here] - centres[0], atol=1e-12)
        middle = masses @ before / masses.sum()
        np.testing.assert_allclose(centres[1] - middle, factor * (centres[0] - middle), atol=1e-12)


def test_contacts_are_refused(binding, copper) -> None:
    """A pressure beyond all bounds: the box shrinks until atoms touch, and no further."""
    copper.set_cell([2.2] * 3, scale_atoms=True)
    barostat = Barostat(copper, binding, Plan(ensemble="npt", temperature=300.0, pressure=1e9))
    positions, cell = copper.positions, copper.cell.array
    for _ in range(120):
        positions, cell = barostat.attempt(positions, cell) or (positions, cell)
    crushed = Atoms("Cu4", positions, cell=cell, pbc=True)
    shortest = crushed.get_all_distances(mic=True)[np.triu_indices(4, 1)].min()
    assert 1.3 < shortest < 1.5


@pytest.mark.parametrize("engine", [run_ase, run_openmm])
def test_dynamics(binding, moving_copper, engine, monkeypatch, tmp_path) -> None:
    """Frames, log and calculator agree on the box, which changes by itself."""
    pytest.importorskip("openmm")
    for name in ("ase_engine", "openmm_engine"):
        monkeypatch.setattr(f"mlip.simulation.{name}.EVERY", 2)
    path = tmp_path / "run.xyz"
    plan = Plan(steps=12, every=2, ensemble="npt", temperature=300, pressure=1e5, timestep=2.0)
    record = engine(moving_copper, binding, plan, trajectory=path)
    with (tmp_path / "run.log.csv").open() as file:
        log = list(csv.DictReader(file))
    frames = read(path, ":")
    volumes = [frame.get_volume() for frame in frames]
    assert len(set(volumes)) > 3
    np.testing.assert_allclose([float(row["volume_a3"]) for row in log], volumes, rtol=1e-7)
    density = moving_copper.get_masses().sum() * 1.66053907 / np.array(volumes)
    np.testing.assert_allclose([float(row["density_g_cm3"]) for row in log], density, rtol=1e-6)
    for frame, energy in zip(frames, record.potential, strict=True):
        assert binding.predict(frame).energy == pytest.approx(energy, abs=1e-5)
    np.testing.assert_allclose(record.final.cell.array, frames[-1].cell.array, atol=1e-7)


@pytest.mark.parametrize("ensemble", ["nve", "nvt", "npt"])
@pytest.mark.parametrize("engine", [run_ase, run_openmm])
def test_the_temperature_has_three_degrees_of_freedom_less(binding, moving_copper, engine, ensemble) -> None:
    pytest.importorskip("openmm")
    record = engine(moving_copper, binding, Plan(steps=2, every=1, ensemble=ensemble))
    np.testing.assert_allclose(record.temperature, 2 * record.kinetic / (9 * KB_EV), rtol=1e-12)


@pytest.mark.parametrize("engine", [run_ase, run_openmm])
def test_what_has_no_pressure(binding, structures, copper, engine) -> None:
    pytest.importorskip("openmm")
    plan = Plan(steps=1, ensemble="npt")
    with pytest.raises(StructureError, match=r"constant pressure.*pbc is"):
        engine(structures["molecule"], binding, plan)
    copper.set_constraint(FixAtoms([0]))
    with pytest.raises(StructureError, match="constraint"):
        engine(copper, binding, plan)
