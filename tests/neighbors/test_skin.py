from __future__ import annotations

import numpy as np
import pytest

from mlip.errors import OptionError, StructureError
from mlip.neighbors import VerletSkin, neighbor_list
from mlip.verify.neighbors import differ


def crystal(repeats=4, a=3.6, seed=0):
    grid = np.stack(np.meshgrid(*[np.arange(repeats)] * 3, indexing="ij"), axis=-1).reshape(-1, 1, 3)
    basis = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    r = ((grid + basis) * a).reshape(-1, 3)
    return r + np.random.default_rng(seed).normal(scale=0.05, size=r.shape), np.eye(3) * repeats * a


def exact(skin, r, cell=None, pbc=False):
    found = skin.update(r, cell, pbc)
    difference = differ(found, neighbor_list(r, skin.cutoff, cell, pbc), len(r))
    assert difference is None, difference
    return found


def vibrations(r, steps, seed=1, amplitude=0.15, period=40.0):
    rng = np.random.default_rng(seed)
    direction, phase = rng.normal(size=r.shape), rng.random((len(r), 1)) * 2 * np.pi
    direction *= amplitude / np.linalg.norm(direction, axis=1, keepdims=True)
    for step in range(steps):
        yield r + direction * np.sin(2 * np.pi * step / period + phase)


def test_smooth_motion_needs_few_rebuilds():
    r, cell = crystal()
    skin = VerletSkin(5.0, 1.0)
    for positions in vibrations(r, 80):
        exact(skin, positions, cell, True)
    assert skin.calls == 80
    assert skin.rebuilds == 1


def test_wrapping_needs_no_rebuild():
    r, cell = crystal()
    cell[1, 0] = 2.0  # triclinic
    skin = VerletSkin(4.0, 1.0)
    rng = np.random.default_rng(0)
    for step, positions in enumerate(vibrations(r, 60)):
        drifting = positions + 0.004 * step
        fraction = drifting @ np.linalg.inv(cell)
        exact(skin, (fraction % 1.0) @ cell, cell, True)
        exact(skin, drifting + rng.integers(-3, 4, size=r.shape) @ cell, cell, True)
    assert skin.calls == 120
    assert skin.rebuilds <= 3


def test_a_cell_that_breathes_and_shears():
    r, cell = crystal()
    skin = VerletSkin(4.5, 1.0)
    for step, positions in enumerate(vibrations(r, 60)):
        strain = np.eye(3) * (1 + 0.01 * np.sin(step / 7)) + 0.01 * np.sin(step / 11) * np.eye(3, k=1)
        h = cell @ strain
        x = positions @ strain
        if step % 3 == 0:
            x = (x @ np.linalg.inv(h) % 1.0) @ h
        exact(skin, x, h, True)
    assert skin.rebuilds <= 3


def test_a_cell_that_shrinks_much_is_noticed():
    r, cell = crystal(3)
    skin = VerletSkin(3.7, 0.5)
    for factor in (1.0, 0.98, 0.9, 0.8, 1.1):
        exact(skin, r * factor, cell * factor, True)
    assert skin.rebuilds == 2  # 0.9 * 4.2 A is still more than 3.7 A, 0.8 * 4.2 A is not


@pytest.mark.parametrize("pbc", [[True, True, False], [False, True, False]])
def test_a_slab_or_wire_whose_cell_changes(pbc):
    r, cell = crystal(3)
    skin = VerletSkin(4.0, 1.0)
    cell[2, 2] *= 2
    for step in range(30):
        strain = np.eye(3) + 0.001 * step * np.array([[1, 1, 0], [0, -1, 0], [0, 0, 0]])
        dummy = cell @ strain
        dummy[~np.array(pbc)] *= 1 + 0.5 * (step % 2)  # must not matter
        exact(skin, r @ strain + 0.002 * step, dummy, pbc)
    assert skin.rebuilds <= 2


def test_equivalent_cells_may_be_exchanged():
    r, cell = crystal(3)
    skin = VerletSkin(4.0, 1.0)
    other = cell.copy()
    other[2] += cell[0]
    for h in (cell, other, cell):
        exact(skin, r, h, True)


def test_molecule():
    rng = np.random.default_rng(0)
    r = rng.normal(size=(60, 3)) * 3
    skin = VerletSkin(3.0, 0.8)
    for _ in range(30):
        r = r + rng.normal(scale=0.01, size=r.shape)
        exact(skin, r, np.eye(3), False)
    assert 1 <= skin.rebuilds < 10


