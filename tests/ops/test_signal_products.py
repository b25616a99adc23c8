"""Products of signals with components on the last axis: Fourier, Poisson bracket, vector signals, matrices."""

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
from scipy.linalg import block_diag
from torch import Tensor

from mlip.errors import OptionError
from mlip.ops import (
    fourier_product,
    matrix_product,
    poisson_bracket,
    spherical_harmonics,
    vector_cross,
    vector_dot,
    vector_signal_product,
)
from mlip.ops.sparse_product import sparse_product
from mlip.ops.sphere_tables import Form
from mlip.so3 import wigner_3j
from mlip.so3.degrees import block, size
from mlip.so3.wigner3j import symbol

Product = Callable[..., Tensor]
Shifts = tuple[int, int, int]
EXACT = {"rtol": 0, "atol": 1e-12}


@dataclass(frozen=True)
class Case:
    """A product of two signals, whose factors and result have these axes before the last."""

    call: Product
    inner: tuple[int, ...] = ()
    inner_out: tuple[int, ...] = ()


CASES = {
    "fourier_product": Case(fourier_product),
    "poisson_bracket": Case(poisson_bracket),
    "vector_cross": Case(vector_cross, (3,), (3,)),
    "vector_dot": Case(vector_dot, (3,)),
    "vector_signal_product": Case(vector_signal_product),
    "vector_signal_product even": Case(lambda x, y, l=None: vector_signal_product(x, y, l, (1, 0, -1))),
    "matrix_product": Case(matrix_product),
}
SHIFTS: list[Shifts] = list(itertools.product((-1, 0, 1), repeat=3))  # type: ignore[arg-type]


def numbers(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).to(dtype)


def golden(folder: Path, name: str) -> dict[str, Tensor]:
    with np.load(folder / "golden" / "gaunt_mace" / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files if file[key].dtype == np.float64}


def tensor_of(product: Product, lmax: int) -> Tensor:
    """Return the tensor of a product of components of all degrees up to `lmax`, [M, M, M3]."""
    unit = torch.eye(size(lmax), dtype=torch.float64)
    return product(unit[:, None].expand(-1, size(lmax), -1), unit[None].expand(size(lmax), -1, -1))


def strengths(product: Product, lmax: int) -> dict[tuple[int, int, int], float]:
    """Return the coefficient that multiplies w3j(l1, l2, l3) for each triple; that nothing else is there is checked."""
    tensor, found = tensor_of(product, lmax), {}
    for l1, l2 in np.ndindex(lmax + 1, lmax + 1):
        for l3 in range(2 * lmax + 1):
            part = tensor[block(l1), block(l2), block(l3)]
            if not abs(l1 - l2) <= l3 <= l1 + l2:
                assert part.abs().max() < 1e-12
                continue
            coupling = torch.from_numpy(wigner_3j(l1, l2, l3).copy())
            found[l1, l2, l3] = float((coupling * part).sum())
            torch.testing.assert_close(part, found[l1, l2, l3] * coupling, **EXACT)
    return found


def reached(product: Product, lmax: int, parity: int) -> set[tuple[int, int, int]]:
    return {t for t, c in strengths(product, lmax).items() if abs(c) > 1e-9 and max(t) <= lmax and sum(t) % 2 == parity}


def triples(lmax: int, parity: int) -> set[tuple[int, int, int]]:
    return {(a, b, c) for a, b, c in np.ndindex(*3 * (lmax + 1,))
            if abs(a - b) <= c <= a + b and (a + b + c) % 2 == parity}


def six_j(a: int, b: int, c: int, d: int, e: int, f: int) -> float:
    """Return the 6j symbol {a b c; d e f} by Racah's formula."""
    root, fact = 1.0, math.factorial
    for p, q, r in ((a, b, c), (a, e, f), (d, b, f), (d, e, c)):
        if not abs(p - q) <= r <= p + q:
            return 0.0
        root *= fact(p + q - r) * fact(p - q + r) * fact(-p + q + r) / fact(p + q + r + 1)
    low, high = (a + b + c, a + e + f, d + b + f, d + e + c), (a + b + d + e, b + c + e + f, c + a + f + d)
    terms = ((-1) ** t * fact(t + 1) / math.prod([fact(t - k) for k in low] + [fact(k - t) for k in high])
             for t in range(max(low), min(high) + 1))
    return math.sqrt(root) * sum(terms)


