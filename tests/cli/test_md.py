"""`mlip md`: resumed by the same command line, with a report at the end."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule
from ase.io import read, write

import mlip
from mlip.simulation import Plan, run_ase

MD = ("md", "copper.cif", "--steps", 7, "--every", 2, "--timestep", 2)


@pytest.fixture
def interrupted(model) -> None:
    """What a run of `MD` to `run.xyz` leaves that is stopped after the last of its frames, a step before its end."""

    class Impatient(Exception):  # noqa: N818
        pass

    def stop(*_: object) -> None:
        raise Impatient

    start = read("copper.cif")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mlip.simulation.record.Recorder.finish", stop)
        with pytest.raises(Impatient):
            run_ase(start, mlip.load(model), Plan(steps=7, every=2, timestep=2.0), trajectory="run.xyz")


def test_the_same_command_resumes(run, place, model, interrupted) -> None:
    assert run(*MD, "-m", model, "-o", "whole.xyz")[0] == 0
    code, out, err = run(*MD, "-m", model, "-o", "run.xyz")
    assert (code, err) == (0, "")
    assert out.startswith("7 steps of 2.0 fs in ase (nve), resumed at step 6: mean temperature")
    for ending in ("xyz", "log.csv", "final.xyz"):
        assert Path(f"run.{ending}").read_bytes() == Path(f"whole.{ending}").read_bytes()


def test_a_finished_run(run, place, model) -> None:
    pytest.importorskip("mdtraj")
    assert run(*MD, "-m", model, "-o", "run.dcd")[0] == 0
    before = {path: path.read_bytes() for path in place.glob("run.*")}
    code, out, err = run(*MD, "-m", model, "-o", "run.dcd")
    assert (code, err) == (0, "")
    assert out.startswith("run.dcd is finished, nothing was left to do: 7 steps of 2.0 fs in ase (nve)")
    assert "delete run.checkpoint.npz" in out
    assert out.count("\n") == 1
    assert {path: path.read_bytes() for path in place.glob("run.*")} == before
    Path("run.report.png").unlink()  # as if killed while drawing
    assert "written   run.report.png" in run(*MD, "-m", model, "-o", "run.dcd")[1]
    code, out, err = run(*MD, "-m", model, "-o", "run.dcd", "--seed", 1)
    assert (code, out) == (2, "")
    assert "CheckpointError: run.checkpoint.npz belongs to another run; different: seed (0 there, 1 now)" in err
    assert err.count("\n") == 1
    del before[place / "run.report.png"]
    assert {path: path.read_bytes() for path in before} == before
    Path("run.checkpoint.npz").unlink()
    assert run(*MD, "-m", model, "-o", "run.dcd", "--seed", 1)[0] == 0


@pytest.mark.parametrize(("ending", "engine"), [("dcd", "openmm"), ("xtc", "ase"), ("h5", "openmm"),
                                                ("extxyz", "ase")])
def test_formats_and_report(run, place, model, ending, engine) -> None:
    for package in ("openmm", "mdtraj", "tables"):
        pytest.importorskip(package)
    code, out, err = run(*MD, "-m", model, "-o", f"run.{ending}", "--engine", engine, "--ensemble", "npt",
                         "--pressure", 1000, "--temperature", 200)
    assert (code, err) == (0, "")
    assert out.startswith(f"7 steps of 2.0 fs in {engine} (npt): mean temperature")
    assert "ns/day" in out
    for text in (f"run.{ending}: 4 frames of 4 atoms (Cu4)", "density (g/cm^3)", "degrees of freedom at 200 K",
                 "written   run.report.png"):
        assert text in out
    assert Path("run.report.png").read_bytes().startswith(b"\x89PNG")


def test_dispersion(run, place, model) -> None:
    pytest.importorskip("dftd3")
    pytest.importorskip("openmm")
    found = {}
    for name, options in {"without": (), "ase": ("--dispersion", "d3bj:pbe"),
                          "openmm": ("--dispersion", "d3bj:pbe", "--engine", "openmm")}.items():
        assert run(*MD, "-m", model, *options, "-o", f"{name}.xyz")[0] == 0
        found[name] = read(f"{name}.xyz", 0).get_potential_energy()
    assert found["ase"] < found["without"] - 0.1
    assert found["openmm"] == pytest.approx(found["ase"], abs=1e-6)
    code, out, err = run(*MD, "-m", model, "--dispersion", "pbe")
    assert (code, out) == (2, "")
    assert "OptionError: dispersion='pbe' is not supported; give damping and functional: 'd3bj:pbe'" in err


def test_without_mdtraj(run, model, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "mdtraj", None)
    code, out, err = run(*MD, "-m", model, "-o", "run.dcd")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1].startswith("no report: this needs the package 'mdtraj'")
    assert 'pip install "mlip-md[' in out
    assert not Path("run.report.png").exists()


def test_time(run, model) -> None:
    code, out, err = run("md", "methanol.xyz", "-m", model, "--time", 0.0035, "--timestep", 0.5, "--ensemble", "nvt",
                         "--temperature", 0)
    assert (code, err) == (0, "")
    assert out.startswith("7 steps of 0.5 fs")
    for given, text in (("0", "at least one time step"), ("nan", "nan ps"), ("-1", "-1 ps")):
        code, _, err = run("md", "methanol.xyz", "-m", model, f"--time={given}", "-o", "b.xyz")
        assert code == 2
        assert text in err
    code, _, err = run("md", "methanol.xyz", "-m", model, "--time", 1, "--steps", 5)
    assert code == 2
    assert "not allowed with" in err


def test_heat(run, model) -> None:
    hot = molecule("CH3OH")
    hot.set_momenta(np.random.default_rng(0).normal(size=(6, 3)))
    write("hot.xyz", hot)
    code, out, err = run("md", "hot.xyz", "-m", model, "--max-temperature", 50)
    assert (code, out) == (2, "")
    assert "TemperatureError: ASE stopped after step 0 (0 fs)" in err
    assert "limit of 50 K" in err
    assert len(read("trajectory.failed.xyz")) == 6
