"""`load`: a name or a file -> `Potential`."""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch

from mlip.checkpoints import format as file_format
from mlip.checkpoints.create import from_reference, from_weights
from mlip.checkpoints.info import ModelInfo
from mlip.checkpoints.potential import Potential
from mlip.errors import ModelFileError, ModelNotFoundError, OptionError
from mlip.models import family as family_of

BUNDLED = Path(__file__).parent / "bundled"


def bundled() -> dict[str, Path]:
    """Return the models that come with the package, by name."""
    return {path.stem: path for path in sorted(BUNDLED.glob(f"*{file_format.SUFFIX}"))}


def load(name_or_path: str | Path, device: torch.device | str | None = None,
         dtype: torch.dtype | str | None = None) -> Potential:
    """Load a potential. No code of the file is run, whatever its kind.

    Args:
        name_or_path: name of a bundled model, path of a `.mlip` file, or path of a mace-torch `.model` file.
        device: `"cpu"` or `"cuda"`; by default the CPU.
        dtype: `"float32"` or `"float64"`; by default the precision of the file.

    Raises:
        ModelNotFoundError: no such name or file; lists the names.
        ModelFileError: a truncated, altered or foreign file.
        UnsupportedModelError: a foreign model of a kind that mlip does not implement.
        OptionError: unusable device or dtype.
    """
    if not isinstance(name_or_path, (str, Path)):
        raise OptionError(f"a model is given by its name or path; got {type(name_or_path).__name__}")
    path = bundled().get(str(name_or_path), Path(name_or_path).expanduser())
    if path.is_dir():
        raise ModelFileError(f"{path} is a folder; give the path of a model file")
    if not path.is_file():
        raise ModelNotFoundError(f"there is no model named or file at {str(name_or_path)!r}; "
                                 f"bundled models: {', '.join(bundled()) or 'none'}")
    potential = _foreign(path) if zipfile.is_zipfile(path) else _own(path)
    return potential.to(device=device, dtype=dtype)


def _own(path: Path) -> Potential:
    document, tensors = file_format.read(path)
    info = ModelInfo.from_dict(document["info"])
    config = family_of(info.family).config.from_dict(document["config"])
    return from_weights(config, tensors, info, path.resolve())


def _foreign(path: Path) -> Potential:
    from mlip.checkpoints.mace_torch import read_mace_torch

    state_dict, config = read_mace_torch(path)
    potential = from_reference("mace", state_dict, config)
    info = ModelInfo(family="mace", name=path.stem, description=f"imported from the mace-torch file {path.name}")
    return Potential(potential.model, info, path.resolve())
