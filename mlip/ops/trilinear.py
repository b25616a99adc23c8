"""Autograd of compiled operators that are linear in each of three tensors; they are closed under differentiation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor


def register_trilinear(name: str, shape: Callable[..., Tensor]) -> None:
    """Register shapes and derivatives of the operators mlip::NAME and mlip::NAME_backward.

    With T(a, b, c; g) = <g, NAME(a, b, c)>, the first is the derivative of T by g, and NAME_backward(a, b, c, g, which,
    ...) those by a, b and c whose bits (1, 2, 4) are set in `which`; the others are empty. The derivative of each is
    again made of the two.

    Args:
        name: of the operator, whose arguments are (a, b, c, ...); those after c are not differentiated.
        shape: called like the operator, returns an empty tensor as large as its result.
    """
    pair = _Pair(name)
    fake: Callable[..., None] = torch.library.register_fake
    register: Callable[..., None] = torch.library.register_autograd
    fake(f"mlip::{name}", shape)
    fake(f"mlip::{name}_backward", _backward_shape)
    register(f"mlip::{name}", pair.differentiate, setup_context=_save)
    register(f"mlip::{name}_backward", pair.differentiate_backward, setup_context=_save_backward)


class _Pair:
    """The two operators of one trilinear form."""

    def __init__(self, name: str) -> None:
        self.name = name

    def value(self, x: Sequence[Tensor], rest: Sequence[Any]) -> Tensor:
        return getattr(torch.ops.mlip, self.name)(*x, *rest)  # type: ignore[no-any-return]

    def backward(self, x: Sequence[Tensor], g: Tensor, wanted: Sequence[bool],
                 rest: Sequence[Any]) -> list[Tensor | None]:
        which = wanted[0] + 2 * wanted[1] + 4 * wanted[2]
        if not which:
            return [None, None, None]
        found = getattr(torch.ops.mlip, f"{self.name}_backward")(*x, g, which, *rest)
        return [tensor if want else None for tensor, want in zip(found, wanted, strict=True)]

    def differentiate(self, ctx: Any, g: Tensor | None) -> tuple[Tensor | None, ...]:
        x, rest = ctx.saved_tensors[:3], (*ctx.saved_tensors[3:], *ctx.numbers)
        found = [None, None, None] if g is None else self.backward(x, g, ctx.needs_input_grad[:3], rest)
        return *found, *[None] * len(rest)

    def differentiate_backward(self, ctx: Any, *v: Tensor | None) -> tuple[Tensor | None, ...]:
        x, g, rest = ctx.saved_tensors[:3], ctx.saved_tensors[3], (*ctx.saved_tensors[4:], *ctx.numbers)
        needs, by_g = ctx.needs_input_grad, []
        gradients: list[list[Tensor | None]] = [[None, None, None]]
        for k, tangent in enumerate(v):  # the term T(..., v_k in the place of argument k, ...; g)
            if tangent is None or not ctx.which >> k & 1:
                continue
            exchanged = [tangent if i == k else x[i] for i in range(3)]
            gradients.append(self.backward(exchanged, g, [needs[i] and i != k for i in range(3)], rest))
            if needs[3]:
                by_g.append(self.value(exchanged, rest))
        return (*(total(column) for column in zip(*gradients, strict=True)), total(by_g), None, *[None] * len(rest))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    tensors = [t for t in inputs if isinstance(t, Tensor)]
    ctx.set_materialize_grads(False)  # None instead of zeros, with which all terms would be computed
    ctx.save_for_backward(*tensors)
    ctx.numbers = inputs[len(tensors) :]


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.which = inputs[4]
    _save(ctx, (*inputs[:4], *inputs[5:]), output)


def _backward_shape(a: Tensor, b: Tensor, c: Tensor, g: Tensor, which: int, *rest: Any) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(t, memory_format=torch.contiguous_format) if which >> k & 1 else t.new_empty(0)
                 for k, t in enumerate((a, b, c)))


def total(terms: Iterable[Tensor | None]) -> Tensor | None:
    """Return the sum of the terms that are there, None if there are none; the first may be overwritten."""
    present = [t for t in terms if t is not None]
    if torch.is_grad_enabled():
        return sum(present[1:], start=present[0]) if present else None
    for other in present[1:]:
        present[0].add_(other)
    return present[0] if present else None
