"""`mlip bench learned-symmetry`: what the loss of its embeddings does for a TransIP, beside random orientations."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from mlip.bench.rows import Row, lines_of, machine
from mlip.checkpoints import Potential, load
from mlip.checkpoints.symmetry import summary, symmetry_reports
from mlip.errors import OptionError
from mlip.graph.labelled import Labelled
from mlip.training import Dataset, TrainingConfig, errors, initial_potential, split, train

MEASURES = {"energy_mae": "energy MAE (meV/atom)", "forces_mae": "forces MAE (meV/A)",
            "forces_rmse": "forces RMSE (meV/A)", "energy_rot_std_mev_per_atom": "energy rot. std (meV/atom)",
            "forces_rot_std_mev_per_angstrom": "forces rot. std (meV/A)"}
Weights = tuple[float, float]
PLAIN: Weights = (0.0, 0.0)
ARMS: tuple[Weights, ...] = (PLAIN, (100.0, 0.0), (0.0, 10.0))
ROTATIONS = 32
HELD_OUT = 0.1  # share of the training structures that chooses the best epoch
MEASURED = 32  # structures of the test set whose symmetry is measured


def bench_learned_symmetry(training: Sequence[Labelled], test: Sequence[Labelled], folder: Path, *,
                           seeds: Sequence[int] = (0, 1, 2), weights: Sequence[Weights] = ARMS,
                           config: TrainingConfig | None = None, isolated: Mapping[str, float] | None = None,
                           progress: bool = False, **model: Any) -> list[Row]:
    """Train one TransIP for each seed and pair of weights of the loss, and measure errors and symmetry.

    Runs of one seed begin with the same weights and see the same structures in the same orientations. The same call
    again resumes what was interrupted.

    Args:
        training: labelled structures, of which a part is held out to choose the best epoch.
        test: labelled structures for the errors; symmetry is measured on the first 32.
        folder: for the runs.
        seeds: of weights, orders and rotations.
        weights: pairs of `latent_weight` and `torque_weight`; one must be (0, 0), training with random orientations.
        config: of the training; seed and both weights are replaced.
        isolated: energies of isolated atoms by symbol, eV.
        progress: whether to show a bar.
        model: of the configuration of TransIP.

    Returns:
        One row for each run: latent_weight, torque_weight, seed, what `MEASURES` lists, both configurations.

    Raises:
        OptionError: no weights are 0, no structures, or bad options.
        StructureError: test structures that the model cannot take.
    """
    if PLAIN not in weights or not seeds or not test:
        raise OptionError("learned-symmetry needs the weights (0, 0) for comparison, at least one seed and a test set; "
                          f"weights {list(weights)!r}, seeds {list(seeds)!r} and {len(test)} structures were given")
    rows = []
    for seed in seeds:
        for latent, torque in dict.fromkeys(weights):
            chosen = dataclasses.replace(config or TrainingConfig(), seed=seed, latent_weight=latent,
                                         torque_weight=torque)
            seen, held_out = split(training, HELD_OUT, seed)
            start = initial_potential("transip", seen, isolated, seed, **model)
            start.check([e.structure for e in test])  # before hours are spent
            run = folder / f"latent-{latent:g}-torque-{torque:g}-seed-{seed}"
            best = load(train(start, seen, held_out, run, chosen, progress=progress))
            rows.append({"latent_weight": latent, "torque_weight": torque, "seed": seed, **measured(best, test),
                         "structures": [len(training), len(test)], "model": start.model.config.to_dict(),
                         "training": dataclasses.asdict(chosen),
                         "machine": {**machine(("torch",)), "threads": torch.get_num_threads()}})
    return rows


def measured(potential: Potential, test: Sequence[Labelled]) -> dict[str, float]:
    """Return errors and symmetry of a potential, by the names of `MEASURES`."""
    found = errors(Dataset(test, potential)).present()
    reports = symmetry_reports(potential.model, potential.graph([e.structure for e in test[:MEASURED]]), ROTATIONS)
    return {**{name: found[name] for name in ("energy_mae", "forces_mae", "forces_rmse")}, **summary(reports)}


def table(rows: Sequence[Row]) -> str:
    """Return the rows of `bench_learned_symmetry` as a table in Markdown: means, their spread, and improvements."""
    weights = list(dict.fromkeys((r["latent_weight"], r["torque_weight"]) for r in rows))
    head = ["latent weight", "torque weight", "seeds", *MEASURES.values()]
    cells = [[f"{w[0]:g}", f"{w[1]:g}", str(len(_of(rows, w, "seed"))),
              *(_spread(_of(rows, w, name), ".3g") for name in MEASURES)] for w in weights]
    cells += [[f"{w[0]:g}", f"{w[1]:g}", "improvement",
               *(_spread(list(_improvements(rows, w, name)), ".1f", " %") for name in MEASURES)]
              for w in weights if w != PLAIN]
    first = rows[0]
    epochs, size = first["training"]["epochs"], first["training"]["batch_size"]
    model, (learned, tested) = first["model"], first["structures"]
    note = (f"TransIP, {model['channels']} channels, {model['num_layers']} layers, cutoff {model['cutoff']:g} A; "
            f"{learned} structures, {epochs} epochs of batches of {size}, each structure in two random orientations; "
            f"tested on {tested}. Mean and standard deviation over seeds; improvements are those of pairs of runs with "
            "one seed, positive where errors fall.")
    return "\n".join([*lines_of(head, cells), "", note])


def _of(rows: Sequence[Row], weights: Weights, name: str) -> list[float]:
    return [r[name] for r in sorted(rows, key=lambda r: r["seed"])
            if (r["latent_weight"], r["torque_weight"]) == weights]


def _improvements(rows: Sequence[Row], weights: Weights, name: str) -> Iterator[float]:
    """Yield by how much a number falls against weights of 0, percent, seed by seed."""
    for new, old in zip(_of(rows, weights, name), _of(rows, PLAIN, name), strict=True):
        yield 100 * (1 - new / old)


def _spread(values: Sequence[float], form: str, unit: str = "") -> str:
    around = f" +- {format(stdev(values), form)}" if len(values) > 1 else ""
    return f"{format(mean(values), form)}{around}{unit}"
