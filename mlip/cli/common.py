"""Arguments that several commands share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlip.errors import OptionError

if TYPE_CHECKING:
    from ase import Atoms

    from mlip.checkpoints import Committee, Potential

PROVENANCE = ("name", "licence", "citation", "training_data", "description")

Commands = Any  # argparse keeps the type of its sub-parsers private


def add_model(command: argparse.ArgumentParser, several: bool = False) -> None:
    """Add --model, --device, --dtype, --backend, --radial, --rotational-average and the options of `add_state`.

    Args:
        command: parser to add them to.
        several: whether --model may be given several times, for `models_of`.
    """
    if several:
        command.add_argument("--model", "-m", required=True, action="append", help="name or path of a model; given "
                             "several times, their mean, with the spread of the committee")
    else:
        command.add_argument("--model", "-m", required=True, help="name or path of a model")
    command.add_argument("--device", help="cpu, cuda or cuda:<index>")
    command.add_argument("--dtype", help="float32 or float64 (default: that of the file)")
    command.add_argument("--backend", help="auto, compiled or reference (default: auto)")
    command.add_argument("--radial", help="exact, or tabulated for long runs (default: exact)")
    add_average(command)
    add_state(command)


def add_average(command: argparse.ArgumentParser) -> None:
    """Add --rotational-average."""
    command.add_argument("--rotational-average", metavar="GROUP", help="T, O, Oh, I or Ih: mean over a group of "
                         "rotations, for models that only learned what rotations do (default: none)")


def add_state(command: argparse.ArgumentParser) -> None:
    """Add what a file may not say about its structures: --head, --charge and --spin."""
    command.add_argument("--head", help="name of the head, for models with several (default: as the file says)")
    command.add_argument("--charge", type=int, help="total charge, e (default: as the file says, else 0)")
    command.add_argument("--spin", type=int, help="multiplicity 2S+1 (default: as the file says, else 1)")


def add_structure(command: argparse.ArgumentParser) -> None:
    """Add the file of one structure, and --index."""
    command.add_argument("file", type=Path, help="structure, in any format ASE reads")
    command.add_argument("--index", type=int, help="which structure of a file that holds several: from 0, -1 is the "
                         "last (default: the file must hold only one)")


def model_of(options: argparse.Namespace) -> Potential:
    """Load the model that the options name."""
    from mlip.checkpoints import load

    return load(options.model, device=options.device, dtype=options.dtype, backend=options.backend,
                radial=options.radial, rotational_average=options.rotational_average)


def models_of(options: argparse.Namespace) -> Potential | Committee:
    """Load the model that the options name, or the committee of several."""
    from mlip.checkpoints import Committee, load

    settings = {name: getattr(options, name) for name in ("device", "dtype", "backend", "radial", "rotational_average")}
    return load(options.model[0], **settings) if len(options.model) == 1 else Committee(options.model, **settings)


def structures_of(file: Path, options: argparse.Namespace) -> list[Atoms]:
    """Read all structures of a file, in the state that `add_state` names."""
    from mlip.io.files import read_structures

    return [_in_state(atoms, options) for atoms in read_structures(file)]


def structure_of(options: argparse.Namespace) -> Atoms:
    """Read the structure that the options of `add_structure` name, in the state that `add_state` names."""
    from mlip.io.files import read_structure

    return _in_state(read_structure(options.file, options.index), options)


def _in_state(atoms: Atoms, options: argparse.Namespace) -> Atoms:
    if options.spin is not None:
        if options.spin < 1:
            raise OptionError(f"spin is the multiplicity 2S+1, a whole number from 1; {options.spin} was given")
        atoms.info.pop("spin_multiplicity", None)
    state = {"head": options.head, "charge": options.charge, "spin": options.spin}
    atoms.info.update({k: v for k, v in state.items() if v is not None})
    return atoms


def add_provenance(command: argparse.ArgumentParser) -> None:
    """Add the texts of `ModelInfo` that people write."""
    for field in PROVENANCE:
        command.add_argument(f"--{field.replace('_', '-')}", help=f"{field.replace('_', ' ')} to record")


def provenance_of(options: argparse.Namespace) -> dict[str, str]:
    """Return the texts of `add_provenance` that were given."""
    return {field: getattr(options, field) for field in PROVENANCE if getattr(options, field) is not None}


def show_progress() -> bool:
    """Return whether progress bars are welcome: somebody is looking."""
    return sys.stderr.isatty()


def warn_of_failures(card: Mapping[str, Any]) -> None:
    """Print a warning for each check that a card says its model fails."""
    from mlip.checkpoints.card import failures

    for text in failures(card["checks"]["checks"]):
        print(f"warning: {text}")
