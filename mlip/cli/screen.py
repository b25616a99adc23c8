"""The command `screen`: properties of many structures."""

from __future__ import annotations

import argparse
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from mlip.cli.common import Commands, add_average, model_of, show_progress
from mlip.errors import OptionError

SHOWN = 20  # failures
LINES = 60  # of results beside references


def add_commands(commands: Commands) -> None:
    """Add the command of this file."""
    screen = commands.add_parser(
        "screen", help="properties of many structures, resumable", description="Each result is stored as soon as it "
        "is known; the same command again computes what is missing. Structures that fail are listed with their reasons "
        "and stop nothing. At the end the folder holds table.csv and report.html, a page with the table and pictures.")
    screen.add_argument("inputs", nargs="*", metavar="INPUT", help="files in any format of ASE, databases, JSON, "
                        "folders, patterns such as '*.cif'")
    screen.add_argument("--model", "-m", help="name or path of a model")
    screen.add_argument("--properties", "-p", default="relax", help="names with commas between them (default: "
                        "%(default)s); those they need are computed too")
    screen.add_argument("--out", "-o", type=Path, default=Path("screening"), help="folder (default: %(default)s)")
    screen.add_argument("--fmax", type=float, help="of relaxations, eV/A (default: 0.0001)")
    screen.add_argument("--steps", type=int, help="most steps of a relaxation (default: 500)")
    screen.add_argument("--fixed-cell", action="store_true", help="relax positions only")
    screen.add_argument("--symmetry", action="store_true", help="keep the space group of each crystal")
    screen.add_argument("--memory", type=float, metavar="GB", help="that each process may have (default: no limit)")
    workers = screen.add_mutually_exclusive_group()
    workers.add_argument("--workers", type=int, default=1, help="processes, of one thread each (default: this one); "
                         "their number changes no bit")
    workers.add_argument("--parsl", type=Path, metavar="FILE", help="workers: a Python file with a parsl.Config "
                         "called `config`, such as examples/parsl_local.py")
    screen.add_argument("--references", type=Path, metavar="FILE", help="CSV or JSON with id or formula and results, "
                        "which are compared in a table and on the page")
    screen.add_argument("--export", type=Path, action="append", default=[], metavar="FILE", help="write the table as "
                        ".csv, .parquet, .json or .db (ASE) too; may be repeated")
    screen.add_argument("--explain", metavar="ID", help="print all that produced the numbers of a structure, and stop")
    for name, text in (("device", "cpu, cuda or cuda:<index>"),
                       ("dtype", "float32 or float64 (default: that of the file)"),
                       ("backend", "auto, compiled or reference (default: auto)"),
                       ("radial", "exact, or tabulated (default: exact)")):
        screen.add_argument(f"--{name}", help=text)
    add_average(screen)
    screen.set_defaults(run=_screen)


def _screen(options: argparse.Namespace) -> int:
    import torch

    from mlip.io.files import check_target
    from mlip.screening import explain, screen
    from mlip.screening.report import compared, read_references, write_report
    from mlip.screening.table import ENDINGS

    if options.explain is not None:
        print(explain(options.out, options.explain))
        return 0
    if not options.inputs or options.model is None:
        raise OptionError("give what to screen and --model; or --explain ID for results that are there")
    if options.workers < 1:
        raise OptionError(f"--workers must be 1 or more; {options.workers} was given")
    torch.set_num_threads(1)  # as in the other processes
    options.out.mkdir(parents=True, exist_ok=True)
    for path in options.export:
        check_target(path, ENDINGS)
    references = None if options.references is None else read_references(options.references)
    names = [name.strip() for name in options.properties.split(",") if name.strip()]
    with _pool(options) as executor:
        table = screen(options.inputs, model_of(options), names, options.out, settings=_settings(options, names),
                       memory=options.memory, executor=executor, progress=show_progress())
    for row in table.failures[:SHOWN]:
        print(f"{row.id}  {row.property}  {row.reason}")
    if len(table.failures) > SHOWN:
        print(f"... and {len(table.failures) - SHOWN} more")
    if references is not None:
        lines = compared(table.rows, references).splitlines()
        print("\n".join(lines[:LINES]) + (f"\n... and {len(lines) - LINES} more" if len(lines) > LINES else ""))
    page = write_report(table.rows, options.out / "report.html", references)
    written = [options.out / "table.csv", page, *(table.write(path) for path in options.export)]
    print(f"{len(table.rows)} results of {len(table.entries)} structures, {len(table.failures)} failed, written to "
          f"{', '.join(map(str, written))}")
    return 0


def _pool(options: argparse.Namespace) -> AbstractContextManager[Executor | None]:
    """Return the workers that were asked for, if any."""
    if options.parsl is not None:
        from mlip.screening.parsl import parsl_workers

        return parsl_workers(options.parsl, options.out)
    if options.workers == 1:
        return nullcontext()
    import multiprocessing

    import torch

    return ProcessPoolExecutor(options.workers, multiprocessing.get_context("spawn"), torch.set_num_threads, (1,))


def _settings(options: argparse.Namespace, names: list[str]) -> dict[str, object]:
    """Return the settings of relaxations, where there are any."""
    from mlip.screening.properties import relax
    from mlip.screening.registry import wanted

    given = {"fmax": options.fmax, "steps": options.steps, "cell": False if options.fixed_cell else None,
             "symmetry": True if options.symmetry else None}
    chosen = {name: value for name, value in given.items() if value is not None}
    if "relax" not in [p.name for p in wanted(names)]:
        if chosen:
            raise OptionError(f"{', '.join(chosen)}: options of relaxations, which are not computed; add relax")
        return {}
    return {"relax": relax.Settings(**chosen)}
