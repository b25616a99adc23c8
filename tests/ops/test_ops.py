"""One class for every op: value, empty and strided input, precision, derivatives, compilation, repeatability."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import lpmv
from torch import Tensor

from mlip.ops import BACKENDS, Edges, edge_convolution, spherical_harmonics, symmetric_contraction
from mlip.ops._library import LIBRARY
from mlip.so3 import wigner_3j
from mlip.so3.degrees import block, convolution_paths, size
from mlip.so3.symmetric_power import symmetric_basis

REFERENCE = Path(__file__).resolve().parents[2] / "data" / "reference"
Function = Callable[..., Tensor]


@dataclass(frozen=True)
class Problem:
    """Differentiable inputs, the op on them as one tensor [N or E, ...], and an independent slow formula."""

    inputs: tuple[Tensor, ...]
    call: Function
    slow: Function


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def harmonics(atoms: int, edges: int, lmax: int = 4) -> Problem:
    def slow(vectors: Tensor) -> Tensor:
        out = np.zeros((len(vectors), size(lmax)))
        for e, (x, y, z) in enumerate(vectors.double().numpy()):
            cosine, azimuth = y / math.sqrt(x * x + y * y + z * z), math.atan2(x, z)
            for l, m in ((d, n) for d in range(lmax + 1) for n in range(-d, d + 1)):
                k = abs(m)
                scale = math.sqrt((2 * l + 1) * (2 if m else 1) * math.factorial(l - k) / math.factorial(l + k))
                wave = math.sin(k * azimuth) if m < 0 else math.cos(k * azimuth)
                out[e, l * l + l + m] = scale * (-1) ** k * lpmv(k, l, cosine) * wave
        return torch.from_numpy(out)

    return Problem((2.0 * numbers(1, edges, 3),), lambda v: spherical_harmonics(v, lmax), slow)


def convolution(atoms: int, edges: int, l_in: int = 1, l_edge: int = 2, l_out: int = 2, channels: int = 3) -> Problem:
    """Two edges of three have a row of weights for themselves, as those of a pair of atoms share one."""
    paths = tuple(convolution_paths(l_in, l_edge, l_out))
    generator = np.random.default_rng(2)
    sender, receiver = torch.from_numpy(generator.integers(0, max(atoms, 1), (2, edges)))
    receiver = torch.sort(receiver).values
    rows = max(1, 2 * edges // 3)
    row = torch.from_numpy(generator.permutation(np.arange(edges) % rows))
    index = Edges.of(sender, receiver, atoms, row)

    def call(h: Tensor, y: Tensor, r: Tensor, backend: Backend = "auto") -> Tensor:
        out = edge_convolution(h, y, r, index, paths, backend)
        return torch.cat([t.flatten(1) for t in out], dim=1)

    def slow(h: Tensor, y: Tensor, r: Tensor) -> Tensor:
        degrees = [l3 for _, _, l3 in paths]
        out = [torch.zeros(atoms, 2 * l + 1, degrees.count(l), channels, dtype=h.dtype) for l in range(l_out + 1)]
        for p, (l1, l2, l3) in enumerate(paths):
            cg = math.sqrt(2 * l3 + 1) * torch.from_numpy(wigner_3j(l1, l2, l3).copy())
            place = degrees[:p].count(l3)
            for e in range(edges):
                for (a, b, c) in itertools.product(range(2 * l1 + 1), range(2 * l2 + 1), range(2 * l3 + 1)):
                    out[l3][receiver[e], c, place] += (cg[a, b, c] * h[sender[e], l1 * l1 + a] * y[e, l2 * l2 + b]
                                                       * r[row[e], p])
        return torch.cat([t.flatten(1) for t in out], dim=1)

    inputs = numbers(3, atoms, size(l_in), channels), numbers(4, edges, size(l_edge)), \
        numbers(5, rows, len(paths), channels)
    return Problem(inputs, call, slow)


def contraction(atoms: int, edges: int, lmax: int = 2, l_out: int = 1, channels: int = 2) -> Problem:
    elements = torch.from_numpy(np.random.default_rng(6).integers(0, 3, atoms))
    counts = [[symmetric_basis(lmax, nu, l).coefficients.shape[1] for nu in (1, 2, 3)] for l in range(l_out + 1)]
    weights = [numbers(7 + l, 3, k, channels) for l, row in enumerate(counts) for k in row]

    def call(a: Tensor, *flat: Tensor) -> Tensor:
        return symmetric_contraction(a, [list(flat[3 * l : 3 * l + 3]) for l in range(l_out + 1)], elements, lmax)

    def slow(a: Tensor, *flat: Tensor) -> Tensor:
        out = torch.zeros(atoms, size(l_out), channels, dtype=a.dtype)
        for l, nu, n, c in itertools.product(range(l_out + 1), (1, 2, 3), range(atoms), range(channels)):
            basis, weight = symmetric_basis(lmax, nu, l), flat[3 * l + nu - 1]
            for p, monomial in enumerate(basis.monomials.tolist()):
                product = math.prod(float(a[n, i, c]) for i in monomial)
                out[n, block(l), c] += product * torch.einsum(
                    "km,k->m", torch.from_numpy(basis.coefficients[p]).to(a), weight[elements[n], :, c])
        return out

    return Problem((numbers(6, atoms, size(lmax), channels), *weights), call, slow)


OPS: dict[str, Callable[[int, int], Problem]] = {
    "spherical_harmonics": harmonics, "edge_convolution": convolution, "symmetric_contraction": contraction,
}
SMALL: dict[str, Callable[[], Problem]] = {  # for derivatives, whose number grows with the square of the size
    "spherical_harmonics": lambda: harmonics(0, 2, lmax=3),
    "edge_convolution": lambda: convolution(2, 3, channels=1),
    "symmetric_contraction": lambda: contraction(2, 0, lmax=1, channels=1),
}


def strided(tensor: Tensor) -> Tensor:
    """Return the same numbers with gaps in memory and, where there are two axes, in transposed order."""
    wide = torch.stack([tensor, torch.full_like(tensor, torch.nan)], dim=-1)
    if tensor.ndim > 1:
        wide = wide.transpose(0, 1).contiguous().transpose(0, 1)
    out = wide[..., 0]
    assert out.numel() < 2 or not out.is_contiguous()
    return out


@pytest.mark.parametrize("name", OPS)
class TestOps:
    """What every op keeps.

    These are plain torch functions; `torch.library.opcheck` applies to dispatcher ops and joins this class with
    the first of them.
    """

    def test_value(self, name: str) -> None:
        p = OPS[name](4, 9)
        torch.testing.assert_close(p.call(*p.inputs), p.slow(*p.inputs), rtol=1e-12, atol=1e-12)

    def test_float32(self, name: str) -> None:
        p = OPS[name](4, 9)
        out = p.call(*(t.float() for t in p.inputs))
        assert out.dtype == torch.float32
        exact = p.call(*p.inputs)
        torch.testing.assert_close(out.double(), exact, rtol=1e-5, atol=1e-5 * float(exact.abs().max()))

    @pytest.mark.parametrize(("atoms", "edges"), [(0, 0), (1, 0), (3, 0)])
    def test_nothing_there(self, name: str, atoms: int, edges: int) -> None:
        p = OPS[name](atoms, edges)
        inputs = [t.requires_grad_() for t in p.inputs]
        out = p.call(*inputs)
        assert out.shape[1:] == OPS[name](3, 4).call(*OPS[name](3, 4).inputs).shape[1:]
        assert len(out) == (edges if name == "spherical_harmonics" else atoms)
        if name == "edge_convolution":
            assert not out.any()
        for gradient, tensor in zip(torch.autograd.grad(out.sum(), inputs), inputs, strict=True):
            assert gradient.shape == tensor.shape

    def test_one_atom(self, name: str) -> None:
        p = OPS[name](1, 2)
        torch.testing.assert_close(p.call(*p.inputs), p.slow(*p.inputs), rtol=1e-12, atol=1e-12)

    def test_strided_input(self, name: str) -> None:
        p = OPS[name](4, 9)
        torch.testing.assert_close(p.call(*(strided(t) for t in p.inputs)), p.call(*p.inputs), rtol=0, atol=1e-13)

    def test_inputs_are_left_alone(self, name: str) -> None:
        p = OPS[name](4, 9)
        before = [t.clone() for t in p.inputs]
        p.call(*p.inputs)
        assert all(torch.equal(a, b) for a, b in zip(before, p.inputs, strict=True))

    def test_same_input_same_output(self, name: str) -> None:
        p = OPS[name](4, 9)
        assert torch.equal(p.call(*p.inputs), p.call(*p.inputs))

    def test_first_derivatives(self, name: str) -> None:
        p = SMALL[name]()
        assert torch.autograd.gradcheck(p.call, tuple(t.requires_grad_() for t in p.inputs), fast_mode=False)

    def test_second_derivatives(self, name: str) -> None:
        p = SMALL[name]()
        assert torch.autograd.gradgradcheck(p.call, tuple(t.requires_grad_() for t in p.inputs), fast_mode=True)

    def test_captured_as_one_graph(self, name: str) -> None:
        p = OPS[name](4, 9)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own
            compiled = torch.compile(p.call, fullgraph=True, backend="eager")
            torch.testing.assert_close(compiled(*p.inputs), p.call(*p.inputs), rtol=0, atol=1e-14)


class TestHarmonics:
    def test_values_of_e3nn_044(self) -> None:
        with np.load(REFERENCE / "e3nn044_constants.npz") as file:
            found = spherical_harmonics(torch.from_numpy(file["r"]), 6).numpy()
            np.testing.assert_allclose(found, file["Y_component_normalized"], rtol=0, atol=1e-12)

    def test_length_does_not_matter_and_norms(self) -> None:
        v = numbers(0, 50, 3)
        y = spherical_harmonics(v, 6)
        torch.testing.assert_close(spherical_harmonics(1e-3 * v, 6), y, rtol=0, atol=1e-13)
        for l in range(7):
            torch.testing.assert_close(y[:, block(l)].square().sum(1), torch.full((50,), 2.0 * l + 1).double())

    def test_parity(self) -> None:
        v = numbers(0, 20, 3)
        signs = torch.cat([torch.full((2 * l + 1,), (-1.0) ** l) for l in range(7)]).double()
        torch.testing.assert_close(spherical_harmonics(-v, 6), signs * spherical_harmonics(v, 6), rtol=0, atol=1e-14)

    @pytest.mark.parametrize("axis", [(0, 1, 0), (0, -1, 0), (1, 0, 0), (0, 0, -1)])
    def test_no_singular_direction(self, axis: tuple[int, int, int]) -> None:
        v = torch.tensor([axis], dtype=torch.float64, requires_grad=True)
        assert torch.isfinite(spherical_harmonics(v, 6)).all()
        assert torch.autograd.gradcheck(lambda x: spherical_harmonics(x, 4), (v,))
        assert torch.autograd.gradgradcheck(lambda x: spherical_harmonics(x, 4), (v,), fast_mode=True)

    def test_degree_zero(self) -> None:
        assert torch.equal(spherical_harmonics(numbers(0, 3, 3), 0), torch.ones(3, 1, dtype=torch.float64))


class TestConvolution:
    def test_order_of_edges_does_not_matter(self) -> None:
        paths = tuple(convolution_paths(1, 2, 2))
        h, y, r = convolution(4, 9).inputs
        index = torch.from_numpy(np.random.default_rng(2).integers(0, 4, (2, 9)))
        order = torch.randperm(9)
        a = edge_convolution(h, y, r, index, 4, paths)
        b = edge_convolution(h, y[order], r[order], index[:, order], 4, paths)
        for x, z in zip(a, b, strict=True):
            torch.testing.assert_close(x, z, rtol=0, atol=1e-13)

    def test_scalars_are_weighted_sums(self) -> None:
        index = torch.tensor([[0, 1, 2], [1, 0, 0]])
        h, r = numbers(0, 3, 1, 2), numbers(1, 3, 1, 2)
        (out,) = edge_convolution(h, torch.ones(3, 1, dtype=torch.float64), r, index, 3, ((0, 0, 0),))
        expected = torch.stack([r[1, 0] * h[1, 0] + r[2, 0] * h[2, 0], r[0, 0] * h[0, 0], torch.zeros(2).double()])
        torch.testing.assert_close(out[:, 0, 0], expected)


class TestContraction:
    def test_scalars_are_polynomials(self) -> None:
        a = torch.tensor([[[2.0]], [[3.0]]], dtype=torch.float64)
        weights = [[torch.tensor([[[c]], [[10 * c]]], dtype=torch.float64) for c in (1.0, 2.0, 3.0)]]
        out = symmetric_contraction(a, weights, torch.tensor([0, 1]), 0)
        expected = torch.tensor([2 + 2 * 4 + 3 * 8, 10 * (3 + 2 * 9 + 3 * 27)], dtype=torch.float64)
        torch.testing.assert_close(out[:, 0, 0], expected)

    def test_equivariance(self) -> None:
        p = contraction(3, 0)
        a, weights = p.inputs[0], p.inputs[1:]
        q = torch.linalg.qr(numbers(9, 3, 3))[0]
        rotation = q * torch.det(q)
        v = numbers(10, 60, 3)
        y, turned = spherical_harmonics(v, 2), spherical_harmonics(v @ rotation.T, 2)
        d = torch.block_diag(*(torch.linalg.lstsq(y[:, block(l)], turned[:, block(l)]).solution.T for l in range(3)))
        left = p.call(torch.einsum("ij,njc->nic", d, a), *weights)
        right = torch.einsum("ij,njc->nic", d[:4, :4], p.call(a, *weights))
        torch.testing.assert_close(left, right, rtol=0, atol=1e-11)
