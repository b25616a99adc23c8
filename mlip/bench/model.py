"""`mlip bench model`: energy and forces of water, ours beside mace-torch, in time and memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlip.bench.choices import EXACT, Choice, MACEChoice
from mlip.bench.group import MemoryBudget, alternate
from mlip.bench.rows import Row, check_counts, lines_of, machine, megabytes, milliseconds
from mlip.bench.sides import PEER, PEER_VARIABLE, Sides, differences, peer_python, sides, variants
from mlip.bench.worker import Memory, Worker

SIZES = (24, 96, 192, 768, 3_072, 12_288)
PROBE = 192  # atoms whose memory tells what more would take
ROUNDS = 20


def bench_model(choice: Choice | None = None, sizes: Sequence[int] = SIZES, threads: Sequence[int] = (1, 2), *,
                rounds: int = ROUNDS, backends: Sequence[str] = ("auto",), radials: Sequence[str] | None = None,
                products: Sequence[str] = (EXACT,), peer: str | os.PathLike[str] | None = None) -> list[Row]:
    """Time energy and forces of periodic boxes of water, and measure what memory they take.

    Each variant of ours and mace-torch live in processes of their own with the same random weights (float32) and the
    same structures; neighbour lists are made before. They run in turn, the others idle; the least time counts. Beside
    TransIP, which mace-torch does not have, it computes another model, of which only time and memory are told. Memory
    is that of the first call of a fresh process at the largest number of threads, without what the process held
    before. A size whose memory would not fit the machine is left out.

    Args:
        choice: the model; by default MACE with 128 channels of degree 0 and 1.
        sizes: about how many atoms.
        threads: numbers of threads of torch.
        rounds: turns of each; fewer where they take longer than a minute.
        backends: our back ends, as in `mlip.load`.
        radials: among those of the model; by default all of them.
        products: tensor products of the configuration of MACE. Others than the exact one are models of the same widths
            with weights and energies of their own, which are not compared.
        peer: Python with mace-torch; by default that of the environment variable MLIP_PEER_MACE_PYTHON, and if there
            is none ours are timed alone.

    Returns:
        One row for each size, number of threads and variant: atoms, edges, threads, variant, backend, radial,
        seconds, peer_seconds, ratio (peer's time over ours), plain_ratio (the same model's time in plain torch over
        this one), memory, peer_memory (bytes), compared_with (label of the variant or peer that energies and forces
        must agree with), energy_difference (eV), force_difference (eV/A); None where there is nothing to compare.

    Raises:
        OptionError: bad options.
        WorkerError: a process that cannot be started, or died.
        EngineMismatchError: ours and mace-torch, or two variants of ours, disagree.
    """
    check_counts(sizes=sizes, threads=threads, rounds=[rounds])
    choice, python = choice or MACEChoice(), peer_python(peer)
    if choice.beside is None and peer is None:
        python = None
    ways = variants(backends, choice.radials if radials is None else radials, products)
    rows: list[Row] = []
    with sides(choice, ways, python) as both:
        budget = MemoryBudget(lambda label, size: both.memory(label, both.box(size), max(threads)), int, PROBE,
                              free_memory)
        for size in sorted(set(sizes)):
            memory = {label: budget.measured(label, size) for label in both.workers}
            present = [label for label, used in memory.items() if used is not None]
            if set(present) - {PEER}:
                rows += _rows(both, size, threads, rounds, {label: memory[label] for label in present})
    return rows


def free_memory() -> float:
    """Return the free memory of the machine in bytes; infinity where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return float("inf")


def _rows(both: Sides, size: int, threads: Iterable[int], rounds: int,
          memory: dict[str, Memory | None]) -> list[Row]:
    """Return the rows of one size for the processes that have memory for it."""
    workers = {label: both.workers[label] for label in memory}
    counts = {label: worker.call("structure", path=str(both.box(size))) for label, worker in workers.items()}
    same_edges = len({c["edges"] for c in counts.values()}) == 1
    rows, used = [], {label: m.call for label, m in memory.items() if m is not None}
    for n in threads:
        both.threads(n)
        seconds = alternate(workers, "evaluate", rounds)
        other, apart = seconds.get(PEER), _apart(both, size, workers)
        rows += [{**counts[label], "threads": n, "variant": label, "backend": both.backends[label],
                  "radial": way.radial, "tensor_product": way.tensor_product, "seconds": seconds[label],
                  "peer_seconds": other, "ratio": None if other is None else other / seconds[label],
                  "plain_ratio": _plain_ratio(both, label, seconds), "memory": used[label],
                  "peer_memory": used.get(PEER), "same_edges": same_edges, **apart[label], **described(both)}
                 for label, way in both.ways.items() if label in workers]
    return rows


