"""The calculator inside ASE's own machinery: files, constraints, filters, optimisers, dynamics, phonons."""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.mixing import SumCalculator
from ase.constraints import FixAtoms
from ase.db import connect
from ase.filters import FrechetCellFilter, UnitCellFilter
from ase.io import read, write
from ase.io.trajectory import Trajectory
from ase.md.langevin import Langevin
from ase.md.nose_hoover_chain import IsotropicMTKNPT
from ase.md.verlet import VelocityVerlet
from ase.mep import NEB
from ase.optimize import BFGS, FIRE, LBFGS
from ase.units import fs
from ase.vibrations import Vibrations

import mlip
from mlip.calculators import MLIPCalculator
from mlip.errors import NonFiniteError, StructureError


@pytest.fixture(scope="module")
def stiff() -> mlip.Potential:
    """A potential with repulsion; `crystal` has forces of 2 eV/A under it and a minimum near by."""
    return mlip.create("mace", ["H", "C", "O", "Cu"], seed=2, channels=4, hidden_lmax=0, edge_lmax=1,
                       correlation=2, radial_mlp=(8,), pair_repulsion=True, cutoff=4.0, dtype="float64")


@pytest.fixture
def crystal(stiff: mlip.Potential) -> Atoms:
    atoms = bulk("Cu", a=3.2, cubic=True)
    atoms.positions += np.random.default_rng(1).normal(0.0, 0.1, (4, 3))
    atoms.calc = MLIPCalculator(stiff)
    return atoms


class TestFiles:
    @pytest.mark.parametrize("suffix", ["traj", "extxyz", "json", "db"])
    def test_results_and_provenance_survive(self, crystal: Atoms, tmp_path: Path, suffix: str) -> None:
        crystal.get_stress()
        path = tmp_path / f"out.{suffix}"
        write(path, crystal)
        back = read(path)
        assert back.get_potential_energy() == pytest.approx(crystal.get_potential_energy(), abs=1e-8)
        np.testing.assert_allclose(back.get_forces(), crystal.get_forces(), atol=1e-7)
        np.testing.assert_allclose(back.get_stress(), crystal.get_stress(), atol=1e-8)
        if suffix == "traj":
            assert back.calc.name == "mlip"
            assert back.calc.parameters["sha256"] == crystal.calc.info.sha256

    def test_trajectory_of_a_molecule(self, stiff: mlip.Potential, tmp_path: Path) -> None:
        atoms = molecule("H2O")
        atoms.calc = MLIPCalculator(stiff)
        with Trajectory(tmp_path / "md.traj", "w", atoms) as trajectory:
            VelocityVerlet(atoms, 0.5 * fs, trajectory=trajectory).run(3)
        frames = read(tmp_path / "md.traj", ":")
        assert len(frames) == 4
        assert frames[-1].get_potential_energy() == pytest.approx(atoms.get_potential_energy())
        with pytest.raises(PropertyNotImplementedError):
            frames[-1].get_stress()

    def test_database_keeps_the_model(self, crystal: Atoms, tmp_path: Path) -> None:
        crystal.get_potential_energy()
        with connect(tmp_path / "screen.db") as database:
            database.write(crystal)
        row = connect(tmp_path / "screen.db").get(1)
        assert (row.calculator, row.calculator_parameters["sha256"]) == ("mlip", crystal.calc.info.sha256)
        assert row.energy == pytest.approx(crystal.get_potential_energy())


class TestConstraintsAndFilters:
    def test_constraints(self, crystal: Atoms) -> None:
        free = crystal.get_forces()
        crystal.set_constraint(FixAtoms([0, 2]))
        assert not crystal.get_forces()[[0, 2]].any()
        np.testing.assert_array_equal(crystal.get_forces(apply_constraint=False), free)

    @pytest.mark.parametrize("optimiser", [BFGS, FIRE, LBFGS])
    def test_relaxation(self, crystal: Atoms, optimiser: Any) -> None:
        energy = crystal.get_potential_energy()
        optimiser(crystal, logfile=io.StringIO()).run(fmax=0.02, steps=30)
        assert crystal.get_potential_energy() < energy

    @pytest.mark.parametrize("cell_filter", [FrechetCellFilter, UnitCellFilter])
    def test_relaxation_of_the_cell(self, crystal: Atoms, cell_filter: Any) -> None:
        enthalpy, volume = crystal.get_potential_energy(), crystal.get_volume()
        BFGS(cell_filter(crystal), logfile=io.StringIO()).run(fmax=0.01, steps=10)
        assert crystal.get_potential_energy() < enthalpy
        assert crystal.get_volume() != volume

    def test_filter_of_a_molecule_is_refused(self, stiff: mlip.Potential) -> None:
        atoms = molecule("H2O", vacuum=5.0, pbc=False)
        atoms.calc = MLIPCalculator(stiff)
        with pytest.raises(PropertyNotImplementedError, match="no stress"):
            FrechetCellFilter(atoms).get_forces()

    def test_sums_with_other_calculators(self, crystal: Atoms, stiff: mlip.Potential) -> None:
        energy, stress = crystal.get_potential_energy(), crystal.get_stress()
        crystal.calc = SumCalculator([MLIPCalculator(stiff), MLIPCalculator(stiff)])
        assert crystal.get_potential_energy() == pytest.approx(2 * energy)
        np.testing.assert_allclose(crystal.get_stress(), 2 * stress)

    def test_elastic_band_with_one_calculator(self, crystal: Atoms, stiff: mlip.Potential) -> None:
        last = crystal.copy()
        last.rattle(0.1, seed=4)
        images = [crystal.copy(), crystal.copy(), crystal.copy(), last]
        calculator = MLIPCalculator(stiff)
        for image in images:
            image.calc = calculator
        band = NEB(images, method="improvedtangent", allow_shared_calculator=True)
        band.interpolate()
        assert np.isfinite(band.get_forces()).all()


