"""rotational_average= wherever it can be given: the same numbers in both engines, kept by copies and by files."""

from __future__ import annotations

import copy
import gc
import itertools
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.io import read, write

import mlip
from mlip import Potential
from mlip.calculators import MLIPCalculator
from mlip.checkpoints import potential as module
from mlip.cli.main import main
from mlip.errors import OptionError
from mlip.io.ase import structure_of
from mlip.models.averaged import Averaged
from mlip.neighbors import VerletSkin
from mlip.so3.rotation_groups import GROUPS
from mlip.training import TrainingConfig, train
from mlip.verify import checks

KJ = 96.48533212331001  # kJ/mol per eV
_SERIAL = itertools.count(1)


@pytest.fixture
def mine(mace: Potential, tmp_path: Path) -> Potential:
    """A saved float64 potential like no other in this process."""
    model = copy.deepcopy(mace.model)
    model.atomic_energies.add_(1e-3 * next(_SERIAL) + 0.5)
    potential = Potential(model, mace.info)
    potential.save(tmp_path / "mine.mlip")
    return potential


def assert_equal(found: Any, expected: Any, tolerance: float = 1e-9) -> None:
    np.testing.assert_allclose(found.energies, expected.energies, rtol=0, atol=tolerance)
    np.testing.assert_allclose(found.forces, expected.forces, rtol=0, atol=tolerance)
    np.testing.assert_allclose(found.stress, expected.stress, rtol=0, atol=tolerance)


