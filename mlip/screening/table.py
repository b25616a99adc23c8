"""The results of a screening as a table, and where a number in it comes from."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ase import Atoms

from mlip.errors import MissingDependencyError, OptionError
from mlip.io.files import check_target
from mlip.screening.inputs import Entry
from mlip.screening.properties.relax import restored
from mlip.screening.store import Row, Store

ENDINGS = (".csv", ".parquet", ".db", ".json")
OF_THE_RUN = ("seconds", "time", "versions")  # what may differ between two runs that find the same


@dataclass(frozen=True)
class Table:
    """The rows of one screening.

    Nothing in it says when, how fast or in how many attempts it was computed.

    Attributes:
        entries: the structures, sorted by id.
        rows: a row for each structure and property, sorted by id; properties in the order they were computed.
    """

    entries: Sequence[Entry]
    rows: Sequence[Row]

    @property
    def failures(self) -> list[Row]:
        """Rows of what failed."""
        return [row for row in self.rows if row.status == "failed"]

    def records(self) -> list[dict[str, Any]]:
        """Return a line for each structure: id, formula, atoms, hash, and `<property>.<name>` for single values."""
        found: dict[str, dict[str, Any]] = {}
        for row in self.rows:
            line = found.setdefault(row.id, {k: getattr(row, k) for k in ("id", "formula", "atoms", "hash")})
            line[f"{row.property}.status"], line[f"{row.property}.reason"] = row.status, row.reason
            line |= {f"{row.property}.{k}": v for k, v in row.value.items() if not isinstance(v, dict | list)}
        columns = list(dict.fromkeys(name for line in found.values() for name in line))
        return [{name: line.get(name) for name in columns} for line in found.values()]

    def csv(self) -> str:
        """Return the lines of `records` as CSV."""
        records, text = self.records(), io.StringIO()
        writer = csv.DictWriter(text, list(records[0]) if records else ["id"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
        return text.getvalue()

    def write(self, path: str | Path) -> Path:
        """Write the table; the ending of the name says how.

        Args:
            path: `.csv` or `.parquet` for the lines of `records`; `.json` for all rows with their settings, curves and
                structures; `.db` for a database of ASE with the relaxed structures, where they were relaxed.

        Raises:
            OptionError: another ending, or no such folder.
            MissingDependencyError: pyarrow, for Parquet.
        """
        target = check_target(path, ENDINGS)
        partial = target.with_name(f".{os.getpid()}-{target.name}")
        if target.suffix == ".csv":
            partial.write_text(self.csv(), encoding="utf-8")
        elif target.suffix == ".json":
            rows = [{k: v for k, v in dataclasses.asdict(row).items() if k not in OF_THE_RUN} for row in self.rows]
            partial.write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        elif target.suffix == ".parquet":
            _write_parquet(self.records(), partial)
        else:
            _write_database(self, partial)
        return partial.replace(target)


def explain(folder: str | Path, name: str) -> str:
    """Return everything that produced the numbers of a structure: rows, settings, model, versions, times.

    Args:
        folder: of the screening.
        name: id of the structure, or an end or beginning of it that no other has.

    Raises:
        OptionError: no such structure, or several.
    """
    if not Path(folder).expanduser().is_dir():
        raise OptionError(f"there is no folder {folder} with a screening")
    rows = Store(folder).rows()
    names = sorted({row.id for row in rows})
    fitting = [n for n in names if n == name] or [n for n in names if n.endswith(name) or n.startswith(name)]
    if len(fitting) != 1:
        known = ", ".join((fitting or names)[:10])
        raise OptionError(f"{len(fitting)} structures in {folder} are called {name!r}; there are, for example: {known}")
    chosen = [row for row in rows if row.id == fitting[0]]
    lines = [f"{chosen[0].id}: {chosen[0].formula or 'no structure'}, {chosen[0].atoms} atoms, sha256 {chosen[0].hash}"]
    for row in chosen:
        lines += ["", f"{row.property}: {row.status}" + (f", {row.reason}" if row.reason else "")]
        lines += [f"    {k} = {_shown(v)} {row.units.get(k, '')}".rstrip() for k, v in row.value.items()]
        lines += [f"  with {k}: {_pairs(v)}" for k, v in row.settings.items()]
        lines += [f"  model {row.model.get('name') or '(no name)'}, sha256 {row.model.get('sha256')}",
                  f"  {_pairs(row.versions)}", f"  finished {row.time}, after {row.seconds} s"]
    return "\n".join(lines)


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 100 else f"{text[:90]}... ({len(text)} characters, see the store)"


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {v}" for k, v in values.items()) or "nothing to set"


def _write_parquet(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingDependencyError.of("pyarrow", "screen") from None
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(records)), path)


def _write_database(table: Table, path: Path) -> None:
    from ase.db import connect

    by_id: dict[str, list[Row]] = {}
    for row in table.rows:
        by_id.setdefault(row.id, []).append(row)
    with connect(path, type="db", append=False) as database:
        for entry in table.entries:
            rows = by_id.get(entry.id, [])
            pairs = {f"{row.property}_{k}": v for row in rows for k, v in row.value.items()
                     if isinstance(v, int | float) and not isinstance(v, bool)}
            states = {f"{row.property}_status": row.status for row in rows}
            database.write(_final(entry, rows), {**pairs, **states, "screening_id": f"id {entry.id}"},
                           data={row.property: {"value": row.value, "reason": row.reason} for row in rows})


def _final(entry: Entry, rows: Sequence[Row]) -> Atoms:
    relaxed = next((row.value["structure"] for row in rows if row.property == "relax" and row.status == "done"), None)
    if relaxed is not None:
        return restored(relaxed)
    return Atoms() if entry.atoms is None else entry.atoms.copy()
