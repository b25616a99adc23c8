"""`Recipe`: a training run as a TOML file, and `run`, which does what it says."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlip.checkpoints import ModelInfo
from mlip.errors import MissingDependencyError, OptionError
from mlip.training.config import TrainingConfig
from mlip.training.sources import DataConfig
from mlip.training.start import StartConfig

PROVENANCE = ("name", "licence", "citation", "training_data", "description")
CARD = (*PROVENANCE, "recommended", "limits")
TABLES = ("data", "model", "start", "training", "card")
ELSEWHERE = ("elements", "examples", "isolated", "seed")  # arguments of `initial_potential` and `create`, no fields


@dataclass(frozen=True)
class Recipe:
    """What is trained on what, and how.

    Attributes:
        data: files and the names and units of their labels.
        model: `family` (default `"mace"`) and fields of its configuration, `cutoff` and `dtype` among them.
        start: the trained model to continue from, if any; `model` may then leave everything out.
        training: the course of the run.
        card: texts for the trained model: name, licence, citation, training_data and description of its `ModelInfo`;
            what it is recommended for, and its limits.
        base: folder that relative paths start from.
    """

    data: DataConfig
    model: Mapping[str, Any] = field(default_factory=dict)
    start: StartConfig | None = None
    training: TrainingConfig = field(default_factory=TrainingConfig)
    card: Mapping[str, str] = field(default_factory=dict)
    base: Path = Path()

    def __post_init__(self) -> None:
        wrong = [name for name in ELSEWHERE if name in self.model]
        if wrong:
            raise OptionError(f"[model] has no option {', '.join(wrong)}: elements and energies of isolated atoms come "
                              "from [data], the seed from [training]")
        name = self.card.get("name", "")
        if name.startswith(".") or not set(name).isdisjoint("/\\:\0"):
            raise OptionError(f"[card] name is also that of a file, which cannot start with a dot and hold / \\ or :; "
                              f"{name!r} was given")

    @property
    def forces(self) -> bool:
        """Whether forces are learned, and must be in the data."""
        return any(stage.forces_weight for stage in self.training.parts)

    @classmethod
    def read(cls, path: str | Path, base: str | Path | None = None) -> Recipe:
        """Read a TOML file with the tables `[data]`, `[model]`, `[start]`, `[training]`, `[card]`.

        Args:
            path: of the file.
            base: folder that relative paths in it start from; by default that of the file.

        Raises:
            OptionError: no such file, no TOML, or something in it that does not exist or is not possible.
            MissingDependencyError: Python 3.10 without tomli.
        """
        if sys.version_info >= (3, 11):
            import tomllib
        else:
            try:
                import tomli as tomllib
            except ImportError:
                raise MissingDependencyError.of("tomli", "train") from None
        source = Path(path).expanduser()
        try:
            with source.open("rb") as file:
                document = tomllib.load(file)
        except OSError as error:
            raise OptionError(f"cannot read the recipe {source}: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise OptionError(f"{source} is not TOML: {error}") from None
        return cls.from_dict(document, source.parent if base is None else Path(base).expanduser())

    @classmethod
    def from_dict(cls, document: Mapping[str, Any], base: Path = Path()) -> Recipe:
        """Make a recipe from tables.

        Raises:
            OptionError: something in it that does not exist or is not possible.
        """
        unknown = sorted(set(document) - set(TABLES))
        if unknown:
            raise OptionError(f"a recipe has no table {', '.join(unknown)}; known: {', '.join(TABLES)}")
        for name, table in document.items():
            if not isinstance(table, Mapping):
                raise OptionError(f"[{name}] must be a table; {table!r} was given")
        if "data" not in document:
            raise OptionError("the recipe has no table [data]: say which files to train on, train = [\"data.xyz\"]")
        card = document.get("card", {})
        strange = sorted(k for k, v in card.items() if k not in CARD or not isinstance(v, str))
        if strange:
            raise OptionError(f"[card] takes texts for {', '.join(CARD)}; {', '.join(strange)} was given otherwise")
        start = StartConfig.from_table(document["start"]) if "start" in document else None
        return cls(DataConfig.from_table(document["data"]), dict(document.get("model", {})), start,
                   TrainingConfig.from_dict(document.get("training", {})), dict(card), base)

    def info(self, start: ModelInfo) -> ModelInfo:
        """Return the provenance of a model trained from a start: what `card` says, and what it was fine-tuned from."""
        said: dict[str, Any] = {k: v for k, v in self.card.items() if k in PROVENANCE}
        origin = start.description if self.start else ""
        description = " ".join(text for text in (said.get("description", ""), origin) if text)
        return dataclasses.replace(start, **said | {"description": description})
