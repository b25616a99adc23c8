"""The ASE calculators; nothing heavy is imported before it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlip._installation import check_single_distribution
from mlip._lazy import lazy

check_single_distribution()  # here too: the other package may own mlip/__init__.py

if TYPE_CHECKING:
    from mlip.calculators.calculator import MLIPCalculator
    from mlip.calculators.committee import CommitteeCalculator

_HOMES = {"MLIPCalculator": "mlip.calculators.calculator", "CommitteeCalculator": "mlip.calculators.committee"}

__all__ = ["CommitteeCalculator", "MLIPCalculator"]

__getattr__, __dir__ = lazy(__name__, _HOMES)
