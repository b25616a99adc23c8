"""Training beside mace-torch: rows, tables, what both sides read and must agree on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mlip
from mlip.bench.choices import MACEChoice
from mlip.bench.rows import save
from mlip.bench.sides import PEER
from mlip.bench.training import acetylacetones, bench_training, differences, fitted, interactions, table
from mlip.bench.training_run import TrainingRun, load_labelled, save_labelled
from mlip.bench.water import water_box
from mlip.errors import EngineMismatchError, OptionError
from mlip.graph.labelled import Labelled
from mlip.training import TrainingConfig

TINY = MACEChoice(channels=2, hidden_lmax=1)
PYTHON = os.environ.get("MLIP_PEER_MACE_PYTHON")
needs_peer = pytest.mark.skipif(not PYTHON, reason="set MLIP_PEER_MACE_PYTHON to a Python that has mace-torch")


@pytest.fixture(scope="module")
def molecules() -> list[Labelled]:
    return acetylacetones(6)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No mace-torch, whatever the environment says."""
    monkeypatch.delenv("MLIP_PEER_MACE_PYTHON", raising=False)


@pytest.mark.usefixtures("alone")
def test_ours_alone(molecules: list[Labelled], tmp_path: Path) -> None:
    rows = bench_training(molecules, TINY, (4,), (1, 2), steps=1, rounds=1, backends=("auto", "reference"))
    assert [(r["threads"], r["variant"]) for r in rows] == [
        (1, "mlip"), (1, "mlip reference"), (2, "mlip"), (2, "mlip reference")]
    graph = mlip.create("mace", ["C", "H", "O"], cutoff=5.0).graph([e.structure for e in molecules[:4]])
    for row in rows:
        assert row["edges"] == graph.edge_index.shape[1]
        assert (row["batch_size"], row["structures"], row["rate"]) == (4, 4, 4 / row["seconds"])
        assert row["ratio"] is row["peer_seconds"] is row["peer_memory"] is None
    assert [r["compared_with"] for r in rows] == ["mlip reference", None] * 2
    assert max(rows[0]["loss_difference"], rows[0]["gradient_difference"]) < 1e-4
    save(rows, tmp_path / "rows.json")
    text = table(json.loads((tmp_path / "rows.json").read_text()))
    assert "| mlip reference | 4 |" in text
    assert "mace-torch was not timed" in text
    assert "of those of mlip reference" in text


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("options", [{"batch_sizes": ()}, {"threads": (0,)}, {"rounds": 0}, {"steps": 0},
                                     {"batch_sizes": (7,)}, {"products": ()}])
def test_bad_options(options: dict[str, Any], molecules: list[Labelled]) -> None:
    with pytest.raises(OptionError):
        bench_training(molecules, TINY, **options)


def test_starts_that_differ_are_not_timed() -> None:
    found = {"mlip": {"loss": 2.0, "gradient norm": 3.0}, PEER: {"loss": 2.0001, "gradient norm": 3.0}}
    assert differences(found, [PEER, "mlip"]) == {
        "mlip": {"compared_with": PEER, "loss_difference": pytest.approx(5e-5, rel=1e-3), "gradient_difference": 0.0}}
    assert differences(found, ["mlip"]) == {}
    for wrong in (3.001, float("nan")):
        found["mlip"]["gradient norm"] = wrong
        with pytest.raises(EngineMismatchError, match=f"mlip and mace-torch begin with a gradient norm of {wrong}"):
            differences(found, [PEER, "mlip"])


def test_file_of_examples(molecules: list[Labelled], tmp_path: Path) -> None:
    water = water_box(24)
    examples = [molecules[0], Labelled(water, -3.0, np.full((24, 3), 0.5)), molecules[1]]
    save_labelled(examples, tmp_path / "examples.npz")
    for saved, read in zip(examples, load_labelled(tmp_path / "examples.npz"), strict=True):
        assert (read.energy, len(read.structure)) == (saved.energy, len(saved.structure))
        for name in ("numbers", "positions", "cell", "pbc"):
            np.testing.assert_array_equal(getattr(read.structure, name), getattr(saved.structure, name))
        np.testing.assert_array_equal(read.forces, saved.forces)
    chosen = fitted(TINY, examples)
    assert chosen.elements == (1, 6, 8)
    assert 14 < chosen.neighbors < 54.1
    relative = [e.energy / len(e.structure) for e in interactions(examples)]
    assert np.mean(relative) == pytest.approx(0.0, abs=1e-9)
    assert relative[0] - relative[1] == pytest.approx(molecules[0].energy / 15 + 3.0 / 24)


def test_a_run_learns(molecules: list[Labelled], tmp_path: Path) -> None:
    save_labelled(interactions(molecules), tmp_path / "examples.npz")
    start = fitted(TINY, molecules).create()
    run = TrainingRun(start, tmp_path / "examples.npz", 25, TrainingConfig(batch_size=6))
    before = run.first_loss()
    run.run()
    after = run.first_loss()
    assert after["loss"] < 0.9 * before["loss"]
    again = TrainingRun(start, tmp_path / "examples.npz", 1, TrainingConfig(batch_size=6)).first_loss()
    assert again == before  # the start has kept its weights


@needs_peer
@pytest.mark.peer
@pytest.mark.slow
def test_beside_the_peer(molecules: list[Labelled]) -> None:
    rows = bench_training(molecules, TINY, (3, 2), (1,), steps=2, rounds=1, peer=PYTHON)
    assert [row["batch_size"] for row in rows] == [3, 2]
    for row in rows:
        assert row["compared_with"] == PEER
        assert row["loss_difference"] < 1e-4
        assert row["gradient_difference"] < 1e-4
        assert row["ratio"] == pytest.approx(row["rate"] / row["peer_rate"])
        assert row["peer_memory"] > 0
    assert "not timed" not in table(rows)
