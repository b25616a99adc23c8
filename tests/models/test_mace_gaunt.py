"""MACE-Gaunt: the published models to the last digits, the spherical grid of e3nn, brackets, training."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import mlip
from mlip import Potential
from mlip.checkpoints import from_reference
from mlip.errors import OptionError, UnsupportedModelError
from mlip.graph.labelled import Labelled
from mlip.io.ase import structure_of
from mlip.models.mace import MACEConfig
from mlip.models.mace.config import TENSOR_PRODUCTS
from mlip.models.mace.gaunt import Brackets, GauntProduct
from mlip.nn.derivatives import evaluate
from mlip.ops import compiled_is_available, gaunt_product
from mlip.so3.degrees import block, size
from mlip.training import TrainingConfig, split, train

CASES = ("gaunt_ref_l2_c2_n2", "gaunt_ref_l2_c3_n2", "gaunt_ref_l3_c3_n2_L2")
needs_kernels = pytest.mark.skipif(not compiled_is_available(), reason="the compiled kernels are not installed")
BACKENDS = [pytest.param("compiled", marks=needs_kernels), "reference"]
GAUNT = [name for name in TENSOR_PRODUCTS if name != "clebsch_gordan"]
SMALL: dict[str, Any] = {"channels": 3, "edge_lmax": 2, "radial_mlp": (8,), "avg_num_neighbors": 2.0, "cutoff": 4.0}


def small(tensor_product: str, dtype: str = "float64", **options: Any) -> Potential:
    return mlip.create("mace", ["H", "C", "O"], dtype=dtype, tensor_product=tensor_product, **{**SMALL, **options})


def read(golden_file: Any, shared_dir: Path, name: str) -> Any:
    return golden_file.read(shared_dir / "golden" / "gaunt_mace" / f"{name}.npz")


class TestPublished:
    @pytest.mark.parametrize("backend", BACKENDS)
    @pytest.mark.parametrize("name", CASES)
    def test_golden(self, name: str, shared_dir: Path, golden_file: Any, backend: str) -> None:
        golden = read(golden_file, shared_dir, name)
        potential = from_reference("mace_gaunt", golden.weights(), golden.config).to(backend=backend)
        assert potential.model.config.tensor_product == "gaunt"  # type: ignore[attr-defined]
        for i, (structure, found) in enumerate(zip(golden.structures, potential.evaluate(golden.structures),
                                                   strict=True)):
            assert found.energy == pytest.approx(golden[i, "energy"].item(), rel=0, abs=1e-10)
            np.testing.assert_allclose(found.forces, golden[i, "forces"], rtol=0, atol=1e-11)
            if i == 0:
                np.testing.assert_allclose(found.energies, golden[i, "node_energy"], rtol=0, atol=1e-10)
            assert (found.stress is None) == (structure.volume is None)

    @pytest.mark.parametrize("backend", BACKENDS)
    @pytest.mark.parametrize(("dtype", "radial", "tolerance"), [
        ("float32", "exact", 1e-5), ("float64", "tabulated", 1e-7)])
    def test_to_scale(self, shared_dir: Path, golden_file: Any, backend: str, dtype: str, radial: str,
                      tolerance: float) -> None:
        golden = read(golden_file, shared_dir, CASES[-1])
        weights = golden.weights(getattr(torch, dtype))
        potential = from_reference("mace_gaunt", weights, golden.config).to(backend=backend, radial=radial)
        for i, structure in enumerate(golden.structures):
            (found,) = potential.evaluate([structure])
            scale = max(1.0, float(np.abs(golden[i, "forces"]).max()))
            np.testing.assert_allclose(found.forces, golden[i, "forces"], rtol=0, atol=tolerance * scale)

    def test_what_is_refused(self, shared_dir: Path, golden_file: Any) -> None:
        golden = read(golden_file, shared_dir, CASES[0])
        for change, words in (({"model_class": "ScaleShiftMACE"}, "mace_gaunt: model_class 'ScaleShiftMACE'"),
                              ({"model_class": ""}, "mace_gaunt: model_class ''"),
                              ({"num_radial_coupling": 2}, "num_radial_coupling must be 1"),
                              ({"correlation": 3}, "weights"), ({"max_ell": 3}, "mace"), ({"r_max": 4.0}, "r_max")):
            with pytest.raises(UnsupportedModelError, match=words):
                from_reference("mace_gaunt", golden.weights(), {**golden.config, **change})
        for key in ("products.1.efficient_multi_tensorproduct.weights.2", "products.0.linear.weight",
                    "interactions.1.conv_tp_weights.layer3.weight", "scale_shift.scale"):
            weights = golden.weights()
            del weights[key]
            with pytest.raises(UnsupportedModelError, match=key.replace(".", r"\.")):
                from_reference("mace_gaunt", weights, golden.config)
        with pytest.raises(UnsupportedModelError, match="mystery"):
            from_reference("mace_gaunt", {**golden.weights(), "mystery.weight": torch.ones(3)}, golden.config)
        with pytest.raises(UnsupportedModelError):  # the weights of MACE are no weights of MACE-Gaunt
            from_reference("mace", golden.weights(), {**golden.config, "model_class": "ScaleShiftMACE"})
        with pytest.raises(OptionError, match="known: mace, mace_gaunt"):
            from_reference("mace-gaunt", golden.weights(), golden.config)

    def test_all_are_listed(self, shared_dir: Path) -> None:
        assert sorted(p.stem for p in (shared_dir / "golden" / "gaunt_mace").glob("gaunt_ref_*.npz")) == sorted(CASES)


def sequential_powers(x: Tensor, orders: int, lmax: int) -> list[Tensor]:
    """Return the powers as the spherical-grid variant makes them: one product after another, and nothing is cut.

    Every signal has the normalisation of a grid of its own degree.
    """
    def scale(l: int) -> Tensor:
        return torch.tensor([math.sqrt(4 * math.pi / ((2 * k + 1) * (l + 1))) for k in range(l + 1)
                             for _ in range(2 * k + 1)], dtype=x.dtype)

    out = [x]
    for order in range(2, orders + 1):
        factors = out[-1] * scale((order - 1) * lmax), x * scale(lmax)
        out.append(gaunt_product(*factors, method="fourier") / scale(order * lmax))
    return out


def grid_powers(x: Tensor, orders: int, lmax: int) -> list[Tensor]:
    """Return the same by the grids of e3nn, whose weights are float32."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # e3nn's own
        from e3nn.o3 import FromS2Grid, ToS2Grid
    out = [x]
    for order in range(2, orders + 1):
        before, resolution = (order - 1) * lmax, (2 * (2 * order * lmax + 1), 4 * order * lmax + 1)
        first, second = (ToS2Grid(l, resolution, dtype=x.dtype) for l in (before, lmax))
        back = FromS2Grid(resolution, order * lmax, dtype=x.dtype)
        out.append(back(first(out[-1]) * second(x)))
    return out


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("powers", "tolerance"), [(sequential_powers, 1e-12), (grid_powers, 1e-5)])
def test_the_grid_variant_multiplies_on_grids(powers: Any, tolerance: float, backend: Any) -> None:
    if powers is grid_powers:
        pytest.importorskip("e3nn")
    config = MACEConfig(atomic_numbers=(1, 8), cutoff=4.0, channels=4, hidden_lmax=1, edge_lmax=2, correlation=3,
                        tensor_product="gaunt_grid")
    product = GauntProduct(config, 0).double()
    product.linear.weight.data.copy_(2.0 * torch.eye(4))  # times 1 / sqrt(4)
    messages, elements = torch.randn(5, size(2), 4, dtype=torch.float64), torch.tensor([0, 1, 1, 0, 1])
    found = product(messages, None, elements, backend).detach()
    expected = torch.zeros_like(found)
    for order, power in enumerate(powers(messages.mT, 3, 2)):
        for l in range(2):
            expected[:, block(l)] += power.mT[:, block(l)] * product.weights.detach()[elements, order, l].unsqueeze(1)
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * float(expected.abs().max()))


