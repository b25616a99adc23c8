"""`make_card`: measures what the card of a model says."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import statistics
import time
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms

from mlip import __version__
from mlip.checkpoints import Evaluator, Potential
from mlip.checkpoints.card import card_dict, failures, markdown
from mlip.checkpoints.symmetry import summary, symmetry_reports
from mlip.elements import SYMBOLS
from mlip.errors import NonConservativeWarning, NonFiniteError, OptionError, StructureError
from mlip.graph import Structure
from mlip.graph.labelled import Labelled
from mlip.io.ase import structure_of
from mlip.ops import use_compiled
from mlip.simulation import Plan, run_ase
from mlip.training.evaluation import evaluate_on
from mlip.training.metrics import UNITS
from mlip.verify.model import pairs_of, verify_model

TEMPERATURE, FRICTION = 300.0, 10.0  # K, 1/ps
SYMMETRY_STRUCTURES, ROTATIONS = 8, 16
LARGE = 64  # atoms; a smaller structure stands for all where there is one
SMALL = 8  # atoms; crystals with fewer are repeated
CALLS = 20  # that are timed

ERROR_NAMES = tuple(f"{name}_{kind}_{unit}" for name, unit in UNITS.items() for kind in ("rmse", "mae"))

Card = dict[str, Any]


def make_card(potential: Potential, validation: Sequence[Labelled],
              tests: Mapping[str, Iterable[Labelled]] | None = None, *, training: Iterable[Labelled] = (),
              recommended: str = "", limits: str = "", picoseconds: float = 1.0) -> Card:
    """Measure a model for its card.

    Errors on each set; what rotations change, over validation structures; dynamics at constant energy, started from a
    calm validation structure brought to 300 K; there also what `verify_model` checks, and the time of a call on as many
    threads as torch has.

    Args:
        potential: the model.
        validation: structures that were held out.
        tests: further sets by name.
        training: what the model was trained on; only counted.
        recommended: what the model is for.
        limits: what it is not for, beside what holds for every model of its kind.
        picoseconds: length of the dynamics; the thermostat before it has half of this.

    Returns:
        data, errors, symmetry, dynamics, checks, speed, recommended, limits, versions: JSON-compatible.

    Raises:
        OptionError: an empty set, or a test set called `validation` or `training`.
        UnknownElementError, StructureError: structures that the model cannot evaluate.
    """
    sets = {"validation": validation, **(tests or {})}
    if tests and {"training", "validation"} & set(tests):
        raise OptionError("a test set cannot be called training or validation; choose another name")
    data, errors = {}, {}
    if (counted := counts(training))["structures"]:
        data["training"] = counted
    for name, examples in sets.items():
        found = evaluate_on(potential, examples)
        errors[name] = {k: v for k, v in found.to_dict().items() if not k.startswith("worst")}
        kinds = {kind: sums.structures for kind, sums in found.config_types.items()}
        data[name] = _counts(found.total.structures, found.atoms, kinds)
    atoms, dynamics = _dynamics(potential, _repeated(_atoms(representative(validation))), picoseconds)
    checks = _checks(potential, atoms, pairs_of(e.structure.numbers for e in validation))
    return {"data": data, "errors": errors, "symmetry": _symmetry(potential, validation), "dynamics": dynamics,
            "checks": checks, "speed": _speed(potential, structure_of(atoms)),
            "recommended": recommended, "limits": _all_limits(potential, checks, limits),
            "versions": {"mlip-md": __version__, "torch": str(torch.__version__), "numpy": np.__version__,
                         "python": platform.python_version()}}


def says(potential: Potential, recommended: str, limits: str) -> bool:
    """Return whether this is what the card of a model says of its use."""
    card = potential.info.card
    return bool(card["recommended"] == recommended and card["limits"] == _all_limits(potential, card["checks"], limits))


def stamped(potential: Potential, card: Card, provenance: Mapping[str, str]) -> Potential:
    """Return the potential with a card, its errors on the validation set, and other texts in its `ModelInfo`."""
    found = card["errors"]["validation"]
    validation = {name: found[name] for name in ERROR_NAMES if name in found}
    texts: dict[str, Any] = dict(provenance)
    return Potential(potential.model, dataclasses.replace(potential.info, card=card, validation=validation, **texts))


def write_card(potential: Potential, model_file: Path) -> tuple[Path, Path]:
    """Write the card as `<name>.card.md` and `<name>.card.json` beside the file of the model."""
    text, data = model_file.with_suffix(".card.md"), model_file.with_suffix(".card.json")
    text.write_text(markdown(potential) + "\n", encoding="utf-8")
    data.write_text(json.dumps(card_dict(potential), indent=1) + "\n", encoding="utf-8")
    return text, data


def counts(examples: Iterable[Labelled]) -> Card:
    """Return numbers of structures, of atoms of each element and of structures of each kind; reads a stream."""
    elements: Counter[int] = Counter()
    kinds: Counter[str] = Counter()
    for example in examples:
        elements.update(example.structure.numbers.tolist())
        kinds[example.config_type] += 1
    return _counts(kinds.total(), {SYMBOLS[z]: elements[z] for z in sorted(elements)}, kinds)


def representative(examples: Sequence[Labelled]) -> Structure:
    """Return the structure that stands for a set: the calmest of those of usual size, with at most 64 atoms if any.

    Raises:
        OptionError: there is none.
    """
    if not len(examples):
        raise OptionError("there are no structures to choose one from; give a validation set")
    sizes = np.array([len(e.structure) for e in examples])
    allowed = sizes <= max(LARGE, int(sizes.min()))
    usual = np.flatnonzero(allowed & (sizes >= np.median(sizes[allowed])))
    return min((examples[int(i)] for i in usual), key=_agitation).structure


def _agitation(example: Labelled) -> float:
    return 0.0 if example.forces is None else float(np.square(example.forces).mean())


def _counts(structures: int, elements: Mapping[str, int], kinds: Mapping[str, int]) -> Card:
    return {"structures": structures, "atoms": sum(elements.values()), "elements": dict(elements),
            "config_types": {name: count for name, count in kinds.items() if name}}


def _symmetry(potential: Potential, examples: Sequence[Labelled]) -> Card:
    chosen = np.unique(np.linspace(0, len(examples) - 1, SYMMETRY_STRUCTURES).round().astype(int))
    graph = potential.graph([examples[int(i)].structure for i in chosen])
    return {"structures": len(chosen), "rotations": ROTATIONS, "precision": _precision(potential),
            "invariant_by_construction": potential.model.rotation_invariant,
            **_rounded(summary(symmetry_reports(potential.model, graph, ROTATIONS)))}


def _repeated(atoms: Atoms) -> Atoms:
    """Return a neutral crystal with enough atoms to move: small cells are doubled, where they are shortest first."""
    plain = not atoms.info.get("charge") and atoms.info.get("spin", 1) == 1
    while plain and atoms.pbc.any() and 0 < len(atoms) < SMALL:
        shortest = int(np.where(atoms.pbc, atoms.cell.lengths(), np.inf).argmin())
        atoms = atoms.repeat([2 if k == shortest else 1 for k in range(3)])
    return atoms


def _dynamics(potential: Potential, start: Atoms, picoseconds: float) -> tuple[Atoms, Card]:
    """Bring a structure to 300 K and let it go; return where it ended (or began, if that failed) and what was seen."""
    timestep = 0.5 if 1 in start.numbers else 1.0  # fs
    plans = [Plan(max(1, round(1000 * ps / timestep)), timestep, TEMPERATURE, ensemble, FRICTION)
             for ps, ensemble in ((picoseconds / 2, "nvt"), (picoseconds, "nve"))]
    found: Card = {"structure": start.get_chemical_formula(), "atoms": len(start), "temperature_k": TEMPERATURE,
                   "picoseconds": picoseconds, "timestep_fs": timestep, "precision": _precision(potential)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NonConservativeWarning)  # the drift will tell
        try:
            warm = run_ase(start, potential, plans[0]).final
            record = run_ase(warm, potential, plans[1])
        except (NonFiniteError, StructureError) as error:
            return start, {**found, "failed": str(error)}
    return record.final, {**found, **_rounded({
        "drift_mev_per_atom_per_ps": record.drift(), "fluctuation_mev_per_atom": record.fluctuation(),
        "mean_temperature_k": float(record.temperature.mean())})}


def _checks(potential: Potential, atoms: Atoms, pairs: Collection[tuple[str, str]]) -> Card:
    return {"structure": atoms.get_chemical_formula(), "atoms": len(atoms), "checks": {
        check.name: {"error": float(f"{check.error:.3g}"), "limit": None if check.limit == math.inf else check.limit}
        for check in verify_model(potential, atoms, pairs)}}


def _speed(potential: Potential, structure: Structure) -> Card:
    """Time calls as dynamics make them: the neighbour list is reused."""
    evaluator, seconds = Evaluator(potential), []
    for _ in range(3 + CALLS):
        start = time.perf_counter()
        evaluator(structure, stress=False)
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds[3:])
    machine = (torch.cuda.get_device_name(potential.device) if potential.device.type == "cuda"
               else f"{platform.machine()} with {os.cpu_count()} processors")
    return {"structure": _atoms(structure).get_chemical_formula(), "atoms": len(structure),
            "threads": torch.get_num_threads(), "machine": machine, "precision": _precision(potential),
            "backend": "compiled" if use_compiled(potential.backend, potential.model.atomic_energies) else "reference",
            "milliseconds": float(f"{1e3 * median:.3g}"), "atoms_per_second": round(len(structure) / median)}


def _all_limits(potential: Potential, checks: Card, own: str) -> list[str]:
    return [*_limits(potential), *failures(checks["checks"]), *([own] if own else [])]


def _limits(potential: Potential) -> list[str]:
    """Return what every model of this kind cannot do."""
    config, model = potential.model.config, potential.model
    found = [f"It knows {', '.join(potential.elements)} only and refuses other elements.",
             "Structures unlike its data get numbers, too, without a warning; compare with a committee or a reference.",
             f"An atom sees its neighbours within {potential.cutoff:g} A: no electrostatics or dispersion beyond."]
    if tuple(config.known_charges) == (0,) and tuple(config.known_spins) == (1,):
        found.append("It knows no charges and spins.")
    if not model.conservative:
        found.append("Its forces are the derivative of no energy: dynamics heat up.")
    if not model.rotation_invariant:
        found.append("Rotations are learned, not exact.")
    return found


def _atoms(structure: Structure) -> Atoms:
    state = {"charge": structure.charge, "spin": structure.spin, "head": structure.head}
    return Atoms(numbers=structure.numbers, positions=structure.positions, cell=structure.cell, pbc=structure.pbc,
                 info={k: v for k, v in state.items() if v is not None})


def _precision(potential: Potential) -> str:
    return str(potential.dtype).removeprefix("torch.")


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.4g}") for name, value in values.items()}
