"""Weights under the names of the published EquiformerV3 -> our configuration and weights.

Maps are stored alike but for three things: embeddings have a row for every atomic number up to 127, the real and
imaginary matrices of an order are one tensor, and the factors of normalised targets are beside the weights.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from operator import index
from typing import Any

import torch
from torch import Tensor

from mlip.errors import UnsupportedModelError
from mlip.models.equiformer_v3.config import EquiformerV3Config

CLASSES = {"equiformer_v3": False, "equiformer_v3_dens": True}
SIZES = {"lmax": "lmax", "mmax": "mmax", "channels": "num_channels", "num_layers": "num_layers",
         "num_heads": "num_heads", "attention_hidden": "attn_hidden_channels",
         "attention_alpha": "attn_alpha_channels", "attention_value": "attn_value_channels",
         "feed_forward_hidden": "ffn_hidden_channels", "edge_channels": "edge_channels",
         "num_gaussians": "num_radial_basis"}
SWIGLU = ("sep-merge_gates2_swiglu", "sep-merge_gates2_swiglu_mem")  # the second trades time for memory
FIXED: dict[str, tuple[Any, ...]] = {
    "norm_type": ("merge_layer_norm",), "use_atom_edge_embedding": (True,), "use_envelope": (True,),
    "attn_activation": SWIGLU, "ffn_activation": SWIGLU, "use_attn_renorm": (True,), "use_add_merge": (False,),
    "use_rad_l_parametrization": (True,), "softcap": (None,), "use_grid_mlp": (True,), "use_head_reg": (False,),
    "use_gate_force_head": (True,), "alpha_drop": (0.0,)}
_CONSTANT = re.compile(
    r"distance_expansion\.offset|(?:.+\.)?(?:wigner_index_to_m_array|wigner_inv_rescale|expand_index"
    r"|balance_degree_weight|to_grid_mat|from_grid_mat|zero_padded_change_matrix)")
TRAINED_WITH = re.compile(r"^(force_embedding|dens_block)\.")
MOST_ELEMENTS = 118
PREFIXES = ("module.", "_orig_mod.")
GRIDS = {"attn_grid_resolution_list": "mmax", "ffn_grid_resolution_list": "lmax"}  # with their largest order


def convert(state_dict: Mapping[str, Tensor],
            config: Mapping[str, Any]) -> tuple[EquiformerV3Config, dict[str, Tensor]]:
    """Translate a model of the published code.

    Args:
        state_dict: tensors under the reference's own keys.
        config: the reference's constructor arguments, with `model_class`, `"equiformer_v3"` (the default) or
            `"equiformer_v3_dens"`. Beside them, all optional: `normalizers`, {target: {"mean": ..., "rmsd": ...}} (or
            `"std"`, as files of earlier versions have it), and `element_references`, eV, by atomic number: elements
            whose energy is 0 were not in the data and are left out; and `nonsmooth_max_neighbors`, see
            `EquiformerV3Config`. `max_neighbors` itself is not applied.

    Returns:
        Our configuration, and our state dict in the dtype of the reference.

    Raises:
        UnsupportedModelError: options or tensors that mlip does not implement, by name.
    """
    tensors = _without_prefix(state_dict)
    ours = _config(config, tensors)
    reader = _Reader(tensors)
    weights = dict(_tensors(reader, ours))
    weights |= _constants(config, ours, weights["embedding"])
    reader.finish()
    return ours, weights


def is_constant(name: str) -> bool:
    """Tell whether a tensor of the reference is not trained and follows from the configuration.

    Args:
        name: its key in the state dict, without prefixes.
    """
    return _CONSTANT.fullmatch(name) is not None


def _without_prefix(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = dict(tensors)
    while found and (prefix := next((p for p in PREFIXES if all(k.startswith(p) for k in found)), None)):
        found = {key.removeprefix(prefix): value for key, value in found.items()}
    return found


def _config(c: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> EquiformerV3Config:
    name = c.get("model_class", "equiformer_v3")
    if name not in CLASSES:
        raise UnsupportedModelError(f"equiformer_v3: model_class {name!r} is not supported; supported: "
                                    f"{', '.join(CLASSES)}")
    for option, allowed in FIXED.items():
        if c.get(option, allowed[0]) not in allowed:
            raise UnsupportedModelError(f"equiformer_v3: {option}={c[option]!r} is not supported; allowed: "
                                        f"{', '.join(map(repr, allowed))}")
    direct = bool(c.get("direct_prediction", CLASSES[name]))
    if direct and not c.get("regress_stress", True):
        raise UnsupportedModelError("equiformer_v3: a model with direct forces and without stress is not supported")
    sizes: dict[str, Any] = {ours: index(c[theirs]) for ours, theirs in SIZES.items()}
    _check_grids(c, sizes)
    return EquiformerV3Config(
        atomic_numbers=_elements(c, len(tensors["sphere_embedding.weight"])),
        cutoff=float(c["max_radius"]),
        avg_num_neighbors=float(c.get("avg_degree", 23.395238876342773)),
        attention_eps=float(c.get("attn_eps", 1e-16)),
        forces="direct" if direct else "conservative",
        denoising=direct and any(TRAINED_WITH.match(key) for key in tensors),
        nonsmooth_max_neighbors=c.get("nonsmooth_max_neighbors"),
        **sizes,
    )


def _check_grids(c: Mapping[str, Any], sizes: Mapping[str, int]) -> None:
    """Refuse grids that do not integrate products exactly: models with them are not equivariant, and ours are."""
    least = 3 * sizes["lmax"]
    for name, order in GRIDS.items():
        if c.get(name) is None:
            continue
        theta, phi = c[name]
        if theta % 2 or theta <= least or phi <= 3 * sizes[order]:
            raise UnsupportedModelError(f"equiformer_v3: {name}={[theta, phi]} is not exact for lmax={sizes['lmax']}, "
                                        f"mmax={sizes['mmax']}; supported: an even number above {least}, and one "
                                        f"above {3 * sizes[order]}")


def _references(c: Mapping[str, Any]) -> list[float] | None:
    """Return the energies by atomic number, from a sequence, an array or a tensor."""
    given = c.get("element_references")
    if given is None:
        return None
    found = [float(energy) for energy in given]
    if not all(map(math.isfinite, found)):
        raise UnsupportedModelError("equiformer_v3: element_references hold NaN or infinity")
    return found


def _elements(c: Mapping[str, Any], rows: int) -> tuple[int, ...]:
    references = _references(c)
    if references is None:
        return tuple(range(1, min(rows - 1, MOST_ELEMENTS) + 1))
    known = tuple(z for z, energy in enumerate(references) if energy and 1 <= z <= MOST_ELEMENTS)
    if not known or known[-1] >= rows:
        raise UnsupportedModelError(f"equiformer_v3: element_references name {len(known)} elements, up to atomic "
                                    f"number {known[-1] if known else 0}; the model has embeddings up to {rows - 1}")
    return known


class _Reader:
    """A state dict that knows which of its tensors were read."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors, self.unread = tensors, set(tensors)

    def __call__(self, key: str) -> Tensor:
        if key not in self.tensors:
            raise UnsupportedModelError(f"equiformer_v3: the tensor {key!r} is missing")
        self.unread.discard(key)
        return self.tensors[key]

    def layer(self, ours: str, theirs: str) -> Iterator[tuple[str, Tensor]]:
        """Yield the weight and bias of a layer."""
        yield f"{ours}.weight", self(f"{theirs}.weight")
        yield f"{ours}.bias", self(f"{theirs}.bias").reshape(-1)

    def finish(self) -> None:
        """Raise if a tensor that matters was not read: the model has a part we do not know."""
        left = sorted(k for k in self.unread if not is_constant(k))
        if left:
            raise UnsupportedModelError(f"equiformer_v3: {len(left)} tensor(s) of the model are of a kind mlip does "
                                        f"not support: {', '.join(left[:6])}")


