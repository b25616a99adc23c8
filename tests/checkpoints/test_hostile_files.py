"""Files made to run code, to exhaust the machine, or simply broken: a typed error, and nothing happens."""

from __future__ import annotations

import copyreg
import io
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mlip.checkpoints import safe_pickle
from mlip.checkpoints.mace_torch import read_mace_torch
from mlip.checkpoints.torch_file import read_torch_file
from mlip.errors import MLIPError, ModelFileError, ModelNotFoundError, UnsupportedModelError

FORBIDDEN = {"pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "exec", "compile",
             "import", "marshal.loads", "ctypes.dlopen", "socket.connect"}
_events: list[str] | None = None


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if _events is not None and event in FORBIDDEN:
        _events.append(f"{event} {args!r:.80}")


sys.addaudithook(_audit)


@pytest.fixture
def watched() -> Iterator[list[str]]:
    """Record every event of FORBIDDEN while the test runs."""
    global _events
    _events = []
    yield _events
    _events = None


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def archive(path: Path, data: bytes, records: dict[str, bytes] | None = None,
            compression: int = zipfile.ZIP_STORED) -> Path:
    """Write a file with the layout of torch.save."""
    with zipfile.ZipFile(path, "w", compression) as z:
        z.writestr("archive/data.pkl", data)
        for name, content in {"version": b"3\n", "byteorder": b"little", **(records or {})}.items():
            z.writestr(f"archive/{name}", content)
    return path


def glob(module: str, name: str) -> bytes:
    return b"c" + f"{module}\n{name}\n".encode()


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def tensor(count: int, size: tuple[int, ...], stride: tuple[int, ...], kind: str = "FloatStorage",
           location: str = "cpu", offset: int = 0) -> bytes:
    """Return a pickle of one tensor over storage '0'."""
    storage = b"(" + text("storage") + glob("torch", kind) + text("0") + text(location) + number(count) + b"tQ"
    shape, steps = (b"(" + b"".join(number(n) for n in v) + b"t" for v in (size, stride))
    rest = number(offset) + shape + steps + b"\x89" + glob("collections", "OrderedDict") + b")R"
    return b"\x80\x02" + glob("torch._utils", "_rebuild_tensor_v2") + b"(" + storage + rest + b"tR."


