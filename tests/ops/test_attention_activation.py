"""The activation and the logits of attention in the compiled form, against plain torch and its derivatives."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import layer_norm, silu

from mlip.ops import sphere_product
from mlip.ops._library import LIBRARY
from mlip.ops.attention_activation import head_logits, head_logits_backward, swiglu, swiglu_backward
from mlip.ops.sphere_tables import swiglu_matrices
from mlip.so3.edge_frame import EdgeFrame

pytestmark = pytest.mark.skipif(LIBRARY.path is None, reason=LIBRARY.problem)
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-13}
SIZES = [(0, 32, 64, 8), (1, 5, 7, 3), (3, 1, 1, 1), (37, 32, 64, 8), (41, 5, 7, 3), (6, 48, 33, 2), (300, 32, 64, 8)]


@dataclass
class Layer:
    """Numbers of some edges; scalars, gates and channels of heads are columns of one matrix."""

    edges: int = 23
    hidden: int = 5
    alpha: int = 7
    heads: int = 3
    lmax: int = 2
    mmax: int = 1
    dtype: torch.dtype = torch.float64
    extra: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.extra = [self.heads * self.alpha, 2 * self.hidden, self.hidden]
        components = EdgeFrame(self.lmax, self.mmax).components
        self.matrix = 2 * self.numbers(0, self.edges, sum(self.extra))
        self.channels, self.scalars, self.gate = self.matrix.split(self.extra, dim=1)
        self.x = self.numbers(1, self.edges, components, 2 * self.hidden)
        self.g = self.numbers(2, self.edges, components, self.hidden)
        self.norm = [1 + 0.3 * self.numbers(3, self.alpha), self.numbers(4, self.alpha),
                     self.numbers(5, self.heads, self.alpha)]
        self.dlogits = self.numbers(6, self.edges, self.heads)
        _, to, back, reflections = swiglu_matrices(self.lmax, self.mmax, self.x, True)
        assert reflections is not None
        self.sphere = to, back, reflections

    def numbers(self, seed: int, *shape: int) -> Tensor:
        return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).to(self.dtype)

    def inputs(self) -> list[Tensor]:
        """Return the arguments of both operators of the activation."""
        to, back, reflections = self.sphere
        return [self.x, self.scalars, self.gate, to, back, *reflections]

    def activate(self, x: Tensor, scalars: Tensor, gate: Tensor) -> Tensor:
        """Return the activation in plain torch."""
        c, (to, _, back, _) = self.hidden, swiglu_matrices(self.lmax, self.mmax, x, False)
        product = sphere_product(x[..., :c], x[..., c:], to, to, back, None, "reference") * gate.sigmoid()[:, None]
        added = (silu(scalars[:, :c]) * scalars[:, c:])[:, None]
        return torch.cat([product[:, :1] + added, product[:, 1:]], dim=1)

    def logits(self, channels: Tensor) -> Tensor:
        """Return the logits in plain torch."""
        weight, bias, dot = self.norm
        y = layer_norm(channels.reshape(-1, self.heads, self.alpha), (self.alpha,), weight, bias, 1e-5)
        return ((0.2 * y + 0.8 * silu(y)) * dot).sum(dim=-1)


def of(edges: int, hidden: int, alpha: int, heads: int, **more: Any) -> Layer:
    return Layer(edges, hidden, alpha, heads, **more)


def zeros(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.zeros(shape, dtype=dtype)


def wide(*tensors: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return a matrix of NaN with a spare column at both ends, and the ranges of columns for these tensors."""
    sizes = [1, *(t.shape[1] for t in tensors), 1]
    matrix = torch.full((len(tensors[0]), sum(sizes)), torch.nan, dtype=tensors[0].dtype)
    return matrix, list(matrix.split(sizes, dim=1)[1:-1])


def gradients(call: Any, inputs: list[Tensor], g: Tensor) -> list[Tensor]:
    leaves = [t.double().detach().requires_grad_() for t in inputs]
    return list(torch.autograd.grad(call(*leaves), leaves, g.double()))


def assert_close(found: Tensor, expected: Tensor) -> None:
    size = float(expected.abs().max()) if expected.numel() else 1.0
    torch.testing.assert_close(found, expected.to(found), rtol=0, atol=TOLERANCE[found.dtype] * max(size, 1.0))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
