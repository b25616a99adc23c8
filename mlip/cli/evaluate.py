"""Commands that compare models with data: eval, card."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlip.cli.common import Commands, add_average, add_provenance, add_state, provenance_of, warn_of_failures

if TYPE_CHECKING:
    from mlip.graph.labelled import Labelled


def add_commands(commands: Commands) -> None:
    """Add the commands of this file."""
    evaluation = commands.add_parser("eval", help="errors of a model on labelled structures: by property, element and "
                                     "config_type")
    evaluation.add_argument("model", help="name or path")
    evaluation.add_argument("data", type=Path, nargs="+",
                            help="labelled structures: extended XYZ, ASE database, LMDB")
    evaluation.add_argument("--with", dest="others", action="append", default=[], metavar="MODEL", help="a further "
                            "model, to compare the mean of all of them; may be repeated")
    evaluation.add_argument("--json", type=Path, help="file for the numbers")
    evaluation.add_argument("--plot", type=Path, metavar="FOLDER",
                            help="folder for parity.png, predictions over labels")
    evaluation.add_argument("--device", help="cpu, cuda or cuda:<index>")
    evaluation.add_argument("--dtype", help="float32 or float64 (default: that of the file)")
    add_average(evaluation)
    add_state(evaluation)
    _add_labels(evaluation)
    evaluation.set_defaults(run=_eval)

    card = commands.add_parser("card", help="measure a model and write what was found into its file", description=(
        "Writes the model with its card, and the card as Markdown and JSON beside it. Errors on the sets, dynamics, "
        "symmetry and derivatives are measured; speed on one thread."))
    card.add_argument("model", help="name or path")
    card.add_argument("--output", "-o", type=Path, required=True, help="file to write, e.g. new.mlip")
    card.add_argument("--validation", type=Path, nargs="+", required=True, help="structures that were held out")
    card.add_argument("--test", action="append", default=[], metavar="NAME=FILE", help="a further set; may be repeated")
    card.add_argument("--training", type=Path, nargs="+", default=[], help="what the model saw, to be counted")
    card.add_argument("--recommended", default="", help="what the model is for")
    card.add_argument("--limits", default="", help="what it is not for")
    card.add_argument("--picoseconds", type=float, default=1.0, help="length of the dynamics (default: %(default)s)")
    add_provenance(card)
    add_state(card)
    _add_labels(card)
    card.set_defaults(run=_card)


def _add_labels(command: argparse.ArgumentParser) -> None:
    """Add what the files call their labels, and their units."""
    for label in ("energy", "forces", "stress"):
        command.add_argument(f"--{label}-key", default="", metavar="KEY", help=f"name of the {label} "
                             f"(default: REF_{label}, else {label})")
    command.add_argument("--config-type-key", default="config_type", metavar="KEY", help="default: %(default)s")
    command.add_argument("--energies-only", action="store_true", help="the structures have no forces")
    command.add_argument("--energy-unit", default="eV", help="eV, meV, Hartree, ... (default: %(default)s)")
    command.add_argument("--length-unit", default="Angstrom", help="Angstrom, Bohr or nm (default: %(default)s)")
    command.add_argument("--stress-unit", default="eV/Angstrom^3", help="eV/Angstrom^3, GPa or kbar "
                         "(default: %(default)s)")


def _read(files: Sequence[Path], options: argparse.Namespace) -> Iterator[Labelled]:
    """Yield the structures of the files in the state that `add_state` names."""
    from mlip.io.dataset import iter_labelled
    from mlip.io.labels import Keys, Units

    keys = Keys(options.energy_key, options.forces_key, options.stress_key, options.config_type_key)
    units = Units(options.energy_unit, options.length_unit, options.stress_unit)
    names = {name: getattr(options, name) for name in ("head", "charge", "spin")}
    state = {name: value for name, value in names.items() if value is not None}
    for file in files:
        for example in iter_labelled(file, keys, units, forces=not options.energies_only):
            yield dataclasses.replace(example, structure=dataclasses.replace(example.structure, **state))


def _eval(options: argparse.Namespace) -> None:
    from mlip.checkpoints import Committee, load
    from mlip.io.files import check_target
    from mlip.training.evaluation import evaluate_on
    from mlip.verify.plot import plot_parity

    if options.json is not None:
        check_target(options.json, (".json",), options.data)
    if options.plot is not None:
        options.plot.mkdir(parents=True, exist_ok=True)
    models = [options.model, *options.others]
    settings = {name: getattr(options, name) for name in ("device", "dtype", "rotational_average")}
    potential = Committee(models, **settings) if options.others else load(options.model, **settings)
    found = evaluate_on(potential, _read(options.data, options))
    print(found)
    if options.json is not None:
        options.json.write_text(json.dumps(found.to_dict(), indent=1) + "\n", encoding="utf-8")
    if options.plot is not None:
        names = ", ".join(path.name for path in options.data)
        title = f"{len(models)} models" if isinstance(potential, Committee) else potential.info.name or options.model
        plot_parity(found, options.plot / "parity.png", f"{title} on {names}")


def _card(options: argparse.Namespace) -> None:
    import torch

    from mlip.checkpoints import load
    from mlip.checkpoints.format import SUFFIX
    from mlip.io.files import check_target
    from mlip.verify.card import make_card, stamped, write_card

    check_target(options.output, (SUFFIX,), [Path(options.model)])
    tests = {name: _read(files, options) for name, files in _named(options.test).items()}
    torch.set_num_threads(1)
    potential = load(options.model)
    card = make_card(potential, list(_read(options.validation, options)), tests,
                     training=_read(options.training, options), recommended=options.recommended, limits=options.limits,
                     picoseconds=options.picoseconds)
    path = stamped(potential, card, provenance_of(options)).save(options.output)
    print("\n".join(f"written   {file}" for file in (path, *write_card(load(path), path))))
    warn_of_failures(card)


def _named(given: Sequence[str]) -> dict[str, list[Path]]:
    """Return the files of each set from texts NAME=FILE.

    Raises:
        OptionError: another text.
    """
    from mlip.errors import OptionError

    found: dict[str, list[Path]] = {}
    for text in given:
        name, equals, file = text.partition("=")
        if not (name and equals and file):
            raise OptionError(f"--test must be NAME=FILE, such as hot=test_600K.xyz; {text!r} was given")
        found.setdefault(name, []).append(Path(file))
    return found
