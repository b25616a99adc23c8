"""Counts of what products of degrees express, against those of arXiv 2506.13523 and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mlip.errors import EngineMismatchError, OptionError
from mlip.verify import expressivity
from mlip.verify.expressivity import coefficients, dimension, parameters, paths, strengths

ALL = {"2L": (6, 19, 44, 85, 146, 231, 344, 489), "L": (5, 15, 34, 65, 111, 175, 260, 369)}
EVEN = {"2L": (5, 14, 30, 55, 91, 140, 204, 285), "L": (4, 11, 23, 42, 69, 106, 154, 215)}
ODD = (1, 5, 14, 30, 55, 91, 140, 204)


@pytest.mark.parametrize("lmax", range(1, 9))
def test_counts(lmax: int) -> None:
    """Products of functions reach the paths of an even sum of degrees, antisymmetric ones the others, matrices all."""
    for outputs, key in ((2 * lmax, "2L"), (lmax, "L")):
        every, even = paths("clebsch_gordan", lmax, outputs), paths("gaunt", lmax, outputs)
        assert (len(every), len(even)) == (ALL[key][lmax - 1], EVEN[key][lmax - 1])
        assert set(even) == {p for p in every if sum(p) % 2 == 0}
        assert parameters("clebsch_gordan", lmax, outputs) == dimension("clebsch_gordan", lmax, outputs) == len(every)
        assert parameters("gaunt", lmax, outputs) == 2 * (lmax + 1) + outputs + 1 - 2
        assert dimension("gaunt", lmax, outputs) == len(even)
        for product in ("poisson", "vector"):
            assert paths(product, lmax, outputs) == [p for p in every if p not in set(even)]
            assert dimension(product, lmax, outputs) == len(every) - len(even)
        if lmax <= 6:  # the larger matrices take seconds
            assert paths("matrix", lmax, outputs) == every
            assert parameters("matrix", lmax, outputs) == parameters("gaunt", lmax, outputs)
            assert dimension("matrix", lmax, outputs) == len(every)
    assert ALL["2L"][lmax - 1] - EVEN["2L"][lmax - 1] == ODD[lmax - 1]


def test_single_degrees() -> None:
    assert paths("clebsch_gordan", (2,), (2,)) == [(2, 2, 2)]
    assert paths("gaunt", (2,)) == [(2, 2, 0), (2, 2, 2), (2, 2, 4)]
    assert parameters("gaunt", (2,)) == dimension("gaunt", (2,)) == 3
    assert paths("gaunt", (1,), (1,)) == []  # no cross product
    assert paths("poisson", (1,), (1,)) == [(1, 1, 1)]
    assert parameters("gaunt", (1,), (1,)) == dimension("gaunt", (1,), (1,)) == 0


def test_strengths_of_gaunt_products() -> None:
    found = strengths("gaunt", 2)
    assert found[1, 1, 0] == pytest.approx(0.4886025119)
    assert found[1, 1, 2] == pytest.approx(0.6909882989)
    assert found[2, 2, 2] == pytest.approx(0.7539300958, rel=1e-7)


def test_coefficients_are_those_of_the_operation() -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(2, 5, 9))
    for product, operation in expressivity.OPERATIONS.items():
        expected = operation(torch.from_numpy(x), torch.from_numpy(y), 3).numpy()
        assert np.allclose(np.einsum("ni,nj,ijk->nk", x, y, coefficients(product, 2, 3)), expected, atol=1e-12)


def test_a_product_that_is_not_equivariant(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(x: torch.Tensor, y: torch.Tensor, l_out: int) -> torch.Tensor:
        return torch.ones(len(x), (l_out + 1) ** 2, dtype=x.dtype) * (x[:, :1] * y[:, :1])

    monkeypatch.setitem(expressivity.OPERATIONS, "wrong", wrong)
    with pytest.raises(EngineMismatchError, match="'wrong' is not equivariant: its coefficients of degrees 0, 0, 1"):
        paths("wrong", 1)
    assert strengths("wrong", 0) == {(0, 0, 0): pytest.approx(1.0)}


def test_bad_options() -> None:
    with pytest.raises(OptionError, match=r"product 'cross' is unknown; allowed: clebsch_gordan, gaunt, poisson"):
        paths("cross", 1)
    for inputs, outputs in ((-1, None), (1, 3), ((), None), (1, ())):
        with pytest.raises(OptionError, match="degrees up to"):
            paths("gaunt", inputs, outputs)
