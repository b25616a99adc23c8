"""Phonons equal those of phonopy driven by hand, and obey what every crystal obeys."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from ase import Atoms

from mlip.calculators import MLIPCalculator
from mlip.errors import MissingDependencyError
from mlip.screening.properties.phonon import Settings, compute
from mlip.units import AVOGADRO, BOLTZMANN

phonopy = pytest.importorskip("phonopy")
SMALL = Settings(supercell=5.0, mesh=30.0)


def by_hand(crystal: Atoms, elements, size: int):
    """As the manual of phonopy has it, with one force call of ASE for each supercell."""
    from phonopy.structure.atoms import PhonopyAtoms

    unit = PhonopyAtoms(crystal.get_chemical_symbols(), cell=crystal.cell.array,
                        scaled_positions=crystal.get_scaled_positions())
    phonon = phonopy.Phonopy(unit, np.eye(3) * size, primitive_matrix="P" if len(crystal) < 4 else "F")
    phonon.generate_displacements(distance=0.01)
    calculator = MLIPCalculator(elements)
    phonon.forces = [calculator.get_forces(Atoms(s.symbols, s.positions, cell=s.cell, pbc=True))
                     for s in phonon.supercells_with_displacements]
    phonon.produce_force_constants()
    phonon.symmetrize_force_constants()
    return phonon


@pytest.mark.parametrize(("symbol", "cubic", "size"), [("Si", True, 1), ("Ni", False, 3)])
def test_equal_to_phonopy_by_hand(elements, relaxed, symbol, cubic, size) -> None:
    crystal = relaxed(symbol, cubic=cubic)
    found, phonon = compute(crystal, elements, SMALL), by_hand(crystal, elements, size)
    assert found["supercell"] == [size] * 3
    assert found["displaced_cells"] == len(phonon.supercells_with_displacements)
    assert found["atoms_per_cell"] == len(phonon.primitive) == (2 if symbol == "Si" else 1)
    phonon.run_mesh(30.0)
    phonon.run_total_dos()
    phonon.run_thermal_properties(t_step=50, cutoff_frequency=1e-2)
    temperatures, free, entropy, capacity = phonon.thermal_properties.thermal_properties
    n = found["atoms_per_cell"]
    assert found["temperatures"] == temperatures.tolist() == list(range(0, 1001, 50))
    assert np.allclose(np.array(found["free_energy"]) * n * 96.48533212331, free, atol=1e-6)  # kJ/mol
    assert np.allclose(np.array(found["entropy"]) * n, entropy, atol=1e-5)
    assert np.allclose(np.array(found["heat_capacity"]) * n, capacity, atol=1e-5)
    assert np.allclose(found["dos"], phonon.total_dos.dos, atol=1e-4)
    for label, point in (("X", [0.5, 0, 0.5]), ("L", [0.5, 0.5, 0.5])):  # in reciprocal vectors of the fcc cell
        frequencies = phonon.run_qpoints([point]).frequencies[0]
        ends = {a: bands[0] for (a, _), bands in zip(found["band_labels"], found["band_frequencies"], strict=True)}
        assert np.allclose(ends[label], frequencies, atol=1e-5)


def test_what_every_crystal_obeys(elements, relaxed) -> None:
    found = compute(relaxed("Si"), elements, SMALL)
    assert not found["imaginary"]
    gamma = [bands[labels.index("G") * -1] for labels, bands in zip(found["band_labels"], found["band_frequencies"],
                                                                    strict=True) if "G" in labels]
    assert len(gamma) > 1
    for frequencies in gamma:
        assert np.abs(frequencies[:3]).max() < 0.01  # acoustic
        assert np.ptp(frequencies[3:]) < 0.01  # cubic: one optical frequency
    width = found["dos_frequencies"][1] - found["dos_frequencies"][0]
    assert sum(found["dos"]) * width == pytest.approx(6, rel=0.02)  # modes of two atoms
    assert found["heat_capacity"][0] == 0
    assert found["heat_capacity"][-1] == pytest.approx(3 * AVOGADRO * BOLTZMANN, rel=0.05)  # Dulong and Petit
    assert np.all(np.diff(found["heat_capacity"]) > 0)
    assert found["free_energy"][0] == found["zero_point_energy"]
    assert np.all(np.diff(found["free_energy"]) < 0)


def test_an_unstable_crystal_has_no_free_energy(elements, relaxed) -> None:
    found = compute(relaxed("Cu", "bcc", a=2.87), elements, Settings(supercell=8.0, mesh=30.0))
    assert found["imaginary"]
    assert found["lowest_frequency"] < -0.1
    for name in ("zero_point_energy", "free_energy", "entropy", "heat_capacity"):
        assert found[name] is None


def test_atoms_relax_before(elements, relaxed) -> None:
    crystal = relaxed("Si")
    moved = crystal.copy()
    moved.positions[1] += 0.02
    one, other = compute(crystal, elements, SMALL), compute(moved, elements, SMALL)
    assert one["highest_frequency"] == pytest.approx(other["highest_frequency"], abs=2e-3)


def test_phonopy_is_needed(elements, relaxed, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "phonopy", None)
    with pytest.raises(MissingDependencyError, match=r"mlip-md\[screen\]"):
        compute(relaxed("Cu"), elements, SMALL)
