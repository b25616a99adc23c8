"""`load`: a name or a file -> `Potential`."""

from __future__ import annotations

import dataclasses
import difflib
import os
from pathlib import Path

import torch

from mlip.checkpoints import catalogue
from mlip.checkpoints import format as file_format
from mlip.checkpoints.create import from_reference, from_weights
from mlip.checkpoints.info import ModelInfo
from mlip.checkpoints.options import as_dtype
from mlip.checkpoints.potential import Potential
from mlip.errors import ModelFileError, ModelNotFoundError, OptionError
from mlip.models import family as family_of

BUNDLED = Path(__file__).parent / "models"


def bundled() -> dict[str, Path]:
    """Return the models that come with the package, by name."""
    return {path.stem: path for path in sorted(BUNDLED.glob(f"*{file_format.SUFFIX}"))}


def load(name_or_path: str | Path, device: torch.device | str | None = None,
         dtype: torch.dtype | str | None = None, backend: str | None = None, radial: str | None = None,
         weights: str | None = None, rotational_average: str | None = None) -> Potential:
    """Load a potential. No code of the file is run, whatever its kind.

    Args:
        name_or_path: name of a bundled model; path of a `.mlip` file, a mace-torch `.model` file, or an EquiformerV3
            checkpoint of fairchem (`.pt`); or name of a public model (`mlip.checkpoints.catalogue`), which is fetched
            once; looked for in this order.
        device: `"cpu"` or `"cuda"`; by default the CPU.
        dtype: `"float32"` or `"float64"`; by default the precision of the file.
        backend: `"auto"` (the default), `"compiled"` or `"reference"`.
        radial: `"exact"` (the default) or `"tabulated"`; see `Potential.to`.
        weights: of files that hold two sets, the EquiformerV3 checkpoints: `"state_dict"` (the default), those of the
            last step, or `"ema"`, their moving average. Save the latter as `.mlip` for other processes.
        rotational_average: `"none"` (the default), or a group of rotations; see `Potential.to`.

    Raises:
        ModelNotFoundError: no such name or file (lists the names), or a public model that cannot be fetched.
        ModelFileError: a truncated, altered or foreign file.
        UnsupportedModelError: a foreign model of a kind that mlip does not implement.
        OptionError: unusable device, dtype, backend, radial, weights or rotational_average.
        BackendError: the compiled kernels were asked for and are not installed.
    """
    if not isinstance(name_or_path, (str, Path)):
        raise OptionError(f"a model is given by its name or path; got {type(name_or_path).__name__}")
    path, entry = _find(name_or_path)
    double = as_dtype(dtype, torch.float32) == torch.float64
    potential = _own(path, weights) if _is_safetensors(path) else _foreign(path, entry, double, weights)
    return potential.to(device=device, dtype=dtype, backend=backend, radial=radial,
                        rotational_average=rotational_average)


def _find(name_or_path: str | Path) -> tuple[Path, catalogue.Entry | None]:
    """Return the file of a name or path, and its entry if it is a public model."""
    name, path = str(name_or_path), Path(name_or_path).expanduser()
    if name in bundled():
        return bundled()[name], None
    if os.path.isfile(path):
        return path, None
    public = catalogue.entries()
    if name in public:
        from mlip.checkpoints.download import fetch

        return fetch(public[name]), public[name]
    if os.path.isdir(path):
        raise ModelFileError(f"{path} is a folder; give the path of a model file")
    close = difflib.get_close_matches(name, [*bundled(), *public], n=3)
    hint = f" (did you mean {' or '.join(close)}?)" if close else ""
    raise ModelNotFoundError(f"there is no model named or file at {name!r}{hint}; bundled models: "
                             f"{', '.join(bundled()) or 'none'}; public models: {', '.join(public)}")


def _is_safetensors(path: Path) -> bool:
    """Tell our files, also damaged ones, from those of torch: by their ending or their first bytes."""
    with path.open("rb") as file:
        start = file.read(9)
    return path.suffix == file_format.SUFFIX or start[8:] == b"{"


def _own(path: Path, weights: str | None) -> Potential:
    _check_one_set(path, weights)
    document, tensors = file_format.read(path)
    info = ModelInfo.from_dict(document["info"])
    try:
        config = family_of(info.family).config.from_dict(document["config"])
    except OptionError as error:  # an unknown family, or a configuration of a later version
        raise ModelFileError(f"{path}: {error}; a newer mlip-md may read it") from None
    return from_weights(config, tensors, info, path.resolve(), document["sha256"])


def _check_one_set(path: Path, weights: str | None) -> None:
    if weights is not None:
        raise OptionError(f"{path.name} holds one set of weights, so weights={weights!r} cannot be chosen; leave it "
                          "out. It is for EquiformerV3 checkpoints of fairchem")


def _foreign(path: Path, entry: catalogue.Entry | None, double: bool, weights: str | None) -> Potential:
    """Import a foreign file; with `double`, float32 weights become float64 before the change of layout rounds them."""
    from mlip.checkpoints.fairchem import is_fairchem, read_fairchem
    from mlip.checkpoints.mace_torch import read_mace_torch

    if is_fairchem(path):
        reference, origin = "equiformer_v3", "fairchem checkpoint"
        state_dict, config = read_fairchem(path, "state_dict" if weights is None else weights)
    else:
        _check_one_set(path, weights)
        reference, origin = "mace", "mace-torch file"
        state_dict, config = read_mace_torch(path)
    if double:
        state_dict = {k: v.double() if v.is_floating_point() else v for k, v in state_dict.items()}
    model = from_reference(reference, state_dict, config).model
    entry = entry or catalogue.identify(path)
    info = entry.info() if entry else ModelInfo(
        family=model.config.family, name=path.stem, description=f"imported from the {origin} {path.name}")
    if weights == "ema":  # the file alone does not name these weights: their content is the identity
        return Potential(model, dataclasses.replace(info, description=f"{info.description}; averaged weights (ema)"))
    return Potential(model, info, path.resolve(), catalogue.sha256_of(path))
