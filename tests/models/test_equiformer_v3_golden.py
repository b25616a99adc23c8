"""EquiformerV3 as published (a7300c5): energies, forces, stress and features behind every layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mlip import Potential, load
from mlip.checkpoints import from_reference
from mlip.models.equiformer_v3 import DirectEquiformerV3, EquiformerV3
from mlip.models.equiformer_v3.attention import GraphAttention
from mlip.models.equiformer_v3.heads import symmetric_matrix
from mlip.nn.derivatives import evaluate

CONSERVATIVE = ("water", "equiformer_v3/water_l2m2", "equiformer_v3/cu4_l3m2", "equiformer_v3/nacl8_triclinic_l4m2")
DIRECT = "equiformer_v3_direct/nacl8_direct_dens_l2m2"
CASES = (*CONSERVATIVE, DIRECT)
BACKENDS = ("reference", "auto")
PARTS = {"norm_1": "norm1_out", "attention": "ga_out", "norm_2": "norm2_out", "feed_forward": "ffn_out", "": "out"}


def close(found: Any, expected: Any, tolerance: float) -> None:
    np.testing.assert_allclose(np.asarray(found), expected, rtol=0, atol=tolerance)


def places(golden: Any, potential: Potential) -> list[int]:
    """Return for each of our edges its place among those of the reference, which has them all."""
    graph = potential.graph([golden.structure])
    theirs = {key: e for e, key in enumerate(zip(*golden["act/edge_index"].tolist(),
                                                 map(tuple, golden["act/edge_cell_offsets"].tolist()), strict=True))}
    ours = list(zip(*graph.edge_index.tolist(), map(tuple, graph.shifts.int().tolist()), strict=True))
    assert len(ours) == len(theirs) == len(set(ours))
    return [theirs[key] for key in ours]


def record(model: EquiformerV3, graph: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """Evaluate and return what every layer gave, and the attention divided by its last envelope."""
    seen: dict[str, Tensor] = {}
    inner = GraphAttention.weights

    def weights(self: GraphAttention, logits: Tensor, receiver: Tensor, atoms: int, envelope: Tensor) -> Tensor:
        found = inner(self, logits, receiver, atoms, envelope)  # of all edges: they fit in one block
        names = {id(block.attention): f"block{i}_attn_softmax" for i, block in enumerate(model.blocks)}
        if id(self) in names:
            seen[names[id(self)]] = found / envelope
        return found

    def keep(name: str) -> Any:
        return lambda module, inputs, out: seen.__setitem__(name, out)

    monkeypatch.setattr(GraphAttention, "weights", weights)
    hooks = [model.norm.register_forward_hook(keep("final_norm"))]
    for i, block in enumerate(model.blocks):
        hooks += [(getattr(block, part) if part else block).register_forward_hook(keep(f"block{i}_{name}"))
                  for part, name in PARTS.items()]
    with torch.no_grad():
        seen["x_embed"] = model.embed(model.element_index(graph.numbers), model.neighbourhood(graph))
    seen["node_energy_raw"] = evaluate(model, graph, stress=False).energies.unsqueeze(1)
    for hook in hooks:
        hook.remove()
    return {name: value.detach() for name, value in seen.items()}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CASES)
def test_energy_forces_stress(name: str, published: Any, backend: str) -> None:
    golden = published(name)
    potential = golden.potential().to(backend=backend)
    assert (potential.dtype, potential.backend) == (torch.float64, backend)
    assert potential.model.conservative == (name != DIRECT)
    (found,) = potential.evaluate([golden.structure])
    assert found.energy == pytest.approx(golden["out/energy"].item(), rel=1e-13, abs=1e-13)
    # The published derivative leaves the largest logit of an atom out, on which the energy depends by attention_eps.
    exact = potential.model.config.attention_eps < 1e-12
    close(found.forces, golden["out/forces"], 1e-12 if exact else 1e-9)
    if golden["in/pbc"].any():
        close(found.stress, golden["out/stress"], 1e-13 if exact else 1e-10)
    else:
        assert found.stress is None


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CONSERVATIVE)
def test_every_layer(name: str, published: Any, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    golden = published(name)
    potential = golden.potential().to(backend=backend)
    order = places(golden, potential)
    found = record(potential.model, potential.graph([golden.structure]), monkeypatch)
    for layer, value in found.items():
        expected = golden[f"act/{layer}"]
        close(value, expected[order] if layer.endswith("softmax") else expected, 1e-12)
    layers = golden.config["num_layers"]
    softmax = sum(layer.endswith("softmax") for layer in found)
    assert len(found) - softmax == 3 + len(PARTS) * layers
    assert backend != "reference" or softmax == layers  # fused paths may leave it out


@pytest.mark.parametrize("name", CASES)
def test_float32(name: str, published: Any) -> None:
    """As far away as the reference itself is in float32."""
    golden = published(name)
    potential = golden.potential(torch.float32)
    assert potential.dtype == torch.float32
    (found,) = potential.evaluate([golden.structure])
    assert found.energy == pytest.approx(golden["out/energy"].item(), rel=0, abs=5e-5)
    close(found.forces, golden["out/forces"], 1e-5)
    if golden["in/pbc"].any():
        close(found.stress, golden["out/stress"], 5e-7)


@pytest.mark.parametrize("backend", BACKENDS)
def test_heads(published: Any, backend: str) -> None:
    golden = published(DIRECT)
    model = golden.potential().to(backend=backend).model
    assert isinstance(model, DirectEquiformerV3)
    graph = golden.potential().graph([golden.structure])
    with torch.no_grad():
        edges = model.neighbourhood(graph)
        features = model.features(graph, edges)
        forces = model.forces(features, edges, model.backend)
        stress = model.stress(features, graph.batch, torch.tensor([8.0], dtype=torch.float64))
    close(features, golden["act/final_norm"], 1e-12)
    close(forces, golden["act/force_head_out_all_l"], 1e-13)
    close(symmetric_matrix(stress).flatten(1), golden["act/stress_head_out"], 1e-13)


def test_a_direct_file_as_a_conservative_model(published: Any) -> None:
    """Without its heads it is one: the same energy, other forces."""
    golden = published(DIRECT)
    heads = ("force_block.", "stress_block.", "force_embedding.", "dens_block.")
    weights = {k: v for k, v in golden.weights().items() if not k.startswith(heads)}
    config = {**golden.config, "model_class": "equiformer_v3", "direct_prediction": False}
    potential = from_reference("equiformer_v3", weights, config)
    (found,) = potential.evaluate([golden.structure])
    assert potential.model.conservative
    assert found.energy == pytest.approx(golden["out/energy"].item(), rel=0, abs=1e-12)
    assert np.abs(found.forces - golden["out/forces"]).max() > 1e-3
    close(found.forces.sum(axis=0), 0, 1e-12)


def test_all_cases_are_listed(shared_dir: Path) -> None:
    golden = shared_dir / "golden"
    found = {f"{p.parent.name}/{p.stem}" for folder in golden.glob("equiformer_v3*") for p in folder.glob("*.npz")}
    assert found == {*CASES} - {"water"}


def test_imported_model_survives_a_file(water: Any, tmp_path: Path) -> None:
    (found,) = load(water.potential().save(tmp_path / "water.mlip")).evaluate([water.structure])
    assert found.energy == pytest.approx(water["out/energy"].item(), rel=0, abs=1e-13)
    close(found.forces, water["out/forces"], 1e-13)
