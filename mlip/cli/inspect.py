"""Commands about models: models, convert."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from mlip.cli.common import Commands

PROVENANCE = ("name", "licence", "citation", "training_data", "description")


def add_commands(commands: Commands) -> None:
    """Add the commands of this file."""
    models = commands.add_parser("models", help="list models, or show one")
    actions = models.add_subparsers(dest="action", metavar="action", required=True)
    listing = actions.add_parser("list", help="bundled and catalogued models")
    listing.set_defaults(run=_list)
    show = actions.add_parser("show", help="everything known about a model")
    show.add_argument("model", help="name or path")
    show.set_defaults(run=_show)

    convert = commands.add_parser("convert", help="write a model in the format of mlip, with its provenance")
    convert.add_argument("source", help="name or path, e.g. a mace-torch .model file or an EquiformerV3 .pt file")
    convert.add_argument("target", type=Path, help="file to write, e.g. my-model.mlip")
    convert.add_argument("--dtype", help="float32 or float64")
    convert.add_argument("--weights", choices=("state_dict", "ema"),
                         help="of an EquiformerV3 .pt file: those of the last step (default), or their moving average")
    for field in PROVENANCE:
        convert.add_argument(f"--{field.replace('_', '-')}", help=f"{field.replace('_', ' ')} to record")
    convert.set_defaults(run=_convert)


def _list(options: argparse.Namespace) -> None:
    from mlip.checkpoints.listing import table

    print(table())


def _show(options: argparse.Namespace) -> None:
    from mlip.checkpoints import load
    from mlip.checkpoints.listing import public

    entry = public(options.model)
    if entry is not None:  # answer before anything is fetched
        for name in ("name", "family", "licence", "commercial_use", "citation", "training_data", "elements",
                     "description", "url", "size", "sha256", "sha256_source"):
            print(f"{name.replace('_', ' '):15}{getattr(entry, name)}")
        return
    potential = load(options.model)
    info = potential.info
    rows = {"elements": " ".join(potential.elements), "cutoff (A)": f"{potential.cutoff:g}",
            "heads": ", ".join(potential.heads), "precision": str(potential.dtype).removeprefix("torch."),
            "weights": f"{sum(p.numel() for p in potential.model.parameters())}",
            "units": ", ".join(f"{k} {v}" for k, v in info.units.items()),
            "validation": ", ".join(f"{k} {v:g}" for k, v in info.validation.items()), "sha256": info.sha256}
    for name in ("name", "family", "licence", "citation", "training_data", "description"):
        print(f"{name.replace('_', ' '):15}{getattr(info, name)}")
    for name, value in rows.items():
        print(f"{name:15}{value}")


def _convert(options: argparse.Namespace) -> None:
    from mlip.checkpoints import Potential, load
    from mlip.checkpoints.format import SUFFIX
    from mlip.io.files import check_target

    check_target(options.target, (SUFFIX,), [Path(options.source)])
    potential = load(options.source, dtype=options.dtype, weights=options.weights)
    given = {field: getattr(options, field) for field in PROVENANCE if getattr(options, field) is not None}
    stamped = Potential(potential.model, dataclasses.replace(potential.info, **given))
    path = stamped.save(options.target)
    print(f"written   {path}\nsha256    {stamped.info.sha256}")
