"""`Report`: what a preflight found, as a table."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from mlip.training.statistics import CORRELATION
from mlip.units import GPA_PER_EV_A3

SHOWN, GROUPS = 10, 20  # elements and config_types that are listed
STRESS, PRESSURE = "stress, rms (GPa)", "pressure (GPa)"


@dataclass(frozen=True)
class Part:
    """Numbers of the training, validation or test structures.

    Attributes:
        structures: how many.
        atoms: in all of them.
        sizes: least and most atoms of a structure.
        elements: symbols.
        periodic: structures without, with some, with three periodic directions.
        config_types: structures of each group.
        energy: least and largest total energy per atom, eV.
        spread: root mean square energy per atom above the least-squares references, eV.
        forces: root mean square force component, eV/A; None where no structure has forces.
        largest_force: norm, eV/A.
        net_force: largest norm of the sum of the forces of a structure, eV/A.
        with_stress: structures that have a stress.
        stress: root mean square component, eV/A^3; None without any.
        pressure: least and largest pressure, GPa; None without any.
    """

    structures: int
    atoms: int
    sizes: tuple[int, int]
    elements: tuple[str, ...]
    periodic: tuple[int, int, int]
    config_types: dict[str, int]
    energy: tuple[float, float]
    spread: float
    forces: float | None
    largest_force: float
    net_force: float
    with_stress: int
    stress: float | None
    pressure: tuple[float, float] | None

    def column(self) -> dict[str, str]:
        """Return the numbers as texts by the names of their rows."""
        return {
            "structures": f"{self.structures:,}", "atoms": f"{self.atoms:,}",
            "atoms in a structure": _range(*self.sizes),
            "elements": " ".join(self.elements) if len(self.elements) <= SHOWN else f"{len(self.elements)}",
            "molecules / slabs / crystals": " / ".join(f"{n:,}" for n in self.periodic),
            "energy per atom (eV)": f"{self.energy[0]:.3f} to {self.energy[1]:.3f}",
            "above references, rms (meV/atom)": f"{1e3 * self.spread:.1f}",
            "forces, rms (eV/A)": "-" if self.forces is None else f"{self.forces:.3f}",
            "largest force (eV/A)": "-" if self.forces is None else f"{self.largest_force:.2f}",
            "largest net force (eV/A)": "-" if self.forces is None else f"{self.net_force:.4f}",
            "with stress": f"{self.with_stress:,}",
            STRESS: "-" if self.stress is None else f"{GPA_PER_EV_A3 * self.stress:.3f}",
            PRESSURE: "-" if self.pressure is None else f"{self.pressure[0]:.1f} to {self.pressure[1]:.1f}",
        }


@dataclass(frozen=True)
class Report:
    """What `preflight` found.

    Attributes:
        parts: training, validation and test, where there are any.
        references: energy of each element, eV: of isolated atoms, or else by least squares.
        fitted: whether they come from least squares.
        determined: whether the compositions of the training structures determine a least-squares fit.
        residual: root mean square of energies per atom, eV, that the least-squares fit leaves.
        pairs: see `mlip.training.statistics.pairs`, with the cutoff, A.
        work: see `mlip.training.statistics.work`.
        warnings: what is odd but possible.
        left_out: how many structures are used for nothing.
    """

    parts: dict[str, Part]
    references: dict[str, float]
    fitted: bool
    determined: bool
    residual: float
    pairs: dict[str, Any]
    work: dict[str, Any]
    warnings: tuple[str, ...]
    left_out: int

    def to_dict(self) -> dict[str, Any]:
        """Return everything, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        columns = {name: part.column() for name, part in self.parts.items()}
        rows = {label: [column[label] for column in columns.values()] for label in columns["training"]}
        if not any(part.with_stress for part in self.parts.values()):
            del rows[STRESS], rows[PRESSURE]
        groups = list(dict.fromkeys(name for part in self.parts.values() for name in part.config_types))
        if groups != [""]:
            rows.update({f"  {name or '(no config_type)'}": [f"{part.config_types.get(name, 0):,}"
                                                             for part in self.parts.values()]
                         for name in groups[:GROUPS]})
        first = max(map(len, rows)) + 2
        width = [max(len(name), *(len(row[i]) for row in rows.values())) + 2 for i, name in enumerate(columns)]
        lines = [" " * first + "".join(f"{name:>{w}}" for name, w in zip(columns, width, strict=True))]
        lines += [f"{label:{first}}" + "".join(f"{v:>{w}}" for v, w in zip(row, width, strict=True))
                  for label, row in rows.items()]
        if len(groups) > GROUPS:
            lines.append(f"  and {len(groups) - GROUPS} more config_types")
        return "\n".join([*lines, *self._notes(), *(f"warning: {text}" for text in self.warnings)])

    def _notes(self) -> list[str]:
        energies = ", ".join(f"{symbol} {energy:.4f}" for symbol, energy in list(self.references.items())[:SHOWN])
        energies += f" and {len(self.references) - SHOWN} more" if len(self.references) > SHOWN else ""
        source = "by least squares" if self.fitted else "of isolated atoms"
        notes = [f"left out: {self.left_out:,} structure(s)"] if self.left_out else []
        notes += [f"energies of reference {source} (eV): {energies}",
                  f"least squares leave {1e3 * self.residual:.1f} meV/atom (rms)"
                  + ("" if self.determined else "; the compositions do not determine them")]
        p = self.pairs
        if p["structures"]:
            notes.append(f"{p['neighbors']:.1f} neighbours within {p['cutoff']:g} A, closest pair {p['closest']:.3f} "
                         f"A, {p['lonely']} atom(s) without neighbours (in {p['structures']:,} structures)")
        if self.work["correlation"] is not None and abs(self.work["correlation"]) >= CORRELATION:
            notes.append(f"energies change by {self.work['ratio']:.2f} times the work of the forces (correlation "
                         f"{self.work['correlation']:.2f}, {self.work['count']:,} pairs of structures)")
        return notes


def _range(least: int, most: int) -> str:
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"
