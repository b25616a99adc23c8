"""Model families: each turns an `AtomGraph` into energies."""

from mlip.models.base import EnergyModel, ModelConfig
from mlip.models.families import FAMILIES, REFERENCES, converter, family

__all__ = ["FAMILIES", "REFERENCES", "EnergyModel", "ModelConfig", "converter", "family"]
