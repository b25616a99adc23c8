"""ASE's experimental plugin system lists the calculator."""

from __future__ import annotations

import builtins
import importlib
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest

from mlip.calculators import MLIPCalculator, ase_plugin

ROOT = Path(__file__).resolve().parents[2]
pytest.importorskip("ase._4.plugins", reason="this ASE has no plugin system")


def test_the_plugin_finds_the_calculator() -> None:
    (plugin,) = ase_plugin.__ase_plugins__
    assert plugin.name == "mlip"
    assert plugin.implementation is MLIPCalculator
    assert plugin.package == "mlip-md"


def test_ase_accepts_it() -> None:
    from ase._4.plugins import PluginCollection

    collection = PluginCollection(ase_plugin.__ase_plugins__)
    collection._modulesetter(ase_plugin)(next(iter(collection)))
    assert [plugin.name for plugin in collection.calculators] == ["mlip"]
    assert list(collection.by_package) == ["mlip-md"]
    assert "mlip.calculators.ase_plugin" in collection.display()


def test_an_older_ase_gets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("ase._4"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    assert ase_plugin._plugins() == set()


def test_importing_the_plugin_is_light() -> None:
    """ASE imports every plugin module for `ase info --plugins`: it must not pull in torch."""
    code = "import sys, mlip.calculators.ase_plugin; print('torch' in sys.modules, 'numba' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_the_command_lists_it() -> None:
    try:
        found = distribution("mlip-md")
    except PackageNotFoundError:
        pytest.skip("mlip-md is not installed: pip install -e .")
    assert "ase.plugins" in {e.group for e in found.entry_points}
    code = "import sys; from ase.cli.main import main; main(args=['info', '--plugins'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "mlip-md" in done.stdout
    assert "CalculatorPlugin" in done.stdout


def test_names_of_the_package() -> None:
    import mlip.calculators as package

    assert "MLIPCalculator" in dir(package)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        importlib.import_module("mlip.calculators").Nothing  # noqa: B018
