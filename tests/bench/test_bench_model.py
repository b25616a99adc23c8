"""Times and memory of a model: rows, tables, pictures; beside mace-torch where it is."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from mlip.bench import model as module
from mlip.bench.choices import LoadedChoice, MACEChoice
from mlip.bench.model import bench_model, table
from mlip.bench.ops import bench_ops, convolution_inputs
from mlip.bench.ops import table as ops_table
from mlip.bench.plot import plot
from mlip.bench.profile import bench_profile, bench_skin, profile_table, skin_table
from mlip.bench.profiling import REST, group_of
from mlip.bench.rows import save
from mlip.bench.sides import PEER, Variant, differences, variants
from mlip.bench.size import bench_size, largest
from mlip.bench.size import table as size_table
from mlip.errors import EngineMismatchError, MLIPError, OptionError, WorkerError

TINY = MACEChoice(channels=2, hidden_lmax=1)
PYTHON = os.environ.get("MLIP_PEER_MACE_PYTHON")
needs_peer = pytest.mark.skipif(not PYTHON, reason="set MLIP_PEER_MACE_PYTHON to a Python that has mace-torch")


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No mace-torch, whatever the environment says."""
    monkeypatch.delenv("MLIP_PEER_MACE_PYTHON", raising=False)


@pytest.mark.usefixtures("alone")
def test_ours_alone(tmp_path: Path) -> None:
    rows = bench_model(TINY, (24,), (1, 2), rounds=1, radials=("exact",))
    assert [(r["atoms"], r["edges"], r["threads"]) for r in rows] == [(24, 1260, 1), (24, 1260, 2)]
    assert all(r["seconds"] > 0 and r["ratio"] is None and r["variant"] == "mlip" for r in rows)
    text = table(rows)
    assert "| mlip | 24 | 1,260 | 1 |" in text
    assert "mace-torch was not timed" in text
    assert "2x0e+2x1o" in text
    save(rows, tmp_path / "rows.json")
    assert json.loads((tmp_path / "rows.json").read_text())[1]["machine"]["versions"]["torch"]
    plot(rows, tmp_path / "rows.png")
    assert (tmp_path / "rows.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("alone")
def test_tensor_products(tmp_path: Path) -> None:
    products = ("clebsch_gordan", "gaunt_full")
    rows = bench_model(TINY, (24,), (1,), rounds=1, radials=("exact",), products=products)
    assert [(r["variant"], r["tensor_product"]) for r in rows] == [("mlip", products[0]),
                                                                 ("mlip gaunt_full", products[1])]
    with pytest.raises(OptionError, match="at least one"):
        bench_model(TINY, (24,), products=())
    with pytest.raises(OptionError, match="only MACE with random weights"):
        bench_model(LoadedChoice("mace-acac"), (24,), products=products)
    with pytest.raises(MLIPError, match="tensor_product"):
        bench_model(TINY, (24,), (1,), rounds=1, radials=("exact",), products=("gaunts",))


@pytest.mark.usefixtures("alone")
def test_what_does_not_fit_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "free_memory", lambda: 1.0)
    rows = bench_model(TINY, (300,), (1,), rounds=1, radials=("exact",))
    assert rows == []
    assert "Nothing was timed" in table(rows)


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("options", [{"sizes": ()}, {"threads": (0,)}, {"rounds": 0}, {"backends": ()},
                                     {"radials": ("square",)}, {"choice": MACEChoice(channels=0)}])
def test_bad_options(options: dict[str, object]) -> None:
    with pytest.raises(OptionError):
        bench_model(**options)  # type: ignore[arg-type]


def test_bad_peers() -> None:
    with pytest.raises(WorkerError, match="mace-torch cannot be started with the Python '/absent'"):
        bench_model(TINY, (24,), (1,), peer="/absent")
    with pytest.raises(OptionError, match="no model"):
        bench_model(LoadedChoice("mace-acac"), (24,), (1,), peer="/absent")


@pytest.mark.usefixtures("alone")
def test_bad_back_end() -> None:
    with pytest.raises(MLIPError, match="'nonsense'"):
        bench_model(TINY, (24,), (1,), rounds=1, backends=("nonsense",))


def test_names_of_variants() -> None:
    found = [v.label for v in variants(("auto", "reference"), ("exact",))]
    assert found == ["mlip", "mlip reference"]
    assert Variant(radial="tabulated").label == "mlip tabulated"


