"""Every transport gives the numbers of `PythonForce`; those of openmm-torch are chosen where they work."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import openmm
import pytest
import torch

from mlip.errors import MissingDependencyError, NonFiniteError, OptionError, TopologyError
from mlip.potentials import create_force, create_system
from mlip.potentials.computation import Computation, TorchComputation, UnusableComputation
from mlip.potentials.registry import register
from mlip.potentials.settings import Settings
from mlip.potentials.torch_shim import scripted
from mlip.potentials.transports import CLASSES, TRANSPORTS, choose

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated:DeprecationWarning")


def settings_of(atoms, particles=None, **options) -> Settings:
    """Return the settings of a force on all atoms, or on particles of a System."""
    chosen = None if particles is None else np.array(particles)
    numbers = atoms.numbers if chosen is None else atoms.numbers[chosen]
    return Settings(numbers.astype(np.int64), chosen, bool(atoms.pbc.any()), **options)


def computation_of(kind, model, atoms, particles=None, dtype=None):
    potential, reference = register(model, dtype=dtype)
    return kind(reference, settings_of(atoms, particles), potential)


class ThroughTensors:
    """Calls what a transport of openmm-torch would call, from a `PythonForce`: tensors of positions and of the box."""

    def __init__(self, function, periodic: bool) -> None:
        self.function, self.periodic = function, periodic

    def __call__(self, state):
        positions = torch.from_numpy(state.getPositions(asNumpy=True)._value)
        if isinstance(self.function, TorchComputation):
            energy, forces = self.function(state, positions)
        else:
            box = [torch.from_numpy(state.getPeriodicBoxVectors(asNumpy=True)._value)] if self.periodic else []
            energy, forces = self.function(positions.requires_grad_(), *box)  # as TorchForce hands them over
        assert energy.shape == ()
        assert not energy.requires_grad
        assert forces.is_contiguous()
        return energy.item(), forces.numpy()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("kind", ["molecule", "crystal", "subset"])
def test_the_numbers_are_those_of_a_python_force(mace, methanol, crystal, omm, kind, dtype) -> None:
    atoms = crystal if kind == "crystal" else methanol
    particles = [3, 0, 1] if kind == "subset" else None
    periodic = bool(atoms.pbc.any())

    def run(force: openmm.PythonForce, of_subset: bool = False):
        force.setUsesPeriodicBoundaryConditions(periodic)
        if of_subset:
            force.setParticles(particles)
        context = omm.context(omm.system(atoms.get_masses(), force), atoms.positions,
                              box=atoms.cell.array if periodic else None)
        start = omm.results(context)
        context.getIntegrator().step(10)
        return *start, context.getState(positions=True).getPositions(asNumpy=True)._value

    plain = run(create_force(atoms.numbers, mace, particles, periodic=periodic, dtype=dtype, transport="python"))
    pythonic = ThroughTensors(computation_of(TorchComputation, mace, atoms, particles, dtype), periodic)
    shim = ThroughTensors(scripted(computation_of(Computation, mace, atoms, particles, dtype)), periodic)
    for got in (run(openmm.PythonForce(pythonic), kind == "subset"), run(openmm.PythonForce(shim))):
        assert got[0] == plain[0]
        np.testing.assert_array_equal(got[1], plain[1])
        np.testing.assert_array_equal(got[2], plain[2])


@pytest.mark.parametrize("transport", ["python_torch", "torch"])
@pytest.mark.parametrize("platform", ["Reference", "CPU"])
def test_openmm_torch(mace, methanol, crystal, omm, transport, platform) -> None:
    try:
        choose(transport)
    except MissingDependencyError as error:
        pytest.skip(str(error))
    for atoms, particles in ((methanol, None), (methanol, [3, 0, 1]), (crystal, None)):
        periodic = bool(atoms.pbc.any())
        found = []
        for each in ("python", transport):
            force = create_force(atoms.numbers, mace, particles, periodic=periodic, transport=each)
            system = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(
                omm.system(atoms.get_masses(), force)))
            context = omm.context(system, atoms.positions, platform, box=atoms.cell.array if periodic else None)
            found.append(omm.results(context))
            context.getIntegrator().step(10)
        assert found[0][0] == pytest.approx(found[1][0], rel=1e-9)
        np.testing.assert_allclose(found[0][1], found[1][1], atol=1e-7)


@pytest.mark.parametrize("name", TRANSPORTS)
def test_what_is_chosen(mace, methanol, omm, name) -> None:
    """`auto` is PythonTorchForce where it works, else PythonForce, and never fails."""
    topology, reason = omm.topology(methanol.numbers), ""
    try:
        chosen = choose(name)
    except MissingDependencyError as error:
        reason = str(error)
    if reason:
        assert f"needs {CLASSES[name]} of openmm-torch" in reason
        with pytest.raises(MissingDependencyError, match="transport='auto'"):
            create_system(topology, mace, transport=name)
    else:
        assert chosen in (("python", "python_torch") if name == "auto" else (name,))
        force = create_system(topology, mace, transport=name).getForce(0)
        assert isinstance(force, openmm.PythonForce) == (chosen == "python")


def test_an_unknown_transport(mace, methanol) -> None:
    with pytest.raises(OptionError, match="auto, python, python_torch, torch"):
        create_force(methanol.numbers, mace, transport="telepathy")


def test_openmms_memory_is_not_kept(mace, crystal) -> None:
    """The positions are a view of the Context's, and change under us: a skin must not compare them with themselves."""
    computation = computation_of(TorchComputation, mace, crystal)
    view = torch.from_numpy(crystal.positions * 0.1)
    computation.evaluate(view, crystal.cell.array * 0.1)
    view += torch.from_numpy(np.random.default_rng(1).normal(0, 0.08, view.shape))
    moved = crystal.copy()
    moved.positions = view.numpy() * 10
    forces = computation.evaluate(view, crystal.cell.array * 0.1)[1].numpy() / 964.853321233
    np.testing.assert_allclose(forces, mace.predict(moved).forces, atol=1e-9)


