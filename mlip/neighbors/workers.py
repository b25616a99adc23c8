"""Python threads that work through the parts of one search."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from threading import Lock

import numba

ATOMS_PER_THREAD = 1000  # fewer are not worth a thread

_pools: dict[int, ThreadPoolExecutor] = {}  # by process: threads do not survive a fork
_lock = Lock()


def available_threads() -> int:
    """Return how many threads a search may use: numba's setting.

    That is the environment variable NUMBA_NUM_THREADS, else the number of processors, or what
    `numba.set_num_threads` has set since.
    """
    try:
        numba.threading_layer()
    except ValueError:  # numba's own threads do not run; do not start them by asking
        return int(numba.config.NUMBA_NUM_THREADS)
    return int(numba.get_num_threads())


def threads_for(atoms: int, most: int | None) -> int:
    """Return how many threads a search among `atoms` is worth: at most `most`, or numba's setting if None."""
    if atoms < 2 * ATOMS_PER_THREAD:
        return 1
    return min(available_threads() if most is None else most, atoms // ATOMS_PER_THREAD)


def work_through(task: Callable[[int, int], object], bounds: Sequence[int], threads: int) -> None:
    """Call ``task(first, last)`` for all consecutive bounds, in several threads at once.

    Args:
        task: must release the global interpreter lock to run in parallel.
        bounds: [K + 1] of K parts.
        threads: most threads to use, the calling one included.
    """
    parts = deque(pairwise(bounds))

    def work() -> None:
        while True:
            try:
                first, last = parts.popleft()
            except IndexError:
                return
            task(first, last)

    helpers: list[Future[None]] = []
    try:
        for _ in range(min(threads, len(parts)) - 1):
            helpers.append(_pool(threads).submit(work))
    except RuntimeError:  # the interpreter is shutting down: no new threads
        pass
    try:
        work()
    finally:
        parts.clear()
        for helper in helpers:
            if not helper.cancel():  # one that has begun is waited for: it writes to our arrays
                helper.result()


def _pool(threads: int) -> ThreadPoolExecutor:
    with _lock:
        process = os.getpid()
        if process not in _pools:
            _pools.clear()
            size = max(threads, int(numba.config.NUMBA_NUM_THREADS))
            _pools[process] = ThreadPoolExecutor(size, thread_name_prefix="mlip-neighbors")
        return _pools[process]
