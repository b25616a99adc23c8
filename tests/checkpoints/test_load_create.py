"""Making and loading potentials: seeds, precision, state of the process, round trips, errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule

from mlip import Potential, create, load
from mlip.checkpoints import ModelInfo, bundled
from mlip.checkpoints.create import from_weights
from mlip.errors import (
    ConfigError,
    ModelFileError,
    ModelNotFoundError,
    OptionError,
    StructureError,
    UnsupportedModelError,
)
from mlip.graph import Structure

TINY: dict[str, Any] = {"channels": 4, "edge_lmax": 2, "hidden_lmax": 1, "correlation": 2, "radial_mlp": (4,),
                        "num_bessel": 3, "readout_width": 2}


def tiny(seed: int = 0, **options: Any) -> Potential:
    return create("mace", ["H", "O"], seed, **{**TINY, **options})


def same_weights(a: Potential, b: Potential) -> bool:
    x, y = a.model.state_dict(), b.model.state_dict()
    return x.keys() == y.keys() and all(x[k].dtype == y[k].dtype and torch.equal(x[k], y[k]) for k in x)


@pytest.fixture
def torch_defaults() -> Iterator[None]:
    """Put torch's defaults back."""
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)


class TestCreate:
    def test_the_seed_decides(self) -> None:
        assert same_weights(tiny(1), tiny(1))
        assert tiny(1).info.sha256 == tiny(1).info.sha256
        assert not same_weights(tiny(1), tiny(2))

    def test_the_order_of_the_elements_does_not(self) -> None:
        potentials = [create("mace", elements, 1, **TINY)
                      for elements in (["H", "O"], ["O", "H"], (8, 1), ["O", 1, "H"], np.array([8, 1]))]
        assert all(p.elements == ("H", "O") for p in potentials)
        assert all(same_weights(p, potentials[0]) for p in potentials)

    def test_nor_the_defaults_of_torch(self, torch_defaults: None) -> None:
        expected = tiny(1)
        torch.set_default_dtype(torch.float64)
        assert same_weights(tiny(1), expected)
        assert torch.get_default_dtype() == torch.float64
        torch.set_default_device("meta")
        found = tiny(1)
        assert found.device.type == "cpu"
        torch.set_default_device(None)
        assert same_weights(found, expected)

    def test_nor_the_random_state_which_is_left_alone(self) -> None:
        torch.manual_seed(5)
        numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002
        state = torch.get_rng_state()
        first = tiny(1)
        assert torch.equal(torch.get_rng_state(), state)
        assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002
        torch.manual_seed(99)
        assert same_weights(tiny(1), first)

    def test_state_of_the_process(self) -> None:
        before = (torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled(),
                  torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision())
        tiny().predict(molecule("H2O"))
        assert before == (torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled(),
                          torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision())

    @pytest.mark.parametrize("dtype", ["float64", "double", torch.float64])
    def test_precision(self, dtype: Any) -> None:
        double = tiny(1, dtype=dtype)
        assert double.dtype == torch.float64
        assert same_weights(double.to(dtype="float32"), tiny(1))

    def test_weights_do_not_ask_for_gradients(self) -> None:
        assert not any(p.requires_grad for p in tiny().model.parameters())
        assert not tiny().model.training

    def test_inside_inference_mode(self) -> None:
        expected = tiny(1).predict(molecule("H2O")).forces
        with torch.inference_mode():
            potential = tiny(1)
        np.testing.assert_array_equal(potential.predict(molecule("H2O")).forces, expected)

    @pytest.mark.parametrize(("call", "error", "match"), [
        (lambda: create("nequip", ["H"]), OptionError, "known: mace"),
        (lambda: create("mace", "H"), ConfigError, "must be a list"),
        (lambda: create("mace", []), ConfigError, "atomic_numbers"),
        (lambda: create("mace", ["Q"]), StructureError, "'Q' is no chemical element"),
        (lambda: create("mace", [0]), StructureError, "no chemical element"),
        (lambda: create("mace", ["H"], chanels=8), ConfigError, "chanels"),
        (lambda: create("mace", ["H"], atomic_numbers=(8,)), ConfigError, "elements once"),
        (lambda: create("mace", ["H"], channels=0), ConfigError, "channels"),
        (lambda: create("mace", ["H"], cutoff=-1.0), ConfigError, "cutoff"),
        (lambda: create("mace", ["H"], dtype="float16"), OptionError, "float16"),
        (lambda: create("mace", ["H"], dtype=torch.int64), OptionError, "int64"),
    ])
    def test_errors(self, call: Callable[[], Potential], error: type[Exception], match: str) -> None:
        with pytest.raises(error, match=match):
            call()


