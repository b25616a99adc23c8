"""The edge convolution: what the shared class of all ops does not ask."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mlip.ops import Backend, Edges, edge_convolution
from mlip.so3.degrees import Paths


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


class TestConvolution:
    def test_order_of_the_edges_of_a_receiver_does_not_matter(self, backend: Backend) -> None:
        paths = Paths.all(1, 2, 2)
        h, y, r = numbers(3, 4, 4, 3), numbers(4, 9, 9), numbers(5, 9, paths.weights, 3)
        sender, receiver = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 0], [0, 0, 0, 1, 1, 2, 2, 3, 3]])
        order = torch.tensor([2, 0, 1, 4, 3, 6, 5, 8, 7])
        a = edge_convolution(h, y, r, Edges.of(sender, receiver, 4), paths, backend)
        b = edge_convolution(h, y[order], r[order], Edges.of(sender[order], receiver, 4), paths, backend)
        for x, z in zip(a, b, strict=True):
            torch.testing.assert_close(x, z, rtol=0, atol=1e-13)

    def test_scalars_are_weighted_sums(self, backend: Backend) -> None:
        edges = Edges.of(torch.tensor([1, 2, 0]), torch.tensor([0, 0, 1]), 3)
        h, r = numbers(0, 3, 1, 2), numbers(1, 3, 1, 2)
        (out,) = edge_convolution(h, torch.ones(3, 1, dtype=torch.float64), r, edges, Paths(((0, 0, 0),)), backend)
        expected = torch.stack([r[0, 0] * h[1, 0] + r[1, 0] * h[2, 0], r[2, 0] * h[0, 0], torch.zeros(2).double()])
        torch.testing.assert_close(out[:, 0, 0], expected)

    def test_many_edges_may_share_a_row(self, backend: Backend) -> None:
        paths = Paths.all(1, 1, 1)
        sender, receiver = torch.from_numpy(np.random.default_rng(0).integers(0, 30, (2, 900)))
        receiver = torch.sort(receiver).values
        inputs = [numbers(0, 30, 4, 3), numbers(1, 900, 4), numbers(2, 5, paths.weights, 3)]
        inputs = [t.requires_grad_() for t in inputs]
        edges = Edges.of(sender, receiver, 30, torch.arange(900) % 5)
        before, found = torch.get_num_threads(), []
        try:
            for threads in (1, 4):
                torch.set_num_threads(threads)
                out = edge_convolution(*inputs, edges, paths, backend)
                found.append(torch.autograd.grad(sum(t.sin().sum() for t in out), inputs))
        finally:
            torch.set_num_threads(before)
        for one, four in zip(*found, strict=True):
            torch.testing.assert_close(one, four, rtol=1e-12, atol=1e-12)
        out = edge_convolution(*inputs, edges, paths, "reference")
        for theirs, ours in zip(torch.autograd.grad(sum(t.sin().sum() for t in out), inputs), found[0], strict=True):
            torch.testing.assert_close(theirs, ours, rtol=1e-11, atol=1e-11)
