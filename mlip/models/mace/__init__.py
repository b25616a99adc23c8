"""MACE: configuration, blocks, model, and the names of foreign checkpoints."""

from mlip.models.mace.config import MACEConfig
from mlip.models.mace.model import MACE

__all__ = ["MACE", "MACEConfig"]
