"""The ASE calculator; nothing heavy is imported before it is used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mlip._installation import check_single_distribution

check_single_distribution()  # here too: the other package may own mlip/__init__.py

if TYPE_CHECKING:
    from mlip.calculators.calculator import MLIPCalculator

__all__ = ["MLIPCalculator"]


def __getattr__(name: str) -> Any:
    """Import the calculator when it is first asked for."""
    if name in __all__:
        return getattr(import_module("mlip.calculators.calculator"), name)
    raise AttributeError(f"module 'mlip.calculators' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
