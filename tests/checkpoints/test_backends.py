"""backend= and radial= wherever they can be given: the same numbers, the back end that was asked for, typed errors."""

from __future__ import annotations

import copy
import gc
import importlib
import itertools
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.io import read, write

import mlip
from mlip.calculators import MLIPCalculator
from mlip.cli.main import main
from mlip.errors import BackendError, MLIPError, OptionError
from mlip.ops import BACKENDS, Backend, compiled_is_available

KJ = 96.48533212331001  # kJ/mol per eV
NAMES: list[Backend] = [b for b in BACKENDS if b != "compiled" or compiled_is_available()]
RADIALS = ("exact", "tabulated")
ALL = list(itertools.product(NAMES, RADIALS))
_SERIAL = itertools.count(1)


@pytest.fixture
def mine(mace: mlip.Potential, tmp_path: Path) -> mlip.Potential:
    """A saved float64 potential like no other in this process."""
    model = copy.deepcopy(mace.model)
    model.atomic_energies.add_(1e-3 * next(_SERIAL))
    potential = mlip.Potential(model, mace.info)
    potential.save(tmp_path / "mine.mlip")
    return potential


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], set[str]]:
    """A function that calls another one and returns which forms of the edge convolution it ran."""
    module, found = importlib.import_module("mlip.ops.edge_convolution"), []
    for name, label in (("_convolve", "compiled"), ("_reference", "reference")):
        monkeypatch.setattr(module, name, noted(getattr(module, name), label, found))

    def run(call: Callable[[], Any]) -> set[str]:
        found.clear()
        call()
        return set(found)

    return run


def noted(function: Callable[..., Any], label: str, notes: list[str]) -> Callable[..., Any]:
    """Return the function, which notes a label whenever it is called."""
    def op(*arguments: Any) -> Any:
        notes.append(label)
        return function(*arguments)

    return op


def expected_form(backend: str) -> set[str]:
    return {"compiled"} if backend != "reference" and compiled_is_available() else {"reference"}


def crowd() -> Atoms:
    return Atoms("H4C3O2Cu", np.random.default_rng(0).uniform(0, 5, (10, 3)), cell=np.eye(3) * 5 + 0.2, pbc=True)


def assert_equal(found: Any, expected: Any, radial: str) -> None:
    """Compare two predictions: 1e-9 between back ends; tables are made to be 1e-7 off at the most."""
    tolerance = 1e-9 if radial == "exact" else 1e-7
    assert found.energy == pytest.approx(expected.energy, rel=0, abs=tolerance)
    np.testing.assert_allclose(found.energies, expected.energies, rtol=0, atol=tolerance)
    np.testing.assert_allclose(found.forces, expected.forces, rtol=0, atol=10 * tolerance)
    np.testing.assert_allclose(found.stress, expected.stress, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("backend", "radial"), ALL)