class TestAntisymmetric:
    def test_without_brackets_it_is_the_full_variant(self, structures: dict[str, Any]) -> None:
        for options in ({"correlation": 3, "hidden_lmax": 1}, {"correlation": 4, "hidden_lmax": 0}):
            ours, full = small("gaunt_antisymmetric", **options), small("gaunt_full", **options)
            state = ours.model.state_dict()
            full.model.load_state_dict({k: v for k, v in state.items() if ".brackets." not in k})
            brackets = [m for m in ours.model.modules() if isinstance(m, Brackets)]
            assert brackets
            atoms = structures["molecule"]
            assert abs(ours.predict(atoms).energy - full.predict(atoms).energy) > 1e-6
            for module in brackets:
                module.weights.data.zero_()
            one, other = ours.predict(atoms), full.predict(atoms)
            assert one.energy == pytest.approx(other.energy, rel=0, abs=1e-11)
            np.testing.assert_allclose(one.forces, other.forces, rtol=0, atol=1e-11)

    def test_where_there_are_brackets(self) -> None:
        """Not to scalars with three factors: the mean of a bracket over the sphere is zero."""
        third = small("gaunt_antisymmetric", correlation=3, hidden_lmax=1, num_layers=2).model
        assert [p.brackets is not None for p in third.products] == [True, False]  # type: ignore[attr-defined]
        fourth = small("gaunt_antisymmetric", correlation=4, hidden_lmax=1, num_layers=2).model
        assert [len(p.brackets.products) for p in fourth.products] == [2, 1]  # type: ignore[attr-defined]

    def test_intermediate_degrees_go_as_far_as_they_matter(self) -> None:
        config = MACEConfig(atomic_numbers=(1,), cutoff=4.0, channels=2, hidden_lmax=1, edge_lmax=3, correlation=3,
                            tensor_product="gaunt_antisymmetric")
        assert Brackets(config, 1).bracket[1:4] == (3, 3, 4)
        assert Brackets(config, 3).bracket[1:4] == (3, 3, 5)  # of two factors there is no more


