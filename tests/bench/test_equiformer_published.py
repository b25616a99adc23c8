"""EquiformerV3 computed as it is published equals ours."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

import mlip
from mlip.bench.equiformer.published import as_published, first_feed_forward
from mlip.bench.equiformer.published_parts import grid_matrices, points_of
from mlip.checkpoints import Potential
from mlip.errors import OptionError
from mlip.graph import Structure
from mlip.io.ase import structure_of

SMALL = {"channels": 8, "num_layers": 2, "num_heads": 2, "attention_hidden": 6, "attention_alpha": 5,
         "attention_value": 4, "feed_forward_hidden": 7, "edge_channels": 9, "num_gaussians": 12}


def small(lmax: int, mmax: int, **options: object) -> Potential:
    return mlip.create("equiformer_v3", ["H", "C", "O", "Cu"], seed=1, cutoff=4.0, dtype="float64", lmax=lmax,
                       mmax=mmax, **{**SMALL, **options})


def structures() -> list[Structure]:
    copper = bulk("Cu", cubic=True)
    copper.rattle(0.1, seed=0)
    copper.set_cell(copper.cell + 0.05 * np.arange(9).reshape(3, 3) % 0.2, scale_atoms=True)
    return [structure_of(molecule("CH3OH")), structure_of(copper)]


@pytest.mark.parametrize(("lmax", "mmax"), [(4, 2), (3, 2), (2, 1), (2, 2), (1, 0)])
def test_the_published_way_gives_our_numbers(lmax: int, mmax: int) -> None:
    ours = small(lmax, mmax)
    for a, b in zip(ours.evaluate(structures()), as_published(ours).evaluate(structures()), strict=True):
        assert a.energy == pytest.approx(b.energy, rel=0, abs=1e-12)
        assert np.abs(a.energies - b.energies).max() < 1e-12
        assert np.abs(a.forces - b.forces).max() < 1e-12
        assert np.abs(a.forces).max() > 1e-6
        assert (a.stress is None) == (b.stress is None)
        if a.stress is not None and b.stress is not None:
            assert np.abs(a.stress - b.stress).max() < 1e-12


def test_one_feed_forward_network() -> None:
    ours = small(4, 2)
    x = torch.randn(3, 25, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = first_feed_forward(ours)(x)
    assert expected.shape == x.shape
    assert (first_feed_forward(as_published(ours))(x) - expected).abs().max() < 1e-12


def test_grids() -> None:
    found = [points_of(l, m) for l, m in ((4, 2), (4, 4), (6, 2), (2, 2), (0, 0))]
    assert found == [(14, 8), (14, 14), (20, 8), (8, 8), (2, 2)]
    to, back = grid_matrices(4, None)
    assert (to.shape, back.shape) == ((196, 25), (25, 196))
    assert (back @ to - torch.eye(25)).abs().max() < 1e-13
    to, back = grid_matrices(4, 2)
    assert (to.shape, back.shape) == ((112, 19), (19, 112))
    product = back @ to
    assert (product - torch.diag(product.diagonal())).abs().max() < 1e-13
    assert product.diagonal()[:5].tolist() == pytest.approx([1, 1, 1, 1.4, 1.8])


def test_models_that_are_not_published_so() -> None:
    for options in ({"forces": "direct"}, {"nonsmooth_max_neighbors": 3}):
        with pytest.raises(OptionError, match="conservative models"):
            as_published(small(2, 1, **options))
    mace = mlip.create("mace", ["H"], channels=2, hidden_lmax=0, edge_lmax=1, correlation=1)
    with pytest.raises(OptionError, match="belongs to mace"):
        as_published(mace)
    with pytest.raises(OptionError, match="no such feed-forward"):
        first_feed_forward(mace)
