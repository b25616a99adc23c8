"""Products of weights, made once where the weights are constants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

_Kept = tuple[list[Any], tuple[Tensor, ...], tuple[Tensor, ...]]  # key, weights, result


class Merged(nn.Module):
    """Keeps what a function makes of weights that are not trained, until they change.

    Changes are seen by torch's counter of changes in place, which those through `weight.data` leave alone. The weights
    themselves are kept, too: others that are made anew for each call could come to lie where they were.
    """

    def __init__(self) -> None:
        super().__init__()
        self._kept: _Kept = ([], (), ())  # one attribute: other threads see all of it or nothing

    def forward(self, make: Callable[..., tuple[Tensor, ...]], *weights: Tensor) -> tuple[Tensor, ...]:
        """Return make(*weights)."""
        if torch.compiler.is_compiling() or any(w.requires_grad for w in weights):
            return make(*weights)
        key = [(w.data_ptr(), w._version, w.dtype, w.device) for w in weights]
        kept = self._kept
        if key != kept[0]:
            with torch.inference_mode(False), torch.no_grad():
                kept = self._kept = key, weights, make(*weights)
        return kept[2]

    def _apply(self, fn: Any, recurse: bool = True) -> Merged:
        self._kept = ([], (), ())
        return super()._apply(fn, recurse)  # type: ignore[no-any-return, no-untyped-call]

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what can be made again, in copies too: they have other weights."""
        return {**self.__dict__, "_kept": ([], (), ())}
