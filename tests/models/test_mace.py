"""The model object: every variant runs, its dtype, its derivatives up to second order, its smoothness."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import numpy as np
import pytest
import torch

from mlip import Structure, create
from mlip.checkpoints.create import build
from mlip.graph import build_graph
from mlip.models.mace import MACE, MACEConfig
from mlip.models.mace.config import INTERACTIONS
from mlip.nn.derivatives import evaluate

SMALL: dict[str, Any] = {"atomic_numbers": (1, 8), "cutoff": 3.0, "channels": 4, "edge_lmax": 2, "hidden_lmax": 1,
                         "correlation": 2, "radial_mlp": (8,), "num_bessel": 4, "avg_num_neighbors": 2.0}


def water(heads: tuple[str, ...] = ("default",)) -> Any:
    structure = Structure.create([8, 1, 1], [[0, 0, 0.1], [0.8, 0, -0.5], [-0.7, 0.2, -0.5]], head=heads[-1])
    return build_graph([structure], 3.0, heads=heads)


def model(seed: int = 0, **config: Any) -> MACE:
    torch.manual_seed(seed)
    made = build(MACEConfig(**{**SMALL, **config}), torch.float64)
    assert isinstance(made, MACE)
    return made


@pytest.mark.parametrize(("first", "other"), list(itertools.product(INTERACTIONS, repeat=2)))
def test_forces_of_every_pair_of_blocks(first: str, other: str) -> None:
    mace = model(interaction_first=first, interaction=other, num_layers=2)
    graph = water()
    forces = evaluate(mace, graph).forces
    for i, k in ((0, 0), (1, 2), (2, 1)):
        energy = []
        for step in (-1e-4, 1e-4):
            moved = graph.positions.clone()
            moved[i, k] += step
            energy.append(float(evaluate(mace, graph.replace(positions=moved), forces=False).energy))
        assert float(forces[i, k]) == pytest.approx((energy[0] - energy[1]) / 2e-4, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("change", [
    {"num_layers": 1}, {"num_layers": 3}, {"edge_lmax": 0, "hidden_lmax": 0}, {"hidden_lmax": 0}, {"hidden_lmax": 2},
    {"edge_lmax": 3}, {"correlation": 1}, {"correlation": 3}, {"radial_mlp": ()}, {"channels": 1}, {"num_bessel": 1},
    {"pair_repulsion": True}, {"distance_transform": "agnesi"}, {"scale_shift": False}, {"heads": ("a", "b")},
    {"atomic_numbers": (1, 6, 8)}, {"num_layers": 1, "heads": ("a", "b")},
], ids=str)
def test_energy_is_invariant_and_forces_turn(change: dict[str, Any]) -> None:
    mace = model(**change)
    graph = water(mace.config.heads)
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    a, b = evaluate(mace, graph), evaluate(mace, graph.replace(positions=graph.positions @ turn.T))
    assert float(a.interaction.abs().max()) > 0
    torch.testing.assert_close(b.energy, a.energy, rtol=0, atol=1e-10)
    torch.testing.assert_close(b.forces, a.forces @ turn.T, rtol=0, atol=1e-9)


def test_gradients_of_a_force_loss() -> None:
    """The double backward pass of training, against differences of the loss in every weight tensor."""
    mace = model(pair_repulsion=True, distance_transform="agnesi", interaction="density_residual")
    graph = water()

    def loss() -> torch.Tensor:
        result = evaluate(mace, graph, training=True)
        assert result.forces is not None
        return result.forces.square().sum() + result.energy.sum()

    parameters = dict(mace.named_parameters())
    gradients = torch.autograd.grad(loss(), list(parameters.values()), allow_unused=True)
    assert len(parameters) > 15
    for (name, weight), gradient in zip(parameters.items(), gradients, strict=True):
        if gradient is None:
            assert not weight.numel(), name
            continue
        direction = torch.randn_like(weight)
        values = []
        with torch.no_grad():
            for step in (-1e-5, 2e-5, -1e-5):
                weight += step * direction
                values.append(float(loss()))
        numeric = (values[1] - values[0]) / 2e-5
        assert float((gradient * direction).sum()) == pytest.approx(numeric, rel=2e-5, abs=1e-5), name


def test_energies_stay_double_in_a_single_precision_model() -> None:
    potential = create("mace", ["H", "O"], dtype="float64", **{k: v for k, v in SMALL.items() if k != "atomic_numbers"})
    exact = torch.tensor([[-13.567890123456789, -2041.987654321098765]], dtype=torch.float64)
    potential.model.atomic_energies.copy_(exact)
    single = potential.to(dtype="float32")
    for moved in (single, single.to(dtype="float64"), single.to(device="cpu")):
        assert moved.model.atomic_energies.dtype == torch.float64
        assert torch.equal(moved.model.atomic_energies, exact)
    assert single.dtype == torch.float32
    floating = {k: v.dtype for k, v in single.model.state_dict().items() if v.is_floating_point()}
    assert {k for k, dtype in floating.items() if dtype != torch.float32} == {"atomic_energies"}
    assert potential.dtype == torch.float64  # `to` made a copy
    for change in ("half", "float", "double"):
        assert getattr(copy.deepcopy(potential.model), change)().atomic_energies.dtype == torch.float64


def test_energy_goes_smoothly_to_zero_at_the_cutoff() -> None:
    mace = model()
    alone = evaluate(mace, build_graph([Structure.create([1, 8], [[0, 0, 0], [0, 0, 9]])], 3.0)).interaction
    for gap, limit in ((1e-3, 1e-6), (1e-5, 1e-12)):
        pair = build_graph([Structure.create([1, 8], [[0, 0, 0], [0, 0, 3.0 - gap]])], 3.0)
        assert pair.edge_index.shape[1] == 2
        found = evaluate(mace, pair)
        assert float((found.interaction - alone).abs().max()) < limit
        assert float(found.forces.abs().max()) < limit / gap * 10


def test_heads_read_their_own_columns() -> None:
    mace = model(heads=("a", "b"))
    mace.scale.copy_(torch.tensor([1.0, 2.0]))
    mace.shift.copy_(torch.tensor([0.5, -0.5]))
    mace.atomic_energies.copy_(torch.tensor([[1.0, 2.0], [30.0, 40.0]]))
    structures = [Structure.create([8, 1], [[0, 0, 0], [0, 0, 1]], head=head) for head in ("b", "a", "b")]
    result = evaluate(mace, build_graph(structures, 3.0, heads=("a", "b")))
    single = [evaluate(mace, build_graph([s], 3.0, heads=("a", "b"))) for s in structures]
    np.testing.assert_allclose(result.energy, torch.cat([s.energy for s in single]), rtol=0, atol=1e-12)
    assert torch.equal(result.energies - result.interaction, torch.tensor([40, 30, 2, 1, 40, 30]).double())


def test_construction_leaves_the_random_state_to_create() -> None:
    state = torch.get_rng_state()
    create("mace", ["H"], channels=2)
    assert torch.equal(torch.get_rng_state(), state)
