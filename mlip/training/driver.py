"""`run`: from a recipe to trained models with their cards."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from mlip.checkpoints import Potential
from mlip.errors import OptionError
from mlip.training.initial import initial_potential
from mlip.training.loop import train
from mlip.training.preflight import preflight
from mlip.training.recipe import Recipe
from mlip.training.report import Report
from mlip.training.sources import Data, load_data


def run(recipe: Recipe, folder: str | Path, *, seeds: Sequence[int] = (), devices: int = 1, nodes: int = 1,
        progress: bool = False, report: Callable[[str], object] = print) -> list[Path]:
    """Do what a recipe says, or resume it, and return the paths of the trained models.

    Args:
        recipe: what is trained on what.
        folder: of the run; made if absent. A committee has a folder for each seed in it.
        seeds: of the members of a committee: their weights and the order of their batches; what is held out for
            validation is the same for all. Without any, one model is trained with the seed of the recipe.
        devices: processes of one GPU or CPU each on this machine.
        nodes: machines.
        progress: whether to show bars.
        report: is called with what will be trained on what, before the first step.

    Raises:
        DataError, StructureError: data that no model should be trained on, see `mlip.training.preflight`.
        OptionError, ConfigError: what the recipe asks for is not possible.
        ModelFileError: the folder holds another run.
        NonFiniteError: the loss became NaN or infinite.
    """
    folder = Path(folder)
    if len(set(seeds)) != len(seeds):
        raise OptionError(f"the seeds of a committee must differ; {list(seeds)} were given")
    data = load_data(recipe.data, folder, recipe.base)
    report(str(_preflight(recipe, data)))
    paths = []
    for seed in seeds or (recipe.training.seed,):
        config = dataclasses.replace(recipe.training, seed=seed)
        paths.append(train(untrained(recipe, data, seed), data.training, data.validation,
                           folder / f"seed-{seed}" if seeds else folder, config, info=recipe.info(), devices=devices,
                           nodes=nodes, progress=progress))
    return paths


def check(recipe: Recipe, folder: str | Path) -> Report:
    """Return what would be trained on what; read data are kept in the folder of the run.

    Raises:
        DataError, StructureError, OptionError, ConfigError: as `run`.
    """
    return _preflight(recipe, load_data(recipe.data, Path(folder), recipe.base))


def _preflight(recipe: Recipe, data: Data) -> Report:
    stress = any(stage.stress_weight for stage in recipe.training.parts)
    return preflight(data, cutoff=untrained(recipe, data, recipe.training.seed).cutoff, stress=stress)


def untrained(recipe: Recipe, data: Data, seed: int) -> Potential:
    """Return the potential that the training begins with."""
    fields = dict(recipe.model)
    return initial_potential(fields.pop("family", "mace"), data.training, data.isolated, seed, **fields)
