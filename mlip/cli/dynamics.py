"""The command `md`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlip.cli.analyze import quiet
from mlip.cli.common import Commands, add_model, add_structure, models_of, show_progress, structure_of
from mlip.errors import MLIPError, OptionError

if TYPE_CHECKING:
    from mlip.simulation import Plan, Record, StopRule
    from mlip.simulation.record import Outputs

DESCRIPTION = (
    "Writes the frames as they come, a log (<output>.log.csv), a PDB topology (<output>.topology.pdb), a checkpoint "
    "(<output>.checkpoint.npz), and at the end the last structure with its momenta (<output>.final.xyz), from which "
    "another run goes on, and a picture (<output>.report.png). The same command again resumes a run that was "
    "interrupted, where it was. Dynamics that go wrong stop, with the structure in <output>.failed.xyz. With several "
    "models the frames tell how far these are apart (forces_std_max, eV/A), and those kept by --stop-above and "
    "--select-above go to <output>.selected.xyz.")


def add_commands(commands: Commands) -> None:
    """Add the command of this file."""
    md = commands.add_parser("md", help="molecular dynamics in ASE or OpenMM", description=DESCRIPTION)
    add_structure(md)
    add_model(md, several=True)
    md.add_argument("--engine", choices=("ase", "openmm"), default="ase", help="default: %(default)s")
    md.add_argument("--ensemble", choices=("nve", "nvt", "npt"), default="nve", help="default: %(default)s")
    length = md.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, default=1000, help="default: %(default)s")
    length.add_argument("--time", type=float, help="ps, instead of --steps")
    md.add_argument("--timestep", type=float, default=0.5, help="fs (default: %(default)s)")
    md.add_argument("--temperature", type=float, default=300.0, help="K, of the thermostat and of the initial "
                    "velocities (default: %(default)s); momenta in the file are kept and take precedence")
    md.add_argument("--pressure", type=float, default=1.0, help="bar, of npt (default: %(default)s)")
    md.add_argument("--friction", type=float, default=1.0, help="of the thermostat, 1/ps (default: %(default)s)")
    md.add_argument("--max-temperature", type=float, metavar="K", help="stop when it becomes hotter (default: ten "
                    "times --temperature, at least 5000)")
    md.add_argument("--every", type=int, default=10, help="steps between frames (default: %(default)s)")
    md.add_argument("--seed", type=int, default=0)
    md.add_argument("--dispersion", metavar="METHOD", help="D3 to be added to the model: damping and functional, such "
                    "as d3bj:pbe, d3zero:pbe or, with three-body terms, d3bj-atm:pbe. Take the functional of the "
                    "model's training data; refused where these contain dispersion (default: none)")
    md.add_argument("--stop-above", type=float, metavar="EV_PER_A", help="with several models: stop when their forces "
                    "on an atom spread more than this")
    md.add_argument("--select-above", type=float, metavar="EV_PER_A", help="with several models: keep frames for "
                    "labelling when forces spread more than this")
    md.add_argument("--platform", help="OpenMM platform, e.g. CPU")
    md.add_argument("--output", "-o", type=Path, default=Path("trajectory.xyz"), help="trajectory: .xyz or .extxyz "
                    "(extended XYZ), .dcd, .xtc or .h5 (default: %(default)s)")
    md.set_defaults(run=_md)


def _md(options: argparse.Namespace) -> None:
    from mlip.simulation import Plan, run_ase, run_openmm
    from mlip.simulation.record import outputs_of

    files = outputs_of(options.output, [options.file])
    plan = Plan(steps=_steps(options), timestep=options.timestep, temperature=options.temperature,
                ensemble=options.ensemble, friction=options.friction, every=options.every, seed=options.seed,
                pressure=options.pressure, max_temperature=options.max_temperature)
    if options.platform is not None and options.engine != "openmm":
        raise OptionError("--platform is an option of OpenMM; add --engine openmm")
    atoms, model, progress = structure_of(options), models_of(options), show_progress()
    rule = _rule(options, files)
    both: dict[str, Any] = {"trajectory": files.trajectory, "progress": progress, "rule": rule, "resume": True,
                            "dispersion": options.dispersion}
    record = (run_ase(atoms, model, plan, **both) if options.engine == "ase" else
              run_openmm(atoms, model, plan, platform=options.platform, **both))
    print(_summary(record, plan, options.engine, files))
    if record.spread is not None:
        kept = "" if rule is None else f"; frames kept for labelling: {rule.kept}, in {rule.selected}"
        print(f"forces of {len(options.model)} models spread by {record.spread.max():.4f} eV/A at most{kept}")
    picture = files.trajectory.with_suffix(".report.png")
    if record.begun < plan.steps or not picture.exists():
        _report(files.trajectory, picture, plan)


def _steps(options: argparse.Namespace) -> int:
    """Return the number of steps that the options ask for."""
    if options.time is None:
        return int(options.steps)
    steps = options.time * 1000 / options.timestep if options.timestep else 0.0
    if not 0.5 < steps < 2**31:
        raise OptionError(f"--time must hold at least one time step; {options.time:g} ps, with time steps of "
                          f"{options.timestep:g} fs, was given")
    return round(steps)


def _summary(record: Record, plan: Plan, engine: str, files: Outputs) -> str:
    """Return what was done, in a sentence or two."""
    what = f"{plan.steps} steps of {plan.timestep} fs in {engine} ({plan.ensemble})"
    found = f"mean temperature {record.temperature.mean():.1f} K, drift {record.drift():+.4f} meV/atom/ps"
    go_on = f"to go on, start from {files.final}"
    if record.begun == plan.steps:
        return (f"{files.trajectory} is finished, nothing was left to do: {what}, {found}; {go_on}; to begin anew, "
                f"delete {files.checkpoint}")
    resumed = f", resumed at step {record.begun}" if record.begun else ""
    speed = f"{record.steps_per_second:.1f} steps/s, {record.steps_per_second * plan.timestep * 0.0864:.3g} ns/day"
    return f"{what}{resumed}: {found}, {speed}, written to {files.trajectory}; {go_on}"


def _report(trajectory: Path, picture: Path, plan: Plan) -> None:
    """Draw what happened, and print it as a table; say why if that cannot be."""
    from mlip.analysis import report

    thermostat = plan.temperature if plan.ensemble != "nve" and plan.temperature > 0 else None
    try:
        with quiet():
            found, _ = report(trajectory, picture, temperature=thermostat)
    except MLIPError as error:
        print(f"no report: {error}")
    else:
        print(f"\n{found.table()}\nwritten   {picture}")


def _rule(options: argparse.Namespace, files: Outputs) -> StopRule | None:
    """Return the rule that the options describe; None without limits."""
    from mlip.io.files import check_target
    from mlip.simulation import StopRule

    if options.stop_above is None and options.select_above is None:
        return None
    if len(options.model) == 1:
        raise OptionError("--stop-above and --select-above need a committee: give --model several times")
    selected = files.trajectory.with_suffix(".selected.xyz")
    check_target(selected, inputs=[options.file])
    return StopRule(options.stop_above, select_above=options.select_above, selected=selected,
                    keep=files.checkpoint.exists())
