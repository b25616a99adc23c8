"""What cannot be imported is refused by name, never imported wrongly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mlip.checkpoints import from_reference
from mlip.errors import OptionError, UnsupportedModelError
from mlip.models.mace.reference import change_of_basis
from mlip.so3.symmetric_power import symmetric_basis

OPTIONS: list[dict[str, Any]] = [
    {"model_class": "AtomicDipolesMACE"}, {"model_class": None}, {"gate": "tanh"}, {"gate": None},
    {"radial_type": "gaussian"}, {"apply_cutoff": False}, {"use_reduced_cg": "some"}, {"use_so3": True},
    {"use_agnostic_product": True}, {"use_last_readout_only": True}, {"use_embedding_readout": True},
    {"embedding_specs": {"charge": {}}}, {"edge_irreps": "8x0e"}, {"readout_cls": "GeneralNonLinearBiasReadoutBlock"},
    {"interaction_cls": "RealAgnosticAttResidualInteractionBlock"}, {"interaction_cls_first": None},
    {"distance_transform": "Soft"}, {"hidden_irreps": "8x0e+8x1e"}, {"hidden_irreps": "8x0e+4x1o"},
    {"hidden_irreps": "8x1o"}, {"hidden_irreps": ""}, {"MLP_irreps": "16x0e+16x1o"}, {"correlation": 4},
    {"correlation": [3, 2]}, {"correlation": "three"}, {"max_ell": 7}, {"atomic_numbers": [8, 7, 6, 1]},
    {"num_interactions": 0}, {"avg_num_neighbors": None}, {"avg_num_neighbors": 0.0}, {"r_max": "far"},
]
MISFITS: list[dict[str, Any]] = [  # supported on their own, but not what the tensors belong to
    {"r_max": 6.0}, {"num_polynomial_cutoff": 6}, {"num_bessel": 9}, {"max_ell": 1}, {"correlation": 2},
    {"num_interactions": 1}, {"num_interactions": 3}, {"hidden_irreps": "8x0e"}, {"hidden_irreps": "4x0e+4x1o"},
    {"MLP_irreps": "8x0e"}, {"heads": ["a", "b"]}, {"radial_MLP": [64, 64]}, {"radial_MLP": [64, 64, 32]},
    {"model_class": "ScaleShiftMACE"}, {"pair_repulsion": True}, {"distance_transform": "Agnesi"},
    {"atomic_numbers": [1, 6, 7]}, {"atomic_numbers": [1, 6, 7, 9]},
    {"interaction_cls": "RealAgnosticDensityResidualInteractionBlock"},
]


def name_of(change: dict[str, Any]) -> str:
    return " ".join(f"{k}={v}" for k, v in change.items())


@pytest.mark.parametrize("change", [*OPTIONS, *MISFITS], ids=name_of)
def test_unsupported_or_misfitting_options(plain: Any, change: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        from_reference("mace", plain.weights(), {**plain.config, **change})
    assert "mace" in str(caught.value).lower()


@pytest.mark.parametrize("option", ["r_max", "hidden_irreps", "atomic_numbers", "avg_num_neighbors", "max_ell"])
def test_missing_option(plain: Any, option: str) -> None:
    config = plain.config
    del config[option]
    with pytest.raises(UnsupportedModelError, match=option):
        from_reference("mace", plain.weights(), config)


def test_every_tensor_with_weights_is_needed(plain: Any) -> None:
    for key, tensor in plain.weights().items():
        if tensor.ndim == 0 or not tensor.numel() or "_w3j_" in key:
            continue
        weights = plain.weights()
        del weights[key]
        with pytest.raises(UnsupportedModelError) as caught:
            from_reference("mace", weights, plain.config)
        assert key in str(caught.value)


def test_every_tensor_must_have_its_shape(plain: Any) -> None:
    for key, tensor in plain.weights().items():
        if tensor.ndim == 0 or not tensor.numel():
            continue
        for wrong in (torch.cat([tensor.reshape(-1), tensor.reshape(-1)[:1]]), tensor.reshape(-1)[:-1]):
            with pytest.raises(UnsupportedModelError):
                from_reference("mace", {**plain.weights(), key: wrong}, plain.config)


@pytest.mark.parametrize("key", ["foo.weight", "readouts.0.linear.bias", "interactions.0.linear.bias",
                                 "joint_embedding.weight", "interactions.2.linear.weight"])
def test_left_over_tensors(plain: Any, key: str) -> None:
    """Also a bias that is not empty: importing without it would give other energies."""
    with pytest.raises(UnsupportedModelError, match=key):
        from_reference("mace", {**plain.weights(), key: torch.ones(3, dtype=torch.float64)}, plain.config)


@pytest.mark.parametrize("key", ["r_max", "radial_embedding.cutoff_fn.p", "radial_embedding.cutoff_fn.r_max",
                                 "radial_embedding.bessel_fn.prefactor"])
def test_constants_that_contradict_the_options(plain: Any, key: str) -> None:
    weights = plain.weights()
    with pytest.raises(UnsupportedModelError, match=key):
        from_reference("mace", {**weights, key: weights[key] * 2}, plain.config)


def test_wrong_couplings(plain: Any) -> None:
    key = "products.0.symmetric_contractions.contractions.1.U_matrix_2"
    weights = plain.weights()
    with pytest.raises(UnsupportedModelError, match="Clebsch-Gordan"):
        from_reference("mace", {**weights, key: weights[key] + 0.01 * torch.randn_like(weights[key])}, plain.config)


def test_wrong_couplings_of_the_convolution(plain: Any) -> None:
    weights = plain.weights()
    (key,) = (k for k in weights if k.endswith("_w3j_1_1_2"))
    with pytest.raises(UnsupportedModelError, match="Clebsch-Gordan"):
        from_reference("mace", {**weights, key: -weights[key]}, plain.config)


def test_couplings_in_another_basis_give_the_same_energies(plain: Any) -> None:
    """Any basis of the couplings will do, as the weights go with it."""
    u = "products.0.symmetric_contractions.contractions.1.U_matrix_3"
    w = "products.0.symmetric_contractions.contractions.1.weights_max"
    weights = plain.weights()
    count = weights[u].shape[-1]
    mix = torch.eye(count, dtype=torch.float64) + 0.1 * torch.randn(count, count, dtype=torch.float64)
    other = {**weights, u: weights[u] @ mix, w: torch.einsum("ab,zbc->zac", torch.linalg.inv(mix), weights[w])}
    found, expected = (from_reference("mace", x, plain.config).evaluate(plain.structures) for x in (other, weights))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a.forces, b.forces, rtol=0, atol=1e-10)


def test_mixed_and_foreign_precision(plain: Any) -> None:
    weights = plain.weights()
    key = "interactions.0.linear_up.weight"
    with pytest.raises(UnsupportedModelError, match="float32"):
        from_reference("mace", {**weights, key: weights[key].float()}, plain.config)
    with pytest.raises(UnsupportedModelError):
        from_reference("mace", plain.weights(torch.float16), plain.config)


def test_numpy_arrays_and_optional_tensors(plain: Any) -> None:
    weights = {k: v.numpy() for k, v in plain.weights().items() if v.numel()}
    potential = from_reference("mace", weights, plain.config)
    assert potential.info.sha256 == from_reference("mace", plain.weights(), plain.config).info.sha256


def test_unknown_family(plain: Any) -> None:
    with pytest.raises(OptionError, match="known: mace"):
        from_reference("nequip", plain.weights(), plain.config)


@pytest.mark.parametrize(("lmax", "nu", "l"), [(2, 1, 1), (2, 2, 0), (2, 3, 1), (3, 2, 2)])
def test_change_of_basis_reproduces_polynomials(lmax: int, nu: int, l: int) -> None:
    basis = symmetric_basis(lmax, nu, l)
    m, count = (lmax + 1) ** 2, basis.coefficients.shape[1]
    mix = np.random.default_rng(0).normal(size=(count, count + 2))  # couplings may be linearly dependent
    u = np.zeros((2 * l + 1, *(m,) * nu, count + 2))
    for row, monomial in enumerate(basis.monomials.tolist()):
        u[(slice(None), *monomial)] = np.einsum("km,kq->mq", basis.coefficients[row], mix)
    np.testing.assert_allclose(change_of_basis(u[0] if l == 0 else u, lmax, nu, l), mix, rtol=0, atol=1e-10)
