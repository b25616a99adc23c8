"""Files laid out like those of mace-torch, made without mace-torch, e3nn or any of their code.

`save` pickles a tree of stand-in classes that carry the names, attributes and tensor shapes of the real ones;
`change` may alter the tree before it is saved.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.fx.graph_module import reduce_graph_module

from mlip.checkpoints.mace_torch.checks import num_couplings
from mlip.so3.degrees import convolution_paths

BLOCKS, E3NN = "mace.modules.blocks", "e3nn.o3"
CONFIG: dict[str, Any] = {
    "r_max": 4.0, "num_bessel": 3, "num_polynomial_cutoff": 5, "distance_transform": "None", "max_ell": 2,
    "interaction_cls": "RealAgnosticResidualInteractionBlock",
    "interaction_cls_first": "RealAgnosticDensityInteractionBlock", "num_interactions": 2, "num_elements": 2,
    "hidden_irreps": "2x0e+2x1o", "MLP_irreps": "3x0e", "atomic_energies": [-1.5, -2.5],
    "avg_num_neighbors": 6.5, "atomic_numbers": [1, 8], "correlation": 2, "gate": "silu", "pair_repulsion": True,
    "radial_MLP": [4], "radial_type": "bessel", "heads": ["Default"], "apply_cutoff": True,
    "use_reduced_cg": False, "atomic_inter_scale": 1.5, "atomic_inter_shift": -0.5,
    "model_class": "ScaleShiftMACE",
}
_KINDS: dict[tuple[str, str], type] = {}


def kind(module: str, name: str, base: type = nn.Module) -> type:
    """Return the stand-in for a class."""
    if (module, name) not in _KINDS:
        _KINDS[module, name] = type(name, (base,), {"__module__": module})
    return _KINDS[module, name]


def part(module: str, name: str, tensors: dict[str, Any] | None = None, children: dict[str, nn.Module] | None = None,
         **attributes: Any) -> nn.Module:
    """Return a stand-in module; tuples among the tensors are shapes of random parameters."""
    out = kind(module, name)()
    for key, value in (tensors or {}).items():
        if isinstance(value, tuple):
            out.register_parameter(key, nn.Parameter(torch.randn(value)))
        else:
            out.register_buffer(key, torch.as_tensor(value))
    for key, child in (children or {}).items():
        out.add_module(key, child)
    for key, value in attributes.items():
        setattr(out, key, value)
    return out


class Graph(nn.Module):
    """Pickles like a torch.fx.GraphModule."""

    def __reduce__(self) -> tuple[Any, ...]:
        body = {"_modules": {}, "_parameters": {}, "_buffers": {}, "_code": "import os", "_lineno_map": {1: 1}}
        return reduce_graph_module, (body, "import torch")


def natural(mul: int, lmax: int) -> list[tuple[int, int, int]]:
    return [(mul, degree, (-1) ** degree) for degree in range(lmax + 1)]


def irreps(terms: Sequence[tuple[int, int, int]]) -> tuple[Any, ...]:
    """Return e3nn's nested tuples."""
    outer, inner, leaf = (kind(f"{E3NN}._irreps", name, tuple) for name in ("Irreps", "_MulIr", "Irrep"))
    return outer(inner((mul, leaf((degree, p)))) for mul, degree, p in terms)


def linear(before: Sequence[tuple[int, int, int]], after: Sequence[tuple[int, int, int]]) -> nn.Module:
    step = kind(f"{E3NN}._linear", "Instruction", tuple)
    pairs = [(i, o) for i, a in enumerate(before) for o, b in enumerate(after) if a[1:] == b[1:]]
    fan = {o: sum(before[i][0] for i, other in pairs if other == o) for _, o in pairs}
    size = sum(before[i][0] * after[o][0] for i, o in pairs)
    steps = [step((i, o, (before[i][0], after[o][0]), fan[o] ** -0.5)) for i, o in pairs]
    return part(f"{E3NN}._linear", "Linear", {"weight": (size,), "bias": torch.zeros(0), "output_mask": torch.ones(1)},
                irreps_in=irreps(before), irreps_out=irreps(after), instructions=steps, _optimize_einsums=True)


def product(name: str, sub: str, a: Any, b: Any, out: Any, paths: list[tuple[Any, ...]], size: int) -> nn.Module:
    step = kind(f"{E3NN}._tensor_product._instruction", "Instruction", tuple)
    weight = (size,) if size else torch.zeros(0)
    return part(f"{E3NN}._tensor_product.{sub}", name, {"weight": weight, "output_mask": torch.ones(1)},
                irreps_in1=irreps(a), irreps_in2=irreps(b), irreps_out=irreps(out),
                instructions=[step((*p, (1, 1))) for p in paths], _in1_dim=3)


def silu() -> nn.Module:
    return part("e3nn.math._normalize_activation", "normalize2mom", f=nn.functional.silu, cst=1.6791767923989418,
                _is_id=False)


