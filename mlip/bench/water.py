"""Periodic boxes of water at the density of the liquid, from 3 atoms to millions."""

from __future__ import annotations

from functools import cache
from math import cos, radians, sin

import numpy as np
from numpy.typing import NDArray

from mlip.errors import OptionError
from mlip.graph import Structure

DENSITY = 0.997  # g/cm3 at 25 C
MOLAR_MASS = 18.01528  # g/mol
AVOGADRO = 0.602214076  # 10^24 /mol
SPACING = (MOLAR_MASS / (DENSITY * AVOGADRO)) ** (1.0 / 3.0)  # A: the edge of the cube that one molecule fills
BOND, ANGLE = 0.9572, 104.52  # A and degrees, of the free molecule
JITTER = 0.1  # A
EDGE = 4  # molecules along the edge of the cell that larger boxes repeat


def water_box(atoms: int, seed: int = 0) -> Structure:
    """Return a periodic box of water.

    Molecules in random orientations stand on a slightly disordered cubic lattice. Boxes of more than 64 molecules
    (192 atoms, 12.4 A) repeat that cell.

    Args:
        atoms: about how many, from 3; the box is the nearest block of molecules, or of cells, of nearly equal edges.
        seed: of orientations and disorder.

    Raises:
        OptionError: fewer than 3 atoms.
    """
    if atoms < 3:
        raise OptionError(f"a box of water has at least 3 atoms; {atoms} were asked for")
    if atoms <= 3 * EDGE**3:
        block = _block(atoms / 3)
        positions = _molecules(block, seed)
    else:
        block = _block(atoms / (3 * EDGE**3))
        cell = _molecules((EDGE, EDGE, EDGE), seed)
        corners = _grid(block) * (EDGE * SPACING)
        positions = (corners[:, None, :] + cell).reshape(-1, 3)
        block = tuple(EDGE * n for n in block)
    numbers = np.tile([8, 1, 1], len(positions) // 3)
    return Structure.create(numbers, positions, np.array(block) * SPACING, True)


@cache
def _block(count: float) -> tuple[int, ...]:
    """Return three numbers, nearly equal, whose product is near `count`."""
    edge = max(int(count ** (1.0 / 3.0)) - 1, 1)
    near = range(edge, edge + 4)
    candidates = [(a, b, c) for a in near for b in near if b >= a for c in near if c >= b]
    return min(candidates, key=lambda n: (abs(n[0] * n[1] * n[2] - count), n[2] - n[0]))


def _grid(block: tuple[int, ...]) -> NDArray[np.float64]:
    grid: NDArray[np.float64] = np.indices(block).reshape(3, -1).T.astype(np.float64)
    return grid


def _molecules(block: tuple[int, ...], seed: int) -> NDArray[np.float64]:
    """Return positions [3 M, 3], A, of M molecules in the order O, H, H."""
    random = np.random.default_rng(seed)
    half = radians(ANGLE / 2)
    molecule = BOND * np.array([[0.0, 0.0, 0.0], [sin(half), cos(half), 0.0], [-sin(half), cos(half), 0.0]])
    sites = _grid(block) * SPACING
    sites += random.uniform(-JITTER, JITTER, sites.shape)
    turns: NDArray[np.float64] = np.linalg.qr(random.normal(size=(len(sites), 3, 3)))[0]
    positions: NDArray[np.float64] = sites[:, None, :] + molecule @ turns
    return positions.reshape(-1, 3)
