"""Commands that evaluate and move structures: quickstart, predict, relax."""

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

if TYPE_CHECKING:
    from ase import Atoms

    from mlip.checkpoints import Prediction


def add_commands(commands: Commands) -> None:
    """Add the commands of this file."""
    _add_quickstart(commands)
    _add_predict(commands)
    _add_relax(commands)


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


def _quickstart(options: argparse.Namespace) -> None:
    import torch

    from mlip.simulation.quickstart import quickstart

    torch.set_num_threads(1)  # more are no faster for a molecule, and wait for each other beside other programs
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
