"""Displacements against random walks and definitions."""

from __future__ import annotations

import numpy as np
import pytest

from mlip.analysis.diffusion import displacements, mean_square, unwrapped

from .conftest import motion, walk

pytest.importorskip("mdtraj")

CELL = np.array([[12.0, 0.0, 0.0], [5.0, 11.0, 0.0], [-4.0, 3.0, 13.0]])


def wrapped(positions, cells):
    """Return positions inside their cells."""
    cells = np.broadcast_to(cells, (len(positions), 3, 3))
    fractions = np.einsum("fni,fij->fnj", positions, np.linalg.inv(cells))
    return np.einsum("fni,fij->fnj", fractions - np.floor(fractions), cells)


def test_mean_square_is_the_definition() -> None:
    positions = walk(37, 4, 1.0).astype(np.float32)
    found = mean_square(positions)
    for lag in (0, 1, 5, 36):
        steps = positions[lag:].astype(float) - positions[: 37 - lag]
        assert found[lag] == pytest.approx(np.square(steps).sum(axis=2).mean(), rel=1e-5, abs=1e-8)


def test_coordinates_without_jumps() -> None:
    """A walk in a skewed cell, wrapped, is put together again; the centre of mass rests."""
    positions = walk(200, 6, 0.4)
    found = unwrapped(motion([18] * 6, wrapped(positions, CELL), CELL))
    expected = positions - positions.mean(axis=1, keepdims=True)
    moved = found.positions - found.positions[0]
    np.testing.assert_allclose(moved, expected - expected[0], atol=1e-3)
    steps = np.linalg.norm(np.diff(positions, axis=0), axis=2)
    assert found.longest == pytest.approx(steps.max(), abs=1e-3)
    assert found.safe
    np.testing.assert_allclose(found.positions.mean(axis=1), 0.0, atol=1e-4)


def test_a_breathing_box_carries_no_atom_away() -> None:
    """Atoms that left the box, at rest in it, do not move with its images: written wrapped or not, it is the same."""
    rng = np.random.default_rng(0)
    scale = 1.0 + 0.02 * rng.normal(size=300)
    cells = np.diag([20.0] * 3) * scale[:, None, None]
    fractions = rng.uniform(0, 1, (5, 3))
    near = np.einsum("ni,fij->fnj", fractions, cells)
    far = np.einsum("ni,fij->fnj", fractions + np.array([7, -9, 4]), cells)
    a, b = (unwrapped(motion([18] * 5, r, cells)) for r in (near, far))
    np.testing.assert_allclose(a.positions - a.positions[0], b.positions - b.positions[0], atol=2e-3)
    assert np.square(b.positions - b.positions[0]).sum(axis=2).max() < 20


def test_diffusion_of_a_random_walk() -> None:
    """Steps of variance s^2 per direction every t: D = s^2 / 2t, as often within one error as errors promise."""
    step, interval, atoms = 0.3, 0.25, 60
    exact = step**2 / (2 * interval) * (1 - 1 / atoms)  # relative to the centre of mass
    pulls = []
    for seed in range(20):
        positions = wrapped(walk(600, atoms, step, seed), CELL)
        (one,) = displacements(run := motion([18] * atoms, positions, CELL, interval), unwrapped(run))
        assert one.exponent == pytest.approx(1.0, abs=0.15)
        assert one.square[4] == pytest.approx(6 * exact * one.lag[4], rel=0.05)
        pulls.append((one.diffusion - exact) / one.error)
    assert one.lag[1] == interval
    assert np.mean(np.abs(pulls)) < 1.6
    assert np.mean(pulls) == pytest.approx(0.0, abs=0.7)
    numbers = one.numbers()
    assert numbers["diffusion_cm2_per_s"] == pytest.approx(1e-4 * one.diffusion)


def test_elements_are_told_apart() -> None:
    positions = np.concatenate([walk(400, 40, 0.1, 1), walk(400, 60, 0.4, 2)], axis=1)
    run = motion([18] * 40 + [2] * 60, wrapped(positions, CELL), CELL)
    helium, argon = displacements(run, unwrapped(run))
    assert (helium.element, argon.element) == ("He", "Ar")
    assert helium.diffusion / argon.diffusion == pytest.approx(16, rel=0.25)


@pytest.mark.parametrize("why", ["solid", "short", "vacuum", "hops"])
def test_no_coefficient_where_there_is_none(why) -> None:
    rng = np.random.default_rng(0)
    positions = {"solid": rng.uniform(0, 10, (20, 3)) + rng.normal(0, 0.1, (200, 20, 3)), "short": walk(30, 20, 0.3),
                 "vacuum": walk(200, 20, 0.3), "hops": walk(200, 20, 6.0)}[why]
    run = motion([18] * 20, positions, None if why == "vacuum" else CELL)
    (one,) = displacements(run, path := unwrapped(run))
    assert one.diffusion is None
    assert one.error is None
    assert path.safe == (why != "hops")
    if why == "solid":
        assert one.exponent == pytest.approx(0.0, abs=0.1)


def test_one_frame_or_one_atom() -> None:
    one_frame, one_atom = motion([18] * 3, walk(1, 3, 1.0)), motion([18], walk(60, 1, 1.0))
    assert displacements(one_frame, unwrapped(one_frame)) == []
    assert displacements(one_atom, unwrapped(one_atom)) == []
