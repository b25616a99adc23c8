"""Training: labelled structures -> a potential. Nothing heavy is imported before it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlip._lazy import lazy

if TYPE_CHECKING:
    from mlip.training.calibration import Calibration, spread_against_error
    from mlip.training.config import DenoisingConfig, Stage, TrainingConfig
    from mlip.training.data import Dataset, split
    from mlip.training.driver import check, run
    from mlip.training.evaluation import Evaluation, evaluate_on
    from mlip.training.initial import initial_potential, separate_isolated
    from mlip.training.loop import train
    from mlip.training.memory import keep_freed_memory
    from mlip.training.metrics import Errors, errors
    from mlip.training.recipe import Recipe
    from mlip.training.replay import ReplayConfig
    from mlip.training.sources import Data, DataConfig, load_data
    from mlip.training.start import StartConfig, starting_potential
    from mlip.training.start_direct import conservative_from
    from mlip.training.store import FrameStore

_HOMES = {
    "Calibration": "mlip.training.calibration",
    "spread_against_error": "mlip.training.calibration",
    "DenoisingConfig": "mlip.training.config",
    "Stage": "mlip.training.config",
    "TrainingConfig": "mlip.training.config",
    "Dataset": "mlip.training.data",
    "split": "mlip.training.data",
    "check": "mlip.training.driver",
    "run": "mlip.training.driver",
    "Evaluation": "mlip.training.evaluation",
    "evaluate_on": "mlip.training.evaluation",
    "initial_potential": "mlip.training.initial",
    "separate_isolated": "mlip.training.initial",
    "train": "mlip.training.loop",
    "keep_freed_memory": "mlip.training.memory",
    "Errors": "mlip.training.metrics",
    "errors": "mlip.training.metrics",
    "Recipe": "mlip.training.recipe",
    "ReplayConfig": "mlip.training.replay",
    "Data": "mlip.training.sources",
    "DataConfig": "mlip.training.sources",
    "load_data": "mlip.training.sources",
    "StartConfig": "mlip.training.start",
    "starting_potential": "mlip.training.start",
    "conservative_from": "mlip.training.start_direct",
    "FrameStore": "mlip.training.store",
}

__all__ = ["Calibration", "Data", "DataConfig", "Dataset", "DenoisingConfig", "Errors", "Evaluation", "FrameStore",
           "Recipe", "ReplayConfig", "Stage", "StartConfig", "TrainingConfig", "check", "conservative_from", "errors",
           "evaluate_on", "initial_potential", "keep_freed_memory", "load_data", "run", "separate_isolated", "split",
           "spread_against_error", "starting_potential", "train"]

__getattr__, __dir__ = lazy(__name__, _HOMES)
