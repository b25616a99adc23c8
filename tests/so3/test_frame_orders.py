"""Where the orders m of the frame of an edge are among the kept components."""

from __future__ import annotations

import pytest

from mlip.so3.edge_frame import EdgeFrame


@pytest.mark.parametrize(("lmax", "mmax"), [(0, 0), (1, 0), (3, 0), (2, 2), (3, 2), (4, 2), (6, 2), (5, 5)])
def test_orders(lmax: int, mmax: int) -> None:
    frame = EdgeFrame(lmax, mmax)
    kept, orders = list(frame.kept()), frame.orders()
    assert [len(places) for places in orders] == [1] + [2] * mmax
    for m, places in enumerate(orders):
        for sign, place in zip((1, -1), places, strict=False):
            assert kept[place] == [(l, sign * m) for l in range(m, lmax + 1)]
    every = list(range(frame.components))
    assert [k for places in orders for place in places for k in every[place]] == list(range(len(kept)))
