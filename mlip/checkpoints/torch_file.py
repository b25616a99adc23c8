"""Reads files written by `torch.save` without running any code they hold and without their classes."""

from __future__ import annotations

import io
import struct
import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from mlip.checkpoints.safe_pickle import Global, InertUnpickler, describe
from mlip.errors import MLIPError, ModelFileError, ModelNotFoundError, UnsupportedModelError

MAX_PICKLE_BYTES = 1 << 28
_LEGACY_MAGIC = bytes.fromhex("8002 8a0a 6cfc9c46f9206aa85019")

_STORAGES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


@dataclass(frozen=True)
class TorchFile:
    """Content of a file.

    Attributes:
        root: the saved object as plain data (`mlip.checkpoints.safe_pickle`); tensors are real tensors, or a
            `StoredTensor` each where the file is still open.
        names: classes and functions the file refers to.
    """

    root: object
    names: tuple[Global, ...]


def read_torch_file(path: str | Path) -> TorchFile:
    """Read a file written by `torch.save`, e.g. a whole pickled model.

    Args:
        path: the file.

    Returns:
        Its content; nothing in it was executed.

    Raises:
        ModelNotFoundError: there is no such file.
        UnsupportedModelError: a TorchScript archive or the format of torch before 1.6.
        ModelFileError: damaged, or no torch file.
    """
    with _stream(path) as (stream, name):
        return read_archive(stream, name)


@contextmanager
def open_torch_file(path: str | Path) -> Iterator[TorchFile]:
    """Open a file written by `torch.save` and read its tensors one by one, for files that hold more than is needed.

    Args:
        path: the file.

    Yields:
        Its content, with a `StoredTensor` for each tensor; errors met while they are read name the file, too.

    Raises:
        ModelNotFoundError, UnsupportedModelError, ModelFileError: as `read_torch_file`.
    """
    with _stream(path) as (stream, name), _reported(name), zipfile.ZipFile(stream) as archive:
        yield _Archive(archive, stream.seek(0, io.SEEK_END), script=False, lazy=True).load()


@contextmanager
def _stream(path: str | Path) -> Iterator[tuple[BinaryIO, str]]:
    """Open a file and yield it with its name; refuse what is no zip archive."""
    source = Path(path).expanduser()
    if not source.is_file():
        raise ModelNotFoundError(f"there is no model file {str(source)!r}")
    with source.open("rb") as stream:
        head = stream.read(64)
        if head.startswith(_LEGACY_MAGIC):
            raise UnsupportedModelError(f"{source.name} is in the format of torch before 1.6; if you trust "
                                        "it, load it once with torch.load and save it again with torch.save")
        if not head.startswith(b"PK\x03\x04"):
            what = "empty" if not head else "no file written by torch.save (it is not a zip archive)"
            raise ModelFileError(f"{source.name} is {what}; if it was downloaded, fetch it again")
        yield stream, source.name


def read_archive(stream: BinaryIO, name: str, script: bool = False) -> TorchFile:
    """Read the zip archive of a torch file.

    Args:
        stream: seekable, binary.
        name: of the file, for messages.
        script: whether a TorchScript archive is expected; only its attributes are read.

    Raises:
        UnsupportedModelError: a TorchScript archive where none was expected.
        ModelFileError: damaged.
    """
    with _reported(name), zipfile.ZipFile(stream) as archive:
        return _Archive(archive, stream.seek(0, io.SEEK_END), script).load()


@contextmanager
def _reported(name: str) -> Iterator[None]:
    """Name the file in every error, and make those of damaged files typed ones."""
    try:
        yield
    except ModelFileError as error:
        raise type(error)(f"{name}: {error}") from None
    except MLIPError:
        raise
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, ValueError, TypeError,
            OverflowError, KeyError, IndexError, struct.error) as error:
        raise ModelFileError(f"{name} is damaged or truncated ({str(error)[:80]}); fetch it again") from None


def check_floats(tensors: Mapping[str, Tensor]) -> None:
    """Refuse weights that no model can run with.

    Args:
        tensors: by name, of any shape.

    Raises:
        UnsupportedModelError: floating-point numbers other than float32 and float64.
        ModelFileError: NaN or infinity.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            if tensor.dtype not in (torch.float32, torch.float64):
                raise UnsupportedModelError(f"{name[:200]}: {tensor.dtype} is not supported; supported: float32 and "
                                            "float64")
            if not torch.isfinite(tensor).all():
                raise ModelFileError(f"{name[:200]} holds NaN or infinity; the model was saved after a failed "
                                     "training, or the file is damaged")


class _Storage:
    """One storage of the archive, read when first needed."""

    def __init__(self, archive: _Archive, key: str, dtype: torch.dtype, count: int) -> None:
        self.archive, self.key, self.dtype, self.count = archive, key, dtype, count


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor of an archive that is open; `read` returns it.

    Attributes:
        storage: where its numbers are.
        offset: of its first number in the storage.
        shape: sizes.
        steps: stride of each axis, in numbers.
    """

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    steps: tuple[int, ...]

    def read(self) -> Tensor:
        """Return a contiguous copy of its own, on the CPU.

        Raises:
            ModelFileError: it does not fit in its storage, or all that was read is more than the file can hold.
        """
        return self.storage.archive.read(self)


