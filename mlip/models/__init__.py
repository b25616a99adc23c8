"""Model families: each turns an `AtomGraph` into energies."""

from mlip.models.base import EnergyModel, ModelConfig
from mlip.models.families import FAMILIES, family

__all__ = ["FAMILIES", "EnergyModel", "ModelConfig", "family"]
