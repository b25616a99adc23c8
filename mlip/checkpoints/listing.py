"""The models one can name, as a table."""

from __future__ import annotations

from pathlib import Path

from mlip.checkpoints import catalogue
from mlip.checkpoints.download import cached
from mlip.checkpoints.load import bundled, load


def table() -> str:
    """Return name, family, licence, size and place of every bundled and catalogued model, a line each."""
    rows = [("name", "family", "size", "where", "licence")]
    for name, path in bundled().items():
        info = load(name).info
        rows.append((name, info.family, _size(path.stat().st_size), "bundled", info.licence))
    for name, entry in catalogue.entries().items():
        place = "cached" if cached(entry) else "download"
        rows.append((name, entry.family, _size(entry.size), place, entry.licence))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return "\n".join("  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[4]])
                     for row in rows)


def public(name: str) -> catalogue.Entry | None:
    """Return the entry of a public model that is neither bundled nor fetched yet; None for anything else."""
    entry = catalogue.entries().get(name)
    return entry if entry and name not in bundled() and not Path(name).is_file() and not cached(entry) else None


def _size(size: int | None) -> str:
    return "-" if size is None else f"{size / 1e6:.1f} MB"
