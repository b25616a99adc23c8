"""What an attention layer does to an edge between its two linear maps: compiled only, not differentiable.

The functions forward and backward are what training differentiates in plain torch (`GraphAttention.activate` and
`GraphAttention.logits` of EquiformerV3). Scalars, gates, the channels of heads and the buffers for their derivatives
may be ranges of the columns of wider matrices.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mlip.ops._library import LIBRARY


def swiglu(hidden: Tensor, scalars: Tensor, gate: Tensor, to: Tensor, back: Tensor,
           reflections: tuple[Tensor, Tensor]) -> Tensor:
    """Return the product on the sphere of two signals times a gate, with a product of scalars added.

    With (a, b) and (s1, s2) the halves of the channels of `hidden` and `scalars`, and P their product as
    `mlip.ops.sphere_product(a, b, to, to, back, reflections)` makes it: out[e, k, c] = sigmoid(gate[e, c]) P[e, k, c],
    plus silu(s1[e, c]) s2[e, c] for k = 0 (arXiv 2604.09130).

    Args:
        hidden: [E, K, 2C].
        scalars: [E, 2C].
        gate: [E, C].
        to: [R, K], as `mlip.ops.sphere_tables.swiglu_matrices` makes it, like all that follow.
        back: [R, K].
        reflections: [at least K] and [R] int64.

    Returns:
        [E, K, C].

    Raises:
        RuntimeError: sizes or precisions that do not fit each other.
    """
    return torch.ops.mlip.swiglu(hidden, scalars, gate, to, back, *reflections)  # type: ignore[no-any-return]


def swiglu_backward(g: Tensor, hidden: Tensor, scalars: Tensor, gate: Tensor, to: Tensor, back: Tensor,
                    reflections: tuple[Tensor, Tensor], dscalars: Tensor, dgate: Tensor) -> Tensor:
    """Return the derivative of `swiglu` by `hidden`; write the others into buffers.

    Args:
        g: [E, K, C], the gradient of what is differentiated, by the result.
        hidden: as for `swiglu`, like all that follow.
        scalars: [E, 2C].
        gate: [E, C].
        to: [R, K].
        back: [R, K].
        reflections: [at least K] and [R].
        dscalars: [E, 2C], overwritten.
        dgate: [E, C], overwritten.

    Returns:
        [E, K, 2C].
    """
    return torch.ops.mlip.swiglu_backward(  # type: ignore[no-any-return]
        hidden, scalars, gate, to, back, *reflections, g, dscalars, dgate)


def head_logits(alpha: Tensor, weight: Tensor, bias: Tensor, dot: Tensor, eps: float) -> Tensor:
    """Return the logits of attention heads.

    out[e, h] = sum_a dot[h, a] f(y[e, h, a]) with f(y) = 0.2 y + 0.8 silu(y), where y[e, h] is the layer norm of the
    channels alpha[e, h].

    Args:
        alpha: [E, H * A].
        weight: [A], of the layer norm.
        bias: [A], of the layer norm.
        dot: [H, A].
        eps: of the layer norm, added to the variance.

    Returns:
        [E, H].

    Raises:
        RuntimeError: sizes or precisions that do not fit each other.
    """
    return torch.ops.mlip.head_logits(alpha, weight, bias, dot, eps)  # type: ignore[no-any-return]


def head_logits_backward(g: Tensor, alpha: Tensor, weight: Tensor, bias: Tensor, dot: Tensor, eps: float,
                         dalpha: Tensor) -> None:
    """Write the derivative of `head_logits` by `alpha` into a buffer.

    Args:
        g: [E, H], the gradient of what is differentiated, by the logits.
        alpha: as for `head_logits`, like all that follow.
        weight: [A].
        bias: [A].
        dot: [H, A].
        eps: of the layer norm.
        dalpha: [E, H * A], overwritten.
    """
    torch.ops.mlip.head_logits_backward(alpha, weight, bias, dot, eps, g, dalpha)


# ---- the operators as torch sees them -------------------------------------------------------------------------------

def _register() -> None:
    fake: Callable[[str], Callable[..., Any]] = torch.library.register_fake

    @fake("mlip::swiglu")
    def _(hidden: Tensor, scalars: Tensor, gate: Tensor, *rest: Tensor) -> Tensor:
        return hidden.new_empty(*hidden.shape[:2], gate.shape[1])

    @fake("mlip::swiglu_backward")
    def _(hidden: Tensor, *rest: Tensor) -> Tensor:
        return torch.empty_like(hidden, memory_format=torch.contiguous_format)

    @fake("mlip::head_logits")
    def _(alpha: Tensor, weight: Tensor, bias: Tensor, dot: Tensor, eps: float) -> Tensor:
        return alpha.new_empty(alpha.shape[0], dot.shape[0])

    @fake("mlip::head_logits_backward")
    def _(*arguments: Any) -> None:
        return None


if LIBRARY.path is not None:
    _register()
