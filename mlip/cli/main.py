"""The command `mlip`: parses arguments, calls the library, reports errors in one line."""

from __future__ import annotations

import argparse
import os
import select
import sys
from collections.abc import Sequence

from mlip._installation import check_single_distribution
from mlip.cli import analyze, bench, develop, dynamics, evaluate, inspect, screen, simulate
from mlip.errors import MLIPError

EPILOG = "Every command answers to --help. Models are names (`mlip models list`) or paths."


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    from mlip import __version__

    top = argparse.ArgumentParser(prog="mlip", epilog=EPILOG, description="Molecular dynamics and materials "
                                  "screening with machine-learned interatomic potentials.")
    top.add_argument("--version", action="version", version=f"mlip-md {__version__}")
    top.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = top.add_subparsers(dest="command", metavar="command", required=True)
    for room in (simulate, dynamics, analyze, screen, inspect, develop, evaluate, bench):
        room.add_commands(commands)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, 1 (a check failed) or 2 (bad input)."""
    options = parser().parse_args(arguments)
    try:
        check_single_distribution()
        code = int(options.run(options) or 0)
        sys.stdout.flush()
        return code
    except (MLIPError, OSError) as error:
        if isinstance(error, BrokenPipeError) and _reader_left():
            return 1
        if options.debug:
            raise
        print(f"mlip {options.command}: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130


def _reader_left() -> bool:
    """Return whether whoever reads the output has seen enough, as `head` has; what is left of it goes nowhere then."""
    if not hasattr(select, "poll"):  # Windows
        return False
    watched = select.poll()
    watched.register(sys.stdout.fileno(), 0)
    left = any(event & select.POLLERR for _, event in watched.poll(0))
    if left:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return left


if __name__ == "__main__":
    sys.exit(main())
