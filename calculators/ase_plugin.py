"""What ASE's experimental plugin system (3.29, entry-point group `ase.plugins`) shows of this package.

ASE loads this module for `ase info --plugins`; the calculator itself is imported when someone uses it.
An ASE without that system, or with another form of it, gets an empty set: ASE's own commands never
fail because of this file.
"""

from __future__ import annotations

from importlib.metadata import PackageMetadata, PackageNotFoundError, metadata
from typing import Any

from mlip._installation import OURS

NAME = "mlip"
CITATION = "mlip-md, https://pypi.org/project/mlip-md; cite the model too: MLIPCalculator(...).info.citation"
IMPLEMENTATION = "mlip.calculators.MLIPCalculator"


def _plugins() -> set[Any]:
    try:
        from ase._4.plugins.plugin import CalculatorPlugin
    except ImportError:
        return set()

    class MLIPPlugin(CalculatorPlugin):  # type: ignore[misc]
        """ASE takes the import name for the distribution name; ours differ."""

        package = OURS

        @property
        def package_data(self) -> PackageMetadata | None:
            """Version and summary of the installed distribution; None in a bare source tree."""
            try:
                return metadata(OURS)
            except PackageNotFoundError:
                return None

    try:
        return {MLIPPlugin(NAME, citation=CITATION, implementation=IMPLEMENTATION)}
    except TypeError:
        return set()


__ase_plugins__ = _plugins()
