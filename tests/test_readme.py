"""The README runs: its Python blocks, and the commands it names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("index", range(len(BLOCKS)))
def test_python_block_runs(index: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for module, sign in (("openmm", "openmm"), ("torch_sim", "torch_sim"), ("dftd3", "dispersion=")):
        if sign in BLOCKS[index]:
            pytest.importorskip(module)
    if "openmmml" in BLOCKS[index]:
        from importlib.metadata import entry_points

        pytest.importorskip("openmmml")
        if not [e for e in entry_points(group="openmmml.potentials") if e.name == "mlip"]:
            pytest.skip("the package is not installed, so openmm-ml cannot find its entry point")
    monkeypatch.chdir(tmp_path)
    exec(compile(BLOCKS[index].replace("/tmp/", f"{tmp_path}/"), f"README.md, block {index}", "exec"), {})


def test_the_recipes_of_the_readme_can_be_read() -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no reader of TOML")
    from mlip.training.recipe import Recipe

    blocks = re.findall(r"```toml\n(.*?)```", README.read_text(), flags=re.DOTALL)
    training, start = (tomllib.loads(block) for block in blocks)
    recipe = Recipe.from_dict({**training, **start})
    assert [stage.epochs for stage in recipe.training.parts] == [300, 50]
    assert recipe.start is not None
    assert recipe.start.method == "adapters"


def test_every_command_of_the_readme_exists() -> None:
    from mlip.cli.main import parser

    text = README.read_text()
    named = set(re.findall(r"^mlip (\w+)", text, flags=re.MULTILINE))
    choices = next(a.choices for a in parser()._actions if a.dest == "command")
    assert named
    assert named == set(choices)


def test_there_are_examples_for_each_interface() -> None:
    joined = "\n".join(BLOCKS)
    assert "MLIPCalculator" in joined
    assert "create_system" in joined
    assert "MLPotential" in joined
    assert "mlip.load" in joined