def number(value: int) -> bytes:
    raw = value.to_bytes(9, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def command(mark: Path) -> str:
    return f"echo owned > {mark}"


def _attacks(mark: Path) -> dict[str, bytes]:
    run = text(command(mark))
    popen = Call(subprocess.Popen, ["touch", str(mark)])
    return {
        "os.system": pickle.dumps(Call(os.system, command(mark)), 2),
        "builtins.eval": pickle.dumps(Call(eval, f"open({str(mark)!r}, 'w')"), 2),
        "builtins.exec": pickle.dumps(Call(exec, f"open({str(mark)!r}, 'w')"), 4),
        "subprocess in a list": pickle.dumps([1, {"a": (popen,)}], 2),
        "subprocess in a dictionary value": pickle.dumps({"model": popen}, 2),
        "dotted name": b"\x80\x04" + text("torch") + text("os.system") + b"\x93" + run + b"\x85R.",
        "module attribute": b"\x80\x02" + glob("torch.os", "system") + run + b"\x85R.",
        "getattr chain": b"\x80\x02" + glob("builtins", "getattr") + glob("torch", "os") + text("system") + b"\x86R"
                         + run + b"\x85R.",
        "new object": b"\x80\x02" + glob("subprocess", "Popen") + run + b"\x85\x81.",
        "new object with keywords": b"\x80\x04" + glob("subprocess", "Popen") + run + b"\x85}\x92.",
        "old instance": b"(" + run + b"ios\nsystem\n.",
        "old object": b"(" + glob("os", "system") + run + b"o.",
        "extension registry": b"\x80\x02\x82\xf0" + run + b"\x85R.",
        "persistent id": b"\x80\x02" + glob("os", "system") + run + b"\x85RQ.",
        "text persistent id": b"P" + command(mark).encode() + b"\n.",
        "storage type": b"\x80\x02(" + text("storage") + glob("os", "system") + text("0") + text("cpu") + b"K\x01tQ.",
        "state of a function": b"\x80\x02" + glob("os", "system") + b"}" + text("__call__") + run + b"sb.",
        "nested torch.load": pickle.dumps(Call(torch.storage._load_from_bytes, pickle.dumps(
            Call(os.system, command(mark)), 2)), 2),
        "numpy object": b"\x80\x02" + glob("numpy.core.multiarray", "scalar") + glob("numpy", "dtype") + text("O8")
                        + b"\x85R" + text("x") + b"\x86R.",
        "numpy load": b"\x80\x02" + glob("numpy", "load") + text(str(mark)) + b"\x85R.",
        "other codec": b"\x80\x02" + glob("_codecs", "encode") + text("x") + text("rot13") + b"\x86R.",
        "out-of-band buffer": b"\x80\x05\x97.",
        "byte array": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"x.",
    }


def _hostile_extension(command_line: str) -> None:
    os.system(command_line)


@pytest.mark.parametrize("name", list(_attacks(Path("mark"))))
def test_nothing_is_run(name: str, tmp_path: Path, watched: list[str]) -> None:
    mark = tmp_path / "owned"
    path = archive(tmp_path / "evil.model", _attacks(mark)[name])
    with pytest.raises(ModelFileError):
        read_mace_torch(archive(tmp_path / "other.model", b"\x80\x02N."))  # imports what the reader needs
    watched.clear()
    copyreg.add_extension(__name__, "_hostile_extension", 0xF0)
    copyreg._extension_cache[0xF0] = _hostile_extension  # type: ignore[attr-defined]
    try:
        with pytest.raises(ModelFileError, match=r"evil\.model"):
            read_mace_torch(path)
    finally:
        copyreg.remove_extension(__name__, "_hostile_extension", 0xF0)
    assert not mark.exists()
    assert watched == []


def test_the_attacks_are_real(tmp_path: Path) -> None:
    """Python's own unpickler does run the first of them."""
    pickle.loads(_attacks(tmp_path / "owned")["os.system"])
    assert (tmp_path / "owned").exists()


def test_message_warns_of_torch_load(tmp_path: Path) -> None:
    path = archive(tmp_path / "evil.model", _attacks(tmp_path)["os.system"])
    with pytest.raises(ModelFileError, match=r"refers to (posix|nt)\.system.*Nothing in it was run; do not open it"):
        read_mace_torch(path)


def _laughs(depth: int) -> bytes:
    """Return a module whose children are the same module twice, and so on."""
    out, kind = b"\x80\x02", glob("torch.nn.modules.container", "ModuleList")
    children = b""
    for level in range(depth):
        out += kind + b")\x81}" + text("_modules") + b"}" + children + b"sbq" + bytes([level]) + b"0"
        children = b"".join(text(name) + b"h" + bytes([level]) + b"s" for name in "ab")
    return out + glob("mace.modules.models", "MACE") + b")\x81}" + text("_modules") + b"}" + children + b"sb."


EXHAUSTING: dict[str, bytes] = {
    "shared children": _laughs(30),
    "deep tuple as a key": b"\x80\x02})" + b"\x85" * 200_000 + b"Ns.",
    "deep tuple": b"\x80\x02)" + b"\x85" * 200_000 + b".",
    "deep tuple in a set": b"\x80\x04\x8f()" + b"\x85" * 200_000 + b"\x90.",
    "ordered dictionary of deep keys": b"\x80\x02" + glob("collections", "OrderedDict") + b"](](" + b")"
                                       + b"\x85" * 1000 + b"Nee\x85R.",
    "huge text": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 50) + b"x.",
    "huge bytes": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 50) + b"x.",
    "huge integer": b"\x80\x02\x8b" + struct.pack("<I", 1 << 30) + b"x.",
    "far memo": b"\x80\x02Nr\xff\xff\xff\x7f.",
    "huge frame": b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"N.",
    "expanded tensor": tensor(1, (1 << 40,), (0,)),
    "overlapping tensor": tensor(1, (1 << 20, 1 << 20), (0, 0)),
    "tensor past its storage": tensor(1, (2,), (1,)),
    "tensor past any storage": tensor(1 << 60, (1 << 60,), (1,)),
    "empty tensor of impossible shape": tensor(1, (0, 1 << 64), (1, 1)),
    "negative stride": tensor(1, (1,), (-1,)),
    "negative offset": tensor(1, (1,), (1,), offset=-1),
}


@pytest.mark.parametrize("name", list(EXHAUSTING))
def test_nothing_is_exhausted(name: str, tmp_path: Path) -> None:
    path = archive(tmp_path / "huge.model", EXHAUSTING[name], {"data/0": b"\0" * 4})
    with pytest.raises(ModelFileError, match=r"huge\.model"):
        read_mace_torch(path)


