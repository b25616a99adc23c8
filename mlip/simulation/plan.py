"""`Plan`: what to simulate, whichever engine does it."""

from __future__ import annotations

import zlib
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from ase import Atoms

from mlip.errors import OptionError

ENSEMBLES = ("nve", "nvt", "npt")
POSITIVE, NOT_NEGATIVE = "a positive number", "a number and not negative"
NUMBERS = {"timestep": POSITIVE, "temperature": NOT_NEGATIVE, "friction": NOT_NEGATIVE, "pressure": "a number",
           "max_temperature": POSITIVE}


@dataclass(frozen=True)
class Plan:
    """What to simulate.

    Attributes:
        steps: number of time steps.
        timestep: fs.
        temperature: K; of the initial velocities and, but for NVE, of the thermostat.
        ensemble: `"nve"` (velocity Verlet), `"nvt"` (Langevin) or `"npt"` (Langevin and `Barostat`).
        friction: 1/ps, of the thermostat.
        every: steps between recorded frames.
        seed: of velocities and, together with the start, of thermostat and barostat.
        pressure: bar, of the barostat.
        max_temperature: K; dynamics that become hotter stop with an error. None: ten times `temperature`, at least
            5 000 K.
    """

    steps: int = 1000
    timestep: float = 0.5
    temperature: float = 300.0
    ensemble: str = "nve"
    friction: float = 1.0
    every: int = 10
    seed: int = 0
    pressure: float = 1.0
    max_temperature: float | None = None

    def __post_init__(self) -> None:
        for name, smallest in (("steps", 1), ("every", 1), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not smallest <= value < 2**31 - 1:
                raise OptionError(f"{name} must be a whole number from {smallest}; {value!r} was given")
        for name, allowed in NUMBERS.items():
            value = getattr(self, name)
            if value is None and name == "max_temperature":
                continue
            number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and np.isfinite(value)
            if not number or (name != "pressure" and value < 0) or (allowed == POSITIVE and value == 0):
                raise OptionError(f"{name} must be {allowed}; {value!r} was given")
        if self.ensemble not in ENSEMBLES:
            raise OptionError(f"ensemble {self.ensemble!r} is unknown; allowed: {', '.join(ENSEMBLES)}")

    @property
    def hottest(self) -> float:
        """K; the temperature at which dynamics stop."""
        return max(10 * self.temperature, 5000.0) if self.max_temperature is None else self.max_temperature

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-compatible values."""
        return {k: v.item() if isinstance(v, np.generic) else v for k, v in asdict(self).items()}

    def thermostat_seed(self, start: Atoms) -> int:
        """Return the seed of the thermostat, from 1 to 2^31 - 1: it depends on `seed` and on the start.

        So a run that goes on from the end of another does not repeat its noise, and the noise is not that of the
        initial velocities.
        """
        state = np.stack([start.positions, start.get_momenta()]).tobytes()
        return zlib.crc32(state, self.seed) % (2**31 - 1) + 1
