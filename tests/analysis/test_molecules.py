"""Bonds, molecules and torsions of known geometries."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from mlip.analysis.molecules import molecules_of, whole
from mlip.analysis.torsions import conformation, rotatable, states_of

from .conftest import motion

pytest.importorskip("mdtraj")

PEROXIDE = molecule("H2O2")  # O O H H
CHAIN = [2, 0, 1, 3]  # H O O H


def twisted(angles: np.ndarray) -> np.ndarray:
    """Return hydrogen peroxide with these torsions, degrees, [F, 4, 3]."""
    frames = []
    for angle in angles:
        atoms = PEROXIDE.copy()
        atoms.set_dihedral(*CHAIN, angle, indices=[3])
        frames.append(atoms.positions)
    return np.array(frames)


def test_bonds_by_distance() -> None:
    ethanol = molecule("CH3CH2OH")
    found = molecules_of(motion(ethanol.numbers, ethanol.positions[None]))
    assert sorted(map(len, found.neighbors)) == [1] * 6 + [2, 4, 4]
    assert len(found.neighbors[ethanol.get_chemical_symbols().index("O")]) == 2
    assert found.inferred == 9
    assert found.largest() == list(range(9))


def test_molecules_across_the_boundary() -> None:
    """Two waters and a sodium ion near one of them; one water lies on three faces of a skewed box."""
    cell = np.array([[9.0, 0.0, 0.0], [3.0, 8.0, 0.0], [-2.0, 1.0, 10.0]])
    water = molecule("H2O")
    positions = np.concatenate([water.positions, water.positions + 4.0, [[4.0, 4.0, 6.3]]])
    fractions = positions @ np.linalg.inv(cell)
    positions = (fractions - np.floor(fractions)) @ cell
    run = motion([*water.numbers, *water.numbers, 11], positions[None], cell)
    found = molecules_of(run)
    assert found.number.tolist() == [0, 0, 0, 1, 1, 1, 2]
    assert not found.endless
    assert found.largest() == []
    together = 10 * whole(run, [0, 1, 2], found)[0]
    assert np.linalg.norm(together[1] - together[0]) == pytest.approx(water.get_distance(0, 1), abs=1e-4)
    assert np.linalg.norm(together[1] - together[2]) == pytest.approx(water.get_distance(1, 2), abs=1e-4)


def test_crystals_are_no_molecules() -> None:
    diamond = bulk("C", cubic=True)
    found = molecules_of(motion(diamond.numbers, diamond.positions[None], diamond.cell.array))
    assert found.number.tolist() == [0] * 8
    assert found.endless == {0}
    assert found.largest() == []
    salt = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    assert len(molecules_of(motion(salt.numbers, salt.positions[None], salt.cell.array)).sizes) == 8


def test_bonds_of_the_topology_come_first() -> None:
    """A bond stretched beyond all radii holds; an atom without one is bonded by distance."""
    atoms = Atoms("CCCH", positions=[[0, 0, 0], [0, 0, 3.5], [0, 0, 5.0], [0, 0, 6.1]])
    run = motion(atoms.numbers, atoms.positions[None])
    topology = run.frames.topology
    topology.add_bond(topology.atom(0), topology.atom(1))
    topology.add_bond(topology.atom(1), topology.atom(2))
    found = molecules_of(run)
    assert found.neighbors == [[1], [0, 2], [1, 3], [2]]
    assert found.inferred == 2


@pytest.mark.parametrize(("name", "expected"), [
    ("H2O2", 1), ("CH3CH2OH", 1), ("C2H6", 0), ("C6H6", 0), ("trans-butane", 1), ("HCOOCH3", 1), ("CH3CN", 0)])
def test_rotatable_bonds(name: str, expected: int) -> None:
    atoms = molecule(name)
    bonds = molecules_of(motion(atoms.numbers, atoms.positions[None])).neighbors
    found = rotatable(atoms.numbers, bonds, atoms.positions)
    assert len(found) == expected
    for quadruple in found:
        assert all(b in bonds[a] for a, b in pairwise(quadruple))


def test_torsions_are_those_of_ase() -> None:
    """Known angles, with the sign of ASE, also of a molecule that is wrapped and turned."""
    angles = np.array([10.0, 100.0, 179.0, -150.0, -60.0, 60.0])
    cell, moved = np.diag([7.0, 8.0, 9.0]), twisted(angles) + np.array([6.8, 0.1, 8.7])
    for positions, box in ((twisted(angles), None), (moved % np.diag(cell), cell)):
        run = motion(PEROXIDE.numbers, positions, box)
        found = conformation(run, molecules_of(run))
        assert found is not None
        (torsion,) = found.torsions
        assert set(torsion.atoms) == {0, 1, 2, 3}
        np.testing.assert_allclose(torsion.angle, angles, atol=0.02)
        assert found.formula == "H2O2"
        assert found.fitted == "all atoms"


def test_distance_from_the_first_frame() -> None:
    """Rotation and translation do not count; the rest is the root mean square after the best fit."""
    butane, rng = molecule("trans-butane"), np.random.default_rng(0)
    frames = [butane.positions]
    for _ in range(3):
        turned = butane.copy()
        turned.rotate(rng.uniform(0, 360), rng.normal(size=3))
        frames.append(turned.positions + rng.normal(0, 3, 3))
    stretched = butane.copy()
    carbons = np.flatnonzero(butane.numbers == 6)
    centre = butane.positions[carbons].mean(axis=0)
    stretched.positions = centre + 1.1 * (butane.positions - centre)
    frames.append(stretched.positions)
    run = motion(butane.numbers, np.array(frames))
    found = conformation(run, molecules_of(run))
    assert found.fitted == "heavy atoms"
    np.testing.assert_allclose(found.rmsd[:4], 0.0, atol=2e-3)
    spread = np.square(butane.positions[carbons] - centre).sum(axis=1).mean()
    assert found.rmsd[4] == pytest.approx(0.1 * np.sqrt(spread), rel=1e-3)


def test_states_and_changes() -> None:
    rng = np.random.default_rng(0)
    centre = np.repeat([178.0, 65.0, 178.0, -65.0, 178.0], [300, 200, 100, 100, 300])
    angle = (centre + rng.normal(0, 8, 1000) + 180) % 360 - 180
    states, changes = states_of(angle)
    assert changes == 4
    np.testing.assert_allclose(np.abs([a for a, _ in states]), [65, 65, 178], atol=1.5)
    np.testing.assert_allclose([share for _, share in states], [0.1, 0.2, 0.7], atol=1e-3)


def test_noise_at_a_barrier_is_no_change() -> None:
    angle = np.concatenate([np.random.default_rng(0).normal(60, 10, 500), np.full(10, 115.0), np.full(10, 125.0),
                            np.full(10, 115.0), np.random.default_rng(1).normal(60, 10, 500),
                            np.random.default_rng(2).normal(175, 1, 200)])
    states, changes = states_of(angle)
    assert len(states) == 2
    assert changes == 1
    assert states_of(np.array([30.0])) == ([(pytest.approx(30.0), 1.0)], 0)
    assert len(states_of(np.linspace(-180, 180, 7200, endpoint=False))[0]) >= 1
