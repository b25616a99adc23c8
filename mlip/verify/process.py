"""A command of `mlip` as a process that may be killed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

from mlip.errors import WorkerError


class CommandProcess:
    """A process that runs a command of `mlip`."""

    def __init__(self, command: Sequence[str]) -> None:
        """Start it; `command` is what follows `mlip`."""
        self.name = f"mlip {command[0]}"
        self._process = subprocess.Popen([sys.executable, "-m", "mlip.cli.main", *command], stdout=subprocess.DEVNULL,
                                         stderr=subprocess.PIPE, text=True)

    def running(self) -> bool:
        """Return whether it has not ended yet."""
        return self._process.poll() is None

    def kill(self) -> bool:
        """Kill it; return False if it had ended well."""
        if self.running():
            self._process.kill()
            self._process.communicate()
            return True
        self.finish()
        return False

    def finish(self) -> None:
        """Wait for its end.

        Raises:
            WorkerError: it failed.
        """
        _, errors = self._process.communicate()
        if self._process.returncode:
            raise WorkerError(f"{self.name} ended with {self._process.returncode}: {errors.strip()[-2000:]}")
