"""Rows are never lost, never torn, never twice; foreign files are refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from mlip.errors import OptionError
from mlip.screening import Row, Store
from mlip.screening.store import ROWS

ROW = Row("a", "hash", "relax", "done", value={"energy": 0.1 + 0.2}, settings={"relax": {"fmax": 1e-4}},
          model={"name": "m", "sha256": "s"}, seconds=1.0)


def test_a_line_cut_off_is_left_out(tmp_path: Path) -> None:
    store = Store(tmp_path)
    others = [dataclasses.replace(ROW, id=name) for name in "abc"]
    for row in others:
        store.append(row)
    store.close()
    (file,) = (tmp_path / ROWS).iterdir()
    whole = file.read_bytes()
    for end in range(len(whole)):
        file.write_bytes(whole[:end])
        assert Store(tmp_path).rows() == others[: whole[:end].count(b"\n")]
    again = Store(tmp_path)
    again.append(others[2])  # in a file of its own
    assert Store(tmp_path).rows() == others


def test_two_writers_and_what_is_new(tmp_path: Path) -> None:
    one, two, reader = Store(tmp_path), Store(tmp_path), Store(tmp_path)
    one.append(ROW)
    assert reader.new() == [ROW]
    two.append(dataclasses.replace(ROW, seconds=2.0))  # the same, by another process
    two.append(dataclasses.replace(ROW, property="eos"))
    assert [row.property for row in reader.new()] == ["relax", "eos"]
    assert reader.new() == []
    assert [row.property for row in reader.rows()] == ["eos", "relax"]


def test_the_key(tmp_path: Path) -> None:
    changes = [{}, {"hash": "other"}, {"property": "eos"}, {"settings": {"relax": {"fmax": 1e-3}}},
               {"model": {"name": "m", "sha256": "t"}}]
    assert len({dataclasses.replace(ROW, **change).key for change in changes}) == 5
    assert dataclasses.replace(ROW, id="b", seconds=3.0, reason="x").key == ROW.key


@pytest.mark.parametrize("content", ["notes\n", "[1]\n", '{"id": 1}\n'])
def test_foreign_files(tmp_path: Path, content: str) -> None:
    store = Store(tmp_path)
    (tmp_path / ROWS / "x.jsonl").write_text(content)
    with pytest.raises(OptionError, match="no result of a screening"):
        store.rows()
    (tmp_path / "file").write_text("")
    with pytest.raises(OptionError):
        Store(tmp_path / "file")
