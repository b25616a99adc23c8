"""`Settings`: all that a force must remember of how it was made, besides its model."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlip.errors import ModelFileError, OptionError

ENERGIES = ("total", "interaction")
FORMAT = 1


@dataclass(frozen=True, eq=False)
class Settings:
    """How a force evaluates its model.

    Attributes:
        numbers: [N] int64, atomic numbers.
        particles: [N] int64, indices in the System, for error messages; None for 0..N-1.
        periodic: whether the box of the System is the cell of the model.
        skin: A, of the neighbour list.
        charge: total charge of the atoms, e; None where it was not given.
        spin: multiplicity 2S+1; None where it was not given.
        head: name of the model head; None for the only one.
        energy: `total`, or `interaction` for the energy above that of the isolated atoms.
    """

    numbers: NDArray[np.int64]
    particles: NDArray[np.int64] | None
    periodic: bool
    skin: float = 1.0
    charge: int | None = None
    spin: int | None = None
    head: str | None = None
    energy: str = "total"

    def __post_init__(self) -> None:
        if self.energy not in ENERGIES:
            raise OptionError(f"energy={self.energy!r} is not supported; allowed: {', '.join(ENERGIES)}")

    def pack(self) -> tuple[Any, ...]:
        """Return a tuple of small built-in values: the format, then the fields; arrays are compressed."""
        values = [getattr(self, f.name) for f in fields(self)]
        return FORMAT, *(_packed(v) if isinstance(v, np.ndarray) else v for v in values)

    @classmethod
    def unpack(cls, packed: Sequence[Any]) -> Settings:
        """Return the settings of a tuple made by `pack`.

        Raises:
            ModelFileError: made by another version of the package.
        """
        if not packed or packed[0] != FORMAT or len(packed) != 1 + len(fields(cls)):
            raise ModelFileError("this force was serialised by another version of mlip (format "
                                 f"{packed[0] if packed else None}, this version reads {FORMAT}); create it "
                                 "again")
        values: list[Any] = [_unpacked(v) if isinstance(v, bytes) else v for v in packed[1:]]
        return cls(*values)


def _packed(array: NDArray[np.int64]) -> bytes:
    """Compress whole numbers; differences make runs of indices and repeating molecules short."""
    return zlib.compress(np.diff(array, prepend=0).astype("<i4").tobytes(), 9)


def _unpacked(data: bytes) -> NDArray[np.int64]:
    return np.cumsum(np.frombuffer(zlib.decompress(data), dtype="<i4"), dtype=np.int64)