class TestValues:
    @pytest.mark.parametrize("degrees", [(0, 0), (2, 1), (4, 2), (6, 2)], ids=str)
    @pytest.mark.parametrize("sizes", SIZES, ids=str)
    def test_swiglu(self, sizes: tuple[int, ...], degrees: tuple[int, int], dtype: torch.dtype) -> None:
        layer = of(*sizes, lmax=degrees[0], mmax=degrees[1], dtype=dtype)
        exact = Layer(*sizes, *degrees)
        inputs = [layer.x, layer.scalars, layer.gate]
        assert_close(swiglu(*inputs, *layer.sphere), exact.activate(*(t.double() for t in inputs)))
        matrix, buffers = wide(layer.scalars, layer.gate)
        dx = swiglu_backward(layer.g, *inputs, *layer.sphere, *buffers)
        for a, b in zip([dx, *buffers], gradients(exact.activate, inputs, layer.g), strict=True):
            assert_close(a, b)
        assert matrix[:, [0, -1]].isnan().all()

    @pytest.mark.parametrize("sizes", SIZES, ids=str)
    def test_head_logits(self, sizes: tuple[int, ...], dtype: torch.dtype) -> None:
        layer = of(*sizes, dtype=dtype)
        exact = Layer(*sizes)
        exact.norm = [t.double() for t in layer.norm]
        assert_close(head_logits(layer.channels, *layer.norm, 1e-5), exact.logits(layer.channels.double()))
        matrix, (dalpha,) = wide(layer.channels)
        head_logits_backward(layer.dlogits, layer.channels, *layer.norm, 1e-5, dalpha)
        (expected,) = gradients(exact.logits, [layer.channels], layer.dlogits)
        if sizes[2] > 1:  # else it vanishes, but for rounding times 1 / sqrt(eps)
            assert_close(dalpha, expected)
        assert matrix[:, [0, -1]].isnan().all()
        assert not dalpha.isnan().any()

    def test_sigmoid_of_any_size(self, dtype: torch.dtype) -> None:
        """With constant signals the activation is a sigmoid of the gate; no gate is too large."""
        gate = torch.linspace(-110, 110, 4001, dtype=dtype)[:, None].contiguous()
        gate = torch.cat([gate, gate.new_tensor([[0.0], [-800.0], [800.0], [-1e30], [1e30]])])
        _, to, back, reflections = swiglu_matrices(0, 0, gate, True)
        assert reflections is not None
        scalars = zeros(len(gate), 2, dtype=dtype)
        found = swiglu(torch.ones(len(gate), 1, 2, dtype=dtype), scalars, gate, to, back, reflections)[:, 0]
        expected = torch.sigmoid(gate.double())
        error = (found.double() / float(found[gate == 0] * 2) - expected).abs()
        assert (error / expected)[gate > -85].max() < 8 * torch.finfo(dtype).eps
        assert error[gate <= -85].max() < 2e-37

    def test_not_a_number_stays_one(self, dtype: torch.dtype) -> None:
        layer = Layer(dtype=dtype)
        layer.gate[3, 2] = layer.channels[4, 8] = torch.nan
        bad = swiglu(layer.x, layer.scalars, layer.gate, *layer.sphere).isnan()
        assert bad[3, :, 2].all()
        assert bad.sum() == bad.shape[1]
        logits = head_logits(layer.channels, *layer.norm, 1e-5).isnan()
        assert logits[4, 1]
        assert logits.sum() == 1

    def test_results_do_not_depend_on_threads_or_strides(self, dtype: torch.dtype) -> None:
        layer = of(200, 32, 64, 8, lmax=4, mmax=2, dtype=dtype)

        def all_results(copy: bool) -> list[Tensor]:
            scalars, gate, channels = (t.mT.contiguous().mT if copy else t
                                       for t in (layer.scalars, layer.gate, layer.channels))
            buffers = [torch.empty_like(t) for t in (layer.scalars, layer.gate, layer.channels)]
            out = [swiglu(layer.x, scalars, gate, *layer.sphere), head_logits(channels, *layer.norm, 1e-5),
                   swiglu_backward(layer.g, layer.x, scalars, gate, *layer.sphere, *buffers[:2])]
            head_logits_backward(layer.dlogits, channels, *layer.norm, 1e-5, buffers[2])
            return out + buffers

        threads, expected = torch.get_num_threads(), all_results(copy=False)
        try:
            for n in (1, 3):
                torch.set_num_threads(n)
                for found, wanted in zip(all_results(copy=True), expected, strict=True):
                    assert torch.equal(found, wanted)
        finally:
            torch.set_num_threads(threads)


