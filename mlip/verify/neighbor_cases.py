"""Random structures of every kind that neighbour lists have been wrong for."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

F8 = NDArray[np.float64]


class Case(NamedTuple):
    """One structure and a cutoff.

    Attributes:
        positions: [N, 3] A.
        cutoff: A.
        cell: [3, 3] A or None.
        pbc: [3] bool.
    """

    positions: F8
    cutoff: float
    cell: F8 | None
    pbc: NDArray[np.bool_]


ALL = np.array([True, True, True])
NONE = np.array([False, False, False])


def rotation(rng: Generator) -> F8:
    """Return a random proper rotation [3, 3]."""
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.sign(np.linalg.det(q))  # type: ignore[no-any-return]


def filled(rng: Generator, cell: F8, cutoff: float, pbc: NDArray[np.bool_] = ALL, most: int = 12) -> Case:
    """Return some atoms at random in a cell."""
    atoms = int(rng.integers(1, most + 1))
    return Case(rng.random((atoms, 3)) @ cell, cutoff, cell, pbc)


def triclinic_cell(rng: Generator, edge: float = 6.0) -> F8:
    """Return a right-handed cell [3, 3] of moderate angles."""
    cell = (np.eye(3) + rng.uniform(-0.4, 0.4, size=(3, 3))) * edge * rng.uniform(0.6, 1.4, size=(3, 1))
    return cell if np.linalg.det(cell) > 0 else cell[[1, 0, 2]]


def cubic(rng: Generator) -> Case:
    """A cube."""
    return filled(rng, np.eye(3) * rng.uniform(3, 9), rng.uniform(1, 5))


def orthorhombic(rng: Generator) -> Case:
    """Three edges, not along the axes of space in half of the cases."""
    cell = np.diag(rng.uniform(3, 10, size=3))
    return filled(rng, cell if rng.random() < 0.5 else cell @ rotation(rng), rng.uniform(1, 5))


def triclinic(rng: Generator) -> Case:
    """Any angles."""
    return filled(rng, triclinic_cell(rng), rng.uniform(1, 5))


def left_handed(rng: Generator) -> Case:
    """A cell of negative determinant."""
    return filled(rng, triclinic_cell(rng)[[1, 0, 2]], rng.uniform(1, 5))


def skewed(rng: Generator) -> Case:
    """Vectors to which many times other ones were added."""
    cell = triclinic_cell(rng)
    for _ in range(int(rng.integers(1, 3))):
        k, other = rng.permutation(3)[:2]
        cell[k] += rng.choice([-1, 1]) * rng.uniform(2, 7) * cell[other]
    return filled(rng, cell, rng.uniform(1, 4), most=5)


def sheared_far(rng: Generator) -> Case:
    """One vector sheared by very many times another one."""
    cell = triclinic_cell(rng)
    k, other = rng.permutation(3)[:2]
    cell[k] += rng.choice([-1, 1]) * rng.integers(10, 100) * cell[other]
    return filled(rng, cell, rng.uniform(1, 4), most=4)


def small_cell(rng: Generator) -> Case:
    """A cell much smaller than the cutoff."""
    return filled(rng, triclinic_cell(rng, edge=2.0), rng.uniform(3, 6), most=3)


def slab(rng: Generator) -> Case:
    """Periodic in two directions; the third vector is a dummy, tilted, tiny or zero."""
    cell = triclinic_cell(rng)
    pbc = ALL.copy()
    k = int(rng.integers(3))
    pbc[k] = False
    r = rng.random((int(rng.integers(1, 12)), 3)) @ cell
    cell[k] = [rng.normal(size=3) * 30, np.zeros(3), cell[k] * 0.1, cell[(k + 1) % 3]][rng.integers(4)]
    return Case(r, rng.uniform(1, 5), cell, pbc)


def wire(rng: Generator) -> Case:
    """Periodic in one direction."""
    cell = triclinic_cell(rng)
    pbc = NONE.copy()
    k = int(rng.integers(3))
    pbc[k] = True
    r = rng.random((int(rng.integers(1, 12)), 3)) @ cell
    if rng.random() < 0.5:
        cell[~pbc] = 0.0
    return Case(r, rng.uniform(1, 5), cell, pbc)


def molecule(rng: Generator) -> Case:
    """No cell."""
    return Case(rng.normal(size=(int(rng.integers(1, 20)), 3)) * 3, rng.uniform(1, 6), None, NONE)


def molecule_in_dummy_cell(rng: Generator) -> Case:
    """A cell that must be ignored: no direction is periodic."""
    cell = [triclinic_cell(rng), np.eye(3), np.zeros((3, 3)), np.ones((3, 3)) * 2.0][rng.integers(4)]
    return Case(rng.normal(size=(int(rng.integers(1, 20)), 3)) * 3, rng.uniform(1, 6), cell, NONE)


def far_outside(rng: Generator) -> Case:
    """Atoms many cells away from the cell, each elsewhere."""
    cell = triclinic_cell(rng)
    case = filled(rng, cell, rng.uniform(1, 5), rng.random(3) < 0.7, most=8)
    turns = rng.integers(-1, 2, size=case.positions.shape) * 10 ** rng.integers(0, 5)
    return case._replace(positions=case.positions + (turns * case.pbc) @ cell)


def at_cutoff(rng: Generator) -> Case:
    """Pairs within 1e-9 A of the cutoff, and at it."""
    cell, cutoff = triclinic_cell(rng), rng.uniform(1, 5)
    pbc = rng.random(3) < 0.8
    r = rng.random((int(rng.integers(1, 5)), 3)) @ cell
    direction = rng.normal(size=r.shape)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    error = rng.choice([-1, 0, 1], size=(len(r), 1)) * 10.0 ** rng.integers(-17, -8, size=(len(r), 1))
    partners = r + direction * (cutoff + error) + (rng.integers(-1, 2, size=r.shape) * pbc) @ cell
    return Case(np.concatenate([r, partners]), cutoff, cell, pbc)


def crystal(rng: Generator) -> Case:
    """A perfect lattice and the distance of one of its shells as cutoff: all ties."""
    a = [3.0, 3.61, 4.05, 0.1 * 41][rng.integers(4)]
    basis = [[[0.0] * 3], [[0.0] * 3, [0.5] * 3], [[0.0] * 3, [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]]
    cutoff = a * np.sqrt([0.5, 0.75, 1.0, 1.5, 2.0][rng.integers(5)])
    pbc = rng.random(3) < 0.8
    repeats = rng.integers(1, 3, size=3)
    corners = np.stack(np.meshgrid(*map(np.arange, repeats), indexing="ij"), axis=-1).reshape(-1, 1, 3)
    r = (corners + np.array(basis[rng.integers(3)])).reshape(-1, 3) * a
    return Case(r[:16] + rng.integers(-2, 3) * a, float(cutoff), np.diag(repeats * a), pbc)


def on_faces(rng: Generator) -> Case:
    """Atoms on faces, edges and corners of the cell and of bins, or a rounding beside them."""
    cutoff = rng.choice([1.0, 1.5, 2.0])
    cell = np.diag(rng.choice([2.0, 3.0, 4.0, 6.0], size=3))
    if rng.random() < 0.5:
        cell = cell @ rotation(rng)
    fraction = rng.integers(-12, 25, size=(int(rng.integers(1, 10)), 3)) / 12.0
    fraction += rng.choice([-1e-16, 0.0, 1e-16], size=fraction.shape)
    return Case(fraction @ cell, float(cutoff), cell, rng.random(3) < 0.8)


def one_or_none(rng: Generator) -> Case:
    """One atom or no atom."""
    case = filled(rng, triclinic_cell(rng), rng.uniform(1, 9), rng.random(3) < 0.7)
    return case._replace(positions=case.positions[:rng.integers(2)])


def flat(rng: Generator) -> Case:
    """A cell much thinner than wide."""
    return filled(rng, np.diag(rng.permutation([8.0, 8.0, 0.6])) @ triclinic_cell(rng, 1.0), rng.uniform(0.5, 3),
                  most=5)


def needle(rng: Generator) -> Case:
    """A cell much longer than thick."""
    return filled(rng, np.diag(rng.permutation([0.8, 0.8, 20.0])) @ triclinic_cell(rng, 1.0), rng.uniform(0.5, 3),
                  most=5)


def duplicates(rng: Generator) -> Case:
    """Atoms at the very same place, or at that of an image."""
    cell = triclinic_cell(rng)
    case = filled(rng, cell, rng.uniform(1, 5), rng.random(3) < 0.7, most=6)
    twins = case.positions + (rng.integers(-1, 2, size=case.positions.shape) * case.pbc) @ cell
    return case._replace(positions=np.concatenate([case.positions, twins]))


def crowd(rng: Generator) -> Case:
    """Many atoms and a small cutoff, so that there are many bins."""
    return filled(rng, triclinic_cell(rng, 12.0), rng.uniform(0.8, 4), rng.random(3) < 0.7, most=70)


def dense_crowd(rng: Generator) -> Case:
    """Many atoms within few cutoffs: several in each bin, bins narrower than the cutoff."""
    return filled(rng, triclinic_cell(rng, 4.0), rng.uniform(1.5, 3), rng.random(3) < 0.7, most=60)


def islands(rng: Generator) -> Case:
    """Clusters very far from each other."""
    centres = rng.normal(size=(3, 3)) * 10.0 ** rng.integers(1, 7)
    r = np.concatenate([c + rng.normal(size=(int(rng.integers(1, 6)), 3)) for c in centres])
    return Case(r, rng.uniform(1, 3), None, NONE)


CLASSES: dict[str, Callable[[Generator], Case]] = {
    f.__name__.replace("_", " "): f
    for f in (cubic, orthorhombic, triclinic, left_handed, skewed, sheared_far, small_cell, slab, wire, molecule,
              molecule_in_dummy_cell, far_outside, at_cutoff, crystal, on_faces, one_or_none, flat, needle,
              duplicates, crowd, dense_crowd, islands)
}
