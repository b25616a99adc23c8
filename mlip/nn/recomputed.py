"""Functions that are evaluated again in the backward pass, so that nothing inside them is kept until then.

`torch.utils.checkpoint` does not do here: without reentrance it keeps what operators attach to their nodes, and with
it neither `torch.autograd.grad` nor second derivatives work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Function = Callable[..., tuple[Tensor, ...]]


def recomputed(function: Function, inputs: Sequence[Tensor], weights: Sequence[Tensor] = ()) -> tuple[Tensor, ...]:
    """Return `function(*inputs)` and keep no more than the inputs for its derivatives, of any order.

    Args:
        function: returns a tuple of tensors; the same at each call.
        inputs: its arguments.
        weights: tensors that the function uses beside its arguments, leaves of the graph, whose derivatives may be
            asked for; the inputs must not depend on them.
    """
    found: tuple[Tensor, ...] = _Recomputed.apply(function, len(inputs), *inputs, *weights)  # type: ignore[no-untyped-call]
    return found


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Function, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.function, ctx.count = function, count
        ctx.save_for_backward(*tensors)
        return function(*tensors[:count])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        twice = torch.is_grad_enabled()  # somebody keeps the graph of the derivatives
        saved = ctx.saved_tensors
        with torch.enable_grad():
            inputs = [x.view_as(x) if twice else x.detach().requires_grad_(x.requires_grad) for x in saved[:ctx.count]]
            found = [(y, g) for y, g in zip(ctx.function(*inputs), gradients, strict=True) if y.requires_grad]
            slots = [*inputs, *saved[ctx.count:]]
            wanted = [i for i, x in enumerate(slots) if x.requires_grad]
            values = torch.autograd.grad([y for y, _ in found], [slots[i] for i in wanted], [g for _, g in found],
                                         create_graph=twice, allow_unused=True) if found else [None] * len(wanted)
        by_slot = dict(zip(wanted, values, strict=True))
        return None, None, *(by_slot.get(i) for i in range(len(slots)))