BROKEN: dict[str, bytes] = {
    "no end": b"\x80\x02}", "empty": b"", "stack underflow": b"\x80\x02\x85.", "no mark": b"\x80\x02t.",
    "unknown opcode": b"\xff.", "missing memo": b"\x80\x02h\x07.", "odd items": b"\x80\x02}(K\x01u.",
    "call of a number": b"\x80\x02K\x01)R.", "call without arguments": b"\x80\x02" + glob("os", "system") + b"NR.",
    "append to a tuple": b"\x80\x02)Na.", "items of a list": b"\x80\x02]K\x01K\x02s.",
    "name without newline": b"\x80\x02cos", "wrong text": b"\x80\x02X\x02\0\0\0\xff\xff.",
    "wrong name type": b"\x80\x04K\x01K\x02\x93.", "state without object": b"\x80\x02Nb.",
    "storage of complex numbers": tensor(1, (1,), (1,), "ComplexFloatStorage"),
    "storage without data": tensor(1, (1,), (1,), location="meta"),
    "storage of another size": tensor(2, (1,), (1,)),
    "no storage": b"\x80\x02" + glob("torch._utils", "_rebuild_tensor_v2") + b"(NK\0))\x89NtR.",
    "a tensor": tensor(1, (1,), (1,)), "None": b"\x80\x02N.",
    "a class": b"\x80\x02" + glob("torch.nn", "Module") + b".",
}


@pytest.mark.parametrize("name", list(BROKEN))
def test_broken_pickles(name: str, tmp_path: Path) -> None:
    path = archive(tmp_path / "broken.model", BROKEN[name], {"data/0": b"\0" * 4})
    with pytest.raises(ModelFileError, match=r"broken\.model: \S+"):
        read_mace_torch(path)


def test_missing_record(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="'data/0' is missing"):
        read_torch_file(archive(tmp_path / "a.model", tensor(1, (1,), (1,))))


def test_compressed_records_are_refused(tmp_path: Path) -> None:
    bomb = pickle.dumps("0" * 50_000_000, 2)
    path = archive(tmp_path / "bomb.model", bomb, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000
    with pytest.raises(ModelFileError, match="compressed"):
        read_mace_torch(path)


def test_records_larger_than_the_file(tmp_path: Path) -> None:
    path = archive(tmp_path / "lie.model", tensor(1, (1,), (1,)), {"data/0": b"\0" * 4})
    data = bytearray(path.read_bytes())
    entry = data.index(b"archive/data/0", data.index(b"PK\x01\x02")) - 46
    data[entry + 20:entry + 28] = struct.pack("<II", 1 << 31, 1 << 31)
    path.write_bytes(data)
    with pytest.raises(ModelFileError, match=r"lie\.model.*fetch"):
        read_mace_torch(path)


def test_many_opcodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safe_pickle, "MAX_OPCODES", 100)
    with pytest.raises(ModelFileError, match="far more objects"):
        read_mace_torch(archive(tmp_path / "a.model", b"\x80\x02" + b"N0" * 100 + b"N."))


def _other_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("word/document.xml", "<xml/>")


def _script(path: Path) -> None:
    archive(path, b"\x80\x02N.", {"constants.pkl": b"\x80\x02).", "code/__torch__.py": b"import os"})


def _truncated(path: Path) -> None:
    torch.save({"a": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:-500])


def _flipped(path: Path) -> None:
    torch.save({"a": torch.zeros(1000)}, path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


FILES: dict[str, tuple[Callable[[Path], object], type[MLIPError], str]] = {
    "missing": (lambda p: None, ModelNotFoundError, "no model file"),
    "folder": (lambda p: p.mkdir(), ModelNotFoundError, "no model file"),
    "empty": (lambda p: p.write_bytes(b""), ModelFileError, "is empty"),
    "text": (lambda p: p.write_text("<html>404</html>"), ModelFileError, "not a zip archive.*fetch it again"),
    "start of a zip": (lambda p: p.write_bytes(b"PK\x03\x04" + b"\0" * 100), ModelFileError, "damaged or truncated"),
    "another zip": (_other_zip, ModelFileError, "not one written by torch.save"),
    "truncated": (_truncated, ModelFileError, "damaged or truncated"),
    "one bit flipped": (_flipped, ModelFileError, "damaged or truncated"),
    "legacy": (lambda p: torch.save({}, p, _use_new_zipfile_serialization=False), UnsupportedModelError,
               "before 1.6.*save it again"),
    "TorchScript": (_script, UnsupportedModelError, "TorchScript.*give the .model file"),
    "state_dict": (lambda p: torch.save({"w": torch.zeros(2)}, p), UnsupportedModelError,
                   "state_dict.*mlip.checkpoints.from_reference"),
    "empty dictionary": (lambda p: torch.save({}, p), UnsupportedModelError, "a dictionary, not a model"),
    "checkpoint": (lambda p: torch.save({"model": {"w": torch.zeros(2)}, "optimizer": {}}, p), UnsupportedModelError,
                   "checkpoint of a training run.*from_reference"),
    "list": (lambda p: torch.save([1], p), UnsupportedModelError, "a list, not a model"),
    "another module": (lambda p: torch.save(torch.nn.Linear(2, 2), p), UnsupportedModelError,
                       r"torch\.nn\.modules\.linear\.Linear.*supported: MACE, ScaleShiftMACE"),
}


@pytest.mark.parametrize("name", list(FILES))
def test_files_that_are_no_models(name: str, tmp_path: Path) -> None:
    make, error, message = FILES[name]
    make(tmp_path / "a.model")
    with pytest.raises(error, match=rf"(?s){message}"):
        read_mace_torch(tmp_path / "a.model")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64,
                                   torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool])
