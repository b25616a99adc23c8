"""Rotations to edges and back beyond what every op keeps: packing, buffers, arguments that do not fit."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mlip.errors import OptionError
from mlip.ops import Backend, packing_index, rotate_from_edges, rotate_to_edges, wigner_matrices
from mlip.ops._library import LIBRARY
from mlip.ops.edge_rotation import from_edges, from_edges_backward, to_edges, to_edges_backward
from mlip.so3.degrees import size
from mlip.so3.edge_frame import EdgeFrame

FRAMES = [(0, 0), (1, 1), (2, 2), (3, 1), (4, 2), (6, 2), (6, 6), (8, 3), (11, 11)]
compiled = pytest.mark.skipif(LIBRARY.path is None, reason=LIBRARY.problem)


def numbers(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).to(dtype)


@dataclass(frozen=True)
class Graph:
    """Edges sorted by receiver, the last atom has none, and the arguments of both operations."""

    lmax: int = 2
    mmax: int = 1
    channels: int = 4
    heads: int = 2
    atoms: int = 5
    edges: int = 23
    rows: int = 9
    dtype: torch.dtype = torch.float64

    def __post_init__(self) -> None:
        generator = np.random.default_rng(0)
        sender, row = generator.integers(0, self.atoms, self.edges), generator.integers(0, self.rows, self.edges)
        receiver = np.sort(generator.integers(0, max(1, self.atoms - 1), self.edges))
        offsets = np.searchsorted(receiver, np.arange(self.atoms + 1))
        frame, shared = EdgeFrame(self.lmax, self.mmax), (self.lmax, self.mmax)
        for name, value in (("sender", sender), ("receiver", receiver), ("row", row), ("offsets", offsets)):
            object.__setattr__(self, name, torch.from_numpy(value))
        wigner = numbers(1, self.edges, frame.entries, dtype=self.dtype)
        self.keep("to", [numbers(2, self.atoms, size(self.lmax), self.channels, dtype=self.dtype), wigner,
                         numbers(3, self.rows, self.lmax + 1, 2 * self.channels, dtype=self.dtype)])
        self.keep("to_rest", [self.sender, self.receiver, self.row, *shared])
        self.keep("back", [numbers(4, self.edges, frame.components, self.channels, dtype=self.dtype), wigner,
                           numbers(5, self.edges, self.heads, dtype=self.dtype)])
        self.keep("back_rest", [self.offsets, *shared])
        self.keep("g", numbers(6, self.edges, frame.components, 2 * self.channels, dtype=self.dtype))

    def keep(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def calls(self) -> Iterator[tuple[Any, list[Tensor], list[Any]]]:
        yield rotate_to_edges, self.to, self.to_rest
        yield rotate_from_edges, self.back, self.back_rest


def gradients(op: Any, inputs: list[Tensor], rest: list[Any], backend: Backend = "compiled") -> list[Tensor]:
    """Return the value and its derivatives."""
    inputs = [t.clone().requires_grad_() for t in inputs]
    out = op(*inputs, *rest, backend)
    return [out, *torch.autograd.grad(out.sin().sum(), inputs)]


def assert_close(found: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    largest = float(expected.detach().abs().max()) if expected.numel() else 1.0
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * largest)


class TestFrame:
    def test_order_of_components(self) -> None:
        frame = EdgeFrame(3, 2)
        assert list(frame.kept()) == [(0, 0), (1, 0), (2, 0), (3, 0), (1, 1), (2, 1), (3, 1), (1, -1), (2, -1), (3, -1),
                                      (2, 2), (3, 2), (2, -2), (3, -2)]
        assert frame.rows(1) == [0, 1, -1]
        assert frame.rows(3) == [0, 1, -1, 2, -2]
        assert frame.degrees().tolist() == [l for l, _ in frame.kept()]
        order = [(l, m) for l in range(4) for m in frame.rows(l)]
        assert [list(frame.kept())[k] for k in frame.places()] == order

    @pytest.mark.parametrize(("lmax", "mmax"), FRAMES)
    def test_sizes(self, lmax: int, mmax: int) -> None:
        frame = EdgeFrame(lmax, mmax)
        assert frame.components == len(list(frame.kept())) == len(frame.degrees()) == len(frame.places())
        assert frame.entries == sum((2 * l + 1) * (2 * min(l, mmax) + 1) for l in range(lmax + 1))
        assert len(set(frame.packing().tolist())) == frame.entries == frame.blocks()[-1].stop

    @pytest.mark.parametrize(("lmax", "mmax"), [(1, 2), (2, -1), (-1, 0)])
    def test_no_such_frame(self, lmax: int, mmax: int) -> None:
        with pytest.raises(OptionError, match="0 <= mmax <= lmax"):
            EdgeFrame(lmax, mmax)
        with pytest.raises(OptionError, match="0 <= mmax <= lmax"):
            rotate_to_edges(*Graph().to, *Graph().to_rest[:3], lmax, mmax)


@pytest.mark.parametrize("backend", [pytest.param("compiled", marks=compiled), "reference"])
class TestMeaning:
    @staticmethod
    def dense(lmax: int, edges: int) -> Tensor:
        q = torch.linalg.qr(numbers(7, edges, 3, 3))[0]
        return wigner_matrices(q * torch.det(q)[:, None, None], lmax)

    def test_dense_matrices(self, backend: Backend) -> None:
        graph = Graph(3, 2)
        dense, frame = self.dense(3, graph.edges), EdgeFrame(3, 2)
        packed = dense.flatten(1).index_select(1, packing_index(3, 2, dense))
        x, _, radial = graph.to
        kept = [l * l + l + m for l, m in frame.kept()]
        turned = torch.cat([(dense @ x[graph.sender])[:, kept], (dense @ x[graph.receiver])[:, kept]], dim=2)
        expected = turned * radial[graph.row][:, frame.degrees()]
        assert_close(rotate_to_edges(x, packed, radial, *graph.to_rest, backend), expected)

    def test_there_and_back(self, backend: Backend) -> None:
        """With all orders kept, the way back undoes the way there."""
        graph = Graph(3, 3)
        dense = self.dense(3, graph.edges)
        packed = dense.flatten(1).index_select(1, packing_index(3, 3, dense))
        x = graph.to[0]
        there = rotate_to_edges(x, packed, torch.ones_like(graph.to[2]), *graph.to_rest, backend)
        back = rotate_from_edges(there[:, :, 4:], packed, torch.ones_like(graph.back[2]), *graph.back_rest, backend)
        assert_close(back, x * graph.offsets.diff()[:, None, None])


@compiled
class TestCompiled:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    @pytest.mark.parametrize(("lmax", "mmax"), FRAMES)
    def test_equals_plain_torch(self, lmax: int, mmax: int, dtype: torch.dtype) -> None:
        for channels, heads in ((16, 4), (37, 1)):
            for op, inputs, rest in Graph(lmax, mmax, channels, heads, dtype=dtype).calls():
                for found, expected in zip(gradients(op, inputs, rest), gradients(op, inputs, rest, "reference"),
                                           strict=True):
                    assert_close(found, expected, 1e-12 if dtype == torch.float64 else 1e-4)

    def test_threads_and_shared_rows(self) -> None:
        """Many edges for each row of the weights, more threads than one: equal to plain torch."""
        graph, before = Graph(4, 2, 40, 8, atoms=30, edges=900, rows=3), torch.get_num_threads()
        try:
            for threads in (1, 4):
                torch.set_num_threads(threads)
                for op, inputs, rest in graph.calls():
                    for found, expected in zip(gradients(op, inputs, rest), gradients(op, inputs, rest, "reference"),
                                               strict=True):
                        assert_close(found, expected)
        finally:
            torch.set_num_threads(before)

    def test_only_what_is_wanted(self) -> None:
        """Each subset of derivatives is the same as in all of them."""
        graph = Graph()
        for name, inputs, g, rest in (("to", graph.to, graph.g, graph.to_rest),
                                      ("from", graph.back, numbers(8, 5, 9, 4), graph.back_rest)):
            backward = getattr(torch.ops.mlip, f"rotate_{name}_edges_backward")
            everything = backward(*inputs, g, 7, *rest)
            for which in range(8):
                for k, (found, expected) in enumerate(zip(backward(*inputs, g, which, *rest), everything, strict=True)):
                    if which >> k & 1:
                        assert_close(found, expected)
                    else:
                        assert found.numel() == 0

    def test_buffers(self) -> None:
        """Blocks of edges into buffers: the same as the whole, derivatives by features added up."""
        graph = Graph(4, 2, 20)
        x, wigner, radial = graph.to
        whole = rotate_to_edges(*graph.to, *graph.to_rest)
        dx, dwigner, dradial = torch.ops.mlip.rotate_to_edges_backward(*graph.to, graph.g, 7, *graph.to_rest)
        out, added = torch.full_like(whole, torch.nan), torch.ones_like(x)
        by_edge, by_wigner = [], []
        for block in (slice(0, 10), slice(10, 10), slice(10, 23)):
            index = graph.sender[block], graph.receiver[block], graph.row[block]
            to_edges(x, wigner[block], radial, *index, 4, 2, out[block])
            found = to_edges_backward(graph.g[block], x, wigner[block], radial, *index, 4, 2, added)
            by_wigner.append(found[0])
            by_edge.append(found[1])
        assert torch.equal(out, whole)
        assert torch.equal(torch.cat(by_wigner), dwigner)
        assert_close(added - 1, dx)
        assert_close(torch.zeros_like(radial).index_add(0, graph.row, torch.cat(by_edge)), dradial)

    def test_back_without_autograd(self) -> None:
        graph = Graph()
        out, *expected = gradients(rotate_from_edges, graph.back, graph.back_rest)
        assert torch.equal(from_edges(*graph.back, *graph.back_rest), out)
        g = out.detach().cos()
        for found, wanted in zip(from_edges_backward(g, *graph.back, *graph.back_rest), expected, strict=True):
            assert torch.equal(found, wanted)

    def test_captured_with_sizes_that_change(self) -> None:
        def call(x: Tensor, wigner: Tensor, radial: Tensor, weights: Tensor, *index: Tensor) -> Tensor:
            there = rotate_to_edges(x, wigner, radial, *index[:3], 2, 1)
            return rotate_from_edges(there, wigner, weights, index[3], 2, 1)

        torch.compiler.reset()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own
            captured = torch.compile(call, fullgraph=True, dynamic=True, backend="aot_eager")
            for graph in (Graph(), Graph(edges=31, atoms=7, rows=12)):
                inputs, index = [*graph.to, graph.back[2]], [*graph.to_rest[:3], graph.offsets]
                found = gradients(lambda *x, index=index: captured(*x[:-1], *index), inputs, [])
                expected = gradients(lambda *x, index=index: call(*x[:-1], *index), inputs, [])
                for a, b in zip(found, expected, strict=True):
                    assert_close(a, b)

    def test_opcheck(self) -> None:
        graph, ops = Graph(), torch.ops.mlip
        to, back = ([t.clone().requires_grad_() for t in inputs] for inputs in (graph.to, graph.back))
        check(ops.rotate_to_edges, (*to, *graph.to_rest))
        check(ops.rotate_from_edges, (*back, *graph.back_rest))
        g = numbers(8, 5, 9, 4).requires_grad_()
        for which in (2, 7):
            check(ops.rotate_to_edges_backward, (*to, graph.g, which, *graph.to_rest))
            check(ops.rotate_from_edges_backward, (*back, g, which, *graph.back_rest))
        check(ops.rotate_to_edges_into, (*graph.to, *graph.to_rest, torch.empty_like(graph.g)))
        check(ops.rotate_to_edges_backward_into, (*graph.to, graph.g, *graph.to_rest, torch.zeros_like(graph.to[0])))

    @pytest.mark.parametrize("change", [
        {0: numbers(0, 5, 8, 4)}, {0: numbers(0, 5, 9, 3)}, {0: numbers(0, 9, 4)}, {0: numbers(0, 5, 9, 4).float()},
        {1: numbers(0, 23, 23)}, {1: numbers(0, 22, 25)}, {2: numbers(0, 9, 2, 8)}, {2: numbers(0, 9, 3, 4)},
        {3: torch.full((23,), 5)}, {3: torch.full((23,), -1)}, {3: torch.zeros(22, dtype=torch.int64)},
        {4: torch.full((23,), 5)}, {4: torch.zeros(23, dtype=torch.int32)}, {5: torch.full((23,), 9)},
        {6: 3}, {6: 0}, {6: -1}, {6: 25}, {7: 2}, {7: -1}, {7: 3},
    ], ids=str)
    def test_wrong_arguments_to_edges(self, change: dict[int, Any]) -> None:
        graph = Graph()
        refused(torch.ops.mlip.rotate_to_edges, [*graph.to, *graph.to_rest], change)

    @pytest.mark.parametrize("change", [
        {0: numbers(0, 23, 6, 4)}, {0: numbers(0, 22, 7, 4)}, {0: numbers(0, 23, 7, 3)}, {1: numbers(0, 23, 24)},
        {1: numbers(0, 23, 25).float()}, {2: numbers(0, 23, 3)}, {2: numbers(0, 23, 0)}, {2: numbers(0, 22, 2)},
        {3: torch.tensor([0, 9, 3, 23])}, {3: torch.tensor([0, 22])}, {3: torch.tensor([1, 23])},
        {3: torch.zeros(0, dtype=torch.int64)}, {3: torch.zeros(2)}, {4: 3}, {5: 2},
    ], ids=str)
    def test_wrong_arguments_from_edges(self, change: dict[int, Any]) -> None:
        graph = Graph()
        refused(torch.ops.mlip.rotate_from_edges, [*graph.back, *graph.back_rest], change)

    def test_wrong_gradients_and_buffers(self) -> None:
        graph, ops = Graph(), torch.ops.mlip
        to = [*graph.to, graph.g, 7, *graph.to_rest]
        for wrong in (graph.g[:, :, :7], graph.g.float(), graph.g[:22]):
            refused(ops.rotate_to_edges_backward, to, {3: wrong})
        back = [*graph.back, numbers(8, 5, 9, 4), 7, *graph.back_rest]
        for wrong in (numbers(8, 4, 9, 4), numbers(8, 5, 9, 4).float()):
            refused(ops.rotate_from_edges_backward, back, {3: wrong})
        for wrong in (graph.g[:, :, :7], graph.g.float(), graph.g.mT.contiguous().mT):
            refused(ops.rotate_to_edges_into, [*graph.to, *graph.to_rest, graph.g.clone()], {8: wrong})
        for wrong in (graph.to[0][:4], graph.to[0].float(), graph.to[0].mT.contiguous().mT):
            refused(ops.rotate_to_edges_backward_into,
                    [*graph.to, graph.g, *graph.to_rest, graph.to[0].clone()], {9: wrong})


def refused(operator: Any, arguments: list[Any], change: dict[int, Any]) -> None:
    """Assert that the operator takes the arguments, but not with the change."""
    operator(*arguments)
    arguments = [change.get(place, value) for place, value in enumerate(arguments)]
    with pytest.raises(RuntimeError, match="mlip: "):
        operator(*arguments)


def check(operator: Any, arguments: tuple[Any, ...]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own
        torch.library.opcheck(operator.default, arguments)
