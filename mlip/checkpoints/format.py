"""The file format: safetensors with one JSON document in its header. Loading never runs code."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from mlip.errors import ModelFileError, ModelNotFoundError

SUFFIX = ".mlip"
FORMAT = "mlip-md"
VERSION = 1


def content_hash(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Return the sha256 of the header (canonical JSON) and of the name, dtype, shape and bytes of each tensor."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"|{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def write(path: Path, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Write a model file and return its sha256; the file appears whole or not at all.

    Args:
        path: target.
        header: JSON-compatible: `config`, `info` and `summary` (what a reader may want to see without the tensors).
        tensors: the state dict.
    """
    identity = content_hash(header, tensors)
    document = {"format": FORMAT, "version": VERSION, **header, "sha256": identity}
    data = to_bytes({k: v.contiguous() for k, v in tensors.items()}, {FORMAT: json.dumps(document, sort_keys=True)})
    if not path.parent.is_dir():
        raise ModelNotFoundError(f"cannot write {path}: the folder {path.parent} does not exist")
    if path.is_dir():
        raise ModelFileError(f"cannot write {path}: it is a folder; give the path of a file")
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.part")
    try:
        with temporary.open("xb") as file:  # unlike tempfile's, readable for whom the umask allows it
            file.write(data)
        os.replace(temporary, path)
    except OSError as error:
        raise ModelFileError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)
    return identity


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read and check a model file.

    Returns:
        The document of the header, and the tensors.

    Raises:
        ModelFileError: truncated, altered, foreign, or written by a newer version.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelFileError(f"{path} is no readable model file: it is truncated, damaged or of another kind "
                             f"({error})") from None
    if FORMAT not in metadata:
        raise ModelFileError(f"{path} is a safetensors file but was not written by {FORMAT}; "
                             "make one with Potential.save, or convert the original with: mlip convert")
    try:
        document: dict[str, Any] = json.loads(metadata[FORMAT])
        kind, version = document["format"], document["version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelFileError(f"{path}: the header is damaged ({error!r})") from None
    if kind != FORMAT or type(version) is not int or version < 1:
        raise ModelFileError(f"{path}: the header is damaged (format {kind!r}, version {version!r})")
    if version > VERSION:
        raise ModelFileError(f"{path} has the format version {version}, newer than this mlip-md reads ({VERSION}); "
                             "upgrade with: pip install -U mlip-md")
    stored, header = document.get("sha256"), {part: document.get(part) for part in ("config", "info", "summary")}
    if not isinstance(stored, str) or not all(isinstance(part, dict) for part in header.values()):
        raise ModelFileError(f"{path}: the header is damaged (config, info, summary or sha256 is missing)")
    actual = content_hash(header, tensors)
    if actual != stored:
        raise ModelFileError(f"{path} was altered or damaged: its contents have the hash {actual[:16]}..., "
                             f"its header promises {stored[:16]}...; fetch the file again")
    return document, tensors
