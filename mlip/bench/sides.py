"""The two sides of a comparison: processes with mlip and with mace-torch, the same weights, structures and inputs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from mlip.bench.choices import EXACT, RADIALS, Choice, MACEChoice, TrainedMACE
from mlip.bench.group import Group, start_ours
from mlip.bench.peer_weights import exported
from mlip.bench.water import water_box
from mlip.bench.worker import PROCESSES, Worker
from mlip.errors import EngineMismatchError, OptionError
from mlip.graph import Structure

PEER = "mace-torch"
PEER_VARIABLE = "MLIP_PEER_MACE_PYTHON"
TOLERANCE = 1e-3  # of the largest value; both sides are float32, and tables are not exact
TINY = 24  # atoms, to warm up


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


def start_peer(python: str) -> Worker:
    """Start a process with mace-torch in its environment."""
    variable = {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}  # e3nn 0.4.4 cannot be imported without it
    return Worker(PEER, python, PROCESSES / "peer_mace.py", variable)


class Sides(Group):
    """Our variants and the peer, each in a process of its own with its model.

    Attributes:
        workers: by label; the peer, if there is one, is called `PEER`.
        folder: for files they share.
        backends: of our variants.
    """

    def __init__(self, choice: Choice, ways: Sequence[Variant], python: str | None, folder: Path,
                 stack: ExitStack) -> None:
        """Start all processes; `stack` ends them. Errors are those of `Worker`."""
        super().__init__(folder)
        self.choice, self.ways, self.python = choice, {v.label: v for v in ways}, python
        peer = stack.enter_context(start_peer(python)) if python else None
        if peer is not None and choice.beside is not None:
            peer.call("build", path=str(self._peer_file), seed=choice.beside.seed,
                      atomic_numbers=choice.beside.elements, **choice.beside.settings)
            if isinstance(choice.beside, TrainedMACE):
                self._fill(peer, choice.beside)
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

    def start_worker(self, label: str) -> Worker:
        """Start a process of this label, without its model."""
        return start_peer(self.python) if label == PEER and self.python else start_ours(label)

    def load_model(self, label: str, worker: Worker) -> dict[str, Any]:
        """Load the model of this label, and return what the process says of it."""
        way = self.ways.get(label)
        chosen = {} if way is None else {"backend": way.backend, "radial": way.radial}
        file = self._peer_file if way is None else self._file(way)
        loaded: dict[str, Any] = worker.call("load", path=str(file), **chosen)
        return loaded

    def warm_up(self) -> Path:
        """Return the file of a small box of water."""
        return self.box(TINY)

    @property
    def same(self) -> bool:
        """Whether mace-torch has the same model as ours, with the same weights."""
        return self.python is not None and self.choice.beside == self.choice

    def _fill(self, peer: Worker, choice: TrainedMACE) -> None:
        """Give the model of mace-torch the weights of ours."""
        theirs, ours = self.folder / "theirs.npz", self.folder / "ours.npz"
        peer.call("weights", path=str(self._peer_file), target=str(theirs))
        with np.load(theirs) as z:
            tensors: dict[str, Any] = exported(choice.create(), dict(z))
        np.savez(ours, **tensors)
        peer.call("fill", path=str(self._peer_file), tensors=str(ours))

    @property
    def _peer_file(self) -> Path:
        return self.folder / "peer.model"

    def _file(self, way: Variant) -> Path:
        """Return the file of our model: the one of the peer, or one of ours, maybe with another tensor product."""
        if self.same and way.tensor_product == EXACT and not isinstance(self.choice, TrainedMACE):
            return self._peer_file
        file = self.folder / f"{way.tensor_product}.mlip"
        if not file.exists():
            choice = self.choice
            (choice.create(way.tensor_product) if isinstance(choice, MACEChoice) else choice.create()).save(file)
        return file

    def comparable(self, labels: Iterable[str]) -> list[str]:
        """Return those of the labels that stand for the same numbers, first the one that the others must agree with.

        That is the peer where it has the same model, else plain torch.
        """
        ours = [x for x in labels if x in self.ways and self.ways[x].tensor_product == EXACT]
        ours.sort(key=lambda label: self.ways[label].backend != "reference")
        return [PEER, *ours] if self.same and PEER in labels else ours

    def box(self, atoms: int) -> Path:
        """Return the file of a box of water."""
        file = self.folder / f"water{atoms}.npz"
        if not file.exists():
            save_structure(water_box(atoms), file)
        return file


@contextmanager
def sides(choice: Choice, ways: Sequence[Variant], python: str | None) -> Iterator[Sides]:
    """Start both sides, and end them in the end.

    Raises:
        OptionError: radial functions or tensor products that the model does not have, or no peer for it.
        WorkerError: see `Worker`.
    """
    radials = sorted({way.radial for way in ways} - set(choice.radials))
    if radials:
        raise OptionError(f"{choice.title}: its radial functions can be {', '.join(choice.radials)}, not "
                          f"{', '.join(radials)}")
    if not isinstance(choice, MACEChoice) and any(way.tensor_product != EXACT for way in ways):
        raise OptionError(f"{choice.title}: only MACE with random weights can have other tensor products")
    if python is not None and choice.beside is None:
        raise OptionError(f"{PEER} has no model to compare with {choice.title}; time it without a peer")
    with TemporaryDirectory(prefix="mlip-bench-") as folder, ExitStack() as stack:
        yield Sides(choice, ways, python, Path(folder), stack)


def save_structure(structure: Structure, path: Path) -> None:
    """Write a structure, periodic in all directions or in none, for the processes to read."""
    np.savez(path, numbers=structure.numbers, positions=structure.positions, cell=structure.cell,
             pbc=bool(structure.pbc.all()))


def differences(files: Mapping[str, Path], keys: Iterable[str] | None = None,
                peer: str = PEER) -> dict[str, dict[str, float]]:
    """Compare arrays that processes wrote with those of one of them.

    Args:
        files: npz files by label; nothing is compared without one of `peer`.
        keys: which arrays; all by default.
        peer: label of the one that the others must agree with.

    Returns:
        The largest difference by label and array.

    Raises:
        EngineMismatchError: a difference above `TOLERANCE`.
    """
    if peer not in files:
        return {}
    with np.load(files[peer]) as z:
        expected = {k: z[k] for k in (z.files if keys is None else keys)}
    out: dict[str, dict[str, float]] = {}
    for label, file in files.items():
        if label == peer:
            continue
        with np.load(file) as z:
            out[label] = {k: float(np.abs(z[k] - e).max(initial=0.0)) for k, e in expected.items()}
        for key, found in out[label].items():
            limit = TOLERANCE * float(np.abs(expected[key]).max(initial=0.0))
            if not found <= limit:
                raise EngineMismatchError(f"{label} and {peer} differ by {found:.2e} in {key}, more than {limit:.2e}; "
                                          "their times cannot be compared")
    return out
