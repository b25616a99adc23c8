"""Parts of EquiformerV3 alone: the merged feed-forward network, the norm, configurations."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from math import pi
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear, silu

import mlip
from mlip.errors import ConfigError, OptionError
from mlip.models.equiformer_v3 import DirectEquiformerV3, EquiformerV3, EquiformerV3Config, make_model
from mlip.models.equiformer_v3.blocks import MergedLayerNorm
from mlip.models.equiformer_v3.feed_forward import FeedForward
from mlip.nn.merged import Merged
from mlip.ops import spherical_harmonics

BASE: dict[str, Any] = {"atomic_numbers": (1, 8), "cutoff": 5.0}
NAN, INF = float("nan"), float("inf")
SIZES = (0, -1, 20000, 2.0, "2", True, None)
WRONG: dict[str, tuple[Any, ...]] = {
    "lmax": (-1, 12, 2.0, "2", True, None), "mmax": (-1, 5, 2.0, None), "channels": SIZES, "num_layers": SIZES,
    "num_heads": SIZES, "attention_hidden": SIZES, "attention_alpha": SIZES, "attention_value": SIZES,
    "feed_forward_hidden": SIZES, "edge_channels": SIZES, "num_gaussians": (*SIZES, 1),
    "avg_num_neighbors": (0, -2.0, NAN, INF, "many", None, True), "attention_eps": (0.0, -1e-8, NAN, INF, None),
    "forces": ("gradient", "", None, True), "denoising": (1, "yes", None),
    "nonsmooth_max_neighbors": (0, -1, 2.0, "300", True),
    "heads": (("a", "b"), (), None), "atomic_numbers": ((8, 1), ()), "cutoff": (0.0, NAN),
}
CASES = [(name, value) for name, values in WRONG.items() for value in values]


class TestConfiguration:
    def test_every_field_is_covered(self) -> None:
        assert set(WRONG) == {field.name for field in dataclasses.fields(EquiformerV3Config)}

    @pytest.mark.parametrize(("name", "value"), CASES, ids=[f"{n}={v!r}" for n, v in CASES])
    def test_wrong_values(self, name: str, value: Any) -> None:
        words = "one head" if value == ("a", "b") else name
        for make in (lambda c: EquiformerV3Config(**c), EquiformerV3Config.from_dict):
            with pytest.raises(ConfigError, match=words) as caught:
                make({**BASE, name: value})
            assert "was given" in str(caught.value)

    @pytest.mark.parametrize(("options", "words"), [
        ({"lmax": 1}, "mmax must be a whole number from 0 to 1"),
        ({"lmax": 1, "mmax": 1, "forces": "direct"}, "need lmax=2 or more"),
        ({"denoising": True}, "denoising=True needs forces='direct'")])
    def test_impossible_together(self, options: dict[str, Any], words: str) -> None:
        with pytest.raises(ConfigError, match=words):
            EquiformerV3Config(**BASE, **options)

    def test_round_trip_through_json(self) -> None:
        config = EquiformerV3Config(**BASE, lmax=3, mmax=0, forces="direct", denoising=True, attention_eps=1e-8,
                                    nonsmooth_max_neighbors=20)
        assert EquiformerV3Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config

    def test_the_released_size(self) -> None:
        """The number of parameters of the published models, with their 128 elements, is that of their cards."""
        def count(**options: Any) -> int:
            config = EquiformerV3Config(tuple(range(1, 119)), 6.0, **options)
            with torch.device("meta"):
                model = make_model(config)
            rows = sum(p.numel() // 118 for p in model.parameters() if len(p) == 118)
            return sum(p.numel() for p in model.parameters()) + 10 * rows

        assert count() == 30_333_409
        assert count(num_gaussians=10) == 30_278_113
        assert count(forces="direct", denoising=True) == 34_928_164
        assert count(lmax=6) == 48_841_313
        assert count(lmax=6, forces="direct", denoising=True) == 57_077_924

    def test_models_of_a_family(self) -> None:
        small = {**BASE, "channels": 2, "num_layers": 1, "feed_forward_hidden": 2, "edge_channels": 2}
        plain, direct = (make_model(EquiformerV3Config(**small, forces=f)) for f in ("conservative", "direct"))
        assert type(plain) is EquiformerV3
        assert type(direct) is DirectEquiformerV3
        with pytest.raises(OptionError, match="equiformer_v3 have no radial functions to tabulate"):
            plain.tabulated()


def grid(lmax: int, size: int = 14) -> tuple[Tensor, Tensor]:
    """Return the matrices to and from a grid of size x size points, as published."""
    theta, phi = pi * (np.arange(size) + 0.5) / size, 2 * pi * np.arange(size) / size
    k = np.arange(size // 2)[:, None]
    weight = 4 / size * np.sin(theta) * (np.sin((2 * k + 1) * theta) / (2 * k + 1)).sum(axis=0)
    points = [[np.sin(t) * np.sin(p), np.cos(t), np.sin(t) * np.cos(p)] for t in theta for p in phi]
    y = spherical_harmonics(torch.tensor(np.array(points)), lmax, backend="reference") / (4 * pi) ** 0.5
    n = torch.tensor([(4 * pi / (2 * l + 1) / (lmax + 1)) ** 0.5 for l in range(lmax + 1) for _ in range(2 * l + 1)],
                     dtype=torch.float64)
    return y * n, (2 * pi / size * torch.from_numpy(np.repeat(weight, size))[:, None] * y / n).T


def degreewise(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    degree = torch.tensor([l for l in range(len(weight)) for _ in range(2 * l + 1)])
    out = torch.einsum("nsc,sdc->nsd", x, weight[degree])
    return torch.cat([out[:, :1] + bias, out[:, 1:]], dim=1)


def published(m: FeedForward, x: Tensor) -> Tensor:
    """Return what the published network computes on its grid."""
    to, back = grid(m.lmax)
    on_grid = linear(to @ degreewise(x, m.expand.weight, m.expand.bias), m.factors)
    first, second = on_grid.chunk(2, dim=2)
    gate = torch.sigmoid(m.gate(x[:, 0])).unsqueeze(1)
    u = back @ linear(first * gate * second, m.mix)
    p, q = m.scalars(x[:, 0]).chunk(2, dim=1)
    u = torch.cat([u[:, :1] + (silu(p) * q).unsqueeze(1), u[:, 1:]], dim=1)
    return degreewise(u, m.contract.weight, m.contract.bias)


def network(lmax: int = 2) -> FeedForward:
    module = FeedForward(EquiformerV3Config(**BASE, lmax=lmax, mmax=min(lmax, 2), channels=4,
                                            feed_forward_hidden=6)).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    return module.requires_grad_(False)


class TestFeedForward:
    @pytest.mark.parametrize("backend", ["reference", "auto"])
    @pytest.mark.parametrize("lmax", [0, 1, 2, 3, 4])
    def test_the_published_formula(self, lmax: int, backend: Any) -> None:
        module, x = network(lmax), torch.randn(5, (lmax + 1) ** 2, 4, dtype=torch.float64)
        expected = published(module, x)
        scale = float(expected.abs().max())
        torch.testing.assert_close(module(x, backend), expected, rtol=0, atol=1e-13 * scale)
        torch.testing.assert_close(module.requires_grad_(True)(x, backend), expected, rtol=0, atol=1e-13 * scale)

    def test_weights_that_change(self) -> None:
        """In place, by loading, in a copy, in another precision: what was merged is made again."""
        module, x = network(), torch.randn(5, 9, 4, dtype=torch.float64)
        for name in ("expand.weight", "expand.bias", "factors", "mix", "contract.weight"):
            before = module(x, "auto")
            assert module(x, "auto").equal(before)
            module.get_parameter(name).mul_(1.5)
            torch.testing.assert_close(module(x, "auto"), published(module, x), rtol=1e-12, atol=1e-11)
            assert not torch.allclose(module(x, "auto"), before)
        other = network()
        module.load_state_dict(other.state_dict())
        assert module(x, "auto").equal(other(x, "auto"))
        twin = copy.deepcopy(module)
        twin.mix.mul_(2)
        torch.testing.assert_close(twin(x, "auto"), published(twin, x), rtol=1e-12, atol=1e-11)
        assert module(x, "auto").equal(other(x, "auto"))
        single = copy.deepcopy(module).float()(x.float(), "auto")
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.double(), other(x, "auto"), rtol=1e-4, atol=1e-3)
        module.float().double()
        torch.testing.assert_close(module(x, "auto"), published(module, x), rtol=1e-12, atol=1e-11)
        assert not module(x, "auto").equal(other(x, "auto"))  # rounded

    def test_gradients_reach_all_factors(self) -> None:
        module, x = network().requires_grad_(True), torch.randn(5, 9, 4, dtype=torch.float64)
        parameters = list(module.parameters())
        ours, theirs = (torch.autograd.grad(f.square().sum(), parameters)
                        for f in (module(x, "auto"), published(module, x)))
        for a, b in zip(ours, theirs, strict=True):
            assert b.abs().max() > 0
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10 * float(b.abs().max()))

    def test_frozen_and_trained_again(self) -> None:
        module, x = network(), torch.randn(5, 9, 4, dtype=torch.float64)
        before = module(x, "auto")
        module.requires_grad_(True)
        module(x, "auto").sum().backward()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter -= 0.1 * parameter.grad
        module.requires_grad_(False)
        torch.testing.assert_close(module(x, "auto"), published(module, x), rtol=1e-10, atol=1e-10)
        assert not torch.allclose(module(x, "auto"), before)


class TestMerged:
    def test_made_once_for_constants_and_always_in_training(self) -> None:
        calls: list[int] = []

        def make(*weights: Tensor) -> tuple[Tensor, ...]:
            calls.append(1)
            return (weights[0] @ weights[1],)

        merged, a, b = Merged(), torch.randn(3, 3), torch.randn(3, 3)
        assert all(merged(make, a, b)[0].equal(a @ b) for _ in range(3))
        assert len(calls) == 1
        a.add_(1)
        assert merged(make, a, b)[0].equal(a @ b)
        assert merged(make, a, b.clone())[0].equal(a @ b)  # another tensor
        with torch.inference_mode():
            inside = merged(make, a, b)
        assert not inside[0].is_inference()
        b.requires_grad_(True)
        count = len(calls)
        assert all(merged(make, a, b)[0].requires_grad for _ in range(3))
        assert len(calls) == count + 3

    def test_copies_are_empty(self) -> None:
        merged, a = Merged(), torch.ones(3)
        merged(lambda w: (2 * w,), a)
        for twin in (copy.deepcopy(merged), copy.copy(merged), pickle.loads(pickle.dumps(merged)), merged.double()):
            assert twin(lambda w: (3 * w,), a)[0].equal(3 * a)

    def test_several_threads(self) -> None:
        merged, tensors = Merged(), [torch.full((3,), float(i)) for i in range(4)]

        def run(i: int) -> bool:
            return bool(merged(lambda w: (2 * w,), tensors[i % 4])[0].equal(2 * tensors[i % 4]))

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(run, range(400)))

    def test_a_potential_made_and_used_in_inference_mode(self) -> None:
        options = {"channels": 4, "num_layers": 1, "feed_forward_hidden": 4, "edge_channels": 4, "lmax": 2}
        structure = mlip.Structure.create([1, 1], [[0, 0, 0], [0, 0.7, 0.1]])
        with torch.inference_mode():
            inside = mlip.create("equiformer_v3", ["H"], **options).to(dtype="float64")
            (found,) = inside.evaluate([structure])
        (expected,) = mlip.create("equiformer_v3", ["H"], **options).to(dtype="float64").evaluate([structure])
        assert found.energy == expected.energy
        np.testing.assert_array_equal(found.forces, expected.forces)


def test_merged_norm() -> None:
    norm = MergedLayerNorm(2, 5).double()
    for parameter in norm.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(3, 9, 5, dtype=torch.float64)
    for i in range(3):
        y = x[i].clone()
        y[0] -= y[0].mean()
        squares = [y[l * l : (l + 1) ** 2].square().sum() / (2 * l + 1) / 5 for l in range(3)]
        y /= (sum(squares) / 3 + 1e-5) ** 0.5
        expected = torch.cat([y[l * l : (l + 1) ** 2] * norm.weight[l] for l in range(3)])
        expected[0] += norm.bias
        torch.testing.assert_close(norm(x)[i], expected, rtol=0, atol=1e-13)
