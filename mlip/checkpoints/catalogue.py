"""Public checkpoints that `mlip.load` knows by name: where they are, their licence and their checksum.

The table is `catalogue.json`. Its facts are from the README files of ACEsuit/mace-foundations and
ACEsuit/mace-off, from mace-torch, and from the model card and the code of EquiformerV3; `sha256_source` says where a
checksum was published.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mlip.checkpoints.info import ModelInfo

TABLE = Path(__file__).with_name("catalogue.json")


@dataclass(frozen=True)
class Entry:
    """A public checkpoint.

    Attributes:
        name: what `mlip.load` calls it.
        url: where it is published, https.
        licence: SPDX identifier of the weights, or a sentence.
        citation: what to cite.
        training_data: data set and level of theory.
        elements: which elements it knows.
        description: what it is for.
        commercial_use: whether the licence permits commercial use.
        size: bytes; None if not known.
        sha256: of the file, 64 hexadecimal digits; None if nobody published it.
        sha256_source: where the checksum was published.
        family: `mace` or `equiformer_v3`.
    """

    name: str
    url: str
    licence: str
    citation: str = ""
    training_data: str = ""
    elements: str = ""
    description: str = ""
    commercial_use: bool = False
    size: int | None = None
    sha256: str | None = None
    sha256_source: str = ""
    family: str = "mace"

    def info(self) -> ModelInfo:
        """Return the provenance of the potential made from this checkpoint."""
        origin = f"Imported from {self.url}" + (f", sha256 {self.sha256}" if self.sha256 else "")
        return ModelInfo(family=self.family, name=self.name, licence=self.licence, citation=self.citation,
                         training_data=self.training_data, description=f"{self.description} {origin}".strip())


def entries() -> dict[str, Entry]:
    """Return the public checkpoints by name."""
    return dict(_read())


def identify(path: Path) -> Entry | None:
    """Return the entry of a file by its contents, whatever its name; None if it is in no catalogue.

    Args:
        path: a file.
    """
    known = {entry.sha256: entry for entry in _read().values() if entry.sha256}
    return known.get(sha256_of(path))


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


@cache
def _read() -> dict[str, Entry]:
    table: dict[str, Any] = json.loads(TABLE.read_text(encoding="utf-8"))
    return {name: _entry(name, row, table) for name, row in table["models"].items()}


def _entry(name: str, row: dict[str, Any], table: dict[str, Any]) -> Entry:
    licence = table["licences"][row["licence"]]
    return Entry(
        name=name, url=table["bases"][row["base"]] + row["path"], family=table["families"][row["base"]],
        licence=licence["text"], commercial_use=licence["commercial_use"],
        citation="; ".join(table["citations"][c] for c in row["citations"]),
        training_data=row["training_data"], elements=table["elements"][row["elements"]],
        description=row["description"], size=row["size"], sha256=row["sha256"],
        sha256_source="; ".join(table["sources"][s] for s in row["sources"]))
