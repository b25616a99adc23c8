"""`mlip bench tensor-products`: time and expressivity of products of degrees, ours beside e3nn and plain torch."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlip.bench.group import start_ours
from mlip.bench.model import free_memory
from mlip.bench.rows import Row, check_counts, machine
from mlip.bench.tensor_products.cases import SETTINGS, Case
from mlip.bench.tensor_products.contest import agree
from mlip.bench.tensor_products.implementations import IMPLEMENTATIONS, available
from mlip.bench.worker import Worker
from mlip.errors import OptionError
from mlip.verify.expressivity import dimension, parameters, paths

DIRECTIONS = {"forward": "product_forward", "forward + backward": "product_backward"}
PROBE = 16  # the part of the batch that foretells the time
SHARE = 0.5  # of the free memory that a run may take
BACKWARD = 3  # as much memory as the forward run
PATIENCE = 4.0  # seconds for the rounds of one implementation, if it has had three
LONG = 1.0  # seconds from which a run has one turn in a round, not two
ROUNDS = 10
LIMIT = 20.0
PEER = "e3nn"
TORCH = ("torch sparse", "torch grid", "GTP Fourier")


@dataclass(frozen=True)
class Plan:
    """What will be timed: the batch, the seconds a run of it may take, None if it is left out, and a remark."""

    batch: int
    seconds: float | None
    note: str


def bench_tensor_products(lmax: int = 8, threads: Sequence[int] = (1, 2), *, batch: int = 1000, channels: int = 64,
                          settings: Sequence[str] = SETTINGS, implementations: Sequence[str] = tuple(IMPLEMENTATIONS),
                          rounds: int = ROUNDS, limit: float = LIMIT) -> list[Row]:
    """Time bilinear products of all degrees up to L = 1, 2, ... and count what they express.

    The study of Xie et al., "The Price of Freedom" (arXiv 2506.13523): Gaunt and Clebsch-Gordan products, dense,
    sparse, on a grid and by Fourier series, antisymmetric and matrix products, in the settings of
    `mlip.bench.tensor_products.cases.Case`. All run in turn in one process of their own on the same random signals,
    float32, each in its own layout, into which signals are brought beforehand; the least time counts. Before, results
    and derivatives are compared with those of the coefficients in float64.

    Args:
        lmax: largest degree L.
        threads: numbers of threads of torch.
        batch: number of pairs of signals.
        channels: of each signal.
        settings: among `mlip.bench.tensor_products.cases.SETTINGS`.
        implementations: among `mlip.bench.tensor_products.implementations.IMPLEMENTATIONS`.
        rounds: turns of each, of two runs; fewer, but three runs at least, for those that take long.
        limit: seconds; what would take longer for a run is left out.

    Returns:
        One row for each setting, L, number of threads, direction and implementation: seconds (None where left out),
        note, and of the product its paths, parameters and dimension (`mlip.verify.expressivity`); per_microsecond is
        the dimension over the microseconds for one pair of signals of one channel.

    Raises:
        OptionError: a number below 1, an unknown setting or implementation, a limit that is not positive.
        EngineMismatchError: an implementation gives another result.
        WorkerError: the process cannot be started, or died.
    """
    check_counts(lmax=[lmax], threads=threads, batch=[batch], channels=[channels], rounds=[rounds])
    if not limit > 0:
        raise OptionError(f"limit={limit} s is not allowed; it must be positive")
    unknown = sorted(set(implementations) - set(IMPLEMENTATIONS))
    if unknown or not implementations:
        raise OptionError(f"implementations {list(implementations)!r} were given; allowed: "
                          f"{', '.join(IMPLEMENTATIONS)}")
    names = [name for name in available() if name in implementations]
    cases = [Case(setting, l) for setting in settings for l in range(1, lmax + 1)]
    rows: list[Row] = []
    with start_ours("the process of the tensor products") as worker:
        here = {**worker.call("versions"), **machine(("e3nn",))["versions"]}
        surroundings = {**machine(()), "versions": here}
        for case in cases:
            for row in _rows(worker, case, names, threads, batch, channels, rounds, limit):
                rows.append({**row, "machine": surroundings})
    return rows


def _rows(worker: Worker, case: Case, chosen: Sequence[str], threads: Sequence[int], batch: int, channels: int,
          rounds: int, limit: float) -> Iterator[Row]:
    """Compare and time everything of one case."""
    products = {IMPLEMENTATIONS[name].product for name in chosen}
    measures = {product: expressivity(product, case) for product in products}
    names = [name for name in chosen if measures[IMPLEMENTATIONS[name].product]["paths"]]
    worker.call("contest", setting=case.setting, lmax=case.lmax, batch=batch, channels=channels)
    for name in names:
        agree(name, case, worker.call("product_differences", name=name))
    for n in threads:
        worker.call("threads", count=n)
        for direction in DIRECTIONS:
            plans = {name: plan(worker, name, case, direction, batch, channels, limit) for name in names}
            seconds = _alternate(worker, plans, direction, rounds)
            for name in chosen:
                measured = plans.get(name, Plan(batch, None, "zero: it reaches none of these degrees"))
                taken = seconds.get(name)
                scaled = None if taken is None else taken * batch / measured.batch
                found = measures[IMPLEMENTATIONS[name].product]
                each = None if scaled is None else found["dimension"] / (scaled * 1e6) * batch * channels
                yield {"setting": case.setting, "implementation": name, "product": IMPLEMENTATIONS[name].product,
                       "lmax": case.lmax, "channels": channels, "batch": batch, "threads": n, "direction": direction,
                       "seconds": scaled, "note": measured.note, **found, "per_microsecond": each}


def expressivity(product: str, case: Case) -> dict[str, int]:
    """Return paths, parameters and dimension of a product in a case; see `mlip.verify.expressivity`."""
    return {"paths": len(paths(product, case.inputs, case.outputs)),
            "parameters": parameters(product, case.inputs, case.outputs),
            "dimension": dimension(product, case.inputs, case.outputs)}


def plan(worker: Worker, name: str, case: Case, direction: str, batch: int, channels: int, limit: float) -> Plan:
    """Run an implementation on a part of the batch, to warm up and to foretell its time; load what will be timed.

    Args:
        worker: process with a `Contest`.
        name: of the implementation.
        case: setting and degree.
        direction: one of `DIRECTIONS`.
        batch: number of pairs of signals; fewer where their memory would not suffice.
        channels: of each.
        limit: seconds for a run; beyond, it is left out.
    """
    way = IMPLEMENTATIONS[name]
    notes = ["all degrees up to L computed"] if way.whole and len(case.inputs) == 1 else []
    each = 4.0 * way.numbers(case) * channels * (BACKWARD if direction != "forward" else 1)
    fitting = batch
    while fitting > 1 and each * fitting > SHARE * free_memory():
        fitting = (fitting + 1) // 2
    part = min(fitting, max(1, batch // PROBE))
    worker.call("load_product", name=name, batch=part)
    seconds = min(worker.time(DIRECTIONS[direction], runs=3, name=name)) * fitting / part
    if seconds > limit:
        return Plan(fitting, None, "; ".join([*notes, f"left out: a run would take about {seconds:.0f} s"]))
    if fitting < batch:
        notes.append(f"for memory timed with a batch of {fitting} and scaled")
    worker.call("load_product", name=name, batch=fitting)
    return Plan(fitting, seconds, "; ".join(notes))


def _alternate(worker: Worker, plans: dict[str, Plan], direction: str, rounds: int) -> dict[str, float]:
    """Time all in turn; return the least seconds of each that is not left out."""
    expected = {name: p.seconds for name, p in plans.items() if p.seconds is not None}
    best = dict.fromkeys(expected, float("inf"))
    runs = {name: 2 if s < LONG else 1 for name, s in expected.items()}
    least = {name: 3 if n == 1 else 2 for name, n in runs.items()}
    turns = {name: max(least[name], min(rounds, int(PATIENCE / (runs[name] * s)))) for name, s in expected.items()}
    for turn in range(max(turns.values(), default=0)):
        for name in best:
            if turn < turns[name]:
                best[name] = min(best[name], *worker.time(DIRECTIONS[direction], runs=runs[name], name=name))
    return best


def ratios(rows: Sequence[Row]) -> list[Row]:
    """Return how many times as long as ours others take, where both were timed.

    Args:
        rows: of `bench_tensor_products`.

    Returns:
        One row for each setting, L, number of threads and direction: seconds of `mlip`, e3nn (its time for the same
        product over ours), torch (that of the fastest form in plain torch over ours) and torch_form, its name; None
        where there is nothing to compare.
    """
    keys = ("setting", "lmax", "threads", "direction")
    cells: dict[tuple[Any, ...], dict[str, float]] = {}
    for row in rows:
        if row["seconds"] is not None:
            cells.setdefault(tuple(row[k] for k in keys), {})[row["implementation"]] = row["seconds"]
    out = []
    for key, seconds in cells.items():
        if "mlip" not in seconds:
            continue
        mine, forms = seconds["mlip"], {name: seconds[name] for name in TORCH if name in seconds}
        best = min(forms, key=forms.__getitem__, default=None)
        out.append({**dict(zip(keys, key, strict=True)), "seconds": mine,
                    "e3nn": seconds[PEER] / mine if PEER in seconds else None,
                    "torch": None if best is None else forms[best] / mine, "torch_form": best})
    return out


def save_csv(rows: Sequence[Row], path: str | os.PathLike[str]) -> None:
    """Write the rows of `bench_tensor_products`, all but what they say of the machine, as CSV."""
    fields = [k for k in rows[0] if k != "machine"] if rows else []
    with Path(path).open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fields, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
