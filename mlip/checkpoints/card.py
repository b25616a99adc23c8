"""Everything known about a model, as JSON and as Markdown for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mlip.checkpoints.potential import Potential
from mlip.elements import SYMBOLS

ROWS = ("name", "family", "licence", "citation", "training_data", "description")


def card_dict(potential: Potential) -> dict[str, Any]:
    """Return provenance, card and size of a model as JSON-compatible values."""
    return {"info": potential.info.to_dict(),
            "model": {"elements": list(potential.elements), "cutoff_angstrom": potential.cutoff,
                      "heads": list(potential.heads), "precision": str(potential.dtype).removeprefix("torch."),
                      "weights": sum(p.numel() for p in potential.model.parameters())}}


def markdown(potential: Potential) -> str:
    """Return the card of a model: what it is, what it was made from, what it can and cannot do."""
    info, card = potential.info, potential.info.card
    model = card_dict(potential)["model"]
    rows = {**{name.replace("_", " "): getattr(info, name) for name in ROWS},
            "elements": " ".join(model["elements"]), "cutoff (A)": f"{model['cutoff_angstrom']:g}",
            "heads": ", ".join(model["heads"]), "precision": model["precision"], "weights": str(model["weights"]),
            "units": ", ".join(f"{k} {v}" for k, v in info.units.items()),
            "validation": ", ".join(f"{k} {v:g}" for k, v in info.validation.items()), "sha256": info.sha256}
    sections = (("Recommended use", _sentences(card.get("recommended"))), ("Limits", _sentences(card.get("limits"))),
                ("Data", _data(card.get("data", {}))), ("Errors", _errors(card.get("errors", {}))),
                ("Rotations", _symmetry(card.get("symmetry"))), ("Dynamics", _dynamics(card.get("dynamics"))),
                ("Derivatives and symmetries", _checks(card.get("checks", {}))), ("Speed", _speed(card.get("speed"))),
                ("Made with", _sentences([", ".join(f"{k} {v}" for k, v in card["versions"].items())]
                                         if "versions" in card else None)))
    text = [f"# {info.name or info.family}", "", *_table(("", ""), rows.items(), left=2)]
    for title, lines in sections:
        text += ["", f"## {title}", "", *lines] if lines else []
    return "\n".join(text)


def failures(checks: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each check of a card (`card["checks"]["checks"]`) whose error is above its limit."""
    return [f"It fails the check '{name}': {c['error']:.1e}, at most {c['limit']:g} is right."
            for name, c in checks.items() if _fails(c)]


def _fails(check: Mapping[str, Any]) -> bool:
    return check["limit"] is not None and not check["error"] <= check["limit"]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> list[str]:
    """Return a table in Markdown; the first `left` columns are aligned to the left."""
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    rule = "|" + "---|" * left + "---:|" * (len(head) - left)
    return [f"| {' | '.join(head)} |", rule, *(f"| {' | '.join(row)} |" for row in cells)]


def _sentences(given: str | Sequence[str] | None) -> list[str]:
    """Return a text as it is, and several as a list."""
    several = [given] if isinstance(given, str) else list(given or ())
    return [several[0]] if len(several) == 1 and several[0] else [f"- {one}" for one in several if one]


def _data(parts: Mapping[str, Any]) -> list[str]:
    rows = [(name, " ".join(_by_number(p["elements"])),
             ", ".join(f"{kind} ({count})" for kind, count in p["config_types"].items()), str(p["structures"]),
             str(p["atoms"])) for name, p in _in_order(parts)]
    return _table(("part", "elements", "kinds", "structures", "atoms"), rows, left=3) if rows else []