def test_one_far_jump_is_noticed():
    r, cell = crystal(3)
    skin = VerletSkin(4.0, 1.0)
    exact(skin, r, cell, True)
    r = r.copy()
    r[7] += [0.0, 0.51, 0.0]
    exact(skin, r, cell, True)
    assert skin.rebuilds == 2
    r[7] += [0.0, 0.49, 0.0]
    exact(skin, r, cell, True)
    assert skin.rebuilds == 2


def test_other_atoms_or_periodicity():
    r, cell = crystal(3)
    skin = VerletSkin(4.0, 1.0)
    for positions, pbc in ((r, True), (r[:-1], True), (r[:-1], [True, True, False]), (r[:-1], False), (r[:0], False),
                           (r[:0], True), (r[:1], True), (r, True)):
        exact(skin, positions, cell, pbc)
    assert skin.rebuilds == 8


def test_without_skin_every_call_rebuilds():
    r, cell = crystal(2)
    skin = VerletSkin(4.0, 0.0)
    for _ in range(3):
        exact(skin, r, cell, True)
    assert skin.rebuilds == skin.calls == 3


def test_cell_smaller_than_the_cutoff():
    rng = np.random.default_rng(0)
    r, cell = np.array([[0.0, 0, 0], [1.0, 1.0, 1.1]]), np.eye(3) * 2.2
    skin = VerletSkin(5.0, 0.6)
    for _ in range(20):
        r = r + rng.normal(scale=0.05, size=r.shape) + rng.integers(-1, 2, size=r.shape) @ cell
        exact(skin, r, cell, True)
    assert skin.rebuilds < 20


def test_returned_lists_stay_as_they_are():
    r, cell = crystal(3)
    skin = VerletSkin(4.0, 1.0)
    first = skin.update(r, cell, True)
    kept = [a.copy() for a in (*first, first.offsets)]
    jumped = r.copy()
    jumped[::3] += cell[0]
    second = skin.update(jumped, cell, True)
    assert skin.rebuilds == 1
    second.shifts[:] = 99
    second.senders[:] = 0
    assert all(np.array_equal(a, b) for a, b in zip(kept, (*first, first.offsets), strict=True))
    exact(skin, r, cell, True)
    r[:] = 0.0  # our array is not the caller's
    assert skin.rebuilds == 1


def test_bad_input_leaves_the_list_usable():
    r, cell = crystal(2)
    skin = VerletSkin(4.0, 1.0)
    exact(skin, r, cell, True)
    for positions, h in ((np.full_like(r, np.nan), cell), (np.full_like(r, np.inf), cell), (r, cell * np.nan),
                         (r, cell * 0), (r[:, :2], cell), (r, np.eye(2))):
        with pytest.raises(StructureError):
            skin.update(positions, h, True)
    exact(skin, r, cell, True)
    assert skin.rebuilds == 1


@pytest.mark.parametrize(("cutoff", "skin", "threads"), [(0, 1, None), (-1, 1, None), (np.inf, 1, None),
                                                         (5, -0.1, None), (5, np.nan, None), (5, np.inf, None),
                                                         (5, "thick", None), (5, 1, 0)])
def test_bad_options(cutoff, skin, threads):
    with pytest.raises(OptionError):
        VerletSkin(cutoff, skin, threads=threads)


def test_atoms_too_many_cells_away():
    r, cell = crystal(2)
    skin = VerletSkin(3.0, 1.0)
    exact(skin, r, cell, True)
    moved = r.copy()
    moved[0] += cell[0] * 2e9
    with pytest.raises(StructureError, match="wrap"):
        skin.update(moved, cell, True)
    exact(skin, r, cell, True)


def test_the_order_of_edges_does_not_depend_on_the_past():
    """A run that is resumed begins with a new list; sums over edges must keep their bits."""
    rng = np.random.default_rng(5)
    r, cell = crystal(1)  # four atoms: many images of each
    cell[1, 0] = 0.7
    old = VerletSkin(4.0, 1.0)
    for step in range(30):
        r = r + rng.normal(scale=0.05, size=r.shape)
        if step % 7 == 3:
            r = r + rng.integers(-1, 2, size=r.shape) @ cell
        for kept, made in zip(old.update(r, cell, True), VerletSkin(4.0, 0.6).update(r, cell, True), strict=True):
            assert np.array_equal(kept, made)
    assert 1 < old.rebuilds < 20
