"""Labelled structures in memory-mapped files, and those that repeat."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mlip import Structure
from mlip.errors import DataError
from mlip.graph.labelled import Labelled
from mlip.training.duplicates import STEP, TOLERANCE, marks
from mlip.training.store import FrameStore


def frames(count: int = 12, seed: int = 0) -> list[Labelled]:
    """Return structures of every kind: charged, periodic, with heads, without forces or stress."""
    rng, found = np.random.default_rng(seed), []
    for i in range(count):
        n = 1 + i % 5
        periodic = i % 2 == 0
        structure = Structure.create(rng.choice([1, 8, 92], n), rng.uniform(0, 5, (n, 3)),
                                     np.diag([6.0, 7, 8]) + 0.1 * i if periodic else None, (True, i % 4 == 0, False)
                                     if periodic else False, charge=[None, 0, -2][i % 3], spin=[None, 1, 3][i % 3],
                                     head=[None, "a", "b"][i % 3])
        found.append(Labelled(structure, float(rng.normal()), None if i % 7 == 3 else rng.normal(size=(n, 3)),
                              rng.normal(size=(3, 3)) if periodic else None, f"kind{i % 2}" if i % 3 else ""))
    return found


def assert_equal(found: Labelled, expected: Labelled) -> None:
    a, b = found.structure, expected.structure
    for name in ("numbers", "positions", "cell", "pbc"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        assert getattr(a, name).dtype == getattr(b, name).dtype
        assert getattr(a, name).flags.writeable
    assert (a.charge, a.spin, a.head) == (b.charge, b.spin, b.head)
    assert (found.energy, found.config_type) == (expected.energy, expected.config_type)
    for mine, other in ((found.forces, expected.forces), (found.stress, expected.stress)):
        assert (mine is None) == (other is None)
        if mine is not None and other is not None:
            np.testing.assert_array_equal(mine, other)


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    originals = frames()
    store = FrameStore.pack(tmp_path / "deep" / "data", iter(originals), {"note": [1, "b"]})
    assert len(store) == 12
    assert store.about == {"note": [1, "b"]}
    for again in (store, FrameStore.open(tmp_path / "deep" / "data"), pickle.loads(pickle.dumps(store))):
        for found, expected in zip(again, originals, strict=True):
            assert_equal(found, expected)
        assert_equal(again[-1], originals[-1])
    assert store.elements.tolist() == [1, 8, 92]
    with pytest.raises(IndexError):
        store[12]


def test_subsets(tmp_path: Path) -> None:
    originals = frames()
    store = FrameStore.pack(tmp_path / "data", originals)
    part = store.subset([7, 2, 2, 9])
    for chosen, expected in ((part, [7, 2, 2, 9]), (part[1:], [2, 2, 9]), (store[::-3], [11, 8, 5, 2]),
                             (part.subset([3, 0]), [9, 7]), (store.subset([]), []),
                             (part.joined(store[:2]), [7, 2, 2, 9, 0, 1])):
        assert isinstance(chosen, FrameStore)
        assert len(chosen) == len(expected)
        for found, i in zip(pickle.loads(pickle.dumps(chosen)), expected, strict=True):
            assert_equal(found, originals[i])
    assert part.column("energy").tolist() == [originals[i].energy for i in (7, 2, 2, 9)]
    other = FrameStore.pack(tmp_path / "other", originals)
    with pytest.raises(DataError, match="one folder"):
        store.joined(other)


@pytest.mark.parametrize("size", [1, 7, 10**6])
def test_blocks(size: int, tmp_path: Path) -> None:
    originals = frames()
    store = FrameStore.pack(tmp_path / "data", originals).subset([5, 0, 11, 3, 4])
    seen = []
    for places, rows, arrays in store.blocks(size):
        for place, start, end in zip(places, rows, [*rows[1:], len(arrays["numbers"])], strict=True):
            expected = store[int(place)]
            np.testing.assert_array_equal(arrays["numbers"][start:end], expected.structure.numbers)
            np.testing.assert_array_equal(arrays["positions"][start:end], expected.structure.positions)
            np.testing.assert_array_equal(arrays["forces"][start:end],
                                          0.0 if expected.forces is None else expected.forces)
            seen.append(int(place))
    assert seen == list(range(5))


def test_origins(tmp_path: Path) -> None:
    originals = frames()
    store = FrameStore.pack(tmp_path / "data", {"a.xyz": originals[:4], "none.xyz": [], "b.xyz": iter(originals[4:])})
    assert store.counts == {"a.xyz": 4, "none.xyz": 0, "b.xyz": 8}
    assert [store.origin(i) for i in (0, 3, 4)] == ["structure 0 of a.xyz", "structure 3 of a.xyz",
                                                    "structure 0 of b.xyz"]
    assert store.subset([11]).origin(0) == "structure 7 of b.xyz"
    found = store.subset([9, 1, 5, 0]).by_file()
    assert {name: part.indices.tolist() for name, part in found.items()} == {"a.xyz": [1, 0], "b.xyz": [9, 5]}


def test_fingerprints(tmp_path: Path) -> None:
    originals = frames()
    store = FrameStore.pack(tmp_path / "a", originals)
    again = FrameStore.pack(tmp_path / "b", {"another name": originals}, {"other": "origin"})
    assert store.fingerprint == again.fingerprint == store.subset(range(12)).fingerprint
    assert len({store.fingerprint, store[1:].fingerprint, store[::-1].fingerprint, store[:-1].fingerprint,
                FrameStore.pack(tmp_path / "c", originals[::-1]).fingerprint}) == 5
    for change in ({"energy": 1.0}, {"config_type": "x"}, {"stress": None}):
        first = Labelled(**{**vars(originals[0]), **change})
        assert FrameStore.pack(tmp_path / "d", [first, *originals[1:]]).fingerprint != store.fingerprint


def test_numbers_are_remembered(tmp_path: Path) -> None:
    store = FrameStore.pack(tmp_path / "data", frames())
    calls: list[int] = []

    def compute() -> dict[str, int]:
        calls.append(1)
        return {"calls": len(calls)}

    assert [store.remember("a", compute)["calls"] for _ in range(3)] == [1, 1, 1]
    assert store.remember("b", compute) == {"calls": 2}
    assert store[1:].remember("a", compute) == {"calls": 3}
    assert FrameStore.open(tmp_path / "data").remember("a", compute) == {"calls": 1}
    FrameStore.pack(tmp_path / "data", frames(seed=1))  # other data, other numbers
    assert FrameStore.open(tmp_path / "data").remember("a", compute) == {"calls": 4}


def test_a_failed_pack_leaves_what_was_there(tmp_path: Path) -> None:
    def broken() -> Iterator[Labelled]:
        yield from frames(5)
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        FrameStore.pack(tmp_path / "data", broken())
    assert not list(tmp_path.iterdir())
    FrameStore.pack(tmp_path / "data", frames())
    with pytest.raises(RuntimeError, match="no more"):
        FrameStore.pack(tmp_path / "data", broken())
    assert len(FrameStore.open(tmp_path / "data")) == 12
    with pytest.raises(DataError, match="no labelled structures"):
        FrameStore.pack(tmp_path / "empty", [])
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_killed_pack_leaves_nothing_that_opens(tmp_path: Path) -> None:
    code = f"""