class TestOperators:
    def test_opcheck(self) -> None:
        layer, ops = Layer(), torch.ops.mlip
        logits = [layer.channels, *layer.norm, 1e-5]
        for operator, arguments in (
                (ops.swiglu, layer.inputs()), (ops.head_logits, logits),
                (ops.swiglu_backward, [*layer.inputs(), layer.g, layer.scalars.clone(), layer.gate.clone()]),
                (ops.head_logits_backward, [*logits, layer.dlogits, layer.channels.clone()])):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's own
                torch.library.opcheck(operator.default, tuple(arguments))

    @pytest.mark.parametrize("change", [
        {0: zeros(22, 7, 10)}, {0: zeros(23, 6, 10)}, {0: zeros(23, 7, 8)}, {0: zeros(23, 7)},
        {0: zeros(23, 7, 10, dtype=torch.float32)}, {1: zeros(22, 10)}, {1: zeros(23, 9)},
        {1: zeros(23, 10, 1)}, {2: zeros(22, 5)}, {2: zeros(23, 4)},
        {2: zeros(23, 5, dtype=torch.float32)}, {3: zeros(4, 6)}, {3: zeros(7)},
        {4: zeros(3, 7)}, {5: zeros(6, dtype=torch.int64)}, {5: torch.full((7,), 8)}, {6: zeros(3)},
        {7: zeros(23, 7, 6)}, {7: zeros(23, 7, 5, dtype=torch.float32)}, {8: zeros(23, 9)},
        {8: zeros(10, 23).mT}, {8: zeros(10).expand(23, 10)}, {9: zeros(22, 5)},
        {9: zeros(23, 5, dtype=torch.float32)}, {9: zeros(23, 10)[:, ::2]},
    ], ids=lambda change: str({k: (*v.shape, v.dtype) for k, v in change.items()}))
    def test_wrong_arguments_swiglu(self, change: dict[int, Tensor]) -> None:
        layer = Layer()
        arguments = [*layer.inputs(), layer.g, layer.scalars.clone(), layer.gate.clone()]
        refused(torch.ops.mlip.swiglu_backward, arguments, change)
        if min(change) < 7:
            refused(torch.ops.mlip.swiglu, arguments[:7], change)

    @pytest.mark.parametrize("change", [
        {0: zeros(23, 20)}, {0: zeros(23, 3, 7)}, {0: zeros(23, 21, dtype=torch.float32)},
        {1: zeros(6)}, {1: zeros(7, dtype=torch.float32)}, {2: zeros(1, 7)}, {3: zeros(3, 6)},
        {3: zeros(21)}, {3: zeros(7, 3)}, {5: zeros(23, 2)}, {5: zeros(22, 3)},
        {5: zeros(23, 3, dtype=torch.float32)}, {6: zeros(23, 20)}, {6: zeros(21, 23).mT},
        {6: zeros(21).expand(23, 21)}, {6: zeros(23, 21, dtype=torch.float32)},
    ], ids=lambda change: str({k: (*v.shape, v.dtype) for k, v in change.items()}))
    def test_wrong_arguments_head_logits(self, change: dict[int, Tensor]) -> None:
        layer = Layer()
        arguments = [layer.channels, *layer.norm, 1e-5, layer.dlogits, layer.channels.clone()]
        refused(torch.ops.mlip.head_logits_backward, arguments, change)
        if min(change) < 5:
            refused(torch.ops.mlip.head_logits, arguments[:5], change)


def refused(operator: Any, arguments: list[Any], change: dict[int, Tensor]) -> None:
    """Assert that the operator takes the arguments, but not with the change."""
    operator(*arguments)
    arguments = [change.get(place, value) for place, value in enumerate(arguments)]
    with pytest.raises(RuntimeError, match="mlip: "):
        operator(*arguments)