def _in_order(parts: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return the parts of the data, what the model was made with first; a file keeps no order."""
    return sorted(parts.items(), key=lambda part: (part[0] not in ("training", "validation"), part[0]))


def _by_number(symbols: Iterable[str]) -> list[str]:
    return sorted(symbols, key=SYMBOLS.index)


COLUMNS = {"energy (meV/atom)": "energy_{}_mev_per_atom", "energy (meV)": "energy_{}_mev_per_structure",
           "forces (meV/A)": "forces_{}_mev_per_angstrom", "stress (GPa)": "stress_{}_gpa"}


def _errors(parts: Mapping[str, Any]) -> list[str]:
    """Return one table of all parts and their kinds of structures, and one of the forces on each element."""
    if not parts:
        return []
    named = []
    for part, whole in _in_order(parts):
        kinds = whole["config_types"]
        named += [(part, whole), *((f"{part}: {kind}", kinds[kind]) for kind in kinds if len(kinds) > 1)]
    columns = {title: key for title, key in COLUMNS.items() if any(key.format("rmse") in found for _, found in named)}
    rows = [(name, str(found["structures"]), *(_two(found, key) for key in columns.values())) for name, found in named]
    lines = ["Root mean square / mean absolute errors.", "", *_table(("structures", "number", *columns), rows)]
    elements = _by_number({symbol for found in parts.values() for symbol in found["elements"]})
    key = COLUMNS["forces (meV/A)"]
    if len(elements) > 1 and "forces (meV/A)" in columns:
        rows = [(name, *(_two(found["elements"].get(symbol, {}), key) for symbol in elements))
                for name, found in _in_order(parts)]
        lines += ["", "Forces on the atoms of each element, meV/A:", "", *_table(("structures", *elements), rows)]
    return lines


def _two(found: Mapping[str, float], key: str) -> str:
    """Return both errors of a property, or a dash."""
    if key.format("rmse") not in found:
        return "-"
    return " / ".join(_digits(found[key.format(kind)]) for kind in ("rmse", "mae"))


def _digits(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def _symmetry(found: Mapping[str, Any] | None) -> list[str]:
    if found is None:
        return []
    nature = "Invariant by construction" if found["invariant_by_construction"] else "Rotations are learned"
    return [f"{nature}: over {found['rotations']} random rotations of {found['structures']} structures the energy "
            f"varies by {_digits(found['energy_rot_std_mev_per_atom'])} meV/atom and forces by "
            f"{_digits(found['forces_rot_std_mev_per_angstrom'])} meV/A (root mean square, {found['precision']})."]


def _dynamics(found: Mapping[str, Any] | None) -> list[str]:
    if found is None:
        return []
    what = f"{found['structure']} ({found['atoms']} atoms) from {found['temperature_k']:g} K"
    if "failed" in found:
        return [f"Dynamics of {what} failed: {found['failed']}"]
    return [f"At constant energy, {what}, {found['picoseconds']:g} ps in steps of {found['timestep_fs']:g} fs, "
            f"{found['precision']}: the total energy drifts by {found['drift_mev_per_atom_per_ps']:+.3g} meV/atom/ps "
            f"and fluctuates by {_digits(found['fluctuation_mev_per_atom'])} meV/atom; mean temperature "
            f"{found['mean_temperature_k']:.0f} K."]


def _checks(found: Mapping[str, Any]) -> list[str]:
    rows = [(name, f"{c['error']:.1e}", "-" if c["limit"] is None else f"{c['limit']:g}{' FAILED' * _fails(c)}")
            for name, c in found.get("checks", {}).items()]
    return [f"Largest deviations in float64 on {found['structure']} ({found['atoms']} atoms), in eV, A and "
            "combinations:", "", *_table(("check", "error", "limit"), rows)] if rows else []


def _speed(found: Mapping[str, Any] | None) -> list[str]:
    if found is None:
        return []
    threads = f"{found['threads']} thread{'s' if found['threads'] > 1 else ''}"
    return [f"{found['milliseconds']:.3g} ms for energy and forces of {found['structure']} ({found['atoms']} atoms), "
            f"{found['atoms_per_second']:,.0f} atoms/s, on {threads} of {found['machine']} ({found['precision']}, "
            f"{found['backend']})."]