import os
import numpy as np
from mlip import Structure
from mlip.graph.labelled import Labelled
from mlip.training.store import FrameStore
def frames():
    for i in range(10**9):
        if i == 20_000: os.kill(os.getpid(), 9)
        yield Labelled(Structure([1] * np.ones(2, int), np.zeros((2, 3)) + i, np.zeros((3, 3)), np.zeros(3, bool)), 0.0,
                       np.zeros((2, 3)))
FrameStore.pack({str(tmp_path / 'data')!r}, frames())
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert any(tmp_path.iterdir())
    for path in (tmp_path / "data", *tmp_path.iterdir()):
        with pytest.raises(DataError, match="no store"):
            FrameStore.open(path)
    assert len(FrameStore.pack(tmp_path / "data", frames())) == 12
    (left,) = tmp_path.glob("*.part")  # might be another process at work
    for path in (*left.iterdir(), left):
        os.utime(path, (0, 0))
    assert len(FrameStore.pack(tmp_path / "data", frames())) == 12
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_what_is_no_store_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.xyz").write_text("mine")
    with pytest.raises(DataError, match="not overwritten"):
        FrameStore.pack(tmp_path / "data", frames())
    assert (tmp_path / "data" / "train.xyz").read_text() == "mine"


def test_several_processes_pack_at_once(tmp_path: Path) -> None:
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import numpy as np
from mlip import Structure
from mlip.graph.labelled import Labelled
from mlip.training.store import FrameStore
for _ in range(20):
    store = FrameStore.pack({str(tmp_path / 'data')!r}, (Labelled(
        Structure.create([1], [[i, 0, 0]]), float(i), np.zeros((1, 3))) for i in range(200)))
    assert [e.energy for e in store] == list(range(200))
