"""Commands for those who make models and trust nothing: train, verify."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from mlip.cli.common import Commands, add_average, add_model, add_state, add_structure, model_of, structure_of

RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")  # of several processes, as who starts them tells


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
    model = checks.add_parser("model", help="derivatives, symmetries, smoothness and holes of a model on a structure")
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
    ensemble = checks.add_parser("ensemble", help="whether thermostat and barostat sample what they promise",
                                 description="Runs dynamics at two temperatures, and two pressures for NPT, and checks "
                                 "energies and volumes with physical_validation. The same command resumes.")
    add_structure(ensemble)
    add_model(ensemble)
    ensemble.add_argument("--engine", choices=("ase", "openmm"), default="openmm", help="default: %(default)s")
    ensemble.add_argument("--ensemble", choices=("nvt", "npt"), default="nvt", help="default: %(default)s")
    for name, unit, default in (("temperature", "K", 300.0), ("pressure", "bar", 1.0), ("timestep", "fs", 0.5),
                                ("friction", "1/ps", 1.0)):
        ensemble.add_argument(f"--{name}", type=float, default=default, help=f"{unit} (default: %(default)s)")
    ensemble.add_argument("--steps", type=int, default=200_000, help="of each run (default: %(default)s)")
    ensemble.add_argument("--every", type=int, default=50, help="steps between samples (default: %(default)s)")
    ensemble.add_argument("--seed", type=int, default=0)
    ensemble.add_argument("--output", "-o", type=Path, default=Path("ensemble"), help="folder (default: %(default)s)")
    ensemble.set_defaults(run=_verify_ensemble)
    _add_restart(checks)
    _add_screen(checks)


def _add_restart(checks: Commands) -> None:
    restart = checks.add_parser("restart", help="kill mlip md at random moments, resume it, and compare the files with "
                                "those of a run left alone")
    restart.add_argument("model", help="name or path")
    restart.add_argument("file", type=Path, help="structure, in any format ASE reads")
    restart.add_argument("--engine", nargs="+", choices=("ase", "openmm"), default=("ase", "openmm"),
                         help="default: both")
    restart.add_argument("--ensemble", nargs="+", choices=("nve", "nvt", "npt"), default=("nve", "nvt"),
                         help="default: nve nvt; npt needs a periodic structure")
    restart.add_argument("--steps", type=int, default=5000, help="a second or two for each kill is good "
                         "(default: %(default)s)")
    restart.add_argument("--kills", type=int, default=20, help="default: %(default)s")
    restart.add_argument("--seed", type=int, default=0)
    restart.add_argument("--output", "-o", type=Path, default=Path("mlip-restart"), help="folder for the files of the "
                         "runs (default: %(default)s)")
    restart.set_defaults(run=_verify_restart)


def _add_screen(checks: Commands) -> None:
    screen = checks.add_parser("screen", help="kill mlip screen at random moments, resume it, and compare the table "
                               "with that of a screening left alone")
    screen.add_argument("model", help="name or path")
    screen.add_argument("inputs", nargs="+", metavar="INPUT", help="as of mlip screen")
    screen.add_argument("--properties", "-p", default="relax", help="names with commas between them (default: "
                        "%(default)s)")
    screen.add_argument("--kills", type=int, default=20, help="default: %(default)s")
    screen.add_argument("--seed", type=int, default=0)
    screen.add_argument("--output", "-o", type=Path, default=Path("mlip-screen"), help="folder for both screenings "
                        "(default: %(default)s)")
    screen.set_defaults(run=_verify_screen)


def _add_train(commands: Commands) -> None:
    train = commands.add_parser("train", help="train a model, or resume a run", description="Does what a recipe "
                                "says (README, Training), and measures the model for its card. The same command again "
                                "resumes the run where it was interrupted. Needs the extra 'train'.")
    train.add_argument("recipe", type=Path, help="TOML file with the tables [data], [model] or [start], [training] and "
                       "[card]")
    train.add_argument("--output", "-o", type=Path, required=True, help="folder of the run")
    train.add_argument("--data", type=Path, metavar="FOLDER", help="where the paths of the recipe start (default: the "
                       "folder of the recipe)")
    train.add_argument("--seeds", type=int, nargs="+", default=(), help="train a committee, a member for each seed")
    train.add_argument("--check", action="store_true", help="read and check the data, and stop before the first step")
    train.add_argument("--no-card", action="store_true", help="do not measure the trained model")
    train.add_argument("--device", help="cpu or cuda (default: cpu)")
    train.add_argument("--devices", type=int, default=1, help="processes on this machine (default: %(default)s)")
    train.add_argument("--nodes", type=int, default=1, help="machines (default: %(default)s)")
    train.set_defaults(run=_train)


def _train(options: argparse.Namespace) -> None:
    from mlip.checkpoints import load
    from mlip.cli.common import show_progress, warn_of_failures
    from mlip.training import Recipe, check, keep_freed_memory, run
    from mlip.verify.trained import document

    recipe = Recipe.read(options.recipe, options.data)
    if options.check:
        print(check(recipe, options.output))
        return
    keep_freed_memory()  # this process does nothing else
    first = all(os.environ.get(name, "0") == "0" for name in RANKS)
    report = print if first else str
    for path in run(recipe, options.output, seeds=options.seeds, device=options.device, devices=options.devices,
                    nodes=options.nodes, progress=show_progress() and first, report=report):
        report(f"best model: {path}")
        if first and not options.no_card:
            written = document(recipe, options.output, path)
            report(f"with card:  {written}")
            warn_of_failures(load(written).info.card)


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


def _verify_ensemble(options: argparse.Namespace) -> int:
    from mlip.cli.common import show_progress
    from mlip.simulation import Plan
    from mlip.verify.ensemble import table, verify_ensemble

    plan = Plan(options.steps, options.timestep, options.temperature, options.ensemble, options.friction, options.every,
                options.seed, options.pressure)
    found = verify_ensemble(structure_of(options), model_of(options), plan, options.output, engine=options.engine,
                            progress=show_progress())
    print(table(found))
    return 0 if all(check.passed for check in found) else 1


def _verify_restart(options: argparse.Namespace) -> int:
    from mlip.verify.restart import verify_restart

    options.output.mkdir(exist_ok=True)
    passed = True
    for engine in options.engine:
        for ensemble in options.ensemble:
            found = verify_restart(options.file, options.output, ["--model", options.model], engine=engine,
                                   ensemble=ensemble, steps=options.steps, kills=options.kills, seed=options.seed)
            print(found, flush=True)
            passed = passed and found.passed
    return 0 if passed else 1


def _verify_screen(options: argparse.Namespace) -> int:
    from mlip.verify.screen import verify_screen

    found = verify_screen(options.inputs, options.output, ["--model", options.model, "-p", options.properties],
                          kills=options.kills, seed=options.seed)
    print(found)
    return 0 if found.passed else 1