class _Archive:
    """The records of one torch file; hands tensors to the inert unpickler."""

    def __init__(self, archive: zipfile.ZipFile, size: int, script: bool, lazy: bool = False) -> None:
        self.archive, self.lazy = archive, lazy
        self.budget = size  # bytes that may still be read: records are stored, so they fit in the file
        self.materialized = 2 * size + (1 << 20)  # bytes of tensors, which may share storages
        self.entries = {info.filename: info for info in archive.infolist()}
        pickles = [n for n in self.entries if n.endswith("/data.pkl") and n.count("/") == 1]
        if len(pickles) != 1:
            raise ModelFileError("a zip archive, but not one written by torch.save (no data.pkl); give "
                                 "the .model file")
        self.prefix = pickles[0].removesuffix("data.pkl")
        if not script and f"{self.prefix}constants.pkl" in self.entries:
            raise UnsupportedModelError("a TorchScript archive (e.g. made for LAMMPS); give the .model file "
                                        "it was made from")
        order = self.record("byteorder") if f"{self.prefix}byteorder" in self.entries else b"little"
        if order not in (b"little", b"big"):
            raise ModelFileError("unknown byte order; fetch the file again")
        self.swap = order.decode() != sys.byteorder
        self.storages: dict[str, Tensor] = {}

    def load(self) -> TorchFile:
        machine = InertUnpickler({
            ("torch._utils", "_rebuild_tensor_v2"): self.tensor,
            ("torch._utils", "_rebuild_parameter"): _parameter,
            ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
        }, self.persistent)
        if self.entries[f"{self.prefix}data.pkl"].file_size > MAX_PICKLE_BYTES:
            raise ModelFileError("its pickle is far larger than that of any model")
        root = machine.load(self.record("data.pkl"))
        return TorchFile(root, tuple(dict.fromkeys(machine.names)))

    def record(self, name: str) -> bytes:
        info = self.entries.get(self.prefix + name)
        if info is None:
            raise ModelFileError(f"the record {name[:80]!r} is missing; fetch the file again")
        if info.compress_type != zipfile.ZIP_STORED:
            raise ModelFileError("its records are compressed, which torch.save never does; get the file as "
                                 "torch.save wrote it")
        self.budget -= info.file_size
        if self.budget < 0:
            raise ModelFileError("its records claim to be larger than the file; fetch it again")
        return self.archive.read(info)

    def persistent(self, pid: object) -> object:
        described = isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage"
        if not (described and isinstance(pid, tuple) and isinstance(pid[1], Global)):
            raise ModelFileError("damaged model file: a tensor storage without a description")
        _, kind, key, location, count = pid[:5]
        dtype = _STORAGES.get(kind.name) if kind.module == "torch" else None
        if dtype is None:
            raise UnsupportedModelError(f"it holds tensors of {kind}; allowed: {', '.join(_STORAGES)}")
        if location == "meta":
            raise ModelFileError("it holds tensors without data (device 'meta')")
        if not isinstance(key, str) or type(count) is not int or count < 0:
            raise ModelFileError("damaged model file: a tensor storage without a size")
        return _Storage(self, key, dtype, count)

    def values(self, storage: _Storage) -> Tensor:
        """Return a storage as a flat tensor on the CPU, in the byte order of this machine."""
        if storage.key not in self.storages:
            raw = self.record(f"data/{storage.key}")
            flat = np.frombuffer(raw, f"u{storage.dtype.itemsize}")
            flat = flat.byteswap() if self.swap else flat.copy()
            self.storages[storage.key] = torch.from_numpy(flat.view(np.uint8))
        raw_values = self.storages[storage.key]
        if raw_values.numel() != storage.count * storage.dtype.itemsize:
            raise ModelFileError(f"damaged model file: storage {storage.key[:20]} has {raw_values.numel()} "
                                 f"bytes, expected {storage.count} x {storage.dtype.itemsize}")
        return raw_values.view(storage.dtype) if storage.count else torch.empty(0, dtype=storage.dtype)

    def tensor(self, storage: object, offset: object, size: object, stride: object,
               *rest: object) -> Tensor | StoredTensor:
        """Rebuild a tensor, or where to find it."""
        shape, steps = _integers(size), _integers(stride)
        if not isinstance(storage, _Storage) or type(offset) is not int or offset < 0 \
                or len(shape) != len(steps):
            raise ModelFileError("damaged model file: a tensor with an impossible layout")
        if len(rest) > 2 and rest[2]:
            raise UnsupportedModelError(f"it holds tensors with extra properties ({describe(rest[2])})")
        stored = StoredTensor(storage, offset, shape, steps)
        return stored if self.lazy else stored.read()

    def read(self, stored: StoredTensor) -> Tensor:
        """Return a tensor as a contiguous copy of its own."""
        storage, shape, steps = stored.storage, stored.shape, stored.steps
        count = 1
        for n in shape:
            count *= n
        self.materialized -= count * storage.dtype.itemsize
        last = stored.offset + sum((n - 1) * s for n, s in zip(shape, steps, strict=True))
        if self.materialized < 0 or (count and last >= storage.count):
            raise ModelFileError("damaged model file: a tensor that is larger than its storage")
        if count == 0:
            return torch.empty(shape, dtype=storage.dtype)
        return torch.as_strided(self.values(storage), shape, steps, stored.offset).clone(
            memory_format=torch.contiguous_format)


def _integers(value: object) -> tuple[int, ...]:
    numbers = value if isinstance(value, tuple) else ()
    if not isinstance(value, tuple) or len(numbers) > 64 or any(type(n) is not int or n < 0 for n in numbers):
        raise ModelFileError("damaged model file: a tensor with an impossible shape")
    return numbers


def _parameter(data: object, *rest: object) -> object:
    """A parameter is its tensor; gradients and hooks are of no use here."""
    return data
