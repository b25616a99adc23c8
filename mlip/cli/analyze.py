"""The command `analyze`."""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlip.cli.common import Commands


def add_commands(commands: Commands) -> None:
    """Add the command of this file."""
    analyze = commands.add_parser("analyze", help="energies, structure, diffusion and torsions of a trajectory",
                                  description="Reads <trajectory>.log.csv and <trajectory>.topology.pdb beside it.")
    analyze.add_argument("trajectory", type=Path, help=".xyz, .extxyz, .dcd, .xtc or .h5, as `mlip md` writes them")
    analyze.add_argument("--topology", type=Path, help="elements and bonds, e.g. PDB, instead of the file beside")
    analyze.add_argument("--temperature", type=float, help="K, of the thermostat, to compare with")
    analyze.add_argument("--interval", type=float, help="ps between frames, where neither file nor log tell it")
    analyze.add_argument("--output", "-o", type=Path, help="picture, PNG (default: <trajectory>.report.png)")
    analyze.add_argument("--json", action="store_true", help="print the numbers as JSON instead of a table")
    analyze.set_defaults(run=_analyze)


def _analyze(options: argparse.Namespace) -> None:
    from mlip.analysis import report

    with quiet():
        found, picture = report(options.trajectory, options.output, options.topology, temperature=options.temperature,
                                interval=options.interval)
    print(json.dumps(found.numbers(), indent=1) if options.json else f"{found.table()}\nwritten   {picture}")


@contextmanager
def quiet() -> Iterator[None]:
    """Throw away what C code prints to standard output: mdtraj's reader of DCD tells about each file."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        ctypes.CDLL(None).fflush(None)
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
