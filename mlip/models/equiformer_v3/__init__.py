"""EquiformerV3 (arXiv 2604.09130): equivariant graph attention in frames aligned with the edges."""

from mlip.models.equiformer_v3.config import EquiformerV3Config
from mlip.models.equiformer_v3.direct import Denoising, DirectEquiformerV3
from mlip.models.equiformer_v3.model import EquiformerV3

__all__ = ["Denoising", "DirectEquiformerV3", "EquiformerV3", "EquiformerV3Config", "make_model"]


def make_model(config: EquiformerV3Config) -> EquiformerV3:
    """Return the model of a configuration, with random weights."""
    return DirectEquiformerV3(config) if config.forces == "direct" else EquiformerV3(config)
