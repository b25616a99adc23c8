"""A folder is screened whole, whatever is wrong with some of it, and never twice."""

from __future__ import annotations

import dataclasses
import json

import pytest
from ase.build import bulk
from ase.io import write

import mlip.screening.folder as room
from mlip.errors import OptionError
from mlip.screening import Row, equation_of_state, screen_folder, table
from mlip.screening.folder import STORE, read_rows
from mlip.simulation import relax

NAMES = ["broken.cif", "fcc.cif", "gold.vasp", "molecule.xyz", "pair.xyz", "pair.xyz"]
QUICK = {"fmax": 0.05, "steps": 60}


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the structures that were computed rather than read."""
    done: list[str] = []
    inner = room._screened

    def counting(row: Row, *args: object) -> Row:
        done.append(f"{row.file}[{row.index}]")
        return inner(row, *args)

    monkeypatch.setattr(room, "_screened", counting)
    return done


def test_rows(binding, folder) -> None:
    rows = screen_folder(folder, binding, **QUICK)
    assert [row.file for row in rows] == NAMES
    assert [row.index for row in rows] == [0, 0, 0, 0, 0, 1]
    broken, fcc, gold, methanol, *pair = rows
    assert broken.status == gold.status == "failed"
    assert "broken.cif cannot be read" in broken.reason
    assert gold.reason.startswith("UnknownElementError")
    assert gold.formula == "Au"
    assert fcc.status == "ok"
    assert fcc.reason == ""
    relaxed = relax(bulk("Cu", "fcc", a=3.35), binding, cell=True, **QUICK)
    assert fcc.energy == pytest.approx(relaxed.energy, abs=1e-6)
    curve = equation_of_state(relaxed.atoms, binding)
    assert fcc.v0 == pytest.approx(curve.v0, rel=1e-4)
    assert fcc.bulk_modulus == pytest.approx(curve.bulk_modulus, rel=1e-3)
    assert methanol.formula == "CH4O"
    assert methanol.v0 is methanol.bulk_modulus is None
    assert methanol.energy is None or methanol.steps >= 0
    assert pair[0].energy == pytest.approx(fcc.energy, abs=1e-3)  # the same crystal, from another start
    assert pair[1].formula == "Cu"
    assert read_rows(folder / STORE) == rows
    assert {row.model_sha256 for row in rows} == {binding.info.sha256}


def test_a_rerun_computes_nothing(binding, folder, computed) -> None:
    first = screen_folder(folder, binding, **QUICK)
    assert len(computed) == 6
    computed.clear()
    assert screen_folder(folder, binding, **QUICK) == first
    assert computed == []
    assert len((folder / STORE).read_text().splitlines()) == 6


def test_what_changed_is_computed_again(binding, folder, computed) -> None:
    for name in ("broken.cif", "gold.vasp", "molecule.xyz", "pair.xyz"):
        (folder / name).unlink()
    screen_folder(folder, binding, **QUICK)
    write(folder / "new.cif", bulk("Cu", "sc", a=2.45))
    screen_folder(folder, binding, **QUICK)
    assert computed == ["fcc.cif[0]", "new.cif[0]"]
    write(folder / "fcc.cif", bulk("Cu", "fcc", a=3.31))
    screen_folder(folder, binding, **QUICK)
    assert computed[2:] == ["fcc.cif[0]"]
    screen_folder(folder, binding, **QUICK, points=9)
    assert computed[3:] == ["fcc.cif[0]", "new.cif[0]"]
    screen_folder(folder, binding.to(dtype="float32"), **QUICK)
    assert computed[5:] == ["fcc.cif[0]", "new.cif[0]"]
    screen_folder(folder, binding.to(rotational_average="T"), **QUICK)
    assert computed[7:] == ["fcc.cif[0]", "new.cif[0]"]
    assert len(read_rows(folder / STORE)) == 9


def test_resume_after_a_crash(binding, folder, computed) -> None:
    """The line that was being written is computed again; nothing else is lost."""
    store = folder.parent / "rows.jsonl"
    first = screen_folder(folder, binding, store, **QUICK)
    text = store.read_text()
    store.write_text(text[:-200])
    computed.clear()
    assert screen_folder(folder, binding, store, **QUICK) == first
    assert computed == ["pair.xyz[1]"]
    assert screen_folder(folder, binding, store, **QUICK) == first
    assert len(computed) == 1
    assert not (folder / STORE).exists()


def test_interruption_keeps_what_is_done(binding, folder, monkeypatch) -> None:
    calls = []

    def interrupted(*args: object, **options: object) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        raise ZeroDivisionError("odd")

    monkeypatch.setattr(room, "relax", interrupted)
    with pytest.raises(KeyboardInterrupt):
        screen_folder(folder, binding)
    rows = read_rows(folder / STORE)
    assert [row.file for row in rows] == ["broken.cif", "fcc.cif"]
    assert rows[1].reason == "ZeroDivisionError: odd"


def test_unconverged_is_a_failure_with_numbers(binding, folder) -> None:
    for name in ("broken.cif", "gold.vasp", "molecule.xyz", "pair.xyz"):
        (folder / name).unlink()
    (row,) = screen_folder(folder, binding, fmax=1e-9, steps=1)
    assert row.status == "failed"
    assert "did not converge in 1 steps" in row.reason
    assert row.energy is not None
    assert row.v0 is None


def test_bad_input(binding, folder, tmp_path) -> None:
    with pytest.raises(OptionError, match="no folder"):
        screen_folder(tmp_path / "absent", binding)
    (tmp_path / "empty").mkdir()
    with pytest.raises(OptionError, match="holds no structures"):
        screen_folder(tmp_path / "empty", binding)
    for options in ({"strain": 0.9}, {"fmax": -1.0}):
        with pytest.raises(OptionError):
            screen_folder(folder, binding, **options)
    with pytest.raises(OptionError, match="no folder"):
        screen_folder(folder, binding, tmp_path / "absent" / "rows.jsonl")


@pytest.mark.parametrize("content", ["notes of mine", '{"atoms": 1}', "[1]\n", '{\n  "a": 1\n}\n', "\xff\x00"])
def test_a_foreign_store_is_left_alone(binding, folder, content) -> None:
    store = folder / "notes.txt"
    store.write_text(content, encoding="latin-1")
    with pytest.raises(OptionError, match=r"notes.txt, line \d+, is no result"):
        screen_folder(folder, binding, store)
    assert store.read_text(encoding="latin-1") == content


def test_table() -> None:
    row = Row("a.cif", 1, "f", "m", {}, "ok", "", "C4O8", 12, -120.0, 0.01, 5, 138.0, -120.5, 124.58, 0.0006)
    failed = dataclasses.replace(row, status="failed", reason="StructureError: why", energy=None, v0=None,
                                 bulk_modulus=None, residual=None)
    header, first, second = table([row, failed]).split("\n")
    assert first.split() == ["a.cif[1]", "C4O8", "-10.000000", "11.5000", "124.6", "0.050", "ok"]
    assert second.split()[:2] == ["a.cif[1]", "C4O8"]
    assert second.split()[2:6] == ["-"] * 4
    assert second.endswith("failed: StructureError: why")
    assert header.startswith("structure")
    assert table([]) == header
    assert json.loads(row.key) == ["a.cif", 1, "f", "m", {}]
