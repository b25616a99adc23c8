"""`mlip bench profile`: the share of each operation in one call; `mlip bench skin`: that of the neighbour list."""

from __future__ import annotations

from collections.abc import Sequence

from mlip.bench.choices import Choice, MACEChoice
from mlip.bench.model import described
from mlip.bench.rows import Row, check_counts, lines_of, milliseconds
from mlip.bench.sides import Variant, sides
from mlip.errors import OptionError


def bench_profile(choice: Choice | None = None, atoms: int = 192, *, threads: int = 1, runs: int = 10,
                  way: Variant | None = None) -> Row:
    """Split the time of energy and forces of a box of water by operation.

    Args:
        choice: the model; by default MACE with 128 channels of degree 0 and 1.
        atoms: about how many.
        threads: of torch.
        runs: evaluations.
        way: back end and radial functions.

    Returns:
        atoms, edges, threads, seconds, profiled, groups, roofline; see `mlip.bench.profiling`.

    Raises:
        OptionError, WorkerError: as `bench_model`.
    """
    check_counts(atoms=[atoms], threads=[threads], runs=[runs])
    choice, way = choice or MACEChoice(), way or Variant()
    with sides(choice, [way], None) as both:
        worker = both.workers[way.label]
        both.threads(threads)
        counts = worker.call("structure", path=str(both.box(atoms)))
        return {**counts, "threads": threads, "backend": both.backends[way.label], "radial": way.radial,
                **worker.call("profile", runs=runs), **described(both)}


def profile_table(row: Row) -> str:
    """Return what `bench_profile` found as a table in Markdown, with what the processor could do."""
    cells = [[g["group"], milliseconds(g["seconds"]), f"{100 * g['seconds'] / row['profiled']:.1f}",
              f"{g['calls']:.0f}"] for g in row["groups"] if g["seconds"] > 0]
    copy, gemm = row["roofline"]["copy"], row["roofline"]["gemm"]
    return "\n".join([
        *lines_of(["part", "ms", "share %", "calls"], cells, left=1), "",
        f"{row['model']}; {row['atoms']:,} atoms of water, {row['edges']:,} edges, {row['threads']} thread(s): "
        f"{milliseconds(row['seconds'])} ms a call, {milliseconds(row['profiled'])} ms with the profiler.",
        f"This processor copies {copy / 1e9:.1f} GB/s (read and written) and multiplies float32 matrices at "
        f"{gemm / 1e9:.0f} GFLOP/s."])


def bench_skin(choice: Choice | None = None, atoms: int = 192, *, steps: int = 1_000, skin: float = 1.0,
               threads: Sequence[int] = (1, 2), way: Variant | None = None) -> list[Row]:
    """Measure the share of the neighbour list in dynamics of a box of water.

    Velocity Verlet from 300 K with steps of 0.5 fs. The forces of a model with random weights are too small to hold
    molecules together, so that the atoms fly as in a gas: more rebuilds than a liquid needs.

    Args:
        choice: the model; by default MACE with 128 channels of degree 0 and 1.
        atoms: about how many.
        steps: of dynamics.
        skin: A.
        threads: numbers of threads, of torch and of the neighbour list.
        way: back end and radial functions.

    Returns:
        One row for each number of threads: atoms, edges, threads, steps, skin, seconds (of a step), list_seconds (of
        them, in `VerletSkin.update`), share, rebuilds, temperature (K, at the end).

    Raises:
        OptionError, WorkerError: as `bench_model`.
    """
    check_counts(atoms=[atoms], threads=threads, steps=[steps])
    if not skin >= 0:
        raise OptionError(f"skin must be a number of Angstrom from 0; {skin!r} was given")
    choice, way = choice or MACEChoice(), way or Variant()
    rows = []
    with sides(choice, [way], None) as both:
        worker = both.workers[way.label]
        counts = worker.call("structure", path=str(both.box(atoms)))
        for n in threads:
            both.threads(n)
            found = worker.call("dynamics", steps=steps, skin=skin, threads=n)
            rows.append({**counts, "threads": n, "steps": steps, "skin": skin, "seconds": found["seconds"] / steps,
                         "list_seconds": found["list_seconds"] / steps,
                         "share": found["list_seconds"] / found["seconds"], "rebuilds": found["rebuilds"],
                         "temperature": found["temperature"], **described(both)})
    return rows


def skin_table(rows: Sequence[Row]) -> str:
    """Return the rows of `bench_skin` as a table in Markdown."""
    cells = [[str(r["threads"]), milliseconds(r["seconds"]), milliseconds(r["list_seconds"]),
              f"{100 * r['share']:.2f}", str(r["rebuilds"])] for r in rows]
    first = rows[0]
    return "\n".join([
        *lines_of(["threads", "step ms", "list ms", "share %", "rebuilds"], cells), "",
        f"{first['model']}; {first['atoms']:,} atoms of water, {first['edges']:,} edges, {first['steps']:,} steps of "
        f"0.5 fs at constant energy from 300 K, skin {first['skin']:g} A."])
