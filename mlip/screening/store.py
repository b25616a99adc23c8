"""The store of a screening: lines of JSON that are only ever added to, one for each structure and property."""

from __future__ import annotations

import builtins
import dataclasses
import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlip.errors import OptionError

ROWS = "rows"


@dataclass(frozen=True)
class Row:
    """One property of one structure.

    Attributes:
        id: of the structure.
        hash: sha256 of the structure.
        property: e.g. `"relax"`.
        status: `"done"` or `"failed"`.
        reason: why it failed: the class of the error and its text.
        value: the results, JSON.
        units: of the results, by name.
        formula: e.g. `"C5H8O2"`; "" where the structure could not be read.
        atoms: number of atoms.
        model: name and sha256 of the model.
        settings: all that the results depend on beside the structure and the model: of the property and of those it
            needs, and how the model was evaluated.
        versions: of the packages that computed it.
        seconds: wall time from the start of the work on the structure; of structures in one batch they overlap.
        time: when it was finished, UTC.
    """

    id: str
    hash: str
    property: str
    status: str
    reason: str = ""
    value: Mapping[str, Any] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    formula: str = ""
    atoms: int = 0
    model: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    time: str = ""

    @builtins.property
    def key(self) -> str:
        """What is never computed twice: see `key_of`."""
        return key_of(self.hash, self.property, self.settings, self.model.get("sha256", ""))


def key_of(structure: str, name: str, settings: Mapping[str, Any], model: str) -> str:
    """Return the key of a result: structure and model by their sha256, property, and sha256 of the settings."""
    text = json.dumps(settings, sort_keys=True)
    return f"{structure} {name} {hashlib.sha256(text.encode()).hexdigest()[:16]} {model}"


class Store:
    """The rows in a folder. Any number of processes may write at once: each has a file of its own.

    A row is one line, written by one call and synced to the disk. A file is never opened again by another process, so
    that a line cut off by a crash stays the last of its file and is left out.
    """

    def __init__(self, folder: str | Path) -> None:
        """Open the store of an output folder, which is made where it does not exist.

        Raises:
            OptionError: the folder is a file, or cannot be made.
        """
        self.folder = Path(folder).expanduser() / ROWS
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OptionError(f"cannot write into {folder}: {error}; give a folder with --out") from None
        self._file: int | None = None
        self._read: dict[Path, int] = {}  # bytes of each file that `new` has returned

    def append(self, row: Row) -> None:
        """Add a row; when this returns, it is on the disk."""
        if self._file is None:
            path = self.folder / f"{uuid.uuid4().hex}.jsonl"
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o644)
        line = json.dumps(dataclasses.asdict(row), sort_keys=True, allow_nan=False).encode() + b"\n"
        while line:  # more than one call only where the disk is full or a signal came
            line = line[os.write(self._file, line):]
        os.fsync(self._file)

    def close(self) -> None:
        """Close the file of this process; the next row begins another."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def rows(self) -> list[Row]:
        """Return all rows, one for each structure, property, settings and model, sorted."""
        self._read.clear()
        return unique(self.new())

    def new(self) -> list[Row]:
        """Return the rows added since the last call, by any process.

        Raises:
            OptionError: a file of the store holds something else.
        """
        found = []
        for path in sorted(self.folder.glob("*.jsonl")):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                content = file.read()
            whole = content[: content.rfind(b"\n") + 1]
            self._read[path] = self._read.get(path, 0) + len(whole)
            found += [_row(path, line) for line in whole.splitlines()]
        return found


def unique(rows: Iterable[Row]) -> list[Row]:
    """Return the rows without repetitions, as two processes may leave them, sorted by id, property and key."""
    found: dict[tuple[str, str, str], Row] = {}
    for row in rows:
        found.setdefault((row.id, row.property, row.key), row)
    return [found[key] for key in sorted(found)]


def _row(path: Path, line: bytes) -> Row:
    try:
        return Row(**json.loads(line))
    except (TypeError, ValueError) as error:
        raise OptionError(f"{path} holds a line that is no result of a screening ({error}); move the file away, or "
                          "give another folder") from None
