"""Models by reference: what a serialised force says of its model, and how the model is found again.

A force never carries weights. It carries a `ModelReference`; copies made in the same process find
the model already loaded, a fresh process loads it from its name or file and checks the hash.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakSet

import torch

from mlip.checkpoints import Potential, bundled, load
from mlip.checkpoints.options import as_dtype
from mlip.errors import ModelFileError, OptionError
from mlip.ops import compiled_is_available


@dataclass(frozen=True)
class ModelReference:
    """Where a model is found again.

    Attributes:
        source: name or absolute path of the model; None for a model that was never saved.
        sha256: hash of the model as it was handed over, before any change of precision.
        dtype: precision it works in, `float32` or `float64`.
        device: device it works on.
        backend: back end it uses.
        radial: whether its radial functions are exact or tabulated.
        rotational_average: group of rotations it is averaged over, or `none`.
    """

    source: str | None
    sha256: str
    dtype: str
    device: str
    backend: str = "auto"
    radial: str = "exact"
    rotational_average: str = "none"


_loaded_models: dict[tuple[str, ...], WeakSet[Potential]] = {}  # equal models, as long as someone holds them
_lock = threading.RLock()


def register(model: Potential | str | Path, device: torch.device | str | None = None,
             dtype: torch.dtype | str | None = None, backend: str | None = None,
             radial: str | None = None, rotational_average: str | None = None) -> tuple[Potential, ModelReference]:
    """Return the potential to work with and the reference by which copies of a force find it.

    Args:
        model: a potential, or the name or path of one.
        device: device to work on; None leaves the potential where it is.
        dtype: precision to work in; None keeps that of the potential.
        backend: back end to use; None keeps that of the potential.
        radial: `exact` or `tabulated`; None keeps that of the potential.
        rotational_average: a group of rotations or `none`; None keeps that of the potential.

    Raises:
        ModelNotFoundError, ModelFileError: from loading.
        OptionError, BackendError: bad device, dtype, backend, radial, rotational_average or kind of model.
    """
    if not isinstance(model, (Potential, str, Path)):
        raise OptionError(f"a model is a name, a path or a Potential; {type(model).__name__} was given")
    stored = model if isinstance(model, Potential) else load(model, device=device)
    potential = stored.to(device=device, dtype=as_dtype(dtype, stored.dtype), backend=backend, radial=radial,
                          rotational_average=rotational_average)
    reference = ModelReference(_source(stored.path), stored.info.sha256, _text(potential.dtype),
                               str(potential.device), potential.backend, potential.radial,
                               potential.rotational_average)
    with _lock:
        if potential is not model:  # loaded or converted: an equal one may be here already
            potential = find(reference) or potential
        _keep(reference, potential)
    return potential, reference


def resolve(reference: ModelReference) -> Potential:
    """Return the model of a reference: the one in this process, else loaded from its name or file.

    Where the recorded device does not exist on this machine the model works on the CPU.

    Raises:
        ModelFileError: the model was never saved, or its file has changed since.
        ModelNotFoundError: the file is gone.
    """
    with _lock:
        found = find(reference)
        if found is None:
            found = _loaded(reference)
            _keep(reference, found)
        return found


def find(reference: ModelReference) -> Potential | None:
    """Return the model if it lives in this process."""
    return next(iter(_loaded_models.get(_key(reference), ())), None)


def _keep(reference: ModelReference, potential: Potential) -> None:
    _loaded_models.setdefault(_key(reference), WeakSet()).add(potential)


def _loaded(reference: ModelReference) -> Potential:
    if reference.source is None:
        raise ModelFileError(
            "this force was made from a model that had never been saved, so that a copy in another process "
            "cannot find it; call potential.save(path) first and create the force again")
    stored = load(reference.source, device=_device_here(reference.device))
    backend = "auto" if reference.backend == "compiled" and not compiled_is_available() else reference.backend
    potential = stored.to(dtype=reference.dtype, backend=backend, radial=reference.radial,
                          rotational_average=reference.rotational_average)
    if reference.sha256 not in (stored.info.sha256, potential.info.sha256):
        raise ModelFileError(
            f"the model {reference.source} has changed since this force was made: sha256 "
            f"{stored.info.sha256[:12]} instead of {reference.sha256[:12]}; restore the file, or create the "
            "force again with the new one")
    return potential


def _source(path: Path | None) -> str | None:
    """Return the name of a bundled model, which holds on every machine; else the absolute path."""
    if path is None:
        return None
    resolved = Path(path).resolve()
    names = [name for name, place in bundled().items() if place.resolve() == resolved]
    return names[0] if names else str(resolved)


def _device_here(device: str) -> str:
    if not device.startswith("cuda"):
        return device
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = torch.device(device).index or 0
    return device if index < count else "cuda" if count else "cpu"


def _key(reference: ModelReference) -> tuple[str, ...]:
    return (reference.sha256, reference.dtype, reference.device, reference.backend, reference.radial,
            reference.rotational_average)


def _text(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
