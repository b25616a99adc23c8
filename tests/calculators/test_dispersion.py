"""D3: the library's numbers, derivatives, what the ASE calculator makes of it, and what is refused."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE

import mlip
from mlip.calculators import CommitteeCalculator, MLIPCalculator
from mlip.calculators.calculator import ModelCalculator
from mlip.checkpoints.dispersion import Dispersion, refuse_contained
from mlip.errors import MissingDependencyError, OptionError, StructureError
from mlip.graph import Structure
from mlip.io.ase import structure_of
from mlip.units import BOHR, HARTREE

interface = pytest.importorskip("dftd3.interface", reason="s-dftd3 is not installed: pip install \"mlip-md[d3]\"")
METHODS = ("d3bj:pbe", "d3zero:pbe", "d3bj-atm:pbe")


class TestNumbers:
    @pytest.mark.parametrize(("method", "expected"), [
        ("d3bj:tpss", -0.011441640787279111), ("d3bj:pbe", -0.009781920198843976)])
    def test_published_example(self, method: str, expected: float) -> None:
        """Water, as the documentation of s-dftd3 prints it, in the eV of ASE."""
        assert Dispersion(method)(structure_of(molecule("H2O"))).energy == pytest.approx(expected, rel=3e-8)

    @pytest.mark.parametrize("method", METHODS)
    def test_molecules_are_those_of_the_library(self, method: str) -> None:
        atoms = molecule("C6H6")
        damping, functional = method.split(":")
        kind = interface.ZeroDampingParam if damping == "d3zero" else interface.RationalDampingParam
        theirs = interface.DispersionModel(atoms.numbers, atoms.positions / BOHR).get_dispersion(
            kind(method=functional, atm=damping.endswith("-atm")), grad=True)
        found = Dispersion(method)(structure_of(atoms))
        assert found.energy == pytest.approx(float(theirs["energy"]) * HARTREE, rel=1e-14)
        np.testing.assert_allclose(found.forces, -theirs["gradient"] * HARTREE / BOHR, atol=1e-15)
        assert found.stress is None

    def test_a_crystal_is_nearly_that_of_the_library(self) -> None:
        """Ours fades out in the last 5 Bohr before 60."""
        atoms = bulk("Cu", cubic=True)
        theirs = interface.DispersionModel(atoms.numbers, atoms.positions / BOHR, atoms.cell.array / BOHR,
                                           atoms.pbc).get_dispersion(interface.RationalDampingParam(method="pbe"), True)
        found = Dispersion("d3bj:pbe")(structure_of(atoms))
        assert found.energy == pytest.approx(float(theirs["energy"]) * HARTREE, rel=3e-4)
        assert found.stress is not None
        np.testing.assert_allclose(found.stress, theirs["virial"] * HARTREE / atoms.get_volume(), atol=2e-4)

    def test_open_directions_are_open(self) -> None:
        """A slab with a tilted open vector is one in a high periodic cell, wherever its atoms are."""
        atoms = Atoms("CuOC", [[0.3, 0.2, 0.1], [1.9, 1.7, 0.6], [2.5, 0.4, 2.3]], pbc=[True, False, True],
                      cell=[[3.4, 0.0, 0.5], [9.0, 8.0, 4.0], [0.7, 0.6, 3.7]])
        d3 = Dispersion("d3bj:pbe")
        energy = d3(structure_of(atoms)).energy
        high = atoms.copy()
        high.pbc = True
        normal = np.cross(atoms.cell[2], atoms.cell[0])
        high.cell[1] = 100.0 * normal / np.linalg.norm(normal)
        high.positions += 0.5 * high.cell[1]
        assert energy == pytest.approx(d3(structure_of(high)).energy, rel=1e-10)
        assert energy == pytest.approx(d3(structure_of(atoms.repeat((2, 1, 3)))).energy / 6, rel=1e-10)
        atoms.positions -= 7.0 * atoms.cell[1]
        atoms.cell[1] = 0.0
        assert energy == pytest.approx(d3(structure_of(atoms)).energy, rel=1e-12)

    def test_nothing(self) -> None:
        assert Dispersion("d3bj:pbe")(Structure.create([], [])).energy == 0.0


class TestDerivatives:
    @pytest.mark.parametrize("method", METHODS)
    def test_forces_and_stress(self, structure: Atoms, method: str) -> None:
        d3, given = Dispersion(method), structure_of(structure)
        found = d3(given)

        def energy(step: float, moves: np.ndarray, strain: np.ndarray) -> float:
            deform = np.eye(3) + step * strain
            return d3(replace(given, positions=(given.positions + step * moves) @ deform,
                              cell=given.cell @ deform)).energy

        draw = np.random.default_rng(0)
        moves, strain = draw.normal(size=given.positions.shape), draw.normal(size=(3, 3))
        still, rigid, h = np.zeros_like(moves), np.zeros((3, 3)), 1e-4
        assert (found.forces * moves).sum() == pytest.approx(
            -(energy(h, moves, rigid) - energy(-h, moves, rigid)) / (2 * h), abs=1e-7)
        if found.stress is not None:
            assert given.volume is not None
            strain = strain + strain.T
            assert (found.stress * strain).sum() * given.volume == pytest.approx(
                (energy(h, still, strain) - energy(-h, still, strain)) / (2 * h), abs=1e-4)


class TestCalculator:
    def test_sum(self, mace: mlip.Potential, structure: Atoms) -> None:
        plain, atoms = structure.copy(), structure
        plain.calc, atoms.calc = MLIPCalculator(mace), MLIPCalculator(mace, dispersion="d3bj:pbe")
        d3 = Dispersion("d3bj:pbe")(structure_of(structure))
        assert abs(d3.energy) > 1e-3
        assert atoms.get_potential_energy() == pytest.approx(plain.get_potential_energy() + d3.energy, rel=1e-14)
        assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()
        np.testing.assert_allclose(atoms.get_forces(), plain.get_forces() + d3.forces, atol=1e-12)
        if d3.stress is not None:
            np.testing.assert_allclose(atoms.get_stress(voigt=False), plain.get_stress(voigt=False) + d3.stress,
                                       atol=1e-14)
        with pytest.raises(NotImplementedError, match="energies"):
            atoms.get_potential_energies()

    def test_relaxes_a_cell(self, mace: mlip.Potential, structures: dict[str, Atoms]) -> None:
        atoms = structures["cubic"]
        atoms.calc = MLIPCalculator(mace, dispersion="d3bj:pbe")
        before = atoms.get_potential_energy()
        FIRE(FrechetCellFilter(atoms), logfile=None).run(fmax=0.01, steps=5)
        assert atoms.get_potential_energy() < before

    def test_provenance_and_copies(self, mace: mlip.Potential, structures: dict[str, Atoms]) -> None:
        calculator = MLIPCalculator(mace, dispersion="d3bj:pbe")
        assert calculator.parameters["dispersion"] == "d3bj:pbe"
        assert "dispersion" not in MLIPCalculator(mace).parameters
        energy = calculator.get_potential_energy(structures["molecule"])
        for twin in (copy.deepcopy(calculator), pickle.loads(pickle.dumps(calculator))):
            assert twin.get_potential_energy(structures["molecule"]) == energy

    def test_of_a_committee(self, family_of: Callable[[str], mlip.Potential], structures: dict[str, Atoms]) -> None:
        """It is added to the mean; what the members say stays theirs."""
        members = [family_of(name) for name in ("mace", "mace-density-zbl")]
        plain, atoms = structures["cubic"].copy(), structures["cubic"]
        plain.calc, atoms.calc = CommitteeCalculator(members), CommitteeCalculator(members, dispersion="d3bj:pbe")
        d3 = Dispersion("d3bj:pbe")(structure_of(atoms))
        assert d3.stress is not None
        assert atoms.get_potential_energy() == pytest.approx(plain.get_potential_energy() + d3.energy, rel=1e-14)
        np.testing.assert_allclose(atoms.get_forces(), plain.get_forces() + d3.forces, atol=1e-12)
        np.testing.assert_allclose(atoms.get_stress(voigt=False), plain.get_stress(voigt=False) + d3.stress, atol=1e-14)
        assert atoms.calc.predict(atoms).energy == plain.get_potential_energy()
        assert atoms.calc.parameters["dispersion"] == "d3bj:pbe"
        known = mlip.Potential(members[1].model, dataclasses.replace(members[1].info, training_data="PBE-D3"))
        with pytest.raises(OptionError, match="would count twice"):
            CommitteeCalculator([members[0], known], dispersion="d3bj:pbe")

    def test_no_results_without_it(self, mace: mlip.Potential, structures: dict[str, Atoms],
                                   monkeypatch: pytest.MonkeyPatch) -> None:
        """If dispersion fails, what the model said must not stay behind as if it were the sum."""
        atoms = structures["molecule"]
        atoms.calc = MLIPCalculator(mace, dispersion="d3bj:pbe")

        def fails(self: Dispersion, structure: Structure) -> None:
            raise StructureError("no")

        with monkeypatch.context() as patched:
            patched.setattr(Dispersion, "__call__", fails)
            for _ in range(2):
                with pytest.raises(StructureError, match="no"):
                    atoms.get_potential_energy()
        assert atoms.get_potential_energy() != ModelCalculator.get_potential_energy(MLIPCalculator(mace), atoms)


class TestMistakes:
    @pytest.mark.parametrize("method", ["pbe", "d3bj:", "d4:pbe", "d3bj:pbe ", "D3BJ:pbe", 3])
    def test_no_such_method(self, mace: mlip.Potential, method: str) -> None:
        with pytest.raises(OptionError, match="d3bj:pbe"):
            MLIPCalculator(mace, dispersion=method)

    @pytest.mark.parametrize("method", ["d3bj:nonsense", "d3zero:r2scan"])
    def test_no_parameters(self, method: str) -> None:
        with pytest.raises(OptionError, match="has no parameters of"):
            Dispersion(method)

    @pytest.mark.parametrize("symbol", ["Rf", "Og"])
    def test_too_heavy(self, symbol: str) -> None:
        with pytest.raises(StructureError, match=f"up to Lr; atom 1 is {symbol}"):
            Dispersion("d3bj:pbe")(structure_of(Atoms(["H", symbol], [[0, 0, 0], [0, 0, 2]])))

    @pytest.mark.parametrize("data", ["SPICE 1 and more, wB97M-D3(BJ)/def2-TZVPPD", "OMol25, wB97M-V/def2-TZVPD",
                                      "MPtrj, PBE-D4", "water, optB88-vdW", "rVV10", "wB97X-D", "PBE+MBD"])
    def test_twice(self, mace: mlip.Potential, data: str) -> None:
        known = mlip.Potential(mace.model, dataclasses.replace(mace.info, training_data=data))
        with pytest.raises(OptionError, match="would count twice"):
            MLIPCalculator(known, dispersion="d3bj:pbe")

    @pytest.mark.parametrize("data", ["", "MPtrj, PBE+U", "OMat24, PBE+U (VASP 54 pseudopotentials)",
                                      "OMat24, then MatPES-r2SCAN, r2SCAN (energies and forces, no stresses)"])
    def test_once(self, mace: mlip.Potential, data: str) -> None:
        refuse_contained(dataclasses.replace(mace.info, training_data=data))

    def test_missing_library(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import sys

        monkeypatch.setitem(sys.modules, "dftd3", None)
        with pytest.raises(MissingDependencyError, match=r"mlip-md\[d3\]"):
            Dispersion("d3bj:pbe")
