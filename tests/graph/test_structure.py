"""`Structure.create`: what it takes, what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlip import Structure
from mlip.elements import NUMBERS, SYMBOLS, atomic_numbers
from mlip.errors import StructureError

NAN, INF = float("nan"), float("inf")
PLACES = [[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]


def test_arrays_and_types() -> None:
    s = Structure.create([1, 8], PLACES, [3, 4, 5], True, charge=-1, spin=2, head="pbe")
    assert (s.numbers.dtype, s.positions.dtype, s.cell.dtype, s.pbc.dtype) == (np.int64, np.float64, np.float64, bool)
    assert len(s) == 2
    assert s.cell.tolist() == [[3, 0, 0], [0, 4, 0], [0, 0, 5]]
    assert (s.charge, s.spin, s.head, s.volume) == (-1, 2, "pbe", pytest.approx(60.0))


def test_the_input_is_copied() -> None:
    places, cell, pbc = np.array(PLACES), np.eye(3) * 4, np.array([True, False, True])
    s = Structure.create([1, 1], places, cell, pbc)
    places[:], cell[:], pbc[:] = 9, 9, False
    assert s.positions.tolist() == PLACES
    assert s.cell.tolist() == (np.eye(3) * 4).tolist()
    assert s.pbc.tolist() == [True, False, True]


def test_no_atoms() -> None:
    for numbers, positions in (([], []), (np.zeros(0, int), np.zeros((0, 3)))):
        assert len(Structure.create(numbers, positions)) == 0


@pytest.mark.parametrize(("cell", "pbc", "volume"), [
    (None, False, None), (np.eye(3), False, None), (np.eye(3) * 2, True, 8.0), (-np.eye(3) * 2, True, 8.0),
    (np.diag([2.0, 3.0, 0.0]), [True, True, False], None), (np.diag([2.0, 3.0, 4.0]), [True, False, False], 24.0),
])
def test_volume(cell: Any, pbc: Any, volume: float | None) -> None:
    found = Structure.create([1], [[0, 0, 0]], cell, pbc).volume
    assert found == (None if volume is None else pytest.approx(volume))


@pytest.mark.parametrize(("changes", "match"), [
    ({"numbers": [0, 1]}, "atom 0"), ({"numbers": [1, 119]}, "119"), ({"numbers": [1, 1.5]}, "1.5"),
    ({"numbers": [1, NAN]}, "nan"), ({"numbers": ["H", "H"]}, "numbers"), ({"numbers": [1]}, "need"),
    ({"positions": [[0, 0], [0, 1]]}, "shape"), ({"positions": [[0, 0, NAN], [0, 0, 1]]}, r"NaN.*\[0\]"),
    ({"positions": [[0, 0, 0], [0, INF, 1]]}, r"infinite.*\[1\]"), ({"positions": "here"}, "positions"),
    ({"pbc": True}, "zero"), ({"pbc": True, "cell": [3, 3, 0]}, r"\[2\]"), ({"pbc": [True, False]}, "pbc"),
    ({"cell": [[1, 0, 0], [0, 1, 0]]}, "shape"), ({"cell": [1, NAN, 1]}, "NaN"),
    ({"cell": [[1, 0, 0], [2, 0, 0], [0, 0, 1]], "pbc": True}, "dependent"),
    ({"charge": 0.5}, "charge"), ({"charge": NAN}, "charge"), ({"charge": "plus"}, "charge"),
    ({"spin": 0}, "spin"), ({"spin": 1.5}, "spin"), ({"spin": -1}, "spin"),
], ids=str)
def test_refused(changes: dict[str, Any], match: str) -> None:
    arguments: dict[str, Any] = {"numbers": [1, 1], "positions": PLACES, **changes}
    with pytest.raises(StructureError, match=match):
        Structure.create(**arguments)


def test_dependent_vectors_matter_only_where_periodic() -> None:
    cell = [[1, 0, 0], [2, 0, 0], [0, 0, 1]]
    assert Structure.create([1], [[0, 0, 0]], cell, [True, False, True]).volume is None


class TestElements:
    def test_table(self) -> None:
        assert len(SYMBOLS) == 119
        assert (SYMBOLS[1], SYMBOLS[6], SYMBOLS[26], SYMBOLS[79], SYMBOLS[92], SYMBOLS[118]) == \
            ("H", "C", "Fe", "Au", "U", "Og")
        assert all(NUMBERS[SYMBOLS[z]] == z for z in range(1, 119))
        from ase.data import chemical_symbols

        assert list(SYMBOLS) == chemical_symbols

    def test_symbols_and_numbers(self) -> None:
        assert atomic_numbers(["O", 1, np.int64(6)]) == (8, 1, 6)

    @pytest.mark.parametrize("wrong", [
        "o", "X", "", "Water", 0, -1, 119,
        6.5, None, True,
    ])
    def test_no_element(self, wrong: Any) -> None:
        with pytest.raises(StructureError, match="no chemical element"):
            atomic_numbers([wrong])