def test_results_that_differ_are_not_timed(tmp_path: Path) -> None:
    files = {name: tmp_path / f"{name}.npz" for name in ("mlip", PEER)}
    for name, energy in (("mlip", 1.001), (PEER, 1.0005)):
        np.savez(files[name], energy=energy, forces=np.ones((2, 3)))
    assert differences(files)["mlip"] == {"energy": pytest.approx(5e-4), "forces": 0.0}
    assert differences({"mlip": files["mlip"]}) == {}
    np.savez(files["mlip"], energy=1.0, forces=np.full((2, 3), np.nan))
    with pytest.raises(EngineMismatchError, match="differ by nan in forces"):
        differences(files)


@needs_peer
@pytest.mark.peer
@pytest.mark.slow
def test_beside_the_peer(tmp_path: Path) -> None:
    rows = bench_model(TINY, (24, 96), (1,), rounds=1, radials=("exact",), peer=PYTHON)
    assert len(rows) == 2
    for row in rows:
        assert row["ratio"] == row["peer_seconds"] / row["seconds"]
        assert row["same_edges"]
        assert row["energy_difference"] < 1e-4
        assert row["force_difference"] < 1e-5
        assert row["machine"]["versions"]["mace-torch"]
    assert "not timed" not in table(rows)
    plot(rows, tmp_path / "rows.png")


@needs_peer
@pytest.mark.peer
@pytest.mark.slow
def test_operations_beside_the_peer() -> None:
    rows = bench_ops(TINY, 24, (1,), rounds=1, peer=PYTHON)
    assert [row["difference"] is None for row in rows] == [False, False, False, True, False]  # Gaunt is another product
    assert all((row["difference"] or 0) < 1e-4 and row["ratio"] > 0 for row in rows)
    assert [row["peer_memory"] is not None for row in rows] == [False, False, True, True, False]
    assert "| training step | 1 |" in ops_table(rows)


@pytest.mark.usefixtures("alone")
def test_operations_alone() -> None:
    rows = bench_ops(TINY, 24, (1,), rounds=1)
    assert rows[0]["operation"] == "edge convolution, forward"
    assert all(row["peer_seconds"] is None for row in rows)
    assert "No peer was timed" in ops_table(rows)


def test_inputs_of_the_convolution() -> None:
    inputs = convolution_inputs(24, TINY)
    assert inputs["features"].shape == (24, 4, 2)
    assert inputs["weights"].shape == (1260, len(inputs["paths"]), 2)
    assert inputs["features"].dtype == np.float32


def test_sizes() -> None:
    rows = bench_size(TINY, (192, 24, 10**7), threads=1)
    assert [row["atoms"] for row in rows][:2] == [24, 192]
    assert rows[2]["problem"].startswith("would need about")
    measured, extrapolated = largest(rows) or (0, 0)
    assert measured == 192
    assert 192 < extrapolated < 10**7
    assert "would need about" in size_table(rows)
    assert largest([{**row, "limit": 1.0} for row in rows]) is None
    with pytest.raises(OptionError, match="memory"):
        bench_size(TINY, memory=0.0)


def test_profile() -> None:
    row = bench_profile(TINY, 24, runs=2)
    total = sum(g["seconds"] for g in row["groups"])
    assert 0.9 * row["profiled"] < total < 1.5 * row["profiled"]
    assert row["roofline"]["copy"] > 1e6
    text = profile_table(row)
    assert "matrix products" in text
    assert "GFLOP/s" in text


def test_groups_of_operators() -> None:
    assert group_of("mlip::edge_convolution") == "edge convolution, forward"
    assert group_of("GeneratedBackwardFor_mlip_edge_convolution_default") == "edge convolution, forward"
    assert group_of("mlip::edge_convolution_dyw") == "edge convolution, backward"
    assert group_of("GeneratedBackwardFor_mlip_edge_convolution_defaultBackward") == "edge convolution, backward"
    assert group_of("aten::bmm").startswith("matrix products")
    assert group_of("aten::nonsense") == REST


def test_skin() -> None:
    (row,) = bench_skin(TINY, 24, steps=5, threads=(1,))
    assert 0 < row["share"] < 1
    assert row["rebuilds"] == 0
    assert 100 < row["temperature"] < 600
    assert "rebuilds" in skin_table([row])
    assert bench_skin(TINY, 24, steps=3, skin=0.0, threads=(1,))[0]["rebuilds"] == 3
    with pytest.raises(OptionError, match="skin"):
        bench_skin(TINY, 24, skin=-1.0)
