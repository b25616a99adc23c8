"""Import of models saved by mace-torch."""

from __future__ import annotations

from mlip.checkpoints.mace_torch.read import read_mace_torch

__all__ = ["read_mace_torch"]
