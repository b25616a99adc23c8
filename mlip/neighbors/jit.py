"""How this room compiles: numba, cached on disk, without the global interpreter lock."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import numba

P = ParamSpec("P")
R = TypeVar("R")


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Return `function` compiled at its first call, serial, in strict IEEE arithmetic.

    The machine code is cached beside the source, or in the user's cache directory where that is
    read-only, or not at all where that is read-only too.
    """
    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy")(function)  # type: ignore[no-any-return]
    except RuntimeError:  # numba finds no place to write a cache to
        return numba.njit(nogil=True, error_model="numpy")(function)  # type: ignore[no-any-return]
