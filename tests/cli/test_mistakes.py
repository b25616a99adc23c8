"""Whatever is wrong with a command line: exit code 2, one line that says what, no traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from ase.build import molecule
from ase.io import write

from mlip.cli.main import main, parser

COMMANDS = [("quickstart",), ("predict",), ("relax",), ("md",), ("analyze",), ("models",), ("models", "list"),
            ("models", "show"), ("convert",), ("train",), ("bench",), ("bench", "neighbors"), ("verify",),
            ("verify", "neighbors"), ("verify", "model"), ("verify", "restart"), ("verify", "ensemble"), ("eval",),
            ("screen",), ("card",)]

MISTAKES = {
    "no such model": ("predict methanol.xyz -m mace-acax", "ModelNotFoundError", "did you mean mace-acac"),
    "no such model path": ("relax methanol.xyz -m absent/model.mlip", "ModelNotFoundError", "absent/model.mlip"),
    "a structure for a model": ("md methanol.xyz -m methanol.xyz", "ModelFileError", "methanol.xyz"),
    "model that is a folder": ("models show .", "ModelFileError", "folder"),
    "no such file": ("predict absent.xyz -m MODEL", "StructureError", "no file absent.xyz"),
    "broken file": ("md broken.xyz -m MODEL", "StructureError", "broken.xyz cannot be read"),
    "file without structures": ("relax MODEL -m MODEL", "StructureError", "cannot be read"),
    "unknown element": ("relax gold.cif -m MODEL", "UnknownElementError", "Au"),
    "unknown dtype": ("predict methanol.xyz -m MODEL --dtype float16", "OptionError", "float32"),
    "unknown device": ("predict methanol.xyz -m MODEL --device abacus", "OptionError", "cuda"),
    "unknown optimizer": ("relax methanol.xyz -m MODEL --optimizer bfgs", "OptionError", "lbfgs, fire"),
    "bad fmax": ("relax methanol.xyz -m MODEL --fmax 0", "OptionError", "fmax"),
    "cell of a molecule": ("relax methanol.xyz -m MODEL --cell", "StructureError", "three periodic directions"),
    "several structures to move": ("md three.xyz -m MODEL", "StructureError", "holds 3 structures; choose one by its"),
    "several structures to relax": ("relax three.xyz -m MODEL", "StructureError", "holds 3 structures"),
    "several structures to verify": ("verify model MODEL three.xyz", "StructureError", "holds 3 structures"),
    "no such index": ("relax three.xyz -m MODEL --index 3", "StructureError", "holds 3: allowed are -3 to 2"),
    "index below all": ("md three.xyz -m MODEL --index -4", "StructureError", "index -4"),
    "nothing to move": ("md nothing.xyz -m MODEL", "StructureError", "no atoms"),
    "nothing to relax": ("relax nothing.xyz -m MODEL --cell", "StructureError", "no atoms"),
    "nothing to verify": ("verify model MODEL nothing.xyz", "StructureError", "no atoms"),
    "heads without choice": ("predict methanol.xyz -m HEADS", "OptionError", "a, b"),
    "unknown head": ("relax methanol.xyz -m HEADS --head c", "OptionError", "a, b"),
    "bad spin": ("predict methanol.xyz -m MODEL --spin 0", "OptionError", "2S+1"),
    "no steps": ("md methanol.xyz -m MODEL --steps 0", "OptionError", "steps"),
    "bad seed": ("md methanol.xyz -m MODEL --seed -1", "OptionError", "seed"),
    "bad time step": ("md methanol.xyz -m MODEL --timestep nan", "OptionError", "timestep"),
    "trajectory of another kind": ("md methanol.xyz -m MODEL -o run.trr", "OptionError", ".xyz"),
    "trajectory in no folder": ("md methanol.xyz -m MODEL -o absent/run.xyz", "OptionError", "no folder absent"),
    "result of no kind": ("predict methanol.xyz -m MODEL -o results.abc", "OptionError", "must end in .xyz"),
    "result that holds no forces": ("predict methanol.xyz -m MODEL -o results.cif", "OptionError", "must end in .xyz"),
    "pressure on a molecule": ("md methanol.xyz -m MODEL --ensemble npt", "StructureError", "constant pressure"),
    "no time": ("md methanol.xyz -m MODEL --time 0", "OptionError", "at least one time step"),
    "platform of the other engine": ("md methanol.xyz -m MODEL --platform CPU", "OptionError", "--engine openmm"),
    "convert onto itself": ("convert MODEL MODEL", "OptionError", "input"),
    "convert to another ending": ("convert MODEL new.txt", "OptionError", ".mlip"),
    "result without ending": ("relax methanol.xyz -m MODEL -o results", "OptionError", "ending"),
    "result is a folder": ("relax methanol.xyz -m MODEL -o .", "OptionError", "folder"),
    "convert into no folder": ("convert MODEL absent/new.mlip", "OptionError", "absent"),
    "convert to half": ("convert MODEL new.mlip --dtype half", "OptionError", "float64"),
    "quickstart over a file": ("quickstart -o methanol.xyz", "FileExistsError", "methanol.xyz"),
    "quickstart without steps": ("quickstart --steps 0", "OptionError", "steps"),
    "eval without labels": ("eval MODEL methanol.xyz", "DataError", "no energy"),
    "eval into no folder": ("eval MODEL methanol.xyz --json absent/found.json", "OptionError", "absent"),
    "eval over its data": ("eval MODEL three.xyz --json three.xyz", "OptionError", "input"),
    "eval in unknown units": ("eval MODEL methanol.xyz --energy-unit erg", "OptionError", "Hartree"),
    "pictures in a file": ("eval MODEL methanol.xyz --plot three.xyz", "FileExistsError", "three.xyz"),
    "card without labels": ("card MODEL -o new.mlip --validation methanol.xyz", "DataError", "no energy"),
    "card of another ending": ("card MODEL -o new.txt --validation methanol.xyz", "OptionError", ".mlip"),
    "card onto itself": ("card MODEL -o MODEL --validation methanol.xyz", "OptionError", "input"),
    "train on nothing": ("train absent.toml -o run", "OptionError", "cannot read the recipe"),
}


@pytest.mark.parametrize("name", list(MISTAKES))
def test_one_line(run, model, two_heads, name) -> None:
    line, kind, text = MISTAKES[name]
    code, out, err = run(*line.replace("MODEL", model).replace("HEADS", two_heads).split())
    assert code == 2
    assert err.startswith(f"mlip {line.split()[0]}: {kind}: ")
    assert text in err
    assert "Traceback" not in err
    assert err.count("\n") == 1
    assert "written" not in out


@pytest.mark.parametrize("line", ["md methanol.xyz -o run.trr", "md methanol.xyz -o absent/run.xyz",
                                  "relax methanol.xyz -o results.abc", "predict methanol.xyz -o absent/results.xyz"])
def test_targets_are_checked_before_the_work(run, monkeypatch, line) -> None:
    def work(*_: object, **__: object) -> None:
        raise AssertionError("worked in vain")

    monkeypatch.setattr("mlip.checkpoints.load", work)
    code, _, err = run(*line.split(), "-m", "mace-acac")
    assert code == 2
    assert "cannot write" in err


@pytest.mark.parametrize("line", ["md methanol.xyz -o methanol.xyz", "md run.topology.pdb -o run.xyz",
                                  "md trajectory.final.xyz", "relax ./methanol.xyz -o link.xyz", "relax relaxed.xyz",
                                  "predict copper.cif methanol.xyz -o methanol.xyz"])
def test_inputs_are_not_overwritten(run, place, model, line) -> None:
    Path("link.xyz").symlink_to("methanol.xyz")
    source = Path(line.split()[1])
    if not source.exists():
        write(source, molecule("CH3OH"))
    before = {path: path.read_bytes() for path in place.iterdir()}
    code, out, err = run(*line.split(), "-m", model)
    assert code == 2
    assert out == ""
    assert "it is an input" in err
    assert {path: path.read_bytes() for path in place.iterdir()} == before


@pytest.mark.parametrize("line", ["", "dance", "md", "md methanol.xyz", "md methanol.xyz -m x --engine abacus",
                                  "md methanol.xyz -m x --steps many", "models", "predict -m x", "bench", "verify",
                                  "relax methanol.xyz -m x --speed 3", "train methanol.xyz"])
def test_argparse_mistakes(run, line) -> None:
    code, out, err = run(*line.split())
    assert code == 2
    assert out == ""
    assert err.startswith("usage: mlip")
    assert "error: " in err.split("\n")[-2]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help(run, command) -> None:
    code, out, err = run(*command, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: mlip {' '.join(command)}")


def test_every_command_is_tested_here() -> None:
    choices = next(a.choices for a in parser()._actions if a.dest == "command")
    assert set(choices) == {command[0] for command in COMMANDS}


def test_top_level(run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    assert all(command[0] in out for command in COMMANDS)
    code, out, _ = run("--version")
    assert code == 0
    assert out.startswith("mlip-md ")


def test_debug_shows_the_traceback(place, model) -> None:
    with pytest.raises(ValueError, match="no file"):
        main(["--debug", "predict", "absent.xyz", "-m", model])


def test_interruption(run, model, monkeypatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mlip.simulation.relax", stop)
    code, _, err = run("relax", "methanol.xyz", "-m", model)
    assert code == 130
    assert err.strip() == "stopped"


def test_a_reader_that_leaves() -> None:
    """As `head` does."""
    command = [sys.executable, "-m", "mlip.cli.main", "models", "list"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          cwd=Path(__file__).resolve().parents[2]) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait(120) == 1


def test_as_a_process() -> None:
    """The parser alone must not load torch: help is quick."""
    code = ("import sys\nfrom mlip.cli.main import parser\nparser().format_help()\n"
            "assert 'torch' not in sys.modules and 'ase' not in sys.modules, 'heavy'")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False,
                          cwd=Path(__file__).resolve().parents[2])
    assert done.returncode == 0, done.stderr
