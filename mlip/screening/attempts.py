"""What processes are working on: a file of each, which tells after its death what it died of."""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Collection, Iterable
from pathlib import Path

from mlip.screening.store import ROWS

ENDING = ".work"


class Attempt:
    """The results that this process is working on now, in a file beside those of the store.

    The file is there as long as there is work, and stays only where the process dies. It is replaced as a whole, so
    that it is never torn; it need not be synced, since a dead process leaves the pages of its files to the system.
    """

    def __init__(self, folder: str | Path) -> None:
        """Take a name in the folder of a screening."""
        self.path = Path(folder).expanduser() / ROWS / f"{uuid.uuid4().hex}{ENDING}"
        self._keys: list[str] = []

    def on(self, keys: Iterable[str]) -> None:
        """Say what is worked on from now on, by the keys of the results."""
        listed = sorted(keys)
        if listed == self._keys:
            return
        self._keys, partial = listed, self.path.with_suffix(".partial")
        partial.write_text(json.dumps(listed), encoding="utf-8")
        partial.replace(self.path)

    def end(self) -> None:
        """Say that nothing is worked on."""
        self._keys = []
        for path in (self.path, self.path.with_suffix(".partial")):
            path.unlink(missing_ok=True)


def attempts_of(folder: str | Path) -> dict[str, list[str]]:
    """Return what processes are working on, or were when they died: keys of results by the names of the files."""
    found = {}
    for path in sorted((Path(folder).expanduser() / ROWS).glob(f"*{ENDING}")):
        with contextlib.suppress(FileNotFoundError):  # it has just come to its end
            found[path.name] = json.loads(path.read_text(encoding="utf-8"))
    return found


def attempts_at(folder: str | Path, keys: Collection[str]) -> list[list[str]]:
    """Return what was worked on by those processes that died over some of these results.

    Those still at work are among them: who asks must be the only one who works on these results.
    """
    return [listed for listed in attempts_of(folder).values() if not set(listed).isdisjoint(keys)]


def forget_attempts(folder: str | Path, known: Collection[str]) -> None:
    """Remove the files of attempts at results that are all known by now."""
    for name, listed in attempts_of(folder).items():
        if set(known).issuperset(listed):
            (Path(folder).expanduser() / ROWS / name).unlink(missing_ok=True)
