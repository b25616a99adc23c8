"""Rows of numbers: what they were taken with, how they are written."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlip.errors import OptionError

Row = dict[str, Any]


def machine(packages: Sequence[str]) -> dict[str, Any]:
    """Return what times depend on: processor, system, and the versions of packages here."""
    versions = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "absent"
    return {"processors": os.cpu_count(), "architecture": platform.machine(), "system": platform.system(),
            "python": platform.python_version(), "versions": versions}


def check_counts(**values: Sequence[int]) -> None:
    """Check that lists of numbers hold something, and nothing below 1.

    Raises:
        OptionError: names the list.
    """
    for name, numbers in values.items():
        if not numbers or min(numbers) < 1:
            raise OptionError(f"{name} must be numbers from 1; {numbers!r} was given")


def milliseconds(seconds: float | None) -> str:
    """Return seconds in ms for a table; "-" for None."""
    if seconds is None:
        return "-"
    return f"{seconds * 1e3:.3g}" if seconds < 1.0 else f"{seconds * 1e3:,.0f}"


def megabytes(size: float | None) -> str:
    """Return bytes in MB for a table; "-" for None."""
    if size is None:
        return "-"
    return f"{size / 1e6:.3g}" if size < 1e9 else f"{size / 1e6:,.0f}"


def lines_of(head: Sequence[str], cells: Sequence[Sequence[str]], left: int = 0) -> list[str]:
    """Return the lines of a table in Markdown; the first `left` columns are aligned to the left."""
    rule = "|" + "---|" * left + "---:|" * (len(head) - left)
    return ["| " + " | ".join(head) + " |", rule, *("| " + " | ".join(row) + " |" for row in cells)]


def save(rows: Sequence[Row], path: str | os.PathLike[str]) -> None:
    """Write rows as JSON."""
    Path(path).write_text(json.dumps(list(rows), indent=1) + "\n", encoding="utf-8")
