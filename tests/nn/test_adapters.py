"""Low-rank adapters: where they go, what they change, and how they are folded in."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from mlip.errors import OptionError
from mlip.nn.adapters import add_adapters, merged
from mlip.nn.merged import Merged

RANK = 2


class Net(nn.Module):
    """Matrices of every kind: alone, in lists, stacked, too small, in the model itself."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(9, 12))
        self.linear = nn.Linear(12, 8)
        self.listed = nn.ParameterList([nn.Parameter(torch.randn(8, 8)), nn.Parameter(torch.randn(8, 2))])
        self.holder = nn.Module()
        self.holder.stack = nn.Parameter(torch.randn(3, 2, 8, 8))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        x = self.linear(self.embedding[z]) @ self.listed[0]
        return torch.einsum("nc,nlcd->nd", x, self.holder.stack[z % 3]).tanh() @ self.listed[1]


@pytest.fixture
def net() -> Net:
    return Net().double()


def disturb(model: nn.Module) -> None:
    """Change all that is trained."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn_like(weight))


def test_large_matrices_have_one_and_nothing_changes_before_training(net: Net) -> None:
    z = torch.arange(9)
    before = net(z)
    add_adapters(net, RANK)
    assert torch.equal(net(z), before)
    trained = {name: tuple(w.shape) for name, w in net.named_parameters() if w.requires_grad}
    assert trained == {"linear.parametrizations.weight.0.first": (8, 2),
                       "linear.parametrizations.weight.0.second": (2, 12),
                       "listed.parametrizations.0.0.first": (8, 2), "listed.parametrizations.0.0.second": (2, 8),
                       "holder.parametrizations.stack.0.first": (3, 2, 8, 2),
                       "holder.parametrizations.stack.0.second": (3, 2, 2, 8)}


def test_the_seed_draws_the_second_factors(net: Net) -> None:
    first, same, other = (copy.deepcopy(net) for _ in range(3))
    for model, seed in ((first, 1), (same, 1), (other, 2)):
        add_adapters(model, RANK, seed)
    key = "holder.parametrizations.stack.0.second"
    assert torch.equal(first.state_dict()[key], same.state_dict()[key])
    assert not torch.equal(first.state_dict()[key], other.state_dict()[key])
    assert first.state_dict()[key].std().item() == pytest.approx(RANK**-0.5, rel=0.3)


def test_folded_in_they_give_the_same_numbers(net: Net) -> None:
    z = torch.arange(9)
    names = set(net.state_dict())
    add_adapters(net, RANK)
    before = net(z)
    disturb(net)
    found = net(z)
    plain = merged(net)
    assert (found - before).abs().max() > 1e-2
    assert (plain(z) - found).abs().max() < 1e-12
    assert set(plain.state_dict()) == names
    assert merged(plain) is plain
    assert type(plain.linear) is nn.Linear


def test_a_model_outlives_its_folded_copy(net: Net) -> None:
    """Both once had their classes in common."""
    z = torch.arange(9)
    add_adapters(net, RANK)
    twin = copy.deepcopy(net)
    merged(twin)
    disturb(net)
    assert torch.equal(merged(net)(z), net(z))
    assert not torch.equal(twin(z), net(z))


def test_states_are_restored(net: Net) -> None:
    z = torch.arange(9)
    add_adapters(net, RANK)
    twin = copy.deepcopy(net)
    disturb(net)
    twin.load_state_dict(net.state_dict())
    assert torch.equal(twin(z), net(z))


def test_second_derivatives(net: Net) -> None:
    add_adapters(net, RANK)
    disturb(net)
    held = net.listed[0]
    adapter = net.listed.parametrizations["0"][0]

    def loss(first: torch.Tensor) -> torch.Tensor:
        weight = net.listed.parametrizations["0"].original + first @ adapter.second
        return (weight.tanh() @ held.detach()).square().sum()

    assert torch.autograd.gradcheck(loss, adapter.first)
    assert torch.autograd.gradgradcheck(loss, adapter.first)


def test_refusals(net: Net) -> None:
    with pytest.raises(OptionError, match="no matrix of the model is large enough for adapters of rank 99"):
        add_adapters(net, 99)
    add_adapters(net, RANK)
    with pytest.raises(OptionError, match="adapters already"):
        add_adapters(net, RANK)


def test_products_of_weights_that_are_made_anew() -> None:
    """Weights at each call come to lie where those of the call before were."""
    keeper = Merged()
    for value in range(20):
        assert keeper(lambda w: (2 * w,), torch.full((1000,), float(value)))[0][0].item() == 2 * value
