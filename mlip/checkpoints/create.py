"""New potentials: untrained, or from the weights of a reference implementation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mlip.checkpoints.info import ModelInfo
from mlip.checkpoints.options import as_dtype
from mlip.checkpoints.potential import Potential
from mlip.elements import atomic_numbers
from mlip.errors import ConfigError, OptionError, UnsupportedModelError
from mlip.models import EnergyModel, ModelConfig, converter
from mlip.models import family as family_of

CUTOFF = 5.0  # A


def create(family: str, elements: Sequence[str | int], seed: int = 0, *, cutoff: float = CUTOFF,
           dtype: torch.dtype | str = "float32", **config: Any) -> Potential:
    """Return an untrained potential with random weights, for benchmarks and training.

    Args:
        family: name of the model family, e.g. `"mace"`.
        elements: symbols or atomic numbers; the order does not matter.
        seed: of the random weights; the random state of torch is left as it was.
        cutoff: A.
        dtype: `"float32"` or `"float64"`.
        config: further fields of the configuration of the family, e.g. `channels=32`.

    Raises:
        OptionError, ConfigError: unknown family, unknown option or impossible value.
        StructureError: an element that is none.
    """
    kind = family_of(family)
    if isinstance(elements, str) or not isinstance(elements, Iterable):
        raise ConfigError(f"elements must be a list such as ['H', 'O']; {elements!r} was given")
    if type(seed) is not int or not 0 <= seed < 1 << 63:
        raise OptionError(f"seed must be a whole number from 0 to 2^63 - 1; {seed!r} was given")
    if "atomic_numbers" in config:
        raise ConfigError("give the elements once, as `elements`, not also as atomic_numbers")
    numbers = tuple(sorted(set(atomic_numbers(elements))))
    settings = kind.config.from_dict({**config, "atomic_numbers": numbers, "cutoff": cutoff})
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = build(settings, as_dtype(dtype, torch.float32))
    return Potential(model, ModelInfo(family=family, description=f"untrained, seed {seed}"))


def build(config: ModelConfig, dtype: torch.dtype) -> EnergyModel:
    """Return a model with random weights in the given precision, whatever torch's defaults are, on the CPU."""
    with torch.inference_mode(False), torch.device("cpu"):  # weights of an inference mode have no derivatives
        model: EnergyModel = family_of(config.family).model(config)
        return model.to(dtype)


def from_weights(config: ModelConfig, weights: Mapping[str, Tensor], info: ModelInfo,
                 path: Path | None = None, identity: str | None = None) -> Potential:
    """Return the potential of a configuration and its state dict; keeps the dtype of the weights.

    Raises:
        UnsupportedModelError: tensors missing, left over, or of the wrong shape.
    """
    kinds = {t.dtype for k, t in weights.items() if t.is_floating_point() and k != "atomic_energies"}
    if len(kinds) != 1 or kinds - {torch.float32, torch.float64}:
        raise UnsupportedModelError(f"weights must all be float32 or all float64; found {sorted(map(str, kinds))}")
    with torch.random.fork_rng(devices=[]):
        model = build(config, kinds.pop())
    try:
        model.load_state_dict(dict(weights))
    except RuntimeError as error:
        raise UnsupportedModelError(f"the weights do not fit the configuration: {error}") from None
    return Potential(model, info, path, identity)


def from_reference(reference: str, state_dict: Mapping[str, Tensor], config: Mapping[str, Any]) -> Potential:
    """Return a potential with the weights of a reference implementation; keeps their dtype.

    Args:
        reference: `"mace"` (mace-torch), `"mace_gaunt"` (MACE-Gaunt as published by Luo et al., ICLR 2024) or
            `"equiformer_v3"` (atomicarchitects/equiformer_v3).
        state_dict: the reference's own keys.
        config: the reference's constructor arguments, with `model_class` naming its class. Models with
            several heads choose one by `atoms.info["head"]`.

    Raises:
        OptionError: unknown reference.
        UnsupportedModelError: options or tensors that mlip does not implement, by name.
    """
    convert = converter(reference)
    if not isinstance(state_dict, Mapping) or not isinstance(config, Mapping):
        raise UnsupportedModelError("state_dict and config must be mappings; got "
                                    f"{type(state_dict).__name__} and {type(config).__name__}")
    try:
        tensors = {k: torch.as_tensor(v) for k, v in state_dict.items()}
        ours, weights = convert(tensors, config)
    except UnsupportedModelError:
        raise
    except KeyError as error:
        raise UnsupportedModelError(f"the reference configuration lacks {error}") from None
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise UnsupportedModelError(f"{reference}: the tensors of the reference do not fit its configuration, or the "
                                    f"configuration is not supported: {error}") from None
    info = ModelInfo(family=ours.family, description="imported from a reference state dict")
    return from_weights(ours, weights, info)
