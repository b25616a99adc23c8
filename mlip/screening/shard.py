"""A few hundred structures, computed by one process: what is handed to the workers of any machine."""

from __future__ import annotations

import importlib.metadata
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from ase import Atoms

from mlip.checkpoints import Potential
from mlip.errors import BackendError, MissingDependencyError
from mlip.potentials.registry import ModelReference, resolve
from mlip.screening.attempts import Attempt
from mlip.screening.batch import BatchedModel, System
from mlip.screening.inputs import Entry
from mlip.screening.memory import forecast_of
from mlip.screening.properties.energy import results as energy_results
from mlip.screening.properties.relax import relax_all, restored
from mlip.screening.registry import Property, recorded, wanted
from mlip.screening.store import Row, Store, key_of

PACKAGES = ("mlip-md", "torch", "ase", "numpy", "phonopy", "spglib")
Found = Mapping[str, Any] | Exception | str  # results, an error, or the text of a reason
FIRST = {"energy": 0, "relax": 1}  # of all structures, before the others of any
DEATHS = 2  # of processes that worked on a shard, before it is computed with care
STOPPING = (MissingDependencyError, BackendError)  # no structure is to blame


@dataclass(frozen=True)
class Shard:
    """What a worker needs to know; it can be pickled.

    Attributes:
        folder: of the screening, on a disk that all workers see.
        entries: the structures.
        model: where the model is found.
        properties: names, those needed first.
        settings: of each property.
        memory: bytes the process may have; None for no limit.
        careful: whether to work in a process of its own, whose death is survived; else it is as soon as two died.
    """

    folder: str
    entries: tuple[Entry, ...]
    model: ModelReference
    properties: tuple[str, ...]
    settings: Mapping[str, Any]
    memory: int | None = None
    careful: bool = False


def run_shard(shard: Shard, tell: Callable[[Row], None] | None = None) -> int:
    """Compute what is not yet in the store, and return the number of rows that were added.

    Every row is on the disk as soon as it is known. Whatever goes wrong with a structure becomes its row, even if it
    kills the process: see `mlip.screening.careful`.

    Args:
        shard: what to do.
        tell: called with each row.

    Raises:
        MissingDependencyError, BackendError, ModelFileError, WorkerError: nothing can be computed this way.
    """
    from mlip.screening.careful import deaths_of, survive

    work = ShardWork(shard, tell)
    return survive(work) if shard.careful or deaths_of(work) >= DEATHS else work.run()


