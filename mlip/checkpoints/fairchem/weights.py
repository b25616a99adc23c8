"""The two sets of weights of a fairchem checkpoint: named ones, and their moving average without names."""

from __future__ import annotations

import re

from mlip.checkpoints.safe_pickle import describe
from mlip.checkpoints.torch_file import StoredTensor
from mlip.errors import ModelFileError
from mlip.models.equiformer_v3.reference import is_constant

_PREFIX = re.compile(r"(?:(?:module|_orig_mod)\.)*")
_INSTEAD = "use weights='state_dict', the weights of the last step"


def stored_weights(state_dict: object) -> dict[str, StoredTensor]:
    """Return the tensors of a state dict by name, in its order, without the prefixes of parallel or compiled training.

    Args:
        state_dict: of the file.

    Raises:
        ModelFileError: no tensors, something else among them, or keys with different prefixes.
    """
    if not isinstance(state_dict, dict) or not state_dict:
        raise ModelFileError("the checkpoint has no weights: its 'state_dict' is empty; give the file as fairchem's "
                             "trainer wrote it")
    found: dict[str, StoredTensor] = {}
    prefixes: dict[str, str] = {}
    for key, value in state_dict.items():
        if not isinstance(key, str) or not isinstance(value, StoredTensor):
            raise ModelFileError(f"state_dict[{describe(key)}] is {_what(value)}, where a tensor was expected; the "
                                 "file is damaged or was altered")
        match = _PREFIX.match(key)
        prefix = match[0] if match else ""
        prefixes.setdefault(prefix, key)
        found[key[len(prefix):]] = value
    if len(prefixes) > 1:
        examples = " and ".join(describe(key) for key in list(prefixes.values())[:2])
        raise ModelFileError(f"the keys of the state_dict have different prefixes, as in {examples}; save the "
                             "state_dict of one model")
    return found


def averaged(stored: dict[str, StoredTensor], ema: object) -> dict[str, StoredTensor]:
    """Return the tensors with every parameter replaced by its moving average.

    The averages are a list in the order of the parameters of the model, which is that of the state dict.

    Args:
        stored: tensors by name, in the order of the state dict.
        ema: what the checkpoint holds under this key.

    Raises:
        ModelFileError: there are none, or they do not fit the parameters in number, shape or precision.
    """
    shadow = ema.get("shadow_params") if isinstance(ema, dict) else None
    if not isinstance(shadow, list) or not shadow:
        raise ModelFileError("the checkpoint holds no averaged weights (ema); it was saved without the state of the "
                             f"training: {_INSTEAD}")
    names = [name for name in stored if not is_constant(name)]
    if len(shadow) != len(names):
        raise ModelFileError(f"the checkpoint holds {len(shadow)} averaged tensors (ema) for {len(names)} parameters, "
                             f"so they cannot be told apart: {_INSTEAD}")
    for name, average in zip(names, shadow, strict=True):
        if not isinstance(average, StoredTensor):
            raise ModelFileError(f"the averaged weights (ema) of {name[:200]} are {_what(average)}, not a tensor: "
                                 f"{_INSTEAD}")
        own = stored[name]
        if (average.shape, average.storage.dtype) != (own.shape, own.storage.dtype):
            raise ModelFileError(
                f"the averaged weights (ema) of {name[:200]} are {average.storage.dtype} of shape {average.shape}, the "
                f"parameter is {own.storage.dtype} of shape {own.shape}: {_INSTEAD}")
    return {**stored, **dict(zip(names, shadow, strict=True))}


def _what(value: object) -> str:
    return "a tensor" if isinstance(value, StoredTensor) else describe(value)
