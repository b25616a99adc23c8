"""Reads `.model` files of mace-torch, without mace-torch and without running any code of the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from mlip.checkpoints.mace_torch.classes import MODELS, check_foreign, check_names, check_parts
from mlip.checkpoints.mace_torch.config import configuration
from mlip.checkpoints.module_tree import Module, module_tree, state_dict
from mlip.checkpoints.safe_pickle import Global, Node, describe
from mlip.checkpoints.torch_file import check_floats, read_torch_file
from mlip.errors import ModelFileError, UnsupportedModelError


def read_mace_torch(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a whole pickled model of mace-torch (`torch.save(model, path)`).

    Args:
        path: the `.model` file, of any mace-torch since 0.3, saved on any device, float32 or float64.

    Returns:
        The tensors on the CPU under the names of `model.state_dict()`, and the arguments of its constructor
        as JSON-compatible values, with the class under `model_class`.

    Raises:
        ModelNotFoundError: there is no such file.
        UnsupportedModelError: a model with parts or options that mlip does not implement, by name.
        ModelFileError: a file that is damaged, holds no model, or was made to run code.
    """
    file = read_torch_file(path)
    try:
        tree = _tree(file.root, file.names)
        tensors = state_dict(tree)
        check_floats(tensors)
        config = configuration(tree)
        check_names(file.names)
    except ModelFileError as error:
        raise type(error)(f"{Path(path).name}: {error}") from None
    except (TypeError, ValueError, RuntimeError, KeyError, IndexError, OverflowError) as error:
        raise ModelFileError(f"{Path(path).name}: damaged model file: a part of the model has an unexpected "
                             f"content ({str(error)[:80]})") from None
    return tensors, config


def _tree(root: object, names: tuple[Global, ...]) -> Module:
    """Return the tree of a supported model; refuse everything else."""
    if isinstance(root, dict):
        raise UnsupportedModelError(_dictionary(root))
    if isinstance(root, Node) and isinstance(root.kind, Global) and root.kind.name == "OptimizedModule":
        raise UnsupportedModelError("the model was compiled with torch.compile; save the original instead")
    check_foreign(names)
    if not isinstance(root, Node) or not isinstance(root.kind, Global):
        raise UnsupportedModelError(f"it holds {describe(root)}, not a model; give a .model file of "
                                    "mace-torch")
    if root.kind.module != "mace.modules.models" or root.kind.name not in MODELS:
        raise UnsupportedModelError(f"the model is a {root.kind}, which mlip does not support; supported: "
                                    f"{', '.join(MODELS)} of mace-torch")
    for name in names:
        if name.module.split(".")[0] in ("cuequivariance", "cuequivariance_torch", "openequivariance"):
            raise UnsupportedModelError(f"the model is in an accelerated layout ({name}); convert it first "
                                        "with mace_cueq_to_e3nn or mace_oeq_to_e3nn of mace-torch")
    tree = module_tree(root)
    check_parts(tree)
    return tree


def _dictionary(root: dict[object, object]) -> str:
    """Return what to say of a file that holds a dictionary."""
    if root and all(isinstance(v, Tensor) for v in root.values()):
        return ("it holds weights only (a state_dict), which do not say what model they belong to; save the "
                "whole model with torch.save(model, ...), or call "
                "mlip.checkpoints.from_reference('mace', state_dict, config) with its configuration")
    if "optimizer" in root or "model" in root or "state_dict" in root:
        return ("it is a checkpoint of a training run, which holds weights but no model; give the .model "
                "file that mace-torch wrote beside it, or call "
                "mlip.checkpoints.from_reference('mace', state_dict, config)")
    return "it holds a dictionary, not a model; give a .model file of mace-torch"
