"""`run`: from a recipe to trained models."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mlip.checkpoints import Potential, load
from mlip.checkpoints.create import CUTOFF
from mlip.errors import OptionError
from mlip.training.config import TrainingConfig
from mlip.training.initial import initial_potential
from mlip.training.loop import check_structures, train
from mlip.training.objective import objective_for
from mlip.training.plan import Plan
from mlip.training.preflight import preflight, replayed
from mlip.training.recipe import Recipe
from mlip.training.replay import load_replay
from mlip.training.sources import Data, load_data
from mlip.training.start import check_fields, starting_potential
from mlip.training.start_direct import conservative_from

CONTINUED = 0.1  # of the learning rate of a family, for models that were trained before


def run(recipe: Recipe, folder: str | Path, *, seeds: Sequence[int] = (), device: str | None = None, devices: int = 1,
        nodes: int = 1, progress: bool = False, report: Callable[[str], object] = print) -> list[Path]:
    """Do what a recipe says, or resume it, and return the paths of the best models.

    `mlip.verify.trained.document` measures them for their cards, also on the structures of `[data] test`.

    Args:
        recipe: what is trained on what.
        folder: of the run; made if absent. A committee has a folder for each seed in it.
        seeds: of the members of a committee: their weights and the order of their batches; what is held out for
            validation is the same for all. Without any, one model is trained with the seed of the recipe. Members that
            start from a trained model differ in the order of their batches, and in their adapters, only.
        device: `"cpu"`, `"cuda"` or `"cuda:<index>"`; None for the CPU.
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
    if len(set(seeds)) != len(seeds):
        raise OptionError(f"the seeds of a committee must differ; {list(seeds)} were given")
    base = _base(recipe)
    data, first, text, replay = _prepared(recipe, Path(folder), base, device)
    configs = {seed: _settings(recipe, first.model.config.family, seed) for seed in seeds or (recipe.training.seed,)}
    check_structures(first, data.test)
    report(text)
    paths = []
    for seed, config in configs.items():
        start = first if seed == recipe.training.seed else begin(recipe, data, seed, base, device)
        paths.append(train(start, data.training, data.validation, Path(folder) / (f"seed-{seed}" if seeds else ""),
                           config, info=recipe.info(start.info), devices=devices, nodes=nodes, progress=progress,
                           report=report, **replay))
    return paths


def check(recipe: Recipe, folder: str | Path) -> str:
    """Return what would be trained on what, after everything that is done before the first step.

    Data that were read are kept in the folder of the run.

    Raises:
        DataError, StructureError, OptionError, ConfigError: as `run`.
    """
    data, start, text, _ = _prepared(recipe, Path(folder), _base(recipe), None)
    for part in data.parts.values():
        check_structures(start, part)
    return text


def begin(recipe: Recipe, data: Data, seed: int, base: Potential | None, device: str | None = None) -> Potential:
    """Return the potential that the training begins with: untrained, or the base fitted to the data."""
    fields = dict(recipe.model)
    if recipe.start is None or base is None:
        return initial_potential(fields.pop("family", "mace"), data.training, data.isolated, seed, **fields).to(device)
    dtype = fields.pop("dtype", None)
    check_fields(base.model.config, fields)
    return starting_potential(recipe.start, data.training, data.isolated, base=base, dtype=dtype, seed=seed).to(device)


def _settings(recipe: Recipe, family: str, seed: int) -> TrainingConfig:
    """Return the options of a run; a trained model goes on with a tenth of the learning rate where none is given."""
    stages = recipe.training.parts
    if recipe.start is not None:
        rate = CONTINUED * recipe.training.default_rate(family)
        stages = tuple(dataclasses.replace(stage, learning_rate=rate) if stage.learning_rate is None else stage
                       for stage in stages)
    return dataclasses.replace(recipe.training, stages=stages, seed=seed)


def _base(recipe: Recipe) -> Potential | None:
    """Return the model of `[start]`, conservative where `[model]` asks for that."""
    if recipe.start is None:
        return None
    beside = recipe.base / Path(recipe.start.model).expanduser()
    base = load(beside if beside.is_file() else recipe.start.model)
    if not base.model.conservative and recipe.model.get("forces") == "conservative":
        base = conservative_from(base)
    return base


def _prepared(recipe: Recipe, folder: Path, base: Potential | None,
              device: str | None) -> tuple[Data, Potential, str, dict[str, Any]]:
    """Return data, start, report and what is replayed, as arguments of `train`: all that can fail early."""
    parts = recipe.training.parts
    data = load_data(recipe.data, folder, recipe.base, recipe.forces)
    cutoff = recipe.model.get("cutoff", CUTOFF) if base is None else base.cutoff
    stress = any(stage.stress_weight for stage in parts)
    report = preflight(data, cutoff=cutoff, stress=stress)
    start = begin(recipe, data, recipe.training.seed, base, device)
    objective_for(start.model, recipe.training)
    config = recipe.start.replay if recipe.start is not None else None
    share = config.fraction if config is not None else 0.0
    Plan(recipe.training, len(data.training), start.model.config.family, int(config is not None), share)
    replay: dict[str, Any] = {}
    if config is not None:
        store = load_replay(config, start, folder, recipe.base, recipe.forces)
        report, store = replayed(report, store, data.validation.joined(data.test), cutoff=cutoff, stress=stress)
        replay = {"replay": store, "replay_fraction": share}
    recipe.training.check_groups({group for name in ("training", "replay") if name in report.parts
                                  for group in report.parts[name].config_types})
    return data, start, str(report) if base is None else f"{report}\n{start.info.description}", replay
