"""Detects a second distribution that also installs the import package `mlip`."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import distributions

from mlip.errors import InstallationError

OURS = "mlip-md"


def owners() -> set[str]:
    """Return the names of the installed distributions that own the import name `mlip`."""
    return {str(found.metadata["Name"]) for name in ("mlip", OURS) for found in distributions(name=name)
             if found.metadata["Name"]}  # none: remains of an uninstalled one


def check_single_distribution(names: Iterable[str] | None = None) -> None:
    """Raise `InstallationError` where both `mlip-md` and the PyPI package `mlip` are installed.

    Args:
        names: distributions that own the import name; looked up if None.
    """
    others = sorted({n for n in (owners() if names is None else names) if n.lower() != OURS})
    if others:
        raise InstallationError(
            f"the distribution {', '.join(others)} installs the same import name 'mlip' as {OURS} and has "
            f"overwritten files of it (or the reverse); keep one: pip uninstall {' '.join(others)} {OURS} "
            f"&& pip install {OURS}")
