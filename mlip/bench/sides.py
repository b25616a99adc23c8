"""The two sides of a comparison: processes with mlip and with mace-torch, the same weights, structures and inputs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import mlip
from mlip.bench.rows import check_counts
from mlip.bench.water import water_box
from mlip.bench.worker import PROCESSES, Memory, Worker
from mlip.checkpoints import Potential, create
from mlip.errors import EngineMismatchError, OptionError

PEER = "mace-torch"
PEER_VARIABLE = "MLIP_PEER_MACE_PYTHON"
CUTOFF, EDGE_LMAX, CORRELATION = 5.0, 3, 3
NEIGHBORS = 54.1  # edges of an atom of water within the cutoff
WATER = [1, 8]
TOLERANCE = 1e-3  # of the largest value; both sides are float32, and tables are not exact
TINY = 24  # atoms, to warm up
RADIALS = ("exact", "tabulated")
EXACT = "clebsch_gordan"


@dataclass(frozen=True)
class Choice:
    """The model to time.

    Attributes:
        family: of the model; mace-torch is a peer of `mace` only.
        channels: feature channels of each degree.
        hidden_lmax: largest degree of the features between layers.
        seed: of the random weights.
        file: name or path of a model to load instead; it has no peer.
    """

    family: str = "mace"
    channels: int = 128
    hidden_lmax: int = 1
    seed: int = 0
    file: str | None = None

    @property
    def title(self) -> str:
        """What to say of it in one line."""
        if self.file is not None:
            return self.file
        irreps = "+".join(f"{self.channels}x{l}{'eo'[l % 2]}" for l in range(self.hidden_lmax + 1))
        return (f"{self.family} {irreps} with random weights, float32, 2 layers, cutoff {CUTOFF:g} A, harmonics to "
                f"degree {EDGE_LMAX}, correlation {CORRELATION}")

    def create(self, tensor_product: str = EXACT) -> Potential:
        """Return the model with random weights of our own."""
        return create(self.family, WATER, self.seed, cutoff=CUTOFF, channels=self.channels,
                      hidden_lmax=self.hidden_lmax, edge_lmax=EDGE_LMAX, correlation=CORRELATION,
                      avg_num_neighbors=NEIGHBORS, **({} if tensor_product == EXACT else
                                                      {"tensor_product": tensor_product}))


@dataclass(frozen=True)
class Variant:
    """One way to run our model, or another model of the same widths.

    Attributes:
        backend: as in `mlip.load`.
        radial: one of `RADIALS`.
        tensor_product: of the configuration of MACE; only the exact one has the numbers of the peer.
    """

    backend: str = "auto"
    radial: str = "exact"
    tensor_product: str = EXACT

    @property
    def label(self) -> str:
        """What to call it in tables."""
        parts = self.tensor_product, self.backend, self.radial
        return " ".join(["mlip", *[x for x in parts if x not in ("auto", "exact", EXACT)]])


def variants(backends: Sequence[str], radials: Sequence[str], products: Sequence[str] = (EXACT,)) -> list[Variant]:
    """Return all combinations.

    Raises:
        OptionError: nothing to time, or an unknown kind of radial functions.
    """
    if not backends or not radials or set(radials) - set(RADIALS) or not products:
        raise OptionError("at least one back end and tensor product is needed, and radial functions among "
                          f"{', '.join(RADIALS)}; {list(backends)!r}, {list(products)!r} and {list(radials)!r} were "
                          "given")
    return [Variant(b, r, p) for p in products for b in backends for r in radials]


def peer_python(given: str | os.PathLike[str] | None) -> str | None:
    """Return the Python with mace-torch: the one given, else that of the environment variable; None if neither."""
    return os.fspath(given) if given else os.environ.get(PEER_VARIABLE) or None


def start_ours(label: str = "mlip") -> Worker:
    """Start a process with this mlip, in this environment."""
    root = str(Path(mlip.__file__).parents[1])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    return Worker(label, sys.executable, PROCESSES / "ours.py", {"PYTHONPATH": path})


def start_peer(python: str) -> Worker:
    """Start a process with mace-torch in its environment."""
    variable = {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}  # e3nn 0.4.4 cannot be imported without it
    return Worker(PEER, python, PROCESSES / "peer_mace.py", variable)


class Sides:
    """Our variants and the peer, each in a process of its own with the same model.

    Attributes:
        workers: by label; the peer, if there is one, is called `PEER`.
        folder: for files they share.
    """

    def __init__(self, choice: Choice, ways: Sequence[Variant], python: str | None, folder: Path,
                 stack: ExitStack) -> None:
        """Start all processes; `stack` ends them. Errors are those of `Worker`."""
        self.choice, self.folder, self.ways, self.python = choice, folder, {v.label: v for v in ways}, python
        self.workers: dict[str, Worker] = {}
        peer = stack.enter_context(start_peer(python)) if python else None
        self.model = choice.file or str(folder / ("model.mlip" if peer is None else "peer.model"))
        if peer is None:
            if choice.file is None:
                choice.create().save(self.model)
        else:
            peer.call("build", path=self.model, seed=choice.seed, channels=choice.channels,
                      hidden_lmax=choice.hidden_lmax, cutoff=CUTOFF, edge_lmax=EDGE_LMAX, correlation=CORRELATION,
                      avg_num_neighbors=NEIGHBORS, atomic_numbers=WATER)
        self.backends: dict[str, str] = {}
        for label in self.ways:
            self.workers[label] = stack.enter_context(start_ours(label))
            self.backends[label] = self.load(label, self.workers[label])["backend"]
        if peer is not None:
            self.workers[PEER] = peer
            self.load(PEER, peer)
        self.versions: dict[str, str] = {}
        for worker in self.workers.values():  # torch of the peer under a name of its own
            found = worker.call("versions")
            self.versions |= {f"{k} of {PEER}" if worker is peer and k == "torch" else k: v for k, v in found.items()}

    def load(self, label: str, worker: Worker) -> dict[str, Any]:
        """Load the model and warm it up on a few atoms."""
        way = self.ways.get(label)
        chosen = {} if way is None else {"backend": way.backend, "radial": way.radial}
        loaded: dict[str, Any] = worker.call("load", path=self._file(way), **chosen)
        worker.call("structure", path=str(self.box(TINY)))
        worker.time("evaluate", runs=3)  # TorchScript recompiles in its second and third call
        return loaded

    def _file(self, way: Variant | None) -> str:
        """Return the file of a model: the one of the peer, or one with other tensor products."""
        if way is None or way.tensor_product == EXACT:
            return self.model
        file = self.folder / f"{way.tensor_product}.mlip"
        if not file.exists():
            self.choice.create(way.tensor_product).save(file)
        return str(file)

    def comparable(self, label: str) -> bool:
        """Return whether a process computes the same numbers as the peer."""
        return label not in self.ways or self.ways[label].tensor_product == EXACT

    def box(self, atoms: int) -> Path:
        """Return the file of a box of water."""
        file = self.folder / f"water{atoms}.npz"
        if not file.exists():
            save_structure(atoms, file)
        return file

    def threads(self, count: int) -> None:
        """Set the threads of all."""
        for worker in self.workers.values():
            worker.call("threads", count=count)

    @contextmanager
    def start(self, label: str) -> Iterator[Worker]:
        """Start another process like the one of this label, with its model."""
        with start_peer(self.python) if label == PEER and self.python else start_ours(label) as worker:
            self.load(label, worker)
            yield worker

    def memory(self, label: str, atoms: int, threads: int) -> Memory:
        """Return the memory of one evaluation in a process that has done nothing but a tiny one before."""
        with self.start(label) as worker:
            worker.call("threads", count=threads)
            worker.call("structure", path=str(self.box(atoms)))
            return worker.peak("evaluate")


@contextmanager
def sides(choice: Choice, ways: Sequence[Variant], python: str | None) -> Iterator[Sides]:
    """Start both sides, and end them in the end.

    Raises:
        OptionError: a model that no peer can have.
        WorkerError: see `Worker`.
    """
    if choice.file is not None and any(way.tensor_product != EXACT for way in ways):
        raise OptionError(f"{choice.file} has a tensor product of its own; time it without others")
    if python is not None and (choice.family != "mace" or choice.file is not None):
        raise OptionError(f"{PEER} has no model {choice.title}; time it without a peer")
    with TemporaryDirectory(prefix="mlip-bench-") as folder, ExitStack() as stack:
        yield Sides(choice, ways, python, Path(folder), stack)


def save_structure(atoms: int, path: Path) -> None:
    """Write a box of water of about so many atoms for the processes to read."""
    box = water_box(atoms)
    np.savez(path, numbers=box.numbers, positions=box.positions, cell=box.cell)


def alternate(workers: Mapping[str, Worker], action: str, rounds: int, budget: float = 60.0) -> dict[str, float]:
    """Time an action of several processes in turn, after a run each to warm up; the least of all rounds counts.

    Args:
        workers: by label; while one works the others wait.
        action: what to time.
        rounds: turns of each, fewer (but three) where they take longer in all than `budget`.
        budget: seconds.

    Returns:
        Seconds by label.
    """
    check_counts(rounds=[rounds])
    best = {label: min(worker.time(action)) for label, worker in workers.items()}
    rounds = min(rounds, max(3, int(budget / (2.0 * sum(best.values())))))
    best = dict.fromkeys(workers, float("inf"))
    for _ in range(rounds):
        for label, worker in workers.items():  # twice: first with the caches as the others left them, then with its own
            best[label] = min(best[label], *worker.time(action, runs=2))
    return best


def differences(files: Mapping[str, Path], keys: Iterable[str] | None = None) -> dict[str, dict[str, float]]:
    """Compare arrays that our processes wrote with those of the peer.

    Args:
        files: npz files by label; nothing is compared without one of `PEER`.
        keys: which arrays; all by default.

    Returns:
        The largest difference by label and array.

    Raises:
        EngineMismatchError: a difference above `TOLERANCE`.
    """
    if PEER not in files:
        return {}
    with np.load(files[PEER]) as z:
        expected = {k: z[k] for k in (z.files if keys is None else keys)}
    out: dict[str, dict[str, float]] = {}
    for label, file in files.items():
        if label == PEER:
            continue
        with np.load(file) as z:
            out[label] = {k: float(np.abs(z[k] - e).max(initial=0.0)) for k, e in expected.items()}
        for key, found in out[label].items():
            limit = TOLERANCE * float(np.abs(expected[key]).max(initial=0.0))
            if not found <= limit:
                raise EngineMismatchError(f"{label} and {PEER} differ by {found:.2e} in {key}, more than {limit:.2e}; "
                                          "their times cannot be compared")
    return out
