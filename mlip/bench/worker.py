"""`Worker`: a process in some Python environment that is asked for results, times and memory."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from mlip.errors import WorkerError

PROCESSES = Path(__file__).parent / "processes"
PATIENCE = 7200.0  # seconds for one answer; a run of dynamics takes long, but nothing takes for ever


@dataclass(frozen=True)
class Memory:
    """Resident memory of a process, bytes: before a call, and the largest during it."""

    before: int
    peak: int

    @property
    def call(self) -> int:
        """What the call added."""
        return self.peak - self.before


class Worker:
    """One process; it waits idle between requests. Use it in a `with`, which ends it."""

    def __init__(self, name: str, python: str | os.PathLike[str], script: Path,
                 environment: Mapping[str, str] | None = None, patience: float = PATIENCE) -> None:
        """Start the process and wait until it is ready.

        Args:
            name: what to call it in errors.
            python: interpreter.
            script: file with a class `Actions`, see `mlip/bench/processes/serving.py`.
            environment: variables to set in addition to those of this process.
            patience: seconds to wait for one answer.

        Raises:
            WorkerError: it cannot be started, or the script cannot be run there.
        """
        self.name, self.patience = name, patience
        self._words = tempfile.TemporaryFile(mode="w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        command = [os.fspath(python), str(PROCESSES / "serving.py"), str(script)]
        try:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                             encoding="utf-8", errors="replace", stderr=self._words,
                                             env={**os.environ, **(environment or {})})
        except OSError as error:
            self._words.close()
            raise WorkerError(f"{name} cannot be started with the Python {command[0]!r}: {error.strerror or error}; "
                              "give the path of an interpreter") from None
        self._answers: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self._answer()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Identity of the process."""
        return self._process.pid

    def call(self, action: str, **arguments: Any) -> Any:
        """Return what an action returns.

        Raises:
            WorkerError: the action failed, or the process died or kept silent.
        """
        return self._ask("call", action, arguments)

    def time(self, action: str, runs: int = 1, **arguments: Any) -> list[float]:
        """Return the seconds of each of several runs of an action; errors as `call`."""
        return [float(s) for s in self._ask("time", action, arguments, runs)]

    def peak(self, action: str, **arguments: Any) -> Memory:
        """Return the memory of the process before and during an action; errors as `call`."""
        return Memory(**self._ask("peak", action, arguments))

    def close(self) -> None:
        """End the process; it may be called again."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):  # it died with a request unread
            self._process.stdin.close()
        try:
            self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        self._process.stdout.close()
        self._words.close()

    def _ask(self, measure: str, action: str, arguments: dict[str, Any], runs: int = 1) -> Any:
        request = {"measure": measure, "action": action, "arguments": arguments, "runs": runs}
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except (OSError, ValueError):  # dead, or closed by the caller
            raise WorkerError(self._obituary()) from None
        return self._answer()

    def _answer(self) -> Any:
        try:
            line = self._answers.get(timeout=self.patience)
        except queue.Empty:
            self._process.kill()
            raise WorkerError(f"{self.name} gave no answer for {self.patience:g} s and was ended") from None
        if line is None:
            raise WorkerError(self._obituary())
        try:
            message = json.loads(line)
            if "error" not in message:
                return message["result"]
        except (ValueError, TypeError, KeyError):
            raise WorkerError(f"{self.name} answered {line[:200]!r}, which is no answer: is its Python one?") from None
        raise WorkerError(f"{self.name}: {message['error']}")

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put(None)

    def _obituary(self) -> str:
        if self._words.closed:
            return f"{self.name} has been closed"
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5.0)
        code = self._process.returncode
        how = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with status {code}"
        why = ", as the system does when memory runs out" if code == -9 else ""
        self._words.seek(0)
        said = self._words.read()[-1500:].strip()
        return f"{self.name} {how}{why}" + (f"; its last words: {said}" if said else "")
