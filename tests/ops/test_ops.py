"""One class for every op: value, empty and strided input, precision, derivatives, compilation, repeatability."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import itertools
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import lpmv
from torch import Tensor

from mlip.nn.linear import DegreeLinear
from mlip.ops import (
    Backend,
    Edges,
    edge_attention,
    edge_convolution,
    gaunt_polynomial,
    radial_table,
    rotate_from_edges,
    rotate_to_edges,
    sparse_product,
    sphere_powers,
    spherical_harmonics,
    symmetric_contraction,
)
from mlip.ops.sphere_tables import Form, octant_powers
from mlip.so3 import wigner_3j
from mlip.so3.degrees import Paths, block, size
from mlip.so3.edge_frame import EdgeFrame
from mlip.so3.gaunt import gaunt, gaunt_scale
from mlip.so3.poisson import poisson
from mlip.so3.symmetric_power import symmetric_basis

Function = Callable[..., Tensor]


@dataclass(frozen=True)
class Problem:
    """Differentiable inputs, the op on them as one tensor [N or E, ...], and an independent slow formula."""

    inputs: tuple[Tensor, ...]
    call: Function
    slow: Function

    def on(self, backend: Backend) -> Problem:
        """Return the problem with the op bound to a back end."""
        return dataclasses.replace(self, call=partial(self.call, backend=backend))


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def harmonics(atoms: int, edges: int, degree: int = 4) -> Problem:
    def slow(vectors: Tensor) -> Tensor:
        out = np.zeros((len(vectors), size(degree)))
        for e, (x, y, z) in enumerate(vectors.double().numpy()):
            cosine, azimuth = y / math.sqrt(x * x + y * y + z * z), math.atan2(x, z)
            for l, m in ((d, n) for d in range(degree + 1) for n in range(-d, d + 1)):
                k = abs(m)
                scale = math.sqrt((2 * l + 1) * (2 if m else 1) * math.factorial(l - k) / math.factorial(l + k))
                wave = math.sin(k * azimuth) if m < 0 else math.cos(k * azimuth)
                out[e, l * l + l + m] = scale * (-1) ** k * lpmv(k, l, cosine) * wave
        return torch.from_numpy(out)

    def call(v: Tensor, backend: Backend) -> Tensor:
        return spherical_harmonics(v, degree, backend)

    return Problem((2.0 * numbers(1, edges, 3),), call, slow)


def table(atoms: int, edges: int, channels: int = 3) -> Problem:
    generator = np.random.default_rng(8)
    interval = torch.from_numpy(generator.integers(0, 5, edges))
    coefficients = numbers(9, 5, 6, channels)

    def call(t: Tensor, backend: Backend) -> Tensor:
        return radial_table(t, interval, coefficients.to(t), backend)

    def slow(t: Tensor) -> Tensor:
        powers = torch.stack([t**k for k in range(6)], dim=1)
        return torch.stack([(powers[e][:, None] * coefficients[interval[e]].to(t)).sum(0) for e in range(edges)]
                           or [torch.zeros(channels)])

    return Problem((torch.from_numpy(generator.uniform(size=edges)),), call, slow)


def convolution(atoms: int, edges: int, l_in: int = 1, l_edge: int = 2, l_out: int = 2, channels: int = 3,
                gaunt: bool = False) -> Problem:
    """Two edges of three have a row of weights for themselves, as those of a pair of atoms share one."""
    paths = Paths.all(l_in, l_edge, l_out, gaunt)
    generator = np.random.default_rng(2)
    sender, receiver = torch.from_numpy(generator.integers(0, max(atoms, 1), (2, edges)))
    receiver = torch.sort(receiver).values
    rows = max(1, 2 * edges // 3)
    row = torch.from_numpy(generator.permutation(np.arange(edges) % rows))
    index = Edges.of(sender, receiver, atoms, row)

    def call(h: Tensor, y: Tensor, r: Tensor, backend: Backend) -> Tensor:
        out = edge_convolution(h, y, r, index, paths, backend)
        return torch.cat([t.flatten(1) for t in out], dim=1)

    def slow(h: Tensor, y: Tensor, r: Tensor) -> Tensor:
        degrees = [l3 for _, _, l3 in paths.triples]
        out = [torch.zeros(atoms, 2 * l + 1, 1 if gaunt else degrees.count(l), channels, dtype=h.dtype)
               for l in range(l_out + 1)]
        for p, (l1, l2, l3) in enumerate(paths.triples):
            scale, weight, place = math.sqrt(2 * l3 + 1), p, degrees[:p].count(l3)
            if gaunt:
                scale, weight, place = math.sqrt(4 * math.pi) * gaunt_scale(l1, l2, l3), l2, 0
            cg = scale * torch.from_numpy(wigner_3j(l1, l2, l3).copy())
            for e in range(edges):
                for (a, b, c) in itertools.product(range(2 * l1 + 1), range(2 * l2 + 1), range(2 * l3 + 1)):
                    out[l3][receiver[e], c, place] += (cg[a, b, c] * h[sender[e], l1 * l1 + a] * y[e, l2 * l2 + b]
                                                       * r[row[e], weight])
        return torch.cat([t.flatten(1) for t in out], dim=1)

    inputs = numbers(3, atoms, size(l_in), channels), numbers(4, edges, size(l_edge)), \
        numbers(5, rows, paths.weights, channels)
    return Problem(inputs, call, slow)


def contraction(atoms: int, edges: int, lmax: int = 2, l_out: int = 1, channels: int = 2, orders: int = 3) -> Problem:
    nus = range(1, orders + 1)
    elements = torch.from_numpy(np.random.default_rng(6).integers(0, 3, atoms))
    counts = [[symmetric_basis(lmax, nu, l).coefficients.shape[1] for nu in nus] for l in range(l_out + 1)]
    weights = [numbers(7 + l, 3, k, channels) for l, row in enumerate(counts) for k in row]

    def call(a: Tensor, *flat: Tensor, backend: Backend) -> Tensor:
        weights = [list(flat[orders * l : orders * (l + 1)]) for l in range(l_out + 1)]
        return symmetric_contraction(a, weights, elements, lmax, backend)

    def slow(a: Tensor, *flat: Tensor) -> Tensor:
        out = torch.zeros(atoms, size(l_out), channels, dtype=a.dtype)
        for l, nu, n, c in itertools.product(range(l_out + 1), nus, range(atoms), range(channels)):
            basis, weight = symmetric_basis(lmax, nu, l), flat[orders * l + nu - 1]
            for p, monomial in enumerate(basis.monomials.tolist()):
                product = math.prod(float(a[n, i, c]) for i in monomial)
                out[n, block(l), c] += product * torch.einsum(
                    "km,k->m", torch.from_numpy(basis.coefficients[p]).to(a), weight[elements[n], :, c])
        return out

    return Problem((numbers(6, atoms, size(lmax), channels), *weights), call, slow)


def product(atoms: int, edges: int, l_in: int = 2, l_edge: int = 1, l_out: int = 3, channels: int = 3) -> Problem:
    """The sparse product, with the coefficients of Poisson brackets, which change sign when columns do."""
    def call(x: Tensor, y: Tensor, backend: Backend) -> Tensor:
        return sparse_product(x, y, Form("poisson", l_in, l_edge, l_out), backend)

    def slow(x: Tensor, y: Tensor) -> Tensor:
        out = torch.zeros(atoms, size(l_out), channels, dtype=x.dtype)
        for a, b in itertools.product(range(l_in + 1), range(l_edge + 1)):
            for c in range(abs(a - b), min(a + b, l_out) + 1):
                values = torch.from_numpy(poisson(a, b, c).copy())
                out[:, block(c)] += torch.einsum("nic,njc,ijk->nkc", x[:, block(a)], y[:, block(b)], values)
        return out

    return Problem((numbers(1, atoms, size(l_in), channels), numbers(2, atoms, size(l_edge), channels)), call, slow)


def powers(atoms: int, edges: int, lmax: int = 2, l_out: int = 1, channels: int = 3, orders: int = 3) -> Problem:
    def call(x: Tensor, backend: Backend) -> Tensor:
        to, back, parity, zero = octant_powers(lmax, l_out, orders, "component", x)
        return sphere_powers(x, to, back, (parity, zero), 1, orders, backend)

    def slow(x: Tensor) -> Tensor:
        out, power = [], x
        for order in range(1, orders + 1):
            if order > 1:
                table = torch.from_numpy(dense(lmax * (order - 1), lmax, lmax * order)) * math.sqrt(4 * math.pi)
                power = torch.einsum("nic,njc,ijk->nkc", power, x, table)
            missing = max(0, size(l_out) - power.shape[1])
            out.append(torch.nn.functional.pad(power, (0, 0, 0, missing))[:, : size(l_out)])
        return torch.stack(out, dim=1)

    return Problem((numbers(6, atoms, size(lmax), channels),), call, slow)


def dense(l1: int, l2: int, l3: int) -> Any:
    """Return all Gaunt coefficients, zeros included."""
    out = np.zeros((size(l1), size(l2), size(l3)))
    for a, b in itertools.product(range(l1 + 1), range(l2 + 1)):
        for c in range(abs(a - b), min(a + b, l3) + 1):
            out[block(a), block(b), block(c)] = gaunt(a, b, c)
    return out


def polynomial(atoms: int, edges: int, lmax: int = 2, l_out: int = 1, channels: int = 2, orders: int = 3,
               method: str = "grid") -> Problem:
    elements = torch.from_numpy(np.random.default_rng(6).integers(0, 3, atoms))
    values = powers(atoms, edges, lmax, l_out, channels, orders)

    def call(x: Tensor, w: Tensor, backend: Backend) -> Tensor:
        return gaunt_polynomial(x, w, elements, "component", method, backend)  # type: ignore[arg-type]

    def slow(x: Tensor, w: Tensor) -> Tensor:
        by_order = values.slow(x)
        out = torch.zeros(atoms, size(l_out), channels, dtype=x.dtype)
        for n, nu, l in itertools.product(range(atoms), range(orders), range(l_out + 1)):
            out[n, block(l)] += by_order[n, nu, block(l)] * w[elements[n], nu, l]
        return out

    return Problem((*values.inputs, numbers(7, 3, orders, l_out + 1, channels)), call, slow)


def to_edges(atoms: int, edges: int, lmax: int = 2, mmax: int = 1, channels: int = 3) -> Problem:
    """Two edges of three have a row of weights for themselves."""
    frame, generator = EdgeFrame(lmax, mmax), np.random.default_rng(2)
    sender, receiver = torch.from_numpy(generator.integers(0, max(atoms, 1), (2, edges)))
    rows = max(1, 2 * edges // 3)
    row = torch.from_numpy(generator.permutation(np.arange(edges) % rows))

    def call(x: Tensor, d: Tensor, r: Tensor, backend: Backend) -> Tensor:
        return rotate_to_edges(x, d, r, sender, receiver, row, lmax, mmax, backend)

    def slow(x: Tensor, d: Tensor, r: Tensor) -> Tensor:
        matrix, degrees = unpacked(d, frame), [l for l, _ in frame.kept()]
        both = [matrix[e] @ x[index[e]] for e in range(edges) for index in (sender, receiver)]
        turned = torch.stack(both).unflatten(0, (edges, 2)).transpose(1, 2).flatten(2)
        return turned * r[row][:, degrees]

    inputs = numbers(3, atoms, size(lmax), channels), numbers(4, edges, frame.entries), \
        numbers(5, rows, lmax + 1, 2 * channels)
    return Problem(inputs, call, slow)


def from_edges(atoms: int, edges: int, lmax: int = 2, mmax: int = 1, channels: int = 4) -> Problem:
    """Two heads where the channels allow it."""
    frame, heads = EdgeFrame(lmax, mmax), 1 + (channels + 1) % 2
    receiver = torch.from_numpy(np.sort(np.random.default_rng(2).integers(0, max(atoms, 1), edges)))
    offsets = Edges.of(receiver, receiver, atoms).offsets

    def call(v: Tensor, d: Tensor, a: Tensor, backend: Backend) -> Tensor:
        return rotate_from_edges(v, d, a, offsets, lmax, mmax, backend)

    def slow(v: Tensor, d: Tensor, a: Tensor) -> Tensor:
        out, matrix = torch.zeros(atoms, size(lmax), channels, dtype=v.dtype), unpacked(d, frame)
        for e, h in itertools.product(range(edges), range(heads)):
            group = slice(h * channels // heads, (h + 1) * channels // heads)
            out[receiver[e], :, group] += a[e, h] * matrix[e].T @ v[e, :, group]
        for l in range(mmax + 1, lmax + 1):
            out[:, block(l)] *= math.sqrt((2 * l + 1) / (2 * mmax + 1))
        return out

    inputs = numbers(3, edges, frame.components, channels), numbers(4, edges, frame.entries), numbers(5, edges, heads)
    return Problem(inputs, call, slow)


def attention(atoms: int, edges: int, channels: int = 3) -> Problem:
    """Two heads, channels as complex numbers."""
    sender, receiver = torch.from_numpy(np.random.default_rng(2).integers(0, max(atoms, 1), (2, edges)))
    receiver = torch.sort(receiver).values
    index = Edges.of(sender, receiver, atoms)

    def call(*tensors: Tensor, backend: Backend) -> Tensor:
        return edge_attention(*tensors, index, backend)

    def slow(q: Tensor, k: Tensor, v: Tensor, r: Tensor, b: Tensor, w: Tensor) -> Tensor:
        q, k, v = (torch.complex(t[..., :channels].contiguous(), t[..., channels:].contiguous()) for t in (q, k, v))
        out = torch.zeros_like(q)
        for i, h in itertools.product(range(atoms), range(2)):
            mine = torch.nonzero(receiver == i)[:, 0]
            turn = torch.polar(torch.ones(len(mine), channels).to(r), r[mine] @ w[h].T)
            logits = (q[i, h].conj() * turn * k[sender[mine], h]).real.sum(1) + b[mine, h]
            weights = torch.softmax(torch.cat([logits, (q[i, h].conj() * k[i, h]).real.sum()[None]]), 0)
            out[i, h] = weights[:-1].to(q) @ (turn * v[sender[mine], h]) + weights[-1] * v[i, h]
        return torch.cat([out.real, out.imag], dim=-1)

    inputs = *(numbers(k, atoms, 2, 2 * channels) for k in (3, 4, 5)), numbers(6, edges, 3), numbers(7, edges, 2), \
        numbers(8, 2, channels, 3)
    return Problem(inputs, call, slow)


def unpacked(packed: Tensor, frame: EdgeFrame) -> Tensor:
    """Return the matrices [E, K, S] of kept components and components of an atom, from their documented order."""
    out, entry = torch.zeros(len(packed), frame.components, size(frame.lmax), dtype=packed.dtype), 0
    kept = list(frame.kept())
    for l in range(frame.lmax + 1):
        for m in sorted(range(-l, l + 1), key=lambda m: (abs(m), -m)):
            if abs(m) <= frame.mmax:
                out[:, kept.index((l, m)), block(l)] = packed[:, entry : entry + 2 * l + 1]
                entry += 2 * l + 1
    assert entry == packed.shape[1]
    return out


def linear(atoms: int, edges: int, degree: int = 2, channels: int = 3) -> Problem:
    """One matrix for each degree; those that depend on the element are tested in `tests/nn/test_linear.py`."""
    torch.manual_seed(3)
    single = DegreeLinear(degree, channels).requires_grad_(False)
    layer = copy.deepcopy(single).double()

    def call(x: Tensor, backend: Backend) -> Tensor:
        out: Tensor = (layer if x.dtype == torch.float64 else single)(x, backend)
        return out

    def slow(x: Tensor) -> Tensor:
        out = torch.zeros(atoms, size(degree), channels, dtype=x.dtype)
        for n, l in ((n, l) for n in range(atoms) for l in range(degree + 1)):
            out[n, block(l)] = x[n, block(l)] @ layer.weight[l].to(x.dtype) / math.sqrt(channels)
        return out

    return Problem((numbers(5, atoms, size(degree), channels),), call, slow)


OPS: dict[str, Callable[..., Problem]] = {
    "degree_linear": linear,
    "spherical_harmonics": harmonics, "edge_convolution": convolution,
    "gaunt_convolution": partial(convolution, gaunt=True), "symmetric_contraction": contraction,
    "radial_table": table, "sparse_product": product, "sphere_powers": powers, "gaunt_polynomial": polynomial,
    "gaunt_polynomial_sparse": partial(polynomial, method="sparse"), "rotate_to_edges": to_edges,
    "rotate_from_edges": from_edges, "edge_attention": attention,
}
OF_EDGES = ("spherical_harmonics", "radial_table", "rotate_to_edges")
VARIANTS: list[dict[str, int]] = [
    {"l_in": 0, "l_edge": 3, "l_out": 3, "channels": 16, "lmax": 1, "orders": 4, "degree": 0, "mmax": 0},
    {"l_in": 2, "l_edge": 3, "l_out": 3, "channels": 5, "lmax": 3, "orders": 2, "mmax": 3},
    {"l_in": 3, "l_edge": 4, "l_out": 4, "channels": 33, "lmax": 3, "orders": 1, "degree": 3},
    {"l_in": 1, "l_edge": 5, "l_out": 5, "channels": 2, "lmax": 0, "mmax": 0, "degree": 6},
]
SMALL: dict[str, Callable[[], Problem]] = {  # for derivatives, whose number grows with the square of the size
    "degree_linear": lambda: linear(2, 0, degree=1, channels=2),
    "spherical_harmonics": lambda: harmonics(0, 2, degree=3),
    "edge_convolution": lambda: convolution(2, 3, channels=1),
    "gaunt_convolution": lambda: convolution(2, 3, channels=1, gaunt=True),
    "symmetric_contraction": lambda: contraction(2, 0, lmax=1, channels=1),
    "radial_table": lambda: table(0, 3, channels=2),
    "sparse_product": lambda: product(2, 0, 1, 1, 2, channels=1),
    "sphere_powers": lambda: powers(2, 0, 1, 1, channels=1),
    "gaunt_polynomial": lambda: polynomial(2, 0, 1, 1, channels=1),
    "gaunt_polynomial_sparse": lambda: polynomial(2, 0, 1, 1, channels=1, method="sparse"),
    "rotate_to_edges": lambda: to_edges(2, 3, 2, 1, channels=1),
    "rotate_from_edges": lambda: from_edges(2, 3, 2, 1, channels=2),
    "edge_attention": lambda: attention(2, 3, channels=1),
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
    """What every op keeps, in both back ends."""

    @pytest.fixture
    def make(self, name: str, backend: Backend) -> Callable[..., Problem]:
        """Return the problem of a number of atoms and edges, its op bound to the back end."""
        return lambda *args, **options: OPS[name](*args, **options).on(backend)

    @pytest.fixture
    def small(self, name: str, backend: Backend) -> Problem:
        """Return the problem for derivatives."""
        return SMALL[name]().on(backend)

    def test_value(self, make: Callable[..., Problem]) -> None:
        p = make(4, 9)
        torch.testing.assert_close(p.call(*p.inputs), p.slow(*p.inputs), rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("options", VARIANTS, ids=str)
    def test_degrees_and_channels(self, name: str, make: Callable[..., Problem], options: dict[str, int]) -> None:
        """Degrees with and without loops of their own, channels that fill vectors and such that do not."""
        allowed = set(inspect.signature(OPS[name]).parameters)
        p = make(3, 5, **{k: v for k, v in options.items() if k in allowed})
        expected = p.slow(*p.inputs)
        torch.testing.assert_close(p.call(*p.inputs), expected, rtol=1e-12, atol=1e-12 * float(expected.abs().max()))

    def test_float32(self, make: Callable[..., Problem]) -> None:
        p = make(4, 9)
        out = p.call(*(t.float() for t in p.inputs))
        assert out.dtype == torch.float32
        exact = p.call(*p.inputs)
        torch.testing.assert_close(out.double(), exact, rtol=1e-5, atol=1e-5 * float(exact.abs().max()))

    @pytest.mark.parametrize(("atoms", "edges"), [(0, 0), (1, 0), (3, 0)])
    def test_nothing_there(self, name: str, make: Callable[..., Problem], atoms: int, edges: int) -> None:
        p = make(atoms, edges)
        inputs = [t.requires_grad_() for t in p.inputs]
        out = p.call(*inputs)
        assert out.shape[1:] == make(3, 4).call(*make(3, 4).inputs).shape[1:]
        assert len(out) == (edges if name in OF_EDGES else atoms)
        if name.endswith("convolution"):
            assert not out.any()
        for gradient, tensor in zip(torch.autograd.grad(out.sum(), inputs), inputs, strict=True):
            assert gradient.shape == tensor.shape

    def test_one_atom(self, make: Callable[..., Problem]) -> None:
        p = make(1, 2)
        torch.testing.assert_close(p.call(*p.inputs), p.slow(*p.inputs), rtol=1e-12, atol=1e-12)

    def test_strided_input(self, make: Callable[..., Problem]) -> None:
        p = make(4, 9)
        torch.testing.assert_close(p.call(*(strided(t) for t in p.inputs)), p.call(*p.inputs), rtol=0, atol=1e-13)

    def test_inputs_are_left_alone(self, make: Callable[..., Problem]) -> None:
        p = make(4, 9)
        before = [t.clone() for t in p.inputs]
        p.call(*p.inputs)
        assert all(torch.equal(a, b) for a, b in zip(before, p.inputs, strict=True))

    def test_same_input_same_output(self, make: Callable[..., Problem]) -> None:
        p = make(4, 9)
        inputs = tuple(t.requires_grad_() for t in p.inputs)
        results = []
        for _ in range(2):
            out = p.call(*inputs)
            results.append([out, *torch.autograd.grad(out.sin().sum(), inputs)])
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))

    def test_threads(self, make: Callable[..., Problem]) -> None:
        """More threads: the same values to rounding, and the same bits every time."""
        p = make(40, 700)
        inputs = tuple(t.requires_grad_() for t in p.inputs)
        results, before = [], torch.get_num_threads()
        try:
            for threads in (1, 3, 3):
                torch.set_num_threads(threads)
                out = p.call(*inputs)
                results.append([out, *torch.autograd.grad(out.sin().sum(), inputs)])
        finally:
            torch.set_num_threads(before)
        for one, three, again in zip(*results, strict=True):
            torch.testing.assert_close(one, three, rtol=1e-12, atol=1e-12)
            assert torch.equal(three, again)

    def test_first_derivatives(self, small: Problem) -> None:
        assert torch.autograd.gradcheck(small.call, tuple(t.requires_grad_() for t in small.inputs), fast_mode=False)

    def test_second_derivatives(self, small: Problem) -> None:
        assert torch.autograd.gradgradcheck(small.call, tuple(t.requires_grad_() for t in small.inputs))

    def test_third_derivatives(self, small: Problem) -> None:
        """The gradient of a gradient can be differentiated: what training on forces along a path would need."""
        inputs = tuple(t.requires_grad_() for t in small.inputs)

        def gradient(*x: Tensor) -> tuple[Tensor, ...]:
            first = torch.autograd.grad(small.call(*x).sin().sum(), x, create_graph=True)
            return torch.autograd.grad(sum(g.sin().sum() for g in first), x, create_graph=True)

        assert torch.autograd.gradcheck(gradient, inputs, fast_mode=True)

    @pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
    def test_captured_as_one_graph(self, make: Callable[..., Problem], compiler: str) -> None:
        p = make(4, 9)
        inputs = tuple(t.requires_grad_() for t in p.inputs)
        torch.compiler.reset()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own
            compiled = torch.compile(p.call, fullgraph=True, backend=compiler)
            out, expected = compiled(*inputs), p.call(*inputs)
            torch.testing.assert_close(out, expected, rtol=0, atol=1e-13)
            for a, b in zip(*(torch.autograd.grad(o.sin().sum(), inputs) for o in (out, expected)), strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


class TestContraction:
    def test_scalars_are_polynomials(self, backend: Backend) -> None:
        a = torch.tensor([[[2.0]], [[3.0]]], dtype=torch.float64)
        weights = [[torch.tensor([[[c]], [[10 * c]]], dtype=torch.float64) for c in (1.0, 2.0, 3.0)]]
        out = symmetric_contraction(a, weights, torch.tensor([0, 1]), 0, backend)
        expected = torch.tensor([2 + 2 * 4 + 3 * 8, 10 * (3 + 2 * 9 + 3 * 27)], dtype=torch.float64)
        torch.testing.assert_close(out[:, 0, 0], expected)

    def test_equivariance(self, backend: Backend) -> None:
        p = contraction(3, 0).on(backend)
        a, weights = p.inputs[0], p.inputs[1:]
        q = torch.linalg.qr(numbers(9, 3, 3))[0]
        rotation = q * torch.det(q)
        v = numbers(10, 60, 3)
        y, turned = spherical_harmonics(v, 2), spherical_harmonics(v @ rotation.T, 2)
        d = torch.block_diag(*(torch.linalg.lstsq(y[:, block(l)], turned[:, block(l)]).solution.T for l in range(3)))
        left = p.call(torch.einsum("ij,njc->nic", d, a), *weights)
        right = torch.einsum("ij,njc->nic", d[:4, :4], p.call(a, *weights))
        torch.testing.assert_close(left, right, rtol=0, atol=1e-11)
