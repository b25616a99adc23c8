"""Dynamics and relaxations that go wrong stop at once, say where and when, and leave what is needed to see why."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.io import read
from torch import nn

import mlip
from mlip.checkpoints import ModelInfo
from mlip.checkpoints.evaluator import Evaluator
from mlip.errors import CloseContactError, MLIPError, NonFiniteError, OptionError, TemperatureError
from mlip.graph import AtomGraph
from mlip.models import EnergyModel, ModelConfig
from mlip.potentials import create_system
from mlip.simulation import Plan, relax, run_ase, run_openmm, with_velocities
from mlip.simulation.openmm_engine import topology_of
from mlip.simulation.record import Recorder

openmm = pytest.importorskip("openmm")
ENGINES = {"ASE": run_ase, "OpenMM": lambda *args, **options: run_openmm(*args, platform="Reference", **options)}
both_engines = pytest.mark.parametrize("engine", list(ENGINES))


@pytest.fixture(scope="module")
def free() -> mlip.Potential:
    """A small random model of carbon and oxygen, which pushes and pulls little."""
    return mlip.create("mace", ["C", "O"], channels=2, edge_lmax=1, correlation=1, radial_mlp=(8,), cutoff=4.0,
                       dtype="float64")


def step_of(error: Exception, engine: str, timestep: float) -> int:
    """Return the step an error names, which must fit the time it names."""
    found = re.match(rf"{engine} stopped after step (\d+) \(([\d.e+]+) fs\): ", str(error))
    assert found, error
    assert float(found[2]) == pytest.approx(int(found[1]) * timestep, rel=1e-5)
    return int(found[1])


@both_engines
def test_contacts(free, tmp_path, engine) -> None:
    """Two atoms fly at each other at 0.05 A a step; the bound is 0.71 A."""
    falling = Atoms("CO", [[0, 0, 0], [0, 0, 1.4]])
    falling.set_velocities([[0, 0, 0], [0, 0, -0.5]])
    path, plan = tmp_path / "run.xyz", Plan(steps=90, every=2, timestep=1.0, max_temperature=1e9)
    with pytest.raises(CloseContactError) as caught:
        ENGINES[engine](falling, free, plan, trajectory=path)
    assert caught.value.atoms == (0, 1)
    assert "0 (C) and 1 (O)" in str(caught.value)
    step, frames, failed = step_of(caught.value, engine, 1.0), read(path, ":"), read(tmp_path / "run.failed.xyz")
    known = step if engine == "ASE" else step - 1  # the last step whose forces were there
    assert len(frames) == known // 2 + 1 > 3
    assert frames[-1].get_distance(0, 1) > 0.71 > failed.get_distance(0, 1) > 0.71 - 0.06
    assert failed.get_momenta().any()
    assert str(tmp_path / "run.failed.xyz") in str(caught.value)
    assert not (tmp_path / "run.final.xyz").exists()
    with pytest.raises(CloseContactError) as again:
        ENGINES[engine](falling, free, plan, trajectory=path, resume=True)
    assert str(again.value) == str(caught.value)
    assert len(read(path, ":")) == len(frames)


@both_engines
def test_heat(binding, copper, tmp_path, engine) -> None:
    start = with_velocities(copper, 1.0, seed=0)
    plan = Plan(steps=300, every=1, timestep=2.0, ensemble="nvt", temperature=3000.0, friction=5.0,
                max_temperature=600.0)
    with pytest.raises(TemperatureError, match=r"above the limit of 600 K") as caught:
        ENGINES[engine](start, binding, plan, trajectory=tmp_path / "run.dcd")
    momenta = read(tmp_path / "run.failed.xyz").get_momenta()
    assert caught.value.atoms == tuple(np.argsort(-np.square(momenta).sum(axis=1)))
    assert f"the fastest atoms are {caught.value.atoms[0]} (Cu, " in str(caught.value)
    step = step_of(caught.value, engine, 2.0)
    rows = (tmp_path / "run.log.csv").read_text().splitlines()
    assert len(rows) - 1 == step  # frames 0 to step - 1
    assert float(rows[-1].split(",")[5]) <= 600
    assert {p.name for p in tmp_path.iterdir()} == {
        "run.dcd", "run.topology.pdb", "run.log.csv", "run.checkpoint.npz", "run.failed.xyz"}


def test_the_limit_of_the_temperature() -> None:
    assert Plan().hottest == 5000
    assert Plan(temperature=1000.0).hottest == 10_000
    assert Plan(max_temperature=400.0).hottest == 400


@both_engines
def test_nan(copper, tmp_path, engine, monkeypatch) -> None:
    """The weights are spoilt after the third frame; once they are repaired, the run goes on as if nothing had been."""
    potential = mlip.create("mace", ["Cu"], channels=2, edge_lmax=1, correlation=1, radial_mlp=(8,), cutoff=4.0,
                            dtype="float64")
    start, plan, add = with_velocities(copper, 300.0, seed=0), Plan(steps=5, every=1), Recorder.add
    weights = [weight.clone() for weight in potential.model.parameters()]

    def spoiling(self: Recorder, step: int, *rest: object) -> None:
        add(self, step, *rest)
        if step == 2:
            for weight in potential.model.parameters():
                weight.fill_(np.nan)

    monkeypatch.setattr(Recorder, "add", spoiling)
    with pytest.raises(NonFiniteError) as caught:
        ENGINES[engine](start, potential, plan, trajectory=tmp_path / "run.xyz")
    assert caught.value.atoms == (0, 1, 2, 3)
    assert step_of(caught.value, engine, 0.5) in (2, 3)
    assert len(read(tmp_path / "run.failed.xyz")) == 4
    monkeypatch.undo()
    for weight, good in zip(potential.model.parameters(), weights, strict=True):
        weight.copy_(good)
    resumed = ENGINES[engine](start, potential, plan, trajectory=tmp_path / "run.xyz", resume=True)
    assert resumed.begun == 2
    assert not (tmp_path / "run.failed.xyz").exists()
    whole = ENGINES[engine](start, potential, plan)
    assert np.array_equal(resumed.total, whole.total)


@both_engines
@pytest.mark.parametrize("timestep", [1e3, 1e8])
def test_explosions(binding, moving_copper, tmp_path, engine, timestep) -> None:
    with pytest.raises(MLIPError) as caught:
        ENGINES[engine](moving_copper, binding, Plan(steps=50, timestep=timestep), trajectory=tmp_path / "run.xyz")
    assert step_of(caught.value, engine, timestep) <= 1
    assert (tmp_path / "run.failed.xyz").exists()


def test_what_the_model_cannot_take_leaves_earlier_files_alone(binding, tmp_path) -> None:
    path = tmp_path / "run.xyz"
    path.write_text("precious")
    for engine in ENGINES.values():
        with pytest.raises(MLIPError, match="Au"):
            engine(Atoms("Au"), binding, Plan(), trajectory=path)
        with pytest.raises(OptionError, match="whole number"):
            engine(Atoms("C"), binding, Plan(steps=0), trajectory=path)
    assert path.read_text() == "precious"


def test_relaxations(binding) -> None:
    near = Atoms("CO", [[0, 0, 0], [0, 0, 0.4]])
    with pytest.raises(CloseContactError, match=r"^the relaxation stopped after step 0: atoms 0 \(C\) and 1 \(O\)"):
        relax(near, binding)
    spoilt = mlip.create("mace", ["C", "O"], channels=2, edge_lmax=1, correlation=1, radial_mlp=(8,), cutoff=4.0)
    for weight in spoilt.model.parameters():
        weight.fill_(np.nan)
    with pytest.raises(NonFiniteError, match=r"^the relaxation stopped after step 0: ") as caught:
        relax(Atoms("CO", [[0, 0, 0], [0, 0, 1.2]]), spoilt)
    assert caught.value.atoms == (0, 1)


class Hole(EnergyModel):
    """Atoms draw each other to where they are."""

    def __init__(self) -> None:
        super().__init__()
        self.config = ModelConfig((6, 8), cutoff=4.0)
        self.depth = nn.Parameter(torch.tensor(3.0, dtype=torch.float64))
        self._register_elements(torch.zeros((1, 2), dtype=torch.float64))

    def forward(self, graph: AtomGraph) -> torch.Tensor:
        r = graph.vectors(self.dtype).norm(dim=1)
        pull = -self.depth / r * (1 - r.square() / self.config.cutoff**2) ** 3
        return pull.new_zeros(graph.num_atoms).index_add(0, graph.edge_index[1], pull)


@pytest.mark.parametrize(("distance", "most"), [(0.4, 1), (2.0, 40)])
def test_the_minimiser_of_openmm(distance, most, monkeypatch) -> None:
    """It gives up where the model leads it to a contact again and again, and does not search for a way on."""
    potential = mlip.Potential(Hole(), ModelInfo(family="hole", name="hole"))
    atoms = Atoms("CO", [[0, 0, 0], [0, 0, distance]])
    tensors, calls = Evaluator.tensors, []

    def counting(self: Evaluator, *arguments: object) -> object:
        calls.append(1)
        return tensors(self, *arguments)

    monkeypatch.setattr(Evaluator, "tensors", counting)
    context = openmm.Context(create_system(topology_of(atoms), potential), openmm.VerletIntegrator(0.001),
                             openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(atoms.positions / 10)
    with pytest.raises(openmm.OpenMMException, match=r"CloseContactError: atoms 0 \(C\) and 1 \(O\) are"):
        openmm.LocalEnergyMinimizer.minimize(context)
    assert 1 <= len(calls) <= most
