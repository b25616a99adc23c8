"""The tables of `mlip bench tensor-products`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mlip.bench.rows import Row, lines_of, milliseconds
from mlip.bench.tensor_products.implementations import available
from mlip.bench.tensor_products.study import DIRECTIONS, PEER, ratios


def table(rows: Sequence[Row]) -> str:
    """Return the rows of `bench_tensor_products` as tables in Markdown: times, ratios, expressivity, remarks."""
    if not rows:
        return "Nothing was timed: no setting was given."
    first, lines = rows[0], []
    for setting, threads in dict.fromkeys((r["setting"], r["threads"]) for r in rows):
        some = [r for r in rows if (r["setting"], r["threads"]) == (setting, threads)]
        lines += [f"### {setting}, {_threads(threads)}: {' / '.join(DIRECTIONS)}, ms", "",
                  *_grid(some, "implementation", lambda r: milliseconds(r["seconds"])), ""]
    lines += ["### Time of others over that of mlip, for the same product", "", *_ratios(rows), ""]
    for setting in dict.fromkeys(r["setting"] for r in rows):
        some = [r for r in rows if (r["setting"], r["threads"], r["direction"])
                == (setting, first["threads"], first["direction"])]
        lines += [f"### {setting}: paths / parameters / dimension", "",
                  *_grid(some, "product", lambda r: f"{r['paths']} / {r['parameters']} / {r['dimension']}"), "",
                  f"### {setting}: dimension per microsecond of a pair of signals, {first['direction']}, "
                  f"{_threads(first['threads'])}", "",
                  *_grid(some, "implementation", lambda r: _number(r["per_microsecond"])), ""]
    return "\n".join([*lines, *notes(rows)])


def notes(rows: Sequence[Row]) -> list[str]:
    """Return what to know about the tables: sizes, versions, what was left out and why."""
    first = rows[0]
    out = [f"{first['batch']:,} pairs of signals of {first['channels']} channels, float32; random. One process, all in "
           "turn, least of several rounds. Signals are in the layout of each implementation. SISO: one degree L in and "
           "out; SIMO: one in, all up to 2L out; MIMO: all up to L in, up to 2L out (truncated: up to L). "
           + "; ".join(f"{k} {v}" for k, v in first["machine"]["versions"].items() if v != "absent") + "."]
    if PEER not in available():
        out.append(f"{PEER} is not installed: its rows are left out.")
    said: dict[str, dict[str, list[str]]] = {}  # by remark, the implementations and where
    for r in rows:
        if r["note"]:
            where = f"L={r['lmax']}"
            places = said.setdefault(f"{r['setting']}: {r['note']}", {}).setdefault(r["implementation"], [])
            places.extend([where] if where not in places else [])
    for remark, by_name in said.items():
        groups: dict[str, list[str]] = {}
        for name, places in by_name.items():
            groups.setdefault(", ".join(places), []).append(name)
        out += [f"- {remark} ({', '.join(names)}; {places})" for places, names in groups.items()]
    return out


def _grid(rows: Sequence[Row], key: str, cell: Callable[[Row], str]) -> list[str]:
    """Return a table with a line for each value of a key, a column for each L, and the directions in a cell."""
    degrees = sorted({r["lmax"] for r in rows})
    found: dict[tuple[str, int], dict[str, str]] = {}
    for r in rows:
        found.setdefault((r[key], r["lmax"]), {})[r["direction"]] = cell(r)
    names = dict.fromkeys(r[key] for r in rows)
    return lines_of([key, *(f"L={l}" for l in degrees)],
                    [[name.replace("_", "-"), *(" / ".join(found[name, l].values()) for l in degrees)]
                     for name in names], left=1)


def _ratios(rows: Sequence[Row]) -> list[str]:
    cells = [[r["setting"], r["direction"], str(r["threads"]), str(r["lmax"]), milliseconds(r["seconds"]),
              _times(r["e3nn"]), _times(r["torch"]), r["torch_form"] or "-"] for r in ratios(rows)]
    head = ["setting", "direction", "threads", "L", "mlip ms", "e3nn", "best in torch", "which"]
    return lines_of(head, cells, left=2)


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}x"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
