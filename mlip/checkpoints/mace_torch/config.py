"""The configuration of a mace-torch model, read from its parts, which are checked one by one."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mlip.checkpoints.mace_torch.checks import (
    Irreps,
    check_convolution,
    check_element_product,
    check_irreps,
    check_layout,
    check_linear,
    check_mlp,
    check_silu,
    irreps,
    natural,
    num_couplings,
    require,
    text,
)
from mlip.checkpoints.mace_torch.classes import INTERACTIONS
from mlip.checkpoints.module_tree import Module
from mlip.checkpoints.safe_pickle import describe
from mlip.errors import ModelFileError

CORRELATIONS = (1, 2, 3, 4)
UNUSED_WIDTH = 16
"""Readout width of a model with one layer, which has no nonlinear readout."""


def configuration(tree: Module) -> dict[str, Any]:
    """Return the arguments of the constructor, as JSON-compatible values.

    Args:
        tree: a model whose classes were found acceptable.

    Raises:
        UnsupportedModelError: an option that mlip does not implement, by name.
        ModelFileError: parts are missing.
    """
    _check_options(tree)
    layers = _layers(tree)
    hidden = _hidden(layers[0])
    radial = _radial(tree)
    numbers = [int(z) for z in tree.tensor("atomic_numbers").tolist()]
    lmax = len(irreps(layers[0].attribute("edge_attrs_irreps"))) - 1
    _check_inputs(tree, hidden, lmax, len(numbers))
    widths = [_interaction(layer, t, len(layers), hidden, lmax, len(numbers), radial["num_bessel"])
              for t, layer in enumerate(layers)]
    correlations, reduced = zip(*(_product(tree[f"products.{t}"], layer, t == len(layers) - 1, hidden, lmax)
                                  for t, layer in enumerate(layers)), strict=True)
    neighbors = [number(layer.attribute("avg_num_neighbors")) for layer in layers]
    for name, values in (("correlation", correlations), ("radial_MLP", widths),
                         ("avg_num_neighbors", neighbors)):
        require(all(v == values[0] for v in values), name, str(values), "the same value in all layers")
    heads, readout_width = _readouts(tree, hidden)
    return {
        **radial, "max_ell": lmax, "interaction_cls": layers[-1].kind.name,
        "interaction_cls_first": layers[0].kind.name, "num_interactions": len(layers),
        "num_elements": len(numbers), "hidden_irreps": text(hidden), "MLP_irreps": f"{readout_width}x0e",
        "atomic_energies": tree["atomic_energies_fn"].tensor("atomic_energies").tolist(),
        "avg_num_neighbors": neighbors[0], "atomic_numbers": numbers, "correlation": correlations[0],
        "gate": "silu", "pair_repulsion": "pair_repulsion_fn" in tree.children, "radial_MLP": widths[0],
        "radial_type": "bessel", "heads": heads, "apply_cutoff": True, "use_reduced_cg": any(reduced),
        **({f"atomic_inter_{name}": tree["scale_shift"].tensor(name).tolist() for name in ("scale", "shift")}
           if tree.kind.name == "ScaleShiftMACE" else {}),
        "model_class": tree.kind.name,
    }


def number(value: object) -> float:
    """Return a number that was saved as a Python number or as a tensor; `ModelFileError` for others."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ModelFileError(f"damaged model file: {describe(value)} where a number was expected")
    return float(value)


def _check_options(tree: Module) -> None:
    """Check the options of the whole model; those of later versions default to their absence."""
    for option, default in (("apply_cutoff", True), ("use_so3", False), ("use_agnostic_product", False),
                            ("use_last_readout_only", False), ("use_edge_irreps_first", False)):
        found = tree.attributes.get(option, default)
        require(found is default, option, found, str(default))
    found = tree.attributes.get("pair_repulsion")
    require(bool(found) == ("pair_repulsion_fn" in tree.children), "pair_repulsion", found,
            "True exactly where there is a pair_repulsion_fn")


