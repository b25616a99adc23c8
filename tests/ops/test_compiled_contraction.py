"""The compiled symmetric contraction against the plain one: value, three derivatives, compilation, repeatability."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mlip.ops import symmetric_contraction
from mlip.ops._library import LIBRARY
from mlip.ops.factorisation import factorise
from mlip.ops.tables import contraction_tables
from mlip.so3.degrees import size
from mlip.so3.symmetric_power import symmetric_basis

ROOT = Path(__file__).resolve().parents[2]
compiled_only = pytest.mark.skipif(LIBRARY.path is None, reason=f"no compiled kernels: {LIBRARY.problem}")
CASES = [(0, 3, 0), (0, 2, 1), (1, 1, 1), (1, 4, 1), (2, 2, 2), (2, 3, 1), (2, 4, 2), (3, 3, 0), (3, 3, 1), (3, 4, 1),
         (4, 3, 1)]  # lmax, correlation, largest degree of the result


@dataclass(frozen=True)
class Problem:
    x: Tensor
    weights: list[Tensor]
    elements: Tensor
    lmax: int
    correlation: int

    def call(self, x: Tensor, *weights: Tensor, backend: str = "compiled") -> Tensor:
        n = self.correlation
        nested = [list(weights[i : i + n]) for i in range(0, len(weights), n)]
        return symmetric_contraction(x, nested, self.elements, self.lmax, backend)  # type: ignore[arg-type]

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return (self.x, *self.weights)

    def arguments(self) -> tuple[Tensor, Tensor, Tensor, int, tuple[Tensor, ...]]:
        """Return what the operators take: x, w, elements, components, tables."""
        degrees = len(self.weights) // self.correlation
        return (self.x, torch.cat(self.weights, dim=1), self.elements, degrees**2,
                contraction_tables(self.lmax, (self.correlation,) * degrees))


def problem(lmax: int = 2, correlation: int = 3, l_out: int = 1, atoms: int = 11, channels: int = 3,
            elements: int = 4, dtype: torch.dtype = torch.float64) -> Problem:
    numbers = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=numbers, dtype=torch.float64).to(dtype)

    counts = [symmetric_basis(lmax, nu, l).coefficients.shape[1]
              for l in range(l_out + 1) for nu in range(1, correlation + 1)]
    z = torch.randint(0, elements, (atoms,), generator=numbers)
    z[z == 1] = 0  # an element without atoms
    return Problem(normal(atoms, size(lmax), channels), [normal(elements, k, channels) for k in counts], z, lmax,
                   correlation)


def derivatives(p: Problem, backend: str, order: int) -> list[Tensor]:
    """Return the value and all derivatives of linear functionals of it up to an order."""
    numbers = torch.Generator().manual_seed(2)
    inputs = [t.detach().requires_grad_() for t in p.inputs]
    found = [p.call(*inputs, backend=backend)]
    out = list(found)
    for _ in range(order):
        cotangents = [torch.randn(t.shape, generator=numbers, dtype=torch.float64).to(t) for t in found]
        inputs += [c.requires_grad_() for c in cotangents]
        total = sum(((t * c).sum() for t, c in zip(found, cotangents, strict=True)), start=torch.zeros(()))
        found = list(torch.autograd.grad(total, inputs, create_graph=True))
        out += found
    return [t.detach() for t in out]


def check_close(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance * float(b.detach().abs().max()) if b.numel() else 0)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@compiled_only
class TestCompiled:
    @pytest.mark.parametrize(("lmax", "correlation", "l_out"), CASES)
    def test_two_derivatives(self, lmax: int, correlation: int, l_out: int) -> None:
        p = problem(lmax, correlation, l_out)
        check_close(derivatives(p, "compiled", 2), derivatives(p, "reference", 2), 1e-12)

    @pytest.mark.parametrize("channels", [1, 3, 16, 37, 128])
    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
    def test_channels_and_precision(self, channels: int, dtype: torch.dtype, tolerance: float) -> None:
        p = problem(channels=channels, dtype=dtype)
        check_close(derivatives(p, "compiled", 2), derivatives(p, "reference", 2), tolerance)

    def test_third_and_fourth_derivatives(self) -> None:
        p = problem(1, 3, 1, atoms=3, channels=2)
        check_close(derivatives(p, "compiled", 4), derivatives(p, "reference", 4), 1e-11)

    @pytest.mark.parametrize("atoms", [0, 1, 2, 3, 4, 5, 130])
    def test_numbers_of_atoms(self, atoms: int) -> None:
        p = problem(atoms=atoms)
        check_close(derivatives(p, "compiled", 2), derivatives(p, "reference", 2), 1e-12)

    @pytest.mark.parametrize("by", ["x", "w", "xw"])
    def test_gradcheck(self, by: str) -> None:
        p = problem(1, 3, 1, atoms=3, channels=1, elements=2)
        inputs = tuple(t.clone().requires_grad_(("w" if i else "x") in by) for i, t in enumerate(p.inputs))
        assert torch.autograd.gradcheck(p.call, inputs)
        assert torch.autograd.gradgradcheck(p.call, inputs)

    def test_strided_input(self) -> None:
        p = problem(channels=6)
        x = p.x.transpose(0, 1).contiguous().transpose(0, 1)
        wide = [torch.stack([w, w.new_full(w.shape, torch.nan)], dim=-1)[..., 0] for w in p.weights]
        assert not x.is_contiguous()
        assert torch.equal(p.call(x, *wide), p.call(*p.inputs))
        x.requires_grad_()
        expanded = torch.ones(1, 1, 1, dtype=x.dtype).expand(p.call(x, *wide).shape)  # as `sum` gives it
        (gradient,) = torch.autograd.grad(p.call(x, *wide), x, expanded)
        (expected,) = torch.autograd.grad(p.call(x, *wide, backend="reference").sum(), x)
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12 * float(expected.abs().max()))

    def test_order_of_atoms(self) -> None:
        p = problem(atoms=40)
        order = torch.randperm(40, generator=torch.Generator().manual_seed(3))
        moved = Problem(p.x[order], p.weights, p.elements[order], p.lmax, p.correlation)
        assert torch.equal(moved.call(*moved.inputs), p.call(*p.inputs)[order])

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_threads_do_not_matter(self, threads: Callable[[int], None], dtype: torch.dtype) -> None:
        p = problem(atoms=300, channels=20, dtype=dtype)
        threads(1)
        alone = derivatives(p, "compiled", 2)
        threads(2)
        assert all(torch.equal(a, b) for a, b in zip(derivatives(p, "compiled", 2), alone, strict=True))

    @pytest.mark.parametrize("element", [-1, 4])
    def test_element_without_weights(self, element: int) -> None:
        p = problem()
        p.elements[3] = element
        with pytest.raises(RuntimeError, match="an element has no weights"):
            p.call(*p.inputs)

    def test_opcheck(self) -> None:
        p = problem(atoms=5)
        x, w, z, components, tables = p.arguments()
        x, w = x.requires_grad_(), w.requires_grad_()
        g = torch.randn(5, components, 3, dtype=x.dtype, requires_grad=True)
        vx, vw, none = torch.randn_like(x).requires_grad_(), torch.randn_like(w).requires_grad_(), x.new_empty(0)
        ops = torch.ops.mlip
        torch.library.opcheck(ops.symmetric_contraction.default, (x, w, z, components, *tables))
        for which in (1, 3):
            torch.library.opcheck(ops.symmetric_contraction_backward.default, (x, w, z, g, which, *tables))
        torch.library.opcheck(ops.symmetric_contraction_jvp.default, (x, w, z, vx, none, components, *tables))
        torch.library.opcheck(ops.symmetric_contraction_backward_jvp.default, (x, w, z, g, none, vw, 1, *tables))
        torch.library.opcheck(ops.symmetric_contraction_backward_jvp.default, (x, w, z, g, vx, vw, 3, *tables))

    @pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
    def test_captured_as_one_graph(self, backend: str) -> None:
        for p in (problem(), problem(atoms=6)):
            inputs = [t.requires_grad_() for t in p.inputs]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's own
                out = torch.compile(p.call, fullgraph=True, backend=backend)(*inputs)
                found = torch.autograd.grad(out.square().sum(), inputs)
            expected = p.call(*inputs)
            check_close([out, *found], [expected, *torch.autograd.grad(expected.square().sum(), inputs)], 1e-13)


@pytest.mark.parametrize(("lmax", "correlation", "l_out"), CASES)
def test_factorisation_is_the_basis(lmax: int, correlation: int, l_out: int) -> None:
    f = factorise(lmax, (correlation,) * (l_out + 1))
    features = [(i,) for i in range(size(lmax))]
    slots = [*features, (), *map(tuple, f.products.tolist())]
    found, begin = {}, 0
    for component, factor, end in f.groups.tolist():
        for entry in range(begin, end):
            found[entry] = component, tuple(sorted(slots[factor] + slots[f.leaves[entry]]))
        begin = end
    terms = {(*found[e], k): c for (e, k), c in zip(f.terms.tolist(), f.coefficients.tolist(), strict=True)}
    assert len(terms) == len(f.terms)
    first = 0
    for l in range(l_out + 1):
        for nu in range(1, correlation + 1):
            basis = symmetric_basis(lmax, nu, l)
            for p, monomial in enumerate(basis.monomials.tolist()):
                for k, m in zip(*basis.coefficients[p].nonzero(), strict=True):
                    assert terms.pop((l * l + m, tuple(monomial), first + k)) == basis.coefficients[p, k, m]
            first += basis.coefficients.shape[1]
    assert not terms
