"""Trajectories by the ending of their name, written frame by frame, so that a run can be cut back and go on."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io import write
from numpy.typing import NDArray

from mlip.errors import MissingDependencyError
from mlip.units import NM_PER_ANGSTROM

Array = NDArray[np.float64]

AKMA_FS = 48.88821  # fs in the unit of time of DCD files
TITLE = b"mlip".ljust(80)


def mdtraj_or_error(package: str = "mdtraj") -> Any:
    """Return mdtraj.

    Args:
        package: what of it is needed: `mdtraj`, or `tables`, which it writes HDF5 with.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        __import__(package)
        import mdtraj
        import mdtraj.formats
    except ImportError:
        raise MissingDependencyError.of(package, "openmm") from None
    return mdtraj


def shorten(path: Path, size: int) -> None:
    """Keep the first bytes of a file.

    Raises:
        OSError: it is gone, or has fewer.
    """
    found = path.stat().st_size
    if found < size:
        raise OSError(f"{path} has {found} bytes, and had {size}")
    os.truncate(path, size)


class Frames:
    """Extended XYZ; the base of the other formats.

    Attributes:
        path: where frames go while the run goes on.
    """

    def __init__(self, path: Path, atoms: Atoms, interval: float) -> None:
        """Prepare; nothing is written.

        Args:
            path: the file.
            atoms: elements and periodicity of all frames; a cell changes its size only.
            interval: fs between frames.
        """
        self.path, self.interval = path, interval
        self._frame = Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)

    def append(self, positions: Array, cell: Array, step: int, time: float, info: Mapping[str, Any]) -> None:
        """Add a frame: [N, 3] A, [3, 3] A, number of the step, fs, and what the file can say besides."""
        self._frame.positions, self._frame.cell = positions, cell
        self._frame.info = dict(info)
        write(self.path, self._frame, format="extxyz", columns=["symbols", "positions"], append=True)

    def cut(self, size: int) -> None:
        """Keep the first bytes of the file only.

        Raises:
            OSError: it is gone, or has fewer.
        """
        shorten(self.path, size)

    def finish(self, topology: Path) -> None:
        """Do what is left when all frames are there; `topology` is a PDB file."""

    def tidy(self) -> None:
        """Remove what is no longer needed when the run is known to be finished."""


class BoxedFrames(Frames):
    """Formats that know a cell by its lengths and angles, or as a lower triangle: frames are turned so that it is."""

    def __init__(self, path: Path, atoms: Atoms, interval: float) -> None:
        super().__init__(path, atoms, interval)
        self.boxed = bool(atoms.pbc.any()) and atoms.cell.rank == 3
        self._order, self._turn = [0, 1, 2], None
        cell = atoms.cell
        if self.boxed and (np.triu(cell.array, 1).any() or (np.diag(cell.array) <= 0).any()):
            if cell.handedness < 0:
                self._order = [1, 0, 2]
            self._turn = type(cell)(cell.array[self._order]).standard_form()[1].T

    def turned(self, positions: Array, cell: Array) -> tuple[Array, Array]:
        """Return positions and cell, lower triangular, in A; a cell of zeros where there is none."""
        if not self.boxed:
            return positions, np.zeros((3, 3))
        if self._turn is None:
            return positions, cell
        return positions @ self._turn, np.tril(cell[self._order] @ self._turn)


class DCDFrames(BoxedFrames):
    """DCD as CHARMM, NAMD and OpenMM write it: single precision, A, no dates, so that equal runs give equal files."""

    def append(self, positions: Array, cell: Array, step: int, time: float, info: Mapping[str, Any]) -> None:
        """Add a frame and count it in the head of the file."""
        r, h = self.turned(positions, cell)
        block = b""
        if self.boxed:
            a, b, c, alpha, beta, gamma = Atoms(cell=h).cell.cellpar()
            alpha, beta, gamma = (np.cos(np.radians(angle)) for angle in (alpha, beta, gamma))
            block = struct.pack("<i6di", 48, a, gamma, b, beta, alpha, c, 48)
        size = struct.pack("<i", 4 * len(r))
        for column in r.T.astype("<f4"):
            block += size + column.tobytes() + size
        if not self.path.exists():
            self.path.write_bytes(self._head(len(r)))
        with self.path.open("r+b") as file:
            end = file.seek(0, os.SEEK_END)
            file.write(block)
            self._count(file, (end - len(self._head(len(r)))) // len(block) + 1)

    def cut(self, size: int) -> None:
        """Keep the first bytes, and count their frames."""
        super().cut(size)
        atoms = len(self._frame)
        if size:
            with self.path.open("r+b") as file:
                self._count(file, (size - len(self._head(atoms))) // (56 * self.boxed + 3 * (8 + 4 * atoms)))

    def _head(self, atoms: int) -> bytes:
        control = struct.pack("<9if10i", 0, 0, 1, 0, 0, 0, 0, 0, 0, self.interval / AKMA_FS, int(self.boxed),
                              *[0] * 8, 24)
        return (struct.pack("<i4s80si", 84, b"CORD", control, 84) + struct.pack("<ii80si", 84, 1, TITLE, 84)
                + struct.pack("<3i", 4, atoms, 4))

    @staticmethod
    def _count(file: Any, frames: int) -> None:
        file.seek(8)
        file.write(struct.pack("<i", frames))


class XTCFrames(BoxedFrames):
    """XTC of GROMACS, by mdtraj: rounded to 0.01 A, and small."""

    def __init__(self, path: Path, atoms: Atoms, interval: float) -> None:
        super().__init__(path, atoms, interval)
        self._format = mdtraj_or_error().formats.XTCTrajectoryFile

    def append(self, positions: Array, cell: Array, step: int, time: float, info: Mapping[str, Any]) -> None:
        """Add a frame: a file of frames is those of each, one after the other."""
        r, h = ((x * NM_PER_ANGSTROM).astype(np.float32)[None] for x in self.turned(positions, cell))
        single = self.path.with_suffix(".frame.xtc")
        with self._format(str(single), "w") as file:
            file.write(r, time=np.array([time / 1000], np.float32), step=np.array([step], np.int32), box=h)
        with self.path.open("ab") as file:
            file.write(single.read_bytes())
        single.unlink()


class HDF5Frames(DCDFrames):
    """HDF5 of mdtraj, made of a DCD file at the end: a process that is killed leaves HDF5 files nobody can read."""

    def __init__(self, path: Path, atoms: Atoms, interval: float) -> None:
        mdtraj_or_error("tables")
        super().__init__(path.with_suffix(".frames.dcd"), atoms, interval)
        self._target = path

    def finish(self, topology: Path) -> None:
        """Write the HDF5 file."""
        mdtraj = mdtraj_or_error("tables")
        done = 0
        part = self._target.with_suffix(".part.h5")
        with mdtraj.formats.HDF5TrajectoryFile(str(part), "w") as file:
            file.topology = mdtraj.load_topology(str(topology))
            for chunk in mdtraj.iterload(str(self.path), top=str(topology), chunk=100):
                file.write(chunk.xyz, time=(done + np.arange(len(chunk))) * self.interval / 1000,
                           cell_lengths=chunk.unitcell_lengths, cell_angles=chunk.unitcell_angles)
                done += len(chunk)
        os.replace(part, self._target)

    def tidy(self) -> None:
        """Remove the DCD file."""
        self.path.unlink(missing_ok=True)


FORMATS: dict[str, type[Frames]] = {".xyz": Frames, ".extxyz": Frames, ".dcd": DCDFrames, ".xtc": XTCFrames,
                                    ".h5": HDF5Frames}
