"""Rows in parts: the same values and derivatives as all at once, also by weights, and of second order."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ase.build import molecule

import mlip
from mlip.io.ase import structure_of
from mlip.nn import rowwise
from mlip.nn.derivatives import evaluate


def test_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rowwise, "ROWS", 3)
    weight, x = torch.randn(4, 4, dtype=torch.float64, requires_grad=True), torch.randn(8, 4, dtype=torch.float64)

    def function(rows: torch.Tensor) -> torch.Tensor:
        return torch.tanh(rows @ weight)

    def parts(x: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        return rowwise.by_rows(function, x, [weight])

    assert torch.equal(parts(x, weight), function(x))
    assert torch.autograd.gradcheck(parts, (x.requires_grad_(), weight))
    assert torch.autograd.gradgradcheck(parts, (x, weight))


@pytest.mark.parametrize("options", [{}, {"mode": "paper", "forces": "direct", "cutoff": 20.0}], ids=str)
def test_weights_of_a_model_trained_on_many_atoms(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a loss of energies and forces, as training takes it."""
    potential = mlip.create("transip", ["H", "C", "O"], dtype="float64", channels=16, num_layers=2, num_heads=2,
                            **options)
    graph = potential.graph([structure_of(molecule(name)) for name in ("CH3OH", "C6H6")])
    model, found = potential.model.requires_grad_(True), []
    for rows in (5, 10_000):
        monkeypatch.setattr(rowwise, "ROWS", rows)
        p = evaluate(model, graph, training=True)
        assert p.forces is not None
        loss = p.energy.square().mean() + p.forces.square().mean()
        found.append(torch.autograd.grad(loss, list(model.parameters()), allow_unused=True))
    for (name, _), few, all_ in zip(model.named_parameters(), *found, strict=True):
        assert (few is None) == (all_ is None), name
        if few is not None:
            torch.testing.assert_close(few, all_, rtol=1e-10, atol=1e-12, msg=name)
    assert any("feed_forward.output" in name and g is not None for (name, _), g in
               zip(model.named_parameters(), found[0], strict=True))
