"""`verify_restart`: whether `mlip md`, killed again and again, leaves what it would have left undisturbed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlip.simulation.record import Outputs, outputs_of
from mlip.verify.process import CommandProcess

POLL = 0.01  # s
COMPARED = ("trajectory", "topology", "final", "log")


@dataclass(frozen=True)
class RestartReport:
    """What `verify_restart` found.

    Attributes:
        name: engine and ensemble.
        kills: how often the run was killed.
        steps: of the run.
        differing: names of the files that are not equal, byte for byte.
        seconds: time taken.
    """

    name: str
    kills: int
    steps: int
    differing: tuple[str, ...]
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether all files are equal."""
        return not self.differing

    def __str__(self) -> str:
        found = "the same files, byte for byte" if self.passed else f"DIFFERENT: {', '.join(self.differing)}"
        return f"{self.name:12} {self.steps} steps, killed {self.kills} times: {found} ({self.seconds:.0f} s)"


def verify_restart(file: str | Path, folder: str | Path, options: Sequence[str], *, engine: str = "ase",
                   ensemble: str = "nvt", steps: int = 2000, kills: int = 20, seed: int = 0) -> RestartReport:
    """Run `mlip md` undisturbed, and again with a kill -9 at random moments of its dynamics and the same command after.

    Args:
        file: structure to move.
        folder: for the files of both runs, `<engine>-<ensemble>-whole.*` and `-killed.*`; earlier ones are removed.
        options: further ones of `mlip md`, of which `--model` is needed.
        engine: `ase` or `openmm`.
        ensemble: `nve`, `nvt` or `npt`.
        steps: of both runs; they should take a second or two for each kill, so that a part is done between two.
        kills: how many; fewer where the run was finished before.
        seed: of the moments.

    Raises:
        OptionError: there is no such folder.
        WorkerError: `mlip md` fails.
    """
    began, name = time.perf_counter(), f"{engine}-{ensemble}"
    whole, killed = (outputs_of(Path(folder) / f"{name}-{kind}.dcd") for kind in ("whole", "killed"))
    for path in (*whole, *killed):
        path.unlink(missing_ok=True)
    command = ["md", str(file), "--engine", engine, "--ensemble", ensemble,
               "--steps", str(steps), *options, "--output"]
    first = _Process(command, whole)
    first.await_frames()
    alive = time.time()
    first.finish()
    length = whole.log.stat().st_mtime - alive
    random, done = np.random.default_rng(seed), 0
    for pause in 1.5 * length / max(kills, 1) * random.random(kills):
        process = _Process(command, killed)
        process.await_frames()
        time.sleep(pause)
        if not process.kill():
            break
        done += 1
    _Process(command, killed).finish()
    return RestartReport(name, done, steps, different(whole, killed), time.perf_counter() - began)


def different(whole: Outputs, killed: Outputs) -> tuple[str, ...]:
    """Return the names of those files of a run that are not, byte for byte, those of another."""
    pairs = [(getattr(whole, kind), getattr(killed, kind)) for kind in COMPARED]
    return tuple(b.name for a, b in pairs if not b.exists() or a.read_bytes() != b.read_bytes())


class _Process(CommandProcess):
    """A process that runs `mlip md`."""

    def __init__(self, command: Sequence[str], files: Outputs) -> None:
        self._log, self._before = files.log, _seen(files.log)
        super().__init__([*command, str(files.trajectory)])

    def await_frames(self) -> None:
        """Wait until it writes to the log, or ends."""
        while self.running() and _seen(self._log) == self._before:
            time.sleep(POLL)


def _seen(path: Path) -> tuple[int, int] | None:
    """Return what changes when a file is written; None without one."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_size
