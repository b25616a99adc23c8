"""Commands about models: models, convert."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from mlip.cli.common import Commands, add_provenance, provenance_of

PUBLIC = ("name", "family", "licence", "commercial_use", "citation", "training_data", "elements", "description", "url",
          "size", "sha256", "sha256_source")


def add_commands(commands: Commands) -> None:
    """Add the commands of this file."""
    models = commands.add_parser("models", help="list models, or show one")
    actions = models.add_subparsers(dest="action", metavar="action", required=True)
    listing = actions.add_parser("list", help="bundled and catalogued models")
    listing.set_defaults(run=_list)
    show = actions.add_parser("show", help="everything known about a model: its card, in Markdown")
    show.add_argument("model", help="name or path")
    show.add_argument("--json", action="store_true", help="as JSON instead of Markdown")
    show.set_defaults(run=_show)

    convert = commands.add_parser("convert", help="write a model in the format of mlip, with its provenance")
    convert.add_argument("source", help="name or path, e.g. a mace-torch .model file or an EquiformerV3 .pt file")
    convert.add_argument("target", type=Path, help="file to write, e.g. my-model.mlip")
    convert.add_argument("--dtype", help="float32 or float64")
    convert.add_argument("--weights", choices=("state_dict", "ema"),
                         help="of an EquiformerV3 .pt file: those of the last step (default), or their moving average")
    add_provenance(convert)
    convert.set_defaults(run=_convert)


def _list(options: argparse.Namespace) -> None:
    from mlip.checkpoints.listing import table

    print(table())


def _show(options: argparse.Namespace) -> None:
    from mlip.checkpoints import load
    from mlip.checkpoints.card import card_dict, markdown
    from mlip.checkpoints.listing import public

    entry = public(options.model)
    if entry is not None:  # answer before anything is fetched
        rows = {name: getattr(entry, name) for name in PUBLIC}
        print(json.dumps(rows, indent=1) if options.json else
              "\n".join(f"{name.replace('_', ' '):15}{value}" for name, value in rows.items()))
        return
    potential = load(options.model)
    print(json.dumps(card_dict(potential), indent=1) if options.json else markdown(potential))


def _convert(options: argparse.Namespace) -> None:
    from mlip.checkpoints import Potential, load
    from mlip.checkpoints.format import SUFFIX
    from mlip.io.files import check_target

    check_target(options.target, (SUFFIX,), [Path(options.source)])
    potential = load(options.source, dtype=options.dtype, weights=options.weights)
    given: dict[str, Any] = provenance_of(options)
    stamped = Potential(potential.model, dataclasses.replace(potential.info, **given))
    path = stamped.save(options.target)
    print(f"written   {path}\nsha256    {stamped.info.sha256}")
