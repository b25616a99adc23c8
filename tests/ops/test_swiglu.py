"""The product of two signals in EquiformerV3: any exact quadrature gives the numbers of the published grids."""

from __future__ import annotations

from math import pi
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mlip.ops import sphere_product, spherical_harmonics
from mlip.ops.sphere_product import unfold
from mlip.ops.sphere_tables import swiglu_matrices
from mlip.so3.edge_frame import EdgeFrame

SIZES = [(0, None), (1, None), (2, None), (3, None), (4, None), (6, None),
         (0, 0), (2, 0), (2, 1), (2, 2), (3, 2), (4, 2), (6, 2), (4, 3)]
LIKE = torch.zeros(1, dtype=torch.float64)


def components(lmax: int, mmax: int | None) -> list[tuple[int, int]]:
    flat = [(l, m) for l in range(lmax + 1) for m in range(-l, l + 1)]
    return flat if mmax is None else list(EdgeFrame(lmax, mmax).kept())


def grid(lmax: int, mmax: int | None) -> tuple[Tensor, Tensor]:
    """Return the matrices [P, K] to and [K, P] from the published grid, from its formulas."""
    rows, columns = 2 * (3 * lmax // 2 + 1), 3 * (lmax if mmax is None else mmax) + 2
    theta, phi = pi * (np.arange(rows) + 0.5) / rows, 2 * pi * np.arange(columns) / columns
    k = np.arange(rows // 2)[:, None]
    weight = 4 / rows * np.sin(theta) * (np.sin((2 * k + 1) * theta) / (2 * k + 1)).sum(axis=0)
    assert weight.sum() == pytest.approx(2, rel=1e-14)
    points = np.stack(np.broadcast_arrays(np.outer(np.sin(theta), np.sin(phi)), np.cos(theta)[:, None],
                                          np.outer(np.sin(theta), np.cos(phi))), axis=-1).reshape(-1, 3)
    chosen, degree = zip(*((l * l + l + m, l) for l, m in components(lmax, mmax)), strict=True)
    y = spherical_harmonics(torch.from_numpy(points), lmax, backend="reference").numpy()[:, chosen] / (4 * pi) ** 0.5
    l = np.array(degree)
    n = np.sqrt(4 * pi / ((2 * l + 1) * (lmax + 1)))
    rescale = 1.0 if mmax is None else np.where(l > mmax, np.sqrt((2 * l + 1) / (2 * mmax + 1)), 1.0)
    back = (2 * pi / columns * np.repeat(weight, columns)[:, None] * y * rescale / n).T
    return torch.from_numpy(y * n * rescale), torch.from_numpy(back)


@pytest.mark.parametrize("backend", ["reference", "auto"])
@pytest.mark.parametrize(("lmax", "mmax"), SIZES)
def test_products(lmax: int, mmax: int | None, backend: str) -> None:
    to, back = grid(lmax, mmax)
    x, y = torch.randn(2, 5, to.shape[1], 3, dtype=torch.float64)
    for reflected in (True, False):
        found = sphere_product(x, y, *swiglu_matrices(lmax, mmax, x, reflected), backend)  # type: ignore[arg-type]
        torch.testing.assert_close(found, back @ ((to @ x) * (to @ y)), rtol=0, atol=1e-12)


def unfolded(lmax: int, mmax: int | None, reflected: bool) -> tuple[Tensor, Tensor]:
    to, same, back, reflections = swiglu_matrices(lmax, mmax, LIKE, reflected)
    assert same is to
    assert (reflections is not None) == reflected
    return (to, back) if reflections is None else (unfold(to, *reflections), unfold(back, *reflections))


@pytest.mark.parametrize("reflected", [True, False])
@pytest.mark.parametrize(("lmax", "mmax"), SIZES)
def test_there_and_back(lmax: int, mmax: int | None, reflected: bool) -> None:
    to, back = unfolded(lmax, mmax, reflected)
    degree = torch.tensor([l for l, _ in components(lmax, mmax)], dtype=torch.float64)
    kept = 2 * (lmax if mmax is None else mmax) + 1
    expected = torch.diag(((2 * degree + 1) / kept).clamp(min=1) if mmax is not None else torch.ones_like(degree))
    torch.testing.assert_close(back.T @ to, expected, rtol=0, atol=1e-13)
    published_to, published_back = grid(lmax, mmax)
    torch.testing.assert_close(published_back @ published_to, expected, rtol=0, atol=1e-13)


def test_fewer_points_than_the_published_grids() -> None:
    """At the released size: 86 for 14 x 14; 7 x 7, or 7 x 8 with reflections, for 14 x 8."""
    for mmax, reflected, most in ((None, True, 86), (None, False, 86), (2, True, 56), (2, False, 49)):
        assert len(unfolded(4, mmax, reflected)[0]) <= most


@pytest.mark.parametrize(("name", "lmax", "mmax"), [("water_l2m2", 2, 2), ("cu4_l3m2", 3, 2),
                                                    ("nacl8_triclinic_l4m2", 4, 2)])
def test_grids_of_published_models(name: str, lmax: int, mmax: int, shared_dir: Path) -> None:
    with np.load(shared_dir / "golden" / "equiformer_v3" / f"{name}.npz") as file:
        for part, order in (("ga.act", mmax), ("ffn", None)):
            to, back = (torch.from_numpy(file[f"sd/blocks.0.{part}.so3_grid.{which}_grid_mat"])
                        for which in ("to", "from"))
            x, y = torch.randn(2, 4, to.shape[1], 2, dtype=torch.float64)
            found = sphere_product(x, y, *swiglu_matrices(lmax, order, x, True))
            torch.testing.assert_close(found, back @ ((to @ x) * (to @ y)), rtol=0, atol=1e-12)
