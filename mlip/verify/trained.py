"""`document`: what a training run leaves for people: a model with its card, and pictures."""

from __future__ import annotations

import os
from pathlib import Path

from mlip.checkpoints import load
from mlip.checkpoints.format import SUFFIX
from mlip.training.evaluation import evaluate_on
from mlip.training.recipe import Recipe
from mlip.training.sources import load_data
from mlip.verify.card import make_card, stamped, write_card
from mlip.verify.plot import plot_learning, plot_parity


def document(recipe: Recipe, folder: str | Path, best: Path) -> Path:
    """Measure the best model of a run, and return the path of the file that has what was found in its card.

    The file is called as the recipe calls the model, else `model.mlip`; it lies beside `best.mlip`, with its card as
    Markdown and JSON, `learning.png` and, for the validation and each test file, `parity-*.png`. What is newer than
    `best.mlip` is left as it is.

    Args:
        recipe: of the run.
        folder: of the run, or of the committee that it belongs to.
        best: `best.mlip` of the run.
    """
    name = recipe.card.get("name") or "model"
    path = best.with_name(f"{name}{SUFFIX}" if name != "best" else f"best-model{SUFFIX}")
    plot_learning(best.with_name("log.csv"), best.with_name("learning.png"))
    if path.is_file() and path.stat().st_mtime_ns > best.stat().st_mtime_ns:
        return path
    data, potential = load_data(recipe.data, folder, recipe.base), load(best)
    tests = {_short(file): part for file, part in data.test.by_file().items()} if len(data.test) else {}
    for title, part in {"validation": data.validation, **tests}.items():
        plot_parity(evaluate_on(potential, part), best.with_name(f"parity-{title}.png"), f"{name} on {title}")
    card = make_card(potential, data.validation, tests, training=data.training,
                     recommended=recipe.card.get("recommended", ""), limits=recipe.card.get("limits", ""))
    partial = path.with_name(f".{path.name}")
    written = stamped(potential, card, {}).save(partial)
    os.replace(written, path)
    write_card(load(path), path)
    return path


def _short(file: str) -> str:
    """Return the name of a file without folders and endings."""
    return Path(file).name.split(".")[0]
