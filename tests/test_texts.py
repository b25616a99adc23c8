"""Nothing unfinished is shipped: texts without placeholders, models with a name, a licence and a card."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import mlip
from mlip.checkpoints import bundled

ROOT = Path(__file__).parents[1]
TEXTS = ("README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "data/README.md",
         "examples/guide/README.md", "data/models/README.md", "data/reference/README.md")


@pytest.mark.parametrize("name", TEXTS)
def test_no_placeholders(name: str) -> None:
    text = (ROOT / name).read_text()
    assert not re.findall(r"\b[A-Z]+_(?:TABLE|RESULT|TIME)\b|\bTODO\b|\bTBD\b|\bXXX\b", text)


@pytest.mark.parametrize("name", TEXTS)
def test_files_that_texts_name_exist(name: str) -> None:
    text = (ROOT / name).read_text()
    named = re.findall(r"`((?:mlip|tests|data|examples|calculators|potentials)/[\w./-]+\.\w+)`", text)
    assert not [path for path in named if not (ROOT / path).exists()]


@pytest.mark.parametrize("name", sorted(bundled()))
def test_bundled_models_have_provenance(name: str) -> None:
    info = mlip.load(name).info
    assert info.name == name
    assert info.licence not in ("", "unknown")
    assert info.training_data
    assert info.citation
    assert info.description
    assert info.validation
    assert f"## {name}" in (ROOT / "data" / "models" / "README.md").read_text()
