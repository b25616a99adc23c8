"""`mlip bench size`: how time and memory grow with the number of atoms, and the largest box that fits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlip.bench.choices import Choice, MACEChoice
from mlip.bench.group import SHARE, start_ours
from mlip.bench.model import described, free_memory
from mlip.bench.rows import Row, check_counts, lines_of, milliseconds
from mlip.bench.sides import Sides, Variant, sides
from mlip.errors import OptionError, WorkerError

SIZES = (192, 768, 3_072, 12_288, 24_576, 49_152)
GIGABYTE = 1e9
RUNS = 3


def bench_size(choice: Choice | None = None, sizes: Sequence[int] = SIZES, *, threads: int = 2,
               memory: float = 24.0, way: Variant | None = None) -> list[Row]:
    """Evaluate ever larger boxes of water, each in a fresh process, and measure time and memory.

    A box is left out where the one before says that its process would need more than `memory`, or than is free.

    Args:
        choice: the model; by default MACE with 128 channels of degree 0 and 1.
        sizes: about how many atoms.
        threads: of torch.
        memory: what the process may need in all, GB (10^9 bytes).
        way: back end and radial functions.

    Returns:
        One row for each size: atoms, edges, threads, seconds (least of three), seconds_per_atom, memory (largest
        resident memory of the process, bytes), call_memory (what the call added), limit (bytes), problem (why there
        are no numbers; empty if there are).

    Raises:
        OptionError: bad options.
        WorkerError: a process cannot be started.
    """
    check_counts(sizes=sizes, threads=[threads])
    if not memory > 0:
        raise OptionError(f"memory must be above 0 GB; {memory!r} was given")
    choice, limit = choice or MACEChoice(), memory * GIGABYTE
    rows: list[Row] = []
    with sides(choice, [way or Variant()], None) as both:
        for size in sorted(set(sizes)):
            problem = _too_large(rows, size, limit)
            found = {"problem": problem, "atoms": size} if problem else _measured(both, size, threads)
            rows.append({**found, "threads": threads, "limit": limit, **described(both)})
    return rows


def _too_large(rows: Sequence[Row], size: int, limit: float) -> str:
    """Return why a size is not tried, judging by the one before; "" if it is."""
    if not rows:
        return ""
    last = rows[-1]
    if last["problem"]:
        return "larger than one that does not fit"
    call = last["call_memory"] / last["atoms"] * size
    if last["memory"] - last["call_memory"] + call > limit:
        return f"would need about {(last['memory'] - last['call_memory'] + call) / GIGABYTE:.1f} GB"
    if call > SHARE * free_memory():
        return f"would need about {call / GIGABYTE:.1f} GB, more than is free"
    return ""


def _measured(both: Sides, size: int, threads: int) -> dict[str, Any]:
    """Return what one box takes; a process that dies of it becomes the `problem`."""
    (label,) = both.ways
    with start_ours(label) as worker:
        worker.call("threads", count=threads)
        both.load(label, worker)
        counts = worker.call("structure", path=str(both.box(size)))
        try:
            used = worker.peak("evaluate")
            seconds = min(worker.time("evaluate", runs=RUNS))
        except WorkerError as error:
            return {**counts, "problem": str(error)}
    return {**counts, "problem": "", "seconds": seconds, "seconds_per_atom": seconds / counts["atoms"],
            "memory": used.peak, "call_memory": used.call}


def largest(rows: Sequence[Row]) -> tuple[int, int] | None:
    """Return the largest box measured within the limit, and the largest by its memory per atom; None if none is."""
    fitting = [r for r in rows if not r["problem"] and r["memory"] <= r["limit"]]
    if not fitting:
        return None
    last = max(fitting, key=lambda r: r["atoms"])
    per_atom = max(last["call_memory"], 1) / last["atoms"]
    return last["atoms"], int((last["limit"] - last["memory"] + last["call_memory"]) / per_atom)


def table(rows: Sequence[Row]) -> str:
    """Return the rows of `bench_size` as a table in Markdown, with the largest box."""
    head = ["atoms", "edges", "ms", "us/atom", "process GB", "call kB/atom"]
    cells = [[f"{r['atoms']:,}", "-", "-", "-", "-", r["problem"]] if r["problem"] else
             [f"{r['atoms']:,}", f"{r['edges']:,}", milliseconds(r["seconds"]), f"{r['seconds_per_atom'] * 1e6:.1f}",
              f"{r['memory'] / GIGABYTE:.2f}", f"{r['call_memory'] / r['atoms'] / 1e3:.1f}"] for r in rows]
    first, found = rows[0], largest(rows)
    limit = first["limit"] / GIGABYTE
    out = [*lines_of(head, cells), "", f"{first['model']}; periodic water, {first['threads']} thread(s); energy and "
           "forces, each size in a fresh process, the neighbour list made before. "
           + "; ".join(f"{k} {v}" for k, v in first["machine"]["versions"].items()) + "."]
    out.append(f"No box was measured within {limit:g} GB." if found is None else
               f"Largest box measured within {limit:g} GB: {found[0]:,} atoms; by its memory per atom, about "
               f"{found[1]:,} would fit.")
    return "\n".join(out)
