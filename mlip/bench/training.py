"""`mlip bench training`: structures per second that MACE is trained with, ours beside mace-torch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from mlip.bench.choices import CUTOFF, EXACT, MACEChoice
from mlip.bench.group import alternate
from mlip.bench.model import described
from mlip.bench.rows import Row, check_counts, lines_of, megabytes, milliseconds
from mlip.bench.sides import PEER, PEER_VARIABLE, Sides, peer_python, variants
from mlip.bench.training_run import save_labelled
from mlip.bench.worker import Worker
from mlip.checkpoints import load
from mlip.errors import EngineMismatchError, MissingDependencyError, OptionError
from mlip.graph.labelled import Labelled
from mlip.io.ase import structure_of
from mlip.neighbors import neighbor_list
from mlip.simulation.quickstart import MODEL, acetylacetone
from mlip.training.config import TrainingConfig

TOLERANCE = 1e-4  # relative, of loss and gradient; both sides are float32
STRUCTURES = 320
CONFIG = TrainingConfig(optimizer="adamw")  # that of mace-torch
OPTIONS = {"learning_rate": CONFIG.default_rate("mace"), **{name: getattr(CONFIG, name) for name in (
    "energy_weight", "forces_weight", "ema_decay", "max_gradient", "optimizer")}}


class TrainingSides(Sides):
    """Our variants and the peer, which train."""

    def load(self, label: str, worker: Worker) -> dict[str, Any]:
        """Load the model; steps of training warm up what they need."""
        return self.load_model(label, worker)

    def memory_of_run(self, label: str, run: Mapping[str, Any], threads: int) -> int:
        """Return the memory that the first block of steps adds in a fresh process."""
        with self.start(label) as worker:
            worker.call("threads", count=threads)
            worker.call("prepare_run", **run)
            return worker.peak("run").call


def bench_training(examples: Sequence[Labelled] | None = None, choice: MACEChoice | None = None,
                   batch_sizes: Sequence[int] = (5, 16), threads: Sequence[int] = (1, 2), *, steps: int = 10,
                   rounds: int = 5, backends: Sequence[str] = ("auto",), products: Sequence[str] = (EXACT,),
                   peer: str | os.PathLike[str] | None = None) -> list[Row]:
    """Time steps of training, and measure what memory they take.

    A step is energy and forces of a batch, the derivatives of the loss (energies per atom and forces) by all weights,
    cut gradients, Adam with AMSGrad, and the moving average of the weights. Each side makes its batches as it always
    does, in a random order: mace-torch with neighbour lists made before, ours with lists made for each batch. Both
    live in processes of their own with the same random weights (float32); they run in turn, the others idle; the least
    time of a block of steps counts. Loss and gradient of the first batch must agree. Memory is what the first block
    adds in a fresh process that has the model and the data, at the largest number of threads.

    Args:
        examples: structures with labels; by default distorted molecules of acetylacetone. Energies count from their
            mean per atom: mace-torch adds those of isolated atoms in float32.
        choice: the model; its elements and neighbours are those of the data.
        batch_sizes: structures in one step.
        threads: numbers of threads of torch.
        steps: in a block.
        rounds: turns of each; fewer where they take longer than a minute.
        backends: our back ends, as in `mlip.load`.
        products: tensor products of the configuration of MACE. Others than the exact one are models of the same widths
            with weights and energies of their own, which are not compared.
        peer: Python with mace-torch, as in `bench_model`.

    Returns:
        One row for each batch size, number of threads and variant: batch_size, edges (of a mean batch),
        threads, variant, backend, tensor_product, seconds (of a step), rate (structures per second), peer_seconds,
        peer_rate, ratio (of the rates), memory, peer_memory (bytes), compared_with (label of the variant or peer that
        loss and gradient must agree with), loss_difference, gradient_difference (relative); None where there is
        nothing to compare.

    Raises:
        OptionError: bad options, or fewer structures than a batch has.
        MissingDependencyError: lightning is not installed.
        WorkerError: a process that cannot be started, or died.
        EngineMismatchError: loss or gradient of the first batch differ.
    """
    if find_spec("lightning") is None:
        raise MissingDependencyError.of("lightning", "train")
    check_counts(batch_sizes=batch_sizes, threads=threads, steps=[steps], rounds=[rounds])
    examples = acetylacetones() if examples is None else examples
    if len(examples) < max(batch_sizes):
        raise OptionError(f"{len(examples)} structure(s) are too few for a batch of {max(batch_sizes)}")
    choice, ways = fitted(choice or MACEChoice(), examples), variants(backends, ("exact",), products)
    rows: list[Row] = []
    with TemporaryDirectory(prefix="mlip-bench-") as folder, ExitStack() as stack:
        both = TrainingSides(choice, ways, peer_python(peer), Path(folder), stack)
        for size in batch_sizes:
            file = both.folder / f"batches{size}.npz"
            save_labelled(interactions(examples[: len(examples) - len(examples) % size]), file)
            run = {"path": str(file), "steps": steps, "options": {**OPTIONS, "batch_size": size}}
            rows += _rows(both, run, threads, rounds, len(examples) - len(examples) % size)
    return rows


def acetylacetones(count: int = STRUCTURES, seed: int = 0) -> list[Labelled]:
    """Return distorted molecules of acetylacetone with energies and forces of `mace-acac`."""
    generator, molecules = np.random.default_rng(seed), []
    for _ in range(count):
        molecule = acetylacetone()
        molecule.positions += generator.normal(0.0, 0.05, molecule.positions.shape)
        molecules.append(molecule)
    found = load(MODEL).predict(molecules, stress=False)
    return [Labelled(structure_of(m), p.energy, np.asarray(p.forces)) for m, p in zip(molecules, found, strict=True)]


def fitted(choice: MACEChoice, examples: Sequence[Labelled]) -> MACEChoice:
    """Return the model for the elements of the data and their mean number of neighbours."""
    structures = [e.structure for e in examples]
    edges = sum(len(neighbor_list(s.positions, CUTOFF, s.cell, s.pbc).senders) for s in structures)
    elements = np.unique(np.concatenate([s.numbers for s in structures]))
    return replace(choice, elements=tuple(elements.tolist()), neighbors=max(1.0, edges / sum(map(len, structures))))


def interactions(examples: Sequence[Labelled]) -> list[Labelled]:
    """Return the examples with energies that count from their mean per atom."""
    mean = float(np.mean([e.energy / len(e.structure) for e in examples]))
    return [replace(e, energy=e.energy - mean * len(e.structure)) for e in examples]


def _rows(both: TrainingSides, run: Mapping[str, Any], threads: Sequence[int], rounds: int,
          structures: int) -> list[Row]:
    """Return the rows of one batch size."""
    size, steps = run["options"]["batch_size"], run["steps"]
    memory = {label: both.memory_of_run(label, run, max(threads)) for label in both.workers}
    counts = {label: worker.call("prepare_run", **run) for label, worker in both.workers.items()}
    first = {label: worker.call("first_loss") for label, worker in both.workers.items()}
    apart = differences(first, both.comparable(both.workers))
    batches, rows = structures // size, []
    for n in threads:
        both.threads(n)
        seconds = {label: s / steps for label, s in alternate(both.workers, "run", rounds).items()}
        other = seconds.get(PEER)
        rows += [{"batch_size": size, "edges": counts[label]["edges"] / batches, "threads": n, "variant": label,
                  "backend": both.backends[label], "tensor_product": way.tensor_product, "seconds": seconds[label],
                  "rate": size / seconds[label], "peer_seconds": other,
                  "peer_rate": None if other is None else size / other,
                  "ratio": None if other is None else other / seconds[label], "memory": memory[label],
                  "peer_memory": memory.get(PEER), "compared_with": None, "loss_difference": None,
                  "gradient_difference": None, **apart.get(label, {}), "structures": structures, "steps": steps,
                  **described(both)}
                 for label, way in both.ways.items()]
    return rows


def differences(found: Mapping[str, Mapping[str, float]], comparable: Iterable[str]) -> dict[str, Row]:
    """Return how far losses and gradients are from those of the first label they must agree with.

    Raises:
        EngineMismatchError: further than `TOLERANCE`.
    """
    first, *others = comparable
    out: dict[str, Row] = {}
    for label in others:
        out[label] = {"compared_with": first}
        for name, expected in found[first].items():
            apart = abs(found[label][name] / expected - 1)
            if not apart <= TOLERANCE:
                raise EngineMismatchError(f"{label} and {first} begin with a {name} of {found[label][name]:.7g} and "
                                          f"{expected:.7g}; their times cannot be compared")
            out[label][f"{name.split()[0]}_difference"] = apart
    return out


def table(rows: Sequence[Row]) -> str:
    """Return the rows of `bench_training` as a table in Markdown, with what to know about it."""
    head = ["variant", "batch", "edges", "threads", "mlip ms", f"{PEER} ms", "mlip 1/s", f"{PEER} 1/s", "ratio",
            "mlip MB", f"{PEER} MB"]
    cells = [[r["variant"], str(r["batch_size"]), f"{r['edges']:,.0f}", str(r["threads"]), milliseconds(r["seconds"]),
              milliseconds(r["peer_seconds"]), _number(r["rate"]), _number(r["peer_rate"]), _number(r["ratio"], "x"),
              megabytes(r["memory"]), megabytes(r["peer_memory"])] for r in rows]
    first = rows[0]
    out = [f"{first['model']}; {first['structures']} structures. Time of a step of training, structures per second. "
           f"Processes of their own that run in turn, least of several blocks of {first['steps']} steps. Memory is "
           "what the first block adds. " + "; ".join(f"{k} {v}" for k, v in first["machine"]["versions"].items()) + "."]
    if first["peer"] is None:
        out.append(f"{PEER} was not timed: give --peer-python, or set {PEER_VARIABLE}, to a Python that has it.")
    out += [f"{r['variant']}, batches of {r['batch_size']}: loss and gradient of the first are within "
            f"{max(r['loss_difference'], r['gradient_difference']):.0e} of those of {r['compared_with']}."
            for r in rows if r["compared_with"] is not None and r["threads"] == first["threads"]]
    return "\n".join([*lines_of(head, cells, left=1), "", *out])


def _number(value: float | None, unit: str = "") -> str:
    return "-" if value is None else f"{value:.3g}{unit}"
