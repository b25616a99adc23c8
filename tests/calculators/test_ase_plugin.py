"""ASE's experimental plugin system lists the calculator."""

from __future__ import annotations

import builtins
import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlip.calculators import MLIPCalculator, ase_plugin

ROOT = Path(__file__).resolve().parents[2]
tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11")
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


def test_the_command_lists_it(tmp_path: Path) -> None:
    """With the entry point of pyproject.toml, installed or not, `ase info --plugins` shows the calculator."""
    group = "ase.plugins"
    target = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][group]["mlip"]
    folder = tmp_path / "mlip_md-0.0.1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: mlip-md\nVersion: 0.0.1\nSummary: potentials\n")
    (folder / "entry_points.txt").write_text(f"[{group}]\nmlip = {target}\n")
    done = subprocess.run([sys.executable, "-m", "ase", "info", "--plugins"], capture_output=True, text=True,
                          check=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"})
    assert "mlip-md 0.0.1" in done.stdout
    assert done.stdout.split("mlip-md 0.0.1")[1].split("CalculatorPlugin")[1].split()[1] == "mlip"


def test_names_of_the_package() -> None:
    import mlip.calculators as package

    assert "MLIPCalculator" in dir(package)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        importlib.import_module("mlip.calculators").Nothing  # noqa: B018
