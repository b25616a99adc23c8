"""`Committee` and `CommitteeCalculator`: means, spreads, lists, copies, errors."""

from __future__ import annotations

import copy
import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.filters import FrechetCellFilter
from ase.io import read, write
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from ase.outputs import all_outputs
from ase.units import fs

import mlip
from mlip.calculators import CommitteeCalculator
from mlip.checkpoints import Committee
from mlip.errors import NonFiniteError, OptionError, StructureError, UnknownElementError
from mlip.neighbors import VerletSkin
from mlip.units import to_voigt


def member(seed: int, elements: str = "H C O Cu", **options: Any) -> mlip.Potential:
    small = {"channels": 4, "hidden_lmax": 1, "edge_lmax": 2, "correlation": 2, "radial_mlp": (8,), "cutoff": 4.0,
             "pair_repulsion": True, "dtype": "float64"}
    return mlip.create("mace", elements.split(), seed=seed, **{**small, **options})


@pytest.fixture(scope="module")
def members() -> list[mlip.Potential]:
    """Two of one cutoff, and one of another cutoff and elements."""
    return [member(0), member(1), member(2, "Cu O C Ag", cutoff=3.5, channels=2)]


@pytest.fixture
def crystal(structures: dict[str, Atoms], members: list[mlip.Potential]) -> Atoms:
    structures["triclinic"].calc = CommitteeCalculator(members)
    return structures["triclinic"]


def test_means_and_spreads_are_those_of_single_evaluations(members: list[mlip.Potential], crystal: Atoms) -> None:
    each = [p.predict(crystal) for p in members]
    energies, forces = np.array([p.energy for p in each]), np.array([p.forces for p in each])
    assert np.ptp(energies) > 0.01
    assert crystal.get_potential_energy() == pytest.approx(energies.mean(), abs=1e-10)
    assert crystal.get_potential_energy(force_consistent=True) == crystal.get_potential_energy()
    np.testing.assert_allclose(crystal.get_potential_energies(), np.mean([p.energies for p in each], axis=0))
    np.testing.assert_allclose(crystal.get_forces(), forces.mean(axis=0), atol=1e-11)
    np.testing.assert_allclose(crystal.get_stress(voigt=False), np.mean([p.stress for p in each], axis=0), atol=1e-12)

    p = crystal.calc.predict(crystal)
    np.testing.assert_allclose(p.member_energies, energies, atol=1e-10)
    np.testing.assert_allclose(p.member_forces, forces, atol=1e-11)
    assert p.energy_std == pytest.approx(np.sqrt(((energies - energies.mean()) ** 2).sum() / 2), rel=1e-9)
    assert p.energy_std_per_atom == pytest.approx(p.energy_std / 3)
    expected = np.sqrt(((forces - forces.mean(axis=0)) ** 2).sum(axis=(0, 2)) / 2)
    np.testing.assert_allclose(p.forces_std, expected, rtol=1e-9)
    assert p.forces_std_max == pytest.approx(expected.max())
    assert p.forces_std_max > 0.01


def test_the_mean_is_conservative(crystal: Atoms) -> None:
    np.testing.assert_allclose(crystal.get_forces(), calculate_numerical_forces(crystal, eps=1e-4), atol=1e-6)
    np.testing.assert_allclose(crystal.get_stress(), calculate_numerical_stress(crystal, eps=1e-5), atol=1e-6)


def test_structures_of_every_kind(members: list[mlip.Potential], structure: Atoms) -> None:
    pair = Committee(members[:2])
    calculator = CommitteeCalculator(pair)
    p = pair.predict(structure)
    assert calculator.get_potential_energy(structure) == pytest.approx(p.energy, abs=1e-10)
    np.testing.assert_allclose(calculator.get_forces(structure), p.forces, atol=1e-10)
    if p.stress is None:
        with pytest.raises(PropertyNotImplementedError, match="no stress"):
            calculator.get_stress(structure)
    else:
        np.testing.assert_allclose(calculator.get_stress(structure), to_voigt(p.stress), atol=1e-12)


def test_batches_equal_single_structures(members: list[mlip.Potential], structures: dict[str, Atoms]) -> None:
    pair = Committee(members[:2])
    chosen = [structures["molecule"], structures["triclinic"], Atoms("C"), Atoms()]
    for atoms, p in zip(chosen, pair.predict(chosen), strict=True):
        single = pair.predict(atoms)
        assert p.energy == pytest.approx(single.energy, abs=1e-10)
        np.testing.assert_allclose(p.member_forces, single.member_forces, atol=1e-11)
        assert (p.stress is None) == (single.stress is None)
    assert pair.predict(Atoms()).forces_std_max == pair.predict(Atoms("C")).forces_std_max == 0.0
    assert pair.predict([]) == []


def test_one_evaluation_and_one_list_for_each_cutoff(crystal: Atoms, monkeypatch: pytest.MonkeyPatch) -> None:
    cutoffs, evaluated = [], []
    update, evaluate = VerletSkin.update, mlip.Potential.evaluate

    def updated(self: VerletSkin, *args: Any) -> Any:
        cutoffs.append(self.cutoff)
        return update(self, *args)

    def counted(self: mlip.Potential, *args: Any, **options: Any) -> Any:
        evaluated.append(self)
        return evaluate(self, *args, **options)

    monkeypatch.setattr(VerletSkin, "update", updated)
    monkeypatch.setattr(mlip.Potential, "evaluate", counted)
    crystal.get_forces()
    crystal.get_stress()
    assert crystal.calc.predict(crystal).forces_std.shape == (3,)
    assert cutoffs == [4.0, 3.5]
    assert evaluated == list(crystal.calc.committee.members)
    crystal.info["charge"] = 0
    assert crystal.calc.check_state(crystal) == ["charge"]
    crystal.rattle(0.1)
    crystal.calc.predict(crystal)
    assert len(evaluated) == 6


