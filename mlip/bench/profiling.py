"""Where the time of one call goes, by the operators of torch; and what the processor could do at best."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch.autograd.profiler_util import EventList
from torch.profiler import ProfilerActivity

GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("edge convolution, forward", ("mlip::edge_convolution",)),
    ("edge convolution, backward", ("mlip::edge_convolution*",)),
    ("symmetric contraction, forward", ("mlip::symmetric_contraction",)),
    ("symmetric contraction, backward", ("mlip::symmetric_contraction*",)),
    ("spherical harmonics", ("mlip::spherical_harmonics*", "mlip::harmonics*")),
    ("rotations into and out of the frames of edges", ("mlip::rotate_*",)),
    ("attention over edges", ("mlip::edge_attention*",)),
    ("products on the sphere", ("mlip::sphere_product*",)),
    ("radial functions", ("mlip::radial*",)),
    ("linear maps by degree", ("mlip::degree_linear*",)),
    ("other kernels of mlip", ("mlip::*",)),
    ("matrix products", ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")),
    ("gather and scatter", ("aten::index*", "aten::gather*", "aten::scatter*", "aten::_index*")),
    ("copies and new memory", ("aten::copy_", "aten::clone", "aten::cat", "aten::stack", "aten::fill_", "aten::zero*",
                               "aten::empty*", "aten::new_*", "aten::ones*", "aten::_to_copy", "aten::contiguous")),
    ("element-wise", ("aten::mul*", "aten::add*", "aten::sub*", "aten::rsub*", "aten::div*", "aten::pow*", "aten::sin*",
                      "aten::cos*", "aten::silu*", "aten::sqrt*", "aten::neg*", "aten::reciprocal*", "aten::where*",
                      "aten::sum*", "aten::linalg_vector_norm*", "aten::clamp*", "aten::tanh*", "aten::sigmoid*")),
)
WRAPPER = re.compile(r"GeneratedBackwardFor_mlip_(\w+?)_default(Backward)?")  # torch books our kernels on these
REST, OUTSIDE = "other operators of torch", "Python and the rest outside operators"


def group_of(name: str) -> str:
    """Return the group that an operator belongs to: the first in `GROUPS` that names it."""
    name = WRAPPER.sub(r"mlip::\1\2", name)
    for group, patterns in GROUPS:
        for pattern in patterns:
            if name == pattern or (pattern.endswith("*") and name.startswith(pattern[:-1])):
                return group
    return REST


def profile(action: Callable[[], object], runs: int) -> dict[str, Any]:
    """Profile an action after a run to warm up.

    Args:
        action: what to run.
        runs: how often, with the profiler and, before, without.

    Returns:
        seconds (least, without the profiler), profiled (mean seconds with it), groups (for each group its mean
        seconds, without what operators call in turn, and mean number of calls, most expensive first).
    """
    action()
    plain = []
    for _ in range(runs):
        start = time.perf_counter()
        action()
        plain.append(time.perf_counter() - start)
    with torch.profiler.profile(activities=[ProfilerActivity.CPU]) as recorder:
        start = time.perf_counter()
        for _ in range(runs):
            action()
        profiled = (time.perf_counter() - start) / runs
    groups = grouped(recorder.key_averages(), runs)
    inside = sum(seconds for seconds, _ in groups.values())
    groups[OUTSIDE] = (max(profiled - inside, 0.0), 0.0)
    ordered = sorted(groups.items(), key=lambda item: -item[1][0])
    return {"seconds": min(plain), "profiled": profiled,
            "groups": [{"group": g, "seconds": s, "calls": c} for g, (s, c) in ordered]}


def grouped(events: EventList, runs: int) -> dict[str, tuple[float, float]]:
    """Return mean seconds and calls of each group."""
    out: dict[str, tuple[float, float]] = {}
    for event in events:
        group = group_of(event.key)
        seconds, calls = out.get(group, (0.0, 0.0))
        count = 0 if WRAPPER.fullmatch(event.key) else event.count  # what it wraps is counted already
        out[group] = (seconds + event.self_cpu_time_total * 1e-6 / runs, calls + count / runs)
    return out


def roofline(rounds: int = 5) -> dict[str, float]:
    """Return what this processor reaches with the present number of threads of torch.

    Returns:
        copy: bytes/s, read and written, of a copy of 256 MiB; gemm: operations/s of a product of float32 matrices of
        1024 rows and columns. The best of `rounds`.
    """
    source = torch.ones(1 << 26)
    goal = torch.empty_like(source)
    a, b = torch.ones(1024, 1024), torch.ones(1024, 1024)
    out = torch.empty_like(a)
    copying = _least(lambda: goal.copy_(source), rounds)
    product = _least(lambda: torch.mm(a, b, out=out), rounds)
    return {"copy": 2.0 * source.numel() * 4 / copying, "gemm": 2.0 * 1024**3 / product}


def sgemm_rate(shapes: Sequence[Sequence[int]], rounds: int = 5) -> float:
    """Return the best rate of products of float32 matrices with the present number of threads, operations/s.

    Args:
        shapes: (n, k, m) of products [n, k] x [k, m]; the fastest counts.
        rounds: of each; the least time counts.
    """
    best = 0.0
    for n, k, m in shapes:
        a, b, out = torch.ones(n, k), torch.ones(k, m), torch.empty(n, m)
        best = max(best, 2.0 * n * k * m / _least(partial(torch.mm, a, b, out=out), rounds))
    return best


def _least(action: Callable[[], object], rounds: int) -> float:
    seconds = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])
