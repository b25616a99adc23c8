"""The edge convolution: neighbours' features times harmonics times radial weights, summed on receivers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from mlip.ops._library import LIBRARY
from mlip.ops.backend import Backend, use_compiled
from mlip.ops.tables import coupling, path_tables
from mlip.ops.trilinear import total
from mlip.so3.degrees import Paths, block


@dataclass(frozen=True)
class Edges:
    """Which features, weights and receivers belong to each edge. Edges are sorted by receiver.

    Attributes:
        sender: [E] int64, row of the features.
        receiver: [E] int64, ascending.
        offsets: [R+1] int64, the edges of receiver i are offsets[i] to offsets[i+1].
        row: [E] int64, row of the weights; the two edges of a pair of atoms may share one.
    """

    sender: Tensor
    receiver: Tensor
    offsets: Tensor
    row: Tensor

    @classmethod
    def of(cls, sender: Tensor, receiver: Tensor, receivers: int, row: Tensor | None = None) -> Edges:
        """Return the edges; without `row` each has a row of weights for itself."""
        bounds = torch.arange(receivers + 1, dtype=receiver.dtype, device=receiver.device)
        row = torch.arange(len(sender), dtype=sender.dtype, device=sender.device) if row is None else row
        return cls(sender, receiver, torch.searchsorted(receiver, bounds), row)


def edge_convolution(features: Tensor, harmonics: Tensor, weights: Tensor, edges: Edges, paths: Paths,
                     backend: Backend = "auto") -> list[Tensor]:
    """Return the sum over the edges (j, i) of the tensor product "uvu" of h_j and Y_ji, weighted by R_ji.

    For the path (l1, l2, l3): A_i[m3, c] = sum_j R_ji[c] sqrt(2 l3 + 1)
    sum_{m1 m2} w3j[m1, m2, m3] h_j[m1, c] Y_ji[m2] (Batatia et al., NeurIPS 2022, eq. 8). With `paths.gaunt` the
    signal of h_j is multiplied on the sphere by the filter sum_{l2 m2} R_ji[l2, c] Y_ji[l2 m2] Y_{l2 m2}, all three in
    component-normalised harmonics (Luo et al., ICLR 2024, section 3).

    Args:
        features: h, [N, M1, C], degrees 0..l of the senders.
        harmonics: Y, [E, M2].
        weights: R, [K, W, C], one for each path and channel, or for each degree of the harmonics and channel.
        edges: E edges to R receivers.
        paths: which products, and how they are weighted.
        backend: one of `mlip.ops.backend.BACKENDS`.

    Returns:
        For each l3 in ascending order, [R, 2*l3+1, P(l3), C] with one message for each path, or one for all;
        differentiable any number of times.
    """
    if use_compiled(backend, features, harmonics, weights):
        flat = convolve(features, harmonics, weights, edges, paths)
        return split(flat, edges.offsets.shape[0] - 1, features.shape[2], paths)
    return _reference(features, harmonics, weights, edges, paths)


def convolve(features: Tensor, harmonics: Tensor, weights: Tensor, edges: Edges, paths: Paths) -> Tensor:
    """Return the messages of `edge_convolution` by the compiled kernels, in one buffer for `split`."""
    components = sum((2 * l3 + 1) * count for l3, count in paths.slots.items())
    return _convolve(features, harmonics, weights, components * (edges.offsets.shape[0] - 1) * features.shape[2],
                     (edges.sender, edges.offsets, edges.row, *path_tables(paths)))


def convolve_backward(features: Tensor, harmonics: Tensor, weights: Tensor, gradient: Tensor, by_features: bool,
                      edges: Edges, paths: Paths, dweights: Tensor) -> tuple[Tensor | None, Tensor]:
    """Return the derivatives by features, if wanted, and by harmonics; write that by weights into `dweights`.

    Args:
        features: [N, M1, C].
        harmonics: [E, M2].
        weights: [K, W, C].
        gradient: of what is differentiated, by the result of `convolve`.
        by_features: whether the first is wanted.
        edges: as for `convolve`.
        paths: as for `convolve`.
        dweights: [K, W, C], contiguous; overwritten.
    """
    dh, dy = torch.ops.mlip.edge_convolution_backward_into(
        features, harmonics, weights, gradient, by_features + 2, dweights, edges.sender, edges.offsets, edges.row,
        *path_tables(paths))
    return (dh if by_features else None), dy


def split(flat: Tensor, receivers: int, channels: int, paths: Paths) -> list[Tensor]:
    """Return the messages of each degree, views of the one buffer that the kernels fill."""
    shapes = [(receivers, 2 * l3 + 1, count, channels) for l3, count in paths.slots.items()]
    pieces = torch.split(flat, [prod(shape) for shape in shapes])  # not slices: their gradients would be padded
    return [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]


def _reference(features: Tensor, harmonics: Tensor, weights: Tensor, edges: Edges, paths: Paths) -> list[Tensor]:
    gathered, weights = features.index_select(0, edges.sender), weights.index_select(0, edges.row)
    messages: dict[int, list[Tensor]] = {}
    for (l1, l2, l3), (weight, _) in zip(paths.triples, paths.places(), strict=True):
        cg = coupling(l1, l2, l3, paths.gaunt, features)
        matrices = torch.einsum("abc,eb->eca", cg, harmonics[:, block(l2)])
        product = gathered[:, block(l1)] * matrices if l1 == 0 else matrices @ gathered[:, block(l1)]
        messages.setdefault(l3, []).append(product * weights[:, weight, None, :])
    out = []
    for l3 in sorted(messages):
        stacked = torch.stack(messages[l3], dim=2)
        if paths.gaunt:
            stacked = stacked.sum(dim=2, keepdim=True)
        zeros = stacked.new_zeros(edges.offsets.shape[0] - 1, *stacked.shape[1:])
        out.append(zeros.index_add(0, edges.receiver, stacked))
    return out


# The operators are the trilinear form T(h, y, w; g) by one argument: edge_convolution by g, and _backward by those of
# h, y, w whose bits (1, 2, 4) are set in `which`. The derivative of each is again made of the two.

def _convolve(h: Tensor, y: Tensor, w: Tensor, size: int, rest: Sequence[Tensor]) -> Tensor:
    return torch.ops.mlip.edge_convolution(h, y, w, size, *rest)  # type: ignore[no-any-return]


def _backward(h: Tensor, y: Tensor, w: Tensor, g: Tensor, wanted: Sequence[bool],
              rest: Sequence[Tensor]) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    which = wanted[0] + 2 * wanted[1] + 4 * wanted[2]
    if not which:
        return None, None, None
    found = torch.ops.mlip.edge_convolution_backward(h, y, w, g, which, *rest)
    dh, dy, dw = (tensor if want else None for tensor, want in zip(found, wanted, strict=True))
    return dh, dy, dw


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.set_materialize_grads(False)  # None instead of zeros, with which all terms would be computed
    ctx.save_for_backward(*(x for x in inputs if isinstance(x, Tensor)))
    ctx.which = next((x for x in inputs if isinstance(x, int)), 0)


def _differentiate(ctx: Any, g: Tensor | None) -> tuple[Tensor | None, ...]:
    h, y, w, *rest = ctx.saved_tensors
    found = (None, None, None) if g is None else _backward(h, y, w, g, ctx.needs_input_grad[:3], rest)
    return *found, None, *[None] * len(rest)


def _differentiate_backward(ctx: Any, *v: Tensor | None) -> tuple[Tensor | None, ...]:
    x, g, rest = ctx.saved_tensors[:3], ctx.saved_tensors[3], ctx.saved_tensors[4:]
    needs, by_g = ctx.needs_input_grad, []
    gradients: list[tuple[Tensor | None, ...]] = [(None, None, None)]
    for k, tangent in enumerate(v):  # the term T(..., v_k in the place of argument k, ...; g)
        if tangent is None or not ctx.which >> k & 1:
            continue
        a, b, c = (tangent if i == k else x[i] for i in range(3))
        gradients.append(_backward(a, b, c, g, [needs[i] and i != k for i in range(3)], rest))
        if needs[3]:
            by_g.append(_convolve(a, b, c, g.shape[0], rest))
    dh, dy, dw = (total(column) for column in zip(*gradients, strict=True))
    return dh, dy, dw, total(by_g), None, *[None] * len(rest)


def _register() -> None:
    fake: Callable[[str], Callable[..., Any]] = torch.library.register_fake

    @fake("mlip::edge_convolution")
    def _(h: Tensor, y: Tensor, w: Tensor, size: int, *rest: Tensor) -> Tensor:
        return h.new_empty(size)

    @fake("mlip::edge_convolution_backward")
    def _(h: Tensor, y: Tensor, w: Tensor, g: Tensor, which: int, *rest: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(t) if which >> k & 1 else t.new_empty(0) for k, t in enumerate((h, y, w)))

    @fake("mlip::edge_convolution_backward_into")
    def _(h: Tensor, y: Tensor, w: Tensor, g: Tensor, which: int, dw: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(t) if which >> k & 1 else t.new_empty(0) for k, t in enumerate((h, y)))

    register: Callable[..., None] = torch.library.register_autograd
    register("mlip::edge_convolution", _differentiate, setup_context=_save)
    register("mlip::edge_convolution_backward", _differentiate_backward, setup_context=_save)


if LIBRARY.path is not None:
    _register()
