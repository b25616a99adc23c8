"""`ModelInfo`: where a model comes from and what may be done with it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from mlip.errors import ModelFileError

UNITS = {"energy": "eV", "length": "Angstrom", "forces": "eV/Angstrom", "stress": "eV/Angstrom^3"}


@dataclass(frozen=True)
class ModelInfo:
    """Provenance of a model.

    Attributes:
        family: `mace`, ...
        name: short name.
        licence: SPDX identifier of the weights, or a sentence.
        citation: what to cite.
        training_data: data set and level of theory.
        description: what the model is good for and what not.
        validation: errors on held-out data, e.g. {"energy_mae_mev_per_atom": 0.5}.
        card: what was measured of the model and what it is for, JSON-compatible; `mlip.verify.make_card` fills it with
            data, errors, symmetry, checks, dynamics, speed, recommended, limits and versions.
        units: units of the numbers the model works in.
        sha256: identity of the model: the hash of its header and tensors (`.mlip`), or of the file a foreign model
            was read from. A change of precision in memory keeps it.
    """

    family: str
    name: str = ""
    licence: str = "unknown"
    citation: str = ""
    training_data: str = ""
    description: str = ""
    validation: dict[str, float] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=lambda: dict(UNITS))
    sha256: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-compatible values; an empty card is left out, as in files older than cards."""
        return {k: v for k, v in dataclasses.asdict(self).items() if k != "card" or v}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelInfo:
        """Make an info from JSON values.

        Raises:
            ModelFileError: unknown fields, a card that is no table, or units other than `UNITS`.
        """
        try:
            info = cls(**values)
        except TypeError as error:
            raise ModelFileError(f"model information: {error}") from None
        if not isinstance(info.card, dict):
            raise ModelFileError(f"model information: card must be a table; {type(info.card).__name__} was given")
        if info.units != UNITS:
            raise ModelFileError(f"the model was stored with the units {info.units}; only {UNITS} are supported")
        return info