def test_single_precision_and_strides(mace, methanol) -> None:
    """Platforms hand over float32; what is returned is contiguous float64 whatever came in."""
    computation = computation_of(TorchComputation, mace, methanol)
    positions = torch.from_numpy(methanol.positions * 0.1).to(torch.float32)
    wide = torch.zeros(3, len(methanol), dtype=torch.float32)
    wide.copy_(positions.T)
    for given in (positions, wide.T):
        energy, forces = computation.evaluate(given, None)
        assert energy.dtype == forces.dtype == torch.float64
        assert forces.is_contiguous()
        assert energy.item() / 96.48533212331 == pytest.approx(mace.predict(methanol).energy, abs=1e-4)


def test_a_pickled_callable_stays_what_it_is(unsaved, methanol) -> None:
    computation = computation_of(TorchComputation, unsaved, methanol)
    again = pickle.loads(pickle.dumps(computation))
    assert type(again) is TorchComputation
    positions = torch.from_numpy(methanol.positions * 0.1)
    assert again.evaluate(positions, None)[0] == computation.evaluate(positions, None)[0]
    broken = pickle.loads(pickle.dumps(UnusableComputation("lost", *TorchComputation.__reduce__(computation))))
    assert type(broken) is TorchComputation  # what was lost is looked for again


def test_the_script_can_be_frozen_and_stored(mace, methanol) -> None:
    """TorchForce stores modules, reads them again and freezes them."""
    module = scripted(computation_of(Computation, mace, methanol))
    buffer = io.BytesIO()
    torch.jit.save(module, buffer)
    assert len(buffer.getvalue()) < 10_000
    buffer.seek(0)
    again = torch.jit.freeze(torch.jit.load(buffer).eval())
    positions = torch.from_numpy(methanol.positions * 0.1).requires_grad_()
    energy, forces = again(positions)
    assert energy.item() / 96.48533212331 == pytest.approx(mace.predict(methanol).energy, rel=1e-9)
    np.testing.assert_allclose(forces.numpy() / 964.8533212331, mace.predict(methanol).forces, atol=1e-9)


ELSEWHERE = """
import sys, torch, mlip.potentials.torch_shim
module = torch.jit.load(sys.argv[1])
print(repr(module(torch.tensor(eval(sys.argv[2]), dtype=torch.float64))[0].item()))
"""


def test_the_script_finds_its_model_in_another_process(saved, methanol, tmp_path) -> None:
    module = scripted(computation_of(Computation, saved, methanol))
    torch.jit.save(module, tmp_path / "module.pt")
    positions = methanol.positions * 0.1
    done = subprocess.run([sys.executable, "-c", ELSEWHERE, str(tmp_path / "module.pt"), repr(positions.tolist())],
                          capture_output=True, text=True, timeout=120, check=False,
                          env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(module(torch.from_numpy(positions))[0].item(), rel=1e-12)


def test_errors_name_particles_of_the_system(mace, methanol) -> None:
    positions = torch.from_numpy(methanol.positions * 0.1)
    bad = positions.clone()
    bad[3, 0] = torch.nan
    with pytest.raises(NonFiniteError, match=r"^NonFiniteError: .*as particles of the System: \[3\]"):
        computation_of(TorchComputation, mace, methanol, [0, 3, 1]).evaluate(bad[[0, 3, 1]], None)
    module = scripted(computation_of(Computation, mace, methanol, [0, 3, 1]))
    with pytest.raises(Exception, match=r"NonFiniteError: .*as particles of the System: \[3\]"):
        module(bad)
    with pytest.raises(Exception, match=r"TopologyError: the System has 2 particles.*particle 3"):
        module(positions[:2])
    with pytest.raises(TopologyError, match=r"7 particles.*6 atoms"):
        computation_of(TorchComputation, mace, methanol).evaluate(torch.zeros(7, 3), None)


def test_nothing_is_logged_when_openmm_torch_is_looked_for() -> None:
    code = "from mlip.potentials.transports import choose; choose('auto')"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120,
                          check=False, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.gpu
def test_tensors_stay_on_the_device(mace, crystal) -> None:
    there = computation_of(TorchComputation, mace.to(device="cuda"), crystal)
    positions = torch.from_numpy(crystal.positions * 0.1)
    energy, forces = there.evaluate(positions.cuda(), crystal.cell.array * 0.1)
    assert energy.is_cuda
    assert forces.is_cuda
    here = computation_of(TorchComputation, mace, crystal).evaluate(positions, crystal.cell.array * 0.1)
    assert energy.item() == pytest.approx(here[0].item(), rel=1e-9)
    np.testing.assert_allclose(forces.cpu().numpy(), here[1].numpy(), atol=1e-4)
