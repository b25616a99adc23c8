"""Checkpoints laid out like those of fairchem 1 with an EquiformerV3, made without fairchem.

The names are those of the reference; sizes are one each, as small as they can be and still differ between neighbours.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

CONFIG: dict[str, Any] = {
    "name": "equiformer_v3", "use_pbc": True, "regress_forces": True, "regress_stress": True,
    "direct_prediction": False, "max_neighbors": 300, "max_radius": 6.0, "num_radial_basis": 10, "num_layers": 2,
    "num_channels": 4, "lmax": 2, "mmax": 1, "attn_grid_resolution_list": [8, 8], "ffn_grid_resolution_list": (8, 8),
    "attn_activation": "sep-merge_gates2_swiglu", "softcap": None, "attn_eps": 1e-08,
    "avg_degree": 23.395238876342773,
}
NORMALIZERS = {"energy": (0.25, 0.8125), "forces": (0.0, 0.8125), "stress": (0.0, 0.8125)}
REFERENCES = [0.0, -3.5, -1.25, 0.0, 2.0]

_ROTATION = ("so3_rotation.wigner_index_to_m_array*", "so3_rotation.wigner_inv_rescale*")
_RADIAL = tuple(f"rad_func.net.{i}.{kind}" for i in (0, 1, 3, 4, 6) for kind in ("weight", "bias"))
_EMBEDDINGS = ("source_embedding.weight", "target_embedding.weight")
_NORM = ("affine_weight", "affine_bias", "expand_index*", "balance_degree_weight*")
_ATTENTION = (
    "alpha_dot", *_ROTATION, *_EMBEDDINGS, "rad_func.expand_index*", *_RADIAL, "so2_linear_1.fc_m0.weight",
    "so2_linear_1.fc_m0.bias", "so2_linear_1.so2_m_linear.0.fc.weight", "alpha_norm.weight", "alpha_norm.bias",
    "act.so3_grid.to_grid_mat*", "act.so3_grid.from_grid_mat*", "so2_linear_2.fc_m0.weight", "so2_linear_2.fc_m0.bias",
    "so2_linear_2.so2_m_linear.0.fc.weight", "proj.weight", "proj.bias", "proj.expand_index*")
_NETWORK = (
    "so3_linear_1.weight", "so3_linear_1.bias", "so3_linear_1.expand_index*", "scalar_mlp.0.linear.weight",
    "scalar_mlp.0.linear.bias", "so3_grid.to_grid_mat*", "so3_grid.from_grid_mat*", "grid_mlp.gating_linear.weight",
    "grid_mlp.gating_linear.bias", "grid_mlp.grid_linear_1.weight", "grid_mlp.grid_linear_2.weight",
    "so3_linear_2.weight", "so3_linear_2.bias", "so3_linear_2.expand_index*")
_DIRECT = (
    "force_block.act.expand_index*", "force_block.proj.weight", "stress_block.gating_linear.weight",
    "stress_block.act.expand_index*", "stress_block.zero_padded_change_matrix*", "force_embedding.weight",
    "force_embedding.bias", "dens_block.alpha_dot", "dens_block.act.expand_index*")


def _under(prefix: str, names: tuple[str, ...]) -> list[str]:
    return [f"{prefix}.{name}" for name in names]


def names(layers: int = 2, direct: bool = False) -> list[str]:
    """Return the keys of a state dict in their order; a star marks a buffer."""
    out = ["sphere_embedding.weight", "distance_expansion.offset*", *_ROTATION]
    out += _under("edge_degree_embedding", (*_ROTATION, *_EMBEDDINGS, *_RADIAL))
    for layer in range(layers):
        block = f"blocks.{layer}"
        out += [*_under(f"{block}.norm_1", _NORM), *_under(f"{block}.ga", _ATTENTION),
                *_under(f"{block}.norm_2", _NORM), *_under(f"{block}.ffn", _NETWORK)]
    out += [*_under("norm", _NORM), *_under("energy_block", ("linear_1.weight", "linear_1.bias", "linear_2.weight"))]
    return [*out, *(_DIRECT if direct else ())]


def state_dict(layers: int = 2, direct: bool = False, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Return random weights; the shapes of neighbours differ."""
    out: dict[str, Tensor] = OrderedDict()
    for i, name in enumerate(names(layers, direct)):
        index = name.endswith("expand_index*")
        out[name.rstrip("*")] = torch.arange(9) if index else torch.randn(1 + i % 3, 4, dtype=dtype)
    return out


def parameters(state: dict[str, Tensor]) -> list[str]:
    """Return the names of the trained tensors among those of `names`."""
    trained = {name for layers in (2, 7) for name in names(layers, True) if not name.endswith("*")}
    return [name for name in state if name in trained]


def checkpoint(state: dict[str, Tensor] | None = None, *, prefix: str = "", config: dict[str, Any] | None = None,
               rmsd: str = "rmsd", shadow: list[Tensor] | None = None, references: Any = REFERENCES) -> dict[str, Any]:
    """Return what fairchem's trainer saves with its training state."""
    state = state_dict() if state is None else state
    weights = [state[name] for name in parameters(state)]
    shadow = [w + 1 for w in weights] if shadow is None else shadow
    moments = {i: {"step": torch.tensor(3.0), "exp_avg": torch.zeros_like(w), "exp_avg_sq": torch.ones_like(w)}
               for i, w in enumerate(weights)}
    history: defaultdict[str, list[float]] = defaultdict(list)
    history["loss"].append(0.5)
    return {
        "epoch": 3.5, "step": 1000,
        "state_dict": OrderedDict((prefix + name, value) for name, value in state.items()),
        "normalizers": {target: OrderedDict(mean=torch.tensor(mean), **{rmsd: torch.tensor(scale)})
                        for target, (mean, scale) in NORMALIZERS.items()},
        "elementrefs": {"energy": OrderedDict(element_references=torch.tensor(references))} if references else {},
        "config": {"task": {}, "trainer": "equiformerv3_dens", "model": dict(config or CONFIG), "gpus": 8,
                   "outputs": {"energy": {"shape": 1}}, "dataset": {"format": "ase_db"}, "optim": {"eval_every": 5}},
        "val_metrics": {"energy_mae": {"metric": torch.tensor(0.5, dtype=torch.float64).numpy()[()], "total": 1}},
        "amp": None,
        "optimizer": {"state": moments, "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.95), "params": [0]}]},
        "scheduler": {"history": history, "where": Path("/tmp"), "lr_lambdas": [None]},
        "ema": {"decay": 0.999, "num_updates": None, "shadow_params": shadow, "collected_params": []},
        "best_val_metric": 0.5, "primary_metric": "forces_mae",
    }


def save(path: Path, *args: Any, **options: Any) -> Path:
    """Write `checkpoint(...)`."""
    torch.save(checkpoint(*args, **options), path)
    return path
