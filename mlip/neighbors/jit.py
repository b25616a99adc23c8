"""How this room compiles: numba at the first call, cached on disk, in strict IEEE arithmetic.

The compiled functions are serial and run without the global interpreter lock; threads are Python
threads (`workers.py`). So numba's own thread pools, which must not be entered from two threads at
once nor survive a fork, are never started.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numba

P = ParamSpec("P")
R = TypeVar("R")


def _fingerprint() -> str | None:
    """Return a digest of this folder's sources; None where they cannot be read."""
    digest = hashlib.sha256()
    try:
        for file in sorted(Path(__file__).parent.glob("*.py")):
            digest.update(file.read_bytes())
    except OSError:
        return None
    return digest.hexdigest()


FINGERPRINT = _fingerprint()


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Return `function` compiled; it may make arrays."""
    return _compiled(function, {})


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Return `function` compiled for inner loops.

    It must not make arrays: it keeps no count of references to them, which else costs half the time
    of a search (an atomic increment whenever an array is touched).
    """
    return _compiled(function, {"_nrt": False})


def inner(function: Callable[P, R]) -> Callable[P, R]:
    """Return `function` compiled as `kernel` does, to be called from compiled functions only."""
    return _compiled(function, {"_nrt": False, "no_cpython_wrapper": True, "no_cfunc_wrapper": True})


def _compiled(function: Callable[P, R], options: dict[str, Any]) -> Callable[P, R]:
    """Compile with a cache on disk that is emptied when any source of this folder changes.

    numba looks only at the file a function stands in, not at the functions it calls. The cache lies
    beside the source, or where that cannot be written in the user's cache folder. Without any such
    place functions are compiled anew in every process.
    """
    common = {"nogil": True, "error_model": "numpy"}
    try:
        make = numba.njit(**common, **options)
        dispatcher: Any = make(function)
    except (KeyError, TypeError):  # a numba without these options of its own library
        make = numba.njit(**common)
        dispatcher = make(function)
    if FINGERPRINT is None:
        return dispatcher  # type: ignore[no-any-return]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dispatcher.enable_caching()
        stamped = dispatcher._cache._cache_file
        if not hasattr(stamped, "_source_stamp"):
            return make(function)  # type: ignore[no-any-return]
        stamped._source_stamp = FINGERPRINT
    except (RuntimeError, AttributeError):
        return make(function)  # type: ignore[no-any-return]
    return dispatcher  # type: ignore[no-any-return]
