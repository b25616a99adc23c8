"""The tree of modules inside an inert pickle of a `torch.nn.Module`."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor

from mlip.checkpoints.safe_pickle import Global, Node, describe
from mlip.checkpoints.torch_file import read_archive
from mlip.errors import ModelFileError, UnsupportedModelError

MAX_DEPTH = 32
MAX_MODULES = 20_000
_TOO_OLD = "it was saved by a version of its package that mlip cannot read, or the file is damaged"
GRAPH_MODULE = Global("torch.fx.graph_module", "reduce_graph_module")


@dataclass(frozen=True)
class Module:
    """One module of the tree, as it was saved.

    Attributes:
        path: dotted name; empty for the root.
        kind: its class.
        tensors: its own parameters and persistent buffers.
        children: its modules.
        attributes: its other attributes, without those of `torch.nn.Module` itself.
        scripts: compiled TorchScript submodules that e3nn stores as bytes.
    """

    path: str
    kind: Global
    tensors: dict[str, Tensor]
    children: dict[str, Module]
    attributes: dict[str, object]
    scripts: dict[str, bytes] = field(repr=False)

    def __getitem__(self, path: str) -> Module:
        """Return the module at a dotted path below this one; `ModelFileError` if there is none."""
        name, _, rest = path.partition(".")
        if name not in self.children:
            raise ModelFileError(f"the model has no module {f'{self.path}.{name}'.lstrip('.')!r}; {_TOO_OLD}")
        return self.children[name][rest] if rest else self.children[name]

    def __iter__(self) -> Iterator[Module]:
        """Yield this module and all below it."""
        yield self
        for child in self.children.values():
            yield from child

    def tensor(self, name: str) -> Tensor:
        """Return a parameter or buffer; `ModelFileError` if there is none."""
        if name not in self.tensors:
            raise ModelFileError(f"{self.path or 'the model'} has no tensor {name!r}; {_TOO_OLD}")
        return self.tensors[name]

    def attribute(self, name: str) -> object:
        """Return an attribute that must not be None; `ModelFileError` if there is none."""
        value = self.attributes.get(name)
        if value is None:
            raise ModelFileError(f"{self.path or 'the model'} has no attribute {name!r}; {_TOO_OLD}")
        return value


def module_tree(root: Node) -> Module:
    """Return the module that a file holds.

    Raises:
        UnsupportedModelError: hooks, or parts that are no modules.
        ModelFileError: damaged, or implausibly large.
    """
    return _module(root, "", [0], 0)


def _module(node: object, path: str, count: list[int], depth: int) -> Module:
    count[0] += 1
    if depth > MAX_DEPTH or count[0] > MAX_MODULES:
        raise ModelFileError("the model is nested more deeply than any model is; the file is damaged")
    if not isinstance(node, Node) or not isinstance(node.kind, Global):
        raise UnsupportedModelError(f"{path or 'the model'} is {describe(node)}, not a module")
    state = node.args[0] if node.kind == GRAPH_MODULE and node.args else node.state
    if not isinstance(state, dict) or "_modules" not in state:
        raise UnsupportedModelError(f"{path or 'the model'} is {describe(node)}, not a module")
    for name, value in state.items():
        if "hook" in str(name) and isinstance(value, (dict, Node)) and value:
            raise UnsupportedModelError(f"{path or 'the model'} carries hooks ({name}), which may change its "
                                        "results; save the model without them")
    prefix = f"{path}." if path else ""
    children = {_name(k): _module(v, f"{prefix}{k}", count, depth + 1)
                for k, v in _table(state, "_modules").items() if v is not None}
    scripts = {_name(k): v for k, v in _table(state, "__codegen__").items() if isinstance(v, bytes)}
    attributes = {_name(k): v for k, v in state.items() if k not in _OWN and "hook" not in str(k)}
    return Module(path, node.kind, _tensors(state, path), children, attributes, scripts)


_OWN = frozenset(("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "training",
                  "__codegen__"))


def _table(state: dict[object, object], key: str) -> dict[object, object]:
    found = state.get(key)
    if found is not None and not isinstance(found, dict):
        raise ModelFileError(f"damaged model file: {key} is {describe(found)}")
    return found or {}


def _name(key: object) -> str:
    if not isinstance(key, str):
        raise ModelFileError(f"damaged model file: a module or attribute is named {describe(key)}")
    return key


def _tensors(state: dict[object, object], path: str) -> dict[str, Tensor]:
    skipped = state.get("_non_persistent_buffers_set")
    skipped = skipped if isinstance(skipped, set) else set()
    out = {}
    for name, value in {**_table(state, "_parameters"), **_table(state, "_buffers")}.items():
        if value is None or name in skipped:
            continue
        if not isinstance(value, Tensor):
            raise UnsupportedModelError(f"{path}.{name}: {describe(value)} where a tensor was expected")
        out[_name(name)] = value
    return out


def state_dict(root: Module) -> dict[str, Tensor]:
    """Return the tensors under the names that `torch.nn.Module.state_dict` gives them."""
    out = {}
    for module in root:
        prefix = f"{module.path}." if module.path else ""
        out.update({f"{prefix}{name}": tensor for name, tensor in module.tensors.items()})
        for script, data in module.scripts.items():
            out.update({f"{prefix}{script}.{name}": t for name, t in script_tensors(data, script).items()})
    return out


def script_tensors(data: bytes, name: str) -> dict[str, Tensor]:
    """Return the tensors of a TorchScript submodule that e3nn stored as bytes; its code is not touched.

    They are constants that mlip computes itself, so a blob of an unknown format counts as empty.
    """
    try:
        root = read_archive(io.BytesIO(data), name, script=True).root
    except ModelFileError:
        return {}
    state = root.state if isinstance(root, Node) and isinstance(root.state, dict) else {}
    return {k: v for k, v in state.items() if isinstance(k, str) and isinstance(v, Tensor)}
