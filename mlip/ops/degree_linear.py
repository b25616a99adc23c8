"""Linear maps of the channels of each degree: matrices that are constants, and may depend on the kind of atom."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any

import torch
from torch import Tensor

from mlip.ops._library import LIBRARY
from mlip.ops.tables import CPU


@dataclass(frozen=True)
class Rows:
    """How one number of channels, or one for each degree, lies in memory.

    Attributes:
        channels: of each degree.
        components: if given, all degrees lie together, [N, components, C], and those above are left alone; else one
            after the other, each [N, 2l+1, C(l)].
    """

    channels: tuple[int, ...]
    components: int | None = None

    @property
    def width(self) -> int:
        """Numbers of one atom."""
        if self.components is not None:
            return self.components * self.channels[0]
        return sum((2 * l + 1) * c for l, c in enumerate(self.channels))

    def place(self, l: int) -> tuple[int, int, int, int]:
        """Return where rows begin: a number, one for each atom, and the distances of atoms and of components."""
        c = self.channels[l]
        if self.components is not None:
            return l * l * c, 0, self.components * c, c
        return 0, sum((2 * k + 1) * self.channels[k] for k in range(l)), (2 * l + 1) * c, c


def joined(matrices: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the weights of `degree_linear` for matrices [kinds, C in, C out], one for each degree.

    Returns:
        [kinds, numbers], the matrices of the degrees one after the other, and the same with each matrix transposed.
    """
    return (torch.cat([m.flatten(1) for m in matrices], dim=1),
            torch.cat([m.mT.flatten(1) for m in matrices], dim=1))


def degree_linear(x: Tensor, weights: tuple[Tensor, ...], rows: Rows, out: Rows, kinds: Tensor | None = None) -> Tensor:
    """Return x with the channels of each degree mapped by a matrix, as numbers that lie as `out` says.

    By the compiled kernels alone: the plain torch forms are those of `mlip.nn.linear`.

    Args:
        x: its numbers lie as `rows` says.
        weights: see `joined`; constants.
        rows: of `x`.
        out: of the result; degrees that no matrix makes are zero.
        kinds: [N] int64, the kind of each atom; None where all are alike.

    Returns:
        [N * out.width]; differentiable by `x` any number of times.
    """
    kinds = _none() if kinds is None else kinds
    return torch.ops.mlip.degree_linear(  # type: ignore[no-any-return]
        x, *weights, kinds, table(rows, out), table(out, rows), rows.width, out.width)


@cache
def table(rows: Rows, out: Rows) -> Tensor:
    """Return what the kernels read of both, [degrees, 12] int64; see `csrc/degree_linear.hpp`."""
    blocks, begin = [], 0
    for l, shape in enumerate(zip(rows.channels, out.channels, strict=True)):
        blocks.append([2 * l + 1, *shape, begin, *rows.place(l), *out.place(l)])
        begin += prod(shape)
    return torch.tensor(blocks, device=CPU)


@cache
def _none() -> Tensor:
    return torch.empty(0, dtype=torch.int64, device=CPU)


# Linear in x: the derivative is the map by the transposed matrices, with the places exchanged.

def _register() -> None:
    fake: Callable[[str], Callable[..., Any]] = torch.library.register_fake

    @fake("mlip::degree_linear")
    def _(x: Tensor, weights: Tensor, transposed: Tensor, kinds: Tensor, table: Tensor, back: Tensor, x_width: int,
          out_width: int) -> Tensor:
        return x.new_empty(x.numel() // x_width * out_width)

    def keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, *tensors, x_width, out_width = inputs
        ctx.save_for_backward(*tensors)
        ctx.shape, ctx.widths = x.shape, (out_width, x_width)

    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        weights, transposed, kinds, table, back = ctx.saved_tensors
        dx = torch.ops.mlip.degree_linear(g, transposed, weights, kinds, back, table, *ctx.widths)
        return dx.view(ctx.shape), *[None] * 7

    register: Callable[..., None] = torch.library.register_autograd
    register("mlip::degree_linear", backward, setup_context=keep)


if LIBRARY.path is not None:
    _register()
