"""Checks of signals on the sphere that keep their components on the last axis."""

from __future__ import annotations

from math import isqrt

import torch
from torch import Tensor

from mlip.errors import OptionError
from mlip.so3.degrees import size


def degree(x: Tensor, name: str = "x", inner: tuple[int, ...] = ()) -> int:
    """Return the largest degree l of a signal [..., *inner, (l+1)^2].

    Args:
        x: the signal.
        name: what to call it in an error.
        inner: sizes of the axes before the last.

    Raises:
        OptionError: another shape, or neither float32 nor float64.
    """
    lmax = isqrt(x.shape[-1]) - 1 if x.ndim else -1
    if lmax < 0 or x.shape[-1] != size(lmax) or tuple(x.shape[-1 - len(inner) : -1]) != inner:
        axes = ", ".join(("...", *map(str, inner), "(l+1)^2"))
        raise OptionError(f"{name} has the shape {tuple(x.shape)}; it must be [{axes}]: 1, 4, 9, 16, ... components of "
                          "all degrees up to l on the last axis")
    if x.dtype not in (torch.float32, torch.float64):
        raise OptionError(f"{name} is {x.dtype}; it must be float32 or float64")
    return lmax


def degrees(x: Tensor, y: Tensor, l_out: int | None, inner: tuple[int, ...] = (),
            names: tuple[str, str] = ("x", "y")) -> tuple[int, int, int]:
    """Return the largest degrees of two signals and of their product, by default the sum of theirs.

    Args:
        x: the first signal, [..., *inner, (l1+1)^2].
        y: the second, [..., *inner, (l2+1)^2].
        l_out: the degree that was asked for.
        inner: sizes of the axes before the last.
        names: what to call the signals in an error.

    Raises:
        OptionError: shapes or precisions that do not fit each other, a degree of the product that is out of range.
    """
    l1, l2 = degree(x, names[0], inner), degree(y, names[1], inner)
    if x.shape[:-1] != y.shape[:-1] or x.dtype != y.dtype or x.device != y.device:
        raise OptionError(f"{names[0]} {tuple(x.shape)} {x.dtype} on {x.device} and {names[1]} {tuple(y.shape)} "
                          f"{y.dtype} on {y.device} do not fit each other; all axes but the last, precision and device "
                          "must be equal")
    return l1, l2, degree_out(l_out, l1 + l2)


def degree_out(l_out: int | None, highest: int) -> int:
    """Return the largest degree of a result: as asked for, else the highest there is.

    Raises:
        OptionError: a degree that is out of range.
    """
    if l_out is None:
        return highest
    if not 0 <= l_out <= highest:
        raise OptionError(f"l_out={l_out} is out of range; these factors give degrees 0 to {highest}")
    return l_out