class ShardWork:
    """A shard that is being computed.

    Attributes:
        shard: what to do.
        store: of the folder.
        attempt: tells what this process is working on.
        added: rows that it has added.
    """

    def __init__(self, shard: Shard, tell: Callable[[Row], None] | None = None) -> None:
        self.tell = tell
        self.shard, self.potential = shard, resolve(shard.model)
        self.properties: list[Property] = wanted(shard.properties)
        self.settings = {p.name: recorded(p, shard.settings, self.potential) for p in self.properties}
        self.store, self.attempt = Store(shard.folder), Attempt(shard.folder)
        self.done = {row.key: row for row in self.store.rows()}
        self.versions = versions()
        self.added = 0

    def run(self) -> int:
        """Compute, in this process."""
        try:
            names = [p.name for p in self.properties]
            if "energy" in names:
                self._energies()
            if "relax" in names:
                self._relax()
            for entry in self.shard.entries:  # where the relaxation was known before
                self._others(entry)
        finally:
            self.attempt.end()
            self.store.close()
        return self.added

    def key(self, entry: Entry, name: str) -> str:
        """Return the key of a result."""
        return key_of(entry.hash, name, self.settings[name], self.shard.model.sha256)

    def lacking(self, entry: Entry) -> list[str]:
        """Return the properties of a structure that are missing, in the order they are computed."""
        if entry.atoms is None:
            return []
        names = sorted((p.name for p in self.properties), key=lambda name: FIRST.get(name, len(FIRST)))
        return [name for name in names if self._row(entry, name) is None]

    def _model(self) -> BatchedModel:
        return batched(self.potential, self.shard.memory)

    def _missing(self, name: str) -> list[Entry]:
        return [e for e in self.shard.entries if e.atoms is not None and self._row(e, name) is None]

    def _row(self, entry: Entry, name: str) -> Row | None:
        return self.done.get(self.key(entry, name))

    def _energies(self) -> None:
        missing, start = self._missing("energy"), time.monotonic()
        for begin in range(0, len(missing), 64):
            part = missing[begin : begin + 64]
            self.attempt.on(self.key(e, "energy") for e in part)
            found = self._model()([System.of(e.atoms, self.potential) for e in part if e.atoms is not None])
            for entry, one in zip(part, found, strict=True):
                self.add(entry, "energy", one if isinstance(one, Exception) else energy_results(one), start)

    def _relax(self) -> None:
        missing, start = self._missing("relax"), time.monotonic()
        if not missing:
            return
        structures: Sequence[Atoms] = [e.atoms for e in missing if e.atoms is not None]
        keys = [self.key(e, "relax") for e in missing]
        for place, found in relax_all(structures, self._model(), self.shard.settings["relax"],
                                      lambda places: self.attempt.on(keys[i] for i in places)):
            self.add(missing[place], "relax", found, start)
            self._others(missing[place])

    def _others(self, entry: Entry) -> None:
        """Compute everything else of a structure, in the order of what needs what."""
        for prop in self.properties:
            if prop.name in ("relax", "energy") or entry.atoms is None or self._row(entry, prop.name) is not None:
                continue
            start = time.monotonic()
            needed = {name: self._row(entry, name) for name in prop.needs}
            lacking = [f"{name}: {row.reason}" for name, row in needed.items() if row is not None and
                       row.status == "failed"]
            found: Found
            if lacking:
                found = (f"there is no {prop.name} without {'; '.join(lacking)}")
            else:
                relaxed = needed.get("relax")
                atoms = entry.atoms if relaxed is None else restored(relaxed.value["structure"])
                self.attempt.on([self.key(entry, prop.name)])
                try:
                    found = prop.compute(atoms, self.potential, self.shard.settings[prop.name])
                except STOPPING:
                    raise
                except Exception as error:  # one bad structure must not stop the others
                    found = error
            self.add(entry, prop.name, found, start)

    def add(self, entry: Entry, name: str, found: Found, start: float) -> None:
        """Store a result; `start` is when the work on it began, of `time.monotonic`."""
        if isinstance(found, STOPPING):
            raise found
        units = {p.name: p.units for p in self.properties}[name]
        row = row_of(entry, name, found, self.settings[name], self.shard.model.sha256, self.potential, units,
                     self.versions, time.monotonic() - start)
        self.store.append(row)
        self.count(row)

    def count(self, row: Row) -> None:
        """Take note of a row that was added."""
        self.done[row.key] = row
        self.added += 1
        if self.tell is not None:
            self.tell(row)


def row_of(entry: Entry, name: str, found: Found, settings: Mapping[str, Any], sha256: str, potential: Potential,
           units: Mapping[str, str], versions: Mapping[str, str], seconds: float) -> Row:
    """Return the row of a result, an error, or the text of a reason."""
    value, reason = (found, "") if isinstance(found, Mapping) else ({}, _text(found))
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        value, reason = {}, f"the results hold NaN, infinity or something else that is no JSON: {error}"
    return Row(entry.id, entry.hash, name, "failed" if reason else "done", reason, value,
               {k: unit for k, unit in units.items() if k in value},
               "" if entry.atoms is None else entry.atoms.get_chemical_formula(),
               0 if entry.atoms is None else len(entry.atoms), {"name": potential.info.name, "sha256": sha256},
               settings, versions, round(seconds, 3), datetime.now(timezone.utc).isoformat(timespec="seconds"))


def _text(reason: Exception | str) -> str:
    return f"{type(reason).__name__}: {reason}" if isinstance(reason, Exception) else reason


_last: dict[int | None, BatchedModel] = {}  # of this process, by the memory it may have


def batched(potential: Potential, memory: int | None) -> BatchedModel:
    """Return the batched model of a potential; the last one is kept, since measuring it takes seconds."""
    found = _last.get(memory)
    if found is None or found.potential is not potential:
        limit = None if memory is None else forecast_of(potential).largest(memory)
        found = BatchedModel(potential, limit=limit)
        _last.clear()
        _last[memory] = found
    return found


def versions() -> dict[str, str]:
    """Return the versions of the packages that compute here."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
