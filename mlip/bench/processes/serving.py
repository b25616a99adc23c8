"""A process that does as it is told: one request a line on standard input, one answer a line on standard output.

    python serving.py ACTIONS.py

ACTIONS.py defines a class `Actions`, whose methods are what can be asked for. This file needs the standard library
only, so that it runs in the environment of any package that ours is compared with.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import runpy
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

Action = Callable[[], Any]


def called(action: Action, runs: int) -> Any:
    """Return what the action returns."""
    return action()


def timed(action: Action, runs: int) -> list[float]:
    """Return the seconds of each run."""
    gc.collect()
    out = []
    for _ in range(runs):
        start = time.perf_counter()
        action()
        out.append(time.perf_counter() - start)
    return out


def peaked(action: Action, runs: int) -> dict[str, int]:
    """Return the resident memory in bytes before a run, and the largest of this process during it."""
    gc.collect()
    before = resident("VmRSS")
    if before is None:  # no /proc: all there is, is the largest since the process began
        before = largest_ever()
        action()
        return {"before": before, "peak": largest_ever()}
    exact = forget_peak()
    action()
    peak = resident("VmHWM") if exact else None
    return {"before": before, "peak": max(before, largest_ever() if peak is None else peak)}


def resident(name: str) -> int | None:
    """Return a field of /proc/self/status in bytes; None where there is no such thing."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)


def forget_peak() -> bool:
    """Make the kernel begin anew with VmHWM, and return whether it did."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    now, peak = resident("VmRSS"), resident("VmHWM")
    return now is not None and peak is not None and peak < now + (1 << 24)  # some sandboxes accept it and do nothing


def largest_ever() -> int:
    """Return the largest resident memory since the process began, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


MEASURES = {"call": called, "time": timed, "peak": peaked}


def answer(actions: Any, line: str) -> dict[str, Any]:
    """Return the answer to one request: its result, or the error."""
    try:
        request = json.loads(line)
        action = getattr(actions, request["action"])
        measure = MEASURES[request["measure"]]
        return {"result": measure(lambda: action(**request["arguments"]), request["runs"])}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}


def main(script: str) -> int:
    """Answer requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not be taken for an answer

    def say(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    try:
        actions = runpy.run_path(script)["Actions"]()
    except Exception as error:
        say({"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()})
        return 1
    say({"result": "ready"})
    for line in sys.stdin:
        say(answer(actions, line))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
