"""Checks that parts of a mace-torch model compute what mlip computes: layouts, factors, constants."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

from mlip.checkpoints.module_tree import Module, script_tensors
from mlip.checkpoints.safe_pickle import Global, Node, describe
from mlip.errors import ModelFileError, UnsupportedModelError
from mlip.nn.linear import SILU_SCALE
from mlip.so3.degrees import convolution_paths
from mlip.so3.wigner3j import wigner_3j

SILU = Global("torch.nn.functional", "silu")
Irreps = tuple[tuple[int, int, int], ...]
"""(multiplicity, degree, parity) of each block."""


def require(condition: bool, what: str, found: object, supported: str) -> None:
    """Raise `UnsupportedModelError`, with what was found and what is supported, unless `condition`."""
    if not condition:
        shown = found[:200] if isinstance(found, str) else describe(found)
        raise UnsupportedModelError(f"{what}: {shown} is not supported; supported: {supported}")


def irreps(value: object) -> Irreps:
    """Return the irreps of an e3nn object, or of a text such as '16x0e+16x1o'.

    Raises:
        ModelFileError: something else.
    """
    if isinstance(value, str):
        terms = [re.fullmatch(r"(?:(\d{1,9})x)?(\d{1,3})([eo])", term.strip()) for term in value.split("+")]
        if all(terms):
            return tuple((int(m[1] or 1), int(m[2]), 1 if m[3] == "e" else -1) for m in terms if m)
    try:
        blocks = [_content(term) for term in _content(value)]
        found = tuple((mul, *_content(irrep)) for mul, irrep in blocks)
    except (TypeError, ValueError):
        found = (("?",),)
    if any(len(block) != 3 or any(type(n) is not int for n in block) for block in found):
        raise ModelFileError(f"damaged model file: {describe(value)} where irreps were expected")
    return found


def _content(node: object) -> tuple[Any, ...]:
    """Return the elements of a pickled subclass of tuple."""
    if not isinstance(node, Node):
        raise TypeError
    return node.args[0] if len(node.args) == 1 and isinstance(node.args[0], tuple) else node.args


def text(value: Irreps) -> str:
    """Return irreps as e3nn writes them."""
    return "+".join(f"{mul}x{degree}{'e' if p > 0 else 'o'}" for mul, degree, p in value[:20])


def natural(mul: int, lmax: int) -> Irreps:
    """Return `mul` channels of each degree up to lmax with parity (-1)^l."""
    return tuple((mul, degree, (-1) ** degree) for degree in range(lmax + 1))


def check_irreps(module: Module, attribute: str, expected: Irreps) -> None:
    """Refuse a module whose irreps are not the expected ones; an absent attribute passes."""
    value = module.attributes.get(attribute)
    if value is not None:
        found = irreps(value)
        require(found == expected, f"{module.path}.{attribute}", text(found), text(expected))


def check_silu(module: Module) -> None:
    """Refuse an activation that is not silu times e3nn's constant."""
    function, factor = module.attributes.get("f"), module.attributes.get("cst")
    require(function == SILU, f"{module.path}: gate", function, "silu")
    require(_same(factor, SILU_SCALE), f"{module.path}: factor of silu", factor,
            f"{SILU_SCALE} (e3nn 0.4.4)")


def check_mlp(module: Module, widths: list[int]) -> None:
    """Refuse a network that is not: linear without bias, silu, ..., linear, normalised by 1/sqrt(width)."""
    require(module.attributes.get("hs") == widths, f"{module.path}.hs", "other widths", str(widths))
    names = [f"layer{i}" for i in range(len(widths) - 1)]
    require(sorted(module.children) == sorted(names), f"{module.path}: layers", ", ".join(module.children),
            ", ".join(names))
    for name, width in zip(names, widths, strict=False):
        layer = module[name]
        for factor, value in (("h_in", width), ("var_in", 1), ("var_out", 1)):
            found = layer.attributes.get(factor)
            require(_same(found, value), f"{layer.path}.{factor}", found, str(value))
        if name == names[-1]:
            require("act" not in layer.children and layer.attributes.get("act") is None, f"{layer.path}.act",
                    "an activation after the last layer", "none")
        else:
            check_silu(layer["act"])


def _same(found: object, expected: float) -> bool:
    return type(found) in (int, float) and math.isclose(float(str(found)), expected, rel_tol=1e-6)


def _instructions(module: Module, size: int) -> list[tuple[Any, ...]]:
    """Return the instructions of an e3nn module, at least `size` values each."""
    found = module.attributes.get("instructions")
    steps = [_content(x) for x in found] if isinstance(found, list) else [()]
    if any(len(x) < size for x in steps):
        raise ModelFileError(f"damaged model file: {module.path} has no readable instructions")
    return steps


