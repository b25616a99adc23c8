"""Forces travel as references: small XML, cheap copies, the same model elsewhere or an error."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import openmm
import pytest

import mlip
from mlip.errors import ModelFileError
from mlip.potentials import Computation, create_force, create_system
from mlip.potentials.computation import UnusableComputation, restore

ROOT = Path(__file__).resolve().parents[2]

ELSEWHERE = """
import sys, openmm
system = openmm.XmlSerializer.deserialize(open(sys.argv[1]).read())
platform = openmm.Platform.getPlatformByName("Reference")
context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
context.setPositions([[float(x) for x in line.split()] for line in open(sys.argv[2])])
try:
    print(repr(context.getState(energy=True).getPotentialEnergy()._value))
except openmm.OpenMMException as error:
    print(error)
assert "ase" not in sys.modules
"""


def energy_elsewhere(system: openmm.System, positions, folder: Path) -> str:
    """Return what another process prints of the energy in kJ/mol, or of the error."""
    (folder / "system.xml").write_text(openmm.XmlSerializer.serialize(system))
    lines = [" ".join(repr(float(x)) for x in p) for p in positions * 0.1]
    (folder / "positions.txt").write_text("\n".join(lines))
    done = subprocess.run([sys.executable, "-c", ELSEWHERE, folder / "system.xml", folder / "positions.txt"],
                          capture_output=True, text=True, timeout=120, check=False, cwd=folder,
                          env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def big() -> mlip.Potential:
    """A model of more than 20 MB."""
    potential = mlip.create("mace", elements=["H", "C", "O"], channels=256, radial_mlp=(2048, 2048))
    assert sum(t.nbytes for t in potential.model.state_dict().values()) > 20e6
    return potential


def test_size_and_copies_do_not_depend_on_the_model(big, omm) -> None:
    system = create_system(omm.topology([8, 1, 1] * 100), big)
    assert len(openmm.XmlSerializer.serialize(create_force([8, 1, 1] * 100, big))) < 1500
    assert len(openmm.XmlSerializer.serialize(system)) < 100_000
    times = []
    for _ in range(5):
        start = time.perf_counter()
        copy.deepcopy(system)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.05


def test_copies_share_the_loaded_model(unsaved, methanol, omm) -> None:
    computation = pickle.loads(pickle.dumps(computation_of(unsaved, methanol)))
    assert isinstance(computation, Computation)
    assert computation.evaluator.potential is unsaved
    system = create_system(omm.topology(methanol.numbers), unsaved)
    before = omm.results(omm.context(system, methanol.positions))[0]
    assert omm.results(omm.context(copy.deepcopy(system), methanol.positions))[0] == before
    assert not list(Path.cwd().glob("*.mlip"))


def computation_of(model: mlip.Potential, atoms) -> Computation:
    """Return a computation as `create_force` makes it."""
    from mlip.potentials.registry import register
    from mlip.potentials.settings import Settings

    potential, reference = register(model)
    return Computation(reference, Settings(atoms.numbers, None, False), potential)


def test_xml_round_trip_in_this_process(saved, crystal, omm) -> None:
    force = create_force(crystal.numbers, saved, [3, 1, 0], periodic=True, force_group=5)
    system = omm.system(len(crystal), force)
    again = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(system))
    copied = again.getForce(0)
    assert (copied.getForceGroup(), list(copied.getParticles()), copied.usesPeriodicBoundaryConditions()) == (
        5, [3, 1, 0], True)
    box = crystal.cell.array
    before, after = (omm.results(omm.context(s, crystal.positions, box=box)) for s in (system, again))
    assert after[0] == before[0]
    assert (after[1] == before[1]).all()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_another_process_finds_the_same_model(saved, methanol, omm, tmp_path, dtype) -> None:
    system = create_system(omm.topology(methanol.numbers), str(saved.path), dtype=dtype)
    here = omm.context(system, methanol.positions).getState(energy=True).getPotentialEnergy()._value
    assert float(energy_elsewhere(system, methanol.positions, tmp_path)) == pytest.approx(here, rel=1e-12)


def test_a_model_converted_before_is_found_too(saved, methanol, omm, tmp_path) -> None:
    single = mlip.load(saved.path).to(dtype="float32")
    system = create_system(omm.topology(methanol.numbers), single)
    here = omm.context(system, methanol.positions).getState(energy=True).getPotentialEnergy()._value
    assert float(energy_elsewhere(system, methanol.positions, tmp_path)) == pytest.approx(here, rel=1e-7)


def test_a_changed_file_is_noticed(saved, methanol, omm, tmp_path) -> None:
    system = create_system(omm.topology(methanol.numbers), saved)
    mlip.create("mace", elements=["H", "C", "O"], seed=5, channels=4, cutoff=4.0).save(saved.path)
    text = energy_elsewhere(system, methanol.positions, tmp_path)
    assert text.startswith("ModelFileError")
    assert "has changed" in text
    assert str(saved.path) in text


def test_a_missing_file_is_named(saved, methanol, omm, tmp_path) -> None:
    system = create_system(omm.topology(methanol.numbers), saved)
    saved.path.unlink()
    text = energy_elsewhere(system, methanol.positions, tmp_path)
    assert text.startswith("ModelNotFoundError")
    assert str(saved.path) in text


def test_an_unsaved_model_says_what_to_do(unsaved, methanol, omm, tmp_path) -> None:
    system = create_system(omm.topology(methanol.numbers), unsaved)
    text = energy_elsewhere(system, methanol.positions, tmp_path)
    assert text.startswith("ModelFileError")
    assert "potential.save(path)" in text


def test_the_registry_keeps_no_model_alive(saved, methanol) -> None:
    data = pickle.dumps(computation_of(saved.to(dtype="float32"), methanol))
    gc.collect()
    computation = pickle.loads(data)  # nobody holds the float32 copy any more
    assert computation.evaluator is None


@pytest.mark.parametrize("packed", [(), (("a", "b", "float32", "cpu"), (99,)), ((1,), (1,)), ("x", None)])
def test_a_damaged_force_does_not_crash_openmm(packed, omm) -> None:
    computation = restore(*packed)
    assert isinstance(computation, UnusableComputation)
    copied = copy.deepcopy(omm.system(2, openmm.PythonForce(computation)))
    with pytest.raises(openmm.OpenMMException, match="this force cannot be restored"):
        omm.results(omm.context(copied, [[0, 0, 0], [0, 0, 1]]))


def test_a_foreign_version_is_refused() -> None:
    broken = restore(("a", "b", "float32", "cpu"), (99, 1, 2))
    with pytest.raises(ModelFileError, match=r"ModelFileError.*another version"):
        broken(None)
