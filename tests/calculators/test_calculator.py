"""`MLIPCalculator`: results, caching, options, copies."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.outputs import all_outputs
from ase.stress import full_3x3_to_voigt_6_stress

import mlip
from mlip.calculators import MLIPCalculator
from mlip.errors import NonFiniteError, OptionError, StructureError, UnknownElementError
from mlip.units import to_voigt


@pytest.fixture
def evaluations(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The sizes of the structures evaluated so far."""
    sizes: list[int] = []
    original = mlip.Potential.evaluate

    def counted(self: mlip.Potential, structures: Any, **options: Any) -> Any:
        sizes.extend(len(s) for s in structures)
        return original(self, structures, **options)

    monkeypatch.setattr(mlip.Potential, "evaluate", counted)
    return sizes


@pytest.fixture
def crystal(structures: dict[str, Atoms]) -> Atoms:
    return structures["triclinic"]


def test_results_equal_the_potential(mace: mlip.Potential, structure: Atoms) -> None:
    structure.calc = MLIPCalculator(mace)
    expected = mace.predict(structure)
    assert structure.get_potential_energy() == pytest.approx(expected.energy, abs=1e-9)
    assert structure.get_potential_energy(force_consistent=True) == structure.get_potential_energy()
    np.testing.assert_allclose(structure.get_forces(), expected.forces, atol=1e-10)
    np.testing.assert_allclose(structure.get_potential_energies().sum(), expected.energy, atol=1e-9)
    if expected.stress is not None:
        voigt = full_3x3_to_voigt_6_stress(expected.stress)
        np.testing.assert_allclose(structure.get_stress(voigt=False), expected.stress, atol=1e-12)
        np.testing.assert_allclose(structure.get_stress(), voigt, atol=1e-12)


def test_forces_and_stress_agree_with_ases_numbers(mace: mlip.Potential, crystal: Atoms) -> None:
    crystal.calc = MLIPCalculator(mace)
    np.testing.assert_allclose(crystal.get_forces(), calculate_numerical_forces(crystal, eps=1e-4), atol=1e-6)
    np.testing.assert_allclose(crystal.get_stress(), calculate_numerical_stress(crystal, eps=1e-5), atol=1e-6)


def test_one_evaluation_fills_all(mace: mlip.Potential, crystal: Atoms, evaluations: list[int]) -> None:
    crystal.calc = MLIPCalculator(mace)
    crystal.get_stress()
    crystal.get_forces()
    crystal.get_potential_energy()
    crystal.get_potential_energies()
    crystal.get_properties(["energy", "free_energy", "forces", "stress", "energies"])  # ASE recomputes here
    assert len(evaluations) == 2
    assert set(crystal.calc.results) <= set(all_outputs)
    assert set(crystal.calc.export_properties()) >= set(MLIPCalculator.implemented_properties)


def test_results_cannot_be_changed_from_outside(mace: mlip.Potential, crystal: Atoms) -> None:
    crystal.calc = MLIPCalculator(mace)
    before = crystal.get_forces()
    crystal.get_forces()[:] = 7.0
    np.testing.assert_array_equal(crystal.get_forces(), before)


def test_molecules_have_no_stress_but_all_the_rest(mace: mlip.Potential, evaluations: list[int]) -> None:
    atoms = molecule("H2O")
    atoms.calc = MLIPCalculator(mace)
    atoms.get_forces()
    with pytest.raises(PropertyNotImplementedError, match="no stress"):
        atoms.get_stress()
    assert set(atoms.get_properties(["energy", "forces"])) >= {"energy", "forces"}
    assert len(evaluations) == 2  # not one more for the refused stress


