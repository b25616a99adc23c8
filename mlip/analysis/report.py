"""`analyze` and `report`: what happened in a run, as numbers and as a picture."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlip.analysis.diffusion import FEWEST, Displacement, Unwrapped, displacements, unwrapped
from mlip.analysis.energies import Box, Energies, Log, box_of, energies_of, read_log
from mlip.analysis.molecules import Molecules, molecules_of
from mlip.analysis.pairs import PairFunction, pair_functions
from mlip.analysis.torsions import Conformation, conformation
from mlip.analysis.trajectory import Motion, read_motion
from mlip.elements import SYMBOLS
from mlip.errors import OptionError

ENDINGS = (".png",)


@dataclass(frozen=True)
class Analysis:
    """What was found in a run; parts are None or empty where there is nothing to find.

    Attributes:
        path: the trajectory.
        motion: its frames.
        energies: from the log, or the frames.
        box: of a run that is periodic in all directions.
        pairs: radial distribution functions, or histograms of distances.
        displacements: mean square displacements of the elements.
        conformation: of the largest molecule.
        temperature: K, of the thermostat, if it was told.
        notes: what was left out, and what to know about the numbers.
    """

    path: Path
    motion: Motion
    energies: Energies | None
    box: Box | None
    pairs: list[PairFunction]
    displacements: list[Displacement]
    conformation: Conformation | None
    temperature: float | None
    notes: list[str]

    def numbers(self) -> dict[str, Any]:
        """Return all numbers, JSON-compatible; units are part of the names."""
        motion, atoms = self.motion, len(self.motion.numbers)
        return {
            "trajectory": str(self.path), "frames": motion.count, "stride": motion.stride, "atoms": atoms,
            "elements": _counts(motion), "periodic": list(motion.periodic), "length_ps": _length(motion),
            "energies": None if self.energies is None else self.energies.numbers(atoms, self.temperature),
            "box": None if self.box is None else self.box.numbers(),
            "pairs": [pair.numbers() for pair in self.pairs],
            "displacements": [one.numbers() for one in self.displacements],
            "molecule": None if self.conformation is None else self.conformation.numbers(),
            "notes": self.notes,
        }

    def table(self) -> str:
        """Return the numbers as text."""
        from mlip.analysis.table import table

        return table(self)


def analyze(trajectory: str | Path, topology: str | Path | None = None, *, temperature: float | None = None,
            interval: float | None = None) -> Analysis:
    """Analyse the trajectory of a run.

    Reads `<trajectory without ending>.topology.pdb` and `.log.csv` beside it, where they are. Energies come from the
    log, or else from the frames of extended XYZ. Errors of means count correlations; nothing is left out for
    equilibration.

    Args:
        trajectory: `.xyz`, `.extxyz`, `.dcd`, `.xtc` or `.h5`.
        topology: another file with elements and bonds, e.g. PDB.
        temperature: K, of the thermostat, to compare with.
        interval: ps between frames, for files that do not tell and have no log beside them.

    Raises:
        DataError: the trajectory or the log is damaged, cut off or empty.
        TopologyError: no topology where one is needed, or one of other atoms.
        OptionError: a temperature or an interval that cannot be, or an interval where times are known.
        MissingDependencyError: mdtraj is not installed.
    """
    for name, value in (("temperature", temperature), ("interval", interval)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise OptionError(f"{name} must be a number above 0; {value!r} was given")
    path = Path(trajectory).expanduser()
    motion, beside = read_motion(path, topology), path.with_suffix(".log.csv")
    log = read_log(beside) if beside.is_file() else None
    motion = _timed(motion, log, interval)
    molecules, continuous = molecules_of(motion), unwrapped(motion)
    energies, pairs = energies_of(motion, log, beside.name), pair_functions(motion, molecules.number)
    moved = displacements(motion, continuous)
    notes = _notes(motion, log, energies, molecules, continuous, pairs, moved)
    if temperature is not None:
        notes.append("a thermostat does not conserve the total energy: its drift is no error of the integration")
    return Analysis(path, motion, energies, box_of(motion, log), pairs, moved, conformation(motion, molecules),
                    temperature, notes)


def report(trajectory: str | Path, picture: str | Path | None = None, topology: str | Path | None = None, *,
           temperature: float | None = None, interval: float | None = None) -> tuple[Analysis, Path]:
    """Analyse the trajectory of a run as `analyze` does, and draw what was found.

    Args:
        trajectory: as in `analyze`.
        picture: PNG file to write; by default `<trajectory without ending>.report.png`.
        topology: as in `analyze`.
        temperature: as in `analyze`.
        interval: as in `analyze`.

    Returns:
        What was found, and the picture.

    Raises:
        OptionError: as `analyze`, or the picture cannot be written there.
        DataError, TopologyError, MissingDependencyError: as `analyze`.
    """
    from mlip.analysis.plot import draw
    from mlip.io.files import check_target

    path = Path(trajectory).expanduser()
    target = check_target(path.with_suffix(".report.png") if picture is None else picture, ENDINGS, [path])
    found = analyze(path, topology, temperature=temperature, interval=interval)
    draw(found, target)
    return found, target


def _timed(motion: Motion, log: Log | None, interval: float | None) -> Motion:
    """Return the motion with the times of its frames, if they can be known."""
    if interval is not None and (motion.timed or log is not None):
        raise OptionError("the times of the frames are known from the trajectory or its log; leave the interval out")
    if motion.timed:
        return motion
    if interval is not None:
        return motion.at(0.0, interval)
    if log is not None and len(log["time_ps"]) > 1:
        time = log["time_ps"]
        return motion.at(float(time[0]), float(np.median(np.diff(time))))
    return motion


def _notes(motion: Motion, log: Log | None, energies: Energies | None, molecules: Molecules, path: Unwrapped,
           pairs: list[PairFunction], moved: list[Displacement]) -> list[str]:
    """Return what a reader of the numbers must know."""
    bulk, held = all(motion.periodic), motion.frames.n_frames
    notes = [
        (motion.stride > 1, f"positions: every {motion.stride}th of {motion.count} frames"),
        (log is not None and len(log["time_ps"]) != motion.count, f"the log has {len(log['time_ps']) if log else 0} "
         f"rows and the trajectory {motion.count} frames; the interval of the log is taken for that of the frames"),
        (not motion.timed, "the times of the frames are unknown, so that there is no diffusion coefficient: give their "
         "interval"),
        (energies is None, "energies: there is no log beside the trajectory, and none in its frames"),
        (molecules.inferred > 0, f"bonds of {molecules.inferred} atoms: from distances in the first frame"),
        (bool(pairs) and pairs[0].frames < held, f"pairs: in {pairs[0].frames if pairs else 0} of {held} frames, at "
         "equal strides"),
        (not pairs and len(motion.numbers) > 1, "pairs: half of the box is too small to look at distances within it"),
        (bulk and len(np.unique(molecules.number)) > 1 and bool((molecules.sizes > 1).any()),
         "pairs within one molecule are left out of radial distribution functions"),
        (bulk and held > 1 and path.safe, f"unwrapping: no atom moved more than {path.longest:.2f} A between frames, "
         f"of {path.allowed:.2f} A up to which it is right"),
        (bulk and held > 1 and not path.safe, f"unwrapping is not safe: an atom moved {path.longest:.2f} A between "
         f"frames, and {path.allowed:.2f} A or more cannot be told from an image: write frames more often"),
        (bulk and 1 < held < FEWEST, f"displacements: fewer than {FEWEST} frames, too few for a diffusion coefficient"),
        (bulk and any(d.exponent is not None and d.diffusion is None for d in moved) and motion.timed and path.safe,
         "displacements of some elements do not grow linearly: no diffusion coefficient for these"),
    ]
    return [text for holds, text in notes if holds]


def _counts(motion: Motion) -> dict[str, int]:
    counts = Counter(motion.numbers.tolist())
    return {SYMBOLS[z]: counts[z] for z in sorted(counts)}


def _length(motion: Motion) -> float | None:
    return float(motion.time[-1] - motion.time[0]) if motion.timed else None
