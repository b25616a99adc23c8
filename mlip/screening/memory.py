"""How much memory a call of the model will need, from a few that were measured."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from mlip.checkpoints import Potential
from mlip.errors import MemoryLimitError
from mlip.screening.batch import BatchedModel, System, probe

ATOMS = (64, 512)  # of the crystals that are measured
MARGIN = 1.1


@dataclass(frozen=True)
class Forecast:
    """The memory of a process that evaluates a model.

    Attributes:
        base: bytes before any call; 0 for what a GPU counts.
        per_load: bytes for each edge, and 1/32 of those for each atom, see `mlip.screening.batch.load_of`.
    """

    base: float
    per_load: float

    def bytes(self, load: int) -> float:
        """Return the largest memory of the process while it evaluates a load."""
        return self.base + self.per_load * load

    def largest(self, memory: int) -> int:
        """Return the largest load that `memory` bytes allow, with a margin.

        Raises:
            MemoryLimitError: not even the smallest crystals would fit.
        """
        load = int((memory / MARGIN - self.base) / self.per_load)
        if load < 1024:
            raise MemoryLimitError(f"{memory / 1e9:.2f} GB are allowed, but the process needs {self.base / 1e9:.2f} GB "
                                   "before it evaluates anything; allow more")
        return load


def forecast_of(potential: Potential) -> Forecast:
    """Measure a model on two made-up crystals and draw the line through them; takes seconds."""
    model = BatchedModel(potential, most=0)
    small, large = (_measured(model, atoms) for atoms in ATOMS)
    per_load = max((large[1] - small[1]) / max(large[0] - small[0], 1), 1.0)
    return Forecast(max(small[1] - per_load * small[0], 0.0), per_load)


def _measured(model: BatchedModel, atoms: int) -> tuple[int, float]:
    """Return the load of a crystal and the memory of the process while it is evaluated, bytes."""
    system = System.of(probe(model.potential, atoms), model.potential)
    model([system])  # compiles, and fills the buffers that are kept
    return system.load, peak_of(lambda: model([system]), model.potential.device)


def peak_of(action: Callable[[], object], device: torch.device) -> float:
    """Return the largest memory in bytes during an action: of the process, or what torch has on a GPU.

    Where the system keeps no record that can be begun anew, it is the largest since the process began.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        action()
        return float(torch.cuda.max_memory_allocated(device))
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    action()
    return _largest()


def _largest() -> float:
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return next(float(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        import resource

        return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * (1 if sys.platform == "darwin" else 1024)
