"""Back ends: plain torch, or the compiled kernels. Each op takes one of `BACKENDS`."""

from __future__ import annotations

from typing import Literal

import torch
from torch.autograd import forward_ad

from mlip.errors import BackendError, OptionError
from mlip.ops._library import LIBRARY

Backend = Literal["auto", "compiled", "reference"]
BACKENDS: tuple[Backend, ...] = ("auto", "compiled", "reference")


def check_backend(backend: str) -> Backend:
    """Return the name of a back end that works here.

    Raises:
        OptionError: no such back end.
        BackendError: the compiled kernels were asked for and are not there.
    """
    if backend not in BACKENDS:
        raise OptionError(f"backend {backend!r} is unknown; allowed: {', '.join(BACKENDS)}")
    if backend == "compiled" and LIBRARY.path is None:
        raise BackendError(f"backend='compiled' cannot be used: {LIBRARY.problem}; backend='auto' uses plain torch")
    return backend


def compiled_is_available() -> bool:
    """Return whether the compiled kernels are loaded."""
    return LIBRARY.path is not None


def use_compiled(backend: Backend, *tensors: torch.Tensor) -> bool:
    """Return whether an op on these tensors goes to the compiled kernels.

    Other devices and precisions, the transforms of `torch.func` and forward-mode derivatives are left to plain torch.
    """
    return (backend != "reference" and LIBRARY.path is not None
            and all(t.device.type == "cpu" and t.dtype in (torch.float32, torch.float64) for t in tensors)
            and (torch.compiler.is_compiling() or not _transformed(tensors)))


def _transformed(tensors: tuple[torch.Tensor, ...]) -> bool:
    """Return whether tensors carry what an operator would drop without a word (tangents) or not understand."""
    if getattr(forward_ad, "_current_level", -1) >= 0:
        return True
    return any(torch._C._functorch.is_functorch_wrapped_tensor(t) for t in tensors)


def backends() -> dict[str, str]:
    """Return the back ends by name and what each is, or why it is missing: for people to read."""
    compiled = (f"kernels for {LIBRARY.isa} from {LIBRARY.path}" if LIBRARY.path is not None
                else f"MISSING, everything runs in plain torch, many times slower: {LIBRARY.problem}")
    auto = "compiled on the CPU, else reference" if LIBRARY.path is not None else "reference"
    return {"auto": auto, "compiled": compiled, "reference": "plain torch, on every device; slow"}
