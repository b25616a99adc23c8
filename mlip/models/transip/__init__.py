"""TransIP (arXiv 2510.00027): a plain Transformer that learns rotations instead of being built for them."""

from mlip.models.transip.config import SIZES, TransIPConfig
from mlip.models.transip.model import DirectTransIP, TransIP

__all__ = ["SIZES", "DirectTransIP", "TransIP", "TransIPConfig", "make_model"]


def make_model(config: TransIPConfig) -> TransIP:
    """Return the model of a configuration, with random weights."""
    return DirectTransIP(config) if config.forces == "direct" else TransIP(config)
