"""Models with their provenance: make, load, save, and evaluate them."""

from mlip.checkpoints.committee import Committee, CommitteePrediction
from mlip.checkpoints.create import create, from_reference
from mlip.checkpoints.evaluator import Evaluator
from mlip.checkpoints.info import ModelInfo
from mlip.checkpoints.load import bundled, load
from mlip.checkpoints.potential import Potential, Prediction

__all__ = ["Committee", "CommitteePrediction", "Evaluator", "ModelInfo", "Potential", "Prediction", "bundled", "create",
           "from_reference", "load"]
