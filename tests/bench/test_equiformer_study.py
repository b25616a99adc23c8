"""`mlip bench model --family equiformer_v3`: rows, tables, operations, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlip.bench.equiformer import study
from mlip.bench.equiformer.choice import STRUCTURES, EquiformerChoice, edges_of, in_order, structure_named
from mlip.bench.equiformer.operations import atom_operations, edge_operations, feed_forward_flop, flop, gemm_shapes
from mlip.bench.equiformer.study import PUBLISHED, EquiformerSides, bench_equiformer
from mlip.bench.equiformer.table import table
from mlip.bench.group import MemoryBudget
from mlip.bench.ops import bench_ops
from mlip.bench.profile import bench_profile
from mlip.bench.rows import save
from mlip.bench.worker import Memory
from mlip.errors import OptionError
from mlip.models.equiformer_v3 import EquiformerV3Config

TINY = EquiformerChoice(channels=4, lmax=2, mmax=1, layers=1)
RELEASED = EquiformerV3Config((1,), 6.0)


def test_operations_of_the_released_size() -> None:
    edge, atom = edge_operations(RELEASED), atom_operations(RELEASED)
    assert edge == {"SO(2) linear 1": 1280 * 928 + 4 * 1024 * 256 + 4 * 768 * 192,
                    "SO(2) linear 2": 160 * 640 + 4 * 128 * 512 + 4 * 96 * 384,
                    "radial network": 320 * 128 + 128 * 128 + 128 * 1280,
                    "rotations": (1 * 1 + 3 * 3 + 5 * 5 + 7 * 5 + 9 * 5) * (256 + 128),
                    "product on the sphere": 49 * 19 * (64 + 32)}
    assert (edge["SO(2) linear 1"], edge["SO(2) linear 2"], sum(edge.values())) == (2_826_240, 512_000, 3_692_960)
    assert atom == {"projection of the attention": 25 * 128 * 128,
                    "feed-forward, linear maps": 25 * 128 * 1024 + 25 * 512 * 128,
                    "feed-forward, scalars": 128 * 512 + 128 * 1024 + 512 * 128,
                    "feed-forward, product on the sphere": 86 * 25 * (1024 + 512)}
    assert feed_forward_flop(RELEASED, 32) == 2 * 32 * (sum(atom.values()) - 409_600) == 2 * 32 * 8_479_744
    assert flop(RELEASED, 32, 2496) == 2 * 2 * 7 * (2496 * 3_692_960 + 32 * 8_889_344)
    assert gemm_shapes(RELEASED, (512,)) == [(512, 1280, 928), (512, 1024, 512), (512, 768, 384)]


def test_structures() -> None:
    assert [edges_of(name) for name in ("isobutane", "cu4", "cu32", "cu108")] == [182, 312, 2496, 8424]
    assert in_order(("cu32", "isobutane", "cu32")) == ["isobutane", "cu32"]
    assert [len(structure_named(name)) for name in STRUCTURES] == [3, 14, 4, 32, 108, 256, 1000]


def test_budget() -> None:
    calls = []

    def measure(label: str, size: int) -> Memory:
        calls.append(size)
        return Memory(100, 100 + size * 1000)

    budget = MemoryBudget(measure, int, 10, lambda: 50_000.0)
    assert budget.measured("mlip", 5) == Memory(100, 5100)
    assert budget.expected("mlip", 40) == 0.0  # too small to tell
    assert budget.measured("mlip", 40) == Memory(100, 40_100)
    assert budget.measured("mlip", 46) is None
    assert budget.expected("mlip", 46) == 46_000.0
    assert calls == [5, 10, 40]


def test_efficiency_is_that_of_all_threads() -> None:
    row = study.rated({"threads": 2, "flop": 100, "seconds": 0.5, "published_seconds": None}, 400.0)
    assert (row["efficiency"], row["published_efficiency"], row["sgemm"]) == (0.25, None, 400.0)


def fake_memory(self: EquiformerSides, label: str, structure: Path, threads: int) -> Memory:
    """Return 1 MB for ours and 1 GB for the published way, whatever the structure; no process is started."""
    return Memory(10**8, 10**8 + 10 ** (9 if label == PUBLISHED else 6))


def test_beside_the_published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(EquiformerSides, "memory", fake_memory)
    monkeypatch.setattr(study, "free_memory", lambda: 4e9)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # two threads take seconds where others want the processors, too
    rows = bench_equiformer(TINY, ("cu32", "cu4", "isobutane"), (1,), rounds=1, published=True)
    assert [(r["structure"], r["operation"], r["atoms"], r["edges"], r["threads"]) for r in rows] == [
        ("isobutane", "model", 14, 182, 1), ("cu4", "model", 4, 312, 1), ("cu32", "model", 32, 2496, 1),
        (None, "feed-forward", 32, None, 1)]
    for row in rows[:2]:
        assert row["ratio"] == row["published_seconds"] / row["seconds"]
        assert row["energy_difference"] < 1e-4
        assert row["force_difference"] < 1e-4
        assert (row["stress_difference"] is None) == (row["structure"] == "isobutane")
        assert (row["memory"], row["peak_memory"], row["published_memory"]) == (10**6, 101 * 10**6, 10**9)
        assert row["efficiency"] == pytest.approx(row["flop"] / (row["seconds"] * row["sgemm"] * row["threads"]))
        assert row["published_efficiency"] == pytest.approx(row["efficiency"] / row["ratio"])
        assert 0 < row["efficiency"] < 1
        assert row["remark"] == ""
    left_out = rows[2]
    assert left_out["seconds"] > 0
    assert {left_out[k] for k in ("published_seconds", "ratio", "published_efficiency", "force_difference")} == {None}
    assert left_out["remark"] == "as published would need about 8.0 GB, more than is free"
    assert rows[3]["difference"] < 1e-4
    assert rows[3]["ratio"] > 0
    text = table(rows)
    for part in ("| mlip | cu4 | 4 | 312 | 1 |", "One feed-forward network of 32 atoms", "GFLOP/s for each thread",
                 "Published: the algorithm", f"- cu32: {rows[2]['remark']}."):
        assert part in text
    save(rows, tmp_path / "rows.json")
    assert json.loads((tmp_path / "rows.json").read_text())[0]["machine"]["versions"]["torch"]


@pytest.mark.parametrize("options", [{"structures": ()}, {"structures": ("cu5",)}, {"threads": (0,)}, {"rounds": 0},
                                     {"backends": ()}, {"choice": EquiformerChoice(lmax=1)},
                                     {"choice": EquiformerChoice(channels=0)}])
def test_bad_options(options: dict[str, object]) -> None:
    with pytest.raises(OptionError):
        bench_equiformer(**options)  # type: ignore[arg-type]


def test_the_other_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    row = bench_profile(TINY, 24, runs=1)
    assert row["model"] == TINY.title
    assert "products on the sphere" in {group["group"] for group in row["groups"]}
    with pytest.raises(OptionError, match="only those of mace"):
        bench_ops(TINY)
