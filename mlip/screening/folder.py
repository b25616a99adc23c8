"""`screen_folder`: relax every structure of a folder, fit its equation of state, keep what is done."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ase import Atoms
from tqdm import tqdm

from mlip.checkpoints import Potential
from mlip.checkpoints.catalogue import sha256_of
from mlip.errors import OptionError, StructureError
from mlip.io.files import check_target, read_structures
from mlip.screening.eos import equation_of_state
from mlip.simulation.relax import relax
from mlip.so3.rotation_groups import rotation_group

ENDINGS = (".cif", ".extxyz", ".gen", ".pdb", ".poscar", ".res", ".traj", ".vasp", ".xsf", ".xyz")
NAMES = ("POSCAR", "CONTCAR")
STORE = "screening.jsonl"


@dataclass(frozen=True)
class Row:
    """One structure of the folder.

    Attributes:
        file: name of its file.
        index: its place in the file, from 0.
        file_sha256: of the contents of the file.
        model_sha256: of the model.
        settings: options of `screen_folder` that the numbers depend on, the bits of the precision, and how many
            rotations are averaged over, if any.
        status: `"ok"` or `"failed"`.
        reason: why it failed.
        formula: e.g. `"C5H8O2"`.
        atoms: number of atoms.
        energy: eV, of the relaxed structure.
        max_force: eV/A, largest force there.
        steps: of the optimiser.
        v0: A^3, equilibrium volume of the cell; this and what follows only for crystals.
        e0: eV, energy of the cell there.
        bulk_modulus: GPa.
        residual: eV, of the fit.
    """

    file: str
    index: int
    file_sha256: str
    model_sha256: str
    settings: dict[str, float]
    status: str = "failed"
    reason: str = ""
    formula: str = ""
    atoms: int = 0
    energy: float | None = None
    max_force: float | None = None
    steps: int | None = None
    v0: float | None = None
    e0: float | None = None
    bulk_modulus: float | None = None
    residual: float | None = None

    @property
    def key(self) -> str:
        """What a rerun knows the row by: file, its contents, model and settings."""
        return json.dumps([self.file, self.index, self.file_sha256, self.model_sha256, self.settings], sort_keys=True)


def screen_folder(folder: str | Path, potential: Potential, store: str | Path | None = None, *, fmax: float = 0.01,
                  steps: int = 500, strain: float = 0.06, points: int = 7, progress: bool = False) -> list[Row]:
    """Relax every structure of a folder and fit the equation of state of every crystal.

    Crystals (three periodic directions) relax with their cell, everything else in its positions only. A structure
    that fails gets a row that says why. Each row is stored as soon as it is known; a rerun computes only what is
    not in the store: new or changed files, another model, other settings. Delete a line to compute it again.

    Args:
        folder: every file in it with one of `ENDINGS`, or named as VASP does, is read; a file may hold several.
        potential: the model.
        store: file of JSON lines to append to; by default `screening.jsonl` in the folder.
        fmax: eV/A, of the relaxation.
        steps: largest number of optimiser steps.
        strain: largest relative change of volume, see `equation_of_state`.
        points: number of volumes.
        progress: whether to show a bar.

    Returns:
        One row for each structure, in the order of file names.

    Raises:
        OptionError: no such folder, nothing in it, bad options, or a store that holds something else.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise OptionError(f"there is no folder {root}")
    files = sorted(p for p in root.iterdir() if p.is_file() and (p.suffix.lower() in ENDINGS or p.name in NAMES))
    if not files:
        raise OptionError(f"{root} holds no structures; files must end in {', '.join(ENDINGS)}")
    target = check_target(root / STORE if store is None else store, (Path(store or STORE).suffix,))
    known = {row.key: row for row in read_rows(target)}
    settings: dict[str, float] = {"bits": torch.finfo(potential.dtype).bits, "fmax": fmax, "steps": steps,
                                  "strain": strain, "points": points}
    if potential.rotational_average != "none":
        settings["rotations"] = len(rotation_group(potential.rotational_average))
    rows = []
    for file in tqdm(files, desc="screening", unit="file", disable=not progress):
        start = Row(file.name, 0, sha256_of(file), potential.info.sha256, settings)
        found: Sequence[Atoms | StructureError]
        try:
            found = read_structures(file)
        except StructureError as error:
            found = [error]
        for index, atoms in enumerate(found):
            empty = dataclasses.replace(start, index=index)
            if empty.key not in known:
                known[empty.key] = _screened(empty, atoms, potential)
                _append(target, known[empty.key])
            rows.append(known[empty.key])
    return rows


def read_rows(store: str | Path) -> list[Row]:
    """Read the rows of a store; none if there is no such file. A line cut off by a crash is left out.

    Raises:
        OptionError: the file holds something else.
    """
    path = Path(store)
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        try:
            rows += [Row(**json.loads(line))] if line.strip() else []
        except (TypeError, ValueError) as error:
            if isinstance(error, TypeError) or not line.startswith("{"):
                raise OptionError(f"{path}, line {number}, is no result of a screening; give another file") from None
    return rows


def table(rows: Sequence[Row]) -> str:
    """Return the rows as text, a line each; energies and volumes per atom."""
    lines = [f"{'structure':28}{'formula':>12}{'energy (eV/atom)':>18}{'V0 (A^3/atom)':>15}{'B (GPa)':>10}"
             f"{'fit (meV/atom)':>16}  status"]
    for row in rows:
        n = max(row.atoms, 1)
        numbers = (_cell(row.energy, 1 / n, 18, 6) + _cell(row.v0, 1 / n, 15, 4) + _cell(row.bulk_modulus, 1, 10, 1)
                   + _cell(row.residual, 1000 / n, 16, 3))
        status = row.status if row.status == "ok" else f"{row.status}: {row.reason}"
        lines.append(f"{f'{row.file}[{row.index}]':28}{row.formula:>12}{numbers}  {status}")
    return "\n".join(lines)


def _cell(value: float | None, factor: float, width: int, digits: int) -> str:
    return f"{'-' if value is None else f'{value * factor:.{digits}f}':>{width}}"


def _screened(row: Row, atoms: Atoms | StructureError, potential: Potential) -> Row:
    """Return the row with its results; whatever goes wrong becomes the reason."""
    found: dict[str, Any] = {}
    try:
        if isinstance(atoms, StructureError):
            raise atoms
        found |= {"formula": atoms.get_chemical_formula(), "atoms": len(atoms)}
        s, crystal = row.settings, bool(atoms.pbc.all())
        done = relax(atoms, potential, fmax=s["fmax"], steps=int(s["steps"]), cell=crystal)
        found |= {"energy": done.energy, "max_force": done.max_force, "steps": done.steps}
        if not done.converged:
            raise StructureError(f"the relaxation did not converge in {done.steps} steps")
        if crystal:
            curve = equation_of_state(done.atoms, potential, s["strain"], int(s["points"]))
            found |= {k: getattr(curve, k) for k in ("v0", "e0", "bulk_modulus", "residual")}
        found["status"] = "ok"
    except OptionError:
        raise
    except Exception as error:  # one bad structure must not stop the others
        found["reason"] = f"{type(error).__name__}: {error}"
    return dataclasses.replace(row, **found)


def _append(path: Path, row: Row) -> None:
    with path.open("a+b") as file:
        file.seek(max(file.tell() - 1, 0))
        broken = file.read(1) not in (b"", b"\n")  # a crash cut off the line before
        file.write(b"\n" * broken + json.dumps(dataclasses.asdict(row), sort_keys=True).encode() + b"\n")
