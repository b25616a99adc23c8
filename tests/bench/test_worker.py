"""The processes that are timed: answers, errors, deaths."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlip.bench.processes import serving
from mlip.bench.worker import Memory, Worker
from mlip.errors import MLIPError, WorkerError

ACTIONS = """
import os, sys, time
print("a greeting that is no answer")
class Actions:
    def add(self, a, b): print("noise"); return a + b
    def fail(self): raise ValueError("no such thing")
    def die(self): sys.stderr.write("last words"); sys.stderr.flush(); os._exit(3)
    def killed(self): os.kill(os.getpid(), 9)
    def sleep(self, seconds): time.sleep(seconds)
    def take(self, size): bytearray(b"x") * size
    def variable(self): return os.environ.get("MLIP_TEST_VARIABLE")
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "actions.py"
    path.write_text(ACTIONS)
    return path


@pytest.fixture
def worker(script: Path) -> Iterator[Worker]:
    with Worker("helper", sys.executable, script, {"MLIP_TEST_VARIABLE": "here"}) as started:
        yield started


def test_results_times_and_memory(worker: Worker) -> None:
    assert worker.call("add", a=1, b=2) == 3
    assert worker.call("variable") == "here"
    times = worker.time("sleep", runs=3, seconds=0.01)
    assert len(times) == 3
    assert min(times) >= 0.01
    used = worker.peak("take", size=50_000_000)
    assert isinstance(used, Memory)
    assert used.peak > used.before > 1_000_000
    assert used.call > 40_000_000


def test_errors_of_an_action_leave_it_alive(worker: Worker) -> None:
    with pytest.raises(WorkerError, match="helper: ValueError: no such thing"):
        worker.call("fail")
    with pytest.raises(WorkerError, match="absent"):
        worker.call("absent")
    with pytest.raises(WorkerError, match="TypeError"):
        worker.call("add", a=1)
    assert worker.call("add", a=1, b=2) == 3
    assert issubclass(WorkerError, MLIPError)


def test_death_is_reported_at_once(worker: Worker) -> None:
    start = time.monotonic()
    with pytest.raises(WorkerError, match=r"helper ended with status 3; its last words: (.|\n)*last words$"):
        worker.call("die")
    with pytest.raises(WorkerError, match="ended with status 3"):
        worker.call("add", a=1, b=2)
    assert time.monotonic() - start < 30


def test_death_by_the_system(worker: Worker) -> None:
    with pytest.raises(WorkerError, match="killed by signal 9, as the system does when memory runs out"):
        worker.call("killed")


def test_silence_ends(script: Path) -> None:
    with Worker("helper", sys.executable, script) as worker:
        worker.patience = 0.2
        with pytest.raises(WorkerError, match=r"no answer for 0\.2 s"):
            worker.call("sleep", seconds=60)


def test_closed(script: Path) -> None:
    worker = Worker("helper", sys.executable, script)
    worker.close()
    worker.close()
    with pytest.raises(WorkerError, match="closed"):
        worker.call("add", a=1, b=2)


def test_wrong_pythons(script: Path, tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="cannot be started with the Python '/absent/python': No such file"):
        Worker("helper", "/absent/python", script)
    with pytest.raises(WorkerError, match="cannot be started"):
        Worker("helper", tmp_path, script)
    with pytest.raises(WorkerError, match="ended with status 0"):
        Worker("helper", "/bin/true", script)
    with pytest.raises(WorkerError, match="is no answer: is its Python one"):
        Worker("helper", "/bin/echo", script)


def test_scripts_that_cannot_run(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("import a_package_nobody_has\n")
    with pytest.raises(WorkerError, match="ModuleNotFoundError: No module named 'a_package_nobody_has'"):
        Worker("helper", sys.executable, broken)


def test_memory_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "forget_peak", lambda: False)
    first = serving.peaked(lambda: None, 1)
    assert first["peak"] >= first["before"] > 0
    monkeypatch.setattr(serving, "resident", lambda name: None)
    second = serving.peaked(lambda: None, 1)
    assert second["peak"] >= second["before"] > 0
