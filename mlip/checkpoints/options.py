"""Device and precision as users write them."""

from __future__ import annotations

from typing import Literal

import torch

from mlip.errors import OptionError
from mlip.so3.rotation_groups import GROUPS

DTYPES = {"float32": torch.float32, "single": torch.float32, "float64": torch.float64, "double": torch.float64}


Radial = Literal["exact", "tabulated"]


def as_radial(radial: str | None, default: Radial) -> Radial:
    """Return how radial functions are evaluated, `"exact"` or `"tabulated"`."""
    if radial not in (None, "exact", "tabulated"):
        raise OptionError(f"radial={radial!r} is not supported; allowed: exact, tabulated")
    return default if radial is None else radial  # type: ignore[return-value]


def as_rotational_average(group: str | None, default: str) -> str:
    """Return the name of a group of rotations to average over, or `"none"`."""
    if group is None:
        return default
    if not isinstance(group, str) or group not in ("none", *GROUPS):
        raise OptionError(f"rotational_average={group!r} is not supported; allowed: none, {', '.join(GROUPS)}")
    return group


def as_dtype(dtype: torch.dtype | str | None, default: torch.dtype) -> torch.dtype:
    """Return float32 or float64 from a torch dtype, `"float32"`, `"float64"`, `"single"` or `"double"`."""
    chosen = default if dtype is None else DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if chosen not in (torch.float32, torch.float64):
        raise OptionError(f"dtype {dtype!r} is not supported; allowed: {', '.join(DTYPES)}")
    return chosen


def as_device(device: torch.device | str | None, default: torch.device) -> torch.device:
    """Return a usable torch device.

    Raises:
        OptionError: a name torch does not know, or CUDA where there is none.
    """
    if device is None:
        return default
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError):
        raise OptionError(f"device {device!r} is unknown; use 'cpu', 'cuda' or 'cuda:<index>'") from None
    if chosen.type not in ("cpu", "cuda"):
        raise OptionError(f"device {device!r} is not supported; use 'cpu', 'cuda' or 'cuda:<index>'")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count() > 0:
        raise OptionError(f"device {device!r} was asked for but torch sees {torch.cuda.device_count()} CUDA device(s); "
                          "their indices begin with 0")
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise OptionError(f"device {device!r} was asked for but torch sees no CUDA device; use device='cpu'")
    return chosen