class TestValues:
    def test_load_and_to(self, mine: mlip.Potential, ran: Any, backend: Backend, radial: str) -> None:
        expected = mine.to(backend="reference").predict(crowd())
        for p in (mlip.load(mine.path, backend=backend, radial=radial), mine.to(backend=backend, radial=radial),
                  mine.to(backend=backend).to(radial=radial), mine.to(radial=radial).to(backend=backend)):
            assert (p.backend, p.radial, p.info.sha256) == (backend, radial, mine.info.sha256)
            assert f"backend='{backend}', radial='{radial}'" in repr(p)
            assert_equal(p.predict(crowd()), expected, radial)
            assert ran(lambda p=p: p.predict(crowd())) == expected_form(backend)

    def test_single_precision(self, mine: mlip.Potential, backend: Backend, radial: str) -> None:
        expected = mine.predict(crowd())
        single = mlip.load(mine.path, dtype="float32", backend=backend, radial=radial)
        assert (single.dtype, single.backend, single.radial) == (torch.float32, backend, radial)
        found = single.predict(crowd())
        assert found.energy == pytest.approx(expected.energy, rel=0, abs=5e-5)
        np.testing.assert_allclose(found.forces, expected.forces, rtol=0, atol=5e-5)

    def test_the_original_stays(self, mine: mlip.Potential, ran: Any, backend: Backend, radial: str) -> None:
        before = mine.predict(crowd())
        other = mine.to(backend=backend, radial=radial)
        other.predict(crowd())
        assert (mine.backend, mine.radial) == ("auto", "exact")
        assert ran(lambda: mine.predict(crowd())) == expected_form("auto")
        after = mine.predict(crowd())
        assert after.energy == before.energy
        assert (after.forces == before.forces).all()
        assert (other is mine) == ((backend, radial) == ("auto", "exact"))
        assert other.to(backend=backend, radial=radial) is other

    def test_ase(self, mine: mlip.Potential, ran: Any, backend: Backend, radial: str) -> None:
        expected = mine.to(backend="reference").predict(crowd())
        calculator = MLIPCalculator(str(mine.path), backend=backend, radial=radial)
        assert (calculator.parameters["backend"], calculator.parameters["radial"]) == (backend, radial)
        json.dumps(dict(calculator.parameters))
        for twin in (calculator, copy.deepcopy(calculator), pickle.loads(pickle.dumps(calculator)),
                     MLIPCalculator(mine.to(backend=backend, radial=radial))):
            assert (twin.potential.backend, twin.potential.radial) == (backend, radial)
            atoms = crowd()
            assert abs(twin.get_potential_energy(atoms) - expected.energy) < (1e-9 if radial == "exact" else 1e-7)
            atoms.rattle(0.01)
            assert ran(lambda twin=twin, atoms=atoms: twin.get_forces(atoms)) == expected_form(backend)

    def test_command_line(self, mine: mlip.Potential, capsys: pytest.CaptureFixture[str], tmp_path: Path, ran: Any,
                          monkeypatch: pytest.MonkeyPatch, backend: Backend, radial: str) -> None:
        monkeypatch.chdir(tmp_path)
        write("crowd.xyz", crowd())
        options = ("-m", str(mine.path), "--backend", backend, "--radial", radial)
        assert main(["predict", "crowd.xyz", *options, "-o", "out.xyz"]) == 0
        expected = mine.to(backend="reference").predict(crowd())
        assert read("out.xyz").get_potential_energy() == pytest.approx(expected.energy, rel=0, abs=1e-6)
        roomy = crowd()
        roomy.set_cell(roomy.cell * 1.2, scale_atoms=True)  # md refuses contacts
        write("roomy.xyz", roomy)
        forms = ran(lambda: main(["md", "roomy.xyz", *options, "--steps", "2", "--every", "1", "-o", "md.xyz"]))
        assert ("compiled" in forms) == ("compiled" in expected_form(backend))
        assert len(read("md.xyz", ":")) == 3
        capsys.readouterr()


class TestMemory:
    def test_weights_are_shared(self, mine: mlip.Potential) -> None:
        """Another back end needs no weights of its own; nor does the exact model behind the tables."""
        ours = {name: t.data_ptr() for name, t in mine.model.state_dict().items()}
        for p in (mine.to(backend="reference"), mine.to(backend="reference").to(radial="tabulated").to(radial="exact")):
            assert p.model is not mine.model
            assert {name: t.data_ptr() for name, t in p.model.state_dict().items()} == ours
        converted = mine.to(dtype="float32").model.state_dict()
        assert converted["embedding"].data_ptr() != ours["embedding"]
        assert mine.dtype == torch.float64

    def test_what_is_saved_does_not_depend_on_them(self, mine: mlip.Potential, tmp_path: Path) -> None:
        for i, (backend, radial) in enumerate(ALL):
            loaded = mlip.load(mine.to(backend=backend, radial=radial).save(tmp_path / f"{i}.mlip"))
            assert (loaded.backend, loaded.radial) == ("auto", "exact")
            assert loaded.predict(crowd()).energy == mine.predict(crowd()).energy