class TestRoundTrip:
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_bit_by_bit(self, dtype: str, tmp_path: Path) -> None:
        potential = tiny(4, dtype=dtype, heads=("a", "b"), pair_repulsion=True, distance_transform="agnesi")
        potential.model.atomic_energies.copy_(torch.tensor([[-13.5, -2041.123456789012], [1 / 3, 2 / 3]]))
        potential.model.scale.copy_(torch.tensor([0.3, 0.7]))
        path = potential.save(tmp_path / "p.mlip")
        assert potential.path == path.resolve()
        found = load(path)
        assert same_weights(found, potential)
        assert found.dtype == potential.dtype
        assert found.model.config == potential.model.config
        assert found.info == potential.info
        assert found.path == path.resolve()
        structure = Structure.create([8, 1, 1], [[0, 0, 0], [0, 0, 1], [1, 0, 0]], head="b")
        (a,), (b,) = potential.evaluate([structure]), found.evaluate([structure])
        assert a.energy == b.energy
        np.testing.assert_array_equal(a.forces, b.forces)

    def test_names_and_paths(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        potential = tiny()
        path = potential.save(str(tmp_path / "p.mlip"))
        monkeypatch.chdir(tmp_path)
        for name in (path, str(path), "p.mlip", Path("p.mlip"), "./p.mlip"):
            assert same_weights(load(name), potential)
        monkeypatch.setenv("HOME", str(tmp_path))
        assert same_weights(load("~/p.mlip"), potential)

    def test_precision_and_device_of_loading(self, tmp_path: Path) -> None:
        path = tiny(1).save(tmp_path / "p.mlip")
        double = load(path, device="cpu", dtype="float64")
        assert double.dtype == torch.float64
        assert same_weights(double, tiny(1).to(dtype="float64"))
        for options, match in (({"dtype": "int8"}, "int8"), ({"device": "tpu"}, "tpu"), ({"device": "meta"}, "meta")):
            with pytest.raises(OptionError, match=match):
                load(path, **options)
        if not torch.cuda.is_available():
            with pytest.raises(OptionError, match="no CUDA device"):
                load(path, device="cuda")

    def test_the_papers_survive(self, tmp_path: Path) -> None:
        info = ModelInfo(family="mace", name="water", licence="CC0-1.0", citation="A. Author, 2026",
                         training_data="ten waters", validation={"energy_mae_mev_per_atom": 0.125})
        found = load(Potential(tiny().model, info).save(tmp_path / "p.mlip")).info
        assert {**found.to_dict(), "sha256": ""} == info.to_dict()

    def test_loading_draws_no_random_numbers_others_would_see(self, tmp_path: Path) -> None:
        path = tiny().save(tmp_path / "p.mlip")
        state = torch.get_rng_state()
        load(path)
        assert torch.equal(torch.get_rng_state(), state)


class TestTo:
    def test_nothing_to_do(self) -> None:
        potential = tiny()
        assert potential.to() is potential
        assert potential.to(device="cpu", dtype=torch.float32) is potential

    def test_a_copy_and_back(self) -> None:
        potential = tiny()
        double = potential.to(dtype="double")
        assert same_weights(double.to(dtype="single"), potential)
        assert potential.dtype == torch.float32
        assert double.path == potential.path
        assert double.info.family == "mace"

    def test_energies_agree(self) -> None:
        potential = tiny()
        a, b = potential.predict(molecule("H2O")), potential.to(dtype="float64").predict(molecule("H2O"))
        assert a.energy == pytest.approx(b.energy, abs=1e-5)
        assert a.forces.dtype == b.forces.dtype == np.float64
        np.testing.assert_allclose(a.forces, b.forces, atol=1e-5)


class TestErrors:
    def test_no_such_model(self, tmp_path: Path) -> None:
        for name in ("no-such-model", tmp_path / "absent.mlip"):
            with pytest.raises(ModelNotFoundError, match="bundled models"):
                load(name)

    def test_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ModelFileError, match="is a folder"):
            load(tmp_path)

    @pytest.mark.parametrize("wrong", [None, 5, b"x.mlip", ["a"]])
    def test_no_name(self, wrong: Any) -> None:
        with pytest.raises(OptionError, match="name or path"):
            load(wrong)

    def test_weights_that_do_not_fit(self) -> None:
        potential = tiny()
        weights, info = potential.model.state_dict(), ModelInfo(family="mace")
        config = potential.model.config
        assert same_weights(from_weights(config, weights, info), potential)
        for changed, match in (
            ({k: v for k, v in weights.items() if k != "embedding"}, "embedding"),
            ({**weights, "more": torch.zeros(2)}, "more"),
            ({**weights, "embedding": torch.zeros(2, 5)}, "embedding"),
            ({**weights, "embedding": weights["embedding"].double()}, "float32"),
            ({k: v.half() for k, v in weights.items()}, "float16"),
        ):
            with pytest.raises(UnsupportedModelError, match=match):
                from_weights(config, changed, info)

    def test_other_units(self) -> None:
        with pytest.raises(ModelFileError, match="kcal"):
            ModelInfo.from_dict({"family": "mace", "units": {"energy": "kcal/mol"}})
        with pytest.raises(ModelFileError, match="colour"):
            ModelInfo.from_dict({"family": "mace", "colour": "red"})


def test_bundled_models_load_and_predict() -> None:
    assert all(path.is_file() for path in bundled().values())
    for name in bundled():
        potential = load(name)
        assert potential.info.licence != "unknown", name
        atoms = Atoms(potential.elements[0] * 2, [[0, 0, 0], [0, 0, 1.5]])
        assert np.isfinite(potential.predict(atoms).forces).all()
