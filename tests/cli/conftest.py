"""A model file, structure files, and a short way to run the command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.io import write

import mlip
from mlip.cli.main import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Path of a small random MACE for H, C, O and Cu, float64, whose energy of fcc copper has a minimum."""
    potential = mlip.create("mace", ["H", "C", "O", "Cu"], seed=0, channels=4, hidden_lmax=1, edge_lmax=2,
                            correlation=2, radial_mlp=(16,), pair_repulsion=True, cutoff=4.0, dtype="float64",
                            avg_num_neighbors=4.0)
    return str(potential.save(tmp_path_factory.mktemp("model") / "small.mlip"))


@pytest.fixture(scope="session")
def second(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Path of another random MACE for the same elements."""
    potential = mlip.create("mace", ["H", "C", "O", "Cu"], seed=1, channels=2, edge_lmax=1, correlation=1,
                            radial_mlp=(8,), cutoff=3.5, dtype="float64")
    return str(potential.save(tmp_path_factory.mktemp("model") / "second.mlip"))


@pytest.fixture(scope="session")
def two_heads(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Path of a random MACE with the heads `a` and `b`, 1 eV per carbon atom apart."""
    potential = mlip.create("mace", ["H", "C", "O"], heads=("a", "b"), channels=2, edge_lmax=1, correlation=1,
                            radial_mlp=(8,), cutoff=3.0, dtype="float64")
    potential.model.atomic_energies[1, 1].add_(1.0)
    return str(potential.save(tmp_path_factory.mktemp("model") / "heads.mlip"))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working folder with methanol.xyz, copper.cif, gold.cif, broken.xyz, nothing.xyz and three.xyz."""
    monkeypatch.chdir(tmp_path)
    write("methanol.xyz", molecule("CH3OH"))
    write("copper.cif", bulk("Cu", "fcc", a=3.4, cubic=True))
    write("gold.cif", bulk("Au"))
    write("nothing.xyz", Atoms(), format="extxyz")
    write("three.xyz", [molecule(name) for name in ("H2O", "CO", "CH4")])
    Path("broken.xyz").write_text("3\nnothing\n")
    return tmp_path


@pytest.fixture
def run(place: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """A function that runs the command and returns exit code, standard output and standard error."""

    def command(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = main([str(a) for a in arguments])
        except SystemExit as stop:  # argparse
            code = int(stop.code or 0)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return command
