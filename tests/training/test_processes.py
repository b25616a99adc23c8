"""Runs as processes: killed at random moments, and shared by two."""

from __future__ import annotations

import csv
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.io import write

from mlip import load
from mlip.graph.labelled import Labelled

RECIPE = """
[data]
train = "train.xyz"
isolated_energies = {{ H = -13.6, O = -2013.8 }}

[model]
channels = 16
hidden_lmax = 1
edge_lmax = 1
correlation = 2
radial_mlp = [8]
cutoff = 3.5
dtype = "float64"

[training]
optimizer = "muon"
batch_size = 6
ema_decay = 0.9
{more}
"""
KILLS = 2


@pytest.fixture
def recipe(examples: list[Labelled], tmp_path: Path) -> Path:
    """A run of a second or two, beside its data."""
    frames = []
    for e in examples:
        atoms = Atoms(e.structure.numbers, e.structure.positions, info={"REF_energy": e.energy})
        atoms.arrays["REF_forces"] = e.forces
        frames.append(atoms)
    write(tmp_path / "train.xyz", frames, format="extxyz")
    (tmp_path / "recipe.toml").write_text(RECIPE.format(more="epochs = 40"))
    return tmp_path / "recipe.toml"


def started(recipe: Path, folder: Path, *options: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-m", "mlip.cli.main", "train", str(recipe), "-o", str(folder), "--no-card", *options]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    return out


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


@pytest.mark.slow
def test_killed_at_random_moments(recipe: Path, tmp_path: Path) -> None:
    """Whatever was being written: the run goes on, and ends with the weights of one that was never killed."""
    start = time.monotonic()
    whole = finish(started(recipe, tmp_path / "whole"))
    seconds = time.monotonic() - start
    draw, killed = random.Random(int(seconds * 1e6)), 0
    while killed < KILLS:
        process = started(recipe, tmp_path / "parts")
        try:
            process.wait(draw.uniform(0.2, 1.0) * seconds)
        except subprocess.TimeoutExpired:
            process.kill()
        killed += process.wait() != 0
        process.communicate()
    finish(started(recipe, tmp_path / "parts"))
    assert "structures" in whole
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")
    assert (tmp_path / "parts" / "best.mlip").read_bytes() == (tmp_path / "whole" / "best.mlip").read_bytes()


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(recipe: Path, tmp_path: Path) -> None:
    recipe.write_text(RECIPE.format(more="epochs = 3"))
    finish(started(recipe, tmp_path / "one"))
    out = finish(started(recipe, tmp_path / "two", "--devices", "2"))
    assert out.count("best model") == 1
    one, two = (load(tmp_path / name / "best.mlip").model.state_dict() for name in ("one", "two"))
    for name, weight in one.items():
        np.testing.assert_allclose(two[name], weight, rtol=1e-7, atol=1e-9, err_msg=name)


@pytest.mark.slow
def test_a_committee(recipe: Path, tmp_path: Path) -> None:
    recipe.write_text(RECIPE.format(more="epochs = 1"))
    out = finish(started(recipe, tmp_path / "run", "--seeds", "0", "1"))
    paths = [tmp_path / "run" / f"seed-{k}" / "best.mlip" for k in (0, 1)]
    assert [line for line in out.splitlines() if "best model" in line] == [f"best model: {path}" for path in paths]
    assert paths[0].read_bytes() != paths[1].read_bytes()
