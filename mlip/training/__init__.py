"""Training: labelled structures -> a potential."""

from mlip.training.config import TrainingConfig
from mlip.training.data import Dataset
from mlip.training.initial import initial_potential
from mlip.training.loop import train
from mlip.training.metrics import Errors, errors

__all__ = ["Dataset", "Errors", "TrainingConfig", "errors", "initial_potential", "train"]
