"""Gaunt products with filters around edges, in both frames; Wigner matrices; the fused convolution."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mlip.errors import OptionError
from mlip.ops import (
    compiled_is_available,
    gaunt_convolution,
    gaunt_filter,
    gaunt_polynomial,
    gaunt_power,
    gaunt_product,
    spherical_harmonics,
    wigner_matrices,
)
from mlip.ops.backend import Backend
from mlip.ops.edge_convolution import Edges
from mlip.ops.gaunt_convolution import FRAMES
from mlip.ops.wigner import from_polar_axis
from mlip.so3.degrees import block, size

needs_kernels = pytest.mark.skipif(not compiled_is_available(), reason="the compiled kernels are not installed")
both = pytest.mark.parametrize("backend", [pytest.param("compiled", marks=needs_kernels), "reference"])
AXES = [(0, 1, 0), (0, -1, 0), (1e-9, -1, 0), (1, 0, 0), (0, 0, -1), (1, 1e-12, 0)]


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def rotations(count: int, seed: int = 0) -> Tensor:
    q = torch.linalg.qr(numbers(seed, count, 3, 3))[0]
    return q * torch.linalg.det(q)[:, None, None]


class TestWigner:
    def test_harmonics_are_turned(self) -> None:
        r, v = rotations(5), numbers(1, 20, 3)
        d = wigner_matrices(r, 8)
        for rotation, matrix in zip(r, d, strict=True):
            torch.testing.assert_close(spherical_harmonics(v @ rotation.T, 8), spherical_harmonics(v, 8) @ matrix.T,
                                       rtol=0, atol=1e-12)

    def test_representation(self) -> None:
        a, b = rotations(4), rotations(4, 1)
        torch.testing.assert_close(wigner_matrices(a @ b, 4), wigner_matrices(a, 4) @ wigner_matrices(b, 4), rtol=0,
                                   atol=1e-12)
        identity = torch.eye(size(4), dtype=torch.float64)
        torch.testing.assert_close(wigner_matrices(torch.eye(3, dtype=torch.float64)[None], 4)[0], identity, rtol=0,
                                   atol=1e-13)
        d = wigner_matrices(a, 4)
        torch.testing.assert_close(d @ d.mT, identity.expand_as(d), rtol=0, atol=1e-12)
        assert not d[:, block(1), block(3)].any()

    @pytest.mark.parametrize("axis", AXES)
    def test_the_polar_axis_goes_to_every_direction(self, axis: tuple[float, float, float]) -> None:
        v = torch.tensor([axis], dtype=torch.float64, requires_grad=True)
        r = from_polar_axis(2.5 * v)
        pole = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
        torch.testing.assert_close(r[0] @ pole, torch.nn.functional.normalize(v[0], dim=0), rtol=0, atol=1e-15)
        torch.testing.assert_close(r[0] @ r[0].T, torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-14)
        assert torch.linalg.det(r[0]).item() == pytest.approx(1.0)
        (gradient,) = torch.autograd.grad(r.sum(), v)
        assert torch.isfinite(gradient).all()

    def test_products_are_equivariant(self) -> None:
        r = rotations(1)
        d = wigner_matrices(r, 6)[0]
        x, y = numbers(1, 4, size(3)), numbers(2, 4, size(2))
        turned = gaunt_product(x @ d[: size(3), : size(3)].T, y @ d[: size(2), : size(2)].T)
        torch.testing.assert_close(turned, gaunt_product(x, y) @ d[: size(5), : size(5)].T, rtol=0, atol=1e-12)
        turned = gaunt_power(y @ d[: size(2), : size(2)].T, 3)
        torch.testing.assert_close(turned, gaunt_power(y, 3) @ d.T, rtol=0, atol=1e-11)


@both
class TestFilter:
    @pytest.mark.parametrize("name", ["gauntconv_l1_f1", "gauntconv_l2_f3"])
    @pytest.mark.parametrize("frame", FRAMES)
    def test_golden(self, shared_dir: Path, name: str, frame: str, backend: Backend) -> None:
        with np.load(shared_dir / "golden" / "gaunt_mace" / f"{name}.npz") as file:
            found = {k: torch.from_numpy(file[k]) for k in file.files if k != "config"}
        out = gaunt_filter(found["x"], found["vec"], found["w"], frame=frame, backend=backend)
        torch.testing.assert_close(out, found["out_component"], rtol=0, atol=1e-12)
        back = torch.einsum("eij,ecj->eci", found["wigner_D"], found["out_aligned_component"])
        torch.testing.assert_close(out, back, rtol=0, atol=1e-12)

    @pytest.mark.parametrize("degrees", [(1, 3, 2), (3, 1, 4), (2, 2, 0)])
    def test_frames_agree(self, degrees: tuple[int, int, int], backend: Backend) -> None:
        l1, l2, l3 = degrees
        inputs = [t.requires_grad_() for t in (numbers(0, 5, 3, size(l1)), numbers(1, 5, 3), numbers(2, 5, 3, l2 + 1))]
        outs = [gaunt_filter(*inputs, l3, frame, backend) for frame in FRAMES]
        torch.testing.assert_close(*outs, rtol=0, atol=1e-12)
        for a, b in zip(*(torch.autograd.grad(out.sin().sum(), inputs) for out in outs), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-11)

    @pytest.mark.parametrize("frame", FRAMES)
    def test_derivatives(self, frame: str, backend: Backend) -> None:
        inputs = tuple(t.requires_grad_() for t in (numbers(0, 2, 1, 4), numbers(1, 2, 3), numbers(2, 2, 1, 2)))
        assert torch.autograd.gradcheck(lambda *t: gaunt_filter(*t, 1, frame, backend), inputs)
        assert torch.autograd.gradgradcheck(lambda *t: gaunt_filter(*t, 1, frame, backend), inputs)

    def test_float32(self, backend: Backend) -> None:
        inputs = numbers(0, 5, 3, 9), numbers(1, 5, 3), numbers(2, 5, 3, 3)
        for frame in FRAMES:
            out = gaunt_filter(*(t.float() for t in inputs), frame=frame, backend=backend)
            exact = gaunt_filter(*inputs, frame=frame, backend=backend)
            assert out.dtype == torch.float32
            assert (out.double() - exact).abs().max() <= 1e-5 * exact.abs().max()

    def test_mistakes(self, backend: Backend) -> None:
        x, v, w = numbers(0, 5, 3, 9), numbers(1, 5, 3), numbers(2, 5, 3, 3)
        for arguments, words in (((x, v[:2], w), "do not fit"), ((x, v, w[:, :2]), "do not fit"),
                                 ((x[0], v, w), "do not fit"), ((x, v, w, 5), "l_out=5"),
                                 ((x, v, w, 1, "edge"), "frame 'edge' is unknown; allowed: laboratory, aligned")):
            with pytest.raises(OptionError, match=words):
                gaunt_filter(*arguments, backend=backend)


@both
@pytest.mark.parametrize("degrees", [(0, 3, 3), (1, 2, 2), (2, 1, 3), (4, 5, 6)])
def test_the_fused_convolution_is_a_sum_of_filters(degrees: tuple[int, int, int], backend: Backend) -> None:
    l1, l2, l3 = degrees
    sender, receiver = torch.tensor([[1, 2, 0, 1, 3], [0, 0, 1, 2, 2]])
    vectors, row = numbers(0, 5, 3), torch.tensor([0, 1, 2, 1, 0])
    features, weights = numbers(1, 4, size(l1), 3).requires_grad_(), numbers(2, 3, l2 + 1, 3).requires_grad_()
    harmonics = spherical_harmonics(vectors, l2)
    out = gaunt_convolution(features, harmonics, weights, Edges.of(sender, receiver, 4, row), l3, backend)
    each = gaunt_filter(features[sender].mT, vectors, weights[row].mT, l3, backend="reference").mT
    expected = features.new_zeros(4, size(l3), 3).index_add(0, receiver, each)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-11)
    for a, b in zip(*(torch.autograd.grad(t.sin().sum(), (features, weights)) for t in (out, expected)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


@both
def test_weights_of_every_degree_are_asked_for(backend: Backend) -> None:
    """Also of those that do not reach the result."""
    edges = Edges.of(torch.tensor([1, 0]), torch.tensor([0, 1]), 2)
    features, harmonics = numbers(0, 2, 1, 3), numbers(1, 2, size(3))
    assert gaunt_convolution(features, harmonics, numbers(2, 2, 4, 3), edges, 1, backend).shape == (2, 4, 3)
    for shape in ((2, 6, 3), (2, 3, 3), (2, 4, 2)):
        with pytest.raises(OptionError, match=r"they must be \[K, 4, 3\]"):
            gaunt_convolution(features, harmonics, numbers(2, *shape), edges, 1, backend)


@both
def test_polynomials_refuse_what_does_not_fit(backend: Backend) -> None:
    x, w, z = numbers(0, 2, 4, 3), numbers(1, 1, 3, 2, 3), torch.zeros(2, dtype=torch.int64)
    for arguments, options, words in (((numbers(0, 2, 5, 3), w, z), {}, "features"),
                                      ((x, w.float(), z), {}, "do not fit"),
                                      ((x, w[..., :2], z), {}, "do not fit"), ((x, w[:, :0], z), {}, "do not fit"),
                                      ((x, w, z, "l2"), {}, "integral, component, norm"),
                                      ((x, w, z), {"method": "fft"}, "auto, sparse, grid"),
                                      ((x, numbers(1, 1, 5, 2, 3), z), {"method": "sparse"}, "up to 4 orders")):
        with pytest.raises(OptionError, match=words):
            gaunt_polynomial(*arguments, backend=backend, **options)


def test_no_edges() -> None:
    assert wigner_matrices(torch.zeros(0, 3, 3), 2).shape == (0, 9, 9)
    x, v, w = torch.zeros(0, 3, 9), torch.zeros(0, 3), torch.zeros(0, 3, 2)
    assert all(gaunt_filter(x, v, w, frame=frame).shape == (0, 3, 16) for frame in FRAMES)
