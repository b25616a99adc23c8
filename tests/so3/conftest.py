"""Rotation matrices of spherical harmonics, found without any group theory of the package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mlip.ops import spherical_harmonics
from mlip.so3.degrees import block

Array = NDArray[np.float64]
REFERENCE = Path(__file__).resolve().parents[2] / "data" / "reference"


def random_orthogonal(seed: int, determinant: int = 1) -> Array:
    """Return a random [3, 3] rotation, or with determinant -1 a rotation and inversion."""
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.sign(np.linalg.det(q)) * determinant


def representation(matrix: Array, lmax: int) -> list[Array]:
    """Return D_l for l = 0..lmax with Y_l(R r) = D_l Y_l(r), by least squares over random directions."""
    vectors = np.random.default_rng(0).normal(size=(200, 3))
    before = spherical_harmonics(torch.from_numpy(vectors), lmax).numpy()
    after = spherical_harmonics(torch.from_numpy(vectors @ matrix.T), lmax).numpy()
    blocks = []
    for l in range(lmax + 1):
        solution, *_ = np.linalg.lstsq(before[:, block(l)], after[:, block(l)], rcond=None)
        assert np.abs(before[:, block(l)] @ solution - after[:, block(l)]).max() < 1e-12
        blocks.append(solution.T)
    return blocks


@pytest.fixture(scope="session")
def rotations() -> list[Array]:
    """Three random rotations."""
    return [random_orthogonal(seed) for seed in range(3)]


@pytest.fixture(scope="session")
def wigner_d() -> Callable[[Array, int], list[Array]]:
    """The function `representation`."""
    return representation


@pytest.fixture(scope="session")
def constants() -> dict[str, Array]:
    """e3nn 0.4.4: couplings up to degree 3, harmonics, the silu constant; always there."""
    with np.load(REFERENCE / "e3nn044_constants.npz") as file:
        return {key: file[key] for key in file.files}
