"""Runs inside an environment with mace-torch: random models, saved whole, and what mace-torch says of structures.

    python mace_models.py FOLDER

writes FOLDER/structures.npz and, for each model, FOLDER/NAME.model (torch.save) and FOLDER/NAME.npz with
`config` (JSON), `sd/KEY` (state_dict) and `STRUCTURE/HEAD/{energy,forces,stress}`.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # e3nn 0.4.4 cannot be imported without it

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule

RESIDUAL, PLAIN = "RealAgnosticResidualInteractionBlock", "RealAgnosticInteractionBlock"
DENSITY, DENSITY_RESIDUAL = "RealAgnosticDensityInteractionBlock", "RealAgnosticDensityResidualInteractionBlock"
ELEMENTS = [1, 6, 8, 29]

COMMON: dict[str, Any] = {
    "model_class": "ScaleShiftMACE", "r_max": 4.0, "num_bessel": 6, "num_polynomial_cutoff": 5, "max_ell": 2,
    "interaction_cls": RESIDUAL, "interaction_cls_first": RESIDUAL, "num_interactions": 2,
    "hidden_irreps": "4x0e+4x1o", "MLP_irreps": "6x0e", "avg_num_neighbors": 3.1, "correlation": 2,
    "pair_repulsion": False, "distance_transform": "None", "radial_MLP": [16, 16], "heads": None,
    "use_reduced_cg": False, "dtype": "float64",
}
MODELS: dict[str, dict[str, Any]] = {
    "residual": {"max_ell": 3, "correlation": 3, "r_max": 4.5},
    "plain_zbl": {"interaction_cls_first": PLAIN, "pair_repulsion": True, "use_reduced_cg": True,
                  "num_polynomial_cutoff": 6},
    "density": {"interaction_cls_first": DENSITY, "interaction_cls": DENSITY_RESIDUAL, "pair_repulsion": True,
                "distance_transform": "Agnesi", "max_ell": 3, "r_max": 5.0},
    "heads": {"heads": ["pbe", "r2scan"], "hidden_irreps": "8x0e", "max_ell": 3, "correlation": 3},
    "degree2": {"model_class": "MACE", "hidden_irreps": "3x0e+3x1o+3x2e", "correlation": 3,
                "interaction_cls_first": DENSITY_RESIDUAL, "interaction_cls": DENSITY_RESIDUAL},
    "layers3": {"model_class": "MACE", "num_interactions": 3, "interaction_cls": PLAIN,
                "interaction_cls_first": PLAIN, "pair_repulsion": True, "distance_transform": "Agnesi"},
    "layer1": {"num_interactions": 1, "correlation": 1, "max_ell": 3, "radial_MLP": [16]},
    "correlation4": {"correlation": 4, "max_ell": 1},
    "single": {"dtype": "float32", "interaction_cls_first": DENSITY, "interaction_cls": DENSITY_RESIDUAL,
               "pair_repulsion": True, "distance_transform": "Agnesi", "correlation": 3, "r_max": 4.6},
    "old": {"correlation": 3, "pair_repulsion": True, "radial_MLP": [64, 64, 64]},
}
"""What differs from COMMON. `old` loses the attributes that mace-torch 0.3.0 did not write."""


def structures() -> dict[str, Atoms]:
    rng = np.random.default_rng(7)
    cell = [[4.1, 0.2, -0.3], [1.9, 4.4, 0.4], [-1.2, 0.9, 5.0]]
    out = {
        "cubic": bulk("Cu", cubic=True),
        "triclinic": Atoms("CuOC", cell=cell, pbc=True,
                           scaled_positions=[[0.1, 0.1, 0.1], [0.6, 0.4, 0.5], [0.2, 0.7, 0.8]]),
        "small_cell": Atoms("CuO", [[0, 0, 0], [1.3, 1.4, 1.25]], cell=[2.6, 2.7, 2.8], pbc=True),
        "slab": fcc111("Cu", (1, 1, 2), vacuum=6.0) + Atoms("O", [[0.2, 0.1, 9.9]]),
        "molecule": molecule("CH3OH"),
        "close": Atoms("COH", [[0, 0, 0], [0.6, 0, 0.1], [0.5, 0.7, 0]]),  # the ZBL repulsion acts
    }
    for atoms in out.values():
        atoms.positions += rng.normal(0.0, 0.1, (len(atoms), 3))
    return out


def build(options: dict[str, Any], rng: np.random.Generator) -> tuple[torch.nn.Module, dict[str, Any]]:
    from e3nn import o3
    from mace import modules

    config = {**COMMON, **options}
    heads = config["heads"] or [None]
    shape = (len(ELEMENTS),) if len(heads) == 1 else (len(heads), len(ELEMENTS))
    config["atomic_energies"] = rng.uniform(-10.0, 0.0, shape).tolist()
    config["atomic_numbers"] = ELEMENTS
    config["num_elements"] = len(ELEMENTS)
    if config["model_class"] == "ScaleShiftMACE":
        for name, low, high in (("scale", 2.0, 4.0), ("shift", -0.5, 0.5)):
            values = rng.uniform(low, high, len(heads)).tolist()
            config[f"atomic_inter_{name}"] = values if len(heads) > 1 else values[0]
    arguments = {k: v for k, v in config.items() if k not in ("model_class", "dtype")}
    for name in ("interaction_cls", "interaction_cls_first"):
        arguments[name] = modules.interaction_classes[arguments[name]]
    for name in ("hidden_irreps", "MLP_irreps"):
        arguments[name] = o3.Irreps(arguments[name])
    arguments["atomic_energies"] = np.array(arguments["atomic_energies"])
    torch.set_default_dtype(getattr(torch, config["dtype"]))
    model = getattr(modules, config["model_class"])(**arguments, gate=torch.nn.functional.silu)
    return model.to(getattr(torch, config["dtype"])), config


def age(model: torch.nn.Module) -> None:
    """Take away what mace-torch 0.3.0 did not write."""
    names = {"heads", "lammps_mliap", "apply_cutoff", "edge_irreps", "use_reduced_cg", "use_agnostic_product",
             "use_so3", "use_last_readout_only", "use_edge_irreps_first", "cueq_config", "oeq_config", "num_heads",
             "radial_MLP"}
    for module in [m for m in model.modules() if not isinstance(m, torch.jit.ScriptModule)]:
        for name in names & set(vars(module)):
            delattr(module, name)
        for name in [n for n in module._buffers if n.endswith("_zeroed")]:
            del module._buffers[name]
    for module in (model.radial_embedding.cutoff_fn, model.pair_repulsion_fn):
        module.p = module.p.to(torch.float64)


def evaluate(model: torch.nn.Module, dtype: str, head: str | None, atoms: Atoms) -> dict[str, np.ndarray]:
    from mace.calculators import MACECalculator

    chosen = {} if head is None else {"head": head}
    copy = atoms.copy()
    copy.calc = MACECalculator(models=model, device="cpu", default_dtype=dtype, **chosen)
    results = {"energy": np.array(copy.get_potential_energy()), "forces": copy.get_forces()}
    if atoms.pbc.all():
        results["stress"] = copy.get_stress(voigt=False)
    return results


def main(folder: Path) -> None:
    known = structures()
    np.savez(folder / "structures.npz", **{
        f"{name}/{key}": value for name, atoms in known.items()
        for key, value in (("numbers", atoms.numbers), ("positions", atoms.positions),
                           ("cell", atoms.cell.array), ("pbc", atoms.pbc))})
    for seed, (name, options) in enumerate(MODELS.items()):
        torch.manual_seed(seed)
        model, config = build(options, np.random.default_rng(seed))
        arrays = {"config": np.array(json.dumps(config))}
        for head in config["heads"] or [None]:
            for key, atoms in known.items():
                results = evaluate(model, config["dtype"], head, atoms)
                arrays.update({f"{key}/{head or ''}/{k}": v for k, v in results.items()})
        if name == "old":
            age(model)
        arrays.update({f"sd/{k}": v.numpy() for k, v in model.state_dict().items()})
        torch.save(model, folder / f"{name}.model")
        np.savez(folder / f"{name}.npz", **arrays)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