def network(widths: list[int]) -> nn.Module:
    layers = {}
    for i, (a, b) in enumerate(pairwise(widths)):
        last = i == len(widths) - 2
        layers[f"layer{i}"] = part("e3nn.nn._fc", "_Layer", {"weight": (a, b)}, {} if last else {"act": silu()},
                                   var_in=1, var_out=1, h_in=a, h_out=b, **({"act": None} if last else {}))
    return part("e3nn.nn._fc", "FullyConnectedNet", None, layers, hs=widths)


def interaction(c: dict[str, Any], t: int, channels: int, lmax_hidden: int) -> nn.Module:
    last, name = t == c["num_interactions"] - 1, c["interaction_cls" if t else "interaction_cls_first"]
    features = natural(channels, lmax_hidden if t else 0)
    hidden, target = natural(channels, 0 if last else lmax_hidden), natural(channels, c["max_ell"])
    harmonics, elements = natural(1, c["max_ell"]), natural(c["num_elements"], 0)
    paths = convolution_paths(len(features) - 1, c["max_ell"], c["max_ell"])
    middle = [(channels, l3, (-1) ** l3) for *_, l3 in paths]
    a, b = (features, hidden) if "Residual" in name else (target, target)
    skip = [(k, 0, k, "uvw", True, ((2 * k + 1) / (channels * c["num_elements"])) ** 0.5)
            for k in range(min(len(a), len(b)))]
    children = {
        "linear_up": linear(features, features),
        "conv_tp": product("TensorProduct", "_tensor_product", features, harmonics, middle, [
            (l1, l2, k, "uvu", True, (2 * l3 + 1) ** 0.5) for k, (l1, l2, l3) in enumerate(paths)], 0),
        "conv_tp_weights": network([c["num_bessel"], *c["radial_MLP"], channels * len(paths)]),
        "linear": linear(middle, target),
        "skip_tp": product("FullyConnectedTensorProduct", "_sub", a, elements, b, skip,
                           len(skip) * channels**2 * c["num_elements"]),
        **({"density_fn": network([c["num_bessel"], 1])} if "Density" in name else {}),
        "reshape": part("mace.modules.irreps_tools", "reshape_irreps", irreps=irreps(target), cueq_config=None),
    }
    return part(BLOCKS, name, None, children, node_attrs_irreps=irreps(elements), node_feats_irreps=irreps(features),
                edge_attrs_irreps=irreps(harmonics), edge_feats_irreps=irreps(natural(c["num_bessel"], 0)),
                target_irreps=irreps(target), hidden_irreps=f"{channels}x0e" if last else irreps(hidden),
                avg_num_neighbors=c["avg_num_neighbors"], cueq_config=None)


def contraction(c: dict[str, Any], channels: int, degree: int) -> nn.Module:
    dim, tensors, weights = (c["max_ell"] + 1) ** 2, {}, []
    lead = (2 * degree + 1,) if degree else ()
    for nu in range(1, c["correlation"] + 1):
        count = num_couplings(c["max_ell"], nu, degree)
        tensors[f"U_matrix_{nu}"] = torch.randn(*lead, *(dim,) * nu, count)
        if nu == c["correlation"]:
            tensors["weights_max"] = (c["num_elements"], count, channels)
        else:
            weights.insert(0, torch.randn(c["num_elements"], count, channels))
    children = {"contractions_weighting": nn.ModuleList([Graph()]), "contractions_features": nn.ModuleList([Graph()]),
                "weights": nn.ParameterList(nn.Parameter(w) for w in weights), "graph_opt_main": Graph()}
    return part("mace.modules.symmetric_contraction", "Contraction", tensors, children, correlation=c["correlation"],
                coupling_irreps=irreps(natural(1, c["max_ell"])), num_features=channels)


def product_block(c: dict[str, Any], t: int, channels: int, lmax_hidden: int) -> nn.Module:
    out = natural(channels, 0 if t == c["num_interactions"] - 1 else lmax_hidden)
    parts = nn.ModuleList(contraction(c, channels, degree) for _, degree, _ in out)
    symmetric = part("mace.modules.symmetric_contraction", "SymmetricContraction", None, {"contractions": parts},
                     irreps_in=irreps(natural(channels, c["max_ell"])), irreps_out=irreps(out))
    return part(BLOCKS, "EquivariantProductBasisBlock", None,
                {"symmetric_contractions": symmetric, "linear": linear(out, out)}, use_sc=True, cueq_config=None)