def _layers(tree: Module) -> list[Module]:
    """Return the interaction blocks."""
    layers = list(tree["interactions"].children.values())
    kinds = [layer.kind.name for layer in layers]
    require(bool(kinds) and set(kinds) <= set(INTERACTIONS) and len(set(kinds[1:])) <= 1, "interactions",
            ", ".join(kinds), "one block for the first layer and one for the others, of "
            f"{', '.join(INTERACTIONS)}")
    for name in ("interactions", "products", "readouts"):
        require(list(tree[name].children) == [str(t) for t in range(len(layers))], name,
                f"{len(tree[name].children)} blocks", f"{len(layers)}, as many as interactions")
    count = number(tree.tensor("num_interactions"))
    require(count == len(layers), "num_interactions", count, str(len(layers)))
    return layers


def _hidden(first: Module) -> Irreps:
    hidden = irreps(first.attribute("hidden_irreps"))
    require(bool(hidden) and hidden == natural(hidden[0][0], len(hidden) - 1), "hidden_irreps", text(hidden),
            "equal channels of consecutive degrees with natural parity, e.g. 64x0e+64x1o")
    return hidden


def _check_inputs(tree: Module, hidden: Irreps, lmax: int, elements: int) -> None:
    """Check the embedding of the elements and the spherical harmonics."""
    check_linear(tree["node_embedding.linear"], natural(elements, 0), natural(hidden[0][0], 0))
    harmonics = tree["spherical_harmonics"]
    check_irreps(harmonics, "irreps_out", natural(1, lmax))
    for option, value in (("normalize", True), ("normalization", "component")):
        found = harmonics.attributes.get(option)
        require(found == value, f"spherical_harmonics.{option}", found, str(value))


def _radial(tree: Module) -> dict[str, Any]:
    """Check the radial basis and return its options."""
    block = tree["radial_embedding"]
    found = block.attributes.get("apply_cutoff", True)
    require(found is True, "radial_embedding.apply_cutoff", found, "True")
    basis, cutoff = block["bessel_fn"], block["cutoff_fn"]
    r_max = number(tree.tensor("r_max"))
    for module in (basis, cutoff):
        own = number(module.tensor("r_max"))
        require(abs(own - r_max) < 1e-6 * r_max, f"{module.path}.r_max", own, f"{r_max}, that of the model")
    factor = number(basis.tensor("prefactor"))
    require(abs(factor**2 * r_max - 2) < 1e-5, f"{basis.path}.prefactor", factor, "sqrt(2/r_max)")
    power = number(cutoff.tensor("p"))
    require(power == int(power), f"{cutoff.path}.p", power, "a whole number")
    return {"r_max": r_max, "num_bessel": basis.tensor("bessel_weights").numel(),
            "num_polynomial_cutoff": int(power),
            "distance_transform": "Agnesi" if "distance_transform" in block.children else "None"}


def _interaction(block: Module, t: int, count: int, hidden: Irreps, lmax: int, elements: int,
                 num_bessel: int) -> list[int]:
    """Check an interaction block and return the hidden widths of its radial network."""
    channels = hidden[0][0]
    features = natural(channels, 0) if t == 0 else hidden
    after = natural(channels, 0) if t == count - 1 else hidden
    target = natural(channels, lmax)
    expected = {"node_attrs_irreps": natural(elements, 0), "edge_attrs_irreps": natural(1, lmax),
                "edge_feats_irreps": natural(num_bessel, 0), "node_feats_irreps": features,
                "edge_irreps": features, "target_irreps": target, "irreps_out": target,
                "hidden_irreps": after}
    for name, value in expected.items():
        check_irreps(block, name, value)
    check_layout(block)
    check_layout(block["reshape"])
    check_linear(block["linear_up"], features, features)
    middle = check_convolution(block["conv_tp"], features, lmax)
    check_linear(block["linear"], middle, target)
    ends = (features, after) if "Residual" in block.kind.name else (target, target)
    check_element_product(block["skip_tp"], ends[0], elements, ends[1])
    if "Density" in block.kind.name:
        check_mlp(block["density_fn"], [num_bessel, 1])
    else:
        require("density_fn" not in block.children, f"{block.path}.density_fn", "a density",
                "none in this block")
    widths = block["conv_tp_weights"].attribute("hs")
    inner = [w for w in widths[1:-1] if type(w) is int] if isinstance(widths, list) else []
    check_mlp(block["conv_tp_weights"], [num_bessel, *inner, channels * len(middle)])
    return inner


