"""Training: labelled structures -> a potential. Nothing heavy is imported before it is used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlip.training.config import TrainingConfig
    from mlip.training.data import Dataset
    from mlip.training.initial import initial_potential
    from mlip.training.loop import train
    from mlip.training.metrics import Errors, errors

_HOMES = {
    "TrainingConfig": "mlip.training.config", "Dataset": "mlip.training.data",
    "initial_potential": "mlip.training.initial", "train": "mlip.training.loop",
    "Errors": "mlip.training.metrics", "errors": "mlip.training.metrics",
}

__all__ = ["Dataset", "Errors", "TrainingConfig", "errors", "initial_potential", "train"]


def __getattr__(name: str) -> Any:
    """Import public names when they are first used: the command line reads only the options."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'mlip.training' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
