"""Times and memory of TransIP, beside plain torch and beside another model of mace-torch."""

from __future__ import annotations

import os

import pytest

from mlip.bench import sides
from mlip.bench.choices import TransIPChoice
from mlip.bench.model import bench_model, table
from mlip.bench.profile import bench_profile
from mlip.bench.sides import PEER, Sides
from mlip.bench.worker import Memory
from mlip.errors import ConfigError, EngineMismatchError, OptionError

TINY = TransIPChoice("XS")
PYTHON = os.environ.get("MLIP_PEER_MACE_PYTHON")
ANOTHER = f"{PEER} 64x0e+64x1o, another model"


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No mace-torch, whatever the environment says, and no process to measure memory."""
    monkeypatch.delenv("MLIP_PEER_MACE_PYTHON", raising=False)
    monkeypatch.setattr(Sides, "memory", lambda *_: Memory(0, 1))


@pytest.mark.usefixtures("alone")
def test_beside_plain_torch() -> None:
    rows = bench_model(TINY, (24,), (1,), rounds=1, backends=("auto", "reference"))
    auto, plain = rows
    assert [(r["variant"], r["backend"], r["radial"], r["edges"]) for r in rows] == [
        ("mlip", auto["backend"], "exact", 1260), ("mlip reference", "reference", "exact", 1260)]
    assert auto["plain_ratio"] == plain["seconds"] / auto["seconds"]
    assert auto["compared_with"] == "mlip reference"
    assert auto["energy_difference"] < 1e-4
    assert auto["force_difference"] < 1e-4
    assert {plain[k] for k in ("plain_ratio", "compared_with", "force_difference", "ratio", "peer_model")} == {None}
    text = table(rows)
    for part in (TINY.title, "| ratio to plain torch |", "dE, dF: from mlip reference.", "mace-torch was not timed"):
        assert part in text
    assert "another model" not in text


@pytest.mark.usefixtures("alone")
def test_variants_that_differ_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sides, "TOLERANCE", -1.0)  # not even equal numbers agree
    with pytest.raises(EngineMismatchError, match="mlip and mlip reference differ"):
        bench_model(TINY, (24,), (1,), rounds=1, backends=("auto", "reference"))


@pytest.mark.skipif(not PYTHON, reason="set MLIP_PEER_MACE_PYTHON to a Python that has mace-torch")
@pytest.mark.peer
@pytest.mark.slow
def test_beside_another_model() -> None:
    rows = bench_model(TINY, (24,), (1,), rounds=1, backends=("auto", "reference"), peer=PYTHON)
    for row in rows:
        assert row["ratio"] == row["peer_seconds"] / row["seconds"]
        assert row["peer_memory"] > 0
        assert row["same_edges"]
        assert (row["peer"], row["peer_model"]) == (PEER, "64x0e+64x1o")
    assert [row["compared_with"] for row in rows] == ["mlip reference", None]
    text = table(rows)
    assert f"{ANOTHER}: times and memory only." in text
    assert "dE, dF: from mace-torch" not in text


def test_profile() -> None:
    assert bench_profile(TINY, 24, runs=1)["model"] == TINY.title


def test_what_it_does_not_have() -> None:
    with pytest.raises(OptionError, match="can be exact, not tabulated"):
        bench_model(TINY, (24,), radials=("exact", "tabulated"))
    with pytest.raises(OptionError, match="only MACE"):
        bench_model(TINY, (24,), products=("gaunt",))
    with pytest.raises(ConfigError, match="XS, S, M, L"):
        TransIPChoice("XXL").create()