class TestPotential:
    @pytest.mark.parametrize("group", GROUPS)
    def test_on_and_off(self, lopsided: Potential, structures: dict[str, Atoms], group: str) -> None:
        atoms = structures["triclinic"]
        on = lopsided.to(rotational_average=group)
        assert (lopsided.rotational_average, on.rotational_average) == ("none", group)
        assert f"rotational_average='{group}'" in repr(on)
        assert "rotational_average='none'" in repr(lopsided)
        assert on.info == lopsided.info
        assert abs(on.predict(atoms).energy - lopsided.predict(atoms).energy) > 1e-3
        for same in (on.to(), on.to(rotational_average=group), on.to(radial="exact", backend="auto")):
            assert same is on
        off = on.to(rotational_average="none")
        assert not isinstance(off.model, Averaged)
        assert_equal(off.predict(atoms), lopsided.predict(atoms), 0.0)

    def test_with_the_other_options(self, mine: Potential, structures: dict[str, Atoms]) -> None:
        atoms = structures["triclinic"]
        expected = mine.predict(atoms)
        both = mine.to(rotational_average="O", radial="tabulated", backend="reference")
        assert (both.radial, both.rotational_average, both.backend) == ("tabulated", "O", "reference")
        assert_equal(both.predict(atoms), expected, 1e-6)
        assert both.radial_error < 1e-6
        exact = both.to(radial="exact")
        assert (exact.radial, exact.rotational_average) == ("exact", "O")
        assert_equal(exact.predict(atoms), expected)
        single = both.to(dtype="float32")
        assert (single.dtype, single.radial, single.rotational_average) == (torch.float32, "tabulated", "O")
        assert_equal(single.predict(atoms), expected, 1e-4)
        plain = single.to(rotational_average="none", dtype="float64", radial="exact", backend="auto")
        assert_equal(plain.predict(atoms), expected, 1e-4)
        assert plain.rotational_average == "none"

    def test_load_and_save(self, mine: Potential, structures: dict[str, Atoms], tmp_path: Path) -> None:
        on = mlip.load(mine.path, rotational_average="T")
        assert (on.rotational_average, on.info.sha256) == ("T", mine.info.sha256)
        assert_equal(on.predict(structures["slab"]), mine.predict(structures["slab"]))
        again = mlip.load(on.save(tmp_path / "again.mlip"))
        assert again.rotational_average == "none"
        assert again.info.sha256 == mine.info.sha256
        assert {k: v.data_ptr() for k, v in mine.to(rotational_average="O").model.model.state_dict().items()} == {
            k: v.data_ptr() for k, v in mine.model.state_dict().items()}

    def test_back_ends_are_compared_without_the_average(self, mine: Potential, structures: dict[str, Atoms],
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
        seen = []
        monkeypatch.setattr(module, "use_compiled", lambda *_: True)
        monkeypatch.setattr(module, "check_agreement", lambda model, piece: seen.append((model, piece.num_atoms)))
        on = mine.to(rotational_average="Ih")
        on.predict(structures["triclinic"])
        on.predict(structures["triclinic"])
        assert seen == [(on.model.model, 3)]

    def test_training_starts_from_the_plain_model(self, mine: Potential, tmp_path: Path) -> None:
        from mlip.graph.labelled import Labelled

        examples = [Labelled(structure_of(molecule("H2O")), 0.0, np.zeros((3, 3)))] * 3
        best = train(mine.to(rotational_average="O"), examples[:2], examples[2:], tmp_path, TrainingConfig(epochs=1))
        plain = train(mine, examples[:2], examples[2:], tmp_path / "plain", TrainingConfig(epochs=1))
        assert best.read_bytes() == plain.read_bytes()
        assert not isinstance(mlip.load(best).model, Averaged)

    @pytest.mark.parametrize("wrong", ["O_h", "C1", "None", "", 24, True], ids=repr)
    def test_errors(self, mine: Potential, wrong: Any) -> None:
        for make in (lambda: mlip.load(mine.path, rotational_average=wrong), lambda: mine.to(rotational_average=wrong),
                     lambda: MLIPCalculator(mine, rotational_average=wrong)):
            with pytest.raises(OptionError) as caught:
                make()
            assert f"rotational_average={wrong!r} is not supported; allowed: none, T, O, Oh, I, Ih" in str(caught.value)


class TestASE:
    def test_parameters_and_copies(self, mine: Potential, structures: dict[str, Atoms]) -> None:
        atoms = structures["triclinic"]
        expected = mine.to(rotational_average="O").predict(atoms)
        calculator = MLIPCalculator(str(mine.path), rotational_average="O")
        assert json.loads(json.dumps(dict(calculator.parameters)))["rotational_average"] == "O"
        for twin in (calculator, copy.deepcopy(calculator), pickle.loads(pickle.dumps(calculator)),
                     MLIPCalculator(mine.to(rotational_average="O"))):
            assert twin.potential.rotational_average == "O"
            assert twin.get_potential_energy(atoms.copy()) == pytest.approx(expected.energy, rel=0, abs=1e-9)
        assert MLIPCalculator(mine).parameters["rotational_average"] == "none"
        assert MLIPCalculator(mine.to(rotational_average="O"), rotational_average="none").potential.rotational_average \
            == "none"

    def test_one_calculator_for_structures_of_any_size(self, lopsided: Potential, structures: dict[str, Atoms]) -> None:
        calculator, on = MLIPCalculator(lopsided, rotational_average="O"), lopsided.to(rotational_average="O")
        for name in ("molecule", "cubic", "triclinic", "slab", "molecule"):
            atoms, expected = structures[name].copy(), on.predict(structures[name])
            atoms.calc = calculator
            assert atoms.get_potential_energy() == pytest.approx(expected.energy, rel=0, abs=1e-9)
            np.testing.assert_allclose(atoms.get_forces(), expected.forces, rtol=0, atol=1e-12)

    def test_neighbours_are_searched_for_once(self, lopsided: Potential, structures: dict[str, Atoms],
                                              monkeypatch: pytest.MonkeyPatch) -> None:
        from mlip.graph import build

        calls: list[str] = []
        update = VerletSkin.update
        monkeypatch.setattr(VerletSkin, "update", lambda *a: (calls.append("skin"), update(*a))[1])
        monkeypatch.setattr(build, "neighbor_list", lambda *_: pytest.fail("another search"))
        monkeypatch.setattr(Potential, "check_backend", lambda *_: None)
        atoms = structures["cubic"]
        atoms.calc = MLIPCalculator(lopsided, rotational_average="O")
        atoms.get_stress()
        assert calls == ["skin"]

    def test_energy_is_conserved(self, lopsided: Potential, heat: Any) -> None:
        from mlip.simulation import Plan, run_ase

        plan = Plan(steps=100, timestep=0.25, temperature=300.0, every=5)
        record = run_ase(heat(molecule("CH3OH"), 300.0), lopsided.to(rotational_average="O"), plan)
        total = record.potential + record.kinetic
        assert np.ptp(total) < 0.02 * np.ptp(record.potential)

    def test_checks_of_the_contract(self, lopsided: Potential, structures: dict[str, Atoms]) -> None:
        on = lopsided.to(rotational_average="Oh")
        assert checks.inversion(on, structures["triclinic"]) < 1e-11
        assert checks.permutation(on, structures["triclinic"]) < 1e-10
        assert checks.translation(on, structures["slab"]) < 1e-10
        assert checks.supercell(on, structures["triclinic"]) < 1e-9
        assert checks.isolated(on) == 0.0
        assert checks.smoothness(on, ("C", "O")) < 1e-7
        assert checks.batching(on, list(structures.values())) < 1e-10


class TestCommandLine:
    def test_predict_and_md(self, mine: Potential, capsys: pytest.CaptureFixture[str], tmp_path: Path,
                            monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        write("water.xyz", molecule("H2O"))
        options = ("-m", str(mine.path), "--rotational-average", "T")
        assert main(["predict", "water.xyz", *options, "-o", "out.xyz"]) == 0
        expected = mine.predict(molecule("H2O")).energy
        assert read("out.xyz").get_potential_energy() == pytest.approx(expected, rel=0, abs=1e-6)
        made: list[str] = []
        to = Potential.to
        monkeypatch.setattr(Potential, "to", lambda self, *a, **k: (made.append(k.get("rotational_average")),
                                                                    to(self, *a, **k))[1])
        assert main(["md", "water.xyz", *options, "--steps", "1", "-o", "md.xyz"]) == 0
        assert "T" in made
        assert main(["verify", "symmetry", str(mine.path), "water.xyz", "--rotational-average", "T"]) == 0
        capsys.readouterr()
        assert main(["predict", "water.xyz", "-m", str(mine.path), "--rotational-average", "wrong"]) == 2
        assert "allowed: none, T, O, Oh, I, Ih" in capsys.readouterr().err


class TestOpenMM:
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

    def state(self, system: Any, atoms: Atoms) -> tuple[float, Any]:
        platform = self.mm.Platform.getPlatformByName("Reference")
        context = self.mm.Context(system, self.mm.VerletIntegrator(0.001), platform)
        context.setPositions(atoms.positions * 0.1)
        state = context.getState(energy=True, forces=True)
        return state.getPotentialEnergy()._value / KJ, state.getForces(asNumpy=True)._value / (10 * KJ)

    def test_the_numbers_of_ase(self, lopsided: Potential) -> None:
        from mlip.potentials import create_system

        atoms = molecule("CH3OH")
        expected = lopsided.to(rotational_average="O").predict(atoms)
        assert abs(expected.energy - lopsided.predict(atoms).energy) > 1e-3
        systems = {"system": create_system(self.topology(atoms), lopsided, rotational_average="O"),
                   "potential": create_system(self.topology(atoms), lopsided.to(rotational_average="O"))}
        openmmml = pytest.importorskip("openmmml")
        from mlip.potentials.openmmml_plugin import MLIPPotentialImplFactory

        if "mlip" not in openmmml.MLPotential._implFactories:
            openmmml.MLPotential.registerImplFactory("mlip", MLIPPotentialImplFactory())
        early = openmmml.MLPotential("mlip", model=lopsided, rotational_average="O", device="cpu")
        systems["plugin"] = early.createSystem(self.topology(atoms))
        late = openmmml.MLPotential("mlip", model=lopsided, rotational_average="none", device="cpu")
        systems["late"] = late.createSystem(self.topology(atoms), rotational_average="O")
        for name, system in systems.items():
            read_again = self.mm.XmlSerializer.deserialize(self.mm.XmlSerializer.serialize(system))
            for each in (system, copy.deepcopy(system), read_again):
                energy, forces = self.state(each, atoms)
                assert energy == pytest.approx(expected.energy, rel=0, abs=2e-9), name
                np.testing.assert_allclose(forces, expected.forces, rtol=0, atol=1e-10)

    def test_periodic_boxes(self, lopsided: Potential, structures: dict[str, Atoms]) -> None:
        from mlip.potentials import create_force
        from mlip.simulation.openmm_engine import openmm_box

        atoms = openmm_box(structures["triclinic"])
        expected = lopsided.to(rotational_average="O").predict(atoms)
        system = self.mm.System()
        system.setDefaultPeriodicBoxVectors(*(atoms.cell.array * 0.1))
        for _ in atoms:
            system.addParticle(12.0)
        system.addForce(create_force(atoms.numbers.tolist(), lopsided, periodic=True, rotational_average="O"))
        energy, forces = self.state(system, atoms)
        assert energy == pytest.approx(expected.energy, rel=0, abs=2e-9)
        np.testing.assert_allclose(forces, expected.forces, rtol=0, atol=1e-10)

    def test_loaded_again(self, mine: Potential) -> None:
        """As in another process: no potential of this kind is left."""
        from mlip.potentials.computation import Computation
        from mlip.potentials.registry import find, register, resolve
        from mlip.potentials.settings import Settings

        potential, reference = register(mine, rotational_average="T")
        assert reference.rotational_average == "T"
        data = pickle.dumps(Computation(reference, Settings(np.array([8, 1, 1]), None, False), potential))
        del potential
        gc.collect()
        assert find(reference) is None
        found = resolve(pickle.loads(data).reference)
        assert found.rotational_average == "T"
        assert register(mine)[0] is mine

    def test_references_of_earlier_versions(self, mine: Potential) -> None:
        """They end after the radial functions."""
        from mlip.potentials.registry import ModelReference, register, resolve

        _, reference = register(mine)
        old = ModelReference(reference.source, reference.sha256, reference.dtype, reference.device, "auto", "exact")
        assert old.rotational_average == "none"
        assert resolve(old) is mine

    def test_errors(self, mine: Potential) -> None:
        from mlip.potentials import create_force, create_system

        topology = self.topology(molecule("H2O"))
        for make in (create_force, create_system):
            with pytest.raises(OptionError, match="allowed: none, T, O, Oh, I, Ih"):
                make(topology, mine, rotational_average="wrong")
