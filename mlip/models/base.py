"""The contract every model family keeps: configuration in, energies per atom out."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from mlip.errors import ConfigError, OptionError
from mlip.graph import AtomGraph, Structure
from mlip.ops import Backend


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


@dataclass(frozen=True)
class ModelConfig:
    """Fields common to all families; each family derives its own frozen dataclass.

    Attributes:
        atomic_numbers: elements of the model, ascending.
        cutoff: A.
        heads: names of the output heads.
    """

    family: ClassVar[str] = ""
    atomic_numbers: tuple[int, ...]
    cutoff: float
    heads: tuple[str, ...] = ("default",)

    def __post_init__(self) -> None:
        """Check the common fields; raises `ConfigError`."""
        z = self.atomic_numbers
        whole = isinstance(z, tuple) and all(type(i) is int and 1 <= i <= 118 for i in z)
        if not whole or not z or list(z) != sorted(set(z)):
            raise ConfigError("atomic_numbers must be a tuple of ascending, distinct numbers from 1 to 118, at least "
                              f"one; {z!r} was given")
        if not _is_number(self.cutoff) or not 0 < self.cutoff < 100:
            raise ConfigError(f"cutoff must be a positive number of Angstrom below 100; {self.cutoff!r} was given")
        names = isinstance(self.heads, tuple) and all(isinstance(head, str) for head in self.heads)
        if not names or not self.heads or len(set(self.heads)) != len(self.heads):
            raise ConfigError(f"heads must be a tuple of distinct names, at least one; {self.heads!r} was given")

    @property
    def known_charges(self) -> tuple[int, ...]:
        """Total charges the model was made for, e; (0,) where it does not read them."""
        return (0,)

    @property
    def known_spins(self) -> tuple[int, ...]:
        """Multiplicities 2S+1 the model was made for; (1,) where it does not read them."""
        return (1,)

    @property
    def usual_state(self) -> dict[str, int]:
        """A charge and a spin that the model knows, as arguments of `Structure.create`: 0 and 1 if it does."""
        known = {"charge": (0, self.known_charges), "spin": (1, self.known_spins)}
        return {name: usual if usual in values else values[0] for name, (usual, values) in known.items()}

    def check_structure(self, structure: Structure) -> None:
        """Raise `StructureError` for what the model cannot take, apart from elements, charges and spins."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-compatible values."""
        return dataclasses.asdict(self)

    def _check_whole(self, name: str, low: int, high: int) -> None:
        value = getattr(self, name)
        if type(value) is not int or not low <= value <= high:
            raise ConfigError(f"{self.family}: {name} must be a whole number from {low} to {high}; {value!r} was given")

    def _check_positive(self, name: str) -> None:
        value = getattr(self, name)
        if not _is_number(value) or not 0 < value < math.inf:
            raise ConfigError(f"{self.family}: {name} must be a positive number; {value!r} was given")

    def _check_choice(self, name: str, allowed: tuple[str, ...] | tuple[bool, ...]) -> None:
        value = getattr(self, name)
        if type(value) is not type(allowed[0]) or value not in allowed:
            raise ConfigError(f"{self.family}: {name} must be one of {', '.join(map(str, allowed))}; "
                              f"{value!r} was given")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """Make a configuration from JSON values; unknown fields raise `ConfigError`."""
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(str(name) for name in set(values) - known)
        if unknown:
            raise ConfigError(f"unknown {cls.family} option(s) {', '.join(unknown)}; known: {', '.join(sorted(known))}")
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        try:
            return cls(**fields)
        except TypeError as error:
            raise ConfigError(f"{cls.family} configuration: {error}") from None


@runtime_checkable
class _HasBackend(Protocol):
    backend: Backend


class EnergyModel(nn.Module, ABC):
    """A model of the potential energy.

    A model computes energies only; `mlip.nn.derivatives` turns them into forces and stress. Its
    floating-point parameters share one dtype, except `atomic_energies`, which stays float64: total
    energies of thousands of eV do not fit float32.
    """

    config: ModelConfig
    atomic_energies: Tensor  # [heads, elements] float64, eV
    element_table: Tensor  # [119] int64, position of each atomic number, -1 where unknown
    backend: Backend = "auto"  # of its ops
    checked_edges: ClassVar[int] = 1000  # of the piece on which back ends are compared: plain torch is slow and large

    @abstractmethod
    def forward(self, graph: AtomGraph) -> Tensor:
        """Return the interaction energy of each atom, [N] in eV, without the isolated-atom energies."""

    @property
    def dtype(self) -> torch.dtype:
        """dtype of the weights."""
        return next(p.dtype for p in self.parameters())

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(p.device for p in self.parameters())

    @property
    def conservative(self) -> bool:
        """Whether its forces and stress are derivatives of its energy, not predictions of their own."""
        return True

    @property
    def rotation_invariant(self) -> bool:
        """Whether its energy is invariant under rotations by construction, not only as far as it learned to be."""
        return True

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the weights that make energies, and forces where they are predicted, of the last features.

        Raises:
            OptionError: a family without a head.
        """
        raise OptionError(f"models of the family {self.config.family} have no head that could be trained alone; train "
                          "all weights")

    def add_shift(self, value: float) -> None:
        """Add a constant, eV, to the interaction energy of each atom."""
        self.get_buffer("shift").add_(value)

    def table_norm(self, name: str) -> float:
        """Return what the model divides a parameter by because of the number of its elements or heads.

        Rows of the parameter keep what they mean in a model of another number when they are multiplied by the ratio.
        """
        return 1.0

    def tabulated(self) -> EnergyModel:
        """Return a copy whose radial functions are read from tables, made when they are first needed.

        Raises:
            OptionError: a family without such functions.
        """
        raise OptionError(f"radial='tabulated': models of the family {self.config.family} have no radial functions to "
                          "tabulate; use radial='exact'")

    def set_backend(self, backend: Backend) -> None:
        """Choose the back end of all ops."""
        for module in self.modules():
            if isinstance(module, _HasBackend):
                module.backend = backend

    @contextmanager
    def using(self, backend: Backend) -> Iterator[None]:
        """Use another back end for a while."""
        before = self.backend
        self.set_backend(backend)
        try:
            yield
        finally:
            self.set_backend(before)

    def element_index(self, numbers: Tensor) -> Tensor:
        """Return the position of each atomic number in the model's element table, [N] int64."""
        return self.element_table[numbers]

    def isolated_energies(self, graph: AtomGraph) -> Tensor:
        """Return the energy of each atom on its own, [N] float64, eV."""
        return self.atomic_energies[graph.head[graph.batch], self.element_index(graph.numbers)]

    def _register_elements(self, atomic_energies: Tensor) -> None:
        z = torch.tensor(self.config.atomic_numbers)
        table = torch.full((119,), -1, dtype=torch.int64)
        table[z] = torch.arange(len(z))
        self.register_buffer("element_table", table, persistent=False)
        self.register_buffer("atomic_energies", atomic_energies.to(torch.float64))

    def _apply(self, fn: Any, recurse: bool = True) -> EnergyModel:
        kept = self.atomic_energies
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.atomic_energies = kept.to(device=self.atomic_energies.device)
        return self
