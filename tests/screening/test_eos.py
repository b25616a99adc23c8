"""The equation of state finds what was put in, agrees with ASE, and refuses what has no minimum."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase import eos as ase_eos
from ase.build import bulk, molecule
from ase.constraints import FixAtoms

from mlip.errors import OptionError, StructureError, UnknownElementError
from mlip.screening import equation_of_state
from mlip.screening.eos import fit
from mlip.simulation import relax

GPA = 160.2176634


@pytest.mark.parametrize(("e0", "b0", "bp", "v0"), [(-3.5, 0.9, 4.0, 11.8), (-9e4, 2.76, 3.6, 45.3),
                                                    (0.0, 0.05, 7.0, 900)])
def test_known_parameters_are_found(e0, b0, bp, v0) -> None:
    volumes = v0 * np.linspace(0.93, 1.06, 7)
    found = fit(volumes[::-1], ase_eos.birchmurnaghan(volumes, e0, b0, bp, v0)[::-1])  # the order does not matter
    assert found.v0 == pytest.approx(v0, rel=1e-6)
    assert found.e0 == pytest.approx(e0, rel=1e-9, abs=1e-9)
    assert found.bulk_modulus == pytest.approx(b0 * GPA, rel=1e-4)
    assert found.residual < 1e-9 * max(1, abs(e0))
    assert np.array_equal(found.volumes, volumes)


def test_agrees_with_ase_and_with_the_stress(binding) -> None:
    crystal = relax(bulk("Cu", "fcc", a=3.35), binding, fmax=1e-5, cell=True).atoms
    before = crystal.copy()
    found = equation_of_state(crystal, binding, strain=0.04, points=9)
    assert crystal == before
    v0, e0, b0 = ase_eos.EquationOfState(found.volumes, found.energies, "birchmurnaghan").fit()
    assert found.v0 == pytest.approx(v0, rel=1e-6)
    assert found.e0 == pytest.approx(e0, abs=1e-8)
    assert found.bulk_modulus == pytest.approx(b0 * GPA, rel=1e-3)
    assert found.v0 == pytest.approx(crystal.get_volume(), rel=2e-3)  # where the pressure vanishes
    h, pressures = 1e-3, []
    for sign in (1, -1):  # B = -V dp/dV
        scaled = crystal.copy()
        scaled.set_cell(crystal.cell.array * (1 + sign * h) ** (1 / 3), scale_atoms=True)
        pressures.append(-np.trace(binding.predict(scaled).stress) / 3)
    assert found.bulk_modulus == pytest.approx((pressures[1] - pressures[0]) / (2 * h) * GPA, rel=0.05)


def test_supercell_has_the_same_modulus(binding) -> None:
    cell = bulk("Cu", "fcc", a=3.29)
    one, many = equation_of_state(cell, binding), equation_of_state(cell.repeat((2, 1, 2)), binding)
    assert many.v0 == pytest.approx(4 * one.v0, rel=1e-6)
    assert many.e0 == pytest.approx(4 * one.e0, abs=1e-6)
    assert many.bulk_modulus == pytest.approx(one.bulk_modulus, rel=1e-5)


class Stiff(FixAtoms):
    """Holds the cell as it is, like FixSymmetry and others hold parts of it."""

    def adjust_cell(self, atoms: Atoms, cell: np.ndarray) -> None:
        cell[:] = atoms.cell.array


def test_constraints_do_not_hold_the_cell(binding) -> None:
    cell = bulk("Cu", "fcc", a=3.29, cubic=True)
    free = equation_of_state(cell, binding)
    cell.set_constraint(Stiff([0, 1]))
    assert np.array_equal(equation_of_state(cell, binding).energies, free.energies)


@pytest.mark.parametrize("a", [2.9, 3.7])
def test_no_minimum_in_between(binding, a) -> None:
    with pytest.raises(StructureError, match="no minimum between"):
        equation_of_state(bulk("Cu", "fcc", a=a), binding, strain=0.02)


def test_rough_energies() -> None:
    with pytest.raises(StructureError, match="no minimum"):
        fit(np.linspace(9, 11, 7), [0.0, 0.0, 0.1, -0.1, 0.1, -1.0, -0.9])


@pytest.mark.parametrize("options", [{"strain": 0.0}, {"strain": 0.5}, {"strain": float("nan")}, {"points": 4},
                                     {"points": 7.0}])
def test_bad_options(binding, options) -> None:
    with pytest.raises(OptionError, match="strain"):
        equation_of_state(bulk("Cu"), binding, **options)


def test_bad_structures(binding, structures) -> None:
    for atoms in (molecule("H2O"), structures["slab"]):
        with pytest.raises(StructureError, match="three periodic directions"):
            equation_of_state(atoms, binding)
    with pytest.raises(UnknownElementError):
        equation_of_state(bulk("Au"), binding)
