"""Weights of the published EquiformerV3: prefixes, normalisers, references; the rest is refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mlip.checkpoints import from_reference
from mlip.errors import UnknownElementError, UnsupportedModelError
from mlip.models.equiformer_v3.reference import FIXED

OPTIONS: list[dict[str, Any]] = [
    {"model_class": "equiformer_v2"}, {"model_class": ""}, {"norm_type": "merge_rms_norm"}, {"norm_type": None},
    {"use_atom_edge_embedding": False}, {"use_envelope": False}, {"attn_activation": "s2_swiglu_mem"},
    {"ffn_activation": "sep-merge_s2_swiglu"}, {"use_attn_renorm": False}, {"use_add_merge": True},
    {"use_rad_l_parametrization": False}, {"softcap": 50.0}, {"use_grid_mlp": False}, {"use_head_reg": True},
    {"use_gate_force_head": False}, {"alpha_drop": 0.1}, {"attn_grid_resolution_list": [8, 6]},
    {"attn_grid_resolution_list": [6, 8]}, {"ffn_grid_resolution_list": [9, 8]}, {"ffn_grid_resolution_list": [8, 6]},
    {"avg_num_nodes": 0}, {"avg_num_nodes": -1.0}, {"avg_num_nodes": float("nan")}, {"direct_prediction": True},
]
VALUES: list[dict[str, Any]] = [  # of our own configuration, or other sizes than the tensors have
    {"lmax": 1}, {"lmax": 2.5}, {"lmax": "2"}, {"mmax": 1}, {"mmax": 3}, {"num_channels": 8}, {"num_layers": 1},
    {"num_layers": 3}, {"num_heads": 4}, {"attn_hidden_channels": 4}, {"attn_alpha_channels": 4},
    {"attn_value_channels": 8}, {"ffn_hidden_channels": 16}, {"edge_channels": 8}, {"num_radial_basis": 17},
    {"max_radius": -1.0}, {"avg_degree": 0.0}, {"attn_eps": 0.0}, {"nonsmooth_max_neighbors": 0},
    {"nonsmooth_max_neighbors": 2.5}, {"element_references": [0.0] * 119}, {"element_references": [0.0, float("nan")]},
    {"element_references": [0.0] * 9 + [1.0]},  # of an element without embedding
]
NORMALIZERS = [({"energy": {"mean": 0.0}}, "energy"), ({"energy": {"rmsd": 0.0}}, "energy"),
               ({"energy": {"rmsd": -1.0}}, "energy"), ({"forces": {"rmsd": float("nan")}}, "forces"),
               ({"forces": {"mean": 0.5, "rmsd": 1.0}}, "forces"), ({"stress": {"mean": 0.5, "rmsd": 1.0}}, "stress"),
               ({"energy": {"rmsd": 2.0}, "forces": {"rmsd": 3.0}}, "energy and forces"),
               ({"energy": {"rmsd": 2.0}, "forces": {"rmsd": 2.0}, "stress": {"rmsd": 1.0}}, "energy and stress")]
REFERENCES = {1: -3.5, 8: -8.25}  # eV


def name_of(change: dict[str, Any]) -> str:
    return " ".join(f"{k}={str(v)[:30]}" for k, v in change.items())


def convert(water: Any, weights: Any = None, **config: Any) -> Any:
    return from_reference("equiformer_v3", water.weights() if weights is None else weights,
                          {**water.config, **config})


class TestRefused:
    @pytest.mark.parametrize("change", OPTIONS, ids=name_of)
    def test_options(self, water: Any, change: dict[str, Any]) -> None:
        (name,) = change
        with pytest.raises(UnsupportedModelError, match="direct forces" if name == "direct_prediction" else name):
            convert(water, **change)

    def test_every_fixed_option_is_tried(self) -> None:
        assert {*FIXED} <= {name for change in OPTIONS for name in change}

    @pytest.mark.parametrize("change", VALUES, ids=name_of)
    def test_values(self, water: Any, change: dict[str, Any]) -> None:
        with pytest.raises(UnsupportedModelError):
            convert(water, **change)

    @pytest.mark.parametrize("option", ["lmax", "max_radius", "num_radial_basis"])
    def test_missing_options(self, water: Any, option: str) -> None:
        with pytest.raises(UnsupportedModelError, match=option):
            from_reference("equiformer_v3", water.weights(), {k: v for k, v in water.config.items() if k != option})

    def test_every_tensor_is_needed_in_its_shape(self, water: Any) -> None:
        weights = water.weights()
        for key, tensor in weights.items():
            with pytest.raises(UnsupportedModelError, match=key.replace(".", r"\.")):
                convert(water, {k: v for k, v in weights.items() if k != key})
            flat = tensor.reshape(-1)
            for wrong in (torch.cat([flat, flat[:1]]), flat[:-1]):
                with pytest.raises(UnsupportedModelError):
                    convert(water, {**weights, key: wrong})

    @pytest.mark.parametrize("key", ["foo.weight", "blocks.2.ga.alpha_dot", "blocks.0.ffn.grid_mlp.grid_linear_1.bias",
                                     "force_block.alpha_dot", "dens_block.alpha_dot", "force_embedding.weight"])
    def test_left_over_tensors(self, water: Any, key: str) -> None:
        with pytest.raises(UnsupportedModelError, match=key.replace(".", r"\.")):
            convert(water, {**water.weights(), key: torch.ones(3, dtype=torch.float64)})

    @pytest.mark.parametrize(("normalizers", "words"), NORMALIZERS)
    def test_normalizers(self, water: Any, normalizers: dict[str, Any], words: str) -> None:
        with pytest.raises(UnsupportedModelError, match=words):
            convert(water, normalizers=normalizers)


class TestAccepted:
    @pytest.mark.parametrize("prefix", ["module.", "_orig_mod.module.", "module._orig_mod.", "_orig_mod."])
    def test_prefixes(self, water: Any, prefix: str) -> None:
        found = convert(water, {prefix + k: v for k, v in water.weights().items()})
        assert found.info.sha256 == convert(water).info.sha256

    def test_constants_may_be_there(self, water: Any) -> None:
        extra = {"distance_expansion.offset": torch.ones(16), "norm.expand_index": torch.ones(9, dtype=torch.int64),
                 "blocks.0.ga.act.so3_grid.to_grid_mat": torch.ones(64, 9),
                 "blocks.1.ga.so3_rotation.wigner_inv_rescale": torch.ones(1, 9, 9)}
        assert convert(water, {**water.weights(), **extra}).info.sha256 == convert(water).info.sha256

    def test_max_neighbors_is_not_applied(self, water: Any) -> None:
        plain, limited = convert(water, max_neighbors=1), convert(water, nonsmooth_max_neighbors=1)
        assert plain.model.config.nonsmooth_max_neighbors is None
        energy = water["out/energy"].item()
        assert plain.evaluate([water.structure])[0].energy == pytest.approx(energy, rel=0, abs=1e-12)
        assert abs(limited.evaluate([water.structure])[0].energy - energy) > 1e-3

    def test_options_of_other_files(self, water: Any) -> None:
        """Activation checkpoints, dropout and options that are not there change nothing."""
        expected = convert(water).info.sha256
        other = {"attn_activation": "sep-merge_gates2_swiglu_mem", "drop_path_rate": 0.05}
        assert convert(water, **other).info.sha256 == expected
        few = {k: v for k, v in water.config.items() if k not in FIXED and "grid" not in k and k != "model_class"}
        assert from_reference("equiformer_v3", water.weights(), few).info.sha256 == expected

    def test_defaults_of_the_published_constructor(self, water: Any) -> None:
        few = {k: v for k, v in water.config.items() if k not in ("avg_num_nodes", "avg_degree", "attn_eps")}
        found = from_reference("equiformer_v3", water.weights(), few)
        assert (found.model.config.avg_num_neighbors, found.model.config.attention_eps) == (23.395238876342773, 1e-16)
        (alone,), energy = found.evaluate([water.structure]), water["out/energy"].item()
        assert alone.energy == pytest.approx(energy / 77.81317, rel=1e-12)

    def test_divided_by_the_number_of_atoms(self, water: Any) -> None:
        (found,) = convert(water, avg_num_nodes=4).evaluate([water.structure])
        assert found.energy == pytest.approx(water["out/energy"].item() / 4, rel=1e-13)
        np.testing.assert_allclose(found.forces, water["out/forces"] / 4, rtol=0, atol=1e-14)


class TestPhysicalUnits:
    def references(self) -> list[float]:
        return [REFERENCES.get(z, 0.0) for z in range(119)]

    @pytest.mark.parametrize("name", ["rmsd", "std"])
    @pytest.mark.parametrize("make", [list, np.float32, torch.tensor], ids=["list", "numpy", "torch"])
    def test_energy_and_forces(self, water: Any, make: Any, name: str) -> None:
        """E = rmsd E_model + mean + references; forces = rmsd F_model; also of two molecules in one batch."""
        normalizers = {t: {"mean": torch.tensor(m), name: torch.tensor(2.5)}
                       for t, m in (("energy", 0.75), ("forces", 0.0), ("stress", 0.0))}
        potential = convert(water, normalizers=normalizers, element_references=make(self.references()))
        assert potential.elements == ("H", "O")
        (isolated,) = potential.model.atomic_energies.tolist()
        assert isolated == [-3.5, -8.25]
        expected = 2.5 * water["out/energy"].item() + 0.75 + 2 * -3.5 - 8.25
        for found in potential.evaluate([water.structure] * 2):
            assert found.energy == pytest.approx(expected, rel=0, abs=1e-12)
            assert found.energies.sum() == pytest.approx(expected, rel=0, abs=1e-12)
            np.testing.assert_allclose(found.forces, 2.5 * water["out/forces"], rtol=0, atol=1e-13)

    def test_stress(self, published: Any) -> None:
        golden = published("equiformer_v3/cu4_l3m2")
        (found,) = golden.potential(normalizers={t: {"rmsd": 0.5} for t in ("energy", "forces", "stress")}).evaluate(
            [golden.structure])
        np.testing.assert_allclose(found.stress, 0.5 * golden["out/stress"], rtol=0, atol=1e-13)

    def test_each_factor_of_a_direct_model(self, published: Any) -> None:
        golden = published("equiformer_v3_direct/nacl8_direct_dens_l2m2")
        factors = {"energy": 2.0, "forces": 3.0, "stress": 5.0}
        normalizers = {t: {"mean": 0.0, "rmsd": f} for t, f in factors.items()}
        (found,) = golden.potential(normalizers=normalizers).evaluate([golden.structure])
        assert found.energy == pytest.approx(2 * golden["out/energy"].item(), rel=1e-13)
        np.testing.assert_allclose(found.forces, 3 * golden["out/forces"], rtol=0, atol=1e-14)
        np.testing.assert_allclose(found.stress, 5 * golden["out/stress"], rtol=0, atol=1e-14)

    def test_elements_that_were_not_in_the_data(self, water: Any) -> None:
        references = self.references()
        references[8] = 0.0
        potential = convert(water, element_references=references)
        assert potential.elements == ("H",)
        with pytest.raises(UnknownElementError, match=r"\bO\b"):
            potential.evaluate([water.structure])
