"""Workers of Parsl: one is killed in the middle, and the table is that of one process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ase.build import bulk

pytest.importorskip("parsl")
import psutil

from mlip.errors import OptionError, WorkerError
from mlip.screening import screen
from mlip.screening.parsl import parsl_workers

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys
from mlip.screening import screen
from mlip.screening.parsl import parsl_workers

if __name__ == "__main__":
    crystals, out, config = sys.argv[1:]
    with parsl_workers(config, out) as workers:
        screen([crystals], "gaunt-mace-elements", ["relax"], out, executor=workers)
"""


@pytest.mark.slow
def test_a_killed_worker_changes_nothing(tmp_path) -> None:
    crystals = tmp_path / "crystals"
    crystals.mkdir()
    for i in range(48):
        atoms = bulk("Cu" if i % 2 else "Si", cubic=True)
        atoms.rattle(0.05, seed=i)
        atoms.write(crystals / f"{i}.extxyz")
    (tmp_path / "program.py").write_text(PROGRAM)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "program.py", "crystals", "shared", ROOT / "examples" / "parsl_local.py"]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        victim = None
        while victim is None and process.poll() is None:
            time.sleep(0.05)
            victim = next((p for p in psutil.process_iter() if writes(p, tmp_path / "shared")), None)
        assert victim is not None, process.communicate()[1]
        victim.kill()
        _, errors = process.communicate(timeout=400)
    finally:
        for each in filter(lambda p: stands_in(p, tmp_path), psutil.process_iter()):  # workers outlive who started them
            each.kill()
        process.wait()
    assert process.returncode == 0, errors
    assert len(list((tmp_path / "shared" / "rows").glob("*.jsonl"))) > 2  # one of each process: one came later
    alone = screen([crystals], "gaunt-mace-elements", ["relax"], tmp_path / "alone")
    lines = [(tmp_path / folder / "table.csv").read_text().replace(f"{crystals}/", "").replace("crystals/", "")
             for folder in ("shared", "alone")]
    assert lines[0] == lines[1]
    assert alone.failures == []


def writes(process: psutil.Process, folder: Path) -> bool:
    """Return whether a process has a file of the store open; workers are no children of the one that started them."""
    try:
        return any(Path(file.path).is_relative_to(folder / "rows") for file in process.open_files())
    except psutil.Error:
        return False


def stands_in(process: psutil.Process, folder: Path) -> bool:
    """Return whether a process was started in a folder."""
    try:
        return Path(process.cwd()) == folder
    except psutil.Error:
        return False


@pytest.mark.parametrize(("text", "words"), [
    (None, "there is no file"), ("x = 1", "it leaves a NoneType"), ("config = 5", "it leaves a int"),
    ("import nonsense_that_is_not", "does not run: ModuleNotFoundError"),
])
def test_refuses_what_is_no_configuration(tmp_path, text: str | None, words: str) -> None:
    path = tmp_path / "config.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(OptionError, match=words), parsl_workers(path, tmp_path):
        pass
    assert not (tmp_path / "runinfo").exists()


def test_programs_that_are_not_on_the_path(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with (pytest.raises(WorkerError, match="activate the environment"),
          parsl_workers(ROOT / "examples" / "parsl_local.py", tmp_path)):
        pass


def test_errors_of_the_work_are_its_own(tmp_path) -> None:
    """They are not repeated, and not taken for the loss of a worker."""
    path = tmp_path / "config.py"
    path.write_text("from parsl import Config\nfrom parsl.executors import ThreadPoolExecutor\n"
                    "config = Config([ThreadPoolExecutor(max_threads=1)], initialize_logging=False)\n")
    with parsl_workers(path, tmp_path) as workers:
        assert workers.submit(count_and_fail, tmp_path / "calls", fail=False).result() == 1
        with pytest.raises(ZeroDivisionError):
            workers.submit(count_and_fail, tmp_path / "calls").result()
    assert (tmp_path / "calls").read_text() == "xx"


def count_and_fail(path: Path, fail: bool = True) -> float:
    with path.open("a") as file:
        file.write("x")
    return 1 / (0 if fail else 1)


def test_the_slurm_example_is_a_configuration() -> None:
    import runpy

    from parsl import Config

    config = runpy.run_path(str(ROOT / "examples" / "parsl_slurm.py"))["config"]
    assert isinstance(config, Config)
    assert config.executors[0].available_accelerators == ["0", "1", "2", "3"]
