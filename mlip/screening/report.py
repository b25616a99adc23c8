"""A screening as one HTML page: ranking, failures, histograms, curves, comparison with references, provenance."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from ase.formula import Formula

from mlip.errors import OptionError
from mlip.screening.store import Row

DIGITS, LIST_DIGITS = 10, 6  # significant ones, of single numbers and of those in lists
NUMBERS = 2_000_000  # in lists, on one page: about 15 MB; the rest stays in the store
KINDS: tuple[tuple[str, type | tuple[type, ...]], ...] = (("flag", bool), ("number", (int, float)), ("text", str))

References = str | Path | Sequence[Mapping[str, Any]]


def write_report(rows: Iterable[Row], path: str | Path, references: References | None = None) -> Path:
    """Write a page that needs nothing but a browser: no network, no other file.

    Of several rows of one property of one structure, as other settings or models leave them, the newest is shown; the
    page tells what each was computed with. The same rows give the same page.

    Args:
        rows: of a store.
        path: of the page.
        references: what results are compared with, see `read_references`.

    Returns:
        The path.

    Raises:
        OptionError: references that are none, or a page that cannot be written.
    """
    known = [] if references is None else read_references(references)
    data = page(rows, known)
    text = json.dumps(data, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    for sign in "<>&":  # so that no text can end the script it stands in
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    folder = files("mlip.screening")
    html = folder.joinpath("report.html").read_text(encoding="utf-8")
    script = "".join(folder.joinpath(name).read_text(encoding="utf-8") for name in ("report_plots.js", "report.js"))
    out = Path(path).expanduser()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(html.replace("/*script*/", script).replace("/*data*/", text), encoding="utf-8")
    except OSError as error:
        raise OptionError(f"cannot write the report {out}: {error}; give another path") from None
    return out


def read_references(source: References) -> list[Mapping[str, Any]]:
    """Read what results are to be compared with.

    Args:
        source: a CSV file with a heading, a JSON file with a list of objects, or such a list. Each has an `id`, of a
            structure as the store has it, or its file name alone, or a `formula`, which stands for every structure of
            that composition. The other names are those of results, with or without their property:
            `eos.bulk_modulus`, or `bulk_modulus` for that of every property. Values have the units of the results.
            Other columns are left out.

    Raises:
        OptionError: no such file, or something else in it.
    """
    what = source if isinstance(source, (str, Path)) else "the list"
    found: Any = source
    if isinstance(source, (str, Path)):
        path = Path(source).expanduser()
        try:
            text = path.read_text(encoding="utf-8-sig")
            found = json.loads(text) if path.suffix == ".json" else list(csv.DictReader(text.splitlines()))
        except (OSError, ValueError, csv.Error) as error:
            raise OptionError(f"cannot read references from {path}: {error}; give a CSV or JSON file") from None
    if not isinstance(found, Sequence) or not all(isinstance(each, Mapping) for each in found):
        raise OptionError(f"references must be a table, or in JSON a list of objects; {what} is none")
    for number, each in enumerate(found, 1):
        if not each.get("id") and not _reduced(str(each.get("formula") or "")):
            raise OptionError(f"reference {number} of {what} has neither an id nor a chemical formula; give one in a "
                              "column `id` or `formula`")
    return list(found)


def compared(rows: Iterable[Row], references: References) -> str:
    """Return results beside what they are compared with, as a table in Markdown, column by column.

    Args:
        rows: of a store.
        references: as of `read_references`.

    Raises:
        OptionError: references that are none.
    """
    data = page(rows, read_references(references))
    names = [column["name"] for column in data["columns"]]
    lines = ["| result | structure | value | reference | error | % |", "|---|---|---:|---:|---:|---:|"]
    for name, values in data["references"]["values"].items():
        for place, reference in values.items():
            structure = data["structures"][int(place)]
            value = structure[len(structure) - len(names) + names.index(name)]
            if value is not None:
                error = value - reference
                percent = f"{100 * error / reference:+.1f}" if reference else ""
                lines.append(f"| {name} | {structure[0]} | {value:.5g} | {reference:.5g} | {error:+.3g} | {percent} |")
    return "\n".join(lines)


def page(rows: Iterable[Row], references: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """Return all that the page shows, as JSON: see `report.js`.

    Args:
        rows: of a store.
        references: as of `read_references`.
    """
    newest: dict[tuple[str, str], Row] = {}
    for row in sorted(rows, key=lambda r: (r.time, r.key)):
        newest[row.id, row.property] = row
    shown = [newest[key] for key in sorted(newest)]
    structures: dict[str, list[Row]] = {}
    for row in shown:
        structures.setdefault(row.id, []).append(row)
    columns = _columns(shown)
    lists, left_out = _lists(structures)
    return {
        "columns": [{"name": name, **about} for name, about in columns.items()],
        "structures": [_structure(own, list(columns)) for own in structures.values()],
        "failures": [failure for own in structures.values() for failure in _failures(own)],
        "lists": lists, "listsLeftOut": left_out, "provenance": _provenance(shown),
        "references": _references(structures, list(columns), references),
        "time": max((r.time for r in shown), default=""),
    }


def _kind(value: Any) -> str | None:
    return next((kind for kind, types in KINDS if isinstance(value, types)), None)


def _columns(rows: Iterable[Row]) -> dict[str, dict[str, str]]:
    """Return property, key, unit and kind of every single value, by the name `property.key`."""
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        for key, value in row.value.items():
            kind = _kind(value)
            if kind is not None:
                found.setdefault(f"{row.property}.{key}", {"property": row.property, "key": key, "kind": kind,
                                                           "unit": _unit(row.units.get(key, ""))})
    order = {"relax": 0, "energy": 1}
    return dict(sorted(found.items(), key=lambda item: (order.get(item[1]["property"], 2), item[1]["property"])))


def _structure(rows: Sequence[Row], columns: Sequence[str]) -> list[Any]:
    """Return id, formula, elements, number of atoms, what failed, seconds, and the values of all columns."""
    values = {f"{row.property}.{key}": value for row in rows for key, value in row.value.items()}
    formula = next((row.formula for row in rows if row.formula), "")
    failed = [failure["property"] for failure in _failures(rows)]
    return [rows[0].id, formula, sorted(_reduced(formula)), max(row.atoms for row in rows), failed,
            {row.property: _rounded(row.seconds, 4) for row in rows},
            *(_rounded(values.get(name), DIGITS) if _kind(values.get(name)) else None for name in columns)]


def _failures(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return what failed of a structure and why; `then` are properties that failed because they need it."""
    failed = [row for row in rows if row.status != "done"]
    then: dict[str, list[str]] = {row.property: [] for row in failed}
    for row in failed:  # settings name the properties that a property needs
        needed = [name for name in row.settings if name in then and name != row.property]
        if needed:
            then[needed[0]].append(row.property)
            del then[row.property]
    return [{"id": row.id, "formula": row.formula, "property": row.property, "reason": row.reason,
             "then": then[row.property]} for row in failed if row.property in then]