def nine_j(first: tuple[int, ...], second: tuple[int, ...], third: tuple[int, ...]) -> float:
    """Return the 9j symbol with these rows, as a sum over 6j symbols."""
    (a, b, c), (d, e, f), (g, h, i) = first, second, third
    return sum((2 * x + 1) * six_j(a, b, c, f, i, x) * six_j(d, e, f, b, x, h) * six_j(g, h, i, x, a, d)
               for x in range(a + i + 1))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
class TestEveryProduct:
    @staticmethod
    def factors(case: Case, *lead: int, degrees: tuple[int, int] = (1, 2)) -> tuple[Tensor, Tensor]:
        x, y = (numbers(k, *lead, *case.inner, size(l)) for k, l in enumerate(degrees))
        return x, y

    @pytest.mark.parametrize("lead", [(), (1,), (2, 3), (0,), (2, 0)])
    def test_leading_sizes(self, case: Case, lead: tuple[int, ...]) -> None:
        x, y = (t.requires_grad_() for t in self.factors(case, *lead))
        out = case.call(x, y)
        assert out.shape == (*lead, *case.inner_out, size(3))
        for t, gradient in zip((x, y), torch.autograd.grad(out.sum(), (x, y)), strict=True):
            assert gradient.shape == t.shape
        if math.prod(lead):
            first = case.call(x[(0,) * len(lead)], y[(0,) * len(lead)])
            torch.testing.assert_close(out[(0,) * len(lead)], first, **EXACT)

    def test_derivatives(self, case: Case) -> None:
        x, y = (t.requires_grad_() for t in self.factors(case, degrees=(1, 1)))
        assert torch.autograd.gradcheck(case.call, (x, y))
        assert torch.autograd.gradgradcheck(case.call, (x, y))

    @pytest.mark.parametrize("l_out", [0, 1, 2])
    def test_truncated(self, case: Case, l_out: int) -> None:
        x, y = self.factors(case, 4)
        torch.testing.assert_close(case.call(x, y, l_out), case.call(x, y)[..., : size(l_out)], **EXACT)

    def test_of_constants(self, case: Case) -> None:
        x, y = self.factors(case, 2, degrees=(0, 0))
        assert case.call(x, y).shape == (2, *case.inner_out, 1)

    def test_single_precision(self, case: Case) -> None:
        x, y = self.factors(case, 5)
        found = case.call(x.float(), y.float())
        assert found.dtype == torch.float32
        exact = case.call(x, y)
        torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-6 * float(exact.abs().max()))

    def test_strided(self, case: Case) -> None:
        x, y = self.factors(case, 4)
        strided = [t.transpose(0, -1).contiguous().transpose(0, -1) for t in (x, y)]
        torch.testing.assert_close(case.call(*strided), case.call(x, y), **EXACT)

    def test_captured_as_one_graph(self, case: Case) -> None:
        x, y = self.factors(case, 4)
        inputs, again = ([x.clone().requires_grad_(), y.clone().requires_grad_()] for _ in range(2))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own
            out = torch.compile(case.call, fullgraph=True, backend="eager")(*inputs)
        expected = case.call(*again)
        torch.testing.assert_close(out, expected, **EXACT)
        weights = numbers(5, *out.shape)
        for a, b in zip(torch.autograd.grad(out, inputs, weights), torch.autograd.grad(expected, again, weights),
                        strict=True):
            torch.testing.assert_close(a, b, **EXACT)

    def test_equivariant(self, case: Case) -> None:
        q, r = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
        rotation = q * np.sign(np.diag(r))
        rotation *= np.sign(np.linalg.det(rotation))
        points = np.random.default_rng(2).normal(size=(100, 3))
        before, after = (spherical_harmonics(torch.from_numpy(p), 3).numpy() for p in (points, points @ rotation.T))
        d = torch.from_numpy(block_diag(*(np.linalg.lstsq(before[:, block(l)], after[:, block(l)], rcond=None)[0].T
                                          for l in range(4))))

        def turned(t: Tensor, inner: tuple[int, ...]) -> Tensor:
            t = t @ d[: t.shape[-1], : t.shape[-1]].T
            return torch.from_numpy(rotation) @ t if inner else t

        x, y = self.factors(case, 4)
        out = case.call(turned(x, case.inner), turned(y, case.inner))
        torch.testing.assert_close(out, turned(case.call(x, y), case.inner_out), rtol=0, atol=1e-11)

    def test_what_is_refused(self, case: Case) -> None:
        x, y = self.factors(case, 4)
        for a, b in ((x[..., :3], y), (x, y[..., :0]), (torch.tensor(1.0, dtype=x.dtype), y)):
            with pytest.raises(OptionError, match=r"has the shape .* must be \[\.\.\., .*\(l\+1\)\^2\]"):
                case.call(a, b)
        for a, b in ((x[:2], y), (x[0], y), (x, y.float())):
            with pytest.raises(OptionError, match="do not fit each other"):
                case.call(a, b)
        for l_out in (-1, 4):
            with pytest.raises(OptionError, match=f"l_out={l_out} is out of range.*0 to 3"):
                case.call(x, y, l_out)
        with pytest.raises(OptionError, match=r"float16; it must be float32 or float64"):
            case.call(x.half(), y.half())
        if case.inner:
            with pytest.raises(OptionError, match=r"u has the shape .*\[\.\.\., 3, \(l\+1\)\^2\]"):
                case.call(x[..., :2, :], y)


