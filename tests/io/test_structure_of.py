"""ASE atoms -> `Structure`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule

from mlip.errors import StructureError
from mlip.io.ase import structure_of


def test_arrays() -> None:
    for atoms in (molecule("H2O"), bulk("Cu"), fcc111("Cu", (1, 1, 2), vacuum=5.0), Atoms()):
        s = structure_of(atoms)
        np.testing.assert_array_equal(s.numbers, atoms.numbers)
        np.testing.assert_array_equal(s.positions, atoms.positions)
        np.testing.assert_array_equal(s.cell, atoms.cell.array)
        np.testing.assert_array_equal(s.pbc, atoms.pbc)
        assert (s.charge, s.spin, s.head) == (None, None, None)
        assert (s.total_charge, s.multiplicity) == (0, 1)


@pytest.mark.parametrize(("info", "charge", "spin", "head"), [
    ({"charge": -2}, -2, None, None), ({"charge": np.float64(1.0)}, 1, None, None), ({"spin": 3}, None, 3, None),
    ({"spin_multiplicity": 2}, None, 2, None), ({"spin": 2, "spin_multiplicity": 2}, None, 2, None),
    ({"spin": 0}, None, None, None), ({"charge": 0, "spin": 1}, 0, 1, None), ({"head": "pbe"}, None, None, "pbe"),
    ({"head": np.str_("pbe")}, None, None, "pbe"), ({"energy": 5.0, "name": "x"}, None, None, None),
])
def test_info(info: dict[str, Any], charge: int | None, spin: int | None, head: str | None) -> None:
    atoms = molecule("H2O")
    atoms.info.update(info)
    s = structure_of(atoms)
    assert (s.charge, s.spin, s.head) == (charge, spin, head)
    assert {type(s.charge), type(s.spin)} <= {int, type(None)}
    assert atoms.info == info


def test_changes_of_the_atoms_do_not_reach_the_structure() -> None:
    atoms = bulk("Cu")
    s = structure_of(atoms)
    atoms.positions += 1
    atoms.cell[:] *= 2
    atoms.pbc = False
    assert s.positions.tolist() == [[0, 0, 0]]
    assert s.pbc.all()
    np.testing.assert_array_equal(2 * s.cell, atoms.cell.array)


@pytest.mark.parametrize("wrong", [None, "H2O", 5, [molecule("H2O")], np.zeros((3, 3))])
def test_no_atoms(wrong: Any) -> None:
    with pytest.raises(StructureError, match=r"expected ase.Atoms"):
        structure_of(wrong)


@pytest.mark.parametrize("info", [{"charge": 0.5}, {"spin": -1}, {"spin_multiplicity": "two"}, {"charge": None}])
def test_impossible_info(info: dict[str, Any]) -> None:
    atoms = molecule("H2O")
    atoms.info.update(info)
    with pytest.raises(StructureError, match="whole number"):
        structure_of(atoms)


def test_dummy_atoms() -> None:
    with pytest.raises(StructureError, match="1 to 118"):
        structure_of(Atoms("XH", [[0, 0, 0], [0, 0, 1]]))