def _lists(structures: Mapping[str, Sequence[Row]]) -> tuple[dict[str, Any], int]:
    """Return the values that are lists, by structure and property, and how many of these did not find room.

    The shortest come first: curves and tensors of all structures before the phonons of any.
    """
    own = [(sum(map(_count, lists.values())), row, lists) for rows in structures.values() for row in rows
           if (lists := {k: v for k, v in row.value.items() if isinstance(v, (list, dict)) and k != "structure"})]
    found: dict[str, Any] = {}
    numbers = taken = 0
    for count, row, lists in sorted(own, key=lambda each: (each[0], each[1].id, each[1].property)):
        numbers += count
        if numbers > NUMBERS:
            break
        found.setdefault(row.id, {})[row.property] = _rounded(lists, LIST_DIGITS)
        taken += 1
    return found, len(own) - taken


def _count(value: Any) -> int:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    if not inside:
        return 1
    return sum(map(_count, inside)) if isinstance(value, dict) or isinstance(value[0], (list, dict)) else len(value)


def _rounded(value: Any, digits: int) -> Any:
    """Return a value with fewer digits; numbers that are not finite become None, which JSON has."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _rounded(each, digits) for key, each in value.items()}
    return [_rounded(each, digits) for each in value] if isinstance(value, (list, tuple)) else value


def _unit(unit: str) -> str:
    return "" if unit == "1" else unit.replace("^3", "³").replace("^2", "²").replace("A", "Å")


def _provenance(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Return what rows were computed with, and how many of which property."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        about = {"property": row.property, "model": dict(row.model), "settings": dict(row.settings),
                 "versions": dict(row.versions)}
        entry = found.setdefault(json.dumps(about, sort_keys=True), {**about, "done": 0, "failed": 0})
        entry["done" if row.status == "done" else "failed"] += 1
    return [found[key] for key in sorted(found)]


def _references(structures: Mapping[str, Sequence[Row]], columns: Sequence[str],
                references: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return reference values, by column and place of the structure, and how many references found a structure."""
    places: dict[Any, list[int]] = {}
    for place, (name, rows) in enumerate(structures.items()):
        keys: set[Any] = {name, name.rsplit("/", 1)[-1], name.rsplit("/", 1)[-1].removesuffix("#0")}
        formula = next((row.formula for row in rows if row.formula), "")
        for key in keys | {_fractions(formula)}:
            places.setdefault(key, []).append(place)
    values: dict[str, dict[str, float]] = {}
    used, unknown = 0, set()
    for reference in references:
        named = reference.get("id")
        own = places.get(str(named) if named else _fractions(str(reference["formula"])), [])
        used += bool(own)
        for key, value in reference.items():
            targets = [name for name in columns if key in (name, name.split(".", 1)[1])]
            number = _number(value)
            if not targets and key not in ("id", "formula"):
                unknown.add(str(key))
            if number is not None:
                for target in targets:
                    values.setdefault(target, {}).update({str(place): number for place in own})
    return {"given": len(references), "used": used, "unknown": sorted(unknown), "values": values}


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _reduced(formula: str) -> dict[str, int]:
    try:
        return dict(Formula(formula).reduce()[0].count())
    except (ValueError, KeyError, ZeroDivisionError):
        return {}


def _fractions(formula: str) -> frozenset[tuple[str, int]]:
    return frozenset(_reduced(formula).items())
