"""Extended XYZ, a frame at a time, so that memory does not grow with the file.

ASE decides what a text means: the words of a comment line are converted by its parser, and frames with anything but
symbols and real numbers are read by its reader. The usual frame is read here, several times as fast.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from typing import Any, TextIO

import numpy as np
from ase import Atoms
from ase.io.extxyz import key_val_str_to_dict, read_xyz

from mlip.elements import NUMBERS

WORD = re.compile(r"""[^\s"'{}\[\]\\=]+=(?:"[^"\\]*"|[^\s"'{}\[\]\\=]+)(?=\s|$)""")
Columns = list[tuple[str, int, int]]  # name, first column after the symbol, width
Content = tuple[Any, Any, Any, Any, dict[str, Any], dict[str, Any]]  # the fields of a Frame


def iter_extxyz(file: TextIO) -> Iterator[Content | Atoms]:
    """Yield the frames of an extended XYZ file: the fields of a `Frame`, or ASE atoms where ASE had to read it.

    Raises:
        ValueError: a damaged file; ASE raises other errors, too.
    """
    while line := file.readline():
        if not line.strip():
            if rest := file.read(1000).strip():
                raise ValueError(f"text after an empty line: {rest[:60]!r}")
            return
        count = int(line)
        comment, rows = file.readline(), list(islice(file, count))
        if len(rows) < count:
            raise ValueError(f"the last frame has {len(rows)} of {count} atoms; the file is cut")
        content = _usual(comment, rows)
        yield next(read_xyz(io.StringIO(f"{line}{comment}{''.join(rows)}"), 0)) if content is None else content


def _usual(comment: str, rows: list[str]) -> Content | None:
    """Return the content of a frame of symbols and real numbers, None for another or a damaged one."""
    info = _words(comment)
    columns = _columns(str(info.pop("Properties", "species:S:1:pos:R:3")))
    words = [row.split() for row in rows]
    if columns is None or not words or {len(row) for row in words} != {1 + sum(width for _, _, width in columns)}:
        return None
    try:
        numbers = np.array([NUMBERS[row[0]] for row in words])
        values = np.array([row[1:] for row in words], dtype=np.float64)
    except (KeyError, ValueError):
        return None
    arrays = {name: values[:, first] if width == 1 else values[:, first : first + width]
              for name, first, width in columns}
    lattice = info.pop("Lattice", None)
    pbc = info.pop("pbc", lattice is not None)
    return numbers, arrays.pop("pos"), None if lattice is None else lattice.T, pbc, info, arrays


def _words(comment: str) -> dict[str, Any]:
    """Return the values of a comment line, converted by ASE."""
    if WORD.sub("", comment).strip():
        return dict(key_val_str_to_dict(comment)) if comment.strip() else {}
    return dict(map(_pair, WORD.findall(comment)))


@lru_cache(4096)
def _pair(word: str) -> tuple[str, Any]:
    """Return name and value of `name=value`; most words stand in every frame."""
    ((name, value),) = key_val_str_to_dict(word).items()
    return name, value


@lru_cache(64)
def _columns(properties: str) -> Columns | None:
    """Return the columns of real numbers after the symbols; None where there are others, or no positions."""
    fields = properties.split(":")
    names, kinds, widths = fields[::3], fields[1::3], fields[2::3]
    if fields[:3] != ["species", "S", "1"] or set(kinds[1:]) != {"R"} or "pos:R:3" not in properties:
        return None
    columns, first = [], 0
    for name, width in zip(names[1:], map(int, widths[1:]), strict=True):
        columns.append((name, first, width))
        first += width
    return columns