def test_ase_knows_all_results(crystal: Atoms, tmp_path: Path) -> None:
    crystal.get_stress()
    assert set(crystal.calc.results) <= set(all_outputs)
    assert set(crystal.get_properties(["energy", "forces"])) >= {"energy", "forces"}
    write(tmp_path / "out.traj", crystal)
    stored = read(tmp_path / "out.traj").calc
    assert stored.name == "mlip-committee"
    assert stored.parameters["sha256"] == [p.info.sha256 for p in crystal.calc.committee.members]
    assert json.loads(json.dumps(crystal.calc.todict()))["dtype"] == ["float64"] * 3


@pytest.mark.parametrize("clone", [lambda c: pickle.loads(pickle.dumps(c)), copy.deepcopy, copy.copy],
                         ids=["pickle", "deepcopy", "copy"])
def test_copies(crystal: Atoms, clone: Callable[[Any], Any]) -> None:
    calculator = crystal.calc
    before = calculator.predict(crystal)
    twin = clone(calculator)
    assert twin._evaluator is not calculator._evaluator
    assert twin.todict() == calculator.todict()
    assert twin.check_state(crystal) == []
    np.testing.assert_array_equal(twin.predict(crystal).forces_std, before.forces_std)
    moved = crystal.copy()
    moved.rattle(0.1, seed=1)
    assert twin.predict(moved).energy == pytest.approx(calculator.committee.predict(moved).energy, abs=1e-9)
    assert calculator.predict(crystal) is before


def test_a_deep_copy_shares_the_weights(crystal: Atoms) -> None:
    crystal.get_potential_energy()
    assert copy.deepcopy(crystal).calc.committee is crystal.calc.committee


def test_optimisers_filters_and_dynamics(members: list[mlip.Potential], heat: Callable[[Atoms, float], Atoms]) -> None:
    atoms = bulk("Cu", a=3.2, cubic=True)
    atoms.rattle(0.1, seed=1)
    atoms.calc = CommitteeCalculator(members)
    energy = atoms.get_potential_energy()
    BFGS(FrechetCellFilter(atoms), logfile=io.StringIO()).run(fmax=0.05, steps=15)
    assert atoms.get_potential_energy() < energy
    heat(atoms, 300)
    before = atoms.get_total_energy()
    VelocityVerlet(atoms, 1.0 * fs).run(50)
    assert abs(atoms.get_total_energy() - before) / len(atoms) < 1e-4


def test_from_files_with_settings(members: list[mlip.Potential], structures: dict[str, Atoms], tmp_path: Path) -> None:
    paths = [p.save(tmp_path / f"{i}.mlip") for i, p in enumerate(members)]
    calculator = CommitteeCalculator([paths[0], str(paths[1]), members[2]], dtype="float32", backend="reference",
                                     skin=0.5)
    assert {str(p.dtype) for p in calculator.committee.members} == {"torch.float32"}
    assert calculator.parameters["backend"] == ["reference"] * 3
    atoms = structures["triclinic"]
    p = calculator.predict(atoms)
    assert p.member_forces.dtype == np.float64
    np.testing.assert_allclose(p.forces_std, Committee(members).predict(atoms).forces_std, atol=1e-3)


class TestErrors:
    def test_the_member_that_does_not_know_an_element(self, members: list[mlip.Potential]) -> None:
        committee = Committee(members)
        assert committee.elements == ("C", "O", "Cu")
        for atoms, text in ((molecule("H2O"), "member 2 .* H "), (Atoms("Ag"), "member 0 .* Ag ")):
            with pytest.raises(UnknownElementError, match=text):
                CommitteeCalculator(committee).get_potential_energy(atoms)

    def test_the_member_that_answers_nan(self, members: list[mlip.Potential], structures: dict[str, Atoms]) -> None:
        broken = copy.deepcopy(members[1])
        for weights in broken.model.parameters():
            weights.data.fill_(float("nan"))
        calculator = CommitteeCalculator([members[0], mlip.Potential(broken.model, broken.info)])
        with pytest.raises(NonFiniteError, match="member 1 of the committee") as caught:
            calculator.get_forces(structures["triclinic"])
        assert caught.value.atoms == (0, 1, 2)
        assert calculator.results == {}

    def test_models_that_make_no_committee(self, members: list[mlip.Potential]) -> None:
        first = members[0]
        for models, text in (([], "at least two"), ([first], "at least two"), ("mace-acac", "needs a list"),
                             (first, "needs a list"), (7, "needs a list"), ([first, 7], "int was given"),
                             ([first, members[1], first], "members 0 and 2 .* the same model"),
                             ([first, member(0).to(dtype="float32")], "the same model"),
                             ([first, member(4, "Ag Au")], "no element that all members know"),
                             (None, "no models were given")):
            with pytest.raises(OptionError, match=text):
                CommitteeCalculator(models)

    def test_options(self, members: list[mlip.Potential], structures: dict[str, Atoms]) -> None:
        with pytest.raises(OptionError, match=r"CommitteeCalculator has no option dytpe \(did you mean dtype\?\)"):
            CommitteeCalculator(members, dytpe="float32")
        with pytest.raises(OptionError, match=r"skin: .* make a new calculator"):
            CommitteeCalculator(members).set(skin=2.0)
        with pytest.raises(StructureError, match="expected ase"):
            Committee(members).predict(3)
