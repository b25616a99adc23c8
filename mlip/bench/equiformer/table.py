"""The rows of `bench_equiformer` in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from mlip.bench.rows import Row, lines_of, megabytes, milliseconds


def table(rows: Sequence[Row]) -> str:
    """Return the rows of `bench_equiformer` as tables in Markdown, with what to know about them."""
    models = [r for r in rows if r["operation"] == "model"]
    networks = [r for r in rows if r["operation"] == "feed-forward"]
    head = ["variant", "structure", "atoms", "edges", "threads", "mlip ms", "published ms", "ratio", "efficiency %",
            "published %", "mlip MB", "published MB", "mlip peak MB", "published peak MB", "dE (eV)", "dF (eV/A)",
            "dS (eV/A^3)"]
    cells = [[r["variant"], r["structure"], f"{r['atoms']:,}", f"{r['edges']:,}", *_times(r),
              *(megabytes(r[key]) for key in ("memory", "published_memory", "peak_memory", "published_peak_memory")),
              *(_small(r[f"{key}_difference"]) for key in ("energy", "force", "stress"))] for r in models]
    out = [*lines_of(head, cells, left=2), ""]
    if networks:
        out += [f"One feed-forward network of {networks[0]['atoms']} atoms, forward:", "",
                *lines_of(["variant", *head[4:10], "difference"],
                          [[r["variant"], *_times(r), _small(r["difference"])] for r in networks], left=1), ""]
    return "\n".join([*out, *notes(rows)])


def notes(rows: Sequence[Row]) -> list[str]:
    """Return what to know about a table."""
    first = rows[0]
    out = [f"{first['model']}. Energy, forces and, of crystals, stress; neighbour lists were made before. Processes of "
           "their own that run in turn, least of several rounds. MB is what the call adds, peak MB all of the process. "
           + "; ".join(f"{k} {v}" for k, v in first["machine"]["versions"].items()) + ".",
           "Efficiency: operations that cannot be left out, by the time and the best rate of float32 matrix products "
           f"in this run, {first['sgemm'] / 1e9:.0f} GFLOP/s for each thread."]
    if first["published"]:
        out.append("Published: the algorithm of the published code with the same weights, in plain torch.")
    else:
        out.append("The published way to compute the model was not timed: give --as-published.")
    return out + [f"- {remark}" for remark in dict.fromkeys(
        f"{r['structure']}: {r['remark']}." for r in rows if r["remark"])]


def _times(r: Row) -> list[str]:
    return [str(r["threads"]), milliseconds(r["seconds"]), milliseconds(r["published_seconds"]),
            "-" if r["ratio"] is None else f"{r['ratio']:.1f}x", _percent(r["efficiency"]),
            _percent(r["published_efficiency"])]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _small(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"
