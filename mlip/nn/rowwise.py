"""Functions that treat each row on its own, for some rows at a time: what they need on the way never exists at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from mlip.nn.recomputed import recomputed

ROWS = 4096


def by_rows(function: Callable[[Tensor], Tensor], x: Tensor, weights: Iterable[Tensor] = ()) -> Tensor:
    """Return function(x), computed for `ROWS` rows at a time, and again for the derivative.

    Args:
        function: makes [n, ...] of [n, ...]; each row depends on one row, and beside it on `weights` alone.
        x: [N, ...].
        weights: what the function uses and may be differentiated by, as in `recomputed`.
    """
    if len(x) <= ROWS or torch.compiler.is_compiling():
        return function(x)
    trained = [w for w in weights if w.requires_grad]
    return torch.cat([recomputed(lambda rows: (function(rows),), (part,), trained)[0] for part in torch.split(x, ROWS)])
