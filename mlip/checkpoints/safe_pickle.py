"""Reads pickles as plain data: classes and functions are recorded by name, never imported and never called.

Python's own unpickler runs whatever callable a file names. The machine below has no way to do so: a
name becomes a `Global`, an object or a call becomes a `Node` that holds its arguments and state, and the
handful of rebuilding functions that model files need (`REBUILD`, and tensors through `Storages`) are our
own. Opcodes that could reach live objects (the extension registry, out-of-band buffers, the old instance
protocol) do not exist here.

Source: the opcodes as documented in `pickletools` of the Python standard library.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mlip.errors import ModelFileError

MAX_OPCODES = 5_000_000
MAX_TEXT = 80

_ALIASES = {"__builtin__": "builtins", "copy_reg": "copyreg",
            "numpy.core.multiarray": "numpy._core.multiarray"}


@dataclass(frozen=True)
class Global:
    """The name of a class or function; nothing behind it is ever looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"[:MAX_TEXT]


@dataclass(eq=False)
class Node:
    """An object the machine does not know: what would have been called, and with what.

    Attributes:
        kind: class or function, a `Global` (in hostile files possibly anything).
        args: arguments of the call.
        state: what `__setstate__` would have received, or None.
        items: list elements or dict pairs that were added.
    """

    kind: object
    args: tuple[object, ...] = ()
    state: object = None
    items: list[object] = field(default_factory=list)


def describe(value: object) -> str:
    """Return a short, safe text for any value that came out of a file."""
    if isinstance(value, Node):
        last = value.args[-1] if value.args else None
        if value.kind == Global("builtins", "getattr") and isinstance(last, str):
            return last[:MAX_TEXT]
        return f"an object of {value.kind if isinstance(value.kind, Global) else 'no known class'}"
    if isinstance(value, Global):
        return str(value)
    if value is None or isinstance(value, (bool, float)):
        return repr(value)
    if isinstance(value, int):
        return repr(value) if abs(value) < 1 << 64 else "a huge integer"
    if isinstance(value, (str, bytes)):
        return repr(value[:MAX_TEXT])
    return f"a {type(value).__name__}"


def _key(value: object) -> Any:
    """Return a value that may be a key; hashing deeply nested keys could exhaust the C stack."""
    members = value if type(value) is tuple else (value,)
    if len(members) <= 16 and all(type(x) in _KEY_TYPES for x in members):
        return value
    raise ModelFileError(f"damaged model file: {describe(value)} is used as a dictionary key")


_KEY_TYPES = (str, int, float, bool, bytes, type(None), Global)


def _set(*args: object) -> object:
    return {_key(x) for x in _sequence(args[0])} if args else set()


def _ordered(*args: object) -> object:
    pairs = [_sequence(x) for x in _sequence(args[0])] if args else []
    return {_key(k): v for k, v in pairs}


def _sequence(value: object) -> list[object] | tuple[object, ...]:
    if not isinstance(value, (list, tuple)):
        raise ModelFileError(f"damaged model file: {describe(value)} where a list was expected")
    return value


def _encode(text: object, codec: object) -> object:
    if not isinstance(text, str) or codec not in ("latin1", "latin-1"):
        raise ModelFileError("damaged model file: bytes in an unknown encoding")
    return text.encode("latin1")


def _numpy_scalar(dtype: object, raw: object) -> object:
    code = dtype.args[0] if isinstance(dtype, Node) and dtype.args else None
    if not (isinstance(code, str) and re.fullmatch(r"[fiub][1248]", code) and isinstance(raw, bytes)):
        raise ModelFileError("damaged model file: a numpy number of an unknown type")
    state = dtype.state if isinstance(dtype, Node) else None
    order = state[1] if isinstance(state, tuple) and len(state) > 1 and state[1] == ">" else "<"
    return np.frombuffer(raw, np.dtype(f"{order}{code}"), 1)[0].item()


REBUILD: dict[tuple[str, str], Callable[..., object]] = {
    ("collections", "OrderedDict"): _ordered,
    ("builtins", "set"): _set,
    ("builtins", "frozenset"): _set,
    ("_codecs", "encode"): _encode,
    ("numpy._core.multiarray", "scalar"): _numpy_scalar,
}
"""Functions whose result is rebuilt, by us; every other call becomes a `Node`."""


