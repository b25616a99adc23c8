from __future__ import annotations

import importlib
import json

import numpy as np
import pytest

import mlip.verify.neighbors as verify
from mlip.bench.neighbors import bench_neighbors, copper, table
from mlip.bench.rows import save
from mlip.errors import OptionError
from mlip.neighbors import neighbor_list
from mlip.neighbors.edges import NeighborList
from mlip.verify.neighbor_cases import CLASSES
from mlip.verify.neighbors import differ, fuzz


def test_fuzz_finds_nothing():
    report = fuzz(30 * (len(CLASSES) + 2), seed=7)
    assert report.passed, report.first_failure
    assert report.cases == sum(report.classes.values())
    assert min(report.classes.values()) == 30
    assert len(report.classes) >= 14
    assert report.edges > 10_000
    assert json.loads(json.dumps(report.as_dict()))["mismatches"] == 0


def test_fuzz_depends_on_the_seed_only():
    assert fuzz(50, seed=1).edges == fuzz(50, seed=1).edges != fuzz(50, seed=2).edges


def losing(positions, cutoff, cell=None, pbc=False):
    edges = neighbor_list(positions, cutoff, cell, pbc)
    keep = np.arange(len(edges.senders)) != 3
    return NeighborList(edges.senders[keep], edges.receivers[keep], edges.shifts[keep],
                        np.concatenate([[0], np.cumsum(np.bincount(edges.receivers[keep], minlength=len(positions)))]))


def test_fuzz_finds_a_lost_edge(monkeypatch, capsys):
    monkeypatch.setattr(verify, "neighbor_list", losing)
    report = fuzz(60, seed=3, progress=True)
    capsys.readouterr()
    assert not report.passed
    assert report.mismatches == sum(report.failed.values()) > 10
    assert "1 edges missing" in report.first_failure
    assert "seed 3, case" in report.first_failure


def test_what_differs():
    edges = neighbor_list([[0, 0, 0], [1, 0, 0], [2, 0, 0]], 1.5)
    assert differ(edges, edges, 3) is None
    back = NeighborList(edges.senders[::-1], edges.receivers[::-1], edges.shifts, edges.offsets)
    assert "sorted" in differ(back, edges, 3)
    assert "offsets" in differ(NeighborList(*edges), edges, 4)
    assert "types" in differ(NeighborList(edges.senders, edges.receivers, edges.shifts.astype(float), edges.offsets),
                             edges, 3)
    twice = neighbor_list([[0, 0, 0], [1, 0, 0]], 1.5)
    doubled = NeighborList(*[np.repeat(a, 2, axis=0) for a in twice])
    assert "2 twice" in differ(doubled, twice, 2)


def test_fuzz_wants_cases():
    with pytest.raises(OptionError):
        fuzz(0)


def test_copper():
    r, cell = copper(108)
    assert r.shape == (108, 3)
    assert np.allclose(cell, np.eye(3) * 3 * 3.61)
    assert abs(len(copper(1000)[0]) - 1000) < 30


def test_bench(tmp_path):
    rows = bench_neighbors(sizes=(30,), threads=(1, 2), repeats=1)
    assert [row["threads"] for row in rows] == [1, 2]
    assert all(row["agree"] and row["edges"] == len(neighbor_list(copper(30)[0], 5.0, copper(30)[1], True).senders)
               for row in rows)
    text = table(rows)
    assert f"| 32 | {rows[0]['edges']:,} | 1 |" in text
    assert "one thread only" in text
    save(rows, tmp_path / "rows.json")
    assert json.loads((tmp_path / "rows.json").read_text())[0]["atoms"] == 32


def test_bench_without_peers(monkeypatch):
    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    rows = bench_neighbors(sizes=(30,), threads=(1,), repeats=1)
    assert rows[0]["seconds"]["vesin"] is None
    assert "| - | - | - |" in table(rows)


@pytest.mark.parametrize(("sizes", "threads"), [((), (1,)), ((0,), (1,)), ((10,), ()), ((10,), (0,))])
def test_bench_options(sizes, threads):
    with pytest.raises(OptionError):
        bench_neighbors(sizes=sizes, threads=threads)
