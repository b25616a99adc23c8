"""Reads checkpoints that the trainer of fairchem 1 wrote, without fairchem and without running code of the file.

Such a file is one dictionary: weights, normalisers, energies of the elements and the configuration of the run; beside
them the state of the training (optimiser, averaged weights), three times the size of the weights, of which no more
is read than was asked for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from mlip.checkpoints.fairchem.config import configuration
from mlip.checkpoints.fairchem.weights import averaged, stored_weights
from mlip.checkpoints.safe_pickle import Global, Node, describe
from mlip.checkpoints.torch_file import StoredTensor, check_floats, open_torch_file
from mlip.errors import ModelFileError, ModelNotFoundError, OptionError, UnsupportedModelError

WEIGHTS = ("state_dict", "ema")
"""The sets of weights of a file: those of the last step, as fairchem's calculator uses them, and their average."""

_BESIDE = ("config", "normalizers", "elementrefs", "ema", "val_metrics")
_PACKAGES = ("fairchem", "ocpmodels")
_SYSTEM = frozenset((
    "os", "posix", "nt", "subprocess", "_posixsubprocess", "commands", "sys", "shutil", "socket", "ctypes", "importlib",
    "pty", "runpy", "code", "pickle", "marshal", "webbrowser", "multiprocessing", "asyncio", "urllib", "platform",
    "pdb", "timeit", "pip"))
_BUILTINS = frozenset(("eval", "exec", "compile", "open", "__import__", "breakpoint"))
_LOADERS = ("torch.load", "torch.os.", "torch.hub.", "torch.storage.", "torch.serialization.",
            "torch.utils.cpp_extension.", "numpy.load")


def is_fairchem(path: str | Path) -> bool:
    """Tell whether a file is for `read_fairchem`, also to be refused by it; False for files that cannot be read."""
    try:
        with open_torch_file(path) as file:
            root = file.root
            if isinstance(root, Node):
                return isinstance(root.kind, Global) and root.kind.module.split(".")[0] in _PACKAGES
            return isinstance(root, dict) and "state_dict" in root and any(key in root for key in _BESIDE)
    except (ModelFileError, ModelNotFoundError):
        return False


def read_fairchem(path: str | Path, weights: str = "state_dict") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read an EquiformerV3 from a checkpoint of fairchem 1.

    Args:
        path: the file, of any name, e.g. `mptrj_gradient.pt`.
        weights: `"state_dict"`, the weights of the last step, which fairchem's calculator uses; or `"ema"`, their
            exponential moving average, which its trainer validates.

    Returns:
        The tensors on the CPU, float32 or float64 (indices int64), under the names of `model.state_dict()`, without the
        prefixes of parallel or compiled training; and the arguments of the constructor as JSON-compatible values, with
        - `model_class`: `equiformer_v3` or `equiformer_v3_dens`;
        - `normalizers`: {`energy` | `forces` | `stress` | `denoising_pos_target`: {`mean`, `rmsd`}}, in eV, eV/A and
          eV/A^3; an absent one is mean 0, rmsd 1;
        - `element_references`: eV, a list by atomic number; absent where the file has none.

    Raises:
        OptionError: unknown `weights`.
        ModelNotFoundError: there is no such file.
        UnsupportedModelError: another model, or a part that mlip does not implement, by name.
        ModelFileError: a file that is damaged, lacks what is needed, or was made to run code.
    """
    if weights not in WEIGHTS:
        raise OptionError(f"weights must be one of {', '.join(WEIGHTS)}; {weights!r} was given")
    with open_torch_file(path) as file:
        for name in file.names:
            if _runs_code(name):
                raise ModelFileError(f"the file refers to {name}, which no model needs. Nothing in it was run; do not "
                                     "open it with torch.load, which would run it")
        root = _checkpoint(file.root)
        config = configuration(root)
        stored = stored_weights(root["state_dict"])
        if weights == "ema":
            stored = averaged(stored, root.get("ema"))
        tensors = {name: tensor.read() for name, tensor in stored.items()}
        check_floats(tensors)
    return tensors, config


def _runs_code(name: Global) -> bool:
    """Tell whether files made to run code call this. Nothing is called here, listed or not; the user is warned."""
    return (name.module.partition(".")[0] in _SYSTEM or (name.module == "builtins" and name.name in _BUILTINS)
            or f"{name.module}.{name.name}".startswith(_LOADERS))


def _checkpoint(root: object) -> dict[Any, object]:
    """Return the dictionary of a checkpoint; refuse everything else."""
    if isinstance(root, Node) and isinstance(root.kind, Global) and root.kind.module.split(".")[0] in _PACKAGES:
        raise UnsupportedModelError(f"it holds a {root.kind} (fairchem 2, e.g. UMA or eSEN); only EquiformerV3 is "
                                    "supported, in checkpoints of fairchem 1")
    if not isinstance(root, dict):
        raise UnsupportedModelError(f"it holds {describe(root)}, not a checkpoint of fairchem; give the .pt file of an "
                                    "EquiformerV3")
    if root and all(isinstance(value, StoredTensor) for value in root.values()):
        raise UnsupportedModelError("it holds weights only (a state_dict), which do not say how the model is built; "
                                    "give the checkpoint they were taken from, or call mlip.checkpoints.from_reference"
                                    "('equiformer_v3', state_dict, config) with its configuration")
    for key in ("state_dict", "config"):
        if not isinstance(root.get(key), dict):
            raise ModelFileError(f"the checkpoint has no {key!r}, without which the model cannot be built; give the "
                                 "file as fairchem's trainer wrote it")
    return root
