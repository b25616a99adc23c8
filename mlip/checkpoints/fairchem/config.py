"""Configuration of a model from a fairchem checkpoint, as JSON-compatible values; foreign models refused by name."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from mlip.checkpoints.safe_pickle import describe
from mlip.checkpoints.torch_file import StoredTensor
from mlip.errors import ModelFileError, UnsupportedModelError

MODELS = ("equiformer_v3", "equiformer_v3_dens")
TARGETS = ("energy", "forces", "stress", "denoising_pos_target")
MAX_VALUES, MAX_DEPTH = 10_000, 16  # of a configuration; real ones have about 60 and 2
MAX_ELEMENTS = 200

_ADDED = ("model_class", "normalizers", "element_references")
_KNOWN = (("equiformer_v2", "EquiformerV2"), ("equiformer", "another Equiformer"), ("esen", "eSEN"), ("escn", "eSCN"),
          ("escaip", "EScAIP"), ("uma", "UMA"), ("gemnet", "GemNet"), ("dimenet", "DimeNet"), ("painn", "PaiNN"),
          ("scn", "SCN"), ("spinconv", "SpinConv"), ("schnet", "SchNet"))
_ONLY = f"only EquiformerV3 is supported ({' or '.join(MODELS)})"


def configuration(root: dict[Any, object]) -> dict[str, Any]:
    """Return the arguments of the model's constructor, its class, its normalisers and the energies of the elements.

    Args:
        root: the checkpoint.

    Raises:
        UnsupportedModelError: another model, a model of parts (backbone and heads), an unknown normaliser.
        ModelFileError: a part is missing or no data.
    """
    config = root["config"]
    model = config.get("model") if isinstance(config, dict) else None
    name = _model_name(model)
    budget = [MAX_VALUES]
    settings = {_text(key): _plain(value, f"config['model'][{describe(key)}]", budget)
                for key, value in _items(model, "config['model']") if key != "name"}
    for key in _ADDED:
        if key in settings:
            raise ModelFileError(f"config['model'] has the item {key!r}, which EquiformerV3 does not know; the file "
                                 "was altered")
    settings.update(model_class=name, normalizers=_normalizers(root))
    references = _element_references(root.get("elementrefs"))
    if references is not None:
        settings["element_references"] = references
    return settings


def _model_name(model: object) -> str:
    """Return the class of the model; refuse unsupported ones by name."""
    if isinstance(model, dict) and "backbone" in model:
        backbone = model["backbone"]
        inner = backbone.get("model", backbone.get("name")) if isinstance(backbone, dict) else None
        raise UnsupportedModelError(f"the model is one of parts: the backbone {_kind(inner)} with separate heads, as "
                                    f"fairchem's 'hydra' builds it; {_ONLY}, as one class")
    name = model.get("name") if isinstance(model, dict) else model
    if not isinstance(name, str):
        raise ModelFileError("the checkpoint does not say what its model is: config['model']['name'] is "
                             f"{describe(name)}; give the file as fairchem's trainer wrote it")
    if name not in MODELS:
        raise UnsupportedModelError(f"the model is {_kind(name)}; {_ONLY}")
    if not isinstance(model, dict):
        raise UnsupportedModelError(f"config['model'] is only the name {name!r}, as in checkpoints of fairchem before "
                                    "1.0; supported: a dictionary with the arguments of the model")
    return name


def _kind(name: object) -> str:
    """Return what is known of a model, by the name a configuration gives it."""
    if not isinstance(name, str):
        return describe(name)
    known = next((title for part, title in _KNOWN if part in name.lower()), None)
    return f"{describe(name)} ({known})" if known else describe(name)


def _normalizers(root: dict[Any, object]) -> dict[str, dict[str, float]]:
    if "normalizers" not in root:
        raise ModelFileError("the checkpoint has no 'normalizers', without which energies have no unit; give the file "
                             "as fairchem's trainer wrote it")
    found: dict[str, dict[str, float]] = {}
    for key, entry in _items(root["normalizers"], "normalizers"):
        if key not in TARGETS:
            raise UnsupportedModelError(f"the checkpoint normalises {describe(key)}, which mlip does not know; "
                                        f"supported: {', '.join(TARGETS)}")
        values = dict(_items(entry, f"normalizers[{key!r}]"))
        mean = _number(values.get("mean"), f"normalizers[{key!r}]['mean']")
        kind = "rmsd" if "rmsd" in values else "std"
        rmsd = _number(values.get(kind), f"normalizers[{key!r}][{kind!r}]")
        if rmsd <= 0:
            raise ModelFileError(f"normalizers[{key!r}][{kind!r}] is {rmsd}; a scale is positive")
        found[key] = {"mean": mean, "rmsd": rmsd}
    return found


def _element_references(value: object) -> list[float] | None:
    """Return the energies of the elements by atomic number; None if the checkpoint has none."""
    if value is None:
        return None
    targets = dict(_items(value, "elementrefs"))
    if not targets:
        return None
    if list(targets) != ["energy"]:
        raise UnsupportedModelError(f"the checkpoint has element references of {', '.join(map(describe, targets))}; "
                                    "supported: energy")
    what = "elementrefs['energy']['element_references']"
    table = _tensor(dict(_items(targets["energy"], "elementrefs['energy']")).get("element_references"), what)
    if table.dim() != 1 or not 1 < len(table) <= MAX_ELEMENTS:
        raise ModelFileError(f"{what} has the shape {tuple(table.shape)}; expected one energy for each atomic number")
    return [float(x) for x in table.tolist()]


def _items(value: object, what: str) -> list[tuple[Any, object]]:
    if not isinstance(value, dict):
        raise ModelFileError(f"{what} is {describe(value)}, where a dictionary was expected; the file is damaged or "
                             "was altered")
    return list(value.items())


def _text(key: object) -> str:
    if not isinstance(key, str):
        raise ModelFileError(f"config['model'] has the key {describe(key)}, which is no text")
    return key


def _tensor(value: object, what: str) -> Tensor:
    """Return a floating-point tensor without NaN, read from the file."""
    if not isinstance(value, StoredTensor):
        raise ModelFileError(f"{what} is {describe(value)}, where a tensor was expected; the file is damaged or was "
                             "altered")
    tensor = value.read()
    if not tensor.is_floating_point() or not tensor.isfinite().all():
        raise ModelFileError(f"{what} holds NaN, infinity or no real numbers ({tensor.dtype}); the training failed, or "
                             "the file is damaged")
    return tensor


def _number(value: object, what: str) -> float:
    """Return a number, which may be stored as a tensor of one element."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < math.inf:
        return float(value)
    tensor = _tensor(value, what)
    if tensor.numel() != 1:
        raise ModelFileError(f"{what} has the shape {tuple(tensor.shape)}; expected one number")
    return float(tensor.item())


def _plain(value: object, what: str, budget: list[int], depth: int = 0) -> Any:
    """Return a JSON-compatible copy of plain data; `budget` counts the values that may still come."""
    budget[0] -= 1
    if budget[0] < 0 or depth > MAX_DEPTH:
        raise ModelFileError("config['model'] holds far more than any configuration of a model")
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int) and abs(value) < 1 << 63:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(x, what, budget, depth + 1) for x in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(x, what, budget, depth + 1) for key, x in value.items()}
    raise ModelFileError(f"{what} holds {describe(value)}; a configuration holds numbers, texts, lists and "
                         "dictionaries with names only")
