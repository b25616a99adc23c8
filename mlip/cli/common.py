"""Arguments that several commands share."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlip.checkpoints import Potential

Commands = Any  # argparse keeps the type of its sub-parsers private


def add_model(command: argparse.ArgumentParser) -> None:
    """Add --model, --device and --dtype."""
    command.add_argument("--model", "-m", required=True, help="name or path of a model")
    command.add_argument("--device", help="cpu, cuda or cuda:<index>")
    command.add_argument("--dtype", help="float32 or float64 (default: that of the file)")


def model_of(options: argparse.Namespace) -> Potential:
    """Load the model that the options name."""
    from mlip.checkpoints import load

    return load(options.model, device=options.device, dtype=options.dtype)


def show_progress() -> bool:
    """Return whether progress bars are welcome: somebody is looking."""
    return sys.stderr.isatty()
