"""Commands for those who make models and trust nothing: train, verify."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from mlip.cli.common import Commands, add_average, add_state, add_structure, structure_of

MODEL_OPTIONS = ("cutoff", "channels", "hidden_lmax", "edge_lmax", "correlation", "num_layers")


def add_commands(commands: Commands) -> None:
    """Add the commands of this file."""
    _add_train(commands)
    verify = commands.add_parser("verify", help="check what mlip promises, on this machine")
    checks = verify.add_subparsers(dest="check", metavar="check", required=True)
    fuzz = checks.add_parser("neighbors", help="neighbour lists of random structures against brute force")
    fuzz.add_argument("--cases", type=int, default=10_000, help="default: %(default)s")
    fuzz.add_argument("--seed", type=int, default=0)
    fuzz.add_argument("--json", type=Path, help="file for the numbers")
    fuzz.set_defaults(run=_verify_neighbors)
    model = checks.add_parser("model", help="derivatives, symmetries and smoothness of a model on a structure")
    model.add_argument("model", help="name or path")
    add_structure(model)
    add_state(model)
    model.set_defaults(run=_verify_model)
    symmetry = checks.add_parser("symmetry", help="how much rotations change the predictions of a model")
    symmetry.add_argument("model", help="name or path")
    add_structure(symmetry)
    symmetry.add_argument("--rotations", type=int, default=64, help="default: %(default)s")
    symmetry.add_argument("--seed", type=int, default=0)
    symmetry.add_argument("--dtype", help="float32 or float64 (default: that of the file)")
    add_average(symmetry)
    add_state(symmetry)
    symmetry.set_defaults(run=_verify_symmetry)


def _add_train(commands: Commands) -> None:
    from mlip.training.config import TrainingConfig

    train = commands.add_parser("train", help="train a model, or resume a run", description="Writes best.mlip, "
                                "log.csv and last.pt into the folder; the same command again resumes the run. "
                                "TransIP takes a smaller learning rate than MACE: 0.003.")
    train.add_argument("data", type=Path, nargs="+", help="structures with energies and forces (extended XYZ)")
    train.add_argument("--output", "-o", type=Path, required=True, help="folder of the run")
    train.add_argument("--family", default="mace", help="default: %(default)s")
    train.add_argument("--isolated", type=Path, help="file with the isolated atoms "
                       "(default: those among the data, else fitted energies)")
    train.add_argument("--cutoff", type=float, default=5.0, help="A (default: %(default)s)")
    for name in MODEL_OPTIONS[1:]:
        train.add_argument(f"--{name.replace('_', '-')}", type=int)
    train.add_argument("--tensor-product", help="of MACE: clebsch_gordan (default), gaunt, gaunt_grid, gaunt_full or "
                       "gaunt_antisymmetric")
    train.add_argument("--size", help="of TransIP: XS, S, M or L, instead of channels, layers and heads")
    train.add_argument("--mode", help="of TransIP: md (default), or paper for whole molecules")
    train.add_argument("--forces", help="of TransIP in mode paper and of EquiformerV3: conservative (default) or "
                       "direct")
    train.add_argument("--pair-repulsion", action="store_true", default=None,
                       help="add the ZBL repulsion of close atoms")
    for field in dataclasses.fields(TrainingConfig):
        train.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default,
                           help="default: %(default)s")
    train.set_defaults(run=_train)


def _train(options: argparse.Namespace) -> None:
    from mlip.cli.common import show_progress
    from mlip.io.dataset import isolated_energies, read_labelled
    from mlip.training import TrainingConfig, initial_potential, separate_isolated, split, train

    found, examples = separate_isolated([e for path in options.data for e in read_labelled(path)])
    isolated = (found or None) if options.isolated is None else isolated_energies(options.isolated)
    names = (*MODEL_OPTIONS, "tensor_product", "size", "mode", "forces", "pair_repulsion")
    config = {k: getattr(options, k) for k in names if getattr(options, k) is not None}
    settings = TrainingConfig(**{f.name: getattr(options, f.name) for f in dataclasses.fields(TrainingConfig)})
    seen, _ = split(examples, settings.validation_fraction, settings.seed)  # constants, too, from these alone
    start = initial_potential(options.family, seen, isolated, settings.seed, **config)
    print(f"best model: {train(start, examples, options.output, settings, show_progress())}")


def _verify_neighbors(options: argparse.Namespace) -> int:
    from mlip.cli.common import show_progress
    from mlip.io.files import check_target
    from mlip.verify.neighbors import fuzz

    if options.json is not None:
        check_target(options.json, (".json",))
    report = fuzz(options.cases, options.seed, progress=show_progress())
    print(report)
    if options.json is not None:
        options.json.write_text(json.dumps(report.as_dict(), indent=1) + "\n")
    return 0 if report.passed else 1


def _verify_model(options: argparse.Namespace) -> int:
    from mlip.checkpoints import load
    from mlip.verify.model import table, verify_model

    found = verify_model(load(options.model), structure_of(options))
    print(table(found))
    return 0 if all(check.passed for check in found) else 1


def _verify_symmetry(options: argparse.Namespace) -> None:
    from mlip.checkpoints import load
    from mlip.verify.symmetry import symmetry_report

    potential = load(options.model, dtype=options.dtype, rotational_average=options.rotational_average)
    print(symmetry_report(potential, structure_of(options), options.rotations, options.seed))
