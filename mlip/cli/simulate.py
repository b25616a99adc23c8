"""Commands that evaluate and move structures: quickstart, predict, relax, md."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mlip.cli.common import (
    Commands,
    add_model,
    add_structure,
    model_of,
    models_of,
    show_progress,
    structure_of,
    structures_of,
)
from mlip.errors import OptionError

if TYPE_CHECKING:
    from ase import Atoms

    from mlip.checkpoints import Prediction
    from mlip.simulation import StopRule


def add_commands(commands: Commands) -> None:
    """Add the commands of this file."""
    _add_quickstart(commands)
    _add_predict(commands)
    _add_relax(commands)
    _add_md(commands)


def _add_quickstart(commands: Commands) -> None:
    quick = commands.add_parser("quickstart", help="relax and simulate a molecule with a bundled model, offline")
    quick.add_argument("--output", "-o", type=Path, default=Path("mlip-quickstart"),
                       help="folder (default: %(default)s)")
    quick.add_argument("--steps", type=int, default=2000, help="steps of 0.5 fs in each engine (default: %(default)s)")
    quick.set_defaults(run=_quickstart)


def _add_predict(commands: Commands) -> None:
    predict = commands.add_parser("predict", help="energy, forces and stress of the structures in files")
    predict.add_argument("files", nargs="+", type=Path, help="any format ASE reads")
    add_model(predict, several=True)
    predict.add_argument("--output", "-o", type=Path, help="file for the results: .xyz, .extxyz, .traj or .json")
    predict.set_defaults(run=_predict)


def _add_relax(commands: Commands) -> None:
    relax = commands.add_parser("relax", help="relax a structure")
    add_structure(relax)
    add_model(relax)
    relax.add_argument("--fmax", type=float, default=0.01, help="eV/A (default: %(default)s)")
    relax.add_argument("--steps", type=int, default=500, help="largest number of steps (default: %(default)s)")
    relax.add_argument("--cell", action="store_true", help="relax the cell too")
    relax.add_argument("--optimizer", default="lbfgs", help="lbfgs or fire (default: %(default)s)")
    relax.add_argument("--output", "-o", type=Path, default=Path("relaxed.xyz"), help="default: %(default)s")
    relax.set_defaults(run=_relax)


def _add_md(commands: Commands) -> None:
    md = commands.add_parser("md", help="molecular dynamics in ASE or OpenMM", description="Writes the frames as they "
                             "come, a PDB topology (<output>.topology.pdb), and at the end the last structure with its "
                             "momenta (<output>.final.xyz), from which another run goes on. With several models the "
                             "frames tell how far these are apart (forces_std_max, eV/A), and those kept by "
                             "--stop-above and --select-above go to <output>.selected.xyz.")
    add_structure(md)
    add_model(md, several=True)
    md.add_argument("--engine", choices=("ase", "openmm"), default="ase", help="default: %(default)s")
    md.add_argument("--ensemble", choices=("nve", "nvt"), default="nve", help="default: %(default)s")
    md.add_argument("--steps", type=int, default=1000, help="default: %(default)s")
    md.add_argument("--timestep", type=float, default=0.5, help="fs (default: %(default)s)")
    md.add_argument("--temperature", type=float, default=300.0, help="K, of the thermostat and of the initial "
                    "velocities (default: %(default)s); momenta in the file are kept and take precedence")
    md.add_argument("--friction", type=float, default=1.0, help="of the thermostat, 1/ps (default: %(default)s)")
    md.add_argument("--every", type=int, default=10, help="steps between frames (default: %(default)s)")
    md.add_argument("--seed", type=int, default=0)
    md.add_argument("--stop-above", type=float, metavar="EV_PER_A", help="with several models: stop when their forces "
                    "on an atom spread more than this")
    md.add_argument("--select-above", type=float, metavar="EV_PER_A", help="with several models: keep frames for "
                    "labelling when forces spread more than this")
    md.add_argument("--platform", help="OpenMM platform, e.g. CPU")
    md.add_argument("--output", "-o", type=Path, default=Path("trajectory.xyz"),
                    help="extended XYZ file, overwritten (default: %(default)s)")
    md.set_defaults(run=_md)


def _quickstart(options: argparse.Namespace) -> None:
    from mlip.simulation.quickstart import quickstart

    report = quickstart(options.output, options.steps, show_progress())
    r = report.relaxation
    print(f"\nmodel     {report.potential.info.name}: {report.potential.info.training_data}")
    print(f"relaxed   acetylacetone in {r.steps} steps to {r.energy:.6f} eV, largest force {r.max_force:.4f} eV/A\n")
    print(report.table())
    print("\nwritten   " + "\n          ".join(str(f) for f in report.files))


def _predict(options: argparse.Namespace) -> int:
    import numpy as np

    from mlip.errors import NonFiniteError, StructureError
    from mlip.io.files import check_target, with_results, write_structures

    if options.output is not None:
        check_target(options.output, (".xyz", ".extxyz", ".traj", ".json"), options.files)
    model = models_of(options)
    done, failed = [], 0
    spreads = f"{'energy std (eV)':>18}{'max force std':>16}" if len(options.model) > 1 else ""
    print(f"{'structure':36}{'atoms':>7}{'energy (eV)':>18}{'max force (eV/A)':>18}{'pressure (GPa)':>16}{spreads}")
    for file in options.files:
        for i, atoms in enumerate(structures_of(file, options)):
            name = f"{file.name}[{i}]"
            try:
                p = model.predict(atoms)
            except (StructureError, NonFiniteError) as error:  # the others still count
                failed += 1
                print(f"{name:36}{len(atoms):>7}  {type(error).__name__}: {error}")
                continue
            done.append(_with_spread(with_results(atoms, p), p))
            largest = float(np.linalg.norm(p.forces, axis=1).max(initial=0.0)) if p.forces is not None else 0.0
            print(f"{name:36}{len(atoms):>7}{p.energy:>18.6f}{largest:>18.6f}{_pressure(p.stress):>16}{_spread(p)}")
    if options.output is not None and done:
        print(f"written   {write_structures(options.output, done)}")
    return 1 if failed else 0


def _spread(prediction: Prediction) -> str:
    from mlip.checkpoints import CommitteePrediction

    if not isinstance(prediction, CommitteePrediction):
        return ""
    return f"{prediction.energy_std:>18.6f}{prediction.forces_std_max:>16.6f}"


def _with_spread(atoms: Atoms, prediction: Prediction) -> Atoms:
    from mlip.checkpoints import CommitteePrediction

    if isinstance(prediction, CommitteePrediction):
        atoms.info.update(energy_std=prediction.energy_std, forces_std_max=prediction.forces_std_max)
        atoms.set_array("forces_std", prediction.forces_std)
    return atoms


def _pressure(stress: object) -> str:
    import numpy as np

    from mlip.units import GPA_PER_EV_A3

    return "-" if stress is None else f"{-np.trace(np.asarray(stress)) / 3 * GPA_PER_EV_A3:.4f}"


def _relax(options: argparse.Namespace) -> int:
    from mlip.io.files import check_target, write_structures
    from mlip.simulation import relax

    check_target(options.output, inputs=[options.file])
    result = relax(structure_of(options), model_of(options), fmax=options.fmax, steps=options.steps,
                   cell=options.cell, optimizer=options.optimizer)
    write_structures(options.output, [result.atoms])
    state = "converged" if result.converged else "NOT converged"
    print(f"{state} after {result.steps} steps: {result.energy:.6f} eV, largest force {result.max_force:.4f} eV/A, "
          f"written to {options.output}")
    return 0 if result.converged else 1


def _md(options: argparse.Namespace) -> None:
    from mlip.simulation import Plan, run_ase, run_openmm
    from mlip.simulation.record import outputs_of

    files = outputs_of(options.output, [options.file])
    trajectory, final = files.trajectory, files.final
    plan = Plan(steps=options.steps, timestep=options.timestep, temperature=options.temperature,
                ensemble=options.ensemble, friction=options.friction, every=options.every, seed=options.seed)
    if options.platform is not None and options.engine != "openmm":
        raise OptionError("--platform is an option of OpenMM; add --engine openmm")
    atoms, model, progress = structure_of(options), models_of(options), show_progress()
    rule = _rule(options)
    record = (run_ase(atoms, model, plan, trajectory=trajectory, progress=progress, rule=rule)
              if options.engine == "ase" else
              run_openmm(atoms, model, plan, trajectory=trajectory, progress=progress, rule=rule,
                         platform=options.platform))
    print(f"{plan.steps} steps of {plan.timestep} fs in {options.engine} ({plan.ensemble}): mean temperature "
          f"{record.temperature.mean():.1f} K, drift {record.drift():+.4f} meV/atom/ps, "
          f"{record.steps_per_second:.1f} steps/s, written to {trajectory}; to go on, start from {final}")
    if record.spread is not None:
        kept = "" if rule is None else f"; frames kept for labelling: {rule.kept}, in {rule.selected}"
        print(f"forces of {len(options.model)} models spread by {record.spread.max():.4f} eV/A at most{kept}")


def _rule(options: argparse.Namespace) -> StopRule | None:
    """Return the rule that the options describe; None without limits."""
    from mlip.io.files import check_target
    from mlip.simulation import StopRule

    if options.stop_above is None and options.select_above is None:
        return None
    if len(options.model) == 1:
        raise OptionError("--stop-above and --select-above need a committee: give --model several times")
    selected = options.output.with_suffix(".selected.xyz")
    check_target(selected, inputs=[options.file])
    return StopRule(options.stop_above, select_above=options.select_above, selected=selected)
