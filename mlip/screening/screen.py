"""`screen`: properties of many structures, each computed once, whatever happens on the way."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mlip.checkpoints import Potential
from mlip.errors import OptionError, WorkerError
from mlip.potentials.registry import register
from mlip.screening.attempts import attempts_at, forget_attempts
from mlip.screening.inputs import Entry, read_inputs
from mlip.screening.registry import recorded, settings_of, wanted
from mlip.screening.shard import DEATHS, Shard, row_of, run_shard, versions
from mlip.screening.store import Row, Store, key_of
from mlip.screening.table import Table

SHARD = 200  # structures
POLL = 0.5  # s between two looks at what other processes have added


def screen(structures: Any, potential: Potential | str | Path, properties: Sequence[str] = ("relax",),
           out: str | Path = "screening", *, settings: Mapping[str, Any] | None = None, memory: float | None = None,
           executor: Executor | None = None, progress: bool = False) -> Table:
    """Compute properties of many structures; begin again where an earlier call was stopped.

    Each result is a line in the store of the folder as soon as it is known. The same call again computes only what is
    missing: other structures, another model, other settings, other properties. A structure that fails is a row with
    the reason, and does not change a bit of the others; so does one that kills the process, once two have died: see
    `mlip.screening.careful`. `table.csv` is written into the folder at the end; it does not
    depend on when or how often the work was stopped.

    Args:
        structures: files, folders, patterns, `ase.Atoms` or pymatgen structures, see `read_inputs`.
        potential: the model, or its name or path.
        properties: names of files in `mlip/screening/properties`; those they need are computed too.
        out: folder of the results.
        settings: of properties by name, e.g. `{"relax": relax.Settings(fmax=1e-3)}`; else the defaults.
        memory: GB (10^9 bytes) each process may have; structures forecast to need more become failures. None: no limit.
        executor: processes that share the work, such as `concurrent.futures.ProcessPoolExecutor` or Parsl's
            `ParslPoolExecutor`; they must see the folder and the file of the model. Give each one thread
            (`torch.set_num_threads(1)`): several wait for each other longer than they work where structures are small,
            and bits are equal for equal numbers of threads. None: this process works.
        progress: whether to show a bar with failures, rate and time left.

    Returns:
        The table.

    Raises:
        OptionError: bad options, or nothing to screen.
        WorkerError: a worker died; what it had finished is kept.
        ModelNotFoundError, ModelFileError: no such model.
    """
    if memory is not None and not memory > 0:
        raise OptionError(f"memory must be above 0 GB; {memory!r} was given")
    chosen = wanted(properties)
    values = settings_of(chosen, settings or {})
    model, reference = register(potential)
    if executor is not None and reference.source is None:
        raise OptionError("other processes cannot find a model that was never saved; call potential.save(path) first")
    entries, folder = read_inputs(structures), Path(out).expanduser().resolve()
    run = Run(Store(folder), entries, {p.name: recorded(p, values, model) for p in chosen}, reference.sha256)
    run.note_unreadable(model)
    pending = run.pending()
    size = SHARD if executor is None else min(SHARD, max(16, math.ceil(len(pending) / 4)))
    careful = reference.source is not None and len(attempts_at(folder, run.missing(pending))) >= DEATHS
    shards = [Shard(str(folder), tuple(pending[i : i + size]), reference, tuple(p.name for p in chosen), values,
                    None if memory is None else int(memory * 1e9), careful)
              for i in range(0, len(pending), size)]
    with tqdm(total=len(run.missing(pending)), desc="screening", unit="result", disable=not progress) as bar:
        _work(shards, executor, folder, _counter(bar))
    table = Table(entries, run.rows())
    forget_attempts(folder, {row.key for row in table.rows})
    table.write(folder / "table.csv")
    return table


@dataclass
class Run:
    """One call of `screen`: what is wanted, beside what is in the store.

    Attributes:
        store: of the folder.
        entries: all structures.
        settings: of each property, as recorded.
        sha256: of the model.
    """

    store: Store
    entries: Sequence[Entry]
    settings: Mapping[str, Mapping[str, Any]]
    sha256: str

    def __post_init__(self) -> None:
        self.known = {row.key for row in self.store.rows()}

    def key(self, entry: Entry, name: str) -> str:
        """Return the key of a result."""
        return key_of(entry.hash, name, self.settings[name], self.sha256)

    def note_unreadable(self, potential: Potential) -> None:
        """Add the rows of what could not be read."""
        for entry in self.entries:
            for name in self.settings if entry.atoms is None else ():
                if self.key(entry, name) not in self.known:
                    self.store.append(row_of(entry, name, entry.reason, self.settings[name], self.sha256, potential, {},
                                             versions(), 0.0))

    def pending(self) -> list[Entry]:
        """Return the structures with something to compute; of equal ones the first."""
        found: dict[str, Entry] = {}
        for entry in self.entries:
            if entry.atoms is not None and any(self.key(entry, name) not in self.known for name in self.settings):
                found.setdefault(entry.hash, entry)
        return list(found.values())

    def missing(self, entries: Sequence[Entry]) -> set[str]:
        """Return the keys of the results to compute."""
        return {self.key(entry, name) for entry in entries for name in self.settings} - self.known

    def rows(self) -> list[Row]:
        """Return a row for each structure and property; those of equal structures are copied, and stored."""
        rows = self.store.rows()
        mine, by_key = {(row.id, row.key): row for row in rows}, {row.key: row for row in rows}
        out = []
        for entry in self.entries:
            for name in self.settings:
                key = self.key(entry, name)
                row = mine.get((entry.id, key))
                if row is None:
                    row = dataclasses.replace(by_key[key], id=entry.id)
                    self.store.append(row)
                out.append(row)
        self.store.close()
        return out


def _counter(bar: Any) -> Callable[[Row], None]:
    failed = 0

    def count(row: Row) -> None:
        nonlocal failed
        failed += row.status == "failed"
        bar.set_postfix(failed=failed, refresh=False)
        bar.update()

    return count


def _work(shards: Sequence[Shard], executor: Executor | None, folder: Path, tell: Callable[[Row], None]) -> None:
    """Compute all shards, and tell of each row."""
    if executor is None:
        for shard in shards:
            run_shard(shard, tell)
        return
    store = Store(folder)
    store.rows()
    futures = {executor.submit(run_shard, shard) for shard in shards}
    try:
        while futures:
            done, futures = wait(futures, POLL, FIRST_COMPLETED)
            for row in store.new():
                tell(row)
            for future in done:
                future.result()
    except BrokenExecutor as error:
        raise WorkerError(f"a worker died ({error}); what was finished is kept, and the same call goes on from there. "
                          "After a second death the call finds out which structure is to blame, and goes on without "
                          "it; where the memory is too small for many, set the memory") from None
    finally:
        for future in futures:
            future.cancel()
