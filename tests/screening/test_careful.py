"""A structure that kills whoever computes it becomes a row with its reason; the others are kept."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
import torch
from ase import Atoms

import mlip
from mlip.screening import Store, screen
from mlip.screening.attempts import Attempt, attempts_at, forget_attempts
from mlip.screening.inputs import read_inputs
from mlip.screening.parsl import parsl_workers
from mlip.screening.properties import relax
from mlip.screening.registry import recorded, wanted
from mlip.screening.screen import Run

ROOT = Path(__file__).resolve().parents[2]
KILLER = '''
import os, signal

class Killer:
    """A constraint that ends its process, as a library that fails does."""

    def copy(self):
        return self

    def todict(self):
        return {"name": "killer"}

    def adjust_positions(self, atoms, new):
        pass

    def adjust_forces(self, atoms, forces):
        os.kill(os.getpid(), signal.SIGSEGV)
'''
CALL = '''
import sys
from test_killer_structures import structures
from mlip.screening import screen
from mlip.screening.properties import relax
screen(structures(), sys.argv[1], ["relax", "energy"], sys.argv[2], settings={"relax": relax.Settings(fmax=0.1)})
'''
STRUCTURES = KILLER + '''

from ase.build import bulk

def structures():
    out = []
    for i in range(5):
        out.append(bulk("Cu", "fcc", a=3.2 + 0.03 * i))
    out[2].set_constraint(Killer())
    return out
'''


@pytest.fixture
def structures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Atoms]:
    """Five crystals; the third kills who relaxes it."""
    (tmp_path / "test_killer_structures.py").write_text(STRUCTURES)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(tmp_path)]))
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    from test_killer_structures import structures

    return structures()


def check(table, killer: str) -> None:
    failures = {(row.hash, row.property): row.reason for row in table.failures}
    assert list(failures) == [(killer, "relax")]
    assert "3 processes died while they computed this and nothing else" in failures[killer, "relax"]
    assert len(table.rows) == 10


def workers(kind: str, folder: Path) -> AbstractContextManager[Executor | None]:
    if kind == "pool":
        return ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), torch.set_num_threads, (1,))
    if kind == "parsl":
        pytest.importorskip("parsl")
        return parsl_workers(ROOT / "examples" / "parsl_local.py", folder)
    return nullcontext()


@pytest.mark.parametrize("kind", ["this process", pytest.param("pool", marks=pytest.mark.slow),
                                  pytest.param("parsl", marks=pytest.mark.slow)])
def test_what_kills_is_found(structures: list[Atoms], binding: mlip.Potential, tmp_path: Path, kind: str) -> None:
    """Two processes have died with the same structure; a third one confirms that."""
    file = binding.save(tmp_path / "small.mlip")
    settings = {"relax": relax.Settings(fmax=0.1)}
    out = tmp_path / "out"
    entry = read_inputs(structures[2])[0]
    run = Run(Store(out), [entry], {"relax": recorded(wanted(["relax"])[0], settings, binding)}, binding.info.sha256)
    for _ in range(2):
        Attempt(out).on([run.key(entry, "relax")])
    with workers(kind, tmp_path) as executor:
        table = screen(structures, file, ["relax", "energy"], out, settings=settings, executor=executor)
    check(table, entry.hash)
    assert not list((out / "rows").glob("*.work"))
    keys = [row.key for row in Store(out).new()]
    assert len(set(keys)) == len(keys) == 10


@pytest.mark.slow
def test_the_third_call_ends(structures: list[Atoms], binding: mlip.Potential, tmp_path: Path) -> None:
    file = binding.save(tmp_path / "small.mlip")
    command = [sys.executable, "-c", CALL, str(file), str(tmp_path / "out")]
    codes = [subprocess.run(command, check=False).returncode for _ in range(3)]
    assert codes == [-11, -11, 0]
    table = screen(structures, file, ["relax", "energy"], tmp_path / "out",
                   settings={"relax": relax.Settings(fmax=0.1)})
    check(table, read_inputs(structures[2])[0].hash)


def test_attempts(tmp_path: Path) -> None:
    Store(tmp_path)
    one, other = Attempt(tmp_path), Attempt(tmp_path)
    one.on(["a", "b"])
    other.on(["c"])
    assert attempts_at(tmp_path, {"b", "d"}) == [["a", "b"]]
    forget_attempts(tmp_path, {"a", "c"})
    assert attempts_at(tmp_path, {"a", "b", "c"}) == [["a", "b"]]
    one.end()
    one.end()
    assert attempts_at(tmp_path, {"a", "b", "c"}) == []
