"""A screening finishes whatever is wrong with some of it, is never computed twice, and may be killed at any moment."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.db import connect
from ase.io import write

import mlip
from mlip.cli.main import main
from mlip.errors import OptionError
from mlip.screening import Store, explain, screen
from mlip.screening.properties import relax
from mlip.screening.registry import properties

FAST = {"relax": relax.Settings(fmax=0.01, steps=150)}


def crystals(count: int) -> list[Atoms]:
    """Small rattled crystals."""
    kinds = [("Ni", "fcc", 3.5), ("Cu", "fcc", 3.7), ("Mo", "bcc", 3.15), ("Si", "diamond", 5.4)]
    out = []
    for i in range(count):
        symbol, lattice, a = kinds[i % 4]
        atoms = bulk(symbol, lattice, a=a * (1 + 0.02 * np.sin(i)), cubic=bool(i % 2))
        atoms.rattle(0.05, seed=i)
        out.append(atoms)
    return out


@pytest.fixture(scope="module")
def elements() -> mlip.Potential:
    """The bundled model of six elements."""
    return mlip.load("gaunt-mace-elements")


def changed(**info: Any) -> Atoms:
    atoms = bulk("Cu")
    atoms.info.update(info)
    return atoms


def hostile(folder: Path) -> dict[str, Any]:
    """What real collections contain: reason -> structure or file."""
    broken, disordered, empty = folder / "broken.cif", folder / "alloy.json", folder / "empty.xyz"
    broken.write_text("data_\n")
    empty.write_text("")
    disordered.write_text(json.dumps({"lattice": {"matrix": np.eye(3).tolist()}, "sites": [{"species": [
        {"element": "Cu", "occu": 0.5}, {"element": "Ni", "occu": 0.5}], "abc": [0, 0, 0]}]}))
    nan, infinite, tiny = bulk("Cu"), bulk("Ni"), bulk("Cu")
    nan.positions[0, 0] = np.nan
    infinite.cell[0, 0] = np.inf
    tiny.set_cell(tiny.cell.array * 0.1, scale_atoms=True)
    return {"cannot be read|holds no": broken, "disordered": disordered, "empty.xyz": empty, "NaN or infinite": nan,
            "cell vectors": infinite, "must be in Angstrom|closer": tiny, "UnknownElementError": bulk("Au"),
            "coincide|closer|apart": Atoms("Cu2", [[0, 0, 0], [0, 0, 1e-5]], cell=[5, 5, 5], pbc=True),
            "CloseContactError": Atoms("Cu2", [[0, 0, 0], [0, 0, 0.9]], cell=[5, 5, 5], pbc=True),
            "no atoms": Atoms(cell=[4, 4, 4], pbc=True), "cell vector is zero": Atoms("Cu", pbc=True),
            "RelaxationError: the volume": bulk("Li", a=2.2), "charge": changed(charge="much"),
            "head": changed(head="nobody")}


def values(table: Any) -> dict[tuple[str, str], Any]:
    return {(row.hash, row.property): row.value for row in table.rows if row.status == "done"}


def test_poison(elements: mlip.Potential, tmp_path: Path) -> None:
    good, bad = crystals(12), hostile(tmp_path)
    clean = screen(good, elements, ["relax", "energy"], tmp_path / "clean", settings=FAST)
    assert not clean.failures
    mixed: list[Any] = [x for pair in zip(good, [*bad.values()][:12], strict=True) for x in pair][::-1]
    table = screen([*mixed, *[*bad.values()][12:]], elements, ["relax", "energy"], tmp_path / "mixed", settings=FAST)
    kept = values(table)
    assert {key: kept[key] for key in values(clean)} == values(clean)  # bit for bit
    assert len(values(clean)) == 24
    reasons = [row.reason for row in table.failures if row.property == "relax"]
    assert len(reasons) == len(bad)
    for reason in bad:
        assert any(part in text for part in reason.split("|") for text in reasons), (reason, reasons)
    assert all(": " in reason for reason in reasons)


def test_nothing_is_computed_twice(elements: mlip.Potential, tmp_path: Path) -> None:
    write(tmp_path / "all.xyz", crystals(4), format="extxyz")
    out = tmp_path / "out"

    def run(*names: str, more: Any = (), **settings: Any) -> tuple[int, Any]:
        before = len(Store(out).rows())
        table = screen([tmp_path / "all.xyz", *more], elements, names, out, settings={"relax": relax.Settings(
            **{"fmax": 0.01, **settings})})
        return len(Store(out).rows()) - before, table

    assert run("relax")[0] == 4
    first = (out / "table.csv").read_bytes()
    assert run("relax")[0] == 0
    assert (out / "table.csv").read_bytes() == first
    assert run("relax", "energy")[0] == 4
    assert run("relax", fmax=0.02)[0] == 4
    added, table = run("relax", more=[crystals(1)[0]])  # known under another name: a copy
    assert added == 1
    assert len({row.id for row in table.rows}) == 5
    by_hash = {row.hash: row.value for row in table.rows}
    assert all(row.value == by_hash[row.hash] for row in table.rows)


class Broken:
    """Settings of nothing."""


def test_refused(elements: mlip.Potential, tmp_path: Path, family_of: Callable[[str], mlip.Potential]) -> None:
    for options in ({"properties": ["luck"]}, {"properties": []}, {"memory": 0.0}, {"settings": {"eos": Broken()}},
                    {"settings": {"relax": Broken()}}):
        with pytest.raises(OptionError):
            screen(crystals(1), elements, out=tmp_path / "out", **options)
    with ProcessPoolExecutor(1) as pool, pytest.raises(OptionError, match="never saved"):
        screen(crystals(1), family_of("mace"), out=tmp_path / "out", executor=pool)


def test_every_property_is_described() -> None:
    for name, prop in properties().items():
        assert prop.settings(), name
        assert prop.units, name
        assert set(prop.needs) <= set(properties()), name


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "all.xyz", [*crystals(3), bulk("Au")], format="extxyz")
    out = tmp_path / "out"
    command = ["screen", str(tmp_path / "all.xyz"), "-m", "gaunt-mace-elements", "-o", str(out), "--fmax", "0.01"]
    (tmp_path / "known.csv").write_text("formula,relax.energy_per_atom\nCu,-4.1\n")
    assert main([*command, "--export", str(out / "t.db"), "--export", str(out / "t.json"), "--references",
                 str(tmp_path / "known.csv")]) == 0
    printed = capsys.readouterr().out
    assert "UnknownElementError" in printed
    assert "4 results of 4 structures, 1 failed" in printed
    assert "all.xyz#1 | -4" in printed  # beside its reference
    assert str(out / "report.html") in printed
    page = (out / "report.html").read_text()
    assert "UnknownElementError" in page
    assert "-4.1" in page
    lines = list(csv.DictReader((out / "table.csv").read_text().splitlines()))
    rows = json.loads((out / "t.json").read_text())
    assert [line["relax.status"] for line in lines] == ["done"] * 3 + ["failed"]
    assert [float(line["relax.energy"]) for line in lines[:3]] == [row["value"]["energy"] for row in rows[:3]]
    with connect(out / "t.db") as database:
        stored = list(database.select(relax_status="done"))
        assert [row.relax_energy for row in stored] == [row["value"]["energy"] for row in rows[:3]]
        assert stored[0].toatoms().positions.tolist() == rows[0]["value"]["structure"]["positions"]
    assert main(["screen", "--explain", "#1", "-o", str(out)]) == 0
    told = capsys.readouterr().out
    assert rows[1]["hash"] in told
    assert rows[1]["model"]["sha256"] in told
    assert "fmax 0.01" in told
    assert "torch" in told
    for wrong in (["screen"], ["screen", "--explain", "xyz", "-o", str(out)], [*command, "--workers", "0"],
                  [*command, "--parsl", str(out / "no.py")], [*command, "--references", str(out / "no.csv")],
                  [*command, "-p", "luck"], [*command, "-p", "energy"], [*command, "--export", str(out / "t.txt")]):
        assert main(wrong) == 2
    with pytest.raises(OptionError, match="no folder"):
        explain(tmp_path / "absent", "x")


def test_processes_find_the_same(elements: mlip.Potential, tmp_path: Path) -> None:
    one = screen(crystals(24), elements, out=tmp_path / "one", settings=FAST)
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        two = screen(crystals(24), elements, out=tmp_path / "two", settings=FAST, executor=pool)
    assert two.csv() == one.csv()
    assert len(list((tmp_path / "two" / "rows").iterdir())) >= 2


KILLS = """
import os, random, signal, sys, time
import torch
torch.set_num_threads(1)
import mlip
from ase.io import read
from mlip.screening import screen
from mlip.screening.properties import relax
potential, atoms = mlip.load("gaunt-mace-elements"), read(sys.argv[1], ":")
kills, draw, most, whole = 0, random.Random(0), int(sys.argv[2]), 0.0
for out, limit in (("whole", 0), ("killed", most)):
    while True:
        begin = time.monotonic()
        child = os.fork()
        if not child:
            screen(atoms, potential, ["relax", "energy"], out, settings={"relax": relax.Settings(fmax=1e-3)})
            os._exit(0)
        end = begin + draw.uniform(0.0, 0.5 * whole)
        while kills < limit and time.monotonic() < end and os.waitpid(child, os.WNOHANG)[0] == 0:
            time.sleep(0.01)
        if kills < limit and time.monotonic() >= end:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            kills += 1
            continue
        try:
            os.waitpid(child, 0)
        except ChildProcessError:
            pass
        whole = time.monotonic() - begin
        break
print(kills)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_killed_at_any_moment(tmp_path: Path) -> None:
    write(tmp_path / "all.xyz", crystals(40), format="extxyz")
    most = os.environ.get("MLIP_TEST_KILLS", "3")
    done = subprocess.run([sys.executable, "-c", KILLS, "all.xyz", most], cwd=tmp_path, capture_output=True, text=True,
                          check=True)
    assert int(done.stdout) > 0, done.stderr
    whole, killed = ((tmp_path / name / "table.csv").read_text() for name in ("whole", "killed"))
    assert killed == whole
    assert whole.count("done") == 80
    keys = [row.key for row in Store(tmp_path / "killed").new()]
    assert len(set(keys)) == len(keys) == 80  # nothing was computed twice


def test_parquet(elements: mlip.Potential, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    table = screen([*crystals(1), bulk("Au")], elements, ["energy"], tmp_path)
    stored = parquet.read_table(table.write(tmp_path / "t.parquet")).to_pylist()
    assert stored == table.records()
