"""What all tables of a recipe have in common: names that are known, files, numbers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from mlip.errors import OptionError


def check_table(table: Mapping[str, Any], kind: type, name: str, needed: str, why: str) -> None:
    """Check the names in a table against the fields of a dataclass, one of which must be there.

    Raises:
        OptionError: unknown names, or the needed one is missing.
    """
    known = sorted((field.name for field in dataclasses.fields(kind)), key=lambda option: option != needed)
    unknown = sorted(set(table) - set(known))
    if unknown:
        raise OptionError(f"{name}: unknown option(s) {', '.join(unknown)}; allowed are {', '.join(known)}")
    if needed not in table:
        raise OptionError(f"{name}: {needed} is missing; give {why}")


def as_files(value: Any) -> Any:
    """Return the files of a TOML value as a tuple; what is no list of texts is left to the checks."""
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


def is_files(value: object) -> bool:
    """Return whether a value is a tuple of names of files."""
    return isinstance(value, tuple) and all(isinstance(path, str) and path for path in value)


def is_number(value: object) -> bool:
    """Return whether a value is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < math.inf
