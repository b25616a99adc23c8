"""Large buffers that are kept from call to call.

Memory fresh from the system is mapped page by page when it is first written, and that costs more than what the
kernels compute in it: 40 % of a call for 1 536 atoms before buffers were kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from threading import Lock

import torch
from torch import Tensor


@dataclass(frozen=True)
class Buffer:
    """Memory on loan, [bytes], and the tensor in it."""

    memory: Tensor
    tensor: Tensor


class Workspace:
    """Lends buffers; those that come back are lent again, those that do not are freed like any tensor.

    One that is too small makes room for its successor. So there are never more than were on loan at once, however the
    sizes wanted change from step to step of dynamics.
    """

    def __init__(self, most: int) -> None:
        """Keep at most `most` bytes of buffers that are not on loan."""
        self.most = most
        self._free: list[Tensor] = []
        self._lock = Lock()

    def take(self, shape: tuple[int, ...], like: Tensor) -> Buffer:
        """Return a buffer for a tensor of a shape, with dtype and device of another; its values are not set."""
        size = prod(shape) * like.element_size()
        with self._lock:
            here = [m for m in self._free if m.device == like.device]
            memory = next((m for m in here if len(m) >= size), None)
            leaving = next(reversed(here), None) if memory is None else memory  # the largest, but too small
            self._free = [m for m in self._free if m is not leaving]
        if memory is None:
            memory = torch.empty(size, dtype=torch.uint8, device=like.device)
        return Buffer(memory, memory[:size].view(like.dtype).view(shape))

    def give(self, buffer: Buffer) -> None:
        """Take a buffer back; nobody may use its tensor any more."""
        with self._lock:
            self._free.append(buffer.memory)
            self._free.sort(key=len)
            while sum(map(len, self._free)) > self.most:
                self._free.pop(0)


WORKSPACE = Workspace(1 << 30)
