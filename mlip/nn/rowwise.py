"""Functions that treat each row on its own, for some rows at a time: what they need on the way never exists at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

ROWS = 4096


def by_rows(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return function(x), computed for `ROWS` rows at a time, and again for the derivative.

    Args:
        function: makes [n, ...] of [n, ...]; each row depends on one row, and on nothing else that is differentiated.
        x: [N, ...].
    """
    if len(x) <= ROWS or torch.compiler.is_compiling():
        return function(x)
    apply: Callable[..., Tensor] = _ByRows.apply
    return apply(x, function)


class _ByRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.function = function
        ctx.save_for_backward(x)
        return torch.cat([function(part) for part in torch.split(x, ROWS)])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again
            y = x.view_as(x)
            return torch.autograd.grad(ctx.function(y), y, g, create_graph=True)[0], None
        found = []
        for part, upstream in zip(torch.split(x, ROWS), torch.split(g, ROWS), strict=True):
            with torch.enable_grad():
                leaf = part.detach().requires_grad_()
                out = ctx.function(leaf)
            found.append(torch.autograd.grad(out, leaf, upstream)[0])
        return torch.cat(found), None