CHANGES: dict[str, Callable[[Atoms], Any]] = {
    "positions": lambda a: a.positions.__iadd__(0.1),
    "cell": lambda a: a.set_cell(a.cell * 1.01),
    "pbc": lambda a: a.set_pbc([True, True, False]),
    "numbers": lambda a: a.set_atomic_numbers([8, 8, 6]),
    "removed": lambda a: a.__delitem__(0),
    "added": lambda a: a.append("H"),
    "charge": lambda a: a.info.update(charge=1),
    "spin": lambda a: a.info.update(spin=2),
    "spin_multiplicity": lambda a: a.info.update(spin_multiplicity=a.info.pop("spin") + 2),
    "head": lambda a: a.info.update(head="default"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changes_are_noticed(mace: mlip.Potential, crystal: Atoms, evaluations: list[int], change: str,
                             monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(mace.model.config), "known_charges", (0, 1))
    monkeypatch.setattr(type(mace.model.config), "known_spins", (1, 2, 3))
    crystal.info.update(charge=0, spin=1)
    crystal.calc = MLIPCalculator(mace)
    crystal.get_potential_energy()
    CHANGES[change](crystal)
    assert crystal.calc.check_state(crystal)
    assert crystal.get_potential_energy() == pytest.approx(mace.predict(crystal).energy, abs=1e-9)
    assert len(evaluations) == 3
    crystal.get_forces()
    assert len(evaluations) == 3


@pytest.mark.parametrize("change", [
    lambda a: a.info.update(note="x", field=np.ones(3)), lambda a: a.set_initial_charges([1, 0, -1]),
    lambda a: a.set_initial_magnetic_moments([1, 0, 0]), lambda a: a.set_tags([1, 2, 3]),
    lambda a: a.set_velocities(np.ones((3, 3))),
], ids=["info", "initial_charges", "initial_magmoms", "tags", "velocities"])
def test_what_no_model_reads_costs_nothing(mace: mlip.Potential, crystal: Atoms, evaluations: list[int],
                                           change: Any) -> None:
    crystal.calc = MLIPCalculator(mace)
    crystal.get_potential_energy()
    change(crystal)
    crystal.get_potential_energy()
    assert len(evaluations) == 1


def test_the_users_info_is_left_alone(mace: mlip.Potential, crystal: Atoms) -> None:
    crystal.info = {"charge": 0, "spin": 1, "mine": [1, 2]}
    before = copy.deepcopy(crystal.info)
    crystal.calc = MLIPCalculator(mace)
    crystal.get_stress()
    assert crystal.info == before


def test_one_calculator_many_atoms(mace: mlip.Potential, structures: dict[str, Atoms]) -> None:
    calculator = MLIPCalculator(mace)
    for _ in range(2):
        for atoms in [*structures.values(), Atoms("H"), Atoms()]:
            atoms.calc = calculator
            assert atoms.get_potential_energy() == pytest.approx(mace.predict(atoms).energy, abs=1e-9)


def test_no_atoms_and_one_atom(mace: mlip.Potential) -> None:
    cases = [(Atoms(), 0.0), (Atoms("C"), -1029.5), (Atoms("C", cell=[9] * 3, pbc=True), -1029.5)]
    for atoms, energy in cases:
        atoms.calc = MLIPCalculator(mace)
        assert atoms.get_potential_energy() == energy
        assert atoms.get_forces().shape == (len(atoms), 3)
        assert not atoms.get_forces().any()


def test_calculate_without_atoms(mace: mlip.Potential, crystal: Atoms) -> None:
    calculator = MLIPCalculator(mace)
    with pytest.raises(OptionError, match="no atoms"):
        calculator.calculate()
    energy = calculator.get_potential_energy(crystal)
    calculator.calculate()
    assert calculator.results["energy"] == energy


class TestErrors:
    def test_unknown_elements_are_named(self, mace: mlip.Potential) -> None:
        atoms = bulk("NaCl", "rocksalt", a=5.6)
        atoms.calc = MLIPCalculator(mace)
        with pytest.raises(UnknownElementError, match="Na, Cl"):
            atoms.get_potential_energy()

    def test_nan_positions(self, mace: mlip.Potential, crystal: Atoms) -> None:
        crystal.calc = MLIPCalculator(mace)
        crystal.positions[1] = np.nan
        with pytest.raises(StructureError, match=r"\[1\]"):
            crystal.get_forces()

    def test_nothing_stale_after_an_error(self, mace: mlip.Potential, crystal: Atoms) -> None:
        crystal.calc = MLIPCalculator(mace)
        energy, kept = crystal.get_potential_energy(), crystal.positions.copy()
        crystal.positions[0] = np.nan
        for _ in range(2):
            with pytest.raises(StructureError):
                crystal.get_potential_energy()
            assert crystal.calc.results == {}
        crystal.positions = kept
        assert crystal.get_potential_energy() == energy

    def test_nan_from_the_model_names_atoms(self, broken: MLIPCalculator, crystal: Atoms) -> None:
        crystal.calc = broken
        with pytest.raises(NonFiniteError) as caught:
            crystal.get_forces()
        assert caught.value.atoms == (0, 1, 2)
        assert broken.results == {}


class TestOptions:
    def test_dtype_and_device(self, mace: mlip.Potential, crystal: Atoms) -> None:
        single = MLIPCalculator(mace, dtype="float32", device="cpu")
        assert single.parameters["dtype"] == "float32"
        assert single.get_potential_energy(crystal) == pytest.approx(
            MLIPCalculator(mace).get_potential_energy(crystal), abs=1e-3)
        assert single.get_forces(crystal).dtype == np.float64

    def test_options_are_fixed(self, mace: mlip.Potential) -> None:
        calculator = MLIPCalculator(mace)
        assert calculator.set() == {}
        with pytest.raises(OptionError, match=r"skin: .* make a new calculator"):
            calculator.set(skin=2.0)

    def test_from_a_file(self, mace: mlip.Potential, crystal: Atoms, tmp_path: Path) -> None:
        path = mace.save(tmp_path / "small.mlip")
        energies = [MLIPCalculator(model).get_potential_energy(crystal) for model in (path, str(path), mace)]
        assert energies[0] == energies[1] == energies[2]

    def test_provenance_is_json(self, mace: mlip.Potential) -> None:
        calculator = MLIPCalculator(mace, skin=0.5)
        stored = json.loads(json.dumps(calculator.todict()))
        assert stored == {"model": mace.info.name or "mace", "family": "mace", "sha256": mace.info.sha256,
                          "device": "cpu", "dtype": "float64", "skin": 0.5, "backend": "auto", "radial": "exact",
                          "rotational_average": "none"}
        assert calculator.name == "mlip"
        assert calculator.info.sha256 == mace.info.sha256


def test_heads_are_chosen_by_the_atoms(crystal: Atoms) -> None:
    two = mlip.create("mace", ["C", "O", "Cu"], heads=("pbe", "r2scan"), channels=4, edge_lmax=1, hidden_lmax=0,
                      correlation=2, radial_mlp=(8,), cutoff=4.0, dtype="float64")
    crystal.calc = MLIPCalculator(two)
    with pytest.raises(OptionError, match="pbe, r2scan"):
        crystal.get_potential_energy()
    energies = {}
    for head in ("pbe", "r2scan"):
        crystal.info["head"] = head
        energies[head] = crystal.get_potential_energy()
        assert energies[head] == pytest.approx(two.predict(crystal).energy, abs=1e-9)
    assert energies["pbe"] != energies["r2scan"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu(mace: mlip.Potential, crystal: Atoms) -> None:
    calculator = pickle.loads(pickle.dumps(MLIPCalculator(mace, device="cuda")))
    expected = mace.predict(crystal)
    assert calculator.get_potential_energy(crystal) == pytest.approx(expected.energy, abs=1e-8)
    np.testing.assert_allclose(calculator.get_forces(crystal), expected.forces, atol=1e-9)
    np.testing.assert_allclose(calculator.get_stress(crystal), to_voigt(expected.stress), atol=1e-10)


class TestCopies:
    @pytest.mark.parametrize("clone", [lambda c: pickle.loads(pickle.dumps(c)), copy.deepcopy, copy.copy],
                             ids=["pickle", "deepcopy", "copy"])
    def test_a_copy_gives_the_same_numbers(self, mace: mlip.Potential, crystal: Atoms, clone: Any) -> None:
        calculator = MLIPCalculator(mace, skin=0.7)
        energy = calculator.get_potential_energy(crystal)
        twin = clone(calculator)
        assert twin.todict() == calculator.todict()
        assert twin._evaluator is not calculator._evaluator
        assert twin.check_state(crystal) == []
        moved = crystal.copy()
        moved.rattle(0.1, seed=1)
        assert twin.get_potential_energy(moved) == pytest.approx(mace.predict(moved).energy, abs=1e-9)
        assert calculator.get_potential_energy(crystal) == energy

    def test_a_deep_copy_shares_the_weights(self, mace: mlip.Potential, crystal: Atoms) -> None:
        crystal.calc = MLIPCalculator(mace)
        crystal.get_potential_energy()
        twin = copy.deepcopy(crystal)
        assert twin.calc is not crystal.calc
        assert twin.calc.potential is crystal.calc.potential
        assert twin.calc.results is not crystal.calc.results

    def test_pickles_without_its_list(self, mace: mlip.Potential, structures: dict[str, Atoms]) -> None:
        calculator = MLIPCalculator(mace)
        small = len(pickle.dumps(calculator))
        big = structures["cubic"].repeat(3)
        calculator.get_potential_energy(big)
        assert len(pickle.dumps(calculator)) < small + 200 * len(big) + 5000


@pytest.fixture
def broken(mace: mlip.Potential) -> MLIPCalculator:
    """A calculator whose model answers NaN."""
    potential = copy.deepcopy(mace)
    for weights in potential.model.parameters():
        weights.data.fill_(float("nan"))
    return MLIPCalculator(potential)
