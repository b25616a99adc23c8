"""The classes a supported mace-torch model is made of, and what each may hold.

Whatever is not listed is refused, so that no option that changes the numbers is dropped in silence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from mlip.checkpoints.module_tree import Module
from mlip.checkpoints.safe_pickle import Global, describe
from mlip.errors import ModelFileError, UnsupportedModelError


@dataclass(frozen=True)
class Parts:
    """Allowed content of a class; names are regular expressions.

    Attributes:
        tensors: parameters and buffers.
        attributes: those that are checked elsewhere or do not matter; others must be None or False.
        children: modules, with their allowed classes.
    """

    tensors: str = ""
    attributes: str = ""
    children: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


MODELS = ("MACE", "ScaleShiftMACE")
INTERACTIONS = ("RealAgnosticInteractionBlock", "RealAgnosticResidualInteractionBlock",
                "RealAgnosticDensityInteractionBlock", "RealAgnosticDensityResidualInteractionBlock")

_LIST, _LINEAR, _NETWORK = ("ModuleList",), ("Linear",), ("FullyConnectedNet",)
_LISTS = {
    "interactions": INTERACTIONS,
    "products": ("EquivariantProductBasisBlock",),
    "readouts": ("LinearReadoutBlock", "NonLinearReadoutBlock"),
    "contractions": ("Contraction",),
    "contractions_weighting": ("reduce_graph_module",),
    "contractions_features": ("reduce_graph_module",),
    "acts": ("normalize2mom",),
}
"""Allowed classes in a ModuleList, by the name of the list."""

_MACE = Parts(
    "atomic_numbers|r_max|num_interactions",
    "heads|lammps_mliap|apply_cutoff|edge_irreps|use_reduced_cg|use_agnostic_product|use_so3"
    "|use_last_readout_only|use_edge_irreps_first|pair_repulsion",
    {"node_embedding": ("LinearNodeEmbeddingBlock",), "radial_embedding": ("RadialEmbeddingBlock",),
     "pair_repulsion_fn": ("ZBLBasis",), "spherical_harmonics": ("SphericalHarmonics",),
     "atomic_energies_fn": ("AtomicEnergiesBlock",),
     "interactions": _LIST, "products": _LIST, "readouts": _LIST})
_INTERACTION = Parts(
    "", r"\w+_irreps|avg_num_neighbors|radial_MLP|cueq_config|oeq_config|irreps_out",
    {"linear_up": _LINEAR, "conv_tp": ("TensorProduct",), "conv_tp_weights": _NETWORK, "linear": _LINEAR,
     "skip_tp": ("FullyConnectedTensorProduct",), "density_fn": _NETWORK, "reshape": ("reshape_irreps",)})
_TENSOR_PRODUCT = Parts(
    "weight|output_mask", r"irreps_(in1|in2|out)|instructions|(internal|shared)_weights|weight_numel|_\w+")

_CLASSES: dict[str, Parts] = {
    "mace.modules.models.MACE": _MACE,
    "mace.modules.models.ScaleShiftMACE": Parts(
        _MACE.tensors, _MACE.attributes, {**_MACE.children, "scale_shift": ("ScaleShiftBlock",)}),
    **{f"mace.modules.blocks.{name}": _INTERACTION for name in INTERACTIONS},
    "mace.modules.blocks.LinearNodeEmbeddingBlock": Parts(children={"linear": _LINEAR}),
    "mace.modules.blocks.RadialEmbeddingBlock": Parts(
        "", "out_dim|apply_cutoff", {"bessel_fn": ("BesselBasis",), "cutoff_fn": ("PolynomialCutoff",),
                                     "distance_transform": ("AgnesiTransform",)}),
    "mace.modules.blocks.AtomicEnergiesBlock": Parts("atomic_energies"),
    "mace.modules.blocks.EquivariantProductBasisBlock": Parts(
        "", "use_sc|use_agnostic_product|cueq_config",
        {"symmetric_contractions": ("SymmetricContraction",), "linear": _LINEAR}),
    "mace.modules.blocks.LinearReadoutBlock": Parts(children={"linear": _LINEAR}),
    "mace.modules.blocks.NonLinearReadoutBlock": Parts(
        "", "hidden_irreps|num_heads",
        {"linear_1": _LINEAR, "non_linearity": ("Activation",), "linear_2": _LINEAR}),
    "mace.modules.blocks.ScaleShiftBlock": Parts("scale|shift"),
    "mace.modules.radial.BesselBasis": Parts("bessel_weights|r_max|prefactor"),
    "mace.modules.radial.PolynomialCutoff": Parts("p|r_max"),
    "mace.modules.radial.AgnesiTransform": Parts("a|q|p|covalent_radii"),
    "mace.modules.radial.ZBLBasis": Parts(
        "c|p|covalent_radii|a_exp|a_prefactor|r_max", "",
        {"cutoff": ("PolynomialCutoff",)}),  # files of 2024 hold one; mace-torch has never evaluated it
    "mace.modules.irreps_tools.reshape_irreps": Parts("", "irreps|cueq_config|dims|muls"),
    "mace.modules.symmetric_contraction.SymmetricContraction": Parts(
        "", "irreps_in|irreps_out|internal_weights|shared_weights", {"contractions": _LIST}),
    "mace.modules.symmetric_contraction.Contraction": Parts(
        r"weights_max|U_matrix_\d|weights_\w+_zeroed", "num_features|coupling_irreps|correlation",
        {"contractions_weighting": _LIST, "contractions_features": _LIST, "weights": ("ParameterList",),
         "graph_opt_main": ("reduce_graph_module",)}),
    "e3nn.o3._linear.Linear": Parts(
        "weight|bias|output_mask",
        r"irreps_(in|out)|instructions|(internal|shared)_weights|(weight|bias)_numel|_\w+"),
    "e3nn.o3._tensor_product._tensor_product.TensorProduct": _TENSOR_PRODUCT,
    "e3nn.o3._tensor_product._sub.FullyConnectedTensorProduct": _TENSOR_PRODUCT,
    "e3nn.o3._spherical_harmonics.SphericalHarmonics": Parts(
        "", r"normalize|normalization|irreps_(in|out)|_\w+"),
    "e3nn.nn._fc.FullyConnectedNet": Parts("", "hs", {r"layer\d+": ("_Layer",)}),
    "e3nn.nn._fc._Layer": Parts("weight", r"act|h_in|h_out|var_in|var_out|_\w+", {"act": ("normalize2mom",)}),
    "e3nn.nn._activation.Activation": Parts("", "irreps_in|irreps_out", {"acts": _LIST}),
    "e3nn.math._normalize_activation.normalize2mom": Parts("", "f|cst|_is_id"),
    "torch.nn.modules.container.ModuleList": Parts(),
    "torch.nn.modules.container.ParameterList": Parts(r"\d+", "_size"),
    "torch.fx.graph_module.reduce_graph_module": Parts("", r"\w+"),  # the traced contraction: code, never run
}

_DATA = re.compile(
    r"e3nn\.o3\._irreps\.(Irreps|Irrep|_MulIr)|e3nn\.o3\._(linear|tensor_product\._instruction)\.Instruction"
    r"|mace\.modules\.wrapper_ops\.(CuEquivarianceConfig|OEQConfig)"
    r"|collections\.OrderedDict|builtins\.(set|frozenset|slice)|_codecs\.encode"
    r"|torch\._utils\._rebuild_(tensor_v2|parameter|parameter_with_state)|torch\.\w+Storage"
    r"|torch\.(Size|device|dtype|(float|int|uint|bool)\d*)|torch\.nn\.functional\.silu|torch\.fx\.\w+\.\w+"
    r"|numpy\._core\.multiarray\.scalar|numpy\.dtype")
_LIBRARIES = re.compile(r"(mace|e3nn|torch|numpy|opt_einsum_fx|cuequivariance\w*|openequivariance|les"
                        r"|graph_longrange)(\.[\w.]+)?\.\w+|builtins\.getattr")


def check_foreign(names: tuple[Global, ...]) -> None:
    """Refuse a file that refers to anything outside the libraries models are made of.

    Raises:
        ModelFileError: a name from elsewhere, as in a file made to run code.
    """
    for name in names:
        known = _DATA.fullmatch(_full(name)) or _LIBRARIES.fullmatch(_full(name))
        if not known or not name.name.isidentifier():
            raise ModelFileError(f"the file refers to {name}, which no MACE model needs. Nothing in it was "
                                 "run; do not open it with torch.load, which would run it")


def check_names(names: tuple[Global, ...]) -> None:
    """Refuse a file that refers to anything but the parts of a supported MACE model.

    Raises:
        UnsupportedModelError: names the class or function.
    """
    for name in names:
        if _full(name) not in _CLASSES and not _DATA.fullmatch(_full(name)):
            raise UnsupportedModelError(f"the model uses {name}, which mlip does not support; supported are "
                                        f"{' and '.join(MODELS)} with the blocks {', '.join(INTERACTIONS)}, "
                                        "without extensions, adapters, compilation or accelerated layouts")


def _full(name: Global) -> str:
    return f"{name.module}.{name.name}"


def check_parts(root: Module) -> None:
    """Refuse a model with any class, tensor or option that is not listed above.

    Raises:
        UnsupportedModelError: names the part and what is supported.
    """
    for module in root:
        parts, where = _CLASSES.get(_full(module.kind)), module.path or "the model"
        if parts is None:
            raise UnsupportedModelError(f"{where} is a {module.kind}, which mlip does not support")
        for name, child in module.children.items():
            allowed = _allowed(module, parts, name)
            if child.kind.name not in allowed:
                raise UnsupportedModelError(f"{child.path} is a {child.kind}, which mlip does not support; "
                                            f"supported there: {', '.join(allowed) or 'nothing'}")
        for name in module.tensors:
            if not re.fullmatch(parts.tensors, name):
                raise UnsupportedModelError(f"{where} ({module.kind.name}) has a tensor {name!r}, which mlip "
                                            "does not support")
        for name, value in module.attributes.items():
            if not (value is None or value is False or re.fullmatch(parts.attributes, name)):
                raise UnsupportedModelError(f"{where} ({module.kind.name}) has the option {name} = "
                                            f"{describe(value)}, which mlip does not support; supported: "
                                            "None or False")


def _allowed(module: Module, parts: Parts, name: str) -> tuple[str, ...]:
    """Return the classes that a child may have."""
    if module.kind.name == "ModuleList":
        return _LISTS.get(module.path.rpartition(".")[2], ())
    return next((classes for pattern, classes in parts.children.items() if re.fullmatch(pattern, name)), ())
