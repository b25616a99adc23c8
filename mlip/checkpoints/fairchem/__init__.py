"""Reads checkpoints of fairchem 1 that hold an EquiformerV3, without fairchem and without running code."""

from __future__ import annotations

from mlip.checkpoints.fairchem.read import WEIGHTS, is_fairchem, read_fairchem

__all__ = ["WEIGHTS", "is_fairchem", "read_fairchem"]
