"""Processes that are timed side by side: started alike, warmed up alike, asked in turn."""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

import mlip
from mlip.bench.rows import check_counts
from mlip.bench.worker import PROCESSES, Memory, Worker

SHARE = 0.9  # of the free memory that a call may take

Size = TypeVar("Size")


def start_ours(label: str = "mlip") -> Worker:
    """Start a process with this mlip, in this environment."""
    root = str(Path(mlip.__file__).parents[1])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    return Worker(label, sys.executable, PROCESSES / "ours.py", {"PYTHONPATH": path})


class Group(ABC):
    """Processes with one model each.

    Attributes:
        workers: by label.
        folder: for files they share.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.workers: dict[str, Worker] = {}

    @abstractmethod
    def start_worker(self, label: str) -> Worker:
        """Start a process of this label, without its model."""

    @abstractmethod
    def load_model(self, label: str, worker: Worker) -> dict[str, Any]:
        """Load the model of this label, and return what the process says of it."""

    @abstractmethod
    def warm_up(self) -> Path:
        """Return the file of a structure of a few atoms."""

    def load(self, label: str, worker: Worker) -> dict[str, Any]:
        """Load the model and warm it up on a few atoms."""
        loaded = self.load_model(label, worker)
        worker.call("structure", path=str(self.warm_up()))
        worker.time("evaluate", runs=3)  # TorchScript recompiles in its second and third call
        return loaded

    def threads(self, count: int) -> None:
        """Set the threads of all."""
        for worker in self.workers.values():
            worker.call("threads", count=count)

    @contextmanager
    def start(self, label: str) -> Iterator[Worker]:
        """Start another process like the one of this label, with its model."""
        with self.start_worker(label) as worker:
            self.load(label, worker)
            yield worker

    def memory(self, label: str, structure: Path, threads: int) -> Memory:
        """Return the memory of one evaluation in a process that has done nothing but a tiny one before."""
        with self.start(label) as worker:
            worker.call("threads", count=threads)
            worker.call("structure", path=str(structure))
            return worker.peak("evaluate")


class MemoryBudget(Generic[Size]):
    """Measures the memory of calls, and knows beforehand which would not fit."""

    def __init__(self, measure: Callable[[str, Size], Memory], amount: Callable[[Size], int], probe: Size,
                 free: Callable[[], float]) -> None:
        """Remember how to measure.

        Args:
            measure: returns the memory of a call, of a label and a size.
            amount: what the memory grows with, such as the number of atoms, of a size.
            probe: size whose memory tells what more would take.
            free: returns the free memory of the machine, bytes.
        """
        self._measure, self._amount, self._probe, self._free = measure, amount, probe, free
        self._per_unit: dict[str, float] = {}

    def measured(self, label: str, size: Size) -> Memory | None:
        """Return the memory of a call; None, and no call, where it would take more than there is."""
        amount, least = self._amount(size), self._amount(self._probe)
        if amount > least and label not in self._per_unit:
            self.measured(label, self._probe)
        if self.expected(label, size) > SHARE * self._free():
            return None
        memory = self._measure(label, size)
        if amount >= least:
            self._per_unit[label] = memory.call / amount
        return memory

    def expected(self, label: str, size: Size) -> float:
        """Return what a call would add, bytes, by the last one measured; 0 where none was."""
        return self._per_unit.get(label, 0.0) * self._amount(size)


def alternate(workers: Mapping[str, Worker], action: str, rounds: int, budget: float = 60.0,
              **arguments: Any) -> dict[str, float]:
    """Time an action of several processes in turn, after a run each to warm up; the least of all rounds counts.

    Args:
        workers: by label; while one works the others wait.
        action: what to time.
        rounds: turns of each, fewer (but three) where they take longer in all than `budget`.
        budget: seconds.
        arguments: of the action.

    Returns:
        Seconds by label.
    """
    check_counts(rounds=[rounds])
    best = {label: min(worker.time(action, **arguments)) for label, worker in workers.items()}
    rounds = min(rounds, max(3, int(budget / (2.0 * sum(best.values())))))
    best = dict.fromkeys(workers, float("inf"))
    for _ in range(rounds):
        for label, worker in workers.items():  # twice: first with the caches as the others left them, then with its own
            best[label] = min(best[label], *worker.time(action, runs=2, **arguments))
    return best