"""
    processes = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for process in processes:
        assert process.communicate()[1] == ""
        assert process.returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_damaged_folders(tmp_path: Path) -> None:
    store = FrameStore.pack(tmp_path / "data", frames())
    content = (store.folder / "store.json").read_text()
    for text, match in ((content[:-9], "no store"), ("[]", "another version"),
                        (json.dumps({**json.loads(content), "format": 0}), "another version"),
                        (json.dumps({**json.loads(content), "atoms": 3}), "damaged .*bytes instead of")):
        (store.folder / "store.json").write_text(text)
        with pytest.raises(DataError, match=match):
            FrameStore.open(store.folder)
    (store.folder / "store.json").write_text(content)
    (store.folder / "forces.bin").unlink()
    with pytest.raises(DataError, match="damaged"):
        FrameStore.open(store.folder)


class TestRepeats:
    def test_marks_move_less_than_half_a_step(self) -> None:
        rng = np.random.default_rng(0)
        for n in (1, 3, 400):
            z, r, cell = rng.integers(1, 100, n), rng.uniform(-50, 50, (n, 3)), np.diag([30.0, 40, 50])
            before = marks(Structure.create(z, r, cell, True))
            for _ in range(20):
                moved = Structure.create(z, r + rng.choice([-1, 1], (n, 3)) * TOLERANCE,
                                         cell + rng.choice([-1, 1], (3, 3)) * TOLERANCE, True)
                assert np.abs(marks(moved) - before).max() < STEP / 2
            order = rng.permutation(n)
            np.testing.assert_allclose(marks(Structure.create(z[order], r[order], cell, True)), before, atol=1e-12)

    def test_they_are_found(self, tmp_path: Path) -> None:
        rng, originals = np.random.default_rng(1), frames(40, seed=5)
        copies = []
        for k in rng.integers(0, 40, 60):
            s = originals[k].structure
            order = rng.permutation(len(s))
            r = s.positions[order] + rng.uniform(-0.5, 0.5, (len(s), 3)) * TOLERANCE
            copy = Structure.create(s.numbers[order], r, s.cell, s.pbc, charge=s.charge, spin=s.spin, head=s.head)
            copies.append((k, Labelled(copy, 0.0, None)))
        store = FrameStore.pack(tmp_path / "data", [*originals, *(copy for _, copy in copies)])
        assert store.repeats().tolist() == [*range(40), *(k for k, _ in copies)]
        assert store[40:].repeats()[0] == 0

    def test_others_are_not(self, tmp_path: Path) -> None:
        z, r, cell = [8, 1, 1], np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]), 5 * np.eye(3)
        near = r + np.array([[0, 0, 0], [2.5e-6, 0, 0], [0, 0, 0]])
        structures = [Structure.create(z, r), Structure.create(z, near), Structure.create([1, 8, 1], r),
                      Structure.create(z, r, cell, True), Structure.create(z, r, cell, (True, True, False)),
                      Structure.create(z, r, 5.00001 * np.eye(3), True), Structure.create(z, r, charge=1),
                      Structure.create(z, r, spin=3), Structure.create(z, r, head="b"), Structure.create(z[:2], r[:2])]
        store = FrameStore.pack(tmp_path / "data", [Labelled(s, 0.0, None) for s in structures])
        assert store.repeats().tolist() == list(range(10))
        same = [Structure.create(z, r, cell), Structure.create(z, r, charge=0), Structure.create(z, r, spin=1)]
        store = FrameStore.pack(tmp_path / "data", [Labelled(s, 0.0, None) for s in [structures[0], *same]])
        assert store.repeats().tolist() == [0, 0, 0, 0]  # a cell without periodicity is none


MEMORY = """
import sys
import numpy as np
from mlip import Structure
from mlip.graph.labelled import Labelled
from mlip.training.statistics import facts
from mlip.training.store import FrameStore
def own():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon")) / 1024
def frames(count):
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield Labelled(Structure.create(np.arange(1, 16), rng.uniform(0, 9, (15, 3))), -1.0, rng.normal(size=(15, 3)))
FrameStore.pack(sys.argv[1], frames(1000))
before = own()
store = FrameStore.pack(sys.argv[1], frames(int(sys.argv[2])))
packed = own()
total = facts(store).square.sum()
for i in np.random.default_rng(1).permutation(len(store)):
    total += store[i].energy
assert np.isfinite(total)
print(packed - before, own() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_is_flat(tmp_path: Path) -> None:
    """10 000 structures are 9 MB on disk, of which a pack holds none; a scan holds columns and a block of atoms."""
    done = subprocess.run([sys.executable, "-c", MEMORY, str(tmp_path / "data"), "10000"], capture_output=True,
                          text=True, check=True)
    packed, read = map(float, done.stdout.split())
    assert packed < 4
    assert read < 40