def _tensors(read: _Reader, c: EquiformerV3Config) -> Iterator[tuple[str, Tensor]]:
    yield "embedding", read("sphere_embedding.weight")[list(c.atomic_numbers)]
    yield from _radial(read, c, "edge_embedding", "edge_degree_embedding")
    for i in range(c.num_layers):
        ours = theirs = f"blocks.{i}"
        for norm in ("norm_1", "norm_2"):
            yield from _norm(read, f"{ours}.{norm}", f"{theirs}.{norm}")
        yield from _attention(read, c, f"{ours}.attention", f"{theirs}.ga")
        yield from _feed_forward(read, f"{ours}.feed_forward", f"{theirs}.ffn")
    yield from _norm(read, "norm", "norm")
    yield from read.layer("energy.hidden", "energy_block.linear_1")
    yield from read.layer("energy.output", "energy_block.linear_2")
    if c.forces == "direct":
        yield from _attention(read, c, "forces", "force_block")
        yield from read.layer("stress.expand", "stress_block.so3_linear_1")
        yield from read.layer("stress.gate", "stress_block.gating_linear")
        yield from read.layer("stress.contract", "stress_block.so3_linear_2")
    if c.denoising:
        yield from read.layer("force_embedding", "force_embedding")
        yield from _attention(read, c, "denoise", "dens_block")


def _norm(read: _Reader, ours: str, theirs: str) -> Iterator[tuple[str, Tensor]]:
    yield f"{ours}.weight", read(f"{theirs}.affine_weight")
    yield f"{ours}.bias", read(f"{theirs}.affine_bias")


