"""Coupling tensors: the numbers and signs of e3nn 0.4.4, and the laws they obey."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mlip.ops import spherical_harmonics
from mlip.so3 import wigner_3j
from mlip.so3.degrees import block

Array = NDArray[np.float64]


def triangles(lmax: int) -> Iterator[tuple[int, int, int]]:
    for l1, l2 in itertools.product(range(lmax + 1), repeat=2):
        for l3 in range(abs(l1 - l2), min(lmax, l1 + l2) + 1):
            yield l1, l2, l3


def check_golden(numbers: dict[str, Array], lmax: int) -> None:
    stored = {key for key in numbers if key.startswith("w3j/")}
    assert stored == {f"w3j/{a}_{b}_{c}" for a, b, c in triangles(lmax)}
    for key in stored:
        degrees = [int(l) for l in key.removeprefix("w3j/").split("_")]
        np.testing.assert_allclose(wigner_3j(*degrees), numbers[key], rtol=0, atol=1e-13, err_msg=key)


def test_values_and_signs_of_e3nn_044(constants: dict[str, Array]) -> None:
    check_golden(constants, 3)


def test_values_and_signs_of_e3nn_044_to_degree_six(shared_dir: Path) -> None:
    with np.load(shared_dir / "golden" / "gaunt_mace" / "e3nn044_constants.npz") as file:
        check_golden({key: file[key] for key in file.files}, 6)


def test_installed_e3nn_agrees_up_to_sign() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            from e3nn import o3
        except Exception as error:
            pytest.skip(f"e3nn cannot be imported: {error!r}")
        for degrees in triangles(4):
            theirs = o3.wigner_3j(*degrees, dtype=torch.float64).numpy()
            ours = wigner_3j(*degrees)
            sign = np.sign((theirs * ours).sum())
            np.testing.assert_allclose(ours, sign * theirs, rtol=0, atol=1e-12, err_msg=str(degrees))
            if sum(degrees) % 2 == 0:  # only these enter the edge convolution; no version changed them
                assert sign == 1


@pytest.mark.parametrize(("l1", "l2"), [(0, 0), (1, 1), (2, 1), (3, 3), (6, 4), (7, 6)])
def test_orthogonality_and_completeness(l1: int, l2: int) -> None:
    couplings = [wigner_3j(l1, l2, l3).reshape(-1, 2 * l3 + 1) * np.sqrt(2 * l3 + 1)
                 for l3 in range(abs(l1 - l2), l1 + l2 + 1)]
    matrix = np.concatenate(couplings, axis=1)  # a basis change of the product space
    assert matrix.shape[0] == matrix.shape[1]
    np.testing.assert_allclose(matrix.T @ matrix, np.eye(len(matrix)), rtol=0, atol=1e-13)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(len(matrix)), rtol=0, atol=1e-13)


def test_invariance_under_rotations(rotations: list[Array], wigner_d: Callable[[Array, int], list[Array]]) -> None:
    for rotation in rotations:
        d = wigner_d(rotation, 5)
        for l1, l2, l3 in triangles(5):
            tensor = wigner_3j(l1, l2, l3)
            turned = np.einsum("ai,bj,ck,ijk->abc", d[l1], d[l2], d[l3], tensor, optimize=True)
            np.testing.assert_allclose(turned, tensor, rtol=0, atol=1e-11, err_msg=str((l1, l2, l3)))


def test_exchange_of_arguments() -> None:
    for degrees in triangles(4):
        for order in itertools.permutations(range(3)):
            odd = sum(degrees) % 2 and sum(order[i] > order[j] for i in range(3) for j in range(i + 1, 3)) % 2
            exchanged = wigner_3j(*(degrees[i] for i in order))
            if len(set(degrees)) == 3 or not odd:
                np.testing.assert_array_equal(exchanged, (-1) ** odd * wigner_3j(*degrees).transpose(order))
            else:  # equal degrees: the tensor itself is antisymmetric
                np.testing.assert_allclose(exchanged, -wigner_3j(*degrees).transpose(order), rtol=0, atol=1e-15)


def test_gaunt_coefficients_are_positive_multiples() -> None:
    """The integral of Y Y Y over the sphere, by quadrature, is a positive multiple where the sum is even."""
    u, w = np.polynomial.legendre.leggauss(8)
    angle = 2 * np.pi * np.arange(16) / 16
    s = np.sqrt(1 - u**2)[:, None]
    points = np.stack(np.broadcast_arrays(s * np.sin(angle), u[:, None], s * np.cos(angle)), axis=-1).reshape(-1, 3)
    weights = np.repeat(w, 16) / 32  # the mean over the sphere
    y = spherical_harmonics(torch.from_numpy(points), 4).numpy()
    for l1, l2, l3 in triangles(4):
        gaunt = np.einsum("p,pi,pj,pk->ijk", weights, y[:, block(l1)], y[:, block(l2)], y[:, block(l3)])
        if (l1 + l2 + l3) % 2:
            assert np.abs(gaunt).max() < 1e-13
        else:
            factor = (gaunt * wigner_3j(l1, l2, l3)).sum()
            assert factor > 0.1
            np.testing.assert_allclose(gaunt, factor * wigner_3j(l1, l2, l3), rtol=0, atol=1e-13)


def test_known_tensors() -> None:
    assert wigner_3j(0, 0, 0).item() == 1.0
    np.testing.assert_allclose(wigner_3j(1, 1, 0)[:, :, 0], np.eye(3) / 3**0.5, atol=1e-15)
    levi_civita = np.zeros((3, 3, 3))
    for i, j, k in itertools.permutations(range(3)):
        levi_civita[i, j, k] = (i - j) * (j - k) * (k - i) / 2
    np.testing.assert_allclose(wigner_3j(1, 1, 1), levi_civita / 6**0.5, atol=1e-15)  # the cross product


def test_shapes_and_immutability() -> None:
    tensor = wigner_3j(2, 1, 3)
    assert tensor.shape == (5, 3, 7)
    assert tensor.dtype == np.float64
    assert tensor.flags.c_contiguous
    with pytest.raises(ValueError, match="read-only"):
        tensor[0, 0, 0] = 1.0


@pytest.mark.parametrize("degrees", [(0, 0, 1), (1, 1, 3), (3, 1, 1), (-1, 1, 1), (1, -1, 1), (0, 0, -1)])
def test_no_triangle(degrees: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="do not form a triangle"):
        wigner_3j(*degrees)
