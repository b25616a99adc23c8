"""Attention of atoms to their neighbours and to themselves, with rotary phases of the edge vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mlip.ops._library import LIBRARY
from mlip.ops.backend import Backend, use_compiled
from mlip.ops.edge_convolution import Edges


def edge_attention(query: Tensor, key: Tensor, value: Tensor, vectors: Tensor, bias: Tensor, frequencies: Tensor,
                   edges: Edges, backend: Backend = "auto") -> Tensor:
    """Return what atoms take from their neighbours and from themselves by attention.

    Channels of a head are complex numbers, real parts first. T(r) multiplies the f-th by exp(i w_f . r), the rotary
    embedding of Su et al. (arXiv 2104.09864) in three dimensions. With the softmax over the edges e = (j, i) and the
    atom itself: out_i = a_ii v_i + sum_e a_e T(r_e) v_j, where the logits are q_i . k_i and q_i . T(r_e) k_j + b_e.

    Args:
        query: q, [N, H, 2F], scaled.
        key: k, [N, H, 2F].
        value: v, [N, H, 2F].
        vectors: r, [E, 3] in A, from the receiver to the sender.
        bias: b, [E, H], added to the logits; may be as low as the numbers of the precision go, but not infinite.
        frequencies: w, [H, F, 3] in 1/A.
        edges: E edges to N receivers; their `row` is not read.
        backend: one of `mlip.ops.backend.BACKENDS`.

    Returns:
        [N, H, 2F]; differentiable any number of times.
    """
    if use_compiled(backend, query, key, value, vectors, bias, frequencies):
        out, _ = torch.ops.mlip.edge_attention(query, key, value, vectors, bias, frequencies, edges.sender,
                                               edges.offsets)
        return out  # type: ignore[no-any-return]
    return _reference(query, key, value, vectors, bias, frequencies, edges)


def _reference(query: Tensor, key: Tensor, value: Tensor, vectors: Tensor, bias: Tensor, frequencies: Tensor,
               edges: Edges) -> Tensor:
    phase = (vectors @ frequencies.flatten(0, 1).T).view(len(vectors), *frequencies.shape[:2])
    cos, sin = torch.cos(phase), torch.sin(phase)
    turned = _turned(key.index_select(0, edges.sender), cos, sin)
    logits = (query.index_select(0, edges.receiver) * turned).sum(-1) + bias
    own = (query * key).sum(-1)
    to = edges.receiver.unsqueeze(1).expand_as(logits)
    top = own.detach().scatter_reduce(0, to, logits.detach(), "amax")  # cancels in the softmax
    weights, alone = torch.exp(logits - top.index_select(0, edges.receiver)), torch.exp(own - top)
    total = alone.index_add(0, edges.receiver, weights)
    messages = _turned(value.index_select(0, edges.sender), cos, sin) * weights.unsqueeze(-1)
    return (alone.unsqueeze(-1) * value).index_add(0, edges.receiver, messages) / total.unsqueeze(-1)


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return the channels [E, H, 2F] times exp(i phase), whose parts are [E, H, F]."""
    real, imaginary = x.chunk(2, dim=-1)
    return torch.cat([real * cos - imaginary * sin, real * sin + imaginary * cos], dim=-1)


# Let x be the six tensors and F(x; g) = <g, out(x)>. edge_attention gives out and, for the backward pass, the
# logarithms of the sums of exponentials; _backward gives dF/dx; _double the derivatives along a direction of x, where
# an empty tensor is zero, of dF/dx and of out. The bit 1 << i of `which` asks for the derivative by the i-th of (x, g).
# _backward counts as a function of x and g alone: what it is told of the result was calculated from x.

INPUTS = 6


def _chosen(found: tuple[Tensor, ...], which: int) -> list[Tensor | None]:
    return [t if which >> i & 1 else None for i, t in enumerate(found)]


def _bits(wanted: tuple[bool, ...]) -> int:
    return sum(1 << i for i, want in enumerate(wanted) if want)