@pytest.mark.parametrize("name", GAUNT)
class TestVariants:
    def test_weights(self, name: str) -> None:
        """The Gaunt convolution has one radial weight for each degree, and one message."""
        layer = small(name, hidden_lmax=1).model.interactions[1]  # type: ignore[index]
        full = name in ("gaunt_full", "gaunt_antisymmetric")
        assert layer.paths.gaunt == full  # type: ignore[union-attr]
        assert layer.radial.weights[-1].shape[1] == (3 if full else 7) * 3  # type: ignore[union-attr, index]

    @needs_kernels
    def test_derivatives_of_forces_by_weights(self, name: str, structures: dict[str, Any]) -> None:
        potential = small(name, correlation=4, hidden_lmax=1)
        graph = potential.graph([structure_of(structures["molecule"])])
        gradients = []
        for backend in ("compiled", "reference"):
            model = potential.to(backend=backend).model.requires_grad_(True)
            result = evaluate(model, graph, training=True)
            assert result.forces is not None
            loss = result.forces.square().sum() + result.energy.square().sum()
            gradients.append(torch.autograd.grad(loss, list(model.parameters())))
        for a, b in zip(*gradients, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9 * max(1.0, float(b.abs().max())))

    def test_file(self, name: str, tmp_path: Path, structures: dict[str, Any]) -> None:
        potential = small(name, hidden_lmax=1)
        again = mlip.load(potential.save(tmp_path / "model.mlip"))
        assert again.model.config == potential.model.config
        assert again.predict(structures["molecule"]).energy == potential.predict(structures["molecule"]).energy

    def test_it_learns(self, name: str, tmp_path: Path, structures: dict[str, Any]) -> None:
        teacher = small("clebsch_gordan", hidden_lmax=1)
        structure = structure_of(structures["molecule"])
        generator, examples = np.random.default_rng(0), []
        for _ in range(8):
            moved = mlip.Structure.create(structure.numbers,
                                          structure.positions + generator.normal(0, 0.05, structure.positions.shape))
            (found,) = teacher.evaluate([moved])
            examples.append(Labelled(moved, found.energy, found.forces))
        config = TrainingConfig(epochs=6, batch_size=2, learning_rate=0.02, ema_decay=0.5)
        train(small(name, hidden_lmax=1), *split(examples, 0.1, 0), tmp_path, config)
        rows = (tmp_path / "log.csv").read_text().splitlines()[1:]
        errors = [float(row.split(",")[3]) for row in rows]
        assert errors[-1] < errors[0]
