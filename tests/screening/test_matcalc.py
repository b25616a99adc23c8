"""The calculator passes through the property classes of matcalc unchanged, and ours give the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

import mlip
from mlip.calculators import MLIPCalculator
from mlip.screening.eos import fit
from mlip.screening.properties import elastic, eos, phonon
from mlip.simulation import relax

matcalc = pytest.importorskip("matcalc")
pytestmark = pytest.mark.filterwarnings("ignore:Elastic strain-stress fits", "ignore:.*acoustic mode")  # matcalc's
EXACT = {"fmax": 1e-5, "optimizer": "LBFGS"}


@pytest.fixture(scope="module")
def elements() -> mlip.Potential:
    return mlip.load("gaunt-mace-elements", dtype="float64")


@pytest.fixture(scope="module")
def silicon(elements: mlip.Potential) -> Atoms:
    done = relax(bulk("Si"), elements, cell=True, fmax=1e-5)
    assert done.converged
    return done.atoms


@pytest.fixture
def calculator(elements: mlip.Potential) -> MLIPCalculator:
    return MLIPCalculator(elements)


def test_relaxation(calculator, silicon) -> None:
    moved = bulk("Si", a=5.5)
    moved.rattle(0.02, seed=1)
    found = matcalc.RelaxCalc(calculator, **EXACT).calc(moved)
    assert found["energy"] == pytest.approx(silicon.get_potential_energy(), abs=1e-6)
    assert found["volume"] == pytest.approx(silicon.get_volume(), rel=1e-5)


def test_equation_of_state(calculator, elements, silicon) -> None:
    found = matcalc.EOSCalc(calculator, **EXACT, max_abs_strain=0.02, relax_structure=False).calc(silicon)
    curve = found["eos"]
    assert fit(curve["volumes"], curve["energies"]).bulk_modulus == pytest.approx(found["bulk_modulus_bm"], rel=1e-4)
    ours = eos.compute(silicon, elements, eos.Settings())
    assert ours["bulk_modulus"] == pytest.approx(found["bulk_modulus_bm"], rel=5e-3)  # of slightly other volumes


def test_elastic_tensor(calculator, elements, silicon) -> None:
    """matcalc measures finite strains, we infinitesimal ones: the difference is of second order."""
    small = (-0.002, -0.001, 0.001, 0.002)
    found = matcalc.ElasticityCalc(calculator, norm_strains=small, shear_strains=small, fmax=1e-5,
                                   relax_structure=False, relax_deformed_structures=True,
                                   relax_calc_kwargs={"optimizer": "LBFGS"}).calc(silicon)
    ours = elastic.compute(silicon, elements, elastic.Settings(strains=small, fmax=1e-5))
    theirs = np.asarray(found["elastic_tensor"].voigt) * 160.2176634
    assert np.allclose(ours["elastic_tensor"], theirs, atol=0.1)
    assert ours["bulk_modulus"] == pytest.approx(found["bulk_modulus_vrh"] * 160.2176634, abs=0.05)
    assert ours["shear_modulus"] == pytest.approx(found["shear_modulus_vrh"] * 160.2176634, abs=0.05)


def test_phonons(calculator, elements, silicon) -> None:
    size = 3
    found = matcalc.PhononCalc(calculator, atom_disp=0.01, supercell_matrix=np.eye(3) * size, relax_structure=False,
                               t_step=50, write_phonon=False).calc(silicon)
    ours = phonon.compute(silicon, elements, phonon.Settings(supercell=9.0))
    assert ours["supercell"] == [size] * 3
    theirs = found["thermal_properties"]
    assert np.allclose(np.array(ours["heat_capacity"]) * 2, theirs["heat_capacity"], atol=1e-3)  # J/K/mol of cells
    assert ours["zero_point_energy"] * 2 * 96.48533212331 == pytest.approx(theirs["free_energy"][0], abs=1e-5)
    # matcalc counts the rounding of the acoustic modes at Gamma among the modes: 0.014 kJ/mol at 1000 K; without it
    found["phonon"].run_thermal_properties(t_step=50, cutoff_frequency=1e-2)
    _, free, entropy, _ = found["phonon"].thermal_properties.thermal_properties
    assert np.allclose(np.array(ours["free_energy"]) * 2 * 96.48533212331, free, atol=1e-4)
    assert np.allclose(np.array(ours["entropy"]) * 2, entropy, atol=1e-4)