def test_tensors_of_every_kind(dtype: torch.dtype, tmp_path: Path) -> None:
    base = torch.arange(24, dtype=torch.float64).reshape(4, 6).to(dtype)
    saved = {"whole": base, "view": base[1:3, ::2].t(), "scalar": base[2, 3], "empty": base[:0], "shared": base}
    torch.save(saved, tmp_path / "t.pt")
    root = read_torch_file(tmp_path / "t.pt").root
    assert isinstance(root, dict)
    for name, value in saved.items():
        assert root[name].dtype == dtype
        assert root[name].is_contiguous()
        assert torch.equal(root[name], value)


def test_plain_data_of_every_protocol(tmp_path: Path) -> None:
    loop: tuple[Any, ...] = ([],)
    loop[0].append(loop)  # the pickler takes such a tuple back from the stack
    data = {"a": [1, -5, 2.5, None, True, False, "text" * 100, b"\x00\xff", (), (1,), (1, 2, 3, 4), {1, 2}, 1 << 70],
            (1, 2): frozenset({3}), 7: {}}
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        path = archive(tmp_path / "p.pt", pickle.dumps(data, protocol))
        assert read_torch_file(path).root == data
        found: Any = read_torch_file(archive(path, pickle.dumps(loop, protocol))).root
        assert found[0][0] is found


def test_numpy_scalars(tmp_path: Path) -> None:
    values = [np.float64(1.5), np.float32(0.25), np.int64(-3), np.bool_(True)]
    assert read_torch_file(archive(tmp_path / "n.pt", pickle.dumps(values, 2))).root == [1.5, 0.25, -3, True]


def test_other_byte_order(tmp_path: Path) -> None:
    values = np.array([1.5, -2.25, 3e10], dtype=np.float32)
    other = "big" if sys.byteorder == "little" else "little"
    path = archive(tmp_path / "b.pt", tensor(3, (3,), (1,)),
                   {"byteorder": other.encode(), "data/0": values.byteswap().tobytes()})
    assert torch.equal(read_torch_file(path).root, torch.from_numpy(values))  # type: ignore[arg-type]
    archive(path, tensor(3, (3,), (1,)), {"byteorder": b"middle", "data/0": values.tobytes()})
    with pytest.raises(ModelFileError, match="byte order"):
        read_torch_file(path)


def test_random_damage(tmp_path: Path) -> None:
    """Any change of the pickle gives data or a typed error; the checksum of the zip is made to fit."""
    buffer = io.BytesIO()
    torch.save(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU()), buffer)
    with zipfile.ZipFile(buffer) as z:
        records = {i.filename.partition("/")[2]: z.read(i) for i in z.infolist()}
    data, rng = records.pop("data.pkl"), np.random.default_rng(0)
    for _ in range(400):
        changed = bytearray(data)
        for _ in range(rng.integers(1, 4)):
            changed[rng.integers(len(changed))] = rng.integers(256)
        path = archive(tmp_path / "f.model", bytes(changed), records)
        with pytest.raises(ModelFileError):
            read_mace_torch(path)


def test_long_values_are_shortened() -> None:
    assert len(safe_pickle.describe("x" * 10_000)) < 100
    assert safe_pickle.describe(1 << 100_000) == "a huge integer"
    assert safe_pickle.describe([[]] * 10_000) == "a list"
    assert len(safe_pickle.describe(safe_pickle.Node(safe_pickle.Global("m" * 5000, "n")))) < 200