WRONG_BACKENDS = ("fast", "Compiled", "cuda", "", 1)
WRONG_RADIALS = ("spline", "Exact", "", 0)


class TestErrors:
    @pytest.mark.parametrize("wrong", WRONG_BACKENDS, ids=repr)
    def test_unknown_backend(self, mine: mlip.Potential, wrong: Any) -> None:
        for make in (lambda: mlip.load(mine.path, backend=wrong), lambda: mine.to(backend=wrong),
                     lambda: MLIPCalculator(mine, backend=wrong)):
            with pytest.raises(OptionError) as caught:
                make()
            assert f"backend {wrong!r} is unknown; allowed: auto, compiled, reference" in str(caught.value)

    @pytest.mark.parametrize("wrong", WRONG_RADIALS, ids=repr)
    def test_unknown_radial(self, mine: mlip.Potential, wrong: Any) -> None:
        for make in (lambda: mlip.load(mine.path, radial=wrong), lambda: mine.to(radial=wrong),
                     lambda: MLIPCalculator(mine, radial=wrong)):
            with pytest.raises(OptionError) as caught:
                make()
            assert f"radial={wrong!r} is not supported; allowed: exact, tabulated" in str(caught.value)

    @pytest.mark.parametrize("command", ["predict", "md", "relax"])
    def test_command_line(self, mine: mlip.Potential, capsys: pytest.CaptureFixture[str], tmp_path: Path,
                          monkeypatch: pytest.MonkeyPatch, command: str) -> None:
        monkeypatch.chdir(tmp_path)
        write("water.xyz", molecule("H2O"))
        for option, words in (("--backend", "allowed: auto, compiled, reference"),
                              ("--radial", "allowed: exact, tabulated")):
            assert main([command, "water.xyz", "-m", str(mine.path), option, "wrong"]) == 2
            printed = capsys.readouterr()
            assert "OptionError" in printed.err
            assert words in printed.err
            assert "Traceback" not in printed.err

    def test_errors_are_errors_of_ours(self) -> None:
        assert issubclass(BackendError, MLIPError)

    def test_misspelt(self, mine: mlip.Potential) -> None:
        with pytest.raises(OptionError, match=r"backends \(did you mean backend\?\)"):
            MLIPCalculator(mine, backends="auto")