def _product(block: Module, layer: Module, last: bool, hidden: Irreps, lmax: int) -> tuple[int, bool]:
    """Check a product; return its correlation and whether its couplings are the reduced ones."""
    after = natural(hidden[0][0], 0) if last else hidden
    contraction = block["symmetric_contractions"]
    check_irreps(contraction, "irreps_in", natural(hidden[0][0], lmax))
    check_irreps(contraction, "irreps_out", after)
    check_linear(block["linear"], after, after)
    check_layout(block)
    agnostic = block.attributes.get("use_agnostic_product", False)
    require(agnostic is False, f"{block.path}.use_agnostic_product", agnostic, "False")
    skip = block.attributes.get("use_sc")
    require(skip is True or "Residual" not in layer.kind.name, f"{block.path}.use_sc", skip, "True")
    parts = list(contraction["contractions"].children.values())
    require(len(parts) == len(after), f"{contraction.path}.contractions", str(len(parts)), str(len(after)))
    orders = [_correlation(part, lmax) for part in parts]
    require(len(set(orders)) == 1, f"{contraction.path}: correlation", str(orders), "the same for all")
    reduced = any(part.tensor(f"U_matrix_{nu}").shape[-1:] != (num_couplings(lmax, nu, degree),)
                  for degree, part in enumerate(parts) for nu in range(1, orders[0] + 1))
    return orders[0], reduced


def _correlation(part: Module, lmax: int) -> int:
    check_irreps(part, "coupling_irreps", natural(1, lmax))
    order = part.attribute("correlation")
    require(order in CORRELATIONS, f"{part.path}.correlation", order, "1 to 4")
    return int(number(order))


def _readouts(tree: Module, hidden: Irreps) -> tuple[list[str] | None, int]:
    """Check the readouts; return the names of the heads and the last readout's width for each head."""
    readouts = list(tree["readouts"].children.values())
    out = irreps(readouts[0]["linear"].attribute("irreps_out"))
    heads = _heads(tree, out)
    width = UNUSED_WIDTH
    for t, readout in enumerate(readouts):
        nonlinear = 0 < t == len(readouts) - 1
        expected = "NonLinearReadoutBlock" if nonlinear else "LinearReadoutBlock"
        require(readout.kind.name == expected, readout.path, str(readout.kind), expected)
        if nonlinear:
            width = _nonlinear(readout, natural(hidden[0][0], 0), out)
        else:
            check_linear(readout["linear"], hidden if len(readouts) > 1 else natural(hidden[0][0], 0), out)
    return heads, width


def _heads(tree: Module, out: Irreps) -> list[str] | None:
    """Return the names of the heads; None in files of versions that had one without a name."""
    require(len(out) == 1 and out == natural(out[0][0], 0), "readouts", text(out), "one energy for each head")
    names = tree.attributes.get("heads")
    heads = [n for n in names if isinstance(n, str)] if isinstance(names, list) else None
    require(names is None or (isinstance(names, list) and heads is not None and len(heads) == len(names)),
            "heads", names, "a list of names")
    require(len(heads or [""]) == out[0][0], "heads", f"{len(heads or [])} names", f"{out[0][0]} names")
    return heads


def _nonlinear(readout: Module, scalars: Irreps, out: Irreps) -> int:
    """Check the last readout and return its width for each head."""
    count, middle = out[0][0], irreps(readout.attribute("hidden_irreps"))
    scalar = len(middle) == 1 and middle == natural(middle[0][0], 0) and middle[0][0] % count == 0
    require(scalar, "MLP_irreps", text(middle), "scalars, equally many for each head")
    found = readout.attributes.get("num_heads", 1)
    require(found == count, f"{readout.path}.num_heads", found, str(count))
    check_linear(readout["linear_1"], scalars, middle)
    check_linear(readout["linear_2"], middle, out)
    check_irreps(readout["non_linearity"], "irreps_in", middle)
    check_silu(readout["non_linearity.acts.0"])
    return middle[0][0] // count
