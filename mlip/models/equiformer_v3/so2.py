"""Linear maps that commute with rotations around an edge."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from mlip.models.equiformer_v3.blocks import uniform
from mlip.nn.merged import Merged
from mlip.so3.edge_frame import EdgeFrame


class SO2Linear(nn.Module):
    """A linear map that commutes with rotations around the edge: complex matrices between components of one order m.

    Components of the orders +m and -m are the parts of complex numbers (Passaro and Zitnick, ICML 2023).
    """

    def __init__(self, lmax: int, mmax: int, inputs: int, outputs: int, extra: int = 0) -> None:
        super().__init__()
        self.frame, self.outputs, self.extra = EdgeFrame(lmax, mmax), outputs, extra
        self.order_0 = nn.Linear((lmax + 1) * inputs, extra + (lmax + 1) * outputs, dtype=torch.float32)
        sizes = [lmax + 1 - m for m in range(1, mmax + 1)]
        self.real = nn.ParameterList(uniform(n * outputs, n * inputs, fan_in=2 * n * inputs) for n in sizes)
        self.imaginary = nn.ParameterList(uniform(n * outputs, n * inputs, fan_in=2 * n * inputs) for n in sizes)
        self.merged = nn.ModuleList(Merged() for _ in sizes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return scalars [E, extra] and components [E, K, outputs] for x [E, K, inputs]."""
        sizes = [x.shape[2] * sum(part.stop - part.start for part in parts) for parts in self.frame.orders()]
        zero, *pairs = torch.split(x.flatten(1), sizes, dim=1)
        scalars, first = self.order_0(zero).tensor_split([self.extra], dim=1)
        out = [first]
        for pair, real, imaginary in zip(pairs, self.real, self.imaginary, strict=True):
            both = torch.cat([torch.cat([real, -imaginary], dim=1), torch.cat([imaginary, real], dim=1)])
            out.append(linear(pair, both))
        return scalars, torch.cat(out, dim=1).view(len(x), self.frame.components, self.outputs)

    def evaluate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return `forward(x)` without a graph; complex products take three real ones (Gauss) instead of four."""
        x, (zero, *pairs) = x.detach(), self.frame.orders()
        out = x.new_empty(len(x), self.frame.components, self.outputs)
        first, weight, bias = x[:, zero[0]].flatten(1), self.order_0.weight.detach(), self.order_0.bias.detach()
        scalars = torch.addmm(bias[: self.extra], first, weight[: self.extra].T)
        torch.addmm(bias[self.extra :], first, weight[self.extra :].T, out=out[:, zero[0]].flatten(1))
        for (plus, minus), (real, total, difference) in zip(pairs, self._three(), strict=True):
            _complex(x[:, plus].flatten(1), x[:, minus].flatten(1), real.T, (total.T, -1), (difference.T, 1),
                     out[:, plus].flatten(1), out[:, minus].flatten(1))
        return scalars, out

    def transposed(self, dscalars: Tensor | None, dout: Tensor, dx: Tensor) -> None:
        """Write the derivative by x into `dx` [E, K, inputs], given those by the scalars and the components."""
        zero, *pairs = self.frame.orders()
        weight, target = self.order_0.weight.detach(), dx[:, zero[0]].flatten(1)
        torch.mm(dout[:, zero[0]].flatten(1), weight[self.extra :], out=target)
        if dscalars is not None:
            target.addmm_(dscalars, weight[: self.extra])
        for (plus, minus), (real, total, difference) in zip(pairs, self._three(), strict=True):
            # the transposed map has the complex conjugate matrix: r and -s
            _complex(dout[:, plus].flatten(1), dout[:, minus].flatten(1), real, (difference, 1), (total, -1),
                     dx[:, plus].flatten(1), dx[:, minus].flatten(1))

    def _three(self) -> list[tuple[Tensor, ...]]:
        """Return for each order W_r, W_r + W_i and W_i - W_r."""
        return [merged(lambda r, i: (r, r + i, i - r), real, imaginary)
                for merged, real, imaginary in zip(self.merged, self.real, self.imaginary, strict=True)]


def _complex(a: Tensor, b: Tensor, real: Tensor, by_b: tuple[Tensor, int], by_a: tuple[Tensor, int],
             plus: Tensor, minus: Tensor) -> None:
    """Write (a + i b)(r + i s) into plus + i minus, given r and, with their signs, -(r + s) and s - r."""
    torch.mm(a + b, real, out=plus)
    minus.copy_(plus)
    plus.addmm_(b, by_b[0], alpha=by_b[1])
    minus.addmm_(a, by_a[0], alpha=by_a[1])
