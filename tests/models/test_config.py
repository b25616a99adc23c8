"""Configurations: what is refused, and that nothing is lost on the way through JSON."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from mlip.errors import ConfigError, OptionError
from mlip.models import FAMILIES, REFERENCES, converter, family
from mlip.models.mace import MACEConfig

BASE: dict[str, Any] = {"atomic_numbers": (1, 8), "cutoff": 5.0}
NAN, INF = float("nan"), float("inf")
WRONG: dict[str, tuple[Any, ...]] = {
    "atomic_numbers": ((), (8, 1), (1, 1), (0, 1), (1, 119), (1.0, 8), (True, 8), ("H",), 5, None),
    "cutoff": (0, -1.0, 100, NAN, INF, "5", None, True),
    "heads": ((), ("a", "a"), "default", (1, 2), None),
    "channels": (0, -1, 5000, 8.0, "8", True, None),
    "hidden_lmax": (-1, 4, 1.0, None),
    "edge_lmax": (-1, 7, "3", None),
    "correlation": (0, 5, 2.5, None),
    "num_layers": (0, 17, "2"),
    "num_bessel": (0, 257, None),
    "cutoff_power": (1, 21, 5.0),
    "radial_mlp": ((0,), (64, -1), (64.0,), (True,), 64, None),
    "readout_width": (0, None),
    "avg_num_neighbors": (0, -2.0, NAN, INF, "many", None, True),
    "interaction_first": ("", "Residual", None, 1),
    "interaction": ("attention", ("plain",)),
    "distance_transform": ("soft", None),
    "pair_repulsion": ("no", 0, None),
    "scale_shift": ("True", 1, None),
    "tensor_product": ("", "Gaunt", "cg", None, True),
}
CASES = [(name, value) for name, values in WRONG.items() for value in values]


def test_every_field_is_covered() -> None:
    assert set(WRONG) == {field.name for field in dataclasses.fields(MACEConfig)}


@pytest.mark.parametrize(("name", "value"), CASES, ids=[f"{n}={v!r}" for n, v in CASES])
def test_wrong_values(name: str, value: Any) -> None:
    for make in (lambda c: MACEConfig(**c), MACEConfig.from_dict):
        with pytest.raises(ConfigError, match=name) as caught:
            make({**BASE, name: value})
        assert "was given" in str(caught.value)


def test_degree_of_features_is_limited_by_the_edges() -> None:
    with pytest.raises(ConfigError, match="hidden_lmax must be a whole number from 0 to 1"):
        MACEConfig(**BASE, hidden_lmax=2, edge_lmax=1)


def test_antisymmetric_terms_must_exist() -> None:
    for terms in ({"correlation": 3}, {"correlation": 4, "hidden_lmax": 0}):
        assert MACEConfig(**BASE, tensor_product="gaunt_antisymmetric", **terms).gaunt_convolution
    for none in ({"correlation": 2}, {"correlation": 3, "hidden_lmax": 0},
                 {"correlation": 3, "num_layers": 1}, {"correlation": 4, "hidden_lmax": 0, "edge_lmax": 0}):
        with pytest.raises(ConfigError, match=r"needs edge_lmax=1 or more and correlation=4.*'gaunt_full' leaves out"):
            MACEConfig(**BASE, tensor_product="gaunt_antisymmetric", **none)


def test_unknown_fields() -> None:
    with pytest.raises(ConfigError, match=r"unknown mace option\(s\) chanels, layers; known: .*channels"):
        MACEConfig.from_dict({**BASE, "chanels": 8, "layers": 2})
    with pytest.raises(ConfigError, match="unknown"):
        MACEConfig.from_dict({**BASE, 5: 8})


def test_missing_fields() -> None:
    with pytest.raises(ConfigError, match="cutoff"):
        MACEConfig.from_dict({"atomic_numbers": (1, 8)})


def test_round_trip_through_json() -> None:
    config = MACEConfig(atomic_numbers=(1, 6, 8), cutoff=4.5, heads=("pbe", "cc"), radial_mlp=(), hidden_lmax=0,
                        interaction="density", pair_repulsion=True, avg_num_neighbors=11.25)
    assert MACEConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        MACEConfig(**BASE).cutoff = 4.0  # type: ignore[misc]


def test_layers() -> None:
    config = MACEConfig(**BASE, num_layers=3, hidden_lmax=2, interaction_first="plain", interaction="density")
    assert [config.layer_lmax(t) for t in range(3)] == [2, 2, 0]
    assert [config.layer_interaction(t) for t in range(3)] == ["plain", "density", "density"]


def test_families() -> None:
    for name in FAMILIES:
        assert family(name).config.family == name
        assert callable(family(name).model)
    for wrong in ("MACE", "", None, ["mace"]):
        with pytest.raises(OptionError, match="known: mace"):
            family(wrong)  # type: ignore[arg-type]


def test_references() -> None:
    assert list(REFERENCES) == ["mace", "mace_gaunt", "equiformer_v3"]
    for name in REFERENCES:
        assert callable(converter(name))
    for wrong in ("MACE-Gaunt", "", None, ["mace"]):
        with pytest.raises(OptionError, match="known: mace, mace_gaunt, equiformer_v3"):
            converter(wrong)  # type: ignore[arg-type]
