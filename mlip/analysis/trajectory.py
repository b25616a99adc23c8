"""`Motion`: the frames of a run, from whichever file `mlip md` wrote them to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import atomic_masses
from numpy.typing import NDArray

from mlip.errors import DataError, MissingDependencyError, MLIPError, TopologyError
from mlip.io.frames import Frame, iter_frames

F8 = NDArray[np.float64]

BINARY = (".dcd", ".xtc", ".h5")  # read by mdtraj; all others by `mlip.io.frames`
VALUES = 20_000_000  # frames times atoms that are held in memory; of more every second, fourth, ... frame
ENERGIES = ("energy", "kinetic", "temperature")  # in the frames of extended XYZ, eV, eV, K


@dataclass(frozen=True)
class Motion:
    """The frames of a run that are held in memory.

    Attributes:
        frames: an `mdtraj.Trajectory`: nm, ps, float32, with topology; cells in standard orientation.
        numbers: [N] atomic numbers.
        count: frames of the file.
        stride: every so many frames of the file are held.
        timed: whether the times of the frames are known; else they are numbers of frames.
        periodic: three flags.
        rows: values of all frames of the file, [count]: `time` (ps) and those of `ENERGIES`; only what every frame has.
    """

    frames: Any
    numbers: NDArray[np.int64]
    count: int
    stride: int
    timed: bool
    periodic: tuple[bool, bool, bool]
    rows: dict[str, F8] = field(default_factory=dict)

    @property
    def time(self) -> F8:
        """[F] ps, or numbers of frames in the file where `timed` is False."""
        return np.asarray(self.frames.time, dtype=np.float64)

    @property
    def masses(self) -> F8:
        """[N] u."""
        return np.asarray(atomic_masses[self.numbers], dtype=np.float64)

    @property
    def cells(self) -> F8 | None:
        """[F, 3, 3] A, rows; None without periodicity."""
        vectors = self.frames.unitcell_vectors
        return None if vectors is None else 10.0 * vectors.astype(np.float64)

    def at(self, start: float, interval: float) -> Motion:
        """Return the same with the times of the frames: that of the first and between two of the file, ps."""
        self.frames.time = start + interval * self.stride * np.arange(self.frames.n_frames)
        return Motion(self.frames, self.numbers, self.count, self.stride, True, self.periodic, self.rows)


def read_motion(path: str | Path, topology: str | Path | None = None) -> Motion:
    """Read the trajectory of a run.

    Args:
        path: `.dcd`, `.xtc` or `.h5`, or a file of structures such as `.xyz` and `.extxyz`.
        topology: file with the elements and bonds, e.g. PDB. By default `<path without ending>.topology.pdb`, if there
            is one. `.dcd` and `.xtc` hold no elements and need it.

    Raises:
        DataError: no such file, damaged or cut off, without frames, or frames of different atoms.
        TopologyError: no topology where one is needed, or one of other atoms.
        MissingDependencyError: mdtraj is not installed, or tables, which it reads `.h5` with.
    """
    for package in ("mdtraj", "tables")[: 2 if Path(path).suffix == ".h5" else 1]:
        if find_spec(package) is None:
            raise MissingDependencyError.of(package, "openmm")
    source = Path(path).expanduser()
    if not source.exists():
        raise DataError(f"there is no trajectory {source}")
    beside = source.with_suffix(".topology.pdb")
    given = Path(topology).expanduser() if topology is not None else beside if beside.is_file() else None
    motion = _of_binary(source, given) if source.suffix in BINARY else _of_structures(source, given)
    if not np.isfinite(motion.frames.xyz).all():
        frame, atom = np.argwhere(~np.isfinite(motion.frames.xyz))[0][:2]
        raise DataError(f"{source} holds a position that is no number: frame {frame * motion.stride}, atom {atom}")
    return motion


def _topology(path: Path) -> Any:
    import mdtraj

    if not path.is_file():
        raise TopologyError(f"there is no topology {path}")
    try:
        return mdtraj.load_topology(str(path))
    except Exception as error:  # readers of mdtraj raise anything
        raise TopologyError(f"{path} cannot be read as a topology: {type(error).__name__}: {error}") from None


def _numbers(topology: Any) -> NDArray[np.int64]:
    return np.array([0 if a.element is None else a.element.atomic_number for a in topology.atoms], dtype=np.int64)


def _check_count(source: Path, atoms: int, topology: Any, given: Path | None) -> None:
    if atoms != topology.n_atoms:
        raise TopologyError(f"{source} has {atoms} atoms and the topology {given} has {topology.n_atoms}; give the "
                            "topology of this run")


def _of_binary(source: Path, given: Path | None) -> Motion:
    """Read `.dcd`, `.xtc` or `.h5` with mdtraj."""
    import mdtraj

    inside = source.suffix == ".h5"
    if given is None and not inside:
        raise TopologyError(f"{source} holds no elements: give a topology (PDB), or put it beside as "
                            f"{source.with_suffix('.topology.pdb').name}")
    topology = None if given is None else _topology(given)
    try:
        with mdtraj.open(str(source)) as file:
            topology = topology or file.topology
            count, atoms = len(file), np.shape(file.read(n_frames=1)[0])[1]
            _check_count(source, atoms, topology, given)
            file.seek(0)
            stride = -(-count * atoms // VALUES)
            frames = file.read_as_traj(**({} if inside else {"topology": topology}), stride=stride)
        frames.topology = topology
    except MLIPError:
        raise
    except Exception as error:  # readers of mdtraj raise anything
        raise DataError(f"{source} cannot be read: {type(error).__name__}: {error}; it is cut off or damaged, or no "
                        f"{source.suffix} file") from None
    _check_whole(source, count)
    timed = source.suffix != ".dcd" and _rising(frames.time)
    if not timed:
        frames.time = stride * np.arange(frames.n_frames)
    periodic = frames.unitcell_vectors is not None and bool((np.abs(frames.unitcell_volumes) > 0).all())
    if not periodic:
        frames.unitcell_vectors = None
    return Motion(frames, _numbers(topology), count, stride, timed, (periodic,) * 3)


def _check_whole(source: Path, count: int) -> None:
    """Refuse a file without frames, or a DCD file whose header promises more of them."""
    if count == 0:
        raise DataError(f"{source} holds no frames")
    if source.suffix == ".dcd":
        with source.open("rb") as file:
            head = file.read(12)
        order = "little" if int.from_bytes(head[:4], "little") == 84 else "big"
        promised = int.from_bytes(head[8:12], order)  # type: ignore[arg-type]
        if promised > count:
            raise DataError(f"{source} is cut off: {count} frames of {promised} are whole; resume the run")


def _rising(time: Any) -> bool:
    return time is not None and bool((np.diff(np.asarray(time)) > 0).all()) and bool(np.isfinite(time).all())


@dataclass
class _Stack:
    """Frames that are kept as they come: all of a short file, every second, fourth, ... of a longer one."""

    numbers: NDArray[np.int64]
    periodic: tuple[bool, bool, bool]
    stride: int = 1
    count: int = 0
    positions: list[NDArray[np.float32]] = field(default_factory=list)
    cells: list[F8] = field(default_factory=list)
    rows: list[dict[str, float]] = field(default_factory=list)

    def add(self, frame: Frame) -> None:
        if not np.array_equal(frame.numbers, self.numbers):
            raise DataError(f"frame {self.count} holds other atoms than the first: this is no trajectory of one run")
        if self.count % self.stride == 0:
            self.positions.append(np.asarray(frame.positions, dtype=np.float32))
            self.cells.append(np.zeros((3, 3)) if frame.cell is None else np.asarray(frame.cell, dtype=np.float64))
        time = {"time": 1e-3 * float(frame.info["time"])} if np.ndim(frame.info.get("time", [])) == 0 else {}
        self.rows.append(time | {k: float(frame.info[k]) for k in ENERGIES if np.ndim(frame.info.get(k, [])) == 0})
        self.count += 1
        if len(self.positions) * len(self.numbers) > VALUES and len(self.positions) > 1:
            self.positions, self.cells, self.stride = self.positions[::2], self.cells[::2], 2 * self.stride


def _of_structures(source: Path, given: Path | None) -> Motion:
    """Read extended XYZ, or another file of structures, a frame at a time."""
    import mdtraj

    frames: Iterator[Frame] = iter_frames(source)
    stack: _Stack | None = None
    for frame in frames:
        if stack is None:
            periodic = tuple(bool(flag) for flag in np.broadcast_to(frame.pbc, 3))
            stack = _Stack(np.asarray(frame.numbers, dtype=np.int64), periodic)  # type: ignore[arg-type]
        stack.add(frame)
    if stack is None or not len(stack.numbers):
        raise DataError(f"{source} holds no frames with atoms")
    topology = _plain_topology(stack.numbers) if given is None else _topology(given)
    _check_count(source, len(stack.numbers), topology, given)
    if not np.array_equal(_numbers(topology), stack.numbers):
        raise TopologyError(f"{source} and the topology {given} name different elements; give the topology of this run")
    positions, cells = _standard(source, np.stack(stack.positions), np.stack(stack.cells), np.array(stack.periodic))
    rows = {name: np.array([row[name] for row in stack.rows])
            for name in stack.rows[0] if all(name in row for row in stack.rows)}
    timed = "time" in rows and _rising(rows["time"])
    time = rows["time"][:: stack.stride] if timed else stack.stride * np.arange(len(positions))
    built = mdtraj.Trajectory(0.1 * positions, topology, time=time)
    if cells is not None:
        built.unitcell_vectors = 0.1 * cells
        built.unitcell_lengths = built.unitcell_lengths.astype(np.float32)  # as files hold them
        built.unitcell_angles = built.unitcell_angles.astype(np.float32)
    return Motion(built, stack.numbers, stack.count, stack.stride, timed, stack.periodic, rows)


def _plain_topology(numbers: NDArray[np.int64]) -> Any:
    """Return a topology of one residue without bonds."""
    import mdtraj

    topology = mdtraj.Topology()
    residue = topology.add_residue("MOL", topology.add_chain())
    for z in numbers.tolist():
        element = mdtraj.element.Element.getByAtomicNumber(z) if z else mdtraj.element.virtual
        topology.add_atom(element.symbol, element, residue)
    return topology


def _standard(source: Path, positions: NDArray[np.float32], cells: F8,
              periodic: NDArray[np.bool_]) -> tuple[NDArray[np.float32], F8 | None]:
    """Turn positions [F, N, 3] and cells [F, 3, 3] so that cells are lower triangles, as mdtraj keeps them.

    A left-handed cell gets its third vector reversed, which leaves the lattice as it is. Directions that are not
    periodic get a long vector at right angles to the others, so that no atom meets an image along them.
    """
    if not periodic.any():
        return positions, None
    if not periodic.all():
        length = 100.0 + 4.0 * float(np.ptp(positions, axis=(0, 1)).max())
        kept = np.where(periodic[:, None], cells, 0.0)
        _, _, axes = np.linalg.svd(kept)  # the last rows of axes span what the periodic vectors do not
        cells = kept.copy()
        for k, free in enumerate(np.flatnonzero(~periodic)):
            cells[:, free] = length * axes[:, 2 - k]
    volume = np.linalg.det(cells)
    if not (np.abs(volume) > 1e-6).all():
        raise DataError(f"{source} says that it is periodic, but frame {int(np.argmin(np.abs(volume)))} of those read "
                        "has a cell without volume")
    cells = cells * np.where(volume < 0, -1.0, 1.0)[:, None, None] ** np.array([0, 0, 1])[:, None]
    turn, upper = np.linalg.qr(np.swapaxes(cells, 1, 2))
    signs = np.sign(np.diagonal(upper, axis1=1, axis2=2))
    turn, upper = turn * signs[:, None, :], upper * signs[:, :, None]
    turned = np.einsum("fni,fij->fnj", positions, turn.astype(np.float32), optimize=True)
    return turned, np.swapaxes(upper, 1, 2)
