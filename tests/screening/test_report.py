"""What the report says, without a browser."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mlip.errors import OptionError
from mlip.screening.report import compared, page, read_references, write_report
from mlip.screening.store import Row


def row(name: str, prop: str = "eos", **changes: object) -> Row:
    about = {"id": name, "hash": name, "property": prop, "status": "done", "value": {"bulk_modulus": 140.0},
             "units": {"bulk_modulus": "GPa"}, "formula": "Cu4", "atoms": 4, "model": {"name": "m", "sha256": "1"},
             "time": "2026-01-01T00:00:00+00:00"}
    return Row(**{**about, **changes})


def names(data: dict) -> list[str]:
    return [column["name"] for column in data["columns"]]


def values(data: dict, name: str) -> list[object]:
    return [s[6 + names(data).index(name)] for s in data["structures"]]


def test_a_line_for_each_structure_and_a_column_for_each_value() -> None:
    data = page([row("b"), row("a", "relax", value={"energy": -3.123456789012, "flat": True, "structure": {"cell": []}},
                               units={"energy": "eV"}), row("a", value={"bulk_modulus": 100.0, "volumes": [1.0, 2.0]})])
    assert [s[0] for s in data["structures"]] == ["a", "b"]
    assert names(data) == ["relax.energy", "relax.flat", "eos.bulk_modulus"]
    assert values(data, "relax.energy") == [-3.123456789, None]
    assert values(data, "eos.bulk_modulus") == [100.0, 140.0]
    assert data["lists"] == {"a": {"eos": {"volumes": [1.0, 2.0]}}}
    assert [c["kind"] for c in data["columns"]] == ["number", "flag", "number"]


def test_the_newest_of_several_rows_is_shown_and_their_origin_told() -> None:
    old = row("a", value={"bulk_modulus": 1.0}, settings={"eos": {"points": 5}})
    new = row("a", value={"bulk_modulus": 2.0}, settings={"eos": {"points": 7}}, time="2026-01-02T00:00:00+00:00")
    for rows in ([old, new], [new, old]):
        data = page(rows)
        assert values(data, "eos.bulk_modulus") == [2.0]
        assert [(p["settings"], p["done"]) for p in data["provenance"]] == [({"eos": {"points": 7}}, 1)]


def test_what_failed_because_something_else_did_is_told_once() -> None:
    bad = {"status": "failed", "value": {}, "units": {}}
    data = page([row("a", "relax", reason="RelaxationError: no", settings={"relax": {}}, **bad),
                 row("a", "eos", reason="there is no eos without relax", settings={"relax": {}, "eos": {}}, **bad),
                 row("b", "eos", reason="StructureError: no minimum", settings={"relax": {}, "eos": {}}, **bad)])
    told = [(f["id"], f["property"], f["then"]) for f in data["failures"]]
    assert told == [("a", "relax", ["eos"]), ("b", "eos", [])]
    assert data["structures"][0][4] == ["relax"]


def test_the_longest_lists_are_left_out_of_a_page_that_would_be_too_large(monkeypatch) -> None:
    monkeypatch.setattr("mlip.screening.report.NUMBERS", 10)
    data = page([row("a", value={"bands": [[1.0] * 10]}), row("b", value={"curve": [1.0] * 4}),
                 row("c", value={"curve": [1.0] * 4})])
    assert sorted(data["lists"]) == ["b", "c"]
    assert data["listsLeftOut"] == 1


@pytest.mark.parametrize(("reference", "places"), [
    ({"formula": "Cu", "bulk_modulus": "137"}, ["0", "1"]), ({"formula": "Cu2", "eos.bulk_modulus": 137}, ["0", "1"]),
    ({"id": "x/a.cif#0", "bulk_modulus": 137}, ["0"]), ({"id": "a.cif", "bulk_modulus": 137}, ["0"]),
    ({"id": "a.cif", "formula": "Ni", "bulk_modulus": 137}, ["0"]), ({"formula": "Ni", "bulk_modulus": 137}, []),
])
def test_references_find_their_structures(reference, places) -> None:
    found = page([row("x/a.cif#0"), row("x/b.cif#0")], [reference | {"source": "a paper"}])["references"]
    assert found["values"].get("eos.bulk_modulus", {}) == dict.fromkeys(places, 137.0)
    assert (found["given"], found["used"], found["unknown"]) == (1, bool(places), ["source"])


def test_references_are_read_from_files(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("formula,bulk_modulus\nCu,137\nNi,\n")
    (tmp_path / "a.json").write_text('[{"id": "a", "bulk_modulus": 137}]')
    assert [each["bulk_modulus"] for each in read_references(tmp_path / "a.csv")] == ["137", ""]
    assert read_references(str(tmp_path / "a.json")) == [{"id": "a", "bulk_modulus": 137}]


@pytest.mark.parametrize(("name", "text", "words"), [
    ("a.csv", "material,bulk_modulus\nCu,1\n", "reference 1 of .* has neither"), ("a.json", "{", "cannot read"),
    ("a.json", '{"Cu": 137}', "a list of objects"), ("a.csv", "formula,x\nnonsense,1\n", "has neither"),
    ("missing.csv", None, "cannot read"),
])
def test_other_files_are_refused(tmp_path: Path, name: str, text: str | None, words: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(OptionError, match=words):
        read_references(tmp_path / name)


def test_the_page_stands_alone_and_holds_texts_as_texts(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script><img src=x>&"
    written = write_report([row(evil, status="failed", value={}, reason=evil)], tmp_path / "new" / "report.html")
    text = written.read_text()
    assert evil not in text
    assert text.count("<script") == 2  # the data and the program
    assert not re.findall(r"(?:src|href)\s*=\s*[\"']|@import|url\(|https?://(?!www\.w3\.org/2000/svg)", text)
    (embedded,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert json.loads(embedded)["failures"][0]["reason"] == evil


def test_equal_rows_give_equal_pages(tmp_path: Path) -> None:
    rows = [row("a"), row("b"), row("a", "relax")]
    first, second = (write_report(r, tmp_path / f"{i}.html") for i, r in enumerate([rows, rows[::-1]]))
    assert first.read_bytes() == second.read_bytes()


def test_a_path_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="give another path"):
        write_report([row("a")], tmp_path)


def test_results_beside_their_references() -> None:
    rows = [row("a"), row("b", value={"bulk_modulus": 100.0}), row("c", "relax", value={"energy": 1.0})]
    lines = compared(rows, [{"id": "a", "bulk_modulus": 160.0}, {"id": "b", "bulk_modulus": 0.0},
                            {"id": "c", "bulk_modulus": 1.0}]).splitlines()
    assert lines[2:] == ["| eos.bulk_modulus | a | 140 | 160 | -20 | -12.5 |",
                         "| eos.bulk_modulus | b | 100 | 0 | +100 |  |"]
