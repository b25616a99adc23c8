"""Training: labelled structures -> a potential. Nothing heavy is imported before it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlip._lazy import lazy

if TYPE_CHECKING:
    from mlip.training.config import TrainingConfig
    from mlip.training.data import Dataset, split
    from mlip.training.initial import initial_potential, separate_isolated
    from mlip.training.loop import train
    from mlip.training.metrics import Errors, errors

_HOMES = {
    "TrainingConfig": "mlip.training.config", "Dataset": "mlip.training.data",
    "split": "mlip.training.data",
    "initial_potential": "mlip.training.initial", "separate_isolated": "mlip.training.initial",
    "train": "mlip.training.loop",
    "Errors": "mlip.training.metrics", "errors": "mlip.training.metrics",
}

__all__ = ["Dataset", "Errors", "TrainingConfig", "errors", "initial_potential", "separate_isolated", "split",
           "train"]

__getattr__, __dir__ = lazy(__name__, _HOMES)