class TestOpenMM:
    """Forces, Systems and the plugin of openmm-ml."""

    @pytest.fixture(autouse=True)
    def _openmm(self) -> None:
        self.mm = pytest.importorskip("openmm")
        self.app = pytest.importorskip("openmm.app")

    def topology(self, atoms: Atoms) -> Any:
        topology = self.app.Topology()
        residue = topology.addResidue("MOL", topology.addChain())
        for z in atoms.numbers:
            topology.addAtom("X", self.app.Element.getByAtomicNumber(int(z)), residue)
        return topology

    def context(self, system: Any, atoms: Atoms) -> Any:
        platform = self.mm.Platform.getPlatformByName("Reference")
        context = self.mm.Context(system, self.mm.VerletIntegrator(0.001), platform)
        context.setPositions(atoms.positions * 0.1)
        return context

    def energy(self, context: Any) -> float:
        return float(context.getState(energy=True, forces=True).getPotentialEnergy()._value) / KJ

    def systems(self, mine: mlip.Potential, atoms: Atoms, backend: str, radial: str) -> dict[str, Any]:
        from mlip.potentials import create_force, create_system

        bare = self.mm.System()
        for _ in atoms:
            bare.addParticle(12.0)
        bare.addForce(create_force(atoms.numbers.tolist(), mine, backend=backend, radial=radial))
        topology = self.topology(atoms)
        found = {"force": bare, "system": create_system(topology, str(mine.path), backend=backend, radial=radial)}
        openmmml = pytest.importorskip("openmmml")
        from mlip.potentials.openmmml_plugin import MLIPPotentialImplFactory

        if "mlip" not in openmmml.MLPotential._implFactories:
            openmmml.MLPotential.registerImplFactory("mlip", MLIPPotentialImplFactory())
        early = openmmml.MLPotential("mlip", model=mine, backend=backend, radial=radial)
        found["plugin"] = early.createSystem(topology)
        late = openmmml.MLPotential("mlip", model=mine, backend="auto", radial="exact")
        found["plugin, options of the System"] = late.createSystem(topology, backend=backend, radial=radial)
        return found

    @pytest.mark.parametrize(("backend", "radial"), ALL)
    def test_values_also_after_serialisation(self, mine: mlip.Potential, ran: Any, backend: Backend,
                                             radial: str) -> None:
        atoms = molecule("CH3OH")
        expected = mine.to(backend="reference").predict(atoms).energy
        tolerance = 2e-9 if radial == "exact" else 1e-7
        for name, system in self.systems(mine, atoms, backend, radial).items():
            read_again = self.mm.XmlSerializer.deserialize(self.mm.XmlSerializer.serialize(system))
            for each in (system, copy.deepcopy(system), read_again):
                context = self.context(each, atoms)
                assert self.energy(context) == pytest.approx(expected, rel=0, abs=tolerance), name
                context.setPositions(atoms.positions * 0.101)
                assert ran(lambda context=context: self.energy(context)) == expected_form(backend), name

    @pytest.mark.parametrize(("backend", "radial"), ALL)
    def test_loaded_again(self, mine: mlip.Potential, backend: Backend, radial: str) -> None:
        """As in another process: no potential of this kind is left."""
        from mlip.potentials.computation import Computation
        from mlip.potentials.registry import find, register, resolve
        from mlip.potentials.settings import Settings

        potential, reference = register(mine.to(backend=backend, radial=radial))
        assert (reference.backend, reference.radial) == (backend, radial)
        data = pickle.dumps(Computation(reference, Settings(np.array([8, 1, 1]), None, False), potential))
        own = potential is mine  # which the fixture holds
        del potential
        gc.collect()
        assert (find(reference) is None) is not own
        again = pickle.loads(data)
        assert again.reference == reference
        found = resolve(again.reference)
        assert (found.backend, found.radial) == (backend, radial)
        assert found is resolve(again.reference)
        assert (found is mine) is own

    def test_references_of_earlier_versions(self, mine: mlip.Potential) -> None:
        """They end after the device."""
        from mlip.potentials.computation import Computation, restore
        from mlip.potentials.registry import ModelReference, register, resolve
        from mlip.potentials.settings import Settings

        _, reference = register(mine)
        old = (reference.source, reference.sha256, reference.dtype, reference.device)
        computation = restore(old, Settings(np.array([8, 1, 1]), None, False).pack())
        assert isinstance(computation, Computation)
        assert computation.reference == ModelReference(*old, backend="auto", radial="exact")
        assert resolve(computation.reference) is mine

    def test_different_settings_are_different_models(self, mine: mlip.Potential) -> None:
        from mlip.potentials.registry import find, register

        kept = [register(mine, backend=backend, radial=radial) for backend, radial in ALL]
        assert len({id(potential) for potential, _ in kept}) == len(ALL)
        for potential, reference in kept:
            assert find(reference) is potential
            assert (potential.backend, potential.radial) == (reference.backend, reference.radial)

    @pytest.mark.parametrize(("option", "words"), [("backend", "allowed: auto, compiled, reference"),
                                                   ("radial", "allowed: exact, tabulated")])
    def test_errors(self, mine: mlip.Potential, option: str, words: str) -> None:
        from mlip.potentials import create_force, create_system

        topology = self.topology(molecule("H2O"))
        for make in (create_force, create_system):
            with pytest.raises(OptionError, match=words):
                make(topology, mine, **{option: "wrong"})
        openmmml = pytest.importorskip("openmmml")
        with pytest.raises(OptionError, match=words):
            openmmml.MLPotential("mlip", model=mine, **{option: "wrong"}).createSystem(topology)