def _fake(q: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty(q.shape[:2])


def _fake_backward(q: Tensor, k: Tensor, v: Tensor, vectors: Tensor, bias: Tensor, frequencies: Tensor, out: Tensor,
                   lse: Tensor, g: Tensor, which: int, sender: Tensor, offsets: Tensor) -> tuple[Tensor, ...]:
    x = q, k, v, vectors, bias, frequencies
    return tuple(t.new_empty(t.shape if which >> i & 1 else 0) for i, t in enumerate(x))


def _fake_double(q: Tensor, k: Tensor, v: Tensor, vectors: Tensor, bias: Tensor, frequencies: Tensor, g: Tensor,
                 vq: Tensor, vk: Tensor, vv: Tensor, vvectors: Tensor, vbias: Tensor, vfrequencies: Tensor, which: int,
                 sender: Tensor, offsets: Tensor) -> tuple[Tensor, ...]:
    x = q, k, v, vectors, bias, frequencies, g
    return tuple(t.new_empty(t.shape if which >> i & 1 else 0) for i, t in enumerate(x))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, *output)


def _keep_inputs(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*(t for t in inputs if isinstance(t, Tensor)))


def _differentiate(ctx: Any, g: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    *x, sender, offsets, out, lse = ctx.saved_tensors
    which = _bits(ctx.needs_input_grad[:INPUTS])
    found = torch.ops.mlip.edge_attention_backward(*x, out, lse, g, which, sender, offsets)
    return *_chosen(found, which), None, None


def _differentiate_backward(ctx: Any, *v: Tensor | None) -> tuple[Tensor | None, ...]:
    *x, _, _, g, sender, offsets = ctx.saved_tensors
    needs = ctx.needs_input_grad
    which = _bits((*needs[:INPUTS], needs[INPUTS + 2]))
    direction = [t.new_empty(0) if along is None else along for t, along in zip(x, v, strict=True)]
    found = torch.ops.mlip.edge_attention_double(*x, g, *direction, which, sender, offsets)
    *by_x, by_g = _chosen(found, which)
    return *by_x, None, None, by_g, None, None, None


# Third derivatives, which no use of the models needs, are those of plain torch.

def _along(g: Tensor, x: Sequence[Tensor], edges: Edges) -> Tensor:
    query, key, value, vectors, bias, frequencies = x
    return (g * _reference(query, key, value, vectors, bias, frequencies, edges)).sum()


def _slope(function: Callable[..., Tensor], point: Sequence[Tensor], direction: Sequence[Tensor]) -> Tensor:
    """Return the derivative of a number along a direction, where an empty tensor is zero."""
    gradients = torch.func.grad(function, argnums=tuple(range(INPUTS)))(*point)
    return sum(((d * v).sum() for d, v in zip(gradients, direction, strict=True) if v.shape == d.shape),
               start=point[0].new_zeros(()))


def _differentiate_double(ctx: Any, *u: Tensor | None) -> tuple[Tensor | None, ...]:
    *tensors, sender, offsets = ctx.saved_tensors
    receiver = torch.repeat_interleave(torch.diff(offsets), output_size=len(sender))
    edges = Edges(sender, receiver, offsets, receiver)
    *ux, ug = (t.new_empty(0) if along is None else along for t, along in zip(tensors, u, strict=False))

    def slope(*tensors: Tensor) -> Tensor:
        x, g, v = tensors[:INPUTS], tensors[INPUTS], tensors[INPUTS + 1 :]

        def form(*x: Tensor) -> Tensor:  # the second derivative commutes
            first = _slope(lambda *x: _along(g, x, edges), x, ux)
            return first if ug.shape != g.shape else first + _along(ug, x, edges)

        return _slope(form, x, v)

    found = torch.func.grad(slope, argnums=tuple(range(len(tensors))))(*tensors)
    return *found, None, None, None


def _register() -> None:
    fake: Callable[..., None] = torch.library.register_fake
    autograd: Callable[..., None] = torch.library.register_autograd
    for name, shapes, backward, keep in (("", _fake, _differentiate, _keep),
                                         ("_backward", _fake_backward, _differentiate_backward, _keep_inputs),
                                         ("_double", _fake_double, _differentiate_double, _keep_inputs)):
        fake(f"mlip::edge_attention{name}", shapes)
        autograd(f"mlip::edge_attention{name}", backward, setup_context=keep)


if LIBRARY.path is not None:
    _register()