def readout(c: dict[str, Any], t: int, channels: int, lmax_hidden: int) -> nn.Module:
    heads, scalars = len(c["heads"] or [0]), natural(channels, 0)
    if t < c["num_interactions"] - 1:
        return part(BLOCKS, "LinearReadoutBlock", None,
                    {"linear": linear(natural(channels, lmax_hidden), natural(heads, 0))})
    middle = natural(heads * int(c["MLP_irreps"].split("x")[0]), 0)
    gate = part("e3nn.nn._activation", "Activation", None, {"acts": nn.ModuleList([silu()])}, irreps_in=irreps(middle))
    return part(BLOCKS, "NonLinearReadoutBlock", None, {
        "linear_1": linear(scalars, middle), "non_linearity": gate, "linear_2": linear(middle, natural(heads, 0))},
        hidden_irreps=irreps(middle), num_heads=heads)


def radial(c: dict[str, Any]) -> nn.Module:
    r_max, p = torch.tensor(c["r_max"]), torch.tensor(c["num_polynomial_cutoff"])
    children = {"bessel_fn": part("mace.modules.radial", "BesselBasis", {
        "bessel_weights": torch.arange(1, c["num_bessel"] + 1) * torch.pi / r_max, "r_max": r_max,
        "prefactor": (2 / r_max) ** 0.5})}
    if c["distance_transform"] == "Agnesi":
        children["distance_transform"] = part("mace.modules.radial", "AgnesiTransform", {
            "a": torch.tensor(1.0805), "q": torch.tensor(0.9183), "p": torch.tensor(4.5791),
            "covalent_radii": torch.ones(119)})
    children["cutoff_fn"] = part("mace.modules.radial", "PolynomialCutoff", {"p": p, "r_max": r_max})
    return part(BLOCKS, "RadialEmbeddingBlock", None, children, out_dim=c["num_bessel"], apply_cutoff=True)


def model(**options: Any) -> nn.Module:
    """Return a model of stand-ins with the given options, which default to `CONFIG`."""
    c = {**CONFIG, **options}
    terms = c["hidden_irreps"].split("+")
    channels, lmax_hidden, layers = int(terms[0].split("x")[0]), len(terms) - 1, range(c["num_interactions"])
    sizes = (c, channels, lmax_hidden)
    children = {
        "node_embedding": part(BLOCKS, "LinearNodeEmbeddingBlock", None, {
            "linear": linear(natural(c["num_elements"], 0), natural(channels, 0))}),
        "radial_embedding": radial(c),
        "spherical_harmonics": part(f"{E3NN}._spherical_harmonics", "SphericalHarmonics", normalize=True,
                                    normalization="component", irreps_out=irreps(natural(1, c["max_ell"]))),
        "atomic_energies_fn": part(BLOCKS, "AtomicEnergiesBlock", {
            "atomic_energies": torch.tensor(c["atomic_energies"])}),
        "interactions": nn.ModuleList(interaction(c, t, *sizes[1:]) for t in layers),
        "products": nn.ModuleList(product_block(c, t, *sizes[1:]) for t in layers),
        "readouts": nn.ModuleList(readout(c, t, *sizes[1:]) for t in layers),
    }
    if c["pair_repulsion"]:
        children["pair_repulsion_fn"] = part("mace.modules.radial", "ZBLBasis", {
            "c": torch.tensor([0.1818, 0.5099, 0.2802, 0.02817]), "p": torch.tensor(c["num_polynomial_cutoff"]),
            "covalent_radii": torch.ones(119), "a_exp": torch.tensor(0.3), "a_prefactor": torch.tensor(0.4543)})
    if c["model_class"] == "ScaleShiftMACE":
        children["scale_shift"] = part(BLOCKS, "ScaleShiftBlock", {
            "scale": torch.tensor(c["atomic_inter_scale"]), "shift": torch.tensor(c["atomic_inter_shift"])})
    extra = {"pair_repulsion": True} if c["pair_repulsion"] else {}
    return part("mace.modules.models", c["model_class"], {
        "atomic_numbers": torch.tensor(c["atomic_numbers"]), "r_max": torch.tensor(c["r_max"]),
        "num_interactions": torch.tensor(c["num_interactions"])}, children, heads=c["heads"], apply_cutoff=True,
        use_reduced_cg=False, **extra)


def write(thing: Any, path: Path, **options: Any) -> Path:
    """Save with torch.save while the stand-ins pass for the real classes."""
    modules: dict[str, ModuleType] = {}
    for (module, name), stand_in in _KINDS.items():
        for end in range(1, module.count(".") + 2):
            prefix = ".".join(module.split(".")[:end])
            modules.setdefault(prefix, ModuleType(prefix))
        setattr(modules[module], name, stand_in)
    with mock.patch.dict(sys.modules, {k: v for k, v in modules.items() if not k.startswith("torch")}):
        torch.save(thing, path, **options)
    return path


def save(path: Path, change: Callable[[nn.Module], Any] | None = None, *, double: bool = True, **options: Any) -> Path:
    """Save a model of stand-ins, after `change` if given."""
    torch.manual_seed(0)
    made = model(**options)
    made = made.double() if double else made
    if change is not None:
        changed = change(made)
        made = changed if isinstance(changed, nn.Module) else made
    return write(made, path)
