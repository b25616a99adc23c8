"""`verify_screen`: whether `mlip screen`, killed again and again, leaves what it would have left undisturbed."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlip.screening import Store
from mlip.screening.attempts import ENDING, attempts_of
from mlip.verify.process import CommandProcess

POLL = 0.02  # s
COMPARED = ("table.csv", "all.json")  # single values; all values, curves and structures, with their settings


@dataclass(frozen=True)
class ScreenReport:
    """What `verify_screen` found.

    Attributes:
        results: number of them.
        kills: how often the screening was killed.
        twice: results that were stored twice.
        lost: the most results that were being computed at a kill, and had to be begun again.
        differing: names of the files that are not equal, byte for byte.
        seconds: time taken.
    """

    results: int
    kills: int
    twice: int
    lost: int
    differing: tuple[str, ...]
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether the files are equal, and nothing was computed twice."""
        return not self.differing and not self.twice

    def __str__(self) -> str:
        found = f"DIFFERENT: {', '.join(self.differing)}" if self.differing else "the same table, byte for byte"
        return (f"{self.results} results, killed {self.kills} times: {found}; {self.twice} computed twice, at most "
                f"{self.lost} begun again after a kill ({self.seconds:.0f} s)")


def verify_screen(inputs: Sequence[str | Path], folder: str | Path, options: Sequence[str], *, kills: int = 100,
                  seed: int = 0) -> ScreenReport:
    """Run `mlip screen` undisturbed, and again with kill -9 at random moments and the same command after each.

    The moments are spread over all results: each kill waits for its share of them, and a random time more.

    Args:
        inputs: what to screen.
        folder: of both screenings, `whole` and `killed`; earlier ones are removed.
        options: further ones of `mlip screen`, of which `--model` is needed.
        kills: how many; fewer where the screening was finished before.
        seed: of the moments.

    Raises:
        WorkerError: `mlip screen` fails.
    """
    began = time.perf_counter()
    whole, killed = (Path(folder) / name for name in ("whole", "killed"))
    for each in (whole, killed):
        shutil.rmtree(each, ignore_errors=True)
    command = ["screen", *map(str, inputs), *options]
    first = _Screening(command, whole)
    first.await_results(0)
    alive = time.perf_counter()
    first.finish()
    length, results = time.perf_counter() - alive, len(Store(whole).rows())
    random, done, lost = np.random.default_rng(seed), 0, 0
    for share, pause in enumerate(2 * length / max(kills, 1) * random.random(kills)):
        process = _Screening(command, killed)
        process.await_results(results * share // kills)
        time.sleep(pause)
        if not process.kill():
            break
        done += 1
        lost = max(lost, process.lost())
    _Screening(command, killed).finish()
    keys = [row.key for row in Store(killed).new()]
    differing = tuple(name for name in COMPARED if (whole / name).read_bytes() != (killed / name).read_bytes())
    return ScreenReport(results, done, len(keys) - len(set(keys)), lost, differing, time.perf_counter() - began)


class _Screening(CommandProcess):
    """A process that runs `mlip screen`."""

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        self._store = Store(folder)
        self._rows, self._before = self._store.rows(), set(attempts_of(folder))
        self._folder, self._working = folder, list[list[str]]()
        super().__init__([*command, "--out", str(folder), "--export", str(folder / COMPARED[1])])

    def await_results(self, count: int) -> None:
        """Wait until it works and there are so many results, or it ends."""
        found = len(self._rows)
        while self.running() and not (self._begun() and found >= count):
            time.sleep(POLL)
            found += len(self._store.new())

    def kill(self) -> bool:
        """Note what it is working on, and kill it; return False if it had ended well."""
        self._working = [keys for name, keys in attempts_of(self._folder).items() if name not in self._before]
        return super().kill()

    def lost(self) -> int:
        """Return how many results it was working on when it was killed, and did not finish."""
        known = {row.key for row in self._store.rows()}
        return max((len(set(keys) - known) for keys in self._working), default=0)

    def _begun(self) -> bool:
        return any(path.name not in self._before for path in self._store.folder.glob(f"*{ENDING}"))
