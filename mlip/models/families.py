"""The model families, and the reference implementations whose weights they can take, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from torch import Tensor

from mlip.errors import OptionError
from mlip.models.base import EnergyModel, ModelConfig

Converter = Callable[[Mapping[str, Tensor], Mapping[str, Any]], tuple[ModelConfig, dict[str, Tensor]]]


@dataclass(frozen=True)
class Family:
    """Where a family lives; its classes are imported when they are used."""

    module: str
    config_name: str
    model_name: str

    @property
    def config(self) -> type[ModelConfig]:
        """Class of its configuration."""
        found: type[ModelConfig] = getattr(import_module(self.module), self.config_name)
        return found

    @property
    def model(self) -> Callable[..., EnergyModel]:
        """What makes its model of the configuration."""
        found: Callable[..., EnergyModel] = getattr(import_module(self.module), self.model_name)
        return found


FAMILIES = {"mace": Family("mlip.models.mace", "MACEConfig", "MACE"),
            "equiformer_v3": Family("mlip.models.equiformer_v3", "EquiformerV3Config", "make_model"),
            "transip": Family("mlip.models.transip", "TransIPConfig", "make_model")}
REFERENCES = {"mace": "mlip.models.mace.reference", "mace_gaunt": "mlip.models.mace.reference_gaunt",
              "equiformer_v3": "mlip.models.equiformer_v3.reference"}


def family(name: str) -> Family:
    """Return a family by name; raises `OptionError` naming the known ones."""
    if not isinstance(name, str) or name not in FAMILIES:
        raise OptionError(f"model family {name!r} is unknown; known: {', '.join(FAMILIES)}")
    return FAMILIES[name]


def converter(name: str) -> Converter:
    """Return what translates the state dict and configuration of a reference implementation.

    Raises:
        OptionError: no such reference; the message names the known ones.
    """
    if not isinstance(name, str) or name not in REFERENCES:
        raise OptionError(f"reference {name!r} is unknown; known: {', '.join(REFERENCES)}")
    found: Converter = import_module(REFERENCES[name]).convert
    return found
