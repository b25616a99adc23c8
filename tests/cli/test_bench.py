"""bench."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlip.bench.equiformer.study import EquiformerSides
from mlip.bench.sides import Sides
from mlip.bench.training import TrainingSides
from mlip.bench.worker import Memory

TINY = ("--channels", 2, "--hidden-lmax", 0)


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No mace-torch, whatever the environment says."""
    monkeypatch.delenv("MLIP_PEER_MACE_PYTHON", raising=False)


def test_neighbors(run) -> None:
    code, out, err = run("bench", "neighbors", "--sizes", 32, "--threads", 1, "--json", "rows.json")
    assert (code, err) == (0, "")
    assert "32" in out
    assert json.loads(Path("rows.json").read_text())
    code, _, err = run("bench", "neighbors", "--sizes", 0)
    assert code == 2
    assert "sizes" in err
    assert run("bench", "neighbors", "--sizes", 32, "--threads", 1, "--json", "absent/rows.json")[0] == 2


def test_model(run) -> None:
    code, out, err = run("bench", "model", *TINY, "--sizes", 24, "--threads", 1, "--rounds", 1, "--radial", "exact",
                         "--json", "rows.json", "--plot", "rows.png")
    assert (code, err) == (0, "")
    assert "| mlip | 24 | 1,260 | 1 |" in out
    assert json.loads(Path("rows.json").read_text())[0]["atoms"] == 24
    assert Path("rows.png").is_file()
    for arguments, text in ((("--plot", "rows.pdf"), ".png"), (("--peer-python", "/absent"), "/absent"),
                            (("--sizes", 0), "sizes"), (("--channels", 0), "channels")):
        code, _, err = run("bench", "model", "--rounds", 1, *arguments)
        assert code == 2
        assert text in err


def test_the_others(run) -> None:
    for arguments, text in ((("ops", "--size", 24, "--threads", 1, "--rounds", 1), "training step"),
                            (("size", "--sizes", 24), "Largest box"),
                            (("profile", "--size", 24), "matrix products"),
                            (("skin", "--size", 24, "--steps", 2, "--threads", 1), "rebuilds")):
        code, out, err = run("bench", *arguments, *TINY, "--json", "rows.json")
        assert (code, err) == (0, "")
        assert text in out
        assert json.loads(Path("rows.json").read_text())[0]["atoms"] == 24


def test_training(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrainingSides, "memory_of_run", lambda *_: 1)  # no further processes
    code, out, err = run("bench", "training", *TINY, "--structures", 4, "--batch-sizes", 2, "--threads", 1, "--rounds",
                         1, "--steps", 1, "--json", "rows.json")
    assert (code, err) == (0, "")
    assert "| mlip | 2 |" in out
    assert json.loads(Path("rows.json").read_text())[0]["structures"] == 4
    for arguments, text in ((("--data", "absent.xyz"), "absent.xyz"), (("--peer-python", "/absent"), "/absent"),
                            (("--structures", 4), "too few"), (("--channels", 0), "channels")):
        code, _, err = run("bench", "training", "--structures", 16, *arguments)
        assert code == 2
        assert text in err


def test_profile_of_a_model_of_mine(run, model) -> None:
    code, out, err = run("bench", "profile", "--model", model, "--size", 24)
    assert (code, err) == (0, "")
    assert model in out
    code, _, err = run("bench", "profile", "--model", model, "--channels", 4)
    assert code == 2
    assert f"--channels: there is no such option for {model}" in err


EQUIFORMER = ("--family", "equiformer_v3", "--channels", 4, "--hidden-lmax", 1, "--mmax", 1, "--layers", 1)


def test_equiformer(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EquiformerSides, "memory", lambda *_: Memory(0, 1))  # no further processes
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    code, out, err = run("bench", "model", *EQUIFORMER, "--structures", "isobutane", "--threads", 1, "--rounds", 1,
                         "--as-published", "--json", "rows.json")
    assert (code, err) == (0, "")
    assert "| mlip | isobutane | 14 | 182 | 1 |" in out
    assert json.loads(Path("rows.json").read_text())[0]["efficiency"] > 0
    for arguments, text in ((("--sizes", 24), "--sizes"), (("--plot", "rows.png"), "--plot"),
                            (("--tensor-product", "gaunt", "--peer-python", "/absent"), "--tensor-product, --peer-pyt"),
                            (("--structures", "cu5"), "cu5"), (("--mmax", 2), "mmax")):
        code, _, err = run("bench", "model", *EQUIFORMER, "--rounds", 1, *arguments)
        assert code == 2
        assert text in err
    for arguments in (("--structures", "cu4"), ("--as-published",), ("--layers", 3)):
        code, _, err = run("bench", "model", *arguments)
        assert code == 2
        assert f"{arguments[0]}: there is no such option for mace" in err
    code, _, err = run("bench", "ops", "--family", "equiformer_v3")
    assert code == 2
    assert "only those of mace" in err


TRANSIP = ("--family", "transip", "--model-size", "XS")


def test_transip(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sides, "memory", lambda *_: Memory(0, 1))  # no further processes
    code, out, err = run("bench", "model", *TRANSIP, "--sizes", 24, "--threads", 1, "--rounds", 1, "--backend", "auto",
                         "reference", "--json", "rows.json", "--plot", "rows.png")
    assert (code, err) == (0, "")
    assert "| mlip reference | 24 | 1,260 | 1 |" in out
    assert json.loads(Path("rows.json").read_text())[0]["plain_ratio"] > 0
    assert Path("rows.png").is_file()
    code, out, err = run("bench", "size", *TRANSIP, "--sizes", 24, "--threads", 1)
    assert (code, err) == (0, "")
    assert "transip XS" in out


def test_refused_for_transip(run) -> None:
    for arguments, text in ((("model", "--structures", "cu4"), "--structures: there is no such option for transip"),
                            (("model", "--radial", "exact"), "--radial"), (("model", "--channels", 4), "--channels"),
                            (("model", "--peer-python", "/absent", "--sizes", 24), "/absent"),
                            (("model", "--model-size", "XXS"), "XXS"), (("size", "--radial", "tabulated"), "tabulated"),
                            (("ops",), "only those of mace")):
        code, _, err = run("bench", arguments[0], "--family", "transip", *arguments[1:])
        assert code == 2
        assert text in err
    for arguments, text in ((("--model-size", "XS"), "--model-size"), (("--family", "other"), "transip")):
        code, _, err = run("bench", "size", *arguments)
        assert code == 2
        assert text in err


def test_screen(run) -> None:
    code, out, err = run("bench", "screen", "--structures", 3, "--mixed", 3, "--fmax", 0.05, "--json",
                         "rows.json")
    assert (code, err) == (0, "")
    rows = json.loads(Path("rows.json").read_text())
    assert [row.get("side") for row in rows] == ["screen", "ASE", "ASE, our cell filter", None]
    assert all(row["converged"] == 3 and row["difference"] < 1e-3 and row["per_hour"] > 0 for row in rows[:3])
    assert rows[0]["processor_ratio"] == 1
    assert 0.5 < rows[3]["ratio"] < 1.5
    assert rows[3]["refused"] == 0
    assert "ASE, our cell filter" in out
    for arguments, text in ((("--structures", 0), "structures"), (("--fmax", -1), "fmax")):
        code, _, err = run("bench", "screen", *arguments)
        assert code == 2
        assert text in err
