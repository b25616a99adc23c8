"""Attention over edges beyond what every op keeps: phases, biases, shapes, instruction sets, derivatives in float32."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mlip.ops import Backend, Edges, edge_attention
from mlip.ops._library import LIBRARY

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(LIBRARY.path is None, reason=LIBRARY.problem)
SHAPES = [(3, 1), (8, 3), (16, 2), (20, 2), (32, 1), (1, 5), (33, 1), (64, 2), (16, 10)]


def problem(channels: int = 4, heads: int = 2, atoms: int = 6, edges: int = 150) -> tuple[list[Tensor], Edges]:
    """Return the six tensors in float64 and edges, of which the last atom receives none."""
    generator = np.random.default_rng(channels)

    def numbers(*shape: int) -> Tensor:
        return torch.from_numpy(generator.normal(size=shape))

    sender = torch.from_numpy(generator.integers(0, atoms, edges))
    receiver = torch.from_numpy(np.sort(generator.integers(0, atoms - 1, edges)))
    tensors = [numbers(atoms, heads, 2 * channels) for _ in range(3)]
    tensors[0] /= channels**0.5
    return [*tensors, 2 * numbers(edges, 3), numbers(edges, heads), numbers(heads, channels, 3)], \
        Edges.of(sender, receiver, atoms)


def derivatives(tensors: list[Tensor], edges: Edges, backend: Backend, dtype: torch.dtype) -> list[Tensor]:
    """Return the value, its six derivatives, and the derivatives of a function of all of them, as in training."""
    x = [t.to(dtype).requires_grad_() for t in tensors]
    out = edge_attention(*x, edges, backend)
    first = torch.autograd.grad(out.sin().sum(), x, create_graph=True)
    second = torch.autograd.grad(sum(t.cos().sum() for t in (out, *first)), x)
    return [t.detach() for t in (out, *first, *second)]


def assert_close(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.double(), b.double(), rtol=0, atol=tolerance * max(1.0, float(b.abs().max())))


@pytest.mark.parametrize(("channels", "heads"), SHAPES)
def test_derivatives(channels: int, heads: int) -> None:
    tensors, edges = problem(channels, heads)
    expected = derivatives(tensors, edges, "reference", torch.float64)
    assert_close(derivatives(tensors, edges, "compiled", torch.float64), expected, 1e-12)
    assert_close(derivatives(tensors, edges, "compiled", torch.float32), expected, 2e-5)


@pytest.mark.parametrize("wanted", [[0], [1], [2], [3], [4], [5], [3, 4], [0, 5], [1, 2, 3]], ids=str)
def test_derivatives_by_some(wanted: list[int]) -> None:
    """What is not asked for does not change what is; parts of a direction may be absent."""
    tensors, edges = problem(5)
    found = []
    for backend in ("compiled", "reference"):
        x = [t.clone().requires_grad_(i in wanted) for i, t in enumerate(tensors)]
        y = [x[i] for i in wanted]
        out = edge_attention(*x, edges, backend)
        first = torch.autograd.grad(out.sin().sum(), y, create_graph=True)
        alone = torch.autograd.grad(first[0].cos().sum(), y)
        found.append([out.detach(), *(t.detach() for t in first), *alone])
    assert_close(*found, 1e-12)


def test_derivative_of_the_backward_pass_by_its_gradient() -> None:
    tensors, edges = problem(16)
    g = torch.from_numpy(np.random.default_rng(0).normal(size=tensors[0].shape))
    found = []
    for backend in ("compiled", "reference"):
        x, y = [t.clone().requires_grad_() for t in tensors], g.clone().requires_grad_()
        first = torch.autograd.grad(edge_attention(*x, edges, backend), x, y, create_graph=True)
        found.append(list(torch.autograd.grad(sum(t.sin().sum() for t in first), [y])))
    assert_close(*found, 1e-12)


def test_third_derivatives() -> None:
    tensors, edges = problem(3, 2, 4, 20)
    found = []
    for backend in ("compiled", "reference"):
        x = [t.clone().requires_grad_() for t in tensors]
        y = [edge_attention(*x, edges, backend)]
        for _ in range(3):
            y = list(torch.autograd.grad(sum(t.sin().sum() for t in y), x, create_graph=True))
        found.append([t.detach() for t in y])
    assert_close(*found, 1e-10)


def test_hessian_vector_products() -> None:
    tensors, edges = problem(16, 2)
    direction = torch.from_numpy(np.random.default_rng(1).normal(size=tensors[3].shape))
    found = []
    for backend in ("compiled", "reference"):
        def energy(r: Tensor, backend: Backend = backend) -> Tensor:
            return edge_attention(*tensors[:3], r, *tensors[4:], edges, backend).square().sum()

        found.append(list(torch.autograd.functional.hvp(energy, tensors[3], direction)))
    assert_close(*found, 1e-12)


@pytest.mark.parametrize(("dtype", "largest", "error"), [(torch.float32, 10, 2e-7), (torch.float32, 5e3, 2e-7),
                                                         (torch.float64, 10, 3e-16), (torch.float64, 1e5, 3e-16)])
def test_phases(dtype: torch.dtype, largest: float, error: float) -> None:
    """With one edge that outweighs the atom itself, the message is exp(i phase) as it is."""
    phases = torch.cat([torch.linspace(-largest, largest, 4001, dtype=torch.float64),
                        torch.arange(-6, 7, dtype=torch.float64) * math.pi / 4])
    phases = phases[phases.abs() <= largest].to(dtype)
    count = len(phases)
    q, v = torch.zeros(2, 1, 2 * count, dtype=dtype), torch.zeros(2, 1, 2 * count, dtype=dtype)
    v[1, 0, :count] = 1
    frequencies = torch.zeros(1, count, 3, dtype=dtype)
    frequencies[0, :, 0] = phases
    edges = Edges.of(torch.tensor([1]), torch.tensor([0]), 2)
    out = edge_attention(q, q, v, torch.tensor([[1, 0, 0]], dtype=dtype), torch.full((1, 1), 1e3, dtype=dtype),
                         frequencies, edges, "compiled")[0, 0].double()
    exact = np.concatenate([np.cos(phases.numpy().astype(np.longdouble)), np.sin(phases.numpy().astype(np.longdouble))])
    assert np.abs(out.numpy() - exact).max() < error
    assert np.median(np.abs(out.numpy() - exact)) < error / 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("low", [-1e4, -1e30, "lowest"])
def test_low_biases(dtype: torch.dtype, low: float | str) -> None:
    """An edge of a very low bias is not there; without any other the atom sees itself."""
    tensors, edges = problem(16, 2)
    tensors = [t.to(dtype) for t in tensors]
    low = torch.finfo(dtype).min if low == "lowest" else low
    out = derivatives([*tensors[:4], torch.full_like(tensors[4], low), tensors[5]], edges, "compiled", dtype)
    assert torch.equal(out[0], tensors[2])
    assert all(t.isfinite().all() for t in out)
    kept = torch.arange(len(tensors[3])) % 3 != 1
    fewer = Edges.of(edges.sender[kept], edges.receiver[kept], len(edges.offsets) - 1)
    bias = torch.where(kept[:, None], tensors[4], low)
    found = derivatives([*tensors[:4], bias, tensors[5]], edges, "compiled", dtype)
    assert all(t.isfinite().all() for t in found)
    expected = derivatives([*tensors[:3], tensors[3][kept], tensors[4][kept], tensors[5]], fewer, "compiled", dtype)
    assert not found[4][~kept].any()
    assert not found[5][~kept].any()
    close = [found[0], *found[1:4], found[4][kept], found[5][kept], found[6]]
    assert_close(close, expected[:7], 1e-5 if dtype == torch.float32 else 1e-13)


def test_high_logits() -> None:
    """Sums do not overflow, whatever the order in which large logits come."""
    tensors, edges = problem(8, 1, 4, 300)
    for bias in (torch.linspace(-900, 900, 300), torch.linspace(900, -900, 300)):
        tensors[4] = bias.double()[:, None]
        expected = derivatives(tensors, edges, "reference", torch.float64)
        assert_close(derivatives(tensors, edges, "compiled", torch.float64), expected, 1e-12)


def test_receivers_without_edges() -> None:
    tensors, edges = problem(16, 3)
    assert torch.equal(edge_attention(*tensors, edges, "compiled")[-1], tensors[2][-1])


def test_many_edges_of_a_receiver() -> None:
    tensors, edges = problem(4, 1, 3, 5000)
    expected = derivatives(tensors, edges, "reference", torch.float64)
    assert_close(derivatives(tensors, edges, "compiled", torch.float64), expected, 1e-11)


def test_slices_of_a_wider_tensor() -> None:
    tensors, edges = problem(16, 2)
    for joined in (torch.cat(tensors[:3], dim=1), torch.stack(tensors[:3], dim=-1)):
        parts = joined.chunk(3, dim=1) if joined.ndim == 3 else joined.unbind(-1)
        assert not parts[0].is_contiguous()
        found = derivatives([*parts, *tensors[3:]], edges, "compiled", torch.float64)
        assert_close(found, derivatives(tensors, edges, "compiled", torch.float64), 1e-14)


def test_not_a_number_stays_where_it_is() -> None:
    tensors, edges = problem(16, 2)
    for k in range(6):
        wrong = [t.clone() for t in tensors]
        wrong[k].view(-1)[0] = torch.nan
        found, expected = (edge_attention(*wrong, edges, backend) for backend in ("compiled", "reference"))
        assert torch.equal(found.isnan().any(-1), expected.isnan().any(-1))
        assert found.isfinite().any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_bits_and_threads(dtype: torch.dtype) -> None:
    tensors, edges = problem(16, 3, 50, 2000)
    found, before = [], torch.get_num_threads()
    try:
        for threads in (1, 1, 2, 2):
            torch.set_num_threads(threads)
            found.append(derivatives(tensors, edges, "compiled", dtype))
    finally:
        torch.set_num_threads(before)
    for a, b in (found[:2], found[2:]):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert_close(found[0], found[2], 1e-5 if dtype == torch.float32 else 1e-13)


CODE = """
import sys
import numpy as np
import torch
from mlip.ops._library import LIBRARY
sys.path.insert(0, "tests/ops")
from test_edge_attention import SHAPES, derivatives, problem
assert LIBRARY.isa == sys.argv[1], LIBRARY.isa
torch.save([derivatives(*problem(*shape), "compiled", dtype) for shape in SHAPES
            for dtype in (torch.float32, torch.float64)], sys.argv[2])
"""


@pytest.mark.parametrize("isa", ["generic", "avx2"])
def test_instruction_sets(isa: str, tmp_path: Path) -> None:
    ladder = ["generic", "avx2", "avx512"]
    if LIBRARY.isa not in ladder[ladder.index(isa) + 1 :]:
        pytest.skip(f"this processor has nothing better than {LIBRARY.isa}")
    file = tmp_path / "found.pt"
    done = subprocess.run([sys.executable, "-c", CODE, isa, str(file)], cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, "MLIP_ISA": isa, "PYTHONPATH": str(ROOT)}, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    found = iter(torch.load(file))
    for shape in SHAPES:
        for dtype, tolerance in ((torch.float32, 2e-5), (torch.float64, 1e-12)):
            assert_close(next(found), derivatives(*problem(*shape), "compiled", dtype), tolerance)