def _radial(read: _Reader, c: EquiformerV3Config, ours: str, theirs: str) -> Iterator[tuple[str, Tensor]]:
    rows = list(c.atomic_numbers)
    yield f"{ours}.source", read(f"{theirs}.source_embedding.weight")[rows]
    yield f"{ours}.target", read(f"{theirs}.target_embedding.weight")[rows]
    for name, place in (("hidden_1", 0), ("norm_1", 1), ("hidden_2", 3), ("norm_2", 4), ("output", 6)):
        yield from read.layer(f"{ours}.{name}", f"{theirs}.rad_func.net.{place}")


def _attention(read: _Reader, c: EquiformerV3Config, ours: str, theirs: str) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in _radial(read, c, ours, theirs):
        yield name.replace(ours, f"{ours}.radial", 1), tensor
    for name, so2 in (("first", "so2_linear_1"), ("second", "so2_linear_2")):
        yield from read.layer(f"{ours}.{name}.order_0", f"{theirs}.{so2}.fc_m0")
        for m in range(c.mmax):
            real, imaginary = read(f"{theirs}.{so2}.so2_m_linear.{m}.fc.weight").chunk(2)
            yield f"{ours}.{name}.real.{m}", real
            yield f"{ours}.{name}.imaginary.{m}", imaginary
    yield from read.layer(f"{ours}.alpha_norm", f"{theirs}.alpha_norm")
    yield f"{ours}.alpha_weight", read(f"{theirs}.alpha_dot")
    yield from read.layer(f"{ours}.project", f"{theirs}.proj")


def _feed_forward(read: _Reader, ours: str, theirs: str) -> Iterator[tuple[str, Tensor]]:
    yield from read.layer(f"{ours}.expand", f"{theirs}.so3_linear_1")
    yield from read.layer(f"{ours}.gate", f"{theirs}.grid_mlp.gating_linear")
    yield from read.layer(f"{ours}.scalars", f"{theirs}.scalar_mlp.0.linear")
    yield f"{ours}.factors", read(f"{theirs}.grid_mlp.grid_linear_1.weight")
    yield f"{ours}.mix", read(f"{theirs}.grid_mlp.grid_linear_2.weight")
    yield from read.layer(f"{ours}.contract", f"{theirs}.so3_linear_2")


def _normalizer(config: Mapping[str, Any], target: str) -> tuple[float, float]:
    """Return the mean and the factor of a target."""
    found = (config.get("normalizers") or {}).get(target)
    if found is None:
        return 0.0, 1.0
    name = next((n for n in ("rmsd", "std") if n in found), None)
    if name is None:
        raise UnsupportedModelError(f"equiformer_v3: the normalizer of {target} has neither 'rmsd' nor 'std'; given: "
                                    f"{', '.join(map(str, found))}")
    mean, rmsd = float(found.get("mean", 0.0)), float(found[name])
    if not (math.isfinite(mean) and 0 < rmsd < math.inf):
        raise UnsupportedModelError(f"equiformer_v3: the normalizer of {target} has the mean {mean} and the {name} "
                                    f"{rmsd}; finite numbers are needed, the second above 0")
    return mean, rmsd


def _constants(config: Mapping[str, Any], c: EquiformerV3Config, like: Tensor) -> dict[str, Tensor]:
    """Return energies of isolated atoms and the factors that undo the normalisation of the targets."""
    targets = {t: _normalizer(config, t) for t in ("energy", "forces", "stress")}
    mean, scale = targets["energy"]
    for target in ("forces", "stress"):
        if targets[target][0] != 0:
            raise UnsupportedModelError(f"equiformer_v3: the normalizer of {target} has the mean {targets[target][0]}; "
                                        "only 0 is supported")
        given = target in (config.get("normalizers") or {})
        if c.forces == "conservative" and given and targets[target][1] != scale:
            raise UnsupportedModelError(f"equiformer_v3: energy and {target} of a conservative model are normalised by "
                                        f"different factors, {scale} and {targets[target][1]}; derivatives of the "
                                        "energy would not be its forces")
    references = _references(config) or [0.0] * (MOST_ELEMENTS + 1)
    nodes = float(config.get("avg_num_nodes", 77.81317))
    if not 0 < nodes < math.inf:
        raise UnsupportedModelError(f"equiformer_v3: avg_num_nodes must be a positive number; {nodes} was given")
    found = {"scale": scale / nodes, "shift": 0.0, "offset": mean}
    if c.forces == "direct":
        found |= {"force_scale": targets["forces"][1], "stress_scale": targets["stress"][1]}
    energies = torch.tensor([[references[z] for z in c.atomic_numbers]], dtype=torch.float64)
    return {"atomic_energies": energies, **{k: like.new_tensor([v]) for k, v in found.items()}}
