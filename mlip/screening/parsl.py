"""Workers on other machines: a Parsl configuration as an executor for `screen`."""

from __future__ import annotations

import logging
import runpy
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlip.errors import MissingDependencyError, OptionError, WorkerError

RETRIES = 2


@contextmanager
def parsl_workers(config: str | Path, folder: str | Path) -> Iterator[Executor]:
    """Start the workers of a configuration, and end them when the block ends.

    Work whose worker is lost - killed, out of time, its machine gone - is given to another one, twice where the
    configuration does not say how often; what the lost one had finished is kept. Work that fails by itself is not
    repeated.

    Args:
        config: a Python file that leaves a `parsl.Config` called `config`, such as `examples/parsl_local.py`; it is
            run.
        folder: of the screening; a relative `run_dir` of the configuration, where Parsl keeps its logs, is put there.

    Yields:
        What `screen` takes as `executor`.

    Raises:
        MissingDependencyError: Parsl is not installed.
        OptionError: no such file, or one that leaves no configuration.
        WorkerError: the workers cannot be started.
    """
    try:
        from parsl import DataFlowKernel
    except ImportError:
        raise MissingDependencyError.of("parsl", "parsl") from None
    loaded = _read(Path(config).expanduser())
    loaded.run_dir = str(Path(folder).expanduser().resolve() / loaded.run_dir)
    loaded.retries = loaded.retries or RETRIES
    loaded.retry_handler = loaded.retry_handler or _cost
    try:
        kernel = DataFlowKernel(loaded)
    except FileNotFoundError as error:
        raise WorkerError(f"Parsl cannot start {error.filename}: its programs must be on the PATH; activate the "
                          "environment it is installed in") from None
    logs = [each for each in logging.getLogger("parsl").handlers if isinstance(each, logging.FileHandler)]
    try:
        yield _Workers(kernel)
    finally:
        kernel.cleanup()
        for log in logs:  # which Parsl takes off, but leaves open
            log.close()


def _read(path: Path) -> Any:
    from parsl import Config

    if not path.is_file():
        raise OptionError(f"there is no file {path}; give a Python file with a parsl.Config called `config`")
    try:
        found = runpy.run_path(str(path)).get("config")
    except Exception as error:
        raise OptionError(f"{path} does not run: {type(error).__name__}: {error}") from error
    if not isinstance(found, Config):
        raise OptionError(f"{path} must leave a parsl.Config called `config`; it leaves a {type(found).__name__}")
    return found


def _lost(error: BaseException) -> bool:
    """Return whether work ended because of where it ran."""
    from parsl.errors import ParslError
    from parsl.executors.high_throughput.errors import ManagerLost, WorkerLost

    return isinstance(error, ParslError | ManagerLost | WorkerLost)


def _cost(error: Exception, task: Any) -> float:
    """Return how much of its retries a failure costs: all, where it would happen again."""
    return 1.0 if _lost(error) else float("inf")


class _Workers(Executor):
    """Hands functions to Parsl; a loss is told as the executors of Python tell it."""

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Begin a call; it and its arguments are pickled."""
        from parsl import python_app

        outcome: Future[Any] = Future()
        work = python_app(function, data_flow_kernel=self._kernel)(*args, **kwargs)
        work.add_done_callback(lambda done: _tell(done, outcome))
        return outcome


def _tell(done: Future[Any], outcome: Future[Any]) -> None:
    if not outcome.set_running_or_notify_cancel():
        return
    error = done.exception()
    if error is None:
        outcome.set_result(done.result())
    else:
        outcome.set_exception(BrokenExecutor(str(error)) if _lost(error) else error)
