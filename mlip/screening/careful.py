"""Work in processes whose death is survived: a structure that kills whoever computes it is found, the others kept."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import IO

import torch

from mlip.errors import WorkerError
from mlip.screening.attempts import Attempt, attempts_at, attempts_of
from mlip.screening.inputs import Entry
from mlip.screening.shard import ShardWork

ALONE = 3  # deaths of processes that worked on one result only, before it is given up
POLL = 0.2  # s between two looks at what a process has added
RAISED = 3  # exit status of a process that ended with an exception
CHILD = "from mlip.screening.careful import main; main()"


def deaths_of(work: ShardWork) -> int:
    """Return how many processes died while they worked on what is missing; 0 where another cannot find the model."""
    missing = _missing(work, work.shard.entries)
    return 0 if work.shard.model.source is None else len(attempts_at(work.shard.folder, missing))


def survive(work: ShardWork) -> int:
    """Compute a shard in other processes, one after the other, and return the number of rows that were added.

    Where one dies, what it was working on is halved and tried again, until the one result is found that kills whoever
    computes it. After three deaths it becomes a failure. What died with its parent, as where the system ends all
    processes of a job, is taken up in halves as well.

    Raises:
        WorkerError: a process ended with an error, or died before it began to work.
    """
    groups, alone = _groups(work)
    try:
        while groups:
            group = [entry for entry in groups.pop() if work.lacking(entry)]
            if not group:
                continue
            entry, name = group[0], work.lacking(group[0])[0]
            if len(group) == 1 and alone[work.key(entry, name)] >= ALONE:
                work.add(entry, name, f"WorkerError: {ALONE} processes died while they computed this and nothing else; "
                         "it needs more memory than there is, or a library fails", time.monotonic())
                groups.append(group)  # its other properties
                continue
            keys = _child(work, group)
            if not keys:
                continue
            blamed = [each for each in group if keys & _missing(work, [each])]
            if len(blamed) == 1:
                alone.update(keys & _missing(work, blamed))
            half = (len(blamed) + 1) // 2
            groups += [[each for each in group if each not in blamed], blamed[half:], blamed[:half]]
    finally:
        work.store.close()
    return work.added


def _missing(work: ShardWork, entries: Sequence[Entry]) -> set[str]:
    """Return the keys of what structures lack."""
    return {work.key(entry, name) for entry in entries for name in work.lacking(entry)}


def _groups(work: ShardWork) -> tuple[list[list[Entry]], Counter[str]]:
    """Return what to begin with, last what processes died with, in halves; and how often they died with one result."""
    tried = attempts_at(work.shard.folder, _missing(work, work.shard.entries))
    halves: dict[int, list[Entry]] = defaultdict(list)
    for entry in work.shard.entries:
        keys = _missing(work, [entry])
        halves[min((max(1, len(each) // 2) for each in tried if keys & set(each)), default=0)].append(entry)
    groups = [halves.pop(0, [])]
    for size, entries in halves.items():
        groups += [entries[i : i + size] for i in range(0, len(entries), size)]
    return groups, Counter(each[0] for each in tried if len(each) == 1)


def _child(work: ShardWork, group: Sequence[Entry]) -> set[str]:
    """Compute structures in another process; return what it was working on when it died, nothing where it did not."""
    attempt = Attempt(work.shard.folder)
    task = pickle.dumps((dataclasses.replace(work.shard, entries=tuple(group)), attempt))
    try:
        with tempfile.TemporaryFile() as words:
            status = _watched(work, task, words)
            words.seek(0)
            said = words.read().decode(errors="replace").strip().splitlines()[-1:]
        keys = set(attempts_of(work.shard.folder).get(attempt.path.name, ()))
    finally:
        attempt.end()
    if status == RAISED or (status and not keys and _missing(work, group)):
        raise WorkerError(f"a process that was to compute {len(group)} structures ended with status {status}: "
                          f"{' '.join(said)}")
    return keys


def _watched(work: ShardWork, task: bytes, words: IO[bytes]) -> int:
    """Start a process and tell of what it adds until it ends; return its exit status."""
    process = subprocess.Popen([sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                               stderr=words, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path),
                                                  "OMP_NUM_THREADS": str(torch.get_num_threads())})
    assert process.stdin is not None
    try:
        with contextlib.suppress(BrokenPipeError):  # it died at once
            process.stdin.write(task)
            process.stdin.flush()  # it stays open: where it ends, so does the process
        while process.poll() is None:
            time.sleep(POLL)
            _tell(work)
    finally:
        process.kill()
        process.wait()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
    _tell(work)
    return process.returncode


def _tell(work: ShardWork) -> None:
    """Take note of the rows that another process has added."""
    for row in work.store.new():
        if row.key not in work.done:
            work.count(row)


def main() -> None:
    """Compute the shard that comes on standard input, and end when that ends: who wrote it is dead."""
    shard, attempt = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_parent, args=(attempt,), daemon=True).start()
    try:
        work = ShardWork(shard)
        work.attempt = attempt
        work.run()
    except Exception:
        traceback.print_exc()
        sys.exit(RAISED)


def _end_with_parent(attempt: Attempt) -> None:
    os.read(0, 1)
    attempt.end()  # no result is to blame
    os._exit(1)
