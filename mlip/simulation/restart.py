"""`Restart`: the checkpoint of a run, from which the same run goes on as if nothing had happened."""

from __future__ import annotations

import hashlib
import json
import os
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io.jsonio import encode
from numpy.typing import NDArray

from mlip.checkpoints import Committee, Potential
from mlip.errors import CheckpointError
from mlip.io.ase import INFO_KEYS
from mlip.simulation.plan import Plan
from mlip.simulation.stop_rule import StopRule

SECONDS = 1.0  # at least, between two checkpoints; they are taken at frames
FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run at one of its frames.

    Attributes:
        step: number of the step.
        arrays: of the engine.
        state: of the engine and what belongs to it, JSON-compatible.
        sizes: bytes of the files written so far.
        finished: whether nothing is left to do; the arrays are those of the last structure then.
    """

    step: int
    arrays: Mapping[str, NDArray[Any]]
    state: Mapping[str, Any]
    sizes: Mapping[str, int]
    finished: bool = False


class Restart:
    """Writes checkpoints, and reads the one to go on from.

    The file is replaced as a whole: whenever a process is killed there is a good one, or none yet. The latest frame is
    kept in memory and written once a second, and when a run stops for whatever reason it can notice.
    """

    def __init__(self, path: Path | None, identity: Mapping[str, Any]) -> None:
        """Keep where and of what.

        Args:
            path: the file; None for a run that leaves none.
            identity: of the run; a checkpoint with another is refused.
        """
        self.path = path
        self._identity = json.loads(json.dumps(identity))
        self._latest: Checkpoint | None = None
        self._written = time.monotonic()

    def read(self) -> Checkpoint | None:
        """Return the checkpoint to go on from; None if there is none.

        Raises:
            CheckpointError: it is damaged, or of another run; names what differs.
        """
        if self.path is None or not self.path.is_file():
            return None
        try:
            with self.path.open("rb") as source, np.load(source, allow_pickle=False) as file:
                head = json.loads(str(file["head"]))
                arrays = {k: file[k] for k in head["arrays"]}
            identity, found = head["identity"], Checkpoint(arrays=arrays, **head["checkpoint"])
        except (OSError, EOFError, RuntimeError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise CheckpointError(f"{self.path} is no checkpoint that can be read ({type(error).__name__}: {error}); "
                                  "delete it to begin anew") from None
        if identity != self._identity:
            pairs = {k: (identity.get(k), self._identity.get(k)) for k in sorted({*identity, *self._identity})}
            told = ", ".join(f"{k} ({_short(a)} there, {_short(b)} now)" for k, (a, b) in pairs.items() if a != b)
            raise CheckpointError(f"{self.path} belongs to another run; different: {told}. Give the same to go on with "
                                  "that run, another name for the output, or delete the file to begin anew")
        return found

    def keep(self, checkpoint: Checkpoint) -> None:
        """Remember the state at a frame; write it if the last one written is old enough, or if it is the end."""
        self._latest = checkpoint
        if checkpoint.finished or time.monotonic() - self._written >= SECONDS:
            self.write()

    def write(self) -> None:
        """Write what was remembered last, unless it is written already."""
        if self.path is None or self._latest is None:
            return
        c, self._latest = self._latest, None
        head = {"identity": self._identity, "arrays": list(c.arrays),
                "checkpoint": {"step": c.step, "state": c.state, "sizes": c.sizes, "finished": c.finished}}
        arrays: dict[str, Any] = {"head": np.array(json.dumps(head)), **c.arrays}
        part = self.path.with_suffix(".part")
        with part.open("wb") as file:
            np.savez(file, **arrays)
        os.replace(part, self.path)
        self._written = time.monotonic()


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:56]}..."


def identity_of(engine: str, atoms: Atoms, potential: Potential | Committee, plan: Plan, rule: StopRule | None,
                dispersion: str | None = None, **options: Any) -> dict[str, Any]:
    """Return what two runs must have in common for one to go on where the other stopped, by name."""
    members = potential.members if isinstance(potential, Committee) else [potential]
    start = hashlib.sha256(encode([c.todict() for c in atoms.constraints]).encode())
    for array in (atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, atoms.get_momenta(), atoms.get_masses()):
        start.update(np.ascontiguousarray(array).tobytes())
    added = {} if dispersion is None else {"dispersion": dispersion}  # earlier versions knew none
    state = {k: str(atoms.info[k]) for k in INFO_KEYS if k in atoms.info}
    return {"format": FORMAT, "engine": engine, **plan.to_dict(), "start structure": start.hexdigest()[:12], **state,
            "stop rule": None if rule is None else rule.limits(), **added, **options,
            "model sha256": [m.info.sha256 for m in members],
            "model options": [[str(m.dtype), str(m.device), m.backend, m.radial, m.rotational_average]
                              for m in members]}