class TestAntisymmetric:
    @pytest.mark.parametrize(("l1", "l2"), [(1, 1), (2, 3)])
    def test_golden(self, shared_dir: Path, l1: int, l2: int) -> None:
        data = golden(shared_dir, f"antisym_l{l1}_l{l2}")
        torch.testing.assert_close(poisson_bracket(data["x1"], data["x2"]), data["poisson_integral"], **EXACT)
        torch.testing.assert_close(vector_cross(data["u"], data["v"]), data["vcross_integral"], **EXACT)
        torch.testing.assert_close(vector_dot(data["u"], data["v"]), data["vdot_integral"], **EXACT)

    def test_bracket_as_a_sparse_product(self) -> None:
        x, y = numbers(0, 4, size(2), 5), numbers(1, 4, size(3), 5)
        out = sparse_product(x, y, Form("poisson", 2, 3, 4))
        torch.testing.assert_close(out.mT, poisson_bracket(x.mT, y.mT, 4), **EXACT)

    def test_bracket_reaches_every_odd_triple(self) -> None:
        assert reached(poisson_bracket, 4, 1) == triples(4, 1)
        assert not reached(poisson_bracket, 4, 0)

    def test_bracket_identities(self) -> None:
        x, y, z = (numbers(k, 3, size(2)) for k in range(3))
        torch.testing.assert_close(poisson_bracket(y, x), -poisson_bracket(x, y), **EXACT)
        jacobi = sum(poisson_bracket(a, poisson_bracket(b, c)) for a, b, c in ((x, y, z), (y, z, x), (z, x, y)))
        torch.testing.assert_close(jacobi, torch.zeros_like(jacobi), rtol=0, atol=1e-11)


