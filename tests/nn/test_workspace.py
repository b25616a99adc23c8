"""Buffers that are lent again."""

from __future__ import annotations

import torch

from mlip.nn.workspace import Workspace

LIKE = torch.zeros((), dtype=torch.float32)


def test_a_buffer_is_lent_again() -> None:
    workspace = Workspace(1 << 20)
    first = workspace.take((4, 5), LIKE)
    assert first.tensor.shape == (4, 5)
    assert first.tensor.dtype == torch.float32
    workspace.give(first)
    again = workspace.take((19,), LIKE)
    assert again.memory is first.memory
    assert workspace.take((19,), LIKE).memory is not first.memory  # it is on loan


def test_sizes_that_grow_do_not_gather() -> None:
    """As in dynamics, where every step has another number of pairs."""
    workspace, seen = Workspace(1 << 20), []
    for count in range(1, 60):
        two = workspace.take((count,), LIKE), workspace.take((2 * count,), LIKE)
        for buffer in two:
            workspace.give(buffer)
        seen.append(len(workspace._free))
    assert set(seen) == {2}


def test_no_more_is_kept_than_allowed() -> None:
    workspace = Workspace(100)
    small, large = workspace.take((10,), LIKE), workspace.take((20,), LIKE)
    workspace.give(small)
    workspace.give(large)
    assert [len(m) for m in workspace._free] == [80]
