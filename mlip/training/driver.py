"""`run`: from a recipe to trained models with their cards."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mlip.checkpoints import Potential, load
from mlip.errors import OptionError
from mlip.io.dataset import iter_labelled
from mlip.training.initial import initial_potential
from mlip.training.loop import train
from mlip.training.preflight import preflight
from mlip.training.recipe import Recipe
from mlip.training.replay import replay_examples
from mlip.training.sources import Data, load_data
from mlip.training.start import check_fields, starting_potential
from mlip.training.start_direct import conservative_from


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
    report(_preflight(recipe, data))
    paths = []
    for seed in seeds or (recipe.training.seed,):
        config, start = dataclasses.replace(recipe.training, seed=seed), begin(recipe, data, seed)
        paths.append(train(start, data.training, data.validation, folder / f"seed-{seed}" if seeds else folder, config,
                           info=recipe.info(start.info), devices=devices, nodes=nodes, progress=progress,
                           **_replay(recipe, start)))
    return paths


def check(recipe: Recipe, folder: str | Path) -> str:
    """Return what would be trained on what; read data are kept in the folder of the run.

    Raises:
        DataError, StructureError, OptionError, ConfigError: as `run`.
    """
    return _preflight(recipe, load_data(recipe.data, Path(folder), recipe.base))


def begin(recipe: Recipe, data: Data, seed: int) -> Potential:
    """Return the potential that the training begins with: untrained, or the model of `[start]` fitted to the data."""
    fields = dict(recipe.model)
    if recipe.start is None:
        return initial_potential(fields.pop("family", "mace"), data.training, data.isolated, seed, **fields)
    beside = recipe.base / Path(recipe.start.model).expanduser()
    dtype, base = fields.pop("dtype", None), load(beside if beside.is_file() else recipe.start.model)
    if not base.model.conservative and fields.get("forces") == "conservative":
        base = conservative_from(base)
    check_fields(base.model.config, fields)
    return starting_potential(recipe.start, data.training, data.isolated, base=base, dtype=dtype, seed=seed)


def _preflight(recipe: Recipe, data: Data) -> str:
    start = begin(recipe, data, recipe.training.seed)
    stress = any(stage.stress_weight for stage in recipe.training.parts)
    report = str(preflight(data, cutoff=start.cutoff, stress=stress))
    return report if recipe.start is None else f"{report}\n{start.info.description}"


def _replay(recipe: Recipe, start: Potential) -> dict[str, Any]:
    """Return what is replayed, as arguments of `train`."""
    if recipe.start is None or not recipe.start.replay:
        return {}
    frames = [frame for name in recipe.start.replay
              for frame in iter_labelled(recipe.base / Path(name).expanduser(), recipe.data.keys, recipe.data.units)]
    return {"replay": replay_examples(recipe.start, start, frames), "replay_fraction": recipe.start.replay_fraction}