def _check_paths(module: Module, expected: list[tuple[object, ...]], factors: list[float]) -> None:
    """Refuse connections other than the expected ones, in order, with their factors."""
    size = len(expected[0])
    position = 3 if size == 2 else size  # the factor follows the shape in Linear, the flags elsewhere
    found = _instructions(module, position + 1)
    require([x[:size] for x in found] == expected, f"{module.path}.instructions", "other paths",
            "the paths and order of mace-torch 0.3")
    for x, factor in zip(found, factors, strict=True):
        require(_same(x[position], factor), f"{module.path}: factor of a path", x[position], f"{factor:g}")


def check_linear(module: Module, before: Irreps, after: Irreps) -> None:
    """Refuse a map that is not one matrix per pair of equal irreps, over sqrt(fan-in), without bias."""
    check_irreps(module, "irreps_in", before)
    check_irreps(module, "irreps_out", after)
    require(module.tensor("bias").numel() == 0, f"{module.path}.bias", "a bias", "none")
    pairs = [(i, o) for i, a in enumerate(before) for o, b in enumerate(after) if a[1:] == b[1:]]
    fan_in = [sum(before[i][0] for i, o in pairs if o == out) for out in range(len(after))]
    _check_paths(module, [*pairs], [fan_in[o] ** -0.5 for _, o in pairs])


def check_convolution(module: Module, features: Irreps, lmax: int) -> Irreps:
    """Refuse a convolution with other paths, factors or coupling tensors; return its output irreps."""
    paths = convolution_paths(len(features) - 1, lmax, lmax)
    after = tuple((features[0][0], l3, (-1) ** l3) for _, _, l3 in paths)
    check_irreps(module, "irreps_in1", features)
    check_irreps(module, "irreps_in2", natural(1, lmax))
    check_irreps(module, "irreps_out", after)
    require(module.tensor("weight").numel() == 0, f"{module.path}.weight", "internal weights", "none")
    _check_paths(module, [(l1, l2, k, "uvu", True) for k, (l1, l2, _) in enumerate(paths)],
                 [(2 * l3 + 1) ** 0.5 for _, _, l3 in paths])
    for name, data in module.scripts.items():
        for key, tensor in script_tensors(data, name).items():
            degrees = re.fullmatch(r"_w3j_(\d)_(\d)_(\d)", key)
            if degrees:
                l1, l2, l3 = (int(d) for d in degrees.groups())
                same = abs(l1 - l2) <= l3 <= l1 + l2 and tensor.shape == wigner_3j(l1, l2, l3).shape and \
                    np.allclose(tensor.double().numpy(), wigner_3j(l1, l2, l3), rtol=0, atol=1e-5)
                require(same, f"{module.path}.{key}", "another sign of the Clebsch-Gordan coefficients",
                        "that of e3nn 0.4.4, which mace-torch requires")
    return after


def check_element_product(module: Module, before: Irreps, elements: int, after: Irreps) -> None:
    """Refuse a product with the element that is not one matrix per degree and element."""
    check_irreps(module, "irreps_in1", before)
    check_irreps(module, "irreps_in2", natural(elements, 0))
    check_irreps(module, "irreps_out", after)
    common = before[:len(after)]
    _check_paths(module, [(k, 0, k, "uvw", True) for k in range(len(common))],
                 [((2 * degree + 1) / (mul * elements)) ** 0.5 for mul, degree, _ in common])


def check_layout(module: Module) -> None:
    """Refuse the accelerated layouts of cuequivariance and openequivariance."""
    for name in ("cueq_config", "oeq_config"):
        value = module.attributes.get(name)
        state = value.state if isinstance(value, Node) and isinstance(value.state, dict) else {"enabled": True}
        plain = not state.get("enabled") and state.get("layout_str", "mul_ir") == "mul_ir" \
            and (name == "oeq_config" or not state.get("conv_fusion"))
        require(value is None or plain, f"{module.path}.{name}", "an accelerated layout",
                "none; convert it with mace_cueq_to_e3nn or mace_oeq_to_e3nn")


def num_couplings(lmax: int, nu: int, degree: int) -> int:
    """Return how many couplings of `nu` factors of degrees 0..lmax to a degree mace-torch enumerates.

    Factors are coupled from the left and have natural parity; of four, so have all intermediates. With
    cuequivariance fewer are kept (`use_reduced_cg`), which the attribute of that name does not tell: it may be
    set without effect.
    """
    counts = {(k, k % 2): 1 for k in range(lmax + 1)}
    for _ in range(nu - 1):
        grown: dict[tuple[int, int], int] = {}
        for (l1, parity), count in counts.items():
            for l2 in range(lmax + 1):
                for l3 in range(abs(l1 - l2), l1 + l2 + 1):
                    key = (l3, (parity + l2) % 2)
                    if nu < 4 or l3 % 2 == key[1]:
                        grown[key] = grown.get(key, 0) + count
        counts = grown
    return max(counts.get((degree, degree % 2), 0), 1)