class TestDynamics:
    @pytest.fixture
    def warm(self, crystal: Atoms, heat: Callable[[Atoms, float], Atoms]) -> Atoms:
        return heat(crystal, 300)

    def test_energy_is_conserved(self, warm: Atoms) -> None:
        dynamics = VelocityVerlet(warm, 1.0 * fs)
        before = warm.get_total_energy()
        dynamics.run(100)
        assert abs(warm.get_total_energy() - before) / len(warm) < 1e-4

    def test_langevin(self, warm: Atoms) -> None:
        start = warm.positions.copy()
        Langevin(warm, 1.0 * fs, temperature_K=300, friction=0.01 / fs, fixcm=False,
                 rng=np.random.default_rng(0)).run(20)
        assert np.isfinite(warm.positions).all()
        assert np.abs(warm.positions - start).max() > 1e-3

    def test_constant_pressure(self, warm: Atoms) -> None:
        volume = warm.get_volume()
        IsotropicMTKNPT(warm, 1.0 * fs, temperature_K=300, pressure_au=0.0, tdamp=50 * fs,
                        pdamp=200 * fs).run(10)
        assert np.isfinite(warm.get_volume())
        assert warm.get_volume() != volume

    @pytest.mark.parametrize("mover", [
        lambda a: VelocityVerlet(a, 1.0 * fs).run(50),
        lambda a: BFGS(a, logfile=io.StringIO()).run(steps=50),
        lambda a: FIRE(a, logfile=io.StringIO()).run(steps=50),
        lambda a: LBFGS(a, logfile=io.StringIO()).run(steps=50),
    ], ids=["VelocityVerlet", "BFGS", "FIRE", "LBFGS"])
    def test_nan_stops_at_once_and_names_the_atoms(self, warm: Atoms, mover: Any,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
        calls = []
        forward = type(warm.calc.potential.model).forward

        def failing(self: Any, graph: Any) -> Any:
            calls.append(1)
            energies = forward(self, graph)
            return energies if len(calls) < 4 else energies * float("nan")

        monkeypatch.setattr(type(warm.calc.potential.model), "forward", failing)
        with pytest.raises(NonFiniteError) as caught:
            mover(warm)
        assert len(calls) == 4
        assert caught.value.atoms == (0, 1, 2, 3)

    def test_an_explosion_ends_in_a_typed_error(self, warm: Atoms) -> None:
        warm.set_velocities(np.outer([1, -2, 3, 5], [1e200, 1e100, 1e300]))
        with pytest.raises(StructureError, match=r"atoms \[0, 1, 2, 3\] .* exploded"):
            VelocityVerlet(warm, 1e3).run(10)


class TestPhonons:
    def test_force_constants_from_phonopy(self, stiff: mlip.Potential) -> None:
        phonopy = pytest.importorskip("phonopy")
        from phonopy.structure.atoms import PhonopyAtoms

        cell = bulk("Cu", a=3.2, cubic=True)
        unit = PhonopyAtoms(cell.get_chemical_symbols(), cell=cell.cell.array,
                            scaled_positions=cell.get_scaled_positions())
        phonon = phonopy.Phonopy(unit, np.diag([2, 2, 2]), primitive_matrix="P")
        phonon.generate_displacements(distance=0.01)
        calculator = MLIPCalculator(stiff)
        phonon.forces = [calculator.get_forces(Atoms(s.symbols, s.positions, cell=s.cell, pbc=True))
                         for s in phonon.supercells_with_displacements]
        phonon.produce_force_constants()
        constants = phonon.force_constants
        assert np.abs(constants.sum(axis=1)).max() < 1e-3  # the acoustic sum rule, up to third-order terms
        assert np.abs(constants).max() > 0.05

    def test_vibrations_of_a_molecule(self, stiff: mlip.Potential, tmp_path: Path) -> None:
        atoms = molecule("H2O")
        atoms.calc = MLIPCalculator(stiff)
        BFGS(atoms, logfile=io.StringIO()).run(fmax=1e-4, steps=200)
        vibrations = Vibrations(atoms, name=str(tmp_path / "vib"))
        vibrations.run()
        assert len(vibrations.get_energies()) == 9


def _energy(calculator: MLIPCalculator, atoms: Atoms) -> float:
    return float(calculator.get_potential_energy(atoms))


@pytest.mark.slow
def test_other_processes(stiff: mlip.Potential, crystal: Atoms) -> None:
    """The calculator travels to spawned workers and gives the same bits there."""
    calculator = MLIPCalculator(stiff)
    atoms = crystal.copy()
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert pool.submit(calculator.get_potential_energy, atoms).result() == _energy(calculator, atoms)
