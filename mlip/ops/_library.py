"""Finds and loads the compiled kernels; says which back end is in use, and why."""

from __future__ import annotations

import ctypes
import importlib.metadata
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

INTERFACE = 7  # equals INTERFACE in csrc/CMakeLists.txt; raised whenever the signature of an operator changes
NAMES = ("libmlip_ops.so", "libmlip_ops.dylib")


@dataclass(frozen=True)
class Library:
    """The state of the compiled kernels in this process.

    Attributes:
        path: file of the loaded library; None if there is none.
        isa: instruction set in use: `avx512`, `avx2` or `generic`; empty without library.
        problem: why it is not loaded; empty if it is.
    """

    path: Path | None
    isa: str = ""
    problem: str = ""


def candidates() -> Iterator[Path]:
    """Yield where the library may be: beside this file, or in the installed package when the sources shadow it."""
    folders = [Path(__file__).parent / "_lib"]
    try:
        installed = importlib.metadata.distribution("mlip-md").locate_file("mlip/ops/_lib")
        folders.append(Path(str(installed)))
    except importlib.metadata.PackageNotFoundError:
        pass
    for folder in folders:
        for name in NAMES:
            if (folder / name).is_file():
                yield folder / name


def load() -> Library:
    """Load the first library that fits these sources."""
    problem = ("the compiled kernels are not installed; install a C++ compiler (g++ or clang++) and run: "
               "pip install --force-reinstall --no-deps mlip-md")
    for path in candidates():
        try:
            if _is_cut(path):
                raise OSError("the file is cut off; reinstall mlip-md")
            handle = ctypes.CDLL(str(path))  # registers the operators; `torch.ops.load_library` would change the
            # environment by importing the compiler of torch
            found = int(handle.mlip_ops_interface())
        except (OSError, AttributeError) as error:
            problem = f"{path} cannot be loaded: {error}"
            continue
        if found < 0:
            return Library(None, problem=f"{path}: another copy of this library is loaded already; use one "
                                         "installation of mlip in a process")
        if found != INTERFACE:  # its operators are registered already, so that no other library could follow
            return Library(None, problem=f"{path} belongs to another version of mlip (interface {found}, needed "
                                         f"{INTERFACE}); reinstall mlip-md")
        handle.mlip_ops_isa.restype = ctypes.c_char_p
        return Library(path, handle.mlip_ops_isa().decode())
    return Library(None, problem=problem)


def _is_cut(path: Path) -> bool:
    """Return whether an ELF file ends before its segments do: the loader would kill the process with a bus error."""
    content = path.read_bytes()
    if len(content) < 64 or content[:5] != b"\x7fELF\x02":  # none of 64 bits: the loader says what is wrong
        return False
    order = "<" if content[5] == 1 else ">"
    (table,) = struct.unpack_from(order + "Q", content, 32)
    size, count = struct.unpack_from(order + "HH", content, 54)
    if table + size * count > len(content):
        return True
    ends = [sum(struct.unpack_from(order + "8xQ16xQ", content, table + k * size)) for k in range(count)]
    return max(ends, default=0) > len(content)


LIBRARY = load()
