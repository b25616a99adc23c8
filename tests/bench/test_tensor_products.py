"""Products of degrees: implementations agree, rows, tables, files; also where e3nn is missing."""

from __future__ import annotations

import csv
import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mlip.bench.tensor_products import implementations, study
from mlip.bench.tensor_products.cases import LAYOUTS, SETTINGS, Case, Signals
from mlip.bench.tensor_products.contest import Contest, agree
from mlip.bench.tensor_products.implementations import IMPLEMENTATIONS, available
from mlip.bench.tensor_products.plot import plot
from mlip.bench.tensor_products.study import bench_tensor_products, expressivity, ratios
from mlip.bench.tensor_products.table import table
from mlip.cli.main import main
from mlip.errors import EngineMismatchError, OptionError
from mlip.verify.expressivity import paths

TINY = {"lmax": 2, "threads": (1,), "batch": 3, "channels": 2, "rounds": 1}
HERE = [name for name in IMPLEMENTATIONS if not name.startswith("e3nn")]  # e3nn warns when it is imported


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("lmax", [1, 2, 4])
def test_implementations_agree(setting: str, lmax: int) -> None:
    contest = Contest(setting, lmax, 3, 2)
    for name in HERE:
        if paths(IMPLEMENTATIONS[name].product, contest.case.inputs, contest.case.outputs):
            agree(name, contest.case, contest.differences(name))


def test_a_wrong_implementation(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(case: Case, channels: int) -> Callable[[Tensor, Tensor], Tensor]:
        right = IMPLEMENTATIONS["torch grid"].make(case, channels)
        return lambda x, y: 1.001 * right(x, y)

    monkeypatch.setitem(IMPLEMENTATIONS, "wrong", replace(IMPLEMENTATIONS["torch grid"], make=wrong))
    contest = Contest("MIMO", 1, 3, 2)
    with pytest.raises(EngineMismatchError, match=r"wrong is off by .* in the product \(MIMO, L=1\), more than 5e-05"):
        agree("wrong", contest.case, contest.differences("wrong"))
    with pytest.raises(EngineMismatchError, match="off by nan"):
        agree("wrong", contest.case, {"product": float("nan")})


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_are_undone(layout: str) -> None:
    x, degrees = torch.arange(4.0 * 8 * 3).reshape(4, 8, 3), (1, 2)
    into, back = LAYOUTS[layout]
    assert torch.equal(back(into(x, degrees), degrees, 4), x)


def test_settings() -> None:
    found = {s: (Case(s, 2).inputs, Case(s, 2).outputs) for s in SETTINGS}
    assert found == {"SISO": ((2,), (2,)), "SIMO": ((2,), (0, 1, 2, 3, 4)), "MIMO": ((0, 1, 2), (0, 1, 2, 3, 4)),
                     "MIMO truncated": ((0, 1, 2), (0, 1, 2))}
    assert Signals.random(Case("SIMO", 1), 2, 5).g.shape == (2, 9, 5)
    assert expressivity("gaunt", Case("MIMO truncated", 3)) == {"paths": 23, "parameters": 10, "dimension": 23}


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {ending: tmp_path / f"rows.{ending}" for ending in ("json", "csv", "png")}
    code = main(["bench", "tensor-products", "--lmax", "2", "--batch", "3", "--channels", "2", "--threads", "1",
                 "--rounds", "1", "--json", str(files["json"]), "--csv", str(files["csv"]), "--plot",
                 str(files["png"])])
    text = capsys.readouterr().out
    assert code == 0
    assert "### MIMO truncated, 1 thread: forward / forward + backward, ms" in text
    assert "| gaunt | 4 / 4 / 4 | 11 / 7 / 11 |" in text
    assert "- SISO: zero: it reaches none of these degrees (mlip, " in text
    assert ("e3nn is not installed" in text) == (importlib.util.find_spec("e3nn") is None)
    rows = json.loads(files["json"].read_text())
    assert len(rows) == len(SETTINGS) * 2 * 2 * len(available())
    for row in rows:
        assert (row["seconds"] is None) == (row["dimension"] == 0)
        assert row["seconds"] is None or row["per_microsecond"] > 0
    with files["csv"].open() as file:
        assert [r["implementation"] for r in csv.DictReader(file)] == [r["implementation"] for r in rows]
    assert files["png"].read_bytes().startswith(b"\x89PNG")
    assert all(row["torch"] > 0 for row in ratios(rows))


def test_without_e3nn_and_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(implementations.importlib.util, "find_spec", lambda name: None)
    assert available() == HERE
    rows = bench_tensor_products(**TINY, settings=("MIMO",), limit=1e-9)  # type: ignore[arg-type]
    assert {row["implementation"] for row in rows} == set(HERE)
    assert all(row["seconds"] is None and "left out: a run would take" in row["note"] for row in rows)
    text = table(rows)
    assert "e3nn is not installed: its rows are left out." in text
    assert ratios(rows) == []
    plot(rows, tmp_path / "rows.png")


def test_where_memory_does_not_suffice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "free_memory", lambda: 1.0)
    monkeypatch.setattr(study, "available", lambda: HERE)
    rows = bench_tensor_products(**{**TINY, "lmax": 1}, settings=("MIMO",))  # type: ignore[arg-type]
    assert all(row["note"] == "for memory timed with a batch of 1 and scaled" for row in rows)
    assert all(row["seconds"] > 0 for row in rows)


def test_mistakes_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for wrong, words in ((("--plot", tmp_path / "rows.jpg"), ".png"),
                         (("--csv", tmp_path / "no" / "rows.csv"), "folder"),
                         (("--settings", "SOSO"), "setting 'SOSO' is unknown; allowed: SISO, SIMO, MIMO, MIMO trunc")):
        assert main(["bench", "tensor-products", *map(str, wrong)]) == 2
        assert words in capsys.readouterr().err


def test_bad_options() -> None:
    for wrong in ({"lmax": 0}, {"threads": ()}, {"batch": 0}, {"channels": 0}, {"rounds": 0}, {"limit": 0.0},
                  {"settings": ("SOSO",)}, {"implementations": ("tensorflow",)}, {"implementations": ()}):
        with pytest.raises(OptionError):
            bench_tensor_products(**wrong)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="batch 0"):
        Contest("MIMO", 1, 0, 1)
