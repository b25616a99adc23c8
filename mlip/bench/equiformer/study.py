"""`mlip bench model --family equiformer_v3`: time, memory and efficiency, beside the published way to compute it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from mlip.bench.equiformer.choice import EquiformerChoice, edges_of, in_order, structure_named
from mlip.bench.equiformer.operations import feed_forward_flop, flop, gemm_shapes
from mlip.bench.group import Group, MemoryBudget, alternate, start_ours
from mlip.bench.model import free_memory
from mlip.bench.rows import Row, check_counts, machine
from mlip.bench.sides import Variant, differences, save_structure, variants
from mlip.bench.worker import Memory, Worker
from mlip.so3.degrees import size

PUBLISHED = "as published"
DEFAULT = ("isobutane", "cu32", "cu108", "cu1000")
PROBE = "cu4"  # whose memory tells what more edges would take
WARM_UP = "water"
FEED_FORWARD_ATOMS = 32
GIGABYTE = 1e9


class EquiformerSides(Group):
    """Our variants and the model computed as published, each in a process of its own with the same weights.

    Attributes:
        ways: our variants, by label.
        backends: of our variants, by label.
        versions: that times depend on.
    """

    def __init__(self, choice: EquiformerChoice, ways: Sequence[Variant], published: bool, folder: Path,
                 stack: ExitStack) -> None:
        """Start all processes; `stack` ends them. Errors are those of `Worker`."""
        super().__init__(folder)
        self.ways, self.model = {way.label: way for way in ways}, folder / "model.mlip"
        choice.create().save(self.model)
        self.backends: dict[str, str] = {}
        for label in [*self.ways, *([PUBLISHED] if published else [])]:
            self.workers[label] = stack.enter_context(self.start_worker(label))
            self.backends[label] = self.load(label, self.workers[label])["backend"]
        self.versions: dict[str, str] = self.ours.call("versions")

    @property
    def ours(self) -> Worker:
        """The first of our processes."""
        return next(iter(self.workers.values()))

    def start_worker(self, label: str) -> Worker:
        """Start a process of this label, without its model."""
        return start_ours(label)

    def load_model(self, label: str, worker: Worker) -> dict[str, Any]:
        """Load the model of this label, and return what the process says of it."""
        backend = "auto" if label == PUBLISHED else self.ways[label].backend
        loaded: dict[str, Any] = worker.call("load", path=str(self.model), backend=backend,
                                             published=label == PUBLISHED)
        return loaded

    def warm_up(self) -> Path:
        """Return the file of a small molecule."""
        return self.file(WARM_UP)

    def file(self, name: str) -> Path:
        """Return the file of a structure."""
        path = self.folder / f"{name}.npz"
        if not path.exists():
            save_structure(structure_named(name), path)
        return path

    def sgemm(self, choice: EquiformerChoice) -> float:
        """Return the rate at which one thread multiplies matrices as the model has them, operations/s."""
        self.ours.call("threads", count=1)
        return float(self.ours.call("sgemm", shapes=gemm_shapes(choice.config)))


def bench_equiformer(choice: EquiformerChoice | None = None, structures: Sequence[str] = DEFAULT,
                     threads: Sequence[int] = (1, 2), *, rounds: int = 20, backends: Sequence[str] = ("auto",),
                     published: bool = False) -> list[Row]:
    """Time energy and forces, and of crystals the stress, of EquiformerV3, and measure what memory they take.

    Each variant of ours, and the published way to compute the model if that is asked for, live in processes of their
    own with the same random weights and structures; neighbour lists are made before. They run in turn, the others
    idle; the least time counts. Memory is that of the first call of a fresh process at the largest number of threads.
    What would not fit the memory of the machine, judging by a smaller structure, is left out with a remark. Last comes
    one feed-forward network of 32 atoms alone, forward.

    The efficiency is the number of operations the model cannot do without (`mlip.bench.equiformer.operations`),
    divided by the time, by the best rate of matrix products of one thread in this run, and by the threads.

    Args:
        choice: the model; by default the released size.
        structures: among `mlip.bench.equiformer.choice.STRUCTURES`.
        threads: numbers of threads of torch.
        rounds: turns of each; fewer where they take longer than a minute.
        backends: our back ends, as in `mlip.load`.
        published: whether to time the published way beside ours.

    Returns:
        One row for each structure, number of threads and variant of ours: structure, operation ("model"), atoms,
        edges, threads, variant, backend, seconds, memory (what the call adds, bytes), peak_memory (the largest of the
        process), flop, sgemm (operations/s of one thread), efficiency; published_seconds, published_memory,
        published_peak_memory, published_efficiency, ratio (published time over ours); energy_difference (eV),
        force_difference (eV/A), stress_difference (eV/A^3); remark. None where there is nothing. Rows of the operation
        "feed-forward" have no memory, and `difference`, the largest of its results.

    Raises:
        OptionError: bad options.
        WorkerError: a process that cannot be started, or died.
        EngineMismatchError: the sides disagree.
    """
    check_counts(threads=threads, rounds=[rounds])
    choice, names, ways = choice or EquiformerChoice(), in_order(structures), variants(backends, ("exact",))
    with _started(choice, ways, published) as both:
        study = _Study(both, choice, tuple(threads), rounds)
        rows = [row for name in names for row in study.rows(name)] + study.feed_forward()
        rate = max(both.sgemm(choice), study.rate)
    return [rated(row, rate) for row in rows]


@contextmanager
def _started(choice: EquiformerChoice, ways: Sequence[Variant], published: bool) -> Iterator[EquiformerSides]:
    with TemporaryDirectory(prefix="mlip-bench-") as folder, ExitStack() as stack:
        yield EquiformerSides(choice, ways, published, Path(folder), stack)


def rated(row: Row, rate: float) -> Row:
    """Return a row with the efficiencies, at a rate of matrix products of one thread, operations/s."""
    most = rate * row["threads"]
    efficiency = {name: None if row[seconds] is None else row["flop"] / (row[seconds] * most)
                  for name, seconds in (("efficiency", "seconds"), ("published_efficiency", "published_seconds"))}
    return {**row, "sgemm": rate, **efficiency}


@dataclass
class _Study:
    """Makes rows.

    Attributes:
        rate: best rate of matrix products so far, of one thread, operations/s.
    """

    both: EquiformerSides
    choice: EquiformerChoice
    threads: tuple[int, ...]
    rounds: int
    rate: float = 0.0

    def __post_init__(self) -> None:
        both, most = self.both, max(self.threads)
        self.budget: MemoryBudget[str] = MemoryBudget(
            lambda label, name: both.memory(label, both.file(name), most), edges_of, PROBE, free_memory)

    def rows(self, name: str) -> list[Row]:
        """Return the rows of one structure."""
        both = self.both
        self.rate = max(self.rate, both.sgemm(self.choice))
        memory = {label: self.budget.measured(label, name) for label in both.workers}
        remarks = {label: "" if used is not None else
                   f"{label} would need about {self.budget.expected(label, name) / GIGABYTE:.1f} GB, more than is free"
                   for label, used in memory.items()}
        workers = {label: both.workers[label] for label, used in memory.items() if used is not None}
        for worker in workers.values():
            worker.call("structure", path=str(both.file(name)), stress=True)
        seconds: dict[str, float] = {}
        out = []
        for n in self.threads:
            if workers:
                both.threads(n)
                seconds = alternate(workers, "evaluate", self.rounds)
            apart = self._apart(name, workers)
            out += [self._row(name, n, label, seconds, memory, apart.get(label, {}), remarks) for label in both.ways]
        return out

    def _apart(self, name: str, workers: dict[str, Worker]) -> dict[str, dict[str, float]]:
        files = {label: self.both.folder / f"{name} {label}.npz" for label in workers}
        for label, worker in workers.items():
            worker.call("write", path=str(files[label]))
        return differences(files, peer=PUBLISHED)

    def _row(self, name: str, threads: int, label: str, seconds: dict[str, float], memory: dict[str, Memory | None],
             apart: dict[str, float], remarks: dict[str, str]) -> Row:
        atoms, edges, mine, other = len(structure_named(name)), edges_of(name), memory[label], memory.get(PUBLISHED)
        return {"structure": name, "operation": "model", "atoms": atoms, "edges": edges,
                "flop": flop(self.choice.config, atoms, edges),
                "memory": None if mine is None else mine.call, "peak_memory": None if mine is None else mine.peak,
                "published_memory": None if other is None else other.call,
                "published_peak_memory": None if other is None else other.peak,
                "energy_difference": apart.get("energy"), "force_difference": apart.get("forces"),
                "stress_difference": apart.get("stress"),
                "remark": "; ".join(r for r in (remarks[label], remarks.get(PUBLISHED, "")) if r),
                **self._common(label, threads, seconds)}

    def _common(self, label: str, threads: int, seconds: dict[str, float]) -> Row:
        mine, other = seconds.get(label), seconds.get(PUBLISHED)
        return {"threads": threads, "variant": label, "backend": self.both.backends[label], "seconds": mine,
                "published_seconds": other, "ratio": None if mine is None or other is None else other / mine,
                "model": self.choice.title, "published": PUBLISHED in self.both.workers,
                "machine": {**machine(()), "versions": self.both.versions}}

    def feed_forward(self) -> list[Row]:
        """Return the rows of one feed-forward network."""
        both, config = self.both, self.choice.config
        inputs = both.folder / "features.npz"
        shape = FEED_FORWARD_ATOMS, size(config.lmax), config.channels
        np.savez(inputs, features=np.random.default_rng(0).standard_normal(shape, np.float32))
        for worker in both.workers.values():
            worker.call("prepare_feed_forward", path=str(inputs))
        rows = []
        for n in self.threads:
            both.threads(n)
            seconds = alternate(both.workers, "feed_forward", self.rounds)
            files = {label: both.folder / f"fed {label}.npz" for label in both.workers}
            for label, worker in both.workers.items():
                worker.call("write_feed_forward", path=str(files[label]))
            apart = differences(files, peer=PUBLISHED)
            rows += [{"structure": None, "operation": "feed-forward", "atoms": FEED_FORWARD_ATOMS, "edges": None,
                      "flop": feed_forward_flop(config, FEED_FORWARD_ATOMS), "remark": "",
                      "difference": apart.get(label, {}).get("features"), **self._common(label, n, seconds)}
                     for label in both.ways]
        return rows