class InertUnpickler:
    """A stack machine for pickle protocols 2 to 5 that calls nothing a file names.

    Attributes:
        names: every `Global` of the file, in order of appearance.
    """

    def __init__(self, rebuild: dict[tuple[str, str], Callable[..., object]],
                 persistent: Callable[[object], object]) -> None:
        """Prepare the machine.

        Args:
            rebuild: functions added to `REBUILD`.
            persistent: called with each persistent id, i.e. each tensor storage.
        """
        self.names: list[Global] = []
        self._rebuild = {**REBUILD, **rebuild}
        self._persistent = persistent
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def load(self, data: bytes) -> object:
        """Return what the pickle describes.

        Raises:
            ModelFileError: not a pickle, damaged, too large, or with opcodes no model file needs.
        """
        try:
            for count, (opcode, arg, _) in enumerate(pickletools.genops(data)):
                if count > MAX_OPCODES:
                    raise ModelFileError("the model file describes far more objects than any model has")
                if opcode.name == "STOP":
                    return self._stack.pop()
                self._step(opcode.name, arg)
        except (IndexError, KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
            if isinstance(error, ModelFileError):
                raise
            raise ModelFileError("damaged model file: its pickle cannot be read "
                                 f"({str(error)[:MAX_TEXT]}); fetch it again") from None
        raise ModelFileError("damaged model file: its pickle has no end; fetch it again")

    def _step(self, name: str, arg: Any) -> None:
        if name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name]())
        elif name in _LITERALS:
            self._stack.append(arg)
        elif name in _TUPLES:
            items = [self._stack.pop() for _ in range(_TUPLES[name])]
            self._stack.append(tuple(reversed(items)))
        else:
            action = _ACTIONS.get(name)
            if action is None:
                raise ModelFileError(f"the model file uses the pickle opcode {name}, which no model needs "
                                     "and mlip does not run; do not open this file with torch.load either")
            action(self, arg)

    def _skip(self, arg: Any) -> None:
        """PROTO and FRAME carry nothing."""

    def _mark(self, arg: Any) -> None:
        self._marks.append(self._stack)
        self._stack = []

    def _since_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._marks.pop()
        return items

    def _tuple(self, arg: Any) -> None:
        items = self._since_mark()
        self._stack.append(tuple(items))

    def _frozenset(self, arg: Any) -> None:
        items = self._since_mark()
        self._stack.append(_set(items))

    def _pop(self, arg: Any) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._since_mark()

    def _pop_mark(self, arg: Any) -> None:
        self._since_mark()

    def _append(self, arg: Any) -> None:
        self._extend([self._stack.pop()])

    def _appends(self, arg: Any) -> None:
        self._extend(self._since_mark())

    def _extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is set:
            target.update(_key(x) for x in items)
        elif type(target) in (list, Node):
            (target if type(target) is list else target.items).extend(items)
        else:
            raise TypeError(f"cannot add to a {type(target).__name__}")

    def _setitem(self, arg: Any) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._update([key, value])

    def _setitems(self, arg: Any) -> None:
        self._update(self._since_mark())

    def _update(self, flat: list[Any]) -> None:
        target, pairs = self._stack[-1], list(zip(flat[::2], flat[1::2], strict=True))
        if type(target) is dict:
            target.update((_key(k), v) for k, v in pairs)
        elif type(target) is Node:
            target.items.extend(pairs)
        else:
            raise TypeError(f"cannot set items of a {type(target).__name__}")

    def _global(self, arg: Any) -> None:
        module, _, name = arg.partition(" ")
        self._push_global(module, name)

    def _stack_global(self, arg: Any) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if type(name) is not str or type(module) is not str:
            raise TypeError("a name that is no text")
        self._push_global(module, name)

    def _push_global(self, module: str, name: str) -> None:
        found = Global(_ALIASES.get(module, module), name)
        self.names.append(found)
        self._stack.append(found)

    def _reduce(self, arg: Any) -> None:
        args, function = self._stack.pop(), self._stack.pop()
        if type(args) is not tuple:
            raise TypeError("arguments that are no tuple")
        rebuild = self._rebuild.get((function.module, function.name)) if type(function) is Global else None
        self._stack.append(Node(function, args) if rebuild is None else rebuild(*args))

    def _newobj_ex(self, arg: Any) -> None:
        self._stack.pop()
        self._newobj(arg)

    def _newobj(self, arg: Any) -> None:
        args, kind = self._stack.pop(), self._stack.pop()
        if type(args) is not tuple:
            raise TypeError("arguments that are no tuple")
        self._stack.append(Node(kind, args))

    def _build(self, arg: Any) -> None:
        state = self._stack.pop()
        if type(self._stack[-1]) is Node:
            self._stack[-1].state = state

    def _put(self, arg: Any) -> None:
        self._memo[len(self._memo) if arg is None else arg] = self._stack[-1]

    def _get(self, arg: Any) -> None:
        self._stack.append(self._memo[arg])

    def _persid(self, arg: Any) -> None:
        self._stack.append(self._persistent(self._stack.pop()))


_CONSTANTS: dict[str, Callable[[], object]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_SET": set,
}
_LITERALS = frozenset(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE",
                       "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"))
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_ACTIONS: dict[str, Callable[[InertUnpickler, Any], None]] = {
    opcode: getattr(InertUnpickler, f"_{method}") for opcode, method in {
        "PROTO": "skip", "FRAME": "skip", "MARK": "mark", "POP": "pop", "POP_MARK": "pop_mark",
        "TUPLE": "tuple", "FROZENSET": "frozenset", "ADDITEMS": "appends", "APPEND": "append", "APPENDS": "appends",
        "SETITEM": "setitem", "SETITEMS": "setitems", "GLOBAL": "global", "STACK_GLOBAL": "stack_global",
        "REDUCE": "reduce", "NEWOBJ": "newobj", "NEWOBJ_EX": "newobj_ex", "BUILD": "build", "BINPERSID": "persid",
        "BINPUT": "put", "LONG_BINPUT": "put", "MEMOIZE": "put", "BINGET": "get", "LONG_BINGET": "get",
    }.items()
}