class TestVectorSignals:
    @pytest.mark.parametrize("shifts", SHIFTS)
    def test_generalised_gaunt_formula(self, shifts: Shifts) -> None:
        """Xie et al., arXiv 2602.21466."""
        for j, found in strengths(lambda x, y: vector_signal_product(x, y, shifts=shifts), 3).items():
            l = tuple(a + s for a, s in zip(j, shifts, strict=True))
            exact = 0.0
            if all(a >= (b == 0) and (a > 0 or b == 1) for a, b in zip(l, j, strict=True)) \
                    and abs(l[0] - l[1]) <= l[2] <= l[0] + l[1]:
                exact = (math.sqrt(6 / (4 * math.pi) * math.prod(2 * k + 1 for k in (*j, *l)))
                         * abs(symbol(*l, 0, 0) * nine_j(*((a, 1, b) for a, b in zip(l, j, strict=True)))))
            assert math.isclose(abs(found), exact, rel_tol=0, abs_tol=1e-12), (j, shifts)

    @pytest.mark.parametrize("shifts", [s for s in SHIFTS if s.count(0) == 2])
    def test_odd_triples_reached(self, shifts: Shifts) -> None:
        """All of them, the default (0, 0, -1) among the choices."""
        def product(x: Tensor, y: Tensor) -> Tensor:
            return vector_signal_product(x, y, shifts=shifts)

        assert reached(product, 4, 1) == triples(4, 1)
        assert {(1, 1, 1), (1, 2, 2), (2, 2, 1), (2, 2, 3)} < triples(4, 1)
        assert not reached(product, 4, 0)

    def test_default_is_the_bracket_up_to_factors(self) -> None:
        found, bracket = strengths(vector_signal_product, 3), strengths(poisson_bracket, 3)
        for (a, b, c), value in bracket.items():
            if (a + b + c) % 2:
                factor = math.sqrt(c / (2 * c + 1) / (a * (a + 1) * b * (b + 1)))
                assert math.isclose(abs(found[a, b, c]), abs(value) * factor, rel_tol=1e-12)

    def test_some_shifts_reach_fewer(self) -> None:
        assert reached(lambda x, y: vector_signal_product(x, y, shifts=(-1, -1, 1)), 4, 1) < triples(4, 1)
        assert reached(lambda x, y: vector_signal_product(x, y, shifts=(0, 1, -1)), 4, 0) < triples(4, 0)

    @pytest.mark.parametrize("shifts", [(0, 0), (0, 2, 0), (0, 0, -2)])
    def test_shifts_that_are_refused(self, shifts: tuple[int, ...]) -> None:
        with pytest.raises(OptionError, match=r"shifts=.* each -1, 0 or 1"):
            vector_signal_product(numbers(0, 4), numbers(1, 4), shifts=shifts)  # type: ignore[arg-type]


class TestMatrices:
    @pytest.mark.parametrize(("l1", "l2"), [(1, 1), (2, 1), (0, 3)])
    def test_value(self, l1: int, l2: int) -> None:
        """Couplings entry by entry."""
        x, y = numbers(0, size(l1)), numbers(1, size(l2))
        t = math.ceil((l1 + l2) / 2)
        pairs = list(itertools.product(range(t + 1), range(t + 1)))

        def coupling(a: int, b: int, l: int) -> Tensor:
            return math.sqrt(2 * l + 1) * torch.from_numpy(wigner_3j(a, b, l).copy())

        def part(signal: Tensor, a: int, b: int, lmax: int) -> Tensor:
            zero = torch.zeros(2 * a + 1, 2 * b + 1, dtype=torch.float64)
            return sum((coupling(a, b, l) @ signal[block(l)] for l in range(abs(a - b), min(a + b, lmax) + 1)), zero)

        expected = torch.zeros(size(l1 + l2), dtype=torch.float64)
        for a, b in pairs:
            middle = sum(part(x, a, c, l1) @ part(y, c, b, l2) for c in range(t + 1))
            for l in range(abs(a - b), min(a + b, l1 + l2) + 1):
                expected[block(l)] += torch.einsum("ij,ijm->m", middle, coupling(a, b, l))
        torch.testing.assert_close(matrix_product(x, y), expected, **EXACT)

    @pytest.mark.parametrize("lmax", [1, 2, 3, 4])
    def test_reaches_every_triple(self, lmax: int) -> None:
        for parity in (0, 1):  # (1, 1, 1), the cross product, is among the odd ones
            assert reached(matrix_product, lmax, parity) == triples(lmax, parity)

    def test_cross_product(self) -> None:
        x, y = numbers(0, 5, 4), numbers(1, 5, 4)
        x[:, 0] = y[:, 0] = 0
        out = matrix_product(x, y)[:, 1:4]
        cross = torch.linalg.cross(x[:, 1:], y[:, 1:])
        factor = (out * cross).sum() / cross.square().sum()
        assert abs(factor) > 0.1
        torch.testing.assert_close(out, factor * cross, **EXACT)
