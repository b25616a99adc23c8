"""The compiled operators as torch sees them: its own checks, and arguments that do not fit."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mlip.ops import Edges, Rows, joined
from mlip.ops._library import LIBRARY
from mlip.ops.degree_linear import table
from mlip.ops.sphere_tables import Form, octant_powers, product_table
from mlip.ops.tables import path_tables
from mlip.so3.degrees import Paths


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


@pytest.mark.skipif(LIBRARY.path is None, reason=LIBRARY.problem)
class TestOperators:
    """`torch.library.opcheck`: schema, fake kernel, autograd registration, tracing with symbolic shapes."""

    @staticmethod
    def convolution_arguments(dtype: torch.dtype) -> tuple[list[Tensor], Tensor, list[Tensor]]:
        paths = Paths.all(1, 2, 2)
        shapes = (4, 4, 3), (9, 9), (6, paths.weights, 3)
        inputs = [numbers(k, *shape).to(dtype).requires_grad_() for k, shape in enumerate(shapes)]
        sender, receiver = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 0], [0, 0, 0, 1, 1, 2, 2, 3, 3]])
        edges = Edges.of(sender, receiver, 4, torch.tensor([0, 1, 2, 3, 4, 5, 3, 1, 0]))
        rest = [edges.sender, edges.offsets, edges.row, *path_tables(paths)]
        gradient = torch.randn(sum(2 * l + 1 for _, _, l in paths.triples) * 4 * 3, dtype=dtype).requires_grad_()
        return inputs, gradient, rest

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    def test_edge_convolution(self, dtype: torch.dtype) -> None:
        inputs, gradient, rest = self.convolution_arguments(dtype)
        check(torch.ops.mlip.edge_convolution.default, (*inputs, len(gradient), *rest))
        for which in range(1, 8):
            check(torch.ops.mlip.edge_convolution_backward.default, (*inputs, gradient, which, *rest))

    def test_sparse_product(self) -> None:
        x, y = numbers(1, 3, 9, 3).requires_grad_(), numbers(2, 3, 4, 3).requires_grad_()
        table = product_table(Form("poisson", 2, 1, 3))
        for arguments in ((x, y, *table, 16, 0, 1), (numbers(0, 3, 16, 3).requires_grad_(), y, *table, 9, 1, 0)):
            check(torch.ops.mlip.sparse_product.default, arguments)
        index, coefficients = table
        for wrong in ((x, y[:2], *table, 16, 0, 1), (x, y.float(), *table, 16, 0, 1), (x, y, *table, 8, 0, 1),
                      (x, y, index + 9, coefficients, 16, 0, 1), (x, y, index - 20, coefficients, 16, 0, 1),
                      (x, y, index.int(), coefficients, 16, 0, 1), (x, y, index, coefficients[:3], 16, 0, 1),
                      (x, y, *table, 16, 0, 0), (x, y, *table, 16, 3, 1), (x, y, *table, -1, 0, 1)):
            with pytest.raises(RuntimeError, match="mlip: "):
                torch.ops.mlip.sparse_product(*wrong)

    def test_sphere_powers(self) -> None:
        x, v, g = (numbers(k, *shape).requires_grad_() for k, shape in enumerate(((3, 9, 5), (3, 9, 5), (3, 2, 4, 5))))
        rest = (*octant_powers(2, 1, 3, "integral", x), 2, 3)
        operators = torch.ops.mlip
        for name, arguments in (("", (x,)), ("_jvp", (x, v)), ("_backward", (x, g)), ("_backward_jvp", (x, g, v))):
            check(getattr(operators, f"sphere_powers{name}").default, (*arguments, *rest))
        to, back, parity, zero, *_ = rest
        for wrong in ((x, to[:, :4], back, parity, zero, 2, 3), (x, to, back[:2], parity, zero, 2, 3),
                      (x.float(), *rest), (x, to, back, parity[:4], zero, 2, 3), (x, to, back, parity, zero + 8, 2, 3),
                      (x, to, back, parity, zero, 0, 3), (x, to, back, parity, zero, 3, 2),
                      (x, to, back, parity, zero, 2, 64)):
            with pytest.raises(RuntimeError, match="mlip: "):
                operators.sphere_powers(*wrong)
        for wrong in ((x, g[:, :1], *rest), (x, g.float(), *rest)):
            with pytest.raises(RuntimeError, match="mlip: "):
                operators.sphere_powers_backward(*wrong)
        with pytest.raises(RuntimeError, match="mlip: "):
            operators.sphere_powers_jvp(x, v[:2], *rest)

    def test_degree_linear(self) -> None:
        rows, out = Rows((3, 3), 9), Rows((2, 4))
        x, weights = numbers(0, 5, 9, 3).requires_grad_(), joined([numbers(1, 2, 3, 2), numbers(2, 2, 3, 4)])
        kinds, none, tables = torch.tensor([0, 1, 1, 0, 1]), torch.empty(0).long(), (table(rows, out), table(out, rows))
        check(torch.ops.mlip.degree_linear.default, (x, *weights, kinds, *tables, rows.width, out.width))
        check(torch.ops.mlip.degree_linear.default, (x, *weights, none, *tables, rows.width, out.width))
        for wrong in ((x.float(), *weights, kinds, *tables, 27, 14),
                      (x, *weights, kinds, *(t[0] for t in tables), 27, 14),
                      (x, weights[0][0], weights[1], kinds, *tables, 27, 14),
                      (x, *weights, kinds + 1, *tables, 27, 14), (x, *weights, kinds - 1, *tables, 27, 14),
                      (x, *weights, kinds[:4], *tables, 27, 14), (x, *weights, kinds.int(), *tables, 27, 14),
                      (x, *weights, kinds, tables[0][:, :11], tables[1], 27, 14), (x, *weights, none, *tables, 26, 14),
                      (x, *weights, kinds, tables[0] + 1, tables[1], 27, 14), (x, *weights, kinds, *tables, 27, 13),
                      (x, *weights, kinds, -tables[0], tables[1], 27, 14), (x, *weights, kinds, *tables, 0, 14)):
            with pytest.raises(RuntimeError, match="mlip: "):
                torch.ops.mlip.degree_linear(*wrong)

    def test_radial_table(self) -> None:
        t, interval = torch.rand(7, requires_grad=True), torch.tensor([0, 3, 3, 1, 2, 0, 0])
        coefficients, gradient = torch.randn(4, 6, 5), torch.randn(7, 5, requires_grad=True)
        check(torch.ops.mlip.radial_table.default, (t, interval, coefficients))
        check(torch.ops.mlip.radial_table_backward.default, (t, interval, coefficients, gradient))

    @staticmethod
    def attention_arguments(dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        shapes = (4, 2, 6), (4, 2, 6), (4, 2, 6), (9, 3), (9, 2), (2, 3, 3)
        inputs, direction = ([numbers(s + k, *shape).to(dtype).requires_grad_() for k, shape in enumerate(shapes)]
                             for s in (0, 6))
        return inputs, direction, [torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 0]), torch.tensor([0, 3, 5, 5, 9])]

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    def test_edge_attention(self, dtype: torch.dtype) -> None:
        inputs, direction, edges = self.attention_arguments(dtype)
        check(torch.ops.mlip.edge_attention.default, (*inputs, *edges))
        out, lse = (t.detach() for t in torch.ops.mlip.edge_attention(*inputs, *edges))
        g = numbers(9, 4, 2, 6).to(dtype).requires_grad_()
        for which in (6, 63):
            check(torch.ops.mlip.edge_attention_backward.default, (*inputs, out, lse, g, which, *edges))
        which = 72 if dtype == torch.float32 else 127
        check(torch.ops.mlip.edge_attention_double.default, (*inputs, g, *direction, which, *edges))

    @pytest.mark.parametrize(("place", "wrong", "message"), [
        (0, torch.zeros(4, 2, 5), r"queries must be \[atoms, heads, 2 \* channels\]"),
        (0, torch.zeros(4, 0, 6), "queries must be"),
        (1, torch.zeros(5, 2, 6), "queries, keys and values must have one shape"),
        (2, torch.zeros(4, 2, 8), "queries, keys and values must have one shape"),
        (3, torch.zeros(9, 2), r"vectors must be \[edges, 3\]"),
        (4, torch.zeros(8, 2), r"bias must be \[edges, heads\]"),
        (4, torch.zeros(9), r"bias must be \[edges, heads\]"),
        (5, torch.zeros(2, 3, 2), r"frequencies must be \[heads, channels, 3\]"),
        (5, torch.zeros(2, 3, 3, dtype=torch.float64), "all must have one precision"),
        (0, torch.zeros(4, 2, 6).half(), "all must have one precision"),
        (6, torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 4]), "a sender is out of range"),
        (6, torch.zeros(8).long(), "edges do not fit"),
        (6, torch.zeros(9), "must be int64"),
        (7, torch.tensor([0, 3, 2, 5, 9]), "offsets must ascend"),
        (7, torch.tensor([0, 3, 5, 5, 8]), "offsets must run"),
        (7, torch.tensor([0, 3, 5, 9]), "edges do not fit"),
    ])
    def test_wrong_arguments_of_attention(self, place: int, wrong: Tensor, message: str) -> None:
        inputs, direction, edges = self.attention_arguments(torch.float32)
        arguments = [t.detach() for t in (*inputs, *edges)]
        out, lse = torch.ops.mlip.edge_attention(*arguments)
        arguments[place] = wrong
        x, rest = arguments[:6], arguments[6:]
        for call in (lambda: torch.ops.mlip.edge_attention(*x, *rest),
                     lambda: torch.ops.mlip.edge_attention_backward(*x, out, lse, out, 63, *rest),
                     lambda: torch.ops.mlip.edge_attention_double(*x, out, *direction, 63, *rest)):
            with pytest.raises(RuntimeError, match=f"mlip: edge_attention: .*{message}|mlip: {message}"):
                call()

    def test_wrong_gradients_of_attention(self) -> None:
        inputs, direction, edges = self.attention_arguments(torch.float32)
        inputs, direction = [t.detach() for t in inputs], [t.detach() for t in direction]
        out, lse = torch.ops.mlip.edge_attention(*inputs, *edges)
        for wrong in ((out, lse, out[:3]), (out, lse, out.double()), (out[:, :1], lse, out), (out, lse[:3], out),
                      (out, lse.double(), out)):
            with pytest.raises(RuntimeError, match=r"mlip: .* the (gradient|logarithms) do(es)? not fit the queries"):
                torch.ops.mlip.edge_attention_backward(*inputs, *wrong, 63, *edges)
        for wrong in (direction[0][:3], direction[0].double()):
            with pytest.raises(RuntimeError, match=r"mlip: .* a direction does not fit its tensor"):
                torch.ops.mlip.edge_attention_double(*inputs, out, wrong, *direction[1:], 63, *edges)

    @pytest.mark.parametrize("change", [
        {0: torch.zeros(4, 4, 5)},  # channels
        {2: torch.zeros(6, 3, 3)},  # paths
        {3: 7},  # size of the messages
        {4: torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 9])},  # a sender that is not there
        {5: torch.tensor([0, 3, 2, 7, 9])},  # offsets
        {6: torch.tensor([0, 1, 2, 3, 4, 5, 3, 1, 6])},  # a row of the weights that is not there
        {1: torch.zeros(9, 9, dtype=torch.float64)},
        {4: torch.zeros(9)},
    ])
    def test_wrong_arguments_raise(self, change: dict[int, Any]) -> None:
        inputs, gradient, rest = self.convolution_arguments(torch.float32)
        arguments: list[Any] = [*(t.detach() for t in inputs), len(gradient), *rest]
        torch.ops.mlip.edge_convolution(*arguments)
        for place, tensor in change.items():
            arguments[place] = tensor
        with pytest.raises(RuntimeError, match="mlip: "):
            torch.ops.mlip.edge_convolution(*arguments)


def check(operator: Any, arguments: tuple[Any, ...]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own
        torch.library.opcheck(operator, arguments)
