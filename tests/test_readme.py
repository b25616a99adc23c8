"""The README and the guide run: their blocks, and the commands they name."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README, GUIDE = ROOT / "README.md", ROOT / "examples" / "guide" / "README.md"
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


def test_the_guide_runs_from_top_to_bottom(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from mlip.cli.main import main

    for package in ("openmm", "mdtraj", "dftd3"):
        pytest.importorskip(package)
    potential = pytest.importorskip("openmmml").MLPotential
    if "mlip" not in potential._implFactories:
        from mlip.potentials.openmmml_plugin import MLIPPotentialImplFactory

        potential.registerImplFactory("mlip", MLIPPotentialImplFactory())
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "examples" / "acetylacetone.xml", tmp_path)
    blocks = re.findall(r"```(\w+)\n(.*?)```", GUIDE.read_text(), flags=re.DOTALL)
    assert {language for language, _ in blocks} == {"python", "sh"}
    for index, (language, block) in enumerate(blocks):
        if language == "python":
            exec(compile(block, f"{GUIDE.name}, block {index}", "exec"), {})
            continue
        for line in block.splitlines():
            assert line.startswith("mlip ")
            assert main(shlex.split(line)[1:]) == 0, line


def test_the_pictures_of_the_guide() -> None:
    named = set(re.findall(r"!\[.+\]\((\S+)\)", GUIDE.read_text()))
    assert named == {path.name for path in GUIDE.parent.glob("*.png")}
    assert all((GUIDE.parent / name).stat().st_size < 60_000 for name in named)
