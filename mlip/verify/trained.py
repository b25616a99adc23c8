"""`document`: what a training run leaves for people: a model with its card, and pictures."""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import count
from pathlib import Path

from mlip.checkpoints import load
from mlip.checkpoints.format import SUFFIX
from mlip.training.evaluation import evaluate_on
from mlip.training.recipe import Recipe
from mlip.training.sources import load_data
from mlip.verify.card import make_card, says, stamped, write_card
from mlip.verify.plot import plot_learning, plot_parity


def document(recipe: Recipe, folder: str | Path, best: Path) -> Path:
    """Measure the best model of a run, and return the path of the file that has what was found in its card.

    The file is called as the recipe calls the model, else `model.mlip`; it lies beside `best.mlip`, with its card as
    Markdown and JSON, `learning.png` and, for the validation and each test file, `parity-*.png`. What is newer than
    `best.mlip` and the data, and says what the recipe says, is left as it is.

    Args:
        recipe: of the run.
        folder: of the run, or of the committee that it belongs to.
        best: `best.mlip` of the run.
    """
    name = recipe.card.get("name") or "model"
    path = best.with_name(f"{name}{SUFFIX}" if name != "best" else f"best-model{SUFFIX}")
    plot_learning(best.with_name("log.csv"), best.with_name("learning.png"))
    data, potential = load_data(recipe.data, folder, recipe.base, recipe.forces), load(best)
    recommended, limits = recipe.card.get("recommended", ""), recipe.card.get("limits", "")
    newest = max(file.stat().st_mtime_ns for file in (best, data.training.folder / "store.json"))
    if path.is_file() and path.stat().st_mtime_ns > newest and says(load(path), recommended, limits):
        return path
    parts = data.test.by_file() if len(data.test) else {}
    tests = dict(zip(set_names(parts), parts.values(), strict=True))
    for title, part in {"validation": data.validation, **tests}.items():
        plot_parity(evaluate_on(potential, part), best.with_name(f"parity-{title}.png"), f"{name} on {title}")
    card = make_card(potential, data.validation, tests, training=data.training, recommended=recommended, limits=limits)
    partial = path.with_name(f".{path.name}")
    written = stamped(potential, card, {}).save(partial)
    os.replace(written, path)
    write_card(load(path), path)
    return path


def set_names(files: Iterable[str]) -> list[str]:
    """Return a name for each test file: its own without folders and endings, and a number where that is taken."""
    taken = ["training", "validation"]  # what a card calls other sets
    for file in files:
        name = Path(Path(file).name.removesuffix(".gz")).stem
        taken.append(name if name not in taken else next(n for k in count(2) if (n := f"{name}-{k}") not in taken))
    return taken[2:]
