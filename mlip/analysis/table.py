"""An `Analysis` as text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mlip.analysis.statistics import Mean

if TYPE_CHECKING:
    from mlip.analysis.report import Analysis

SHOWN = 12  # pairs and torsions


def table(found: Analysis) -> str:
    """Return the numbers of an analysis, a line for each."""
    return "\n".join([*_head(found), *_means(found), *_structure(found), *_molecule(found),
                      *(f"note      {note}" for note in found.notes)])


def _head(found: Analysis) -> Iterator[str]:
    numbers = found.numbers()
    elements = " ".join(f"{symbol}{count}" for symbol, count in numbers["elements"].items())
    length = "" if numbers["length_ps"] is None else f", {numbers['length_ps']:g} ps"
    box = {0: "not periodic", 3: "periodic"}.get(sum(numbers["periodic"]), "periodic in some directions")
    yield f"{found.path.name}: {numbers['frames']} frames of {numbers['atoms']} atoms ({elements}){length}, {box}"
    yield ""


def _means(found: Analysis) -> Iterator[str]:
    rows: list[tuple[str, Mean]] = []
    if (energies := found.energies) is not None:
        rows += [("total energy (eV)", Mean.of(energies.total)), ("potential energy (eV)", Mean.of(energies.potential)),
                 ("kinetic energy (eV)", Mean.of(energies.kinetic)), ("temperature (K)", Mean.of(energies.temperature))]
    if found.box is not None:
        rows += [("volume (A^3)", Mean.of(found.box.volume)), ("density (g/cm^3)", Mean.of(found.box.density))]
    if found.conformation is not None:
        rows += [(f"RMSD of {found.conformation.fitted} (A)", Mean.of(found.conformation.rmsd))]
    if rows:
        yield f"{'':28}{'mean':>16}{'error':>12}{'deviation':>12}{'samples':>13}"
    for name, mean in rows:
        yield (f"{name:28}{mean.mean:>16.6f}{_number(mean.error):>12}{_number(mean.deviation):>12}"
               f"{mean.samples:>13.0f}")
    if energies is not None:
        atoms, expected = len(found.motion.numbers), energies.canonical_deviation(found.temperature)
        if (drift := energies.drift(atoms)) is not None:
            yield (f"{'drift of the total energy':28}{drift.slope:>+16.6f}{_number(drift.error):>12}  meV/atom/ps "
                   f"({1e3 * drift.slope:+.4g} meV/atom/ns)")
        if expected is not None:
            target = "" if found.temperature is None else f" at {found.temperature:g} K"
            yield f"{'canonical deviation (K)':28}{expected:>16.2f}  {energies.freedom()} degrees of freedom{target}"


def _structure(found: Analysis) -> Iterator[str]:
    if found.pairs:
        kind = "radial distribution" if found.pairs[0].radial else "distances"
        yield f"\n{kind:28}{'first peak (A)':>16}{'height':>12}{'pairs':>12}{'frames':>13}"
    for pair in found.pairs[:SHOWN]:
        place, height = pair.peak() or (None, None)
        yield f"{pair.name:28}{_number(place, 2):>16}{_number(height):>12}{pair.pairs:>12}{pair.frames:>13}"
    if not all(found.motion.periodic):
        return
    if found.displacements:
        yield f"\n{'diffusion':28}{'D (1e-5 cm^2/s)':>16}{'error':>12}{'exponent':>12}"
    for one in found.displacements:
        numbers = one.numbers()
        values = (None if numbers[key] is None else 1e5 * numbers[key]
                  for key in ("diffusion_cm2_per_s", "diffusion_error_cm2_per_s"))
        mean, error = (_number(value) for value in values)
        yield f"{one.element:28}{mean:>16}{error:>12}{_number(one.exponent, 2):>12}"


def _molecule(found: Analysis) -> Iterator[str]:
    if (shape := found.conformation) is None:
        return
    several = f", the first of {shape.copies}" if shape.copies > 1 else ""
    yield f"\nmolecule {shape.formula}{several}: {len(shape.torsions)} rotatable bonds"
    for torsion in shape.torsions[:SHOWN]:
        states = ", ".join(f"{round(angle) + 0:+d} ({100 * share:.0f} %)" for angle, share in torsion.states)
        yield f"{torsion.name:28}states {states}; {torsion.changes} changes"
    if len(shape.torsions) > SHOWN:
        yield f"and {len(shape.torsions) - SHOWN} more, which --json lists"


def _number(value: float | None, digits: int | None = None) -> str:
    if value is None:
        return "-"
    return f"{value:.{digits}f}" if digits is not None else f"{value:.4g}"
