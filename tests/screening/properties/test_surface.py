"""Surfaces: which planes there are, where crystals are cut, and energies by hand."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk, fcc100

from mlip.neighbors import neighbor_list
from mlip.screening.properties.surface import J_M2_PER_EV_A2, Settings, compute, inequivalent, slab, standard_cell
from mlip.simulation import relax


@pytest.mark.parametrize(("arguments", "planes"), [
    (("Cu",), [(1, 0, 0), (1, 1, 0), (1, 1, 1)]), (("Si",), [(1, 0, 0), (1, 1, 0), (1, 1, 1)]),
    (("Mg",), [(0, 0, 1), (1, 0, 0), (1, 0, 1), (1, 1, 0), (1, 1, 1)])])
def test_planes(arguments, planes) -> None:
    _, _, rotations = standard_cell(bulk(*arguments), 1e-3)
    assert inequivalent(1, rotations) == planes


def test_every_plane_of_a_crystal_without_symmetry() -> None:
    assert len(inequivalent(1, np.eye(3, dtype=int)[None])) == 13  # 26 directions, each with its opposite


def test_indices_are_those_of_the_conventional_cell(elements, relaxed) -> None:
    """Copper (100) as ASE builds it, from the same number of layers."""
    found = compute(relaxed("Cu"), elements, Settings(thickness=10.0))
    side = (4 * relaxed("Cu").get_volume()) ** (1 / 3)
    layers = fcc100("Cu", (1, 1, 6), a=side, vacuum=10.0)
    per_atom = elements.predict(bulk("Cu", a=side)).energy
    by_hand = [(e - 6 * per_atom) / side**2 * J_M2_PER_EV_A2  # two sides of half of the square
               for e in (elements.predict(layers).energy, relax(layers, elements, fmax=0.01).energy)]
    at = found["surfaces"].index("100")
    assert found["atoms"][at] == 6
    assert found["unrelaxed_energies"][at] == pytest.approx(by_hand[0], rel=1e-5)
    assert found["surface_energies"][at] == pytest.approx(by_hand[1], rel=1e-3)
    assert found["lowest_surface"] == "111"  # the densest plane of fcc
    assert found["lowest"] == min(found["surface_energies"])
    assert all(a < b for a, b in zip(found["surface_energies"], found["unrelaxed_energies"], strict=True))


@pytest.mark.parametrize("cubic", [False, True])
def test_the_cell_in_use_does_not_matter(elements, relaxed, cubic) -> None:
    one = compute(relaxed("Cu"), elements, Settings(thickness=4.0))
    turned = relaxed("Cu", cubic=cubic)
    turned.rotate(40, (1, 2, 3), rotate_cell=True)
    other = compute(turned, elements, Settings(thickness=4.0))
    assert other["surfaces"] == one["surfaces"]
    assert other["surface_energies"] == pytest.approx(one["surface_energies"], rel=1e-4)


@pytest.mark.parametrize(("plane", "left"), [((1, 1, 1), [3, 3]), ((1, 0, 0), [2, 2]), ((1, 1, 0), [3, 3, 3, 3])])
def test_diamond_is_cut_through_as_few_bonds_as_can_be(plane, left) -> None:
    primitive, vectors, _ = standard_cell(bulk("Si"), 1e-3)
    indices = np.rint(2 * vectors @ plane).astype(int)
    made = slab(primitive, tuple((indices // np.gcd.reduce(indices)).tolist()), 9.0)
    assert made.pbc.tolist() == [True, True, False]
    assert np.ptp(made.positions[:, 2]) > 9.0 - 5.43 / 2
    assert len(made) % 2 == 0
    _, receivers, _ = neighbor_list(made.positions, 2.6, made.cell.array, made.pbc)
    bonds = np.bincount(receivers, minlength=len(made))
    assert sorted(bonds[bonds < 4].tolist()) == left
    assert made.cell.array[2, 2] == pytest.approx(np.ptp(made.positions[:, 2]) + 20)