def _apart(both: Sides, size: int, workers: Mapping[str, Worker]) -> dict[str, Row]:
    """Return how far the last energy and forces of each process are from those they must agree with."""
    files = {label: both.folder / f"{size} {label}.npz" for label in both.comparable(workers)}
    for label, file in files.items():
        workers[label].call("write", path=str(file))
    first = next(iter(files), "")
    found = differences(files, peer=first)
    return {label: {"compared_with": first if label in found else None,
                    "energy_difference": found.get(label, {}).get("energy"),
                    "force_difference": found.get(label, {}).get("forces")} for label in workers}


def _plain_ratio(both: Sides, label: str, seconds: Mapping[str, float]) -> float | None:
    """Return the time of the same model in plain torch over that of a variant; None if it is that or was not timed."""
    plain = replace(both.ways[label], backend="reference").label
    return None if plain == label or plain not in seconds else seconds[plain] / seconds[label]


def described(both: Sides) -> dict[str, Any]:
    """Return what a row says of its model and surroundings; `peer_model` where that is another model than ours."""
    beside = both.choice.beside
    return {"model": both.choice.title, "peer": PEER if both.python else None,
            "peer_model": beside.irreps if both.python and beside is not None and not both.same else None,
            "machine": {**machine(()), "versions": both.versions}}


def table(rows: Sequence[Row]) -> str:
    """Return the rows of `bench_model` as a table in Markdown, with what to know about it."""
    head = ["variant", "atoms", "edges", "threads", "mlip ms", f"{PEER} ms", "ratio", "mlip MB", f"{PEER} MB",
            "dE (meV)", "dF (meV/A)"]
    cells = [[r["variant"], f"{r['atoms']:,}", f"{r['edges']:,}", str(r["threads"]), milliseconds(r["seconds"]),
              milliseconds(r["peer_seconds"]), _ratio(r["ratio"]), megabytes(r["memory"]), megabytes(r["peer_memory"]),
              _milli(r["energy_difference"]), _milli(r["force_difference"])] for r in rows]
    if any(r["plain_ratio"] is not None for r in rows):
        head.append("ratio to plain torch")
        cells = [[*line, _ratio(r["plain_ratio"])] for line, r in zip(cells, rows, strict=True)]
    return "\n".join([*lines_of(head, cells, left=1), "", *notes(rows)])


def notes(rows: Sequence[Row]) -> list[str]:
    """Return what to know about a table: the model, how it was timed, versions."""
    if not rows:
        return ["Nothing was timed: not even the smallest size fits the memory."]
    first = rows[0]
    out = [f"{first['model']}; periodic water. Energy and forces; neighbour lists were made before. Processes of "
           "their own that run in turn, least of several rounds. Memory is what the call adds. "
           + "; ".join(f"{k} {v}" for k, v in first["machine"]["versions"].items()) + "."]
    if first["peer"] is None:
        out.append(f"{PEER} was not timed: give --peer-python, or set {PEER_VARIABLE}, to a Python that has it.")
    elif any(r["peer_seconds"] is None for r in rows):
        out.append(f"- : {PEER} would need more memory than is free.")
    if first["peer_model"] is not None:
        out.append(f"{PEER} {first['peer_model']}, another model: times and memory only.")
    out += [f"dE, dF: from {label}." for label in {r["compared_with"]: None for r in rows} if label is not None]
    if any(r["plain_ratio"] is not None for r in rows):
        out.append("Ratio to plain torch: the time of the variant with the back end reference over this one.")
    if not all(r["same_edges"] for r in rows):
        out.append("WARNING: the neighbour lists do not hold the same number of edges.")
    return out


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}x"


def _milli(value: float | None) -> str:
    return "-" if value is None else f"{value * 1e3:.1e}"
